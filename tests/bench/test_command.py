"""`perakit bench`: what it writes, how it goes on, and what it refuses before it measures."""

import json
import os
import shlex
import sys
from pathlib import Path

import damage
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perakit import PerakitError, cli
from perakit.bench import command as bench
from perakit.bench import contenders, host, models, settings, timing
from perakit.cli import main
from perakit.fast.plans import PLANS
from perakit.files import alone
from perakit.plots import pictures
from perakit.rows import sealed
from perakit.toy.gpt2 import Config

SMALL = [
    "--layers",
    "8x6",
    "--tokens",
    "4",
    "5",
    "--ranks",
    "2",
    "--repeats",
    "3",
    "--model-ranks",
    "2",
]
EMPTY = (
    f"# Performance\n\n<!-- measured: {bench.report.COMMANDS['cpu']} -->\nnothing yet\n"
    "<!-- end of measured -->\n\nafter\n"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing that takes long: no step fills its turn, no garbage is looked for, the model is
    smaller than tiny, no figure is drawn.
    """
    monkeypatch.setattr(timing, "TURN", 0.0)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)
    monkeypatch.setattr(timing, "speed", lambda device, dtype: 1e9)
    monkeypatch.setattr(host, "STEPS", 3)
    monkeypatch.setattr(bench, "png", lambda figure: b"a picture")
    config = Config(vocab_size=31, n_positions=16, n_embd=12, n_layer=1, n_head=2)
    monkeypatch.setitem(models.MODELS, "tiny", models.Model(config, 2, 16))
    monkeypatch.setattr(bench.memory, "measure", lambda seed: [])


@pytest.fixture
def measured(monkeypatch):
    """The titles of the cells that were measured, in order."""
    titles, steps = [], bench.Task.title.fget

    def title(task):
        titles.append(steps(task))
        return titles[-1]

    monkeypatch.setattr(bench.Task, "title", property(title))
    return titles


def fail(*_, **__):
    raise AssertionError("something was measured")


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(bench, "interleave", fail)
    monkeypatch.setattr(timing, "speed", fail)


def run(out, *more):
    return main(["bench", "--out", str(out), *SMALL, *more])


def document(out):
    return json.loads((out / "performance.json").read_text())


def test_every_part_is_measured_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(contenders, "ONEDNN", True)
    assert (
        run(tmp_path, "--parts", *bench.PARTS, "--dtype", "float32", "bfloat16", "--seed", "3") == 0
    )
    found, printed = document(tmp_path), capsys.readouterr()
    assert list(found) == ["made_from", *bench.PARTS]
    about = found["made_from"]
    assert (about["seed"], about["repeats"], len(about["formulas_sha256"])) == (3, 3, 64)
    assert {"cpu", "cores", "threads", "load", "versions", "device"} == set(about["machine"])
    assert {"python", "torch", "peft", "transformers"} == set(about["machine"]["versions"])
    for part in settings.LAYER_PARTS:
        assert [(cell["dtype"], cell["m"], cell["n"], cell["tokens"]) for cell in found[part]] == [
            (dtype, 8, 6, tokens) for dtype in ("float32", "bfloat16") for tokens in (4, 5)
        ]
    first = found["models"][0]
    assert {key: value for key, value in first.items() if key != "results"} == {
        "model": "tiny",
        "tokens": 32,
        "batch": 2,
        "context": 16,
        "rank": 2,
        "device": "cpu",
        "dtype": "float32",
    }
    for part in (*settings.LAYER_PARTS, "models"):
        for cell in found[part]:
            for result in cell["results"]:
                assert set(result) == {"contender", "rank", "inner", "plan", "flop", "seconds"}
                assert len(result["seconds"]) == {"inference": 6}.get(part, 3)
                assert min(result["seconds"]) > 0
                assert result["flop"] > 0
    tiny = {"device": "cpu", "dtype": "float32", "m": 64, "n": 64, "tokens": 8}
    assert all(cell | tiny == cell for cell in found["host"])
    pairs = [[(one["contender"], one["rank"]) for one in cell["results"]] for cell in found["host"]]
    assert pairs == [[(one.name, one.rank) for one in pair] for pair in host.pairs()]
    measured = [one for cell in found["host"] for one in cell["results"]]
    assert {one["operations"] for one in measured if one["contender"] == "plain lora"} == {10}
    assert {len(one["seconds"]) for one in measured} == {3}
    names = {
        part: [one["contender"] for one in found[part][0]["results"]]
        for part in ("layers", "inference", "models")
    }
    assert names["layers"] == [
        "base",
        "plain lora",
        "lora",
        "pera",
        "pera mkl",
        "prototype",
        "authors",
        "peft r",
        "peft K",
    ]
    assert names["inference"] == ["base", "merged", "pera cached", "pera expanded", "plain lora"]
    assert names["models"] == ["lora", "pera", "authors", "peft r", "peft K"]
    plans = [(one["contender"], one["plan"]) for one in found["plans"][0]["results"]]
    assert plans == [
        (name, plan) for name in ("lora", "pera") for plan in ("auto", *map(str, PLANS))
    ]
    assert printed.out.strip() == bench.table(found)
    assert (
        "96 visits to cells, at least 1 min: their FLOP at 1 GFLOP/s in float32, 1 GFLOP/s in"
        " bfloat16" in printed.err
    )
    assert "FLOP/s]" in printed.err


def test_the_figures_are_written_beside_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "png", pictures.png)
    assert run(tmp_path, "--parts", "layers") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cells.jsonl", "performance.json", *bench.report.figures(document(tmp_path))}
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_same_command_again_measures_nothing(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "--parts", "layers", "inference") == 0
    first = (tmp_path / "cells.jsonl").read_bytes()
    monkeypatch.setattr(bench, "interleave", fail)
    assert run(tmp_path, "--parts", "layers", "inference") == 0
    assert (tmp_path / "cells.jsonl").read_bytes() == first
    assert "12 of 12 visits to cells are there already" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on(tmp_path, measured, monkeypatch, capsys):
    whole = bench.interleave

    def stop(steps, *arguments):
        if len(measured) == 3:
            raise KeyboardInterrupt
        return whole(steps, *arguments)

    monkeypatch.setattr(bench, "interleave", stop)
    assert run(tmp_path, "--parts", "layers", "inference") == 130
    assert "the same command goes on from what it has kept" in capsys.readouterr().err
    assert not (tmp_path / "performance.json").exists()
    monkeypatch.setattr(bench, "interleave", whole)
    del measured[:2]
    assert run(tmp_path, "--parts", "layers", "inference") == 0
    one_visit = [
        f"{part}: 8 x 6, T={tokens}, float32"
        for part in ("layers", "inference")
        for tokens in (4, 5)
    ]
    assert measured == [
        one_visit[2],
        *one_visit[2:],
        *one_visit,
        *one_visit,
    ], "the third, that again, and the rest"
    assert [len(document(tmp_path)[part]) for part in ("layers", "inference")] == [2, 2]


@pytest.mark.parametrize(
    "other",
    [["--seed", "1"], ["--repeats", "6"], ["--ranks", "3"], ["--dtype", "bfloat16"]],
    ids=" ".join,
)
def test_what_was_measured_otherwise_is_not_mixed_in(tmp_path, measured, other):
    assert run(tmp_path, "--parts", "layers") == 0
    assert run(tmp_path, "--parts", "layers", *other) == 0
    assert len(measured) == 12, "two cells, visited three times, of each"
    results = document(tmp_path)["layers"][0]["results"]
    assert {len(one["seconds"]) for one in results} == {6 if "--repeats" in other else 3}
    assert {one["rank"] for one in results} == {3 if "--ranks" in other else 2}
    assert run(tmp_path, "--parts", "layers") == 0
    assert len(measured) == 12, "both are kept"


@pytest.mark.parametrize("what", ["machine", "code"])
def test_another_machine_or_code_measures_again(tmp_path, measured, monkeypatch, what):
    assert run(tmp_path, "--parts", "layers") == 0
    if what == "machine":
        now = bench._machine("cpu")
        monkeypatch.setattr(bench, "_machine", lambda device: now | {"cpu": "another"})
    else:
        now = bench._hash
        monkeypatch.setattr(bench, "_hash", lambda files: now(files)[::-1])
    assert run(tmp_path, "--parts", "layers") == 0
    assert len(measured) == 12


def test_the_code_that_decides_a_time_is_all_there(tmp_path, monkeypatch):
    seen, now = [], bench._hash
    monkeypatch.setattr(bench, "_hash", lambda files: seen.append([*files]) or now(seen[-1]))
    assert run(tmp_path, "--parts", "memory", "layers", "--tokens", "4") == 0
    code = {file.relative_to(bench.PACKAGE).as_posix() for file in max(seen, key=len)}
    assert code >= {"formulas.py", "bench/timing.py", "bench/contenders.py", "bench/models.py"}
    assert code >= {"adapters/base.py", "adapters/pera.py", "models/adapted.py", "models/layers.py"}
    plans = Path(sys.modules[PLANS[0].__module__].__file__)
    assert plans.relative_to(bench.PACKAGE).as_posix() in code, "the room where plans are"


def test_another_load_of_the_machine_does_not(tmp_path, measured, monkeypatch):
    assert run(tmp_path, "--parts", "layers") == 0
    now = bench._machine("cpu")
    monkeypatch.setattr(bench, "_machine", lambda device: now | {"load": 99.0})
    assert run(tmp_path, "--parts", "layers") == 0
    assert len(measured) == 6


def test_docs_are_renewed(tmp_path):
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    (docs / "performance.md").write_text(EMPTY)
    assert run(out, "--parts", "layers", "--docs", str(docs)) == 0
    found = document(docs)
    text = (docs / "performance.md").read_text()
    assert text == bench.report.page(found, EMPTY)
    assert "nothing yet" not in text
    assert text.endswith("after\n")
    assert {path.name for path in docs.iterdir()} == {
        "performance.md",
        "performance.json",
        *bench.report.figures(found),
    }
    assert [path.name for path in out.iterdir()] == ["cells.jsonl"]
    assert str(tmp_path) not in json.dumps(found)


def test_a_gpu_renews_its_part_of_the_page_alone(tmp_path, monkeypatch):
    """Its numbers and figures too have names of their own."""
    path = tmp_path / "performance.md"
    path.write_text(EMPTY + EMPTY.replace(" -->\nnothing", " --device cuda -->\nnothing"))
    assert run(tmp_path / "out", "--parts", "layers", "--docs", str(tmp_path)) == 0
    first = path.read_text()
    assert first.count("nothing yet") == 1
    found = document(tmp_path)
    for cell in found["layers"]:
        cell["device"] = "cuda"
    found["made_from"]["machine"]["device"] = "NVIDIA H200"
    bench.publish(found, tmp_path, onto_page=True)
    assert path.read_text() == bench.report.page(found, first)
    assert path.read_text().startswith(first.partition("nothing yet")[0])
    assert "device NVIDIA H200" in path.read_text()
    assert "numbers: `performance-cuda.json`" in path.read_text()
    names = {each.name for each in tmp_path.iterdir()} - {"out", "performance.md"}
    for part in ("json", "step-time", "ratios"):
        assert len([name for name in names if part in name]) == 2
    path.write_text(EMPTY)
    with pytest.raises(PerakitError, match=r"the page has no measured part: .*--device cuda -->"):
        bench.page(tmp_path, "cuda")


def test_prose_written_while_it_measures_is_kept(tmp_path, monkeypatch):
    page, whole = tmp_path / "performance.md", bench.interleave
    page.write_text(EMPTY)

    def interleave(*arguments):
        page.write_text(EMPTY.replace("after", "written meanwhile"))
        return whole(*arguments)

    monkeypatch.setattr(bench, "interleave", interleave)
    assert run(tmp_path / "out", "--parts", "layers", "--docs", str(tmp_path)) == 0
    assert page.read_text() == bench.report.page(document(tmp_path), EMPTY).replace(
        "after", "written meanwhile"
    )


def test_a_cell_is_visited_with_the_others_in_between(tmp_path, measured):
    """Its rounds are those of all visits, one after the other."""
    assert run(tmp_path, "--parts", "layers", "--repeats", "4") == 0
    assert measured == 3 * ["layers: 8 x 6, T=4, float32", "layers: 8 x 6, T=5, float32"]
    visits = [
        json.loads(line)["cell"]["results"]
        for line in (tmp_path / "cells.jsonl").read_text().splitlines()
    ]
    for k, cell in enumerate(document(tmp_path)["layers"]):
        for place, result in enumerate(cell["results"]):
            assert result["seconds"] == [
                one for visit in visits[k::2] for one in visit[place]["seconds"]
            ]
            assert len(result["seconds"]) == 6, "two of each visit: four at least"


def test_the_host_is_timed_step_by_step_on_one_thread(tmp_path, monkeypatch):
    seen, whole, threads = [], bench.interleave, [2]

    def interleave(steps, repeats, device, progress, fill):
        seen.append((len(steps), repeats, device, fill, torch.get_num_threads()))
        return whole(steps, repeats, device, progress, fill)

    monkeypatch.setattr(bench, "interleave", interleave)
    monkeypatch.setattr(host, "STEPS", 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    dtypes = ("--dtype", "bfloat16", "float32")
    assert run(tmp_path, "--parts", "host", "layers", "--tokens", "4", *dtypes) == 0
    assert threads[-1] == 2, "as before"
    tiny = [each for each in seen if each[3] == 0.0]
    assert tiny == 3 * 18 * [(2, 2, "cpu", 0.0, 1)], "in pairs, whatever dtypes are asked for"
    assert {each[1:] for each in seen if each not in tiny} == {(1, "cpu", None, 2)}


def test_a_host_without_a_count_is_refused(tmp_path, capsys):
    assert run(tmp_path, "--parts", "host") == 0
    cells = bench._read(tmp_path / "cells.jsonl")
    for wrong in (None, 2.0, True):
        next(iter(cells.values()))["results"][0]["operations"] = wrong
        lines = [sealed({"key": k, "cell": c}) for k, c in cells.items()]
        (tmp_path / "cells.jsonl").write_bytes(b"".join(lines))
        assert run(tmp_path, "--parts", "host") == 2
        assert "has no times of host: 64 x 64, T=8, float32, as it says" in capsys.readouterr().err


def test_only_those_of_one_rank_take_turns(tmp_path, monkeypatch):
    """The base beside each: what is compared is measured one after the other."""
    turns, whole = [], bench.interleave
    monkeypatch.setattr(
        bench,
        "interleave",
        lambda steps, *rest: (
            turns.append([(one.name, one.rank) for one in steps]) or whole(steps, *rest)
        ),
    )
    assert run(tmp_path, "--parts", "inference", "--ranks", "2", "3", "--tokens", "4") == 0
    names = ["base", "merged", "pera cached", "pera expanded", "plain lora"]
    assert turns == bench.VISITS * [[(name, rank) for name in names] for rank in (2, 3)]
    results = document(tmp_path)["inference"][0]["results"]
    assert [(one["contender"], one["rank"]) for one in results] == [*turns[0], *turns[1]]


def test_the_command_in_the_document_measures_the_same(monkeypatch):
    asked = bench.Settings(
        layers=((5, 3), (2, 2)),
        dtype=("bfloat16",),
        parts=("plans", "memory"),
        model_ranks=(2, 4),
        seed=7,
    )
    seen = []
    monkeypatch.setattr(bench, "run", lambda asked, out: seen.append(asked) or sys.exit(0))
    program, *words = shlex.split(asked.command)
    assert program == "perakit"
    with pytest.raises(SystemExit):
        main(words)
    assert seen == [asked]


def test_a_step_is_forward_and_backward_and_an_answer_forward_alone():
    both = bench.tasks(
        bench.Settings(layers=((8, 6),), tokens=(4,), ranks=(2,), parts=("layers", "inference"))
    )
    for task, products in zip(both, (2, 1), strict=True):
        base = contenders.Contender("base", 2)
        step = task.steps()[base]
        with FlopCounterMode(display=False) as counter:
            step.run()
        assert counter.get_total_flops() == task.flop[base] == products * 2 * 8 * 6 * 4


def test_what_is_measured_where_nothing_is_said(monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: True)
    here, gpu = bench.usual("cpu"), bench.usual("cuda")
    assert here.parts == ("layers", "inference", "host", "models", "memory")
    assert (here.layers[-1], here.tokens[-1], here.models) == ((3072, 768), 4096, ("tiny",))
    assert gpu.parts == ("layers", "inference", "models")
    assert (gpu.layers[-1], gpu.tokens[-1], gpu.models) == ((4096, 4096), 16384, ("124M",))
    assert (gpu.dtype, gpu.ranks, len(bench.tasks(gpu))) == (("float32", "bfloat16"), (8, 32), 26)
    page = bench.usual("cpu", page=True)
    assert (page.parts, page.models, page.repeats) == (bench.PARTS, bench.MODELS, 33)
    assert bench.usual("cuda", page=True) == gpu
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    assert "models" not in bench.usual("cpu").parts


def test_without_peft_and_transformers_the_rest_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contenders, "ONEDNN", True)
    for module in (bench, settings, contenders):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "models" not in bench.usual("cpu").parts
    assert main(["bench", "--out", str(tmp_path), *SMALL[:-2]]) == 0
    found = document(tmp_path)
    assert found["models"] == []
    assert [one["contender"] for one in found["layers"][0]["results"]][3:] == [
        "pera",
        "pera mkl",
        "prototype",
        "authors",
    ]
    assert set(found["made_from"]["machine"]["versions"]) == {"python", "torch"}
    printed = capsys.readouterr()
    assert "PEFT is not installed, its LoRA is left out" in printed.err
    assert "PEFT was not installed" in printed.out
    assert main(["bench", "--out", str(tmp_path), "--parts", "models"]) == 2
    assert (
        "the part models needs transformers: pip install 'perakit[hf]', or choose --parts layers"
        in capsys.readouterr().err
    )


MISTAKES = [
    (
        ["--parts", "layer"],
        "parts: 'layer' is unknown, choose from layers, plans, inference, host, models, memory",
    ),
    (["--models", "7B"], "models: '7B' is unknown, choose from tiny, 124M"),
    (["--dtype", "float16"], "dtype: 'float16' is unknown, choose from float32, bfloat16"),
    (["--layers", "768"], "layer '768' is not written MxN, outputs and inputs: as in 3072x768"),
    (["--layers", "768x"], "layer '768x' is not written MxN"),
    (["--layers", "768x-1"], "layer '768x-1' is not written MxN"),
    (["--layers", "0x768"], "layers=0 must be an integer >= 1"),
    (["--tokens", "0"], "tokens=0 must be an integer >= 1"),
    (["--ranks", "4", "-1"], "ranks=-1 must be an integer >= 1"),
    (["--model-ranks", "0"], "model_ranks=0 must be an integer >= 1"),
    (["--repeats", "0"], "repeats=0 must be an integer >= 1"),
    (["--seed", "-1"], "seed=-1 must be an integer >= 0"),
    (["--device", "cuda"], "device 'cuda' is not available here: use --device cpu"),
    (["--device", "tpu"], "device 'tpu' is not available here: use --device cpu"),
    (["--docs", "no-such-folder"], "no page 'no-such-folder/performance.md' to renew"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_anything_runs(
    tmp_path, nothing_runs, monkeypatch, capsys, arguments, message
):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    assert run(tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"perakit: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_files_in_the_way_are_refused_before_anything_runs(tmp_path, nothing_runs, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run(tmp_path / "file" / "out") == 2
    assert "cannot write" in capsys.readouterr().err
    (tmp_path / "cells.jsonl").write_text('{"key": 1}\n')
    assert run(tmp_path) == 2
    assert (
        "is not what perakit bench writes: remove it, or choose another --out"
        in capsys.readouterr().err
    )
    (tmp_path / "performance.md").write_text("# A page of somebody else\n")
    assert run(tmp_path / "out", "--docs", str(tmp_path)) == 2
    assert "the page has no measured part" in capsys.readouterr().err


MADE = []  # the cells of a small run, made once


@pytest.fixture
def kept(tmp_path):
    """A file with the cells of a small run."""
    path = tmp_path / "cells.jsonl"
    if not MADE:
        assert run(tmp_path, "--parts", "layers") == 0
        MADE.append(path.read_bytes())
    path.write_bytes(MADE[0])
    return path


def test_no_damage_to_cells_is_taken_for_a_time(kept):
    whole, right = kept.read_bytes(), bench._read(kept)
    assert len(right) == 6
    damages = {"flipped": damage.flipped(whole), "cut": damage.cut(whole, 10)}
    for name, versions in (damages | {"rearranged": damage.rearranged(whole)}).items():
        for changed in versions:
            kept.write_bytes(changed)
            found, said = damage.tried(lambda: bench._read(kept))
            if said:
                assert said.endswith("remove it, or choose another --out"), name
            else:
                assert found.items() <= right.items(), name
                assert len(found) >= changed.count(b"\n") - (name == "rearranged"), name


@pytest.mark.parametrize("what", damage.ODD)
def test_what_is_no_file_is_refused_before_anything_runs(kept, monkeypatch, capsys, what):
    damage.put_in_place(kept, what)
    if what.startswith("/proc"):
        assert bench._read(kept) == {}
        return
    monkeypatch.setattr(bench, "interleave", fail)
    capsys.readouterr()
    assert run(kept.parent, "--parts", "layers") == 2
    said = capsys.readouterr().err
    assert "remove it, or choose another --out" in said or "pass a file" in said
    assert said.count("\n") == 1


CHANGES = {
    "none": lambda cell: cell.pop("results"),
    "no list": lambda cell: cell.update(results={}),
    "no dicts": lambda cell: cell.update(results=[1] * len(cell["results"])),
    "fewer": lambda cell: cell["results"].pop(),
    "another": lambda cell: cell["results"][0].update(contender="nobody"),
    "rank": lambda cell: cell["results"][0].update(rank=10**400),
    "tokens": lambda cell: cell.update(tokens=9),
    "rounds": lambda cell: cell["results"][0]["seconds"].pop(),
    "words": lambda cell: cell["results"][0].update(seconds=["long"]),
    "nan": lambda cell: cell["results"][0].update(seconds=[float("nan")]),
    "no seconds": lambda cell: cell["results"][0].pop("seconds"),
}


@pytest.mark.parametrize("old", [False, True], ids=["with a checksum", "without"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_cell_that_is_not_what_its_key_says_is_refused(kept, monkeypatch, capsys, name, old):
    cells = bench._read(kept)
    if old:  # as 0.1 wrote them; this one is right
        kept.write_text("".join(json.dumps({"key": k, "cell": c}) + "\n" for k, c in cells.items()))
        assert bench._read(kept) == cells
    CHANGES[name](list(cells.values())[4])
    lines = [{"key": k, "cell": c} for k, c in cells.items()]
    kept.write_bytes(b"".join(json.dumps(x).encode() + b"\n" if old else sealed(x) for x in lines))
    monkeypatch.setattr(bench, "interleave", fail)
    capsys.readouterr()
    assert run(kept.parent, "--parts", "layers") == 2
    said = capsys.readouterr().err
    times = "has no times of layers: 8 x 6, T=4, float32, as it says it has: remove it"
    assert times in said or "is not what perakit bench writes: remove it" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("what", [*damage.ODD[:-1], "latin"])
def test_what_is_no_page_is_refused_at_once(tmp_path, what):
    path = tmp_path / "performance.md"
    if what == "latin":
        path.write_bytes(EMPTY.encode() + b"\xe9")
    else:
        damage.put_in_place(path, what)
    with pytest.raises(PerakitError, match=r"or leave --docs out|pass a file"):
        bench.page(tmp_path, "cpu")


def test_two_cells_of_one_visit_are_refused(kept):
    (key, cell), *_ = bench._read(kept).items()
    with open(kept, "ab") as file:
        file.write(sealed({"key": key, "cell": cell | {"tokens": 3}}))
    with pytest.raises(PerakitError, match=r"line 7 of .* is another visit to a cell that is"):
        bench._read(kept)


def test_a_second_bench_in_the_folder_is_told_so(kept, nothing_runs, capsys):
    before = kept.read_bytes()
    capsys.readouterr()
    with alone(kept.parent):
        assert run(kept.parent, "--parts", "layers", "inference") == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"perakit: {str(kept.parent)!r} is in use by process {os.getpid()}: wait"
    )
    assert said.count("\n") == 1
    assert kept.read_bytes() == before


def test_help_and_defaults_agree():
    usual = bench.usual("cpu")
    text = (
        next(action for action in cli._parser()._actions if action.dest == "run" or action.choices)
        .choices["bench"]
        .format_help()
    )
    for part in (
        " ".join(map(str, usual.tokens)),
        " ".join(map(str, usual.ranks)),
        " ".join(f"{m}x{n}" for m, n in usual.layers),
    ):
        assert part in " ".join(text.split())
