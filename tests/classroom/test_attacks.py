"""Attacks on the grader: none raises a mark, ends the run, or changes what another gets or has.

Each is graded between two honest submissions, by a judge in a process of its own, attacks/judge.py.
Once with all that the kernel can refuse, and once without: what then remains is in the table.
"""

import json
import os
import runpy
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from perakit.classroom import assignments
from perakit.classroom.submission import to_percent

HERE = Path(__file__).with_name("attacks")
KINDS = {
    "forging": "an answer that it writes itself",
    "answers": "an answer that lies about what it is",
    "lying": "a value that lies about what it is",
    "reading": "reading checks, solutions, others' work, secrets",
    "patching": "changing libraries, signals, clocks, the guard",
    "writing": "changing files, filling its folder, the network",
    "processes": "ending, stopping or outliving others",
    "floods": "time, memory, output, depth without an end",
    "files": "files and names that are hard to read",
}
ATTACKS = {kind: runpy.run_path(str(HERE / f"{kind}.py"))["ATTACKS"] for kind in KINDS}
REFERENCE = to_percent(assignments()["lora"].solution())
COUNT = "    return rank * (m + n)\n"  # the body of the function that attacks
HIDDEN = """
from perakit.classroom import check, expect_equal

@check(3, "counts what a large layer trains", "trainable", hint="r(m+n)")
def large(work):
    expect_equal(work.trainable(4096, 4096, 16), 131072)
"""
HONEST = {"seeded": 1, "count": 1, "forward_factored": 1, "merged": 1, "large": 3}
LINUX = sys.platform == "linux"


def written(attack, folder, outside):
    """The file of an attack, written into the folder; its path."""
    assert REFERENCE.count(COUNT) == 1
    text = attack.get("file")
    if text is None:
        body = "".join(f"    {line}\n" for line in attack["body"].split("\n"))
        text = attack.get("before", "") + REFERENCE.replace(COUNT, body)
        text += "\n# %%\n" + attack.get("cell", "")
    for place in ("HIDDEN", "OTHER"):
        text = text.replace(f"@{place}@", str(outside / f"{place.lower()}.py"))
    text = text.replace("@OUTSIDE@", str(outside))
    for name, content in attack.get("beside", {}).items():
        (folder / name).write_text(content)
    path = os.path.join(os.fsencode(folder), os.fsencode(attack.get("name", "work.py")))
    with open(path, "wb") as file:
        file.write(text.encode())
    return os.fsdecode(path)


def judged(attacks, folder, kernel=True):
    """What the judge says of each attack, and of the honest work after it; see attacks/judge.py.

    {name: (line, line)}, and None for one that ended the judge.
    """
    outside = folder / "outside"
    outside.mkdir()
    (outside / "hidden.py").write_text(HIDDEN)
    (outside / "other.py").write_text(REFERENCE)
    paths = {}
    for k, (name, attack) in enumerate(attacks.items()):
        (folder / f"{k}").mkdir()
        paths[name] = written(attack, folder / f"{k}", outside)
    found = {}
    while rest := [name for name in attacks if name not in found]:
        lines = _judged([paths[name] for name in rest], folder, kernel)
        assert lines, (folder / "judge.txt").read_text()
        assert points(lines[0]) == HONEST, lines[0]["text"]
        done = list(zip(rest, lines[1::2], lines[2::2], strict=False))
        found |= {name: (mine, others) for name, mine, others in done}
        if len(done) < len(rest):
            found[rest[len(done)]] = None  # with that one the judge has ended
    return found


def _judged(paths, folder, kernel):
    outside, temporary = folder / "outside", folder / f"temporary-{secrets.token_hex(4)}"
    temporary.mkdir()
    mark = f"mark-{secrets.token_hex(8)}"
    task = {
        "paths": [str(outside / "other.py")],
        "hidden": str(outside / "hidden.py"),
        "watched": str(outside),
        "mark": mark,
        "kernel": kernel,
    }
    for path in paths:
        task["paths"] += [path, str(outside / "other.py")]
    done = subprocess.run(
        [sys.executable, str(HERE / "judge.py")],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=os.environ
        | {
            "SECRET": "open sesame",
            "TMPDIR": str(temporary),
            # Which every process has that a submission starts
            "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), mark]),
        },
    )
    (folder / "judge.txt").write_text(done.stderr)
    return list(map(json.loads, done.stdout.splitlines()))


def points(line):
    return {check["id"]: check["points"] for check in line["report"]["checks"]}


def said(line):
    return "\n".join([line["text"], line["csv"], json.dumps(line["report"])])


def faults(attack, lines):
    """What an attack has achieved, in words."""
    if lines is None:
        return ["the judge has ended"]
    mine, others = lines
    deserved = {name: HONEST[name] for name in HONEST if name not in ("count", "large")}
    deserved |= {name: HONEST[name] for name in attack.get("earns", ())}
    found = []
    if any(got > deserved.get(name, 0) for name, got in points(mine).items()):
        found.append(f"it raised a mark: {points(mine)}")
    if points(others) != HONEST:
        found.append(f"another's mark has changed: {others['text']}")
    if mine["left"] or others["left"]:
        found.append("a process is left")
    if mine["changed"] or others["changed"]:
        found.append("a file outside, or a limit of the judge, has changed")
    if mine["temporary"] or others["temporary"]:
        found.append(f"a folder is left: {mine['temporary']}")
    if "REACHED" in mine["text"]:
        found.append(f"it reached what it should not: {mine['text']}")
    return found


def noticed(attack, lines):
    return lines is not None and any(
        text in said(lines[0]) for text in (attack["said"], *attack.get("or", ()))
    )


def check_all(attacks, folder):
    lines = judged(attacks, folder)
    wrong = {}
    for name, attack in attacks.items():
        found = faults(attack, lines.get(name))
        if not noticed(attack, lines.get(name)):
            text = said(lines[name][0])[:1500] if name in lines else ""
            found.append(f"{attack['said']!r} is not said: {text}")
        if found:
            wrong[name] = found
    assert wrong == {}, (folder / "judge.txt").read_text()[-2000:]


@pytest.mark.skipif(not LINUX, reason="what holds elsewhere is in the table")
def test_attacks_of_each_kind_come_to_nothing(tmp_path):
    some = {
        name: attack
        for kind in KINDS
        for name, attack in ATTACKS[kind].items()
        if attack.get("quick")
    }
    assert len(some) >= 12
    check_all(some, tmp_path)


@pytest.mark.thorough
@pytest.mark.skipif(not LINUX, reason="what holds elsewhere is in the table")
@pytest.mark.parametrize("kind", KINDS)
def test_some_attacks_of_a_kind_come_to_nothing(kind, tmp_path):
    """Every tenth; `make test-thorough` runs all."""
    check_all(dict(list(ATTACKS[kind].items())[::10]), tmp_path)


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.skipif(not LINUX, reason="what holds elsewhere is in the table")
@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_comes_to_nothing(kind, tmp_path):
    check_all(ATTACKS[kind], tmp_path)


# --- without the kernel ---------------------------------------------------------------------------


REMAINS = (
    json.loads((HERE / "remains.json").read_text()) if (HERE / "remains.json").exists() else {}
)
REFUSALS = (
    "outside its own folder",
    "it sends a signal",
    "it starts another",
    "it changes the limits",
    "it uses the network",
    "it wrote on the line",
    "it ended the",
    "it did not finish",
)


def outcome(attack, lines):
    """What comes of an attack: "prevented", or it has an effect and is "noticed", or "not"."""
    if not faults(attack, lines):
        return "prevented"
    told = lines is not None and any(text in said(lines[0]) for text in REFUSALS)
    return "noticed" if told else "not"


def remaining(kind, folder):
    """The attacks of a kind that have an effect where the kernel refuses nothing."""
    lines = judged(ATTACKS[kind], folder, kernel=False)
    outcomes = {name: outcome(attack, lines[name]) for name, attack in ATTACKS[kind].items()}
    return {name: result for name, result in outcomes.items() if result != "prevented"}


@pytest.mark.long
@pytest.mark.thorough
@pytest.mark.skipif(not LINUX, reason="what holds elsewhere is in the table")
@pytest.mark.parametrize("kind", KINDS)
def test_what_remains_without_the_kernel_is_what_the_table_says(kind, tmp_path):
    assert remaining(kind, tmp_path) == REMAINS.get(kind, {})


def table():
    """What holds where, as docs/teaching.md shows it."""
    rows = [
        "| what a submission tries | attacks | Linux 5.13 or later: prevented, noticed, not |"
        " elsewhere: prevented, noticed, not |",
        "|:--|--:|:--|:--|",
    ]
    left = []
    for kind, words in KINDS.items():
        outcomes = list(REMAINS.get(kind, {}).values())
        noticed, silent = outcomes.count("noticed"), outcomes.count("not")
        all = len(ATTACKS[kind])
        rows.append(
            f"| {words} | {all} | {all}, 0, 0 | {all - noticed - silent}, {noticed}, {silent} |"
        )
        if REMAINS.get(kind):
            left.append(f"- {words}: {'; '.join(sorted(REMAINS[kind]))}")
    said = "What is not prevented where the kernel has neither Landlock nor seccomp:"
    return "\n".join([*rows, "", said, "", *left, ""])


def test_the_table_says_what_was_seen():
    known = {kind: set(ATTACKS[kind]) for kind in KINDS}
    assert all(set(REMAINS[kind]) <= known[kind] for kind in REMAINS)
    assert sum(map(len, known.values())) >= 60
    assert (HERE / "table.md").read_text() == table()


# --- in a box -------------------------------------------------------------------------------------

BOXED = {
    "reading": "the hidden checks, past Python",
    "writing": "past Python: another's mode",
    "processes": "processes that leave while its cells run",
}


@pytest.mark.thorough
@pytest.mark.skipif(not LINUX, reason="namespaces of Linux")
def test_the_limits_of_a_container_are_no_obstacle_to_grading(tmp_path):
    """The recipe of docs/teaching.md, by unshare, prlimit and setpriv."""
    places = {name: tmp_path / name for name in ("submissions", "hidden", "out", "scratch")}
    for place in places.values():
        place.mkdir()
    (places["hidden"] / "hidden.py").write_text(HIDDEN)
    (places["hidden"] / "other.py").write_text(REFERENCE)
    (places["submissions"] / "reference.py").write_text(REFERENCE)
    for kind, name in BOXED.items():
        attack = ATTACKS[kind][name] | {"name": f"{kind}.py"}
        written(attack, places["submissions"], places["hidden"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.py")}
    hidden = places["hidden"] / "hidden.py"
    given = [sys.executable, places["submissions"], hidden, places["out"], places["scratch"]]
    done = subprocess.run(
        ["sh", HERE / "box.sh", *given], capture_output=True, text=True, check=False, timeout=300
    )
    if "unshare" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    marks = json.loads((places["out"] / "marks.json").read_text())
    lost = {
        Path(report["file"]).stem: [one["id"] for one in report["checks"] if not one["points"]]
        for report in marks
    }
    assert lost == {"reference": [], **{kind: ["count", "large"] for kind in BOXED}}
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.py")}
    assert list(places["scratch"].iterdir()) == []
