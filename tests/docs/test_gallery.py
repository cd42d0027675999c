"""The gallery draws what it computes, writes the numbers beside the figures, and refuses in one
sentence.
"""

import hashlib
import json
import math
import os
import warnings
from pathlib import Path

import gallery
import numpy as np
import pytest
import torch

import perakit as pk
from perakit import PerakitError, formulas
from perakit.theory import numerical_rank, spectrum
from perakit.theory.families import pera


# Ten seconds: what asks for it is thorough
@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(folder, paths, numbers) of a small gallery, drawn where a missing glyph or an overflow would
    be an error.
    """
    folder = tmp_path_factory.mktemp("gallery") / "new" / "folder"
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".torch.jit.script. is deprecated", DeprecationWarning)
        paths = gallery.draw(folder, seed=3, small=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    return folder, paths, json.loads((folder / "numbers.json").read_text())


def leaves(value):
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from leaves(entry)
    else:
        yield value


@pytest.mark.thorough
def test_every_figure_is_a_picture_of_moderate_size(drawn):
    from matplotlib.image import imread

    folder, paths, numbers = drawn
    assert sorted(path.name for path in paths) == sorted(
        [*(f"{name}.png" for name in gallery.FIGURES), "numbers.json"]
    )
    assert sorted(os.listdir(folder)) == sorted(path.name for path in paths), (
        "and no temporary file is left"
    )
    assert list(numbers["figures"]) == list(gallery.FIGURES)
    for path in paths[:-1]:
        picture = imread(path)
        assert picture.shape[0] > 300
        assert picture.shape[1] > 600
        assert picture[..., :3].std() > 0.05, "an empty page"
        assert 5_000 < path.stat().st_size < 100_000


@pytest.mark.thorough
def test_the_numbers_are_finite_and_say_what_they_were_made_from(drawn):
    _, _, numbers = drawn
    assert all(math.isfinite(value) for value in leaves(numbers) if isinstance(value, float))
    made_from = numbers["made_from"]
    assert made_from["seed"] == 3
    assert made_from["small"] is True
    assert made_from["versions"].keys() >= {"python", "torch", "numpy"}
    assert (
        made_from["formulas_sha256"]
        == hashlib.sha256(Path(formulas.__file__).read_bytes()).hexdigest()
    )
    assert made_from["corpus"]["sha256"] == pk.toy.corpus.load("synthetic", limit=300_000).sha256
    assert {trained["recipe"]["seed"] for trained in made_from["training"].values()} == {3}
    assert all(
        set(trained["heldout_bits_per_byte"]) == {"before", "after"}
        for trained in made_from["training"].values()
    )


@pytest.mark.thorough
def test_dimensions_agree_with_the_closed_form(drawn):
    figure = drawn[2]["figures"]["dimensions"]
    (m, n), r = figure["shape"], np.array(figure["ranks"])
    assert figure["closed form"] == figure["measured"]
    assert figure["measured"]["LoRA"] == (r * (m + n - r)).tolist()
    assert figure["measured"]["PERA"] == np.minimum(m * n, r * (m + n) + r * (r - 1) // 2).tolist()


@pytest.mark.thorough
def test_spectra_drop_at_the_rank_bound_of_each_family(drawn):
    figure = drawn[2]["figures"]["spectra"]
    bounds = {"LoRA": 2, "PERA, cross terms only": 3, "PERA, squares only": 4, "PERA": 5}
    assert {
        name: numerical_rank(np.diag(values)).rank for name, values in figure["random"].items()
    } == bounds
    assert all(
        values[5] < 1e-12 for name, values in figure["trained"].items() if name.startswith("PERA")
    )
    assert figure["trained"]["all weights trained"][5] > 1e-6
    assert (
        figure["order_share"]["as published"]["whole model"]
        < figure["order_share"]["feature_scale=192"]["whole model"]
    )


@pytest.mark.thorough
def test_the_sandwich_is_that_of_the_target(drawn):
    figure = drawn[2]["figures"]["sandwich"]
    E = np.random.default_rng((3, 1)).normal(size=figure["shape"])
    assert figure["norm"] == pytest.approx(np.linalg.norm(E), rel=1e-5)
    for k, r in enumerate(figure["ranks"]):
        for name, bound in (("upper", r), ("lower", formulas.rank_bound(r))):
            assert figure[name][k] == pytest.approx(np.linalg.norm(spectrum(E)[bound:]), rel=1e-5)
        assert (
            figure["lower"][k] * (1 - 1e-5) <= figure["found"][k] <= figure["upper"][k] * (1 + 1e-5)
        )


@pytest.mark.thorough
def test_errors_of_targets_are_recomputed_and_respect_inclusions(drawn):
    figures = drawn[2]["figures"]
    assert figures["targets-by-rank"] == figures["targets-by-parameters"]
    targets = pk.theory.targets(*figures["targets-by-rank"]["shape"], seed=3)
    for name, lines in figures["targets-by-rank"]["targets"].items():
        E = targets[name]
        for k, point in enumerate(lines["LoRA"]):
            found = np.linalg.norm(spectrum(E)[point["rank"] :]) / np.linalg.norm(E)
            assert point["error"] == pytest.approx(found, rel=1e-5, abs=1e-12)
            assert point["parameters"] == point["rank"] * sum(E.shape)
            parts = [
                lines[family][k]["error"]
                for family in ("LoRA", "PERA, cross terms only", "PERA, squares only")
            ]
            assert lines["PERA"][k]["error"] <= min(parts)


def test_a_better_error_comes_from_any_set_inside(monkeypatch):
    found = {
        ("LoRA", 1): 0.5,
        ("LoRA", 2): 0.6,
        ("PERA, squares only", 1): 0.3,
        ("PERA", 1): 0.4,
        ("PERA", 2): 0.2,
    }

    def curve(E, families, ranks, seed, starts):
        points = [
            gallery.Point(name, r, 7, found.get((name, r), 0.9), 0.0, False, False)
            for name in families
            for r in ranks
        ]
        return type("Curve", (), {"points": points})

    monkeypatch.setattr(gallery, "error_curve", curve)
    lines = gallery._search(gallery._Lab(0, gallery.SMALL), np.eye(2), (1, 2))
    assert [point["error"] for point in lines["LoRA"]] == [0.5, 0.5]
    assert [point["error"] for point in lines["PERA, cross terms only"]] == [0.5, 0.5]
    assert [point["error"] for point in lines["PERA"]] == [0.3, 0.2]
    assert [point["search"] for point in lines["PERA"]] == [0.4, 0.2]


@pytest.mark.thorough
def test_the_real_update_is_of_full_rank_and_its_blocks_are_bounded(drawn):
    figure = drawn[2]["figures"]["real-update"]
    assert figure["shape"] == [192, 192]
    assert len(figure["spectrum"]) == 192
    assert figure["spectrum"][-1] > 1e-12 * figure["spectrum"][0]
    squares = np.square(figure["spectrum"])
    whole = figure["whole layer, error of the best matrix of each rank"]
    assert whole == {
        r: pytest.approx(math.sqrt(squares[int(r) :].sum() / squares.sum()), rel=1e-4)
        for r in whole
    }
    assert all(
        block["PERA"][0]["error"] <= block["LoRA"][0]["error"]
        for block in figure["blocks"].values()
    )


@pytest.mark.thorough
def test_interaction_is_zero_for_one_linear_layer_and_not_in_the_model(drawn):
    figure = drawn[2]["figures"]["interaction"]
    single, *models = (np.array(matrix) for matrix in figure["strength"].values())
    assert not single.any()
    for strength in models:
        assert strength.min() >= 0
        assert strength.max() > 1e-5
        np.testing.assert_allclose(strength, strength.T, rtol=1e-3, atol=1e-6)


def test_an_adapters_update_is_multiplied_out_in_float64():
    model = pk.toy.load("tiny")
    pk.attach(model, pk.PERA(2), [gallery.LAYER])
    adapter = pk.adapters(model)[gallery.LAYER]
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.uniform_(0.5, 1.5)
    update = gallery._update(model, gallery.LAYER)
    factors = {
        name: parameter.detach().double().numpy() for name, parameter in adapter.named_parameters()
    }
    np.testing.assert_allclose(update, pera(2).update(None, **factors), rtol=1e-6)
    assert numerical_rank(update).rank == 5


# --- what callers get wrong -----------------------------------------------------------------------


def test_one_figure_alone_and_the_same_again(tmp_path, capsys):
    paths = gallery.draw(tmp_path, small=True, only=["entry-polynomial"])
    assert [path.name for path in paths] == ["entry-polynomial.png", "numbers.json"]
    first = [path.read_bytes() for path in paths]
    assert gallery.main([str(tmp_path), "--small", "--only", "entry-polynomial"]) == 0
    assert [path.read_bytes() for path in paths] == first
    assert list(json.loads(first[1])["figures"]) == ["entry-polynomial"]
    output = capsys.readouterr()
    assert output.out == ""
    assert "1/1" in output.err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert gallery.main([str(tmp_path / "file/figures"), "--small"]) == 2
    assert capsys.readouterr().err.startswith("perakit: cannot write")
    with pytest.raises(PerakitError, match="choose a folder that can be written"):
        gallery.draw(tmp_path / "file", small=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["nope"]}, "no figure 'nope': choose from entry-polynomial, dimensions"),
        ({"only": "spectra"}, "only='spectra' is one name: pass a list of names"),
        ({"only": []}, "only is empty: name a figure, or None for all"),
        ({"seed": -1}, "seed=-1 must be an integer >= 0"),
        ({"seed": 0.5}, "seed=0.5 must be an integer >= 0"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, message):
    with pytest.raises(PerakitError, match=message):
        gallery.draw(tmp_path / "figures", small=True, **arguments)
    assert not (tmp_path / "figures").exists()
