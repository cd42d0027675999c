"""Spoiled adapter folders, loaded: each gives a PerakitError with the model untouched, or a load
that is right.

    python tests/models/fuzz_loading.py --count 10000 --seed 0
    python tests/models/fuzz_loading.py --seed 0 --case 1234 --keep folder

This process writes the folders (fuzz_mutations.py says how they are spoiled); a forked one loads
them, under a limit on its memory, and one that hangs or dies is replaced. What a load may do is
judged by readers of our own.
"""

import argparse
import contextlib
import ctypes
import gc
import hashlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fuzz_defects import DEFECTS
from fuzz_formats import FORMATS, Loader, demand
from fuzz_models import Source, base_bits, fingerprint
from fuzz_mutations import CONTENT, FILES, write
from torch import nn

import perakit as pk
from perakit.models.adapted import adapted_layers
from perakit.models.quantize import NF4Layer

MEMORY = 256 * 2**20  # bytes above what the process held before the case
Sources = dict[str, dict[str, Source]]  # format -> name -> an adapter to spoil


# --- one case -------------------------------------------------------------------------------------


class Case(NamedTuple):
    """What is drawn for one number, so that it can be done again."""

    number: int
    format: str
    source: str
    target: str
    kinds: tuple[str, ...]


def prepare(seed: int, number: int, folder: Path, sources: Sources) -> tuple[Case, str]:
    """Draw case `number` and write its folder; with a digest of what was written."""
    draw = random.Random(f"{seed}/{number}")
    form = draw.choice(list(sources))
    source = draw.choice(list(sources[form]))
    target = weighted(draw, FORMATS[form].targets)
    draft = sources[form][source].draft()
    every = CONTENT | FILES
    kinds = [weighted(draw, every) for _ in range(draw.choice([1] * 6 + [2]))]
    kinds.sort(key=list(every).index)  # content before files
    for kind in kinds:
        if kind in CONTENT:
            # The first change took away what the second needs
            with contextlib.suppress(IndexError, KeyError, ValueError, TypeError):
                CONTENT[kind][1](draw, draft)
    files = FORMATS[form].files(draft, sealed=draw.random() < 0.88)
    for kind in kinds:
        if kind in FILES and files:
            FILES[kind][1](draw, files, draw.choice(list(files)))
    write(folder, files)
    written = "".join(
        f"{name!r} {data!r}" if isinstance(data, bytes) else repr(name)
        for name, data in files.items()
    )
    return (
        Case(number, form, source, target, tuple(kinds)),
        hashlib.sha256(written.encode()).hexdigest(),
    )


def weighted(draw: random.Random, table: dict[str, tuple[int, Any]]) -> str:
    return draw.choices(list(table), [weight for weight, _ in table.values()])[0]


def attempt(case: Case, folder: Path, source: Source, load: Loader) -> dict[str, Any]:
    """Load the folder and judge what came of it: outcome, depth, and the bytes it took at its
    peak.
    """
    model = FORMATS[case.format].targets[case.target][1](source)
    before, base, owned = fingerprint(model), base_bits(model), dict(model.named_parameters())
    outcome, text, peak = measured(lambda: load(model, folder))
    try:
        if outcome == "loaded":
            unmoved(model, base, owned)
            FORMATS[case.format].judge(model, folder)
            for layer in adapted_layers(model).values():
                layer(torch.ones(3, layer.W0.shape[1], dtype=layer.W0.dtype))
        elif fingerprint(model) != before:
            outcome, text = "FAILED: the model changed", text or outcome
    # a judge that cannot read the files has caught a load that should not have been
    except Exception as error:
        outcome, text = (
            "FAILED: a wrong load",
            f"{type(error).__name__}: {error}\n{traceback.format_exc()}",
        )
    if peak > MEMORY:
        outcome, text = "FAILED: memory", f"{peak / 2**20:.0f} MiB; {outcome}; {text}"
    return {"outcome": outcome, "text": short(text), "length": len(text), "peak": peak}


def measured(load: Callable[[], object]) -> tuple[str, str, int]:
    """Outcome, message and peak in bytes of a load that may take no more than MEMORY."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held, outcome, text = status("VmRSS"), "loaded", ""
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + MEMORY, resource.RLIM_INFINITY))
    try:
        load()
    except pk.PerakitError as error:
        outcome, text = f"refused in {where(error)}", str(error)
    except Exception as error:
        outcome, text = f"FAILED: {type(error).__name__}", traceback.format_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return outcome, text, status("VmHWM") - held


def unmoved(model: nn.Module, before: dict[str, bytes], owned: dict[str, nn.Parameter]) -> None:
    """All but the adapter is what and where it was, save weights that the file wants in 4 bits;
    nothing is stale.
    """
    layers = adapted_layers(model)
    small = {f"{name}.weight" for name, layer in layers.items() if isinstance(layer.base, NF4Layer)}
    after = base_bits(model)
    moved = [
        name for name, value in before.items() if after.get(name) != value and name not in small
    ]
    demand(not moved, f"changed: {moved}")
    here = {id(p) for p in model.parameters()}
    gone = [name for name, p in owned.items() if id(p) not in here and name not in small]
    demand(not gone, f"no longer in the model: {gone}")
    bound = {
        id(p) for layer in layers.values() for a in layer.adapters.values() for p in a.parameters()
    }
    free = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in bound]
    demand(not free, f"not frozen: {free}")
    for name, layer in layers.items():
        demand(
            layer.merged is None or torch.equal(layer.merged, layer.sum_with(layer.exact_delta())),
            f"{name} is merged and stale",
        )


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def where(error: BaseException) -> str:
    """The function of perakit that refused: how deep the case came."""
    inside = [
        frame.name
        for frame in traceback.extract_tb(error.__traceback__)
        if "perakit" in Path(frame.filename).parts
    ]
    return inside[-1] if inside else "?"


def short(text: str) -> str:
    return text if len(text) < 2500 else f"{text[:700]} ... {text[-1500:]}"


# --- the process that loads -----------------------------------------------------------------------


class Worker:
    """A forked process that loads one folder after the other and says what happened."""

    def __init__(self, sources: Sources, defect: str | None) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        (there, self.send), (self.receive, here) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.send)
            os.close(self.receive)
            gc.freeze()
            with os.fdopen(there) as orders, os.fdopen(here, "w") as answers:
                self._serve(orders, answers, sources, defect)
            os._exit(0)
        os.close(there)
        os.close(here)

    @staticmethod
    def _serve(orders: Any, answers: Any, sources: Sources, defect: str | None) -> None:
        for line in orders:
            folder, *fields = json.loads(line)
            case = Case(*fields)
            load = FORMATS[case.format].load
            try:
                answer = attempt(
                    case,
                    Path(folder),
                    sources[case.format][case.source],
                    DEFECTS[defect][0](load) if defect else load,
                )
            except Exception:  # in making the model: a mistake of this file
                answer = {
                    "outcome": "FAILED: the fuzzer",
                    "text": traceback.format_exc(),
                    "length": 0,
                    "peak": 0,
                }
            answers.write(json.dumps(answer) + "\n")
            answers.flush()

    def ask(self, case: Case, folder: Path, seconds: float) -> dict[str, Any]:
        """The answer; "gone" in it says that the worker hung or died."""
        os.write(self.send, (json.dumps([str(folder), *case]) + "\n").encode())
        answer, end = b"", time.monotonic() + seconds
        while not answer.endswith(b"\n"):
            if not select.select([self.receive], [], [], max(0.0, end - time.monotonic()))[0]:
                self.stop()
                return {
                    "outcome": "FAILED: hang",
                    "text": f"no answer in {seconds} s",
                    "length": 0,
                    "peak": 0,
                    "gone": True,
                }
            piece = os.read(self.receive, 65536)
            if not piece:
                code = self.stop()
                return {
                    "outcome": "FAILED: the process died",
                    "text": f"status {code}",
                    "length": 0,
                    "peak": 0,
                    "gone": True,
                }
            answer += piece
        return dict(json.loads(answer))

    def stop(self) -> int:
        """End the process; its status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.send)
        os.close(self.receive)
        return os.waitpid(self.pid, 0)[1]


def run(
    numbers: Iterable[int],
    seed: int,
    seconds: float,
    defect: str | None,
    sources: Sources,
    scratch: Path,
    keep: Path | None = None,
) -> list[tuple[Case, dict[str, Any]]]:
    """All cases, each with its answer."""
    done = []
    worker = Worker(sources, defect)
    for number in numbers:
        folder = scratch / "case" / "adapter"
        case, written = prepare(seed, number, folder, sources)
        if keep:
            shutil.copytree(
                folder.parent,
                keep,
                symlinks=True,
                ignore=lambda at, names: [n for n in names if not _plain(Path(at) / n)],
            )
        answer = worker.ask(case, folder, seconds)
        if answer.pop("gone", False):
            worker = Worker(sources, defect)
        done.append((case, answer | {"written": written}))
        shutil.rmtree(folder.parent)
    worker.stop()
    return done


def _plain(path: Path) -> bool:
    return path.is_symlink() or path.is_dir() or (path.is_file() and path.stat().st_size < 2**30)


# --- the report -----------------------------------------------------------------------------------


def table(
    done: list[tuple[Case, dict[str, Any]]],
    row: Callable[[Case], str],
    outcome: Callable[[str], str] = str,
) -> str:
    """Counts of outcomes, by `row` of the case."""
    counts = Counter((row(case), outcome(answer["outcome"])) for case, answer in done)
    rows = sorted({key for key, _ in counts})
    columns = [
        column
        for column, _ in Counter(outcome(answer["outcome"]) for _, answer in done).most_common()
    ]
    letters = [chr(ord("a") + i) for i in range(len(columns))]
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{letter:>6}" for letter in letters)]
    lines += [
        f"{key:{width}}" + "".join(f"{counts[key, column] or '.':>6}" for column in columns)
        for key in rows
    ]
    lines += [
        f"{'':{width}}"
        + "".join(f"{sum(counts[key, column] for key in rows):>6}" for column in columns)
    ]
    return "\n".join(
        [
            *lines,
            *(f"  {letter}: {column}" for letter, column in zip(letters, columns, strict=True)),
        ]
    )


def report(done: list[tuple[Case, dict[str, Any]]], seed: int, seconds: float, shown: int) -> int:
    """Print the tables and the failures; their number."""
    failures = [(case, answer) for case, answer in done if answer["outcome"].startswith("FAILED")]
    print(table(done, lambda case: case.kinds[0] if len(case.kinds) == 1 else "two kinds"))
    for row in (
        lambda case: f"{case.format}: onto {case.target}",
        lambda case: f"{case.format}: {case.source}",
    ):
        print("\n" + table(done, row, lambda outcome: outcome.split()[0]))
    for case, answer in failures[:shown]:
        print(
            f"\ncase {case.number}: {case.format}, {case.source}, onto {case.target},"
            f" {' + '.join(case.kinds)}: {answer['outcome']}"
        )
        print(answer["text"])
    for what, key in (
        ("peak above the start, bytes", "peak"),
        ("longest message, letters", "length"),
    ):
        case, answer = max(done, key=lambda pair: pair[1][key])
        print(f"\n{what}: {answer[key]:,} in case {case.number}, {answer['outcome']}", end="")
    print(f"\nfolders of the first {MARKED} cases: {marks(done)}", end="")
    loaded = sum(answer["outcome"] == "loaded" for _, answer in done)
    refused = len(done) - loaded - len(failures)
    print(
        f"\n{len(done)} cases of seed {seed}, {seconds:.0f} s: {loaded} loaded and right, {refused}"
        f" refused, {len(failures)} failures"
    )
    return len(failures)


MARKED = 20  # cases whose folders are in the mark


def marks(done: list[tuple[Case, dict[str, Any]]]) -> str:
    """A digest of what was written: the same for the same seed, anywhere."""
    return hashlib.sha256(
        "".join(answer["written"] for _, answer in done[:MARKED]).encode()
    ).hexdigest()[:16]


def self_check(seed: int, sources: Sources, scratch: Path) -> int:
    """Does the fuzzer notice each defect, and nothing else? The number of those it gets wrong."""
    wrong = 0
    for name, (_, expected, count) in DEFECTS.items():
        found = Counter(
            answer["outcome"] for _, answer in run(range(count), seed, 3, name, sources, scratch)
        )
        failed = {outcome for outcome in found if outcome.startswith("FAILED")}
        noticed = failed == {f"FAILED: {expected}"}
        wrong += not noticed
        print(f"{name}: {'noticed' if noticed else 'MISSED'}: {dict(found)}")
    print(
        f"folders of the first {MARKED} cases:"
        f" {marks(run(range(MARKED), seed, 20, None, sources, scratch))}"
    )
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """The command line; status 1 where a case failed."""
    parser = argparse.ArgumentParser(description="load spoiled adapter folders")
    parser.add_argument("--count", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this case alone, with its message")
    parser.add_argument("--keep", type=Path, help="with --case: copy its folder here")
    parser.add_argument("--seconds", type=float, default=20, help="time for one case")
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        help="only this format (its cases are others than those of a full run)",
    )
    parser.add_argument("--shown", type=int, default=30, help="failures to print")
    parser.add_argument(
        "--self-check", action="store_true", help="are loaders that are broken on purpose noticed?"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="perakit-fuzz-") as name:
        scratch = Path(name)
        forms = [args.format] if args.format else list(FORMATS)
        sources = {form: FORMATS[form].sources(scratch / form) for form in forms}
        if args.self_check:
            return min(self_check(args.seed, sources, scratch), 1)
        if args.case is not None:
            done = run([args.case], args.seed, args.seconds, None, sources, scratch, args.keep)
            print(*done[0], sep="\n")
        else:
            done = run(range(args.count), args.seed, args.seconds, None, sources, scratch)
    return min(report(done, args.seed, time.monotonic() - start, args.shown), 1)


if __name__ == "__main__":
    sys.exit(main())
