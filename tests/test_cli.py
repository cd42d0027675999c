"""The command as a person types it: results on stdout, progress on stderr, one sentence for a
mistake.
"""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import fuzz_cli
import pytest
from safetensors.torch import save_file

import perakit as pk
from perakit import __main__ as command
from perakit import cli
from perakit.classroom import grading
from perakit.classroom.examination import Finding
from perakit.cli import main
from perakit.toy import GPT2, Config, Recipe


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a very small byte-level GPT-2."""
    folder = tmp_path / "model"
    folder.mkdir()
    model = GPT2(Config(n_embd=16, n_layer=1, n_head=2, n_positions=32))
    save_file(
        {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


def finetune(checkpoint, out, *more):
    short = ["--steps", "4", "--context", "16", "--batch", "2", "--eval-every", "2", "--rank", "2"]
    return main(
        [
            "finetune",
            "--model",
            str(checkpoint),
            "--text",
            "synthetic",
            "--out",
            str(out),
            *short,
            *more,
        ]
    )


def test_targets_of_a_fused_layer_are_one_word(tmp_path, capsys):
    small = ["--text", "synthetic", "--limit", "20000", "--steps", "1", "--context", "32"]
    targets = ["--targets", "c_attn[q,v],mlp.c_proj", "--method", "lora", "--rank", "1"]
    assert main(["finetune", *small, *targets, "--batch", "1", "--out", str(tmp_path)]) == 0
    saved = json.loads((tmp_path / "lora-r=1" / "adapter" / "adapter.json").read_text())
    parts = [entry.get("parts") for entry in saved["layers"].values()]
    assert parts == [["q", "v"], None] * 4


def test_finetune_writes_report_figure_metrics_and_adapters_that_load(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        finetune(
            checkpoint,
            out,
            "--method",
            "lora",
            "pera:terms=square,feature_scale=16",
            "--old",
            "synthetic:7",
        )
        == 0
    )
    printed = capsys.readouterr()
    assert "pera:terms=square,feature_scale=16 r=2" in printed.out
    assert "step/s" not in printed.out
    assert "lora r=2" in printed.err
    report = (out / "report.md").read_text()
    assert "loss.png" in report
    assert "sha256" in report
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in row for row in rows) == 8
    results = json.loads((out / "results.json").read_text())
    assert [o["trainable"] for o in results["outcomes"]] == [
        2 * (64 + 32 + 80 + 80),
        2 * (64 + 32 + 80 + 80) + 2 * 4,
    ]
    assert all(0 <= o["merge_gap_relative"] < 1e-5 for o in results["outcomes"])
    model = pk.toy.load(checkpoint)
    pk.load(model, out / "pera-terms=square-feature-scale=16-r=2" / "adapter")
    text = pk.toy.corpus.load("synthetic").heldout
    cost = pk.toy.bits_per_byte(model, text, context=16, windows=64)
    assert cost == results["outcomes"][1]["new"]


def test_the_same_command_again_takes_up_the_finished_run(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert finetune(checkpoint, out) == 0
    first = json.loads((out / "results.json").read_text())
    assert finetune(checkpoint, out) == 0
    assert json.loads((out / "results.json").read_text()) == first
    assert finetune(checkpoint, out, "--lr", "0.1") == 2
    assert "another model, text or recipe" in capsys.readouterr().err


MISTAKES = [
    (
        ["--method", "dorra"],
        (
            "unknown method 'dorra': known here are delora, dora, hira, loha, lora, mora, pera,"
            " quadratic"
        ),
    ),
    (["--method", "pera:terms"], "method option 'terms' has no value"),
    (
        ["--method", "pera:terms=odd"],
        "terms='odd' is unknown: choose from 'full', 'square', 'cross'",
    ),
    (
        ["--method", "lora:terms=full"],
        "method 'lora' has no option terms: it takes rank, alpha, scaling, dropout, init",
    ),
    (["--method", "lora", "lora"], "two trials have the same name"),
    (["--rank", "0"], "rank=0 must be an integer >= 1"),
    (["--alpha", "nan"], "alpha=nan must be a finite number > 0"),
    (["--targets", "c_atn"], "no layer matches 'c_atn'; nearest: c_attn"),
    (["--text", "no-such-file.txt"], "no text file 'no-such-file.txt'"),
    (["--context", "32", "--limit", "20"], "held-out text has 2 tokens, a window needs 33"),
    (["--context", "64"], "64 tokens exceed this model's context of 32"),
    (["--model", "no-such-model"], "no model 'no-such-model'"),
    (["--steps", "0"], "steps=0 must be an integer >= 1"),
    (["--lr", "-1"], "lr=-1.0 must be a positive number"),
    (["--device", "cuda:99"], "device 'cuda:99' is not available here"),
    (["--device", "tpu"], "device 'tpu' is not available here"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_status_2(checkpoint, tmp_path, capsys, arguments, message):
    assert finetune(checkpoint, tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_output_that_cannot_be_written_is_refused_before_any_work(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert finetune(checkpoint, tmp_path / "file" / "out") == 2
    printed = capsys.readouterr().err
    assert "cannot write" in printed
    assert "step/s" not in printed


@pytest.mark.parametrize("name", ["x" * 300, os.devnull])
def test_a_name_that_no_folder_can_have_is_refused_before_any_work(checkpoint, name, capsys):
    assert finetune(checkpoint, name) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("perakit: ")
    assert printed.count("\n") == 1


def test_params_prints_the_counts_of_the_paper(capsys):
    assert (
        main(["params", "--model", "llama3-8b", "--rank", "16", "--targets", "q,k,v,up,down"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    percent = {
        line.split()[0]: float(line.split()[-1])
        for line in lines
        if line.startswith(("lora", "pera"))
    }
    assert percent["lora"] == pytest.approx(0.3513, abs=1e-4)
    assert percent["pera"] == pytest.approx(0.3515, abs=1e-4)


def test_params_names_the_models_it_knows(capsys):
    assert main(["params", "--model", "llama9"]) == 2
    assert "llama3-8b" in capsys.readouterr().err


def test_python_m_perakit_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "perakit", "--version"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert done.stdout == f"perakit {pk.__version__}\n"


@pytest.mark.thorough  # and `make demo` is run by .ci/run
def test_demo_compares_lora_pera_and_matched_lora(tmp_path, capsys, monkeypatch):
    # 12 steps as in a shell, of little text each: `.ci/run` begins with the demo as it is
    monkeypatch.setattr(cli, "Recipe", partial(Recipe, batch=4, context=64))
    monkeypatch.setattr(cli, "DEMO_LIMIT", 100_000)
    monkeypatch.setattr("perakit.toy.finetune.SAMPLE_TOKENS", 10)
    assert main(["demo", "--small", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    outcomes = json.loads((tmp_path / "results.json").read_text())["outcomes"]
    lora, pera, matched = outcomes
    assert pera["trainable"] - lora["trainable"] == 16 * 36
    assert lora["trainable"] < matched["trainable"] <= pera["trainable"]
    assert lora["order_share"] == 0
    assert 0 < pera["order_share"] < 1
    assert max(o["merge_gap_relative"] for o in outcomes) < 1e-5
    for label in ("before", "LoRA r=8", "PERA r=8", "LoRA r=8-9 (matched)", "order share"):
        assert label in printed


# --- verify ---------------------------------------------------------------------------------------


def test_verify_in_full_shows_statement_source_and_evidence(capsys):
    assert main(["verify", "identity", "dora-is-not-linear", "--examples", "5"]) == 0
    out, err = capsys.readouterr()
    assert "The 2r x 2r identity is a PERA of rank r" in out
    assert r"\Delta W = I_2" in out
    assert "source: example for arXiv 2604.11841, Eq. 9" in out
    assert "identity: proved" in out
    assert "2 claims: 1 proved, 1 qualified; every verdict stands" in out
    assert err == ""


def test_verify_as_json_carries_seed_versions_and_the_hash_of_the_rules(capsys):
    assert (
        main(["verify", "hadamard-series", "lora-rank", "--json", "--seed", "3", "--examples", "7"])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert (report["seed"], report["examples"]) == (3, 7)
    assert set(report["versions"]) == {
        "python",
        "perakit",
        "numpy",
        "scipy",
        "torch",
        "sympy",
        "hypothesis",
    }
    assert len(report["formulas_sha256"]) == len(report["theory_sha256"]) == 64
    first, second = report["claims"]
    assert (first["claim"], first["verdict"], first["verdict_stands"], first["examples"]) == (
        "hadamard-series",
        "proved",
        True,
        0,
    )
    assert (second["examples"], second["counterexample"], second["seed"]) == (7, None, 3)
    assert first["statement"] == pk.theory.claims["hadamard-series"].statement


def test_verify_lists_every_claim(capsys):
    assert main(["verify", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(pk.theory.claims)
    assert any(line.startswith("refuted") and "theorem-1 " in line for line in lines)


def test_a_verdict_that_does_not_stand_is_exit_status_1(capsys, monkeypatch):
    wrong = pk.theory.Finding(False, "1 is not 2", counterexample={"x": 1})
    monkeypatch.setitem(
        pk.theory.claims._claims,
        "identity",
        replace(pk.theory.claims["identity"], argument=lambda *_: wrong),
    )
    assert main(["verify", "identity", "orders", "--examples", "5"]) == 1
    out, err = capsys.readouterr()
    assert "identity: proved (all r) DOES NOT STAND" in out
    assert "x = 1" in out
    assert "1 do not stand: identity" in out
    assert err == "perakit: the verdict does not stand for identity: see the evidence\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-claim"], "unknown claim 'no-such-claim'"),
        (["identity", "--examples", "0"], "examples=0 must be an integer >= 1"),
        (["identity", "--seed", "-1"], "seed=-1 must be an integer >= 0"),
    ],
)
def test_verify_refuses_in_one_sentence(arguments, message, capsys):
    assert main(["verify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"perakit: {message}")
    assert err.count("\n") == 1


# --- any text, any terminal -----------------------------------------------------------------------

DIGITS = "9" * 5000
TUNE = ["finetune", "--text", "synthetic", "--out", "out"]
HOSTILE = [
    ([*TUNE, "--steps", DIGITS], "argument --steps: '99999"),
    ([*TUNE, "--steps", "1.5"], "argument --steps: '1.5' is no whole number; `perakit"),
    ([*TUNE, "--steps", str(2**63)], "is beyond 9223372036854775807"),
    ([*TUNE, "--lr", "1e300"], "argument --lr: '1e300' is beyond 1e+30"),
    ([*TUNE, "--lr", "fast"], "argument --lr: 'fast' is no number"),
    ([*TUNE, "--batch", "10" * 9], "a step with lora needs 52,958,"),
    ([*TUNE, "--rank", "1000000"], "rank 1000000 is more than any layer here"),
    ([*TUNE, "--method", "pera:degree=64"], "a step with pera needs "),
    ([*TUNE, "--method", "lora:alpha=" + "-" * 100_000], "alpha='------"),
    ([*TUNE, "--method", f"lora:rank={DIGITS}"], "rank=inf must be an integer >= 1"),
    ([*TUNE, "--out", ""], "argument --out: it is empty"),
    ([*TUNE, "--model", ""], "argument --model: it is empty"),
    ([*TUNE, "--old="], "argument --old: it is empty"),
    ([*TUNE, "--model", "a\0b"], "an argument has a NUL character"),
    ([*TUNE, "--model=--"], "argument --model: -- is no value"),
    (["assignment", "new", "lora", "-o--"], "argument -o/--out: -- is no value"),
    (["finetune"], "the following arguments are required: --text, --out; `perakit"),
    (["x" * 100_000], "invalid choice: 'xxx"),
    (["verify", "identity", "--examples", str(10**12)], "examples=1000000000000 must be"),
    (["experiment", "cost", "--seeds", str(10**9)], "seeds=1000000000 must be an integer <= 1000"),
    (["bench", "--layers", "1000000x1000000"], "needs 8,010,256,573,440 bytes at least"),
    (["bench", "--layers", f"{DIGITS}x1"], "is not written MxN"),
    (["bench", "--tokens", str(10**30)], "argument --tokens: '1000"),
    (["bench", "--tokens", str(10**12)], "tokens=1000000000000 must be an integer <= 2147483647"),
    (["bench", "--ranks", "1000"], "ranks=1000 is more than the rank of layer 768x768: choose 768"),
    (["bench", "--model-ranks", "1000", "--parts", "models"], "is more than the rank of tiny"),
    (["bench", "--repeats", str(10**9)], "repeats=1000000000 must be an integer <= 10000"),
    (["params", "--model", "\udcff\x1b[2J" * 999], "unknown model '\\udcff"),
    (["assignment", "new", "lora", "--out", "x" * 300], "File name too long"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), HOSTILE, ids=[str(k) for k in range(len(HOSTILE))])
def test_any_text_is_refused_in_one_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("perakit: ")
    assert len(err) <= len("perakit: ") + 600 + 1
    assert err[:-1].isprintable()


NUMBERS = {"4": 4, "1e-3": 1e-3, "True": True, "None": None, "square": "square", "'full'": "full"}


def test_values_of_a_method_are_numbers_words_and_text():
    assert {text: cli._value(text) for text in NUMBERS} == NUMBERS


MACHINE = [
    (OSError(28, "No space left on device", "a\nfile"), "'a\\nfile': No space left on device"),
    (MemoryError(), "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
]


@pytest.mark.parametrize(("error", "said"), MACHINE, ids=lambda value: type(value).__name__)
def test_what_the_machine_cannot_do_is_one_sentence(error, said, monkeypatch, capsys):
    def fails(_):
        raise error

    monkeypatch.setattr(cli, "_params", fails)
    assert main(["params", "--model", "gpt2"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), KeyError("a bug")])
def test_a_bug_is_not_hidden(error, monkeypatch):
    def fails(_):
        raise error

    monkeypatch.setattr(cli, "_params", fails)
    with pytest.raises(type(error), match="a bug"):
        main(["params", "--model", "gpt2"])


def test_an_interrupt_is_one_line_wherever_it_comes(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)
    assert main([]) == 130
    assert capsys.readouterr() == ("", "\nperakit: interrupted\n")


def test_an_interrupt_of_the_imports_is_one_line(monkeypatch, capsys):
    class Interrupted:
        @staticmethod
        def find_spec(name, *_):
            if name == "perakit.cli":
                raise KeyboardInterrupt

    monkeypatch.delattr(pk, "cli")
    monkeypatch.delitem(sys.modules, "perakit.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted, *sys.meta_path])
    assert command.main() == 130
    assert capsys.readouterr() == ("", "\nperakit: interrupted\n")


@pytest.fixture
def stream(monkeypatch):
    """stream(file, ...) is standard output; the text behind it."""

    def stream(file, encoding="utf-8"):
        made = io.TextIOWrapper(file, encoding=encoding)
        monkeypatch.setattr(sys, "stdout", made)
        return made

    return stream


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_cannot_show_is_an_escape(encoding, stream, tmp_path):
    config = tmp_path / "\u221e\x1b[2J" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(pk.models.catalogue.CONFIGS["gpt2"]))
    raw = io.BytesIO()
    out = stream(raw, encoding)
    assert main(["params", "--model", str(config)]) == 0
    assert rb"\u221e\x1b[2J" in raw.getvalue()
    assert b"\x1b" not in raw.getvalue()
    assert out.errors == "strict", "it is given back as it was"


def test_a_name_in_a_result_moves_no_cursor(tmp_path, capsys):
    assert main(["assignment", "new", "lora", "--out", str(tmp_path / "\x1b[2J")]) == 0
    assert "\\x1b[2J/lora.py\n" in capsys.readouterr().out


def test_a_stream_that_is_no_file_is_written_as_well(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["assignment", "list"]) == 0
    assert "lora" in out.getvalue()


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize("words", [["assignment", "list"], ["--help"], ["--version"]])
def test_a_full_disk_is_told(words, stream, capsys):
    out = stream(open("/dev/full", "wb"))  # noqa: SIM115
    assert main(words) == 2
    assert "the system refuses: No space left on device" in capsys.readouterr().err
    out.close()  # as at the end of Python: nothing is tried again


def test_a_reader_that_has_gone_has_what_it_wanted(stream, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    out = stream(os.fdopen(writing, "wb"))
    assert main(["assignment", "list"]) == 0
    assert capsys.readouterr().err == ""
    out.close()


def test_closed_streams(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["assignment", "list"]) == 2
    assert "standard output is closed" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["params", "--model", "none"]) == 2
    assert capsys.readouterr().out == "", "a message is no result"


def test_grading_shows_what_a_submission_says_in_a_line(tmp_path, monkeypatch, capsys):
    said = "\x1b[2J\ud800\nPASS 9/9"

    def finding(check, process):
        process.problems = ["\x1b[1m\nPASS"]
        return Finding(said)

    monkeypatch.setattr(grading, "_finding", finding)
    work = tmp_path / os.fsdecode(b"M\xfcller.py")
    try:
        work.write_text("# perakit assignment `lora`")
    except OSError:
        pytest.skip("a file system with names in UTF-8 alone")
    more = ["--json", str(tmp_path / "j"), "--csv", str(tmp_path / "c")]
    assert main(["grade", str(work), *more]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "· \\x1b[2J\\ud800\\nPASS 9/9" in out
    assert not any(line.startswith("PASS") for line in out.splitlines())
    assert json.loads((tmp_path / "j").read_bytes())["checks"][0]["said"] == said
    assert b"M\\udcfcller.py" in (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("option", ["--json", "--csv", "--gradescope"])
def test_a_device_is_not_replaced_by_a_file(option, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["grade", str(tmp_path / "work.py"), option, str(tmp_path / "pipe")]) == 2
    assert "is a folder, a device or a pipe" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.unwatched
@pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer reads its memory from /proc")
def test_hostile_command_lines_are_done_or_refused(capfd):
    assert fuzz_cli.fuzz(range(12), seed=0) == 0, capfd.readouterr().out


JUDGED = [
    ((-9, "", ""), "ended by SIGKILL"),
    ((1, "", "Traceback (most recent call last):\nValueError: x"), "traceback: ValueError: x"),
    ((99, "", ""), "status 99"),
    ((0, "\x1b[2J", ""), "raw ['\\x1b']"),
    ((2, "", "perakit: \x9b\n"), "raw ['\\x9b']"),
    ((2, "", "\r a bar\rperakit: " + "x" * 601 + "\n"), "a message of 602 characters"),
    ((2, "", ""), "refused without a word"),
    ((0, "", "x.py:1: UserWarning: x"), "a warning"),
    ((2, "", "\r a bar\rperakit: " + "x" * 600 + "\n"), ""),
    ((0, "a table\n", ""), ""),
]


@pytest.mark.parametrize(("seen", "wrong"), JUDGED)
def test_the_fuzzer_notices_what_may_not_be(seen, wrong):
    assert fuzz_cli.judge(*seen) == wrong
