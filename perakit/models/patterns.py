"""Regular expressions from a file: Python's, but only such as end in time on the names of a model.

Python's matcher tries one way after the other to read a text, and a short pattern can have more of
them than could ever be tried: (.|.) forty times over has 2^40. So the ways are counted first. A
pattern whose repeats stand on single characters, k of them unbounded, has C(n + k, k) ways to part
a name of n letters among them.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from math import comb

from perakit.errors import PerakitError, short

LIMIT = 2 * 10**9  # steps for all names and all patterns of a list: a minute at worst
DEGREES = 9  # coefficients kept: up to eight unbounded repeats in a row
BRANCHES = 16  # alternatives that are tried in the time of one step
TOKEN = re.compile(
    r"""(?P<escape>\\.)
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<open>\((?:\?(?:P<\w+>|<?[=!]|:)|(?!\?)))
    | (?P<odd>\(\?)                                  # comments, flags and the rest
    | (?P<close>[)|])
    | (?P<repeat>[*+?][?+]?|\{\d*,?\d*\}[?+]?)
    | (?P<letter>.)""",
    re.VERBOSE | re.DOTALL,
)

Ways = tuple[int, ...]  # of reading a pattern: entry k counts those with k unbounded repeats
ONE: Ways = (1,)
NEVER: Ways = (LIMIT + 1,)


def compile_all(
    patterns: Sequence[str], names: Sequence[str], within: str = "{}"
) -> list[re.Pattern[str]]:
    """The patterns compiled, each put `within` another.

    Refused where matching all of them with `names` could take for ever.
    Refused are also groups that are repeated, comments, and flags other than a leading (?i). Raises
    PerakitError.
    """
    lengths, spent, compiled = Counter(map(len, names)), 0, []
    for pattern in patterns:
        compiled.append(_compile(pattern, within))
        spent += _steps(within.replace("{}", pattern), lengths)
        if spent > LIMIT:
            raise PerakitError(
                f"pattern {short(pattern)} could take for ever on the names of this model, for it"
                " repeats a group, or has too many repeats, or alternatives that begin alike, or"
                " flags: write the names out"
            )
    return compiled


def _compile(pattern: str, within: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of syntax that another Python may read otherwise
            re.compile(pattern)  # by itself too: "a)|(b" would fit within another
            return re.compile(within.replace("{}", pattern))
    except (re.error, RecursionError, OverflowError) as error:
        raise PerakitError(
            f"pattern {short(pattern)} is no regular expression ({error}): copy the adapter again"
        ) from error


def _steps(pattern: str, lengths: Counter[int]) -> int:
    """About how many steps the matcher can take on names of these lengths (length -> how many)."""
    tokens = (
        (token.lastgroup or "", token[0]) for token in TOKEN.finditer(pattern.removeprefix("(?i)"))
    )
    ways = _alternatives(chain(tokens, [("close", ")")]))
    each = {n: sum(count * comb(n + k, k) for k, count in enumerate(ways)) for n in lengths}
    width = 1 + pattern.count("|") / BRANCHES
    return int(
        sum(times * (each[n] * width + len(pattern) / BRANCHES) for n, times in lengths.items())
    )


def _alternatives(tokens: Iterator[tuple[str, str]]) -> Ways:
    """The ways of everything up to the bracket that closes: the sum over the alternatives.

    Words without special characters exclude each other, but for those of which one begins another.
    """
    total: Ways = (0,)
    words: list[str] = []
    # The alternative but for its last part; its letters, if it is a word
    row, last, group, word, plain = ONE, ONE, False, "", True
    for kind, text in tokens:
        if kind == "close":
            if plain:
                words.append(word)
            else:
                total = _sum(total, _product(row, last))
            if text == ")":
                break
            row, last, group, word, plain = ONE, ONE, False, "", True
        elif kind == "repeat":
            last, plain = _repeated(last, text, group), False
        elif kind == "open":
            row, last, group, plain = _product(row, last), _alternatives(tokens), True, False
        elif kind == "odd":
            last, plain = NEVER, False
        else:
            row, last, group, word = _product(row, last), ONE, False, word + text[-1].casefold()
            plain &= (kind == "letter" and text not in ".^$") or (
                kind == "escape" and not text[1].isalnum()
            )
    return _sum(total, (_nested(words),))


def _repeated(last: Ways, repeat: str, group: bool) -> Ways:
    """The ways of a part with `repeat` behind it; a group may be optional, and no more."""
    if repeat[0] == "?":
        return _sum(ONE, last)
    if group:
        return NEVER
    return ONE if repeat.strip("{}?+").isdigit() else (0, 1)


def _nested(words: list[str]) -> int:
    """The most of these words that can stand at one place: each begins the next."""
    begun: list[str] = []
    most = 0
    for word in sorted(words):
        while begun and not word.startswith(begun[-1]):
            begun.pop()
        begun.append(word)
        most = max(most, len(begun))
    return most


def _sum(a: Ways, b: Ways) -> Ways:
    size = max(len(a), len(b))
    return _capped(
        [x + y for x, y in zip(a + (0,) * (size - len(a)), b + (0,) * (size - len(b)), strict=True)]
    )


def _product(a: Ways, b: Ways) -> Ways:
    terms = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            terms[i + j] += x * y
    return _capped(terms)


def _capped(terms: list[int]) -> Ways:
    return tuple(terms) if len(terms) <= DEGREES and sum(terms) <= LIMIT else NEVER
