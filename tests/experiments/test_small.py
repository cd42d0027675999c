"""The experiment on the larger model, with a made-up model in its place; runs that share a GPU."""

import json

import pytest
import torch

from perakit import PerakitError, toy
from perakit.cli import main
from perakit.experiments import EXPERIMENTS, Options
from perakit.experiments import small as experiment
from perakit.experiments.jobs import Job, Ledger, folder_hash, read
from perakit.experiments.lab import Lab
from perakit.experiments.results import Results
from perakit.experiments.tuning import tune
from perakit.files import alone
from perakit.toy import corpus, pretrain, small

COMMAND = ["experiment", "small", "--seeds", "2", "--small", "--text", "synthetic", "--old"]
CONFIG = toy.Config(n_embd=48, n_layer=1, n_head=2, n_positions=64)
RECIPE = toy.Recipe(steps=2, batch=2, context=64, eval_every=2, eval_windows=2, checkpoint_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as `make small` makes one, of two steps."""
    folder, load = tmp_path_factory.mktemp("made") / "small", corpus.load
    about = {"model": "a toy", "command": "none", "arithmetic": "float32"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(corpus, "load", lambda spec: load(spec, 3_000))
        pretrain.pretrain(pretrain.Size(about, "synthetic", CONFIG, RECIPE), folder)
    return folder


@pytest.fixture
def made(folder, monkeypatch):
    monkeypatch.setenv(small.VARIABLE, str(folder))
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # in this process: no others to start
    return folder


def test_small_on_small(made, tmp_path, capsys):
    assert main([*COMMAND, "synthetic:1", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "PERA beats LoRA at equal rank" in said.out
    header, rows = read(tmp_path / "small.jsonl")
    assert header["options"]["model"] == "small"
    assert {row["model"] for row in rows} == {folder_hash(str(made))}
    arms = {row["label"]: row["settings"]["method"] for row in rows if row["role"] == "judged"}
    assert list(arms) == [
        *("LoRA", "PERA", "PERA, scale 48", "PERA, scale 480"),
        *("LoRA r=44", "full fine-tuning"),
    ]
    scales = [one.get("feature_scale") for one in arms.values()]
    assert scales == [None, 1.0, 48.0, 480.0, None, None]
    assert arms["LoRA r=44"]["rank"] == 44
    page = (tmp_path / "small.md").read_text()
    card = json.loads((made / "card.json").read_text())
    assert "--model small" in page
    assert f"{card['parameters']:,}" in page
    assert f"hash {card['weights_sha256'][:16]}" in page
    for heading in (
        "All arms",
        "Better than LoRA at each rate",
        "What the old domain costs afterwards",
    ):
        assert f"## {heading}" in page
    assert "| at 0.006 | at 0.012 |" in page
    # From the rows alone: where the model is not, the page can be made again
    (tmp_path / "small.md").unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(small.VARIABLE, str(tmp_path / "nowhere"))
        EXPERIMENTS["small"].read(tmp_path / "small.jsonl")
    # What is there is not run again
    assert main([*COMMAND, "synthetic:1", "--out", str(tmp_path)]) == 0
    assert "runs to do" not in capsys.readouterr().err
    assert (tmp_path / "small.md").read_text() == page


def test_another_model_is_refused(made, tmp_path, capsys):
    assert main([*COMMAND, "none", "--model", "gpt2", "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == (
        "perakit: experiment small is about model 'small', not 'gpt2': leave --model out\n"
    )
    assert not (tmp_path / "x").exists()


def test_without_the_model_it_says_how_it_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(small.VARIABLE, str(tmp_path / "nowhere"))
    assert main([*COMMAND, "none", "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert f"there is no model in '{tmp_path / 'nowhere'}'" in said
    assert f"make it with {small.COMMAND}" in said
    assert not (tmp_path / "x").exists()


def test_other_experiments_take_it(made):
    job = Job("x", "judged", tune, Options(model="small").settings(), 1)
    assert job.settings["model"] == "small"
    assert job.model == folder_hash(str(made)) != ""
    assert Options(model="small").waking == 480


def test_a_damaged_card_is_named(made, tmp_path, monkeypatch):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    monkeypatch.setenv(small.VARIABLE, str(tmp_path))
    with pytest.raises(PerakitError, match=r"cannot read .*card.json.*make it again with python"):
        experiment.describe({"model": "small"})
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(PerakitError, match=r"card.json' is damaged .*make it again with python"):
        experiment.describe({"model": "small"})


def results(costs):
    """Made-up tuning: label -> rate -> the tuning seeds' validation costs."""
    rows = [
        {
            "label": label,
            "role": "tuning",
            "settings": {"recipe": {"lr": rate, "seed": 1000 + k}},
            "measured": {"validation": cost},
        }
        for label, found in costs.items()
        for rate, seeds in found.items()
        for k, cost in enumerate(seeds)
    ]
    judged = [{"label": label, "role": "judged", "settings": {}, "measured": {}} for label in costs]
    return Results({"options": {}}, [*reversed(rows), *judged])


def test_differences_at_each_rate_are_paired_and_a_diverged_run_has_none():
    found = results(
        {
            "LoRA": {0.1: [2.0, 3.0], 0.2: [2.0, 3.0], 0.3: [2.0]},
            "PERA": {0.1: [1.5, 2.5], 0.2: [1.0, None], 0.3: [1.75]},
        }
    )
    table = experiment._at_each_rate(found)
    assert table.columns == ("arm", "at 0.1", "at 0.2", "at 0.3")
    assert table.rows == [
        ["PERA", "+0.50000 [+0.50000, +0.50000]", "diverged on a seed", "+0.25000"]
    ]


@pytest.mark.parametrize(
    ("cores", "gib", "runs"), [(16, 139, 14), (8, 139, 8), (64, 79, 9), (16, 15, 1), (16, 5, 1)]
)
def test_runs_share_a_gpu_as_cores_and_memory_allow(cores, gib, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (gib * 2**30, 2**40))
    with alone(tmp_path):
        assert Lab(Ledger(tmp_path, "x"), "cuda").processes == runs


def test_what_is_timed_has_the_machine_for_itself(tmp_path, monkeypatch):
    """It runs in this process, before the pool is there."""
    done = []
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(
        "perakit.experiments.lab._compute", lambda key, job, folder: done.append(job.label) or {}
    )
    lab = Lab(Ledger(tmp_path, "x"), "cpu")
    monkeypatch.setattr(lab, "_keep", lambda *_: None)
    monkeypatch.setattr(lab, "_parallel", lambda todo, _: done.append(len(todo)))
    jobs = [Job(name, "other", tune, {}, 1, alone=name == "timed") for name in ("a", "timed", "b")]
    lab._run({job.label: job for job in jobs})
    assert done == ["timed", 2]
