"""Each week as a student plays it: a lesson, an exercise, an assignment, a grade, in a browser."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from perakit.classroom import assignments, new

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)

pytestmark = [
    pytest.mark.thorough,  # JupyterLab, two kernels and a browser
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium on this machine"),
]
# Of a week: a lesson, an exercise, a wrong and a right answer; a function of the assignment
WEEKS = {
    "lora": ("01_low_rank_adaptation", "01.1", "3", "5", "trainable"),
    "polynomial": ("02_polynomial_expansion", "02.2", "(3, 6, 9)", "(3, 6, 10)", "phi"),
    "expressiveness": ("04_rank", "04.3", "(14, 14)", "(1372, 454)", "rank_trap"),
    "comparison": ("10_fine_tuning", "10.3", "{0.012}", "{0.012, 0.024, 0.048}", "verdict"),
}


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=[] if id == "lora" else pytest.mark.long) for id in WEEKS]
)
def test_a_week_in_the_browser(id, tmp_path):
    lesson, exercise, wrong, right, function = WEEKS[id]
    answer = f"answer_{exercise.partition('.')[2]}"
    folder, home = tmp_path / "work", tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, ROOT / "notebooks" / "mine.py", folder], check=True)
    new(id, folder / "hw")
    with browser.student(folder, home) as ada:
        ada.open(f"{lesson}.ipynb")
        ada.run_all()
        check = f'self_check("{exercise}"'
        assert "not answered yet" in ada.output(ada.cell(check))
        assert not ada.page.locator("details[open]").count(), "no hint and no answer is open"
        ada.write(f"{answer} = ...", f"# my first guess\n{answer} = {wrong}")
        said = ada.run(check)
        assert "not yet" in said
        ada.write(f"{answer} = {wrong}", f"# after the hint\n{answer} = {right}")
        assert "right." in ada.run(check)
        ada.save()

        # The assignment: one function is written, the others are not
        ada.open(f"hw/{id}.ipynb")
        ada.write(f"def {function}", solution(id, function))
        ada.save()
    text = (folder / f"{lesson}.ipynb").read_text(encoding="utf-8")
    assert "# after the hint" in text
    done = subprocess.run(
        [sys.executable, "-m", "perakit", "grade", f"hw/{id}.ipynb", "--json", "marks.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads((folder / "marks.json").read_text())
    written = [check for check in assignments()[id].checks if check.functions == (function,)]
    assert written
    assert report["points"] == sum(check.points for check in written)
    for outcome in report["checks"]:
        mine = outcome["id"] in {check.id for check in written}
        assert (not outcome["said"]) if mine else "is not written yet" in outcome["said"]
    assert f"{id}: {report['points']:g} of" in done.stdout


def solution(id, function):
    """The cell of the reference in which this function is defined."""
    cells = assignments()[id].solution()
    return next(cell.source for cell in cells if f"def {function}(" in cell.source)
