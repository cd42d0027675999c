"""docs/compile.md: its table is that of docs/compile.json, and compiled gradients are eager's."""

import json
from pathlib import Path

import torch

from perakit.adapters import PERA, LoRA
from perakit.bench import compiled as benchmark
from perakit.bench.measured import renewed
from perakit.bench.timing import WARM_UP

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_the_page_is_that_of_the_json():
    page, data = (DOCS / "compile.md").read_text(), json.loads((DOCS / "compile.json").read_text())
    assert renewed(page, benchmark.COMMAND, benchmark.table(data)) == page
    assert list(data["cases"]) == list(benchmark.CASES)
    assert max(one["error"] for found in data["cases"].values() for one in found) < 1e-4


def test_both_ways_take_the_same_step_and_one_is_compiled():
    """A graph for each method, which runs in its first step, and in warm-up and rounds."""
    graphs, runs = [], []

    def backend(graph, _):
        graphs.append(graph)
        return lambda *inputs: runs.append(graph) or graph(*inputs)

    case = benchmark.Case(
        benchmark.Square, lambda: torch.randn(2, 64), torch.get_num_threads(), (LoRA(1), PERA(2))
    )
    found = benchmark.measure(case, repeats=2, backend=backend)
    assert [one["method"]["rank"] for one in found] == [1, 2]
    for one, graph in zip(found, graphs, strict=True):
        assert one["error"] < 1e-5
        assert one["first"] > 0
        assert len(one["eager"]) == len(one["compiled"]) == 2
        assert runs.count(graph) >= 1 + WARM_UP + 2
