"""The command as a person types it: results on stdout, progress on stderr, one sentence for a
mistake.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from safetensors.torch import save_file

import perakit as pk
from perakit import cli
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
    assert "The 2 x 2 identity is a PERA of rank 1" in out
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
    assert "identity: proved DOES NOT STAND" in out
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
