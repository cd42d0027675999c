"""docs/export.md: its table of costs is that of docs/export.json, and the costs are within the
targets.
"""

import json
import statistics
from pathlib import Path

from torch import nn

from perakit.bench import export as benchmark
from perakit.bench.measured import renewed
from perakit.models import attach

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = (DOCS / "export.md").read_text(), json.loads((DOCS / "export.json").read_text())


def test_the_table_of_the_page_is_that_of_the_json():
    assert renewed(PAGE, benchmark.COMMAND, benchmark.table(DATA)) == PAGE
    other = json.loads(json.dumps(DATA))
    other["export"]["exact"]["seconds"] = [99.0]
    assert renewed(PAGE, benchmark.COMMAND, benchmark.table(other)) != PAGE


def test_the_costs_are_within_the_targets():
    assert statistics.median(DATA["export"]["exact"]["seconds"]) < 10
    assert statistics.median(DATA["export"]["cut to rank 64"]["seconds"]) < 10
    assert DATA["swap"]["operations"] == 0
    assert DATA["export"]["exact"]["rank"] == 152
    assert DATA["export"]["exact"]["error"] < 1e-6


def test_what_is_measured_is_what_is_said():
    """The same functions on a small model: sizes and ranks as written, and an operation that is
    made is counted.
    """
    model = nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 30))
    attach(model, benchmark.METHOD, "all-linear")
    for rank, options in ((24, {}), (2, {"rank": 2})):
        found = benchmark.exporting(model, options, repeats=2)
        assert len(found["seconds"]) == 2
        assert found["bytes"] > 4 * rank * (24 + 40)
    assert found["rank"] == 2
    assert benchmark.swapping(model, repeats=3)["operations"] == 0
    with benchmark._Operations() as operations:
        model[0].base.weight.clone()
    assert operations.count == 1
