"""The layers that PERA's authors tried: what each file of their first commit computes, written down
once more from the files, and the experiment that compares them.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perakit as pk
from perakit import formulas, strategies, testing
from perakit.experiments import EXPERIMENTS, Options, authors, variants
from perakit.experiments.authors import (
    BothOne,
    BothZero,
    HOne,
    Kernel,
    OnB,
    Ones,
    Polynomial,
    Variant,
)
from perakit.experiments.jobs import read
from perakit.experiments.report import page
from perakit.experiments.results import Results
from perakit.experiments.tuning import tune

ALL = (Kernel, Ones, BothZero, BothOne, HOne, OnB, Polynomial)
SMALL = Options(seeds=2, small=True)

# Per file: the numbers on the products of A, (square, cross) where they are fixed or a vector's
# name, and the vector on those of B
SIDES = {
    Kernel: ((1, 2), None),
    Ones: ((1, 1), None),
    BothZero: ("h", "v"),
    BothOne: ("h", "v"),
    HOne: ("h", None),
    OnB: ((1, 1), "v"),
    Polynomial: ("h", "v"),
}
STARTS = {
    BothZero: {"h": 0, "v": 0},
    BothOne: {"h": 1, "v": 1},
    HOne: {"h": 1},
    OnB: {"v": 0},
    Polynomial: {"h": 0, "v": 1},
}


def features(cls, parameters):
    """Poly(B) (m, K) and Poly(A) (K, n) column by column, with each number on its own side."""
    B, A = parameters["B"], parameters["A"]
    on_a, on_b = SIDES[cls]
    left, right = [*B.T], [*A]
    k = 0
    for i in range(len(A)):
        for j in range(i, len(A)):
            a = parameters[on_a][k] if isinstance(on_a, str) else on_a[int(i < j)]
            b = parameters[on_b][k] if on_b else 1
            left.append(b * B[:, i] * B[:, j])
            right.append(a * A[i] * A[j])
            k += 1
    stack = torch.stack if isinstance(B, torch.Tensor) else np.stack
    return stack(left, 1), stack(right)


def oracle(method, parameters, W0):
    B_hat, A_hat = features(type(method), parameters)
    return method.scale * (B_hat @ A_hat)


def test_these_are_all():
    assert set(Variant.__subclasses__()) == set(ALL) == set(SIDES)
    assert len({cls.name for cls in ALL}) == len(ALL)


# --- the laws -------------------------------------------------------------------------------------


# Compiling takes most of the time: once, where a fixed weight and two vectors are multiplied
@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)
def test_the_laws_hold(cls):
    with authors.known():
        testing.assert_adapter_laws(cls(rank=2, alpha=3), oracle, compiled=cls is Polynomial)


def test_the_laws_would_see_a_wrong_weight(monkeypatch):
    monkeypatch.setattr(Kernel, "cross", 1)
    with authors.known(), pytest.raises(AssertionError, match=r"^law_3_dense_forward on a 5 x 3"):
        testing.assert_adapter_laws(Kernel(rank=2), oracle, compiled=False)


# --- what each of them is -------------------------------------------------------------------------


def whole(draw, cls):
    """A method at some rank, and whole numbers for its parameters: every ΔW is then exact."""
    m, n, rank = draw(strategies.shapes())
    method = cls(rank)
    generator = np.random.default_rng(draw(strategies.seeds()))
    return method, {
        name: generator.integers(-3, 4, shape) for name, shape in method.shapes(m, n).items()
    }


@given(st.data(), st.sampled_from(ALL))
def test_the_update_is_that_of_its_file_exactly(data, cls):
    method, parameters = whole(data.draw, cls)
    assert np.array_equal(method.update(None, **parameters), oracle(method, parameters, None))


@given(st.data())
def test_the_kernel_is_BA_and_its_squares_exactly(data):
    method, parameters = whole(data.draw, Kernel)
    BA = parameters["B"] @ parameters["A"]
    assert np.array_equal(method.update(None, **parameters), BA + BA * BA)


@given(st.data())
def test_v_alone_is_pera_and_the_weights_of_1_are_pera_at_h_of_1(data):
    method, parameters = whole(data.draw, OnB)
    B, A, v = (parameters[name] for name in "BAv")
    pera = pk.PERA(method.rank)
    assert np.array_equal(method.update(None, B=B, A=A, v=v), pera.update(None, B=B, A=A, h=v))
    ones = Ones(method.rank).update(None, B=B, A=A)
    assert np.array_equal(ones, pera.update(None, B=B, A=A, h=np.ones_like(v)))


@pytest.mark.parametrize("terms", ["square", "cross"])
@given(data=st.data())
def test_an_ablation_is_pera_with_the_other_part_at_zero(terms, data):
    """As the files have it: h whole, of which one part is frozen at zero."""
    m, n, rank = data.draw(strategies.shapes())
    generator = np.random.default_rng(data.draw(strategies.seeds()))
    B, A = generator.integers(-3, 4, (m, rank)), generator.integers(-3, 4, (rank, n))
    i, j = np.triu_indices(rank)
    h = generator.integers(-3, 4, len(i)) * ((i == j) == (terms == "square"))
    kept = h[(i == j) == (terms == "square")]
    ours = pk.PERA(rank, terms=terms).update(None, B=B, A=A, h=kept)
    assert np.array_equal(ours, formulas.pera(B, A, h))
    label = f"LoRA + {terms}"
    (layer,) = (one for one in variants.LAYERS if one.label == label)
    assert layer.method == pk.PERA(8, terms=terms)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)
def test_it_starts_where_its_file_starts(cls):
    model = testing.adapted(cls(3), torch.nn.Linear(7, 5), start=True)
    parameters = dict(model[0].adapter.named_parameters())
    assert set(parameters) == {"A", "B", *STARTS.get(cls, {})}
    assert parameters["A"].all()
    assert not parameters["B"].any()
    for name, start in STARTS.get(cls, {}).items():
        assert parameters[name].tolist() == [start] * 6
    assert cls(3).count(5, 7) == 3 * 12 + 6 * len(STARTS.get(cls, {}))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)
def test_gradients_are_those_of_numbers_on_their_own_sides(cls):
    """That h and v are multiplied first changes nothing that training sees."""
    model = testing.adapted(cls(3), torch.nn.Linear(7, 5).double())
    parameters = dict(model[0].adapter.named_parameters())
    direction = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    identity = torch.eye(7, dtype=torch.float64)  # each row of the output a column of W0 + ΔW
    ours = torch.autograd.grad((model(identity).T * direction).sum(), list(parameters.values()))
    B_hat, A_hat = features(cls, parameters)
    theirs = torch.autograd.grad(((B_hat @ A_hat) * direction).sum(), list(parameters.values()))
    assert ours[0].abs().max() > 0.1
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# --- the trap -------------------------------------------------------------------------------------


def trained(method, steps=20):
    """A layer after some steps of AdamW towards another, and the gradients on the way."""
    base = torch.nn.Linear(7, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(16, k, dtype=torch.float64, generator=generator) for k in (7, 5))
    with torch.no_grad():
        base.weight.copy_(torch.randn(5, 7, dtype=torch.float64, generator=generator))
        base.bias.zero_()
    model = torch.nn.Sequential(base)
    torch.manual_seed(2)
    pk.attach(model, method, ["0"])
    parameters = dict(model[0].adapter.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.05, weight_decay=0.01)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        seen.append({name: p.grad.clone() for name, p in parameters.items()})
        optimizer.step()
    return model, parameters, seen


def test_two_vectors_from_zero_never_move():
    model, parameters, seen = trained(BothZero(3))
    for name in "hv":
        assert all(not gradients[name].any() for gradients in seen)
        assert not parameters[name].any()
    assert seen[0]["B"].any()
    assert all(gradients["A"].any() for gradients in seen[1:])
    lora, *_ = trained(pk.LoRA(3))
    ours, theirs = (pk.delta_weights(one)["0"] for one in (model, lora))
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", [BothOne, HOne, OnB, Polynomial], ids=lambda cls: cls.name)
def test_the_vectors_of_the_others_move(cls):
    _, parameters, _ = trained(cls(3))
    for name, start in STARTS[cls].items():
        assert (parameters[name] != start).any()


def test_v_alone_trains_as_pera_does():
    (_, ours, _), (_, theirs, _) = trained(OnB(3)), trained(pk.PERA(3))
    assert theirs["h"].any()
    for one, other in (("A", "A"), ("B", "B"), ("v", "h")):
        torch.testing.assert_close(ours[one], theirs[other], rtol=1e-9, atol=1e-12)


# --- nobody else sees them ------------------------------------------------------------------------


def test_their_names_are_lent_and_taken_back():
    before = dict(pk.Method.registry)
    wanted = {cls.name: cls for cls in ALL}
    with authors.known():
        assert pk.Method.registry == before | wanted
        with authors.known():  # a run inside of an experiment
            assert pk.Method.from_dict(Ones(2).to_dict()) == Ones(2)
        assert pk.Method.registry == before | wanted
        assert all(pk.Method.from_dict(cls(2).to_dict()) == cls(2) for cls in ALL)
    assert pk.Method.registry == before
    with pytest.raises(ZeroDivisionError), authors.known():
        print(1 / 0)
    assert pk.Method.registry == before
    with pytest.raises(pk.PerakitError, match=r"^unknown method 'pera-ones': known here are "):
        pk.Method.from_dict(Ones(2).to_dict())


# --- the experiment -------------------------------------------------------------------------------


def test_every_layer_is_an_arm_and_differs_in_its_method_alone(planned):
    judged = [job for job in planned("variants", SMALL) if job.role == "judged"]
    labels = list(dict.fromkeys(job.label for job in judged))
    assert labels == [
        "LoRA",
        "LoRA, dropout 0.05",
        *(one.label for one in variants.LAYERS),
    ]
    settings = [{**job.settings, "method": None} for job in judged if job.label != "unadapted"]
    assert len({json.dumps(one, sort_keys=True) for one in settings}) == SMALL.seeds
    methods = {job.label: job.settings["method"] for job in judged}
    assert {one.label: one.method.to_dict() for one in variants.LAYERS}.items() <= methods.items()
    assert {methods[one.label]["rank"] for one in variants.LAYERS} == {8}
    ours = {one.method for one in variants.LAYERS}
    assert {type(method) for method in ours} == {pk.PERA, *ALL}
    # What other experiments have run already is found
    assert {job.name for job in judged if "pera-" not in job.settings["method"]["method"]} == {
        "tuning.tune"
    }
    assert {job.name for job in judged if "pera-" in job.settings["method"]["method"]} == {
        "variants.tune_tried"
    }


def test_every_file_of_the_first_commit_is_in_the_table():
    text = " ".join(one.file for one in variants.LAYERS)
    files = ["lora.py", *(f"lora_@{k}.py" for k in range(1, 7)), "lora_@final.py"]
    assert all(f"`{file}`" in text for file in files)
    assert all(name in text for name in ("polynomial", "cross terms", "square terms"))


def quick(planned, method):
    """Settings of a run of two steps."""
    (job,) = (
        job
        for job in planned("variants", SMALL)
        if job.role == "judged"
        and job.settings["method"] == method.to_dict()
        and job.settings["recipe"]["seed"] == 0
    )
    recipe = job.settings["recipe"] | {"steps": 2, "eval_every": 2, "eval_windows": 1, "warmup": 1}
    return job, dict(job.settings) | {"text": "synthetic", "old": None, "recipe": recipe}


def test_a_process_that_has_not_met_the_method_runs_it(planned):
    """As those of the pool are, which know a job and no more."""
    job, settings = quick(planned, Kernel(8))
    program = (
        "import json, sys; from importlib import import_module;"
        f"run = import_module({job.compute.__module__!r}).{job.compute.__name__};"
        "print(json.dumps(run(json.load(sys.stdin))))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = json.loads(said)
    assert found["trainable"] == 98_304  # LoRA's
    assert 0 < found["share"] < 0.1
    with pytest.raises(pk.PerakitError, match=r"^unknown method 'pera-kernel'"):
        tune(settings)


def results(planned, costs, seeds=3):
    """Results as if measured: label -> cost of the first seed, the same on validation text."""
    rows = [{"label": "unadapted", "role": "other", "settings": {}, "measured": {"new": 3.0}}]
    jobs = [
        job for job in planned("variants", Options(seeds=seeds)) if job.role in ("judged", "tuning")
    ]
    for job in jobs:
        if job.role == "tuning" and job.label != "unadapted":
            measured = {"validation": 2 + abs(job.settings["recipe"]["lr"] - 0.012)}
            rows.append(
                {
                    "label": job.label,
                    "role": "tuning",
                    "settings": job.settings,
                    "measured": measured,
                }
            )
            continue
        cost = costs.get(job.label, 2.0) + job.settings["recipe"]["seed"] / 100
        measured = {"new": cost, "validation": cost, "share": 0.001, "trainable": 1}
        rows.append(
            {"label": job.label, "role": "judged", "settings": job.settings, "measured": measured}
        )
    return Results({"options": {"seeds": seeds}}, rows)


def test_the_page_says_what_was_measured(planned):
    costs = {"Quadratic kernel": 1.9, "PERA, h from 1": 2.1, "LoRA, dropout 0.05": 1.5}
    costs["LoRA + cross"] = 1.8  # better than the kernel, and in the paper
    report = variants.EXPERIMENT.report(results(planned, costs))
    told = {finding.claim: (finding.told, finding.ours) for finding in report.findings}
    assert told["Quadratic kernel beats LoRA"] == (
        "holds",
        "+0.10000 [+0.10000, +0.10000] bits",
    )
    assert told["PERA, h from 1 beats LoRA"][0] == "does not hold: the reverse"
    assert told["PERA beats LoRA"][0] == "not reproduced"
    assert told["PERA, dropout 0.05 beats LoRA, dropout 0.05"] == (
        "not reproduced: the reverse",
        "-0.50000 [-0.50000, -0.50000] bits",
    )
    claim = (
        "Of those that the paper leaves out, the one that validation text prefers (Quadratic"
        " kernel) beats PERA"
    )
    assert told[claim][0] == "holds"
    assert len(told) == len(variants.LAYERS) + 1
    reported = {f.claim.split(" beats")[0] for f in report.findings if f.paper}
    assert reported == {"PERA", "PERA, dropout 0.05", "LoRA + cross", "LoRA + square"}
    (_, table), _ = report.tables
    (dropped,) = (row for row in table.rows if row[0] == "PERA, dropout 0.05")
    assert dropped[6] == "-0.50000 [-0.50000, -0.50000]"  # beside LoRA with dropout
    (kernel,) = (row for row in table.rows if row[0] == "Quadratic kernel")
    assert kernel[1:5] == ["`lora.py`", "1, or 2 for i < j", "fixed", "no"]
    assert kernel[5].startswith("1.9100 [")
    assert kernel[6:] == [
        "+0.10000 [+0.10000, +0.10000]",
        "0.1 [0.1, 0.1] %",
    ]


@pytest.mark.thorough  # 53 runs that train a model
def test_the_experiment_runs_small(tmp_path):
    before = dict(pk.Method.registry)
    found, report = EXPERIMENTS["variants"].run(SMALL, tmp_path)
    assert pk.Method.registry == before
    names = {"variants.jsonl", "variants.md", "variants.png", "variants-rates.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(report.findings) == len(variants.LAYERS) + 1
    _, rows = read(tmp_path / "variants.jsonl")
    assert sum(row["role"] == "judged" for row in rows) == 2 * (len(variants.LAYERS) + 2)
    assert found.scores("PERA, h v from 0", "share") == [0, 0]
    assert found.scores("PERA, v from 0") == pytest.approx(found.scores("PERA"), rel=1e-6)
    text = (tmp_path / "variants.md").read_text()
    assert "arXiv 2604.11841" in text
    assert "3b9c930" in text
    one = EXPERIMENTS["variants"]
    again = one.read(tmp_path / "variants.jsonl")
    assert page(one.name, one.title, one.question, *again, tmp_path / "variants.jsonl") == text
