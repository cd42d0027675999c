"""Shares of random targets: measured, bounded, drawn, and told on the page."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import perakit as pk
from perakit.errors import PerakitError
from perakit.theory import capture, capture_bound, captured

ROOT = Path(__file__).parents[2]


def gaussian(m, n, seed=0):
    return np.random.default_rng(seed).normal(size=(m, n))


def test_lora_captures_its_singular_values():
    E = gaussian(6, 5)
    squares = np.linalg.svd(E, compute_uv=False) ** 2
    assert captured(E, pk.LoRA(2)) == pytest.approx(squares[:2].sum() / squares.sum())


def test_the_share_is_a_cosine_and_what_the_best_update_takes_away():
    E = gaussian(5, 4)
    best = pk.theory.best_approximation(E, pk.PERA(1), starts=8)
    share = captured(E, pk.PERA(1), starts=8)
    cosine = np.vdot(E, best.delta) / np.linalg.norm(E) / np.linalg.norm(best.delta)
    assert share == pytest.approx(cosine**2)
    # In a cone: at the best scale ‖E − W‖² = ‖E‖² (1 − share)
    assert share == pytest.approx(1 - (best.error_fro / np.linalg.norm(E)) ** 2, abs=1e-6)
    assert captured(E, pk.LoRA(1)) < share


def test_the_bound_is_the_one_that_is_proved():
    """Solved again, for one number of draws: P(A) <= 4 (4edk/P)^P exp(−k D(q))."""
    P, entries, failure, k = 6154, 768 * 768, 1e-6, 60 * 6154
    share = capture._by_signs(entries, P, 5, k, math.log(failure))
    a = math.sqrt(share * (entries - 1) / k)
    q = (1 + math.erf(a / math.sqrt(2))) / 2 - 1 / (2 * math.sqrt(k))
    exponent = math.log(2) + q * math.log(q) + (1 - q) * math.log(1 - q)
    log_failure = math.log(4) + P * math.log(4 * math.e * 5 * k / P) - k * exponent
    assert log_failure == pytest.approx(math.log(failure), abs=1e-4)
    assert capture_bound(768, 768, 4).by_parameters <= share


def test_the_constant():
    values = [capture.closed_form(P) for P in (3, 4, 10, 100, 10**6)]
    assert 44 < values[0] < 45
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(32.2, abs=0.1)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_no_gaussian_target_gives_more_than_the_bound_by_rank(rank):
    """What rank K captures is below the bound, if not far below."""
    m, n, draws = 60, 80, 20
    bound = capture_bound(m, n, rank, failure=1e-2)
    K = pk.formulas.rank_bound(rank)
    spectra = [np.linalg.svd(gaussian(m, n, seed), compute_uv=False) for seed in range(draws)]
    shares = [(s[:K] ** 2).sum() / (s**2).sum() for s in spectra]
    assert max(shares) < bound.by_rank
    assert max(shares) > bound.by_rank / 4
    assert bound.share == min(1, bound.by_rank, bound.by_parameters)


def test_which_bound_is_smaller_and_how_it_grows():
    small, large = capture_bound(4096, 4096, 8), capture_bound(4096, 4096, 32)
    assert small.share == small.by_rank < small.by_parameters
    assert large.share == large.by_parameters < large.by_rank
    assert large.by_parameters == pytest.approx(4 * small.by_parameters, rel=0.01)  # as P, not K
    assert capture_bound(8, 8, 1).share == 1
    assert "vacuous" in str(capture_bound(8, 8, 1))
    assert capture_bound(1, 1, 1).share == 1
    more = capture_bound(4096, 4096, 32, degree=3)
    # Of each parameter too: entries of degree 7 have more patterns than of degree 5
    assert more.by_parameters / more.parameters > 1.03 * large.by_parameters / large.parameters
    assert capture_bound(4096, 4096, 32, failure=1e-9).by_parameters > large.by_parameters


def test_the_page_has_the_numbers_of_its_figure():
    page = " ".join((ROOT / "docs/theory.md").read_text().split())
    drawn = json.loads((ROOT / "docs/theory/numbers.json").read_text())["figures"]["capture"]
    found = {
        name: {int(P): np.mean(shares) for P, shares in line.items()}
        for name, line in drawn["sizes"]["32 x 32"].items()
    }
    lora, pera, rank_K = (found[name] for name in ("LoRA", "PERA", "best of rank K"))
    assert (drawn["draws"], max(lora), max(pera)) == (5, 192, 198)
    multiples = [share[max(share)] * 1024 / max(share) for share in (lora, pera)]
    for sentence in (
        f"LoRA captures {100 * lora[192]:.1f} % with 192 parameters",
        f"PERA was found to capture {100 * pera[198]:.1f} % with 198",
        f"here {multiples[0]:.1f} and {multiples[1]:.1f}",
        f"the best matrices of rank 9 capture {100 * rank_K[198]:.1f} %",
    ):
        assert sentence in page


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: captured(np.zeros((2, 2)), pk.LoRA(1)), "E is zero: there is nothing to capture"),
        (lambda: capture_bound(4, 4, 5), "rank=5 is above"),
        (lambda: capture_bound(4, 4, 1, failure=0), "failure=0 is no probability"),
        (lambda: capture_bound(4, 4, 1, failure=float("nan")), "failure=nan is no probability"),
        (lambda: capture_bound(4, 4, 1, terms="none"), "terms='none' is unknown"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(PerakitError, match=message):
        call()
