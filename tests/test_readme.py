"""The README runs, and its numbers are those of the files beside it."""

import ast
import json
import re
from pathlib import Path

import pytest

import perakit as pk
from perakit.models import catalogue
from perakit.toy.pretrained import TINY

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_first_block_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL).group(1)
    names = {}
    exec(block, names)
    assert "12 layers" in capsys.readouterr().out
    fresh = pk.toy.load("tiny")
    pk.load(fresh, "my-adapter")
    assert pk.adapters(fresh).keys() == pk.adapters(names["model"]).keys()


def test_the_theory_block_answers_as_its_comments_say():
    block = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    names = {"pk": pk, "theory": pk.theory}
    asked = [node for node in ast.parse(block).body if isinstance(node, ast.Expr)]
    dimensions, found, holds = (eval(ast.unparse(node), names) for node in asked)
    assert dimensions == (454, 454)
    assert found.lower_fro < found.error_fro < found.upper_fro
    assert holds is False


def test_the_block_on_peers_runs_as_written(capsys):
    block = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[2]
    names = {"pk": pk}
    exec(block, names)
    assert "4-bit error of W0" in capsys.readouterr().out
    assert pk.active(names["model"]) == ("code",)


def test_the_failed_check_is_what_a_student_sees():
    from perakit.classroom.kernel import check_functions

    assert str(check_functions("lora/scaling", lambda B, A, alpha: B @ A)) in README


def test_the_verdicts_are_those_of_the_registry():
    verdicts = [claim.verdict for claim in pk.theory.claims.values()]
    everywhere = sum(claim.range.startswith("all sizes") for claim in pk.theory.claims.values())
    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("proved", "verified", "refuted", "qualified", "open")
    ).replace("proved", f"proved ({everywhere} at all sizes)")
    assert f"{len(verdicts)} claims: {counts}; every verdict stands" in README


def test_the_tiny_model_is_as_its_card_says():
    card = json.loads((TINY / "card.json").read_text())
    assert f"{card['parameters']:,} parameters" in README
    bits = card["heldout_bits_per_byte"]
    assert f"**{bits['all held-out prose']:.2f} bits per byte**" in README
    assert f"{bits['of which standard library']:.2f} on the standard library's alone" in README
    assert f"({(TINY / 'model.safetensors').stat().st_size / 2**20:.1f} MiB)" in README


@pytest.mark.parametrize("method", [pk.LoRA(16), pk.PERA(16)])
def test_the_percentages_are_those_of_params(method):
    _, percent = catalogue.count(catalogue.describe("llama3-8b"), method, "q,k,v,up,down")
    assert f"{type(method).__name__} {percent:.5f} %" in README
