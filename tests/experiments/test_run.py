"""Running: once, in parallel, with an estimate, and with the same table after a kill."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from perakit.bench.measured import renewed
from perakit.cli import main
from perakit.errors import PerakitError
from perakit.experiments import EXPERIMENTS, Options
from perakit.experiments.jobs import NUMERICS, read
from perakit.experiments.lab import duration
from perakit.experiments.regression import fit_at
from perakit.experiments.report import NO_RATES, file_of, page, pictures
from perakit.experiments.tuning import text_hash, tune

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("evidence", ROOT / "docs/making/evidence.py")
evidence = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(evidence)
SMALL = Options(seeds=2, small=True)


FUNCTION = ["experiment", "function", "--seeds", "2", "--small", "--out"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run of the experiment `function`, once for all: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert main([*FUNCTION, str(folder)]) == 0
    return folder, out.getvalue(), err.getvalue()


def test_function_small(whole, capsys):
    """A whole experiment of short runs; what is there is not run again, and shows the same."""
    folder, out, err = whole
    assert "24 runs to do; about" in err
    assert "Findings" in out
    files = {path: path.read_bytes() for path in folder.iterdir()}
    names = {"function.jsonl", "function.md", "function.png", "function-rates.png"}
    assert {path.name for path in files} == names
    page = (folder / "function.md").read_text()
    assert "`perakit experiment function --seeds 2 --small`" in page
    assert "**Small setting**" in page
    header, rows = read(folder / "function.jsonl")
    assert header["options"]["small"] is True
    assert len(rows) == 36  # 12 arms: a tuning run at the one rate, and two seeds
    assert all(row["machine"]["threads"] == 1 for row in rows)
    for more in (FUNCTION, ["experiment", "function", "--resume", "--out"]):
        assert main([*more, str(folder)]) == 0
        again = capsys.readouterr()
        assert "runs to do" not in again.err
        assert again.out == out
        assert (folder / "function.jsonl").read_bytes() == files[folder / "function.jsonl"]
        assert (folder / "function.md").read_text() == page


@pytest.mark.thorough  # 60 runs that train a model; that a run is whole is seen of `function` above
def test_components_small(tmp_path, capsys):
    """The whole protocol, as `perakit experiment components --seeds 2 --small` in a shell."""
    command = ["experiment", "components", "--seeds", "2", "--small", "--out", str(tmp_path)]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "runs to do; about" in first.err
    assert "Findings" in first.out
    assert "held-out bits per byte" in first.out
    names = {"components.jsonl", "components.md", "components.png", "components-rates.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    page = (tmp_path / "components.md").read_text()
    assert "`perakit experiment components --seeds 2 --small`" in page
    assert "**Small setting**" in page
    header, rows = read(tmp_path / "components.jsonl")
    assert header["options"]["small"] is True
    assert sum(row["role"] == "judged" for row in rows) == 2 * 16
    assert all(row["machine"]["threads"] == 1 and len(row["data"]) in (0, 64) for row in rows)
    # What is there is not run again, and shows the same.
    assert main(command) == 0
    second = capsys.readouterr()
    assert "runs to do" not in second.err
    assert second.out == first.out
    assert (tmp_path / "components.md").read_text() == page
    assert main(["experiment", "components", "--resume", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first.out


@pytest.mark.thorough
def test_a_killed_experiment_goes_on_and_gives_the_same_table(tmp_path, whole, capsys):
    folder = tmp_path / "killed"
    path = folder / "function.jsonl"
    started = subprocess.Popen(
        [sys.executable, "-m", "perakit", *FUNCTION, folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (
        not path.exists() or len(path.read_text().splitlines()) < 4
    ):
        time.sleep(0.005)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    kept = len(read(path)[1])
    assert 0 < kept < 12
    assert main([*FUNCTION, str(folder)]) == 0
    again = capsys.readouterr()
    assert f"{12 - kept} runs to do, {kept} already there" in again.err
    assert again.out.replace(str(folder), str(whole[0])) == whole[1]


@pytest.mark.thorough
def test_an_interrupted_experiment_says_so_in_one_line_and_leaves_no_process(tmp_path):
    # Whoever runs the tests in the background ignores the signal, and what he starts would as well.
    heard = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; from perakit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        program,
        "experiment",
        "teacher",
        "--seeds",
        "3",
        "--small",
        "--out",
        tmp_path,
    ]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    path, deadline = tmp_path / "teacher.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and (
        not path.exists() or len(path.read_text().splitlines()) < 3
    ):
        time.sleep(0.005)
    os.killpg(started.pid, signal.SIGINT)  # what Ctrl-C in a terminal sends
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 130
    assert "Traceback" not in said
    assert said.rstrip().endswith(
        "perakit: interrupted; the same command goes on from what it has kept"
    )
    assert len(read(path)[1]) >= 2


def test_results_are_those_of_the_jobs_one_by_one(whole):
    """Independent of the pool: each row again, in this process."""
    for row in read(whole[0] / "function.jsonl")[1][::7]:
        again = fit_at(row["settings"])
        assert again["explained"] == pytest.approx(row["measured"]["explained"], abs=1e-5)


def test_an_unknown_experiment_is_one_sentence(capsys):
    assert main(["experiment", "nope"]) == 2
    assert (
        capsys.readouterr().err
        == f"perakit: no experiment 'nope': choose one of {', '.join(EXPERIMENTS)}\n"
    )


def test_a_device_that_is_not_there_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(PerakitError, match="device 'tpu' is not available here: use --device cpu"):
        EXPERIMENTS["function"].run(Options(small=True, device="tpu"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_to_resume(tmp_path):
    with pytest.raises(PerakitError, match="so there is nothing to resume: run without --resume"):
        EXPERIMENTS["function"].run(SMALL, tmp_path, resume=True)


@pytest.mark.thorough
def test_more_seeds_keep_what_is_there_and_fewer_drop_nothing(tmp_path, whole, capsys):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    EXPERIMENTS["function"].run(Options(seeds=3, small=True), tmp_path)
    assert "12 runs to do, 24 already there" in capsys.readouterr().err
    results, _ = EXPERIMENTS["function"].run(SMALL, tmp_path)
    assert results.options.seeds == 3
    assert len(read(tmp_path / "function.jsonl")[1]) == 48


def test_every_committed_page_says_what_its_numbers_say():
    """The tables and the verdicts are made of the rows and of nothing else."""
    folder = ROOT / "docs" / "results"
    stored = {path.stem for path in folder.glob("*.jsonl")}
    assert stored <= set(EXPERIMENTS)  # what was not run yet, evidence.md says
    pictures_there = set()
    for path in sorted(folder.glob("*.jsonl")):
        experiment = EXPERIMENTS[path.stem]
        results, report = experiment.read(path)
        assert results.options.small is False
        assert results.options.seeds >= 5
        assert (folder / f"{path.stem}.md").read_text() == page(
            path.stem, experiment.title, experiment.question, results, report, path
        )
        # None without its interval; a best rate has no interval but its range
        assert all("[" in one.ours or "best rate" in one.claim for one in report.findings)
        # None without its range over rates, where rates were tuned
        assert all((one.rates == NO_RATES) == (not results.tuning) for one in report.findings)
        pictures_there |= {f"{path.stem}.png"}
        pictures_there |= {file_of(path.stem, one) for one in pictures(results, report)}
        assert {row["numerics"] for row in results.rows} == {NUMERICS}
    assert pictures_there == {path.name for path in folder.glob("*.png")}
    for file, made in (("docs/evidence.md", evidence.summary), ("README.md", evidence.headline)):
        text = (ROOT / file).read_text()
        assert renewed(text, evidence.COMMAND, made(folder)) == text


@pytest.mark.thorough  # a run in full size
def test_a_committed_run_can_be_had_again():
    """Of an arm whose high-order part is not small, the first seed: to every printed digit, on
    other processors as well (test_numerics.py says on which).
    """
    results, _ = EXPERIMENTS["components"].read(ROOT / "docs" / "results" / "components.jsonl")
    label = f"PERA, scale {results.options.waking:g}"
    row = results.arm(label)[0]
    if text_hash(row["settings"]) != row["data"]:
        pytest.skip(
            "the standard library of this Python is another text than that of the committed results"
        )
    again = tune(row["settings"])
    for what in ("new", "old", "share"):
        whole = results.mean(label, what)
        assert again[what] == pytest.approx(row["measured"][what], rel=2e-5)
        assert 2e-5 * again[what] < (whole.high - whole.low) / 10  # finer than seeds differ
    assert again["trainable"] == row["measured"]["trainable"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_rows_are_json_a_line(whole):
    for line in (whole[0] / "function.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
