"""Messages are safe to print and have an end."""

import copy
import pickle

from hypothesis import given
from hypothesis import strategies as st

from perakit import PerakitError
from perakit.errors import LONGEST, listed, printable, short


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_can_be_shown_anywhere(text):
    shown = printable(text)
    assert shown.replace("\n", "").isprintable()
    shown.encode()  # no lone surrogate is left
    assert printable(shown) == shown
    assert printable(text) == text or not text.replace("\n", "").isprintable()


@given(st.text(st.characters(exclude_categories=[]), max_size=2000))
def test_a_message_is_at_most_600_characters(text):
    error = PerakitError(text)
    assert len(str(error)) <= LONGEST
    assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == str(error)


def test_of_a_long_message_the_middle_is_left_out():
    shown = str(PerakitError("begin " + "x" * 1000 + " pass a shorter one"))
    assert len(shown) == 600
    assert shown.startswith("begin xxx")
    assert " [...] " in shown
    assert shown.endswith("xxx pass a shorter one")


def test_escapes():
    assert printable("ok \x1b[2J\rα\n\ud800\u202e") == "ok \\x1b[2J\\rα\n\\ud800\\u202e"
    assert str(PerakitError()) == ""


def test_values():
    assert short("a") == "'a'"
    assert short("a" * 100) == f"'{'a' * 59} ... (102 characters)"
    assert short(10**5000) == "an integer of 16,610 bits"


def test_names():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(list("abcdef")) == "'a', 'b', 'c', 'd' and 2 more"
