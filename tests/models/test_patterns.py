"""Patterns from files: what ends in time is compiled, what need not is refused, and the count of
ways is never too low.
"""

import random
import re
import time
from collections import Counter
from math import comb

import pytest

import perakit as pk
from perakit.models.patterns import LIMIT, _steps, compile_all

NAMES = [
    f"model.language_model.layers.{i}.self_attn.{end}_proj" for i in range(80) for end in "qkvo"
]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|v)_proj",
        r"(?i)MODEL.*\.[QV]_PROJ",
        r"(?:.*\.)?layers\.(?:[0-9]|1[0-9])\.self_attn\.(?P<end>[qv])_proj",
        r"(?!.*k_proj).*\.(?<=\.)[^.o]*",
        r".*?(?:language|text).*?(?:self_attn|attention|attn|mlp).*?(?:q_proj|k_proj|v_proj).*?",
        r"model.*[]0-9.]+[^]x]*q_proj",
        r"model\.language_model\.layers\.\d{1,3}\.self_attn\.q{1}_proj",
        "|".join(map(re.escape, NAMES)),
        r"\(\*\+\?\{\[\\",
    ],
)
def test_patterns_that_people_write(pattern):
    (compiled,) = compile_all([pattern], NAMES)
    assert compiled == re.compile(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(.|.)" * 40,
            "(|)" * 40,
            "(?:a|ab)?" * 40,
            "(a|A)" * 40,
            "a?" * 40,
            ".*" * 7,
            "[a-z]{0,9}" * 7,
            "(?=.|.)" * 40,
        ),
        *("(?P<x>.|.)" + "(?:.|.)" * 40, ".*.*.*(a|b.*(c|d.*(e|f.*(g|h.*))))"),
        *("(.*)*", "(ab)+", "(?:x{2}){2}", "(?x)a", "(?s:.)", "(?>a)", r"(?#[)(.|.)\]"),
    ],
)
def test_patterns_that_could_take_for_ever(pattern):
    with pytest.raises(
        pk.PerakitError,
        match=r"could take for ever on the names of this model, .*: write the names out",
    ):
        compile_all([pattern], NAMES)


def test_the_cost_of_a_list_is_that_of_all_its_patterns():
    dear = r".*?.*?.*?.*?!"
    assert len(compile_all([dear], NAMES)) == 1
    with pytest.raises(pk.PerakitError, match="could take for ever"):
        compile_all([dear + "!" * k for k in range(40)], NAMES)


def test_what_is_within_another_is_judged_and_compiled_there():
    (compiled,) = compile_all(["layers"], NAMES, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
    assert compiled.match(NAMES[5])["idx"] == "1"
    with pytest.raises(pk.PerakitError, match=r"pattern 'a\)\|\(b' is no regular expression"):
        compile_all(["a)|(b"], NAMES, "({})$")
    with pytest.raises(pk.PerakitError, match="could take for ever"):
        compile_all([".*"], NAMES, "{}" + ".*" * 6)


def test_a_refusal_is_quick_however_long_the_pattern():
    start = time.process_time()
    with pytest.raises(pk.PerakitError, match="could take for ever"):
        compile_all(["(a|b.)?" * 3000], NAMES)
    assert time.process_time() - start < 5


# --- the count, against a matcher that tries everything -------------------------------------------


def grown(draw, depth):
    """(pattern, function from n to the ends of all the ways in which it can begin to read n letters
    a).
    """
    kind = draw.choice(
        ["letter", "any", "star", "lazy", "optional", "row", "row", "or", "or", "group?"]
        if depth
        else ["letter", "any", "star"]
    )
    if kind in ("letter", "any"):
        return ("a" if kind == "letter" else ".", lambda n: [1] if n else [])
    if kind in ("star", "lazy"):
        return ("a*" if kind == "star" else ".*?", lambda n: list(range(n + 1)))
    if kind == "optional":
        return ("a?", lambda n: [0, 1] if n else [0])
    (p, f), (q, g) = grown(draw, depth - 1), grown(draw, depth - 1)
    if kind == "row":
        return (p + q, lambda n: [i + j for i in f(n) for j in g(n - i)])
    if kind == "or":
        return (f"({p}|{q})", lambda n: f(n) + g(n))
    return (f"(?:{p})?", lambda n: [0, *f(n)])


def test_the_count_of_ways_is_never_below_that_of_a_matcher_which_tries_all():
    draw, tight = random.Random(0), 0
    for _ in range(400):
        pattern, ends = grown(draw, 4)
        for n in (0, 1, 5):
            ways = len(ends(n))
            assert _steps(pattern, Counter([n])) >= ways, pattern
            tight += n == 5 and ways > 20 and _steps(pattern, Counter([n])) < 50 * ways
    assert tight > 20  # and it is no mere huge number


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("abc", 1), (".*", 11), (".*.*", 66), ("(a|b)(a|c)", 1), ("(a|ab)(c|cd)", 4), ("(.|b)?", 3)],
)
def test_the_count_by_hand(pattern, expected):
    width = 1 + pattern.count("|") / 16
    assert _steps(pattern, Counter([10])) == int(expected * width + len(pattern) / 16)


def test_the_limit_is_a_minute_at_most():
    pattern, n = ".*?" * 4 + "!", 60
    start = time.process_time()
    assert re.compile(pattern).fullmatch("a" * n) is None
    # Ten times the claim, for a slow and busy machine
    assert (time.process_time() - start) / comb(n + 4, 4) * LIMIT < 10 * 60
