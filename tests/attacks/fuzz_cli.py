"""Any words after `perakit`: it does them, or refuses them in one sentence.

Each case is a command with small arguments that work, of which some are replaced by hostile ones.
The options are those that the command's own parser has, so a new one is tried without a change
here. It runs in a forked process with limits of time and memory, and with a standard output that
may be a full disk, a closed pipe, or one that knows ASCII alone.

    python tests/attacks/fuzz_cli.py --count 2000 --seed 0
    python tests/attacks/fuzz_cli.py --seed 0 --case 17      # one case again, with what it printed
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

import perakit as pk
from perakit import cli
from perakit.bench import explain, timing
from perakit.classroom import assignments, grading
from perakit.classroom.examination import Finding
from perakit.classroom.process import Process
from perakit.classroom.submission import to_percent
from perakit.toy import GPT2, Config

CPU, WALL = 10, 60  # seconds of a case: of computing, and on a clock that others share
MEMORY = 2**30  # bytes above what the libraries take
LONGEST = 600  # characters of a message
ESCAPES = "\x1b[2J\x9b\r\x07"

# --- values ---------------------------------------------------------------------------------------

words = str.split
HUGE = "9" * 5000
WHOLE = words("""0 1 -1 2 7 1000 1000000 1000000000000000000 2147483648 4611686018427387904
    9223372036854775808 1e3 1.0 0x10 1_0 ٣ ² True""")
WHOLE += [str(10**30), HUGE, f"-{HUGE}", "", " 1 "]
NUMBER = words("0 -0.0 1 -1 nan inf -inf 1e300 1e-300 1e30 1e400 1e38 0.1.2 1j None")
NUMBER += [HUGE, "", "-" * 1000]
TEXT = words("""- -- --- x caf\u00e9 %s%n%(x)s {} \\ '
    ~ None True tiny lora pera none all-linear * q,k,v
    , ,,, -h --help --version --rank = lora: : \udcff \ufeff \u202egnp.exe""")
TEXT += ["", " ", '"', "a\nb", "a\0b", ESCAPES, "🐍" * 200, "\u221e" * 50]
TEXT += ["x" * 300, "x" * 100_000, "-" * 100_000, "(" * 5000]
DEVICE = words("cuda cuda:99 cuda:-1 meta cpu:3 tpu xpu mps \udcff")
METHOD = words("""pera:degree=64 pera:degree=1000 pera:degree=9 lora:rank=1000000 pera:rank=1000000
    loha:rank=100000 mora:rank=100000 lora:alpha=1e308 lora:alpha=1e-320 lora:x=y lora:alpha LORA
    hira dora quadratic delora none pera:terms=odd lora:dropout=nan lora:init=\udcff""")
METHOD += ["lora:alpha=" + "-" * 100_000, "lora:alpha=[" + "[" * 999, "lora:" + "alpha=1," * 100]
METHOD += [f"lora:alpha=4{ESCAPES}", "lora:alpha=\x0c4"]
CORPUS = words("""package:os package:__main__ package: prose:json + synthetic:x
    synthetic+synthetic:2 package:../.. code:this""")
CORPUS += ["synthetic:" + "9" * 19, "prose:" + "a." * 50]
LAYER = words(f"1000000x1000000 8x x8 0x8 8x8x8 {HUGE}x1 -8x8 ٣x٣ 2147483647x1")
# Of the folder that every case is beside
FILES = words("""checkpoint adapter folder fifo sparse empty binary loop link deep plain.txt closed
    work.py other.ipynb fifo.py sparse.py binary.py hidden.py exits.py raises.py syntax.py deep.py
    screams.py dir.py bom.py surrogate.ipynb deep.ipynb""")
# Also as --out
INPUTS = words("/dev/zero /dev/null /dev/full /proc/self/mem /no/such/folder")


def world(folder: Path) -> None:
    """Files that are what they seem, and others."""
    (folder / "checkpoint").mkdir(parents=True)
    model = GPT2(Config(n_embd=16, n_layer=1, n_head=2, n_positions=32))
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "checkpoint/model.safetensors")
    (folder / "checkpoint/config.json").write_text(json.dumps(model.config.to_dict()))
    pk.attach(model, pk.PERA(2), "all-linear")
    pk.save(model, folder / "adapter")
    for name in ("folder", "closed", "dir.py", "\udce9t\udce9"):
        (folder / name).mkdir()
    (folder / "closed").chmod(0o500)
    for name in ("fifo", "fifo.py"):
        os.mkfifo(folder / name)
    for name in ("sparse", "sparse.py"):
        with open(folder / name, "wb") as file:
            file.truncate(2**40)
    (folder / "empty").touch()
    for name in ("binary", "binary.py"):
        (folder / name).write_bytes(bytes(range(256)) * 40)
    (folder / "plain.txt").write_text("The rank of a matrix. " * 400)
    os.symlink("loop", folder / "loop")
    os.symlink("plain.txt", folder / "link")
    reference = to_percent(assignments()["lora"].solution())
    (folder / "work.py").write_text(reference)
    (folder / "bom.py").write_text("\ufeff" + reference)
    check = (
        'from perakit.classroom import check\n\n@check(1, "{}", "update")\ndef own(work): pass\n'
    )
    texts = {
        "hidden.py": check.format("a title"),
        "screams.py": check.format(r"\x1b[2J\ud800" + "x" * 900),
        "exits.py": "import sys\nsys.exit(0)",
        "raises.py": "class Stop(BaseException): pass\nraise Stop('\\x1b[2J' + 'x' * 10**5)",
        "syntax.py": "def f(:",
        "deep.py": "(" * 100_000,
        "deep": "[" * 100_000,
        "deep.ipynb": "[" * 100_000,
        "other.ipynb": '{"cells": []}',
        "surrogate.ipynb": json.dumps(
            {"cells": [{"cell_type": "code", "source": "# perakit assignment `lora`\n'\ud800'"}]}
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


# --- commands -------------------------------------------------------------------------------------

SMALL = dict.fromkeys(("steps", "batch", "eval_every", "rank"), "1")
SMALL |= {"context": "8", "limit": "4000", "text": "synthetic", "method": "lora"}
# What makes each command short; where nothing does, what makes it refuse when all else is right
BASE = {
    "demo": {"small": True, "device": "tpu"},
    "finetune": SMALL | {"model": "checkpoint", "out": "out"},
    "export": {"adapter": "adapter", "model": "checkpoint", "out": "out"},
    "verify": {"claims": "identity", "examples": "1"},
    "bench": dict.fromkeys(("ranks", "repeats", "tokens"), "1")
    | {"parts": "layers", "layers": "8x8", "out": "out"},
    "explain": {"model": "checkpoint", "targets": "c_attn", "rank": "1", "tokens": "8"},
    "experiment": {"name": "function", "device": "tpu", "small": True, "out": "out"},
    "grade": {"files": "work.py"},
    "assignment list": {},
    "assignment new": {"id": "lora", "out": "out"},
    "assignment export": {"id": "lora", "out": "out"},
    "params": {"model": "gpt2"},
}  # fmt: skip
# Numbers up to these are a long run, and rightly so
LONG = {"steps": 2**63 - 1, "examples": 10**6, "repeats": 10**4, "seeds": 1000}
ENDLESS = {"parts", "models", "device"}  # with more of these a benchmark is long
SPECIAL = {"method": METHOD, "device": DEVICE, "text": CORPUS, "old": CORPUS, "layers": LAYER}
ENCODINGS = ("ascii", "cp1252", "latin-1")
STREAMS = (*["a file"] * 5, *ENCODINGS, "a full disk", "a closed pipe", "closed")


def commands(parser: argparse.ArgumentParser, name: str = "") -> dict[str, list[argparse.Action]]:
    """Name of each command -> its arguments, from the parser."""
    found: dict[str, list[argparse.Action]] = {}
    own = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                found |= commands(inner, f"{name} {word}".strip())
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            own.append(action)
    return found or {name: own}


class Case(NamedTuple):
    """One command line."""

    number: int
    command: str
    words: list[str]
    stream: str


def case(seed: int, number: int, known: dict[str, list[argparse.Action]]) -> Case:
    """Draw one."""
    draw = random.Random(f"{seed}/{number}")
    command = draw.choice(list(known))
    words: dict[str, Any] = dict(BASE[command])
    actions = {action.dest: action for action in known[command]}
    lines: list[list[str]] = []
    for name in draw.sample(list(actions), min(len(actions), draw.choice([0, 1, 1, 1, 2, 3]))):
        action = actions[name]
        if action.nargs == 0:
            words[name] = True
        elif action.required and action.nargs != "*" and draw.random() < 0.1:
            words.pop(name, None)
        elif not (command == "bench" and name in ENDLESS and draw.random() < 0.7):
            words[name] = [hostile(draw, action) for _ in range(draw.choice([1, 1, 1, 2]))]
    if command in ("demo", "experiment"):
        words["device"] = "tpu"
    for name, value in words.items():
        action = actions[name]
        values = [] if value is True else [value] if isinstance(value, str) else value
        values = values if action.nargs in ("+", "*") else values[:1]
        values = [f"../world/{one}" if one in FILES else one for one in values]
        option = action.option_strings[-1:] if action.option_strings else []
        if option and len(values) == 1 and draw.random() < 0.3:
            lines.append([f"{option[0]}={values[0]}"])
        else:
            lines.append([*option, *values])
    if draw.random() < 0.05:
        lines.append([draw.choice(TEXT)])
    if draw.random() < 0.5:
        draw.shuffle(lines)
    argv = [*command.split(), *(word for line in lines for word in line)]
    if draw.random() < 0.03:
        # Refused at the latest by its last word: `demo` alone takes minutes
        argv = [draw.choice([*TEXT, *WHOLE, *argv]) for _ in range(draw.randrange(6))] + ["--none"]
    return Case(number, command, argv, draw.choice(STREAMS))


def hostile(draw: random.Random, action: argparse.Action) -> str:
    """A value for this argument: mostly of its kind, now and then of any."""
    kinds = {cli._whole: WHOLE, cli._number: NUMBER, cli._path: [*FILES, *INPUTS, *TEXT]}
    kind = kinds.get(action.type, [*TEXT, *FILES])
    if action.dest in SPECIAL and draw.random() < 0.7:
        kind = SPECIAL[action.dest]
    elif draw.random() < 0.15:
        kind = [*WHOLE, *NUMBER, *TEXT]
    elif draw.random() < 0.05:
        kind = ["".join(chr(draw.randrange(1, 0x500)) for _ in range(draw.randrange(1, 50)))]
    value = draw.choice(kind)
    with contextlib.suppress(ValueError):
        if 1 < int(value) <= LONG.get(action.dest, 0):
            return "1"
    return value


# --- one case -------------------------------------------------------------------------------------


def run(one: Case, folder: Path) -> tuple[str, str]:
    """What came of it, "" if all is well, and everything it printed."""
    here = folder / "case"
    here.mkdir()
    with open(folder / "out", "w+b") as out, open(folder / "err", "w+b") as err:
        pid = os.fork()
        if not pid:
            _child(one, here, out.fileno(), err.fileno())
        status = _wait(pid)
        out.seek(0)
        err.seek(0)
        encoding = one.stream if one.stream in ENCODINGS else "utf-8"
        printed, said = out.read().decode(encoding), err.read().decode(encoding, "replace")
    shutil.rmtree(here)
    longest = LONGEST if encoding == "utf-8" else 10 * LONGEST  # an escape has up to ten letters
    wrong = judge(status, printed, said, longest)
    return wrong, f"status {status}\n{printed[-3000:]}\n--\n{said[-6000:]}"


def _wait(pid: int) -> int:
    """Its exit status, or minus the signal that ended it."""
    end = time.monotonic() + WALL
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGALRM


def _shortened() -> None:
    """What would take seconds of every case is left out."""
    cli.DEMO_LIMIT = 20_000
    timing.speed = lambda *_: 1e9  # it is only for an estimate
    grading._finding = _finding
    explain.interleave = lambda steps, *_: {name: [1.0] for name in steps}


def _finding(check: object, process: Process) -> Finding:
    """In place of a process that has to start: what a submission may say."""
    process.problems, process.printed = [ESCAPES * 99], 1
    return Finding(f"{ESCAPES}\ud800\nPASS 9/9 all")


def _child(one: Case, here: Path, out: int, err: int) -> None:
    """Run the command as a shell would, and end."""
    status = 99
    try:
        _shortened()
        os.chdir(here)
        if one.stream == "a full disk":
            out = os.open("/dev/full", os.O_WRONLY)
        elif one.stream == "a closed pipe":
            reading, out = os.pipe()
            os.close(reading)
        os.dup2(out, 1)
        os.dup2(err, 2)
        encoding = one.stream if one.stream in ENCODINGS else "utf-8"
        sys.stdout = None if one.stream == "closed" else io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding=encoding
        )  # fmt: skip
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)), encoding=encoding
        )
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            status = cli.main(one.words)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 98
        for stream in (sys.stdout, sys.stderr):  # as Python does at its end
            if stream is not None:
                stream.flush()
    except BaseException:
        os.write(err, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(status)


def judge(status: int, printed: str, said: str, most: int = LONGEST) -> str:
    """Why this is not how a command may end; "" if it is."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    if "Traceback" in said:
        return f"traceback: {said.strip().splitlines()[-1][:150]}"
    if status not in (0, 1, 2, 130):
        return f"status {status}"
    for text, allowed in ((printed, "\n"), (said, "\n\r")):
        wild = {c for c in text if not c.isprintable() and c not in allowed}
        if wild:
            return f"raw {sorted(wild)!r}"
    parts = said.split("\r")  # a bar begins with one
    messages = [m for p in parts for m in re.split(r"^perakit: ", p, flags=re.MULTILINE)[1:]]
    longest = max(map(len, messages), default=0)
    if longest > most + 1:
        return f"a message of {longest} characters"
    if status == 2 and not messages:
        return "refused without a word"
    if "Warning" in said:
        return "a warning"
    return ""


# --- all of them ----------------------------------------------------------------------------------


def prepare(folder: Path) -> dict[str, list[argparse.Action]]:
    """The files and the commands; once, before the cases are forked."""
    torch.set_num_threads(1)
    world(folder / "world")
    list(pk.theory.claims)  # which imports what every case would import again
    return commands(cli._parser())


def fuzz(numbers: range, seed: int, shown: int = 20) -> int:
    """Run the cases and print what came of them; the number of failures."""
    began, failures, counts, slowest = time.monotonic(), [], Counter(), (0.0, 0)
    with tempfile.TemporaryDirectory(prefix="perakit-fuzz-") as name:
        folder = Path(name)
        known = prepare(folder)
        for number in numbers:
            one, start = case(seed, number, known), time.monotonic()
            wrong, text = run(one, folder)
            slowest = max(slowest, (time.monotonic() - start, number))
            counts[one.command, wrong.partition(":")[0] or text.partition("\n")[0]] += 1
            if number % 100 == 99:
                print(f"{number + 1} cases, {time.monotonic() - began:.0f} s", flush=True)
            if wrong:
                failures.append((one, wrong, text))
                print(f"case {number}: {wrong}: {_shown(one)}", flush=True)
    for one, wrong, text in failures[:shown]:
        print(f"\ncase {one.number}: {wrong}: {_shown(one)}\n{text[-1500:]!a}")
    for (command, outcome), count in sorted(counts.items()):
        print(f"{command:18} {outcome:12} {count:6}")
    print(
        f"{len(numbers)} cases of seed {seed}, {time.monotonic() - began:.0f} s, the slowest"
        f" {slowest[0]:.1f} s (case {slowest[1]}): {len(failures)} failures"
    )
    row = {
        "promised": "the command line: any text is done or refused in one sentence",
        "attacked": "hostile words for every option, full disks and closed pipes",
        "times": f"{len(numbers):,}",
        "came_out": f"{len(failures)} failures, the slowest {slowest[0]:.0f} s",
    }
    print(json.dumps(row))
    return len(failures)


def _shown(one: Case) -> str:
    words = [word if len(word) < 60 else f"{word[:20]}...({len(word)})" for word in one.words]
    return f"{words!a} with {one.stream}"


def main() -> int:
    """The command line; status 1 where a case failed."""
    parser = argparse.ArgumentParser(description="hostile command lines")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone, with what it printed")
    args = parser.parse_args()
    numbers = range(args.count) if args.case is None else range(args.case, args.case + 1)
    if args.case is not None:
        with tempfile.TemporaryDirectory() as name:
            known = prepare(Path(name))
            one = case(args.seed, args.case, known)
            wrong, text = run(one, Path(name))
            print(
                f"{_shown(one)}\n{text!s}\n{wrong or 'well'}".encode(
                    "ascii", "backslashreplace"
                ).decode()
            )
            return bool(wrong)
    return min(fuzz(numbers, args.seed), 1)


if __name__ == "__main__":
    sys.exit(main())
