"""Spoiled files, brought to every door of perakit: each is taken for what it is, or refused.

    python tests/fuzzing/run.py --door ledger --count 10000 --seed 1
    python tests/fuzzing/run.py --door adapter --seed 1 --case 1234 --keep folder
    python tests/fuzzing/run.py --door gpt2 --self-check

The law of a case: a PerakitError, after which nothing is changed, or a result that is right; within
10 seconds and 256 MiB. The last line of a run has its figures, as JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

# Before transformers is imported: nothing asks the network, and forked processes wait for no thread
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from door_adapter import PEFT, Perakit
from door_cells import Cells
from door_checkpoint import Checkpoint
from door_config import Config
from door_gpt2 import GPT2
from door_ledger import LedgerDoor
from door_tokenizer import Tokenizer
from report import figures, report
from runner import MARKED, SECONDS, Door, marks, run, warm_up

DOORS: dict[str, Door] = {
    door.name: door
    for door in (
        *(Perakit(), PEFT(), GPT2(), Tokenizer(), Config(), Checkpoint(), LedgerDoor(), Cells()),
    )
}
MEMORY_OF_FILES = Path("/dev/shm")  # where a file is synced at once


def self_check(door: Door, sources: dict[str, Any], seed: int, scratch: Path) -> bool:
    """Is every defect noticed, and nothing else?"""
    all_noticed = True
    for name, (_, expected, count) in door.defects.items():
        done = run(door, sources, range(count), seed, scratch, seconds=3, defect=name)
        found = Counter(answer.outcome.split(" in ")[0] for _, answer in done)
        noticed = {one for one in found if one.startswith("FAILED")} == {f"FAILED: {expected}"}
        all_noticed &= noticed
        print(f"{door.name}: {name}: {'noticed' if noticed else 'MISSED'}: {dict(found)}")
    done = run(door, sources, range(MARKED), seed, scratch)
    print(f"{door.name}: folders of the first {MARKED} cases: {marks(done)}")
    return all_noticed


def cpu_seconds() -> float:
    """Of this process and of those that it forked and that have ended."""
    parts = os.times()
    return sum(parts[:4])


def one_door(door: Door, args: argparse.Namespace, scratch: Path) -> bool:
    """Do what is asked at one door; was all well?"""
    begun, worked = time.monotonic(), cpu_seconds()
    sources = door.sources(scratch / "sources")
    warm_up(door, sources, scratch)
    if args.self_check:
        return self_check(door, sources, args.seed, scratch)
    numbers = range(args.count) if args.case is None else [args.case]
    done = run(door, sources, numbers, args.seed, scratch, args.seconds, keep=args.keep)
    if args.case is not None:
        print(*done[0], sep="\n")
    report(done, args.shown)
    times = time.monotonic() - begun, cpu_seconds() - worked
    found = figures(door.name, done, args.seed, *times)
    print(json.dumps(found), flush=True)
    return not found["failures"]


def main(arguments: list[str] | None = None) -> int:
    """The command line; status 1 where a case failed."""
    parser = argparse.ArgumentParser(description="bring spoiled files to the doors of perakit")
    parser.add_argument("--door", nargs="+", choices=list(DOORS), default=list(DOORS))
    parser.add_argument("--count", type=int, default=1000, help="number of cases, at each door")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this case alone, with its message")
    parser.add_argument("--keep", type=Path, help="with --case: copy its folder here")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for one case")
    parser.add_argument("--shown", type=int, default=30, help="failures to print")
    parser.add_argument(
        "--self-check", action="store_true", help="are doors that are broken on purpose noticed?"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    well = True
    for name in args.door:
        where = MEMORY_OF_FILES if MEMORY_OF_FILES.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="perakit-fuzz-", dir=where) as scratch:
            well &= one_door(DOORS[name], args, Path(scratch))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
