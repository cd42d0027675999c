"""The examples in docstrings run, and whoever looks a name up finds one.

An example may use pk, np and torch without saying so, and write files where it stands.
"""

import doctest
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import perakit as pk
from perakit import formulas, strategies, theory, toy
from perakit.theory import families

ROOT = Path(pk.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.FAIL_FAST


def examples():
    """Every docstring under perakit/ with a `>>>` in it."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for path in sorted(ROOT.rglob("*.py")):
        if "assignments" in path.parts or ">>> " not in path.read_text(encoding="utf-8"):
            continue
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        given = {**vars(module), "pk": pk, "np": np, "torch": torch}
        yield from (found for found in finder.find(module, globs=given) if found.examples)


EXAMPLES = list(examples())


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_the_example_says_what_comes_out(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    # A copy, since a run empties its names
    again = doctest.DocTest(
        example.examples,
        dict(example.globs),
        example.name,
        example.filename,
        example.lineno,
        example.docstring,
    )
    done = doctest.DocTestRunner(optionflags=FLAGS).run(again, out=said.append)
    assert done.failed == 0, "".join(said)


def typed():
    """What a user types: name -> object, from the lists that the packages themselves have."""
    rooms = {"pk": (pk, pk.__all__), "theory": (theory, theory.__all__), "toy": (toy, toy.__all__)}
    rooms["formulas"] = formulas, [n for n in vars(formulas) if _is_function(formulas, n)]
    rooms["strategies"] = strategies, [n for n in vars(strategies) if _is_function(strategies, n)]
    for prefix, (room, names) in rooms.items():
        for name in names:
            thing = getattr(room, name)
            # Classes that one makes, not those that one is handed
            made = inspect.isclass(thing) and (
                thing in (pk.NF4, families.Formula, toy.Recipe, toy.Config, toy.GPT2)
                or (issubclass(thing, pk.Method) and thing is not pk.Method)
            )
            if made or inspect.isfunction(thing):
                yield f"{prefix}.{name}", thing


def _is_function(module, name):
    thing = vars(module)[name]
    own = inspect.isfunction(thing) and thing.__module__ == module.__name__
    return own and not name.startswith("_") and name not in ("trainable", "check_count")


def test_what_a_user_types_has_an_example():
    lacking = [name for name, thing in typed() if ">>> " not in (thing.__doc__ or "")]
    assert lacking == []


def test_an_example_that_is_wrong_goes_red(tmp_path, monkeypatch):
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", "wrong.py", 0)
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        test_the_example_says_what_comes_out(wrong, tmp_path, monkeypatch)
