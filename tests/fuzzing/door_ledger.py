"""The door of `perakit experiment --out`: the results that were computed before.

What is read must have been written. Rows without a checksum, as older versions wrote them, must at
least be results whose key is the hash of what they say about themselves.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from defects import ANY
from lines import LINES, bare, contents, difference, plain, rows, unsealed, written
from mutations import Draft, Files
from runner import Door, Trial, demand

from perakit.experiments.jobs import NUMERICS, Ledger, key_of

NAME, OTHER = "rank", "share"
OPTIONS = {"seeds": 2, "small": True, "device": "cpu", "model": "tiny", "text": "code"}


def opens(folder: Path) -> dict[str, Any]:
    """What an experiment does with a ledger: read it, begin, add a result, put all in order."""
    ledger = Ledger(folder, NAME)
    found = {
        "mine": [dict(result) for result in ledger.rows],
        "known": {key: dict(result) for key, result in ledger.known.items()},
    }
    ledger.begin(OPTIONS)
    fresh = row("fresh", 7)
    ledger.add(fresh)
    ledger.finish([fresh, *reversed(found["mine"])])
    return found


def row(label: str, seed: int) -> dict[str, Any]:
    """A result, as `lab` makes one."""
    said = {
        "numerics": NUMERICS,
        "data": hashlib.sha256(b"text").hexdigest(),
        "model": "",
        "compute": "tuning.tune",
        "settings": {
            "lr": 0.01,
            "seed": seed,
            "text": OPTIONS["text"],
            "ranks": [2, 4],
            "old": None,
        },
    }
    measured = {"new": 2.1186 + seed, "old": 1.88682, "steps": 100 + seed, "curve": [3.5, 2.25]}
    return {
        "key": key_of(said),
        **said,
        "measured": measured,
        "machine": {"cpu": "x", "cores": 2, "load": 1.1, "versions": {"torch": "2.13.0"}},
        "label": label,
        "role": "main" if seed % 2 else "other",
    }


class Source(NamedTuple):
    """Two ledgers as they were written."""

    main: bytes
    other: bytes

    def draft(self) -> Draft:
        extra: Files = {f"{OTHER}.jsonl": self.other} if self.other else {}
        return Draft(lines=self.main.split(b"\n")[:-1], extra=extra)


class LedgerDoor(Door):
    """The folder of an experiment: its own ledger, and that of another."""

    name = "ledger"
    content = LINES
    opens = staticmethod(opens)

    def sources(self, scratch: Path) -> dict[str, Any]:
        def made(name: str, results: list[dict[str, Any]]) -> bytes:
            ledger = Ledger(scratch / str(len(results)), name)
            ledger.begin(OPTIONS)
            for result in results:
                ledger.add(result)
            ledger.finish(results)
            return ledger.path.read_bytes()

        main = made(NAME, [row("LoRA", 1), row("PERA é", 2), row("LoRA", 3), row("again", 3)])
        lines = made(NAME, [row("a\u2028b", 1), row("a\x85b", 2), row("a\x1cb", 3)])
        other = made(OTHER, [row("LoRA", 1), row("PERA", 5)])
        shutil.rmtree(scratch)
        begun = main[: main.index(b"\n") + 1]
        old, old_other = (written(unsealed(data.split(b"\n")[:-1])) for data in (main, other))
        return {
            "alone": Source(main, b""),
            "two": Source(main, other),
            "ends of lines within": Source(lines, other),
            "begun": Source(begun, other),
            "without checksums": Source(old, old_other),
            "partly without": Source(main, old_other),
        }

    def files(self, draft: Draft, sealed: bool) -> Files:
        return {f"{NAME}.jsonl": written(draft.lines), **draft.extra}

    def trial(self, source: Source, target: str, folder: Path, opens: Callable[..., Any]) -> Trial:
        before, old = contents(folder), bare(folder, "*.jsonl")
        there = [plain(one) for one in rows(folder / f"{NAME}.jsonl")]

        def right(found: Mapping[str, Any]) -> None:
            ours = [one for one in there if one in results(source.main)]
            demand(all(one in found["mine"] for one in ours), "a row is left out")
            judge(source, old, folder, found)

        return Trial(lambda: opens(folder), right, lambda: difference(folder, before))


@cache
def results(data: bytes) -> list[Any]:
    """The rows of a ledger as it was written, below its header."""
    return [plain(json.loads(line)) for line in data.split(b"\n")[1:-1]]


def judge(source: Source, old: list[Any], folder: Path, found: Mapping[str, Any]) -> None:
    """What was read was written, and stands in the file with the result that was added.

    old: the rows that were there without a checksum.
    """
    ours = [*results(source.main), *results(source.other)]
    for result in (*found["mine"], *found["known"].values()):
        demand(
            result in ours or (repr(result) in map(repr, old) and sound(result)),
            f"a row that nobody wrote: {result}",
        )
    for key, result in found["known"].items():
        demand(result["key"] == key, f"the row of {result['key']} under {key}")
    header, *there = map(plain, rows(folder / f"{NAME}.jsonl"))
    demand(header["options"] == OPTIONS and header["experiment"] == NAME, f"the header {header}")
    demand(row("fresh", 7) in there, "the result that was added is lost")
    demand(
        sorted(map(repr, there)) == sorted(map(repr, [row("fresh", 7), *found["mine"]])),
        "the file has not what was read, and what was added",
    )


def sound(result: dict[str, Any]) -> bool:
    """Has a row without a checksum the parts of a result, and the key of what it says?"""
    texts = all(isinstance(result.get(key), str) for key in ("key", "compute", "label", "role"))
    objects = all(isinstance(result.get(key), dict) for key in ("settings", "measured"))
    if not texts or not objects or "numerics" not in result:
        return False
    said = [result.get(key) for key in ("compute", "settings", "numerics", "data", "model")]
    text = json.dumps(said, sort_keys=True)
    return result["key"] == hashlib.sha256(text.encode()).hexdigest()[:24]


def rounded(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Takes a number for another one."""

    def broken(folder: Path) -> dict[str, Any]:
        found = opens(folder)
        for result in found["mine"][:1]:
            result["measured"]["new"] = 2.0
        return found

    return broken


def forgetful(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Loses the last row of the file."""

    def broken(folder: Path) -> dict[str, Any]:
        found = opens(folder)
        path = folder / f"{NAME}.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        return found

    return broken


def careless(opens: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a new file before it looks at the old one."""

    def broken(folder: Path) -> dict[str, Any]:
        try:
            return opens(folder)
        except Exception:
            shutil.rmtree(folder)
            folder.mkdir()
            raise

    return broken


LedgerDoor.defects = ANY | {
    "rounded": (rounded, "wrongly taken", 40),
    "forgetful": (forgetful, "wrongly taken", 40),
    "careless": (careless, "half changed", 30),
}
