"""docs/methods/qlora.md: its table is that of docs/nf4.json, and what can be measured again is."""

import json
import statistics
from pathlib import Path

import pytest

from perakit.bench import quantising as benchmark
from perakit.bench.measured import renewed
from perakit.toy import Config, bits_per_byte, load

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "methods/qlora.md").read_text()
DATA = json.loads((DOCS / "nf4.json").read_text())


def test_the_table_of_the_page_is_that_of_the_json():
    assert renewed(PAGE, benchmark.COMMAND, benchmark.tables(DATA)) == PAGE
    other = json.loads(json.dumps(DATA))
    other["124M"]["training"]["NF4"]["peak"] += 2**20
    assert renewed(PAGE, benchmark.COMMAND, benchmark.tables(other)) != PAGE


def test_the_bytes_of_the_tiny_model_are_those_of_the_json():
    for base, config in benchmark.BASES.items():
        model = load("tiny")
        if config is not None:
            benchmark.quantised(model, config)
        # tied: the embedding
        kept = {
            name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"
        }
        assert (
            sum(tensor.nbytes for tensor in kept.values()) == DATA["tiny"]["sizes"][base]["bytes"]
        )


def test_the_124m_model_takes_the_bytes_of_its_bits():
    sizes, block = DATA["124M"]["sizes"], 768 * 768
    weights = 12 * (3 + 1 + 4 + 4) * block
    for base, bits in (("NF4", 4.127), ("NF4, float32 absmax", 4.5)):
        assert sizes[base]["projections"] == weights
        assert sizes[base]["bits"] == pytest.approx(bits, abs=1e-3)
        saved = sizes["float32"]["bytes"] - sizes[base]["bytes"]
        assert saved == pytest.approx(weights * (32 - sizes[base]["bits"]) / 8, abs=1)
        assert sizes[base]["errors"] == pytest.approx([0.092, 0.092], abs=5e-4), "of normal weights"


def test_the_costs_are_within_the_targets():
    assert statistics.median(DATA["124M"]["quantising"]) < 15, "seconds, as the page gives them"
    assert len(DATA["124M"]["forward"]["NF4"]) >= 9
    four, dense = (DATA["124M"]["training"][base] for base in ("NF4", "float32"))
    saved = DATA["124M"]["sizes"]["float32"]["bytes"] - DATA["124M"]["sizes"]["NF4"]["bytes"]
    assert dense["peak"] - four["peak"] > 0.9 * saved, "what the base saves, training saves"


@pytest.mark.thorough  # a run of the whole measurement
def test_measuring_runs(monkeypatch, tmp_path, capsys):
    """Each task on a small shape, in this process, and the page that comes of it."""
    monkeypatch.setattr(
        benchmark,
        "SHAPE",
        Config(vocab_size=256, n_positions=256, n_embd=32, n_layer=1, n_head=1),
    )
    monkeypatch.setattr(
        benchmark, "_process", lambda task, *arguments: benchmark.TASKS[task](*arguments)
    )
    # An eighth of its windows
    monkeypatch.setattr(
        benchmark,
        "bits_per_byte",
        lambda *given, windows: bits_per_byte(*given, windows=windows // 8),
    )
    (tmp_path / "methods").mkdir()
    page = tmp_path / "methods/qlora.md"
    empty = f"before <!-- measured: {benchmark.COMMAND} --> old <!-- end of measured --> after"
    page.write_text(empty)
    monkeypatch.setattr("sys.argv", ["quantising", str(tmp_path), "--repeats", "1"])
    benchmark.main()
    data = json.loads((tmp_path / "nf4.json").read_text())
    assert page.read_text() == renewed(empty, benchmark.COMMAND, benchmark.tables(data))
    assert data["tiny"]["sizes"]["NF4"]["errors"] == pytest.approx(
        DATA["tiny"]["sizes"]["NF4"]["errors"], rel=1e-5
    )
    assert (
        data["tiny"]["sizes"]["float32"]["bits_per_byte"]
        < data["tiny"]["sizes"]["NF4"]["bits_per_byte"]
    )
    assert set(data) == set(DATA)
