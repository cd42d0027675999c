"""The experiment on SmolLM2, run whole on a LLaMA of random weights in its place."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch

from perakit import PerakitError
from perakit.cli import main
from perakit.experiments import EXPERIMENTS, Options
from perakit.experiments import smollm2 as experiment
from perakit.experiments.arms import FULL
from perakit.experiments.jobs import Job, read
from perakit.experiments.tuning import tune
from perakit.plots.pictures import new_figure
from perakit.toy import load, smollm2, tokenizer
from perakit.toy.training import DivergedError

pytest.importorskip("transformers", reason="the extra llm is not installed")
COMMAND = ["experiment", "smollm2", "--seeds", "2", "--small", "--out"]


@pytest.fixture(scope="module")
def llama():
    """In place of SmolLM2, in this process only: a LLaMA that reads bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smollm2, "weights", lambda: None)
        patch.setattr(smollm2, "_model", lambda _: model)
        patch.setattr(smollm2, "_tokenizer", lambda _: tokenizer("tiny", load("tiny")))
        patch.setattr(os, "cpu_count", lambda: 1)
        # A text of 2 MB is not what is tested
        patch.setitem(EXPERIMENTS["smollm2"].own, "text", "synthetic")
        yield model


@pytest.fixture(scope="module")
def folder(llama, tmp_path_factory):
    """A whole small run."""
    folder = tmp_path_factory.mktemp("smollm2")
    assert main([*COMMAND, str(folder)]) == 0
    return folder


def results(folder, change=lambda row: row):
    header, rows = read(folder / "smollm2.jsonl")
    return experiment.Both(header, [change(row) for row in rows])


def test_the_page_has_every_arm_at_every_rate(folder, llama):
    page = (folder / "smollm2.md").read_text()
    command = "perakit experiment smollm2 --seeds 2 --model smollm2 --text synthetic --old none"
    assert f"`{command} --small`" in page
    assert main([*command.split()[1:], "--small", "--out", str(folder)]) == 0
    for arm in experiment.ARMS:
        assert f"| {arm} | 0.0001" in page
        assert f"| {arm} | {'1e-05' if arm == FULL else '0.001'}" in page
    assert "| PERA, the paper's 7 to 8 B | 0.0001 |" in page
    assert "7.29e-05 ... 0.91 %" in page  # evidence.md: 7e-7 to 9e-3
    assert f"Model: smollm2; hash {smollm2.SHA256[:16]}" in page
    _, rows = read(folder / "smollm2.jsonl")
    assert len(rows) == 1 + 2 * 2 * 6 + 1 + 2 * 2
    assert {row["model"] for row in rows} == {smollm2.SHA256}


def test_what_is_there_is_shown_without_the_model(folder, monkeypatch, capsys):
    def missing(_):
        raise PerakitError("no model here")

    page = (folder / "smollm2.md").read_bytes()
    monkeypatch.setattr(smollm2, "_model", missing)
    assert main([*COMMAND, str(folder)]) == 0
    assert "runs to do" not in capsys.readouterr().err
    assert (folder / "smollm2.md").read_bytes() == page


def test_lora_and_pera_start_alike_and_see_the_same(folder):
    """At 1e-4 after two steps PERA's terms are below what float32 can add to LoRA's update."""
    found = results(folder)
    assert found.scores("LoRA", lr=1e-4) == found.scores("PERA", lr=1e-4)
    assert found.scores("LoRA", lr=1e-4) != found.scores("LoRA", lr=1e-3)
    gain = found.gain("PERA", "LoRA", rates=(1e-4, 1e-4))
    assert (gain.mean, gain.seeds) == (0, 2)


def test_gains_are_against_lora_seed_by_seed(folder):
    def better(row):
        """A made-up advantage of 0.1 and 0.3 bits."""
        if row["label"] != "PERA":
            return row
        less = row["measured"]["new"] - (0.1 + 0.2 * row["settings"]["recipe"]["seed"])
        return row | {"measured": row["measured"] | {"new": less}}

    finding = experiment.at_paper_rate(results(folder, better), "a claim", None, "PERA")
    assert finding.ours.startswith("+0.20000 [+0.10000, +0.30000] bits")


def test_the_best_rate_is_that_of_the_validation_text(folder):
    def cheaper(row):
        low = row["settings"].get("recipe", {}).get("lr") == 1e-4
        return row | {"measured": row["measured"] | {"validation": 1.0 if low else 2.0}}

    assert results(folder, cheaper).lr("LoRA") == 1e-4
    page = experiment.EXPERIMENT.report(results(folder, cheaper)).tables[0][1].markdown()
    assert page.count("0.0001 best*") == 6


def test_the_rates_go_on_where_the_best_is_the_first_or_the_last(folder):
    def rising(row):
        """Costs that fall with the rate for LoRA, and rise with it for PERA."""
        lr = row["settings"].get("recipe", {}).get("lr", 0)
        cost = 1 - lr if row["label"] == "LoRA" else 1 + lr
        return row | {"measured": row["measured"] | {"validation": cost}}

    found = experiment.beyond(results(folder, rising))
    assert {lr for arm, lr in found if arm == "LoRA"} == {3e-4, 3e-3}  # both beside 1e-3
    assert {lr for arm, lr in found if arm == "PERA"} == {3e-5, 3e-4}
    assert {lr for arm, lr in found if arm == FULL} == {3e-5}  # the grid has nothing below 1e-5


def test_a_run_that_diverged_is_a_row_and_no_end(folder):
    def gone(row):
        how = row["settings"].get("recipe", {})
        if (row["label"], how["lr"], how["seed"]) != ("PERA", 1e-3, 1):
            return row
        lost = {"diverged": "loss nan", "trainable": 1, "validation": None, "new": None}
        lost |= {"shares": []}
        return row | {"measured": lost}

    found = results(folder, gone)
    assert found.tuning["PERA"][1e-3][1] == math.inf
    assert found.lr("PERA") == 1e-4
    report = experiment.EXPERIMENT.report(found)
    assert "1 of 2 runs diverged" in report.tables[0][1].markdown()
    report.draw(new_figure(10.8, 5.4))


def test_a_loss_that_is_not_finite_is_a_result(llama, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("loss nan at step 1: lower lr=0.001")

    monkeypatch.setattr(experiment, "train", diverge)
    options = replace(Options(seeds=2, small=True), **EXPERIMENTS["smollm2"].own)
    job = experiment.run("PERA", "judged", options, experiment.recipe(options), 1e-3, 0)
    assert job.compute(job.settings, None) == {
        "diverged": "loss nan at step 1: lower lr=0.001",
        "trainable": 6480,
        "validation": None,
        "new": None,
        "shares": [],
    }


def test_the_share_is_looked_at_on_the_way(folder):
    found = experiment.shares(results(folder), "PERA", 1e-4, "longer")
    assert list(found) == [1, 2, 4]
    assert found[1] == [0, 0]  # h moves from the second step on
    assert 0 < found[2][0] < found[4][0]


def test_the_gradient_of_h_is_looked_at_beside_adams_epsilon(folder):
    table = experiment.EXPERIMENT.report(results(folder)).tables[-1][1]
    steps = [row[0] for row in table.rows]
    assert steps == ["1", "2", "4"]
    assert all(float(one) >= 0 for row in table.rows for one in row[1].split(", "))
    assert {row[2] for row in table.rows} == {"1e-08"}
    assert torch.optim.AdamW([torch.zeros(1)]).defaults["eps"] == experiment.EPSILON
    first, *later = (float(row[1].split(", ")[0]) for row in table.rows)
    assert first == 0 < min(later)  # B is zero at the start, and the terms are made of B and A


def test_forecast_of_the_mean_rate():
    low, high = experiment.forecast("PERA", experiment.recipe(Options()), 1e-3, 40)
    wide = experiment.forecast("PERA, scale 576", experiment.recipe(Options()), 1e-3, 40)
    assert 0 < low < high
    assert wide == (pytest.approx(576 * low), pytest.approx(576 * high))


@pytest.mark.parametrize("option", ["--model", "--text", "--old"])
def test_it_is_about_its_own_model(llama, option, tmp_path, capsys):
    assert main([*COMMAND, str(tmp_path), option, "some"]) == 2
    told = capsys.readouterr().err
    assert f"experiment smollm2 is about {option[2:]} " in told
    assert f"not 'some': leave {option} out" in told


def test_the_model_of_a_row_is_known_where_it_is_not_installed():
    job = Job("LoRA", "judged", tune, {"model": "smollm2"}, 1)
    assert job.model == smollm2.SHA256
    assert json.loads(json.dumps(job.about))["model"] == smollm2.SHA256
