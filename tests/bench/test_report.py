"""What a benchmark says of a made-up document: numbers that can be worked out by hand come out, and
nothing slow is hidden.
"""

import copy
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from perakit import PerakitError
from perakit.bench import figures, promises, report, verdicts
from perakit.bench.ratios import Spread, find, of_medians, paired
from perakit.fast.plans import PLANS
from perakit.plots.pictures import png

PAGE = Path(__file__).parents[2] / "docs/performance.md"
SPEED = {  # times the base's
    "base": 1.0,
    "plain lora": 1.2,
    "lora": 1.1,
    "pera": 1.25,
    "prototype": 1.5,
    "authors": 1.5,
    "peft r": 1.4,
    "peft K": 1.6,
}
SHAPES, TOKENS, RANKS = ((768, 768), (3072, 768)), (256, 4096), (4, 8, 16, 32)


def result(contender, rank, factor, plan=None, flop=100):
    """Three rounds, the second disturbed alike for everyone: the median of the paired ratios is
    that of the factors.
    """
    return {
        "contender": contender,
        "rank": rank,
        "inner": rank,
        "plan": plan or ("auto" if contender in ("lora", "pera", "prototype") else None),
        "flop": flop,
        "seconds": [factor * moment for moment in (0.01, 0.05, 0.012)],
    }


def make(peft=True, device="cpu", dtypes=("float32",)):
    """A document in which every contender takes SPEED times the base's time; PERA's counted ratio
    over plain LoRA is 1.2.
    """
    names = [name for name in SPEED if peft or not name.startswith("peft")]
    flop = {"base": 100, "pera": 144}
    places = [
        {"device": device, "dtype": t, "m": m, "n": n, "tokens": T}
        for t in dtypes
        for m, n in SHAPES
        for T in TOKENS
    ]
    step = [
        result(name, rank, SPEED[name], flop=flop.get(name, 120))
        for rank in RANKS
        for name in names
    ]
    planned = [
        result(name, rank, 1.0 + 0.01 * k, "auto" if k == 1 else str(plan))
        for name in ("lora", "pera")
        for rank in RANKS
        for k, plan in enumerate((PLANS[0], None, *PLANS[1:]))
    ]
    inference = {
        "base": 1.0,
        "merged": 1.01,
        "pera cached": 1.1,
        "pera expanded": 1.7,
        "plain lora": 1.15,
    }
    forward = [
        result(name, rank, factor, "auto" if "pera" in name else None)
        for rank in RANKS
        for name, factor in inference.items()
    ]
    model = {
        "device": device,
        "dtype": dtypes[0],
        "batch": 1,
        "context": 1024,
        "tokens": 1024,
        "rank": 8,
    }
    versions = {"python": "3.11.7", "torch": "2.13.0"} | ({"peft": "0.21"} if peft else {})
    saved = {"plain lora": 100, "pera": 300}
    sizes = {
        name: {"parameters": 4096, "gradients": 4096, "optimizer": 8192, "saved": 1024 * kept}
        for name, kept in saved.items()
    }
    return {
        "made_from": {
            "seed": 3,
            "repeats": 3,
            "machine": {
                "cpu": "a processor",
                "cores": 2,
                "threads": 2,
                "load": 0.5,
                "device": device,
                "versions": versions,
            },
            "formulas_sha256": "0123456789abcdef" * 4,
            "command": "perakit bench",
        },
        "layers": [place | {"results": step} for place in places],
        "plans": [place | {"results": planned} for place in places],
        "inference": [place | {"results": forward} for place in places],
        "models": [
            model
            | {
                "model": name,
                "results": [one for one in step if one["rank"] == 8 and one["contender"] != "base"],
            }
            for name in ("124M", "tiny")
        ],
        "host": [
            places[0]
            | {
                "m": 64,
                "n": 64,
                "tokens": 8,
                "results": [
                    result(name, rank, SPEED[name]) | {"operations": count}
                    for name, count in pair.items()
                ],
            }
            for rank in (8, 32)
            for pair in (
                {"lora": 12, "plain lora": 10},
                {"pera": 27, "plain lora": 10},
                {"pera": 27, "authors": 38},
            )
        ],
        "memory": [
            {
                "method": name,
                "dtype": "float32",
                "m": 30,
                "n": 20,
                "tokens": 10,
                "rank": 2,
                "inner": 5,
            }
            | {"measured": size, "predicted": size | {"saved": 2048}}
            for name, size in sizes.items()
        ],
    }


def gpu():
    """What is measured on a GPU: both dtypes, and the layer with many tokens."""
    document = make(device="cuda", dtypes=("float32", "bfloat16"))
    document["made_from"]["machine"]["device"] = "NVIDIA H200"
    for part in ("layers", "inference"):
        many = [one for one in document[part] if (one["m"], one["tokens"]) == (768, 4096)]
        document[part] += [cell | {"m": 4096, "n": 4096, "tokens": 16384} for cell in many]
    document["models"] = [
        cell | {"dtype": t} for cell in document["models"][:1] for t in ("float32", "bfloat16")
    ]
    return document | {"plans": [], "host": [], "memory": []}


# --- ratios ---------------------------------------------------------------------------------------


def test_ratios_are_taken_within_a_round():
    """Medians of [1, 2, 30] and [2, 40, 3]: 2 / 3; of the paired ratios 1/2, 1/20, 10: 1/2."""
    over, under = (
        {"contender": "a", "seconds": [1, 2, 30]},
        {
            "contender": "b",
            "seconds": [2, 40, 3],
        },
    )
    assert paired(over, under).median == 0.5
    assert Spread.of([4, 1, 2, 3, 5]) == (3, 2, 4)
    with pytest.raises(PerakitError, match="a has 3 rounds and b 2: only equally many"):
        paired(over, {"contender": "b", "seconds": [2, 40]})
    with pytest.raises(PerakitError, match="a has 0 rounds and b 0"):
        paired({"contender": "a", "seconds": []}, {"contender": "b", "seconds": []})
    assert of_medians(over, under) == 2 / 3


def test_the_library_s_own_choice_is_found_and_the_base_beside_every_rank():
    cell = make()["plans"][0]
    assert find(cell, "pera", 8)["plan"] == "auto"
    assert find(cell, "pera", 5) is None
    assert find(make()["layers"][0], "base", 16)["contender"] == "base"


# --- verdicts -------------------------------------------------------------------------------------


def by_words(document, words):
    (found,) = (one for one in promises.verdicts(document) if words in one.statement)
    return found


@pytest.mark.parametrize(
    ("words", "count", "ratio", "limit", "holds"),
    [
        ("never slower than with the authors", 16, 1.25 / 1.5, 1.05, True),
        ("from 4096 tokens on", 6, 1.25 / 1.5, 1 / 1.4, False),
        ("over plain LoRA of its rank", 8, 1.25 / 1.2, 1.05 * 1.2, True),
        ("beyond the counted ratio", 6, 1.25 / 1.2, (1.25 + 1.2) / 2, True),
        ("never slower than PEFT's of its rank", 16, 1.1 / 1.4, 1.05, True),
        ("of the time of PEFT's", 8, 1.1 / 1.4, 0.9, True),
        ("of the 124M GPT-2 with PERA of rank 8 is no slower", 1, 1.25 / 1.4, 1.05, True),
        ("within 5 % of the best plan", 32, 1.01, 1.05, True),
        ("merged inference", 16, 1.01, 1.02, True),
        ("T K floats", 1, 300 / (100 + 4 * 10 * 5 / 1024), 1.1, False),
        ("one thread, LoRA's median time", 2, 1.1 / 1.2, 1.3, True),
        ("one thread, PERA's median time over plain LoRA's", 2, 1.25 / 1.2, 2.3, True),
        ("one thread, PERA's median time is below", 2, 1.25 / 1.5, 1.0, True),
        ("operations that are no views", 4, 27, 26, False),
        ("tiny GPT-2 with PERA of rank 8", 1, 1.25 / 1.1, 1.15, True),
        ("tiny GPT-2 with LoRA", 1, 1.1 / 1.4, 1.05, True),
        ("a step with LoRA takes", 16, 1.1 / 1.2, 1.05, True),
    ],
)
def test_each_promise_has_the_cells_the_number_and_the_limit_worked_out_by_hand(
    words, count, ratio, limit, holds
):
    verdict = by_words(make(), words)
    worst = max(verdict.findings, key=lambda finding: finding.ratio / finding.limit)
    assert (len(verdict.findings), verdict.holds) == (count, holds)
    assert (worst.ratio, worst.limit) == (pytest.approx(ratio), pytest.approx(limit))


@pytest.mark.parametrize(
    ("words", "count", "ratio", "limit"),
    [
        ("never slower than with the authors", 40, 1.25 / 1.5, 1.05),
        ("never slower than PEFT's of its rank", 40, 1.1 / 1.4, 1.05),
        ("merged inference", 40, 1.01, 1.02),
        ("124M GPT-2 with PERA of rank 8 takes at most 1.2", 2, 1.25 / 1.4, 1.2),
        ("124M GPT-2 with LoRA is no slower", 2, 1.1 / 1.4, 1.05),
        ("at 4096 x 4096 and 16384 tokens in bfloat16", 1, 1.25 / 1.2, 2.0),
    ],
)
def test_so_has_each_promise_of_a_gpu(words, count, ratio, limit):
    document = gpu()
    verdict = by_words(document, words)
    assert len(verdict.findings) == count
    assert verdict.findings[0].ratio == pytest.approx(ratio)
    assert (verdict.findings[0].limit, verdict.holds) == (limit, True)
    numbers = [line.split(".")[0] for line in report.promises(document)]
    assert numbers == ["1", "5", "9", "18", "19", "20"], "no other promise is said of a GPU"


def test_a_gpu_s_cells_are_no_cells_of_a_cpu_s_promises():
    document = gpu()
    for verdict in promises.verdicts(document):
        assert not verdict.findings or "cuda" in verdict.devices
    assert [line.split(".")[0] for line in report.promises(make())] == [
        str(number) for number in range(1, 18)
    ]


def test_all_promises_are_in_those_lists():
    assert len(promises.verdicts(make())) == 20


def test_one_slow_cell_breaks_a_promise_and_is_named():
    document = make()
    slow = copy.deepcopy(document["layers"][1])
    (one,) = (
        entry for entry in slow["results"] if (entry["contender"], entry["rank"]) == ("pera", 16)
    )
    one["seconds"] = [2 * second for second in one["seconds"]]
    document["layers"][1] = slow
    verdict = by_words(document, "never slower than with the authors")
    assert [miss.where for miss in verdict.misses] == ["768 x 768, T=4096, r=16, float32 on cpu"]
    assert str(verdict).startswith("BROKEN, kept in 15 of 16: a step with PERA")
    assert str(verdict).endswith(
        "worst 1.667, limit 1.050, at 768 x 768, T=4096, r=16, float32 on cpu"
    )
    page = report.page(document, PAGE.read_text())
    broken = page.split("### Where a promise is broken")[1].split("###")[0]
    assert "| 1 | 768 x 768, T=4096, r=16, float32 on cpu | 1.667 | 1.050 |" in broken
    slowest = page.split("### Where PERA is slower")[1].splitlines()[4]
    assert (
        slowest
        == "| 768 x 768, T=4096, r=16, float32 on cpu | plain LoRA | 2.08 (2.08 ... 2.08) | 1.20 |"
    )


def test_ratios_of_the_host_are_of_medians():
    """Medians of [1, 2, 30] and [2, 40, 3]: 2 / 3; of the paired ratios 1/2."""
    document = make()
    for cell in document["host"]:
        for one, seconds in zip(cell["results"], ([1, 2, 30], [2, 40, 3]), strict=True):
            one["seconds"] = seconds
    for words in ("LoRA's median", "PERA's median time over", "PERA's median time is below"):
        verdict = by_words(document, f"one thread, {words}")
        assert [finding.ratio for finding in verdict.findings] == [2 / 3, 2 / 3]
    _, first, *_ = rows_of(report.table(document), "two contenders at a time")
    assert first[5] == "0.67"


def test_a_share_of_the_plans_may_miss_and_no_more():
    document = make()
    document["plans"] = document["plans"][:1]
    (chosen,) = (
        one
        for one in document["plans"][0]["results"]
        if (one["contender"], one["rank"], one["plan"]) == ("pera", 8, "auto")
    )
    chosen["seconds"] = [1.2 * second for second in chosen["seconds"]]
    verdict = by_words(document, "best plan")
    assert [miss.where for miss in verdict.misses] == [
        "768 x 768, T=256, r=8, float32 on cpu, pera"
    ]
    assert verdict.holds is False  # 7 of 8 are less than 90 %
    # 9 of 10 are enough
    assert verdicts.Verdict(
        "", verdict.findings + 2 * verdict.findings[:1], share=promises.PLAN_SHARE
    ).holds


def test_what_was_not_measured_is_said():
    found = promises.verdicts({"made_from": make()["made_from"]})
    assert [verdict.holds for verdict in found] == [None] * 20
    assert str(found[0]).startswith("not measured: a step with PERA")
    for verdict in promises.verdicts(make(peft=False)):
        if "cpu" in verdict.devices:
            assert (verdict.holds is None) == ("PEFT" in verdict.statement)


# --- tables ---------------------------------------------------------------------------------------


def rows_of(text, title):
    """The rows below a title in the terminal's table, split into cells."""
    lines = text.split(title)[1].split("\n\n")[1].splitlines()
    return [re.split(r"\s{2,}", line) for line in lines if not line.startswith("--")]


def test_tables_have_the_medians_and_the_paired_ratios():
    text = report.table(make())
    columns, first, *_ = rows_of(text, "forward and backward: milliseconds, float32 on cpu")
    found = dict(zip(columns, first, strict=True))
    assert found["where"] == "768 x 768"
    assert found["PERA"] == "15 ± 12"  # of 12.5, 62.5 and 15; quartiles 13.75 and 38.75
    assert found["PERA, counted"] == "17.3"  # 144 / 100 of the base's 12
    columns, first, *_ = rows_of(text, "forward and backward: ratios, float32 on cpu")
    found = dict(zip(columns, first, strict=True))
    assert found["PERA / authors"] == "0.83 (0.83 ... 0.83)"
    assert (found["PERA / plain LoRA"], found["counted"]) == ("1.04 (1.04 ... 1.04)", "1.20")
    assert found["LoRA / PEFT r"] == "0.79 (0.79 ... 0.79)"
    assert found["PERA / PEFT K"] == "0.78 (0.78 ... 0.78)"
    columns, first, *_ = rows_of(text, "A whole training step, AdamW included: ratios")
    assert dict(zip(columns, first, strict=True))["where"] == "124M"
    columns, *rows = rows_of(text, "A tiny layer, one thread, two contenders at a time")
    assert columns == ["rank", "over", "under", "µs", "µs", "ratio", "operations", "operations"]
    assert rows[1] == ["8", "PERA", "plain LoRA", "15,000", "14,400", "1.04", "27", "10"]
    assert rows[6][0].startswith("64 x 64, 8 tokens. Medians of 3 single steps each; the two take")
    columns, first, *_ = rows_of(text, "Inference, one layer: ratios")
    assert dict(zip(columns, first, strict=True))["merged / frozen base"] == "1.01 (1.01 ... 1.01)"
    _, first, *_ = rows_of(text, "The counted plan against the best of all")
    assert first == ["768 x 768", "256", "float32", "LoRA", *["1.01 (f/f/f)"] * 4]


def test_memory_shows_both_numbers_where_they_differ():
    _, plain, pera, _ = rows_of(report.table(make()), "Memory of one layer in training, KiB")
    assert plain == ["plain LoRA", "5", "4.0", "4.0", "8.0", "100.0 (predicted 2.0)"]
    assert pera[0] == "PERA"


def test_what_it_was_made_from_is_said():
    text = report.table(make())
    assert "a processor, 2 cores, 2 threads, load 0.5; device cpu" in text
    assert "python 3.11.7, torch 2.13.0, peft 0.21; seed 3; formulas 0123456789ab; 3 rounds" in text
    assert "Measured by `perakit bench`" in text


def test_a_run_with_a_note_and_without_a_processor_says_so():
    document = make()
    document["made_from"]["note"] = "Measured on a Sunday."
    assert "numbers: `performance.json`.\nMeasured on a Sunday.\n" in report.table(document)
    del document["made_from"]["machine"]["cpu"]
    assert "\nThe processor was not recorded; device cpu;\n" in report.table(document)


def test_a_glance_and_a_missing_peft_are_said():
    text = report.table(make(peft=False))
    assert "Fewer than 9 rounds are a glance" in text
    assert "PEFT was not installed: its columns are missing" in text
    assert "PEFT r" not in text.split("PEFT was not installed")[0]
    document = make()
    document["made_from"]["repeats"] = 9
    assert "glance" not in report.table(document)
    assert "not installed" not in report.table(document)


# --- page and figures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["layers"],
        ["models"],
        ["plans"],
        ["inference"],
        ["host"],
        ["memory"],
        ["layers", "memory", "inference"],
    ],
)
def test_any_parts_make_a_page(parts):
    document = make(device="cuda", dtypes=("float32", "bfloat16"))
    some = document | {
        part: []
        for part in ("layers", "plans", "inference", "host", "models", "memory")
        if part not in parts
    }
    page, end = report.page(some, PAGE.read_text()), "<!-- end of measured -->"
    on_cpu, on_gpu = ([*text.split(end)] for text in (PAGE.read_text(), page))
    assert on_gpu[0] == on_cpu[0], "the CPU's part stays"
    assert on_gpu[1].startswith(on_cpu[1].partition("<!-- measured")[0])
    assert on_gpu[2] == on_cpu[2]
    page = on_gpu[1]
    assert page.count("](performance-") == (4 if "layers" in parts else 0)
    assert len(page.splitlines()) > len(report.table(some).splitlines()) / 2
    assert report.page(some, end.join(on_gpu)) == end.join(on_gpu)


def test_a_page_without_a_measured_part():
    with pytest.raises(PerakitError, match="the page has no measured part"):
        report.page(make(), "# Something else")


@pytest.mark.parametrize("device", report.NUMBERS)
def test_the_page_is_that_of_its_json(device):
    """Every number and verdict of the device's part comes from its file."""
    document = json.loads(PAGE.with_name(report.NUMBERS[device]).read_text())
    assert report.device_of(document) == device
    assert report.page(document, PAGE.read_text()) == PAGE.read_text()
    assert all(PAGE.with_name(name).exists() for name in report.figures(document))


def test_figures_draw_the_medians_and_the_floor():
    drawn = report.figures(make())
    assert list(drawn) == [
        "performance-step-time-cpu-float32.png",
        "performance-ratios-cpu-float32.png",
    ]
    times, ratios = drawn.values()
    by_rank, by_tokens, by_width = times.axes
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in by_rank.lines}
    assert list(lines) == [
        "frozen base",
        "plain LoRA",
        "LoRA",
        "PERA",
        "authors",
        "PEFT r",
        "PEFT K",
        "PERA, counted",
    ]
    assert lines["PERA"] == [(rank, pytest.approx(0.015)) for rank in RANKS]
    assert lines["PERA, counted"] == [(rank, pytest.approx(0.01728)) for rank in RANKS]
    assert list(by_tokens.lines[0].get_xdata()) == [256, 4096]
    assert list(by_width.lines[0].get_xdata()) == [768 * 768, 3072 * 768]
    assert [ax.get_title(loc="left") for ax in ratios.axes] == [
        f"{m} x {n}: PERA / {other}" for other in ("authors", "plain LoRA") for m, n in SHAPES
    ]
    assert list(ratios.axes[0].lines[1].get_ydata()) == pytest.approx([1.25 / 1.5] * 2)
    assert [text.get_text() for text in ratios.legends[0].texts] == [
        *(f"r = {rank}" for rank in RANKS),
        "counted",
    ]
    assert plt.get_fignums() == []
    assert all(png(figure).startswith(b"\x89PNG") for figure in drawn.values())


def test_figures_of_a_small_run():
    """One cell of one rank: without anybody to compare with there are no ratios, and without the
    base there is no floor.
    """
    document = make()
    cell = document["layers"][0]
    ours = [
        one for one in cell["results"] if one["rank"] == 4 and one["contender"] in ("pera", "lora")
    ]
    document["layers"] = [cell | {"results": ours}]
    assert list(report.figures(document)) == ["performance-step-time-cpu-float32.png"]
    png(report.figures(document)["performance-step-time-cpu-float32.png"])
    assert figures.floor_of(document["layers"][0], 4) is None
    document["layers"] = [cell | {"results": [*ours, result("plain lora", 4, 1.0)]}]
    assert len(report.figures(document)["performance-ratios-cpu-float32.png"].axes) == 1
