"""The `perakit` command: thin, it reads arguments and calls the library.

Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size
from tempfile import gettempdir
from typing import Any, NoReturn, TextIO

from torch import OutOfMemoryError, nn
from tqdm.auto import tqdm

from perakit import __version__, classroom
from perakit.adapters import PERA, LoRA, Method
from perakit.bench import command as bench
from perakit.bench.explain import explain, measure
from perakit.bench.measured import as_json
from perakit.bench.settings import LOW_RANK, check_memory
from perakit.classroom.without_solutions import export_without_solutions
from perakit.errors import PerakitError, printable, short
from perakit.experiments import EXPERIMENTS, Options
from perakit.experiments.report import findings_table
from perakit.files import write_atomically
from perakit.formulas import check_count
from perakit.models import attach, catalogue, fused
from perakit.models import load as load_adapter
from perakit.models.export import export_peft
from perakit.models.layers import DTYPES, kind_of
from perakit.models.targets import Targets
from perakit.table import Table
from perakit.theory.claims import EXAMPLES, Claim, Evidence, claims
from perakit.theory.report import verify
from perakit.toy import Recipe, corpus, distributed, finetune, load, small, smollm2
from perakit.toy.language import sizes

METHODS_HELP = (
    "methods, each NAME or NAME:OPTION=VALUE,... as in pera:terms=square,degree=3 (default: lora"
    " pera)"
)
BENCH_OPTIONS = (
    "dtype",
    "layers",
    "tokens",
    "ranks",
    "repeats",
    "parts",
    "models",
    "model_ranks",
    "seed",
)
WORDS = {"None": None, "True": True, "False": False}
DEMO_LIMIT = 1_000_000  # bytes of training text; the held-out text is a ninth of it
LARGEST_WHOLE, LARGEST_NUMBER = 2**63 - 1, 1e30  # what torch and AdamW in float32 can hold
MOST_EXAMPLES, MOST_SEEDS = 1_000_000, 1_000  # more would take weeks: it is a mistake
# Bytes a trained parameter takes: itself, its gradient and AdamW's two moments, in float32
TRAINED = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0; 1 for a verdict that does not stand; 2 for what cannot be done, which is said in one
    sentence: a PerakitError, or a machine without the memory or the disk for it; 130 for an
    interrupt.
    """
    with _terminal():
        resumes = False
        try:
            if sys.stdout is None:
                raise PerakitError("standard output is closed: send it to a file, or to /dev/null")
            arguments = _parse(sys.argv[1:] if argv is None else argv)
            resumes = arguments.run in (_demo, _finetune, _bench, _experiment)
            status: int | None = arguments.run(arguments)
            sys.stdout.flush()  # here, where a full disk can still be told
        except PerakitError as error:
            return _refuse(error)
        except KeyboardInterrupt:
            _say(
                "interrupted"
                + ("; the same command goes on from what it has kept" if resumes else ""),
                before="\n",
            )
            return 130
        except BrokenPipeError:  # `perakit ... | head`: the reader has what it wanted
            _drop_what_cannot_be_written()
            return 0
        except (OSError, MemoryError, RuntimeError) as error:
            said = _of_the_machine(error)
            if said is None:
                raise
            _drop_what_cannot_be_written()
            return _refuse(PerakitError(said))
        return status or 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    if any("\0" in word for word in argv):
        raise PerakitError("an argument has a NUL character, which no name can have: leave it out")
    return _parser().parse_args(argv)


def _of_the_machine(error: Exception) -> str | None:
    """What the machine could not do, and what helps; None where it was not the machine."""
    if isinstance(error, OSError):
        name = "" if error.filename is None else f" {short(os.fsdecode(error.filename))}"
        return (
            f"the system refuses{name}: {error.strerror or error}; choose a name that it takes, and"
            " a disk with room"
        )
    # On a CPU torch has no class for it
    if isinstance(error, MemoryError | OutOfMemoryError) or "allocate memory" in str(error):
        return "there is not enough memory for this: choose smaller sizes, or a larger machine"
    if isinstance(error, RecursionError):
        return "something here is nested too deeply to be read: look at the files that it names"
    return None


@contextmanager
def _terminal() -> Iterator[None]:
    """Within the block, any terminal can show what is printed.

    What its encoding lacks is written as an escape. Where the shell has closed stderr, messages go
    nowhere, and not into the results.
    """
    with open(os.devnull, "w") as nowhere, redirect_stderr(sys.stderr or nowhere):
        streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper)]
        before = [stream.errors for stream in streams]
        for stream in streams:
            stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            for stream, errors in zip(streams, before, strict=True):
                stream.reconfigure(errors=errors)


def _drop_what_cannot_be_written() -> None:
    """Forget output for a full disk or a reader that has gone.

    Python would try again at its end.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _drop(stream)


def _drop(stream: TextIO) -> None:
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _demo(arguments: argparse.Namespace) -> None:
    recipe = Recipe(seed=arguments.seed)
    if arguments.small:
        recipe = replace(recipe, steps=12, eval_every=6, checkpoint_every=6, eval_windows=8)
    model = load(arguments.model)
    _check_size(model, [PERA(arguments.rank)], "all-linear", recipe)
    pera = finetune.uniform(model, PERA(arguments.rank), "all-linear")
    trials = [
        finetune.uniform(model, LoRA(arguments.rank), "all-linear"),
        pera,
        finetune.matched_lora(model, pera),
    ]
    _say("reading the standard library: docstring prose is the old domain, code the new one")
    new, old = corpus.load("code", DEMO_LIMIT), corpus.load("prose", DEMO_LIMIT)
    result = finetune.compare(
        arguments.model, trials, new, old, recipe, arguments.out, arguments.device
    )
    _show(f"Fine-tuning the {arguments.model} GPT-2 from prose to code\n")
    _finish(result, arguments.out)


def _finetune(arguments: argparse.Namespace) -> int:
    with distributed.process_group(arguments.device) as device:
        try:
            trials, new, old, recipe = distributed.together(lambda: _plan(arguments))
            result = finetune.compare(
                arguments.model, trials, new, old, recipe, arguments.out, device, arguments.quantize
            )
        # Of all processes: the first one says it before the group ends
        except PerakitError as error:
            return _refuse(error)
        if distributed.rank() == 0:
            _show(f"Fine-tuning {arguments.model} on {arguments.text}\n")
            _finish(result, arguments.out)
    return 0


def _plan(
    arguments: argparse.Namespace,
) -> tuple[list[finetune.Trial], corpus.Corpus, corpus.Corpus | None, Recipe]:
    """What `perakit finetune` was asked to compare."""
    model = load(arguments.model)
    _fill(arguments)
    targets = _targets(arguments.targets)
    names = ("steps", "batch", "context", "lr", "warmup", "seed", "eval_every", "bf16")
    recipe = Recipe(
        **{name: getattr(arguments, name) for name in names}, checkpoint_every=arguments.eval_every
    )
    methods = [(text, _method(text, arguments)) for text in arguments.method]
    _check_size(model, [method for _, method in methods], targets, recipe)
    trials = [
        finetune.uniform(model, method, targets, printable(f"{text} r={method.rank}"))
        for text, method in methods
    ]
    new = corpus.load(arguments.text, arguments.limit)
    old = corpus.load(arguments.old, arguments.limit) if arguments.old else None
    return trials, new, old, recipe


def _fill(arguments: argparse.Namespace) -> None:
    """Give options that were left out what is usual for the model."""
    own = smollm2.USUAL if arguments.model == smollm2.NAME else {}
    usual = {"targets": "all-linear", "batch": Recipe.batch, "lr": Recipe.lr} | own
    for name, value in usual.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _targets(text: str) -> Targets:
    return text if text == "all-linear" else fused.split(text)


def _check_size(
    model: nn.Module, methods: Sequence[Method], targets: Targets, recipe: Recipe
) -> None:
    """Refuse, before any work, a rank that no layer has, and what this machine cannot hold."""
    shapes = [kind.weight(layer).shape for layer in model.modules() if (kind := kind_of(layer))]
    largest, adapted = (
        max(LOW_RANK, *map(min, shapes)),
        len(fused.methods(model, methods[0], targets)),
    )
    logits = 8 * recipe.batch * recipe.context * sizes(model).vocabulary  # and their gradients
    for method in methods:
        if method.rank > largest:
            raise PerakitError(
                f"rank {method.rank} is more than any layer here can have: choose {largest} at most"
            )
        trained = TRAINED * adapted * min(method.count(m, n) for m, n in shapes)
        check_memory(f"a step with {method.name}", trained + logits, "a smaller rank or batch")


def _refuse(error: PerakitError) -> int:
    if distributed.rank() == 0:
        _say(str(error))
    return 2


def _finish(result: Any, out: Path) -> None:
    _show(result.table())
    _show(
        f"\nIn {out}/: report.md, loss.png, metrics.jsonl, results.json, and an adapter in each"
        " method's folder."
    )


def _export(arguments: argparse.Namespace) -> None:
    model = load(arguments.model)
    load_adapter(model, arguments.adapter)
    _show(export_peft(model, arguments.out, arguments.rank, arguments.pad))


def _grade(arguments: argparse.Namespace) -> None:
    if arguments.gradescope and len(arguments.files) > 1:
        raise PerakitError(
            f"--gradescope takes one submission, not {len(arguments.files)}: use --json or --csv"
            " for many"
        )
    written = {"json": arguments.json, "csv": arguments.csv, "gradescope": arguments.gradescope}
    for option, path in written.items():
        if path and os.path.exists(path) and not os.path.isfile(path):
            raise PerakitError(
                f"--{option} {str(path)!r} is a folder, a device or a pipe: name a plain file"
            )
    files = _once(arguments.files)
    several = len(files) > 1
    reports: list[classroom.Report] = []
    graded = classroom.grade_all(files, arguments.assignment, arguments.hidden, arguments.jobs)
    for report in tqdm(
        graded,
        total=len(files),
        desc="grading",
        unit="file",
        leave=False,
        disable=None if several else True,
    ):
        reports.append(report)
        _write_marks(arguments, reports, several)  # now: what comes later may be interrupted
        if report.error and not several:
            raise PerakitError(report.error)
        if report.error:
            tqdm.write(f"perakit: {printable(report.error)}", file=sys.stderr)
        head = f"== {printable(report.file)}\n" if several else ""
        tqdm.write(f"{head}{_laid_out(report)}" + "\n" * several, file=sys.stdout)
    if several:
        rows = [
            [report.file, report.assignment, f"{report.points:g}", f"{report.of:g}"]
            if not report.error
            else [report.file, "not graded", "", ""]
            for report in reports
        ]
        _show(Table(("file", "assignment", "points", "of"), rows))
    if refused := sum(bool(report.error) for report in reports):
        raise PerakitError(
            f"{refused} of {len(reports)} submissions could not be graded: see above"
        )


def _once(files: Sequence[Path]) -> list[Path]:
    """The files, each of them once; says which was given twice, and which share a name."""
    found: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for path in files:
        place = os.path.realpath(path)
        if place in found:
            _say(f"{str(path)!r} was given twice: it is graded once")
            continue
        found[place] = path
        name = os.path.splitext(place)[0]
        if name in names:
            _say(
                f"{str(names[name])!r} and {str(path)!r} have one name: both are graded, and each"
                " has its own line"
            )
        names.setdefault(name, path)
    return list(found.values())


def _laid_out(report: classroom.Report) -> str:
    """A report as stdout shows it best: plain in a file, wrapped and coloured in a terminal."""
    if not sys.stdout.isatty():
        return str(report)
    # no-color.org: whoever sets it wants none
    return report.laid_out(get_terminal_size().columns, "NO_COLOR" not in os.environ)


def _write_marks(
    arguments: argparse.Namespace, reports: Sequence[classroom.Report], several: bool
) -> None:
    if arguments.json:
        document = [report.to_dict() for report in reports]
        _write_json(arguments.json, document if several else document[0])
    if arguments.csv:
        write_atomically(arguments.csv, _bytes(classroom.marks(reports)))
    if arguments.gradescope:
        _write_json(arguments.gradescope, reports[0].gradescope())


def _write_json(path: Path, document: Any) -> None:
    write_atomically(path, _bytes(json.dumps(document, indent=2, ensure_ascii=False)))


def _bytes(text: str) -> bytes:
    r"""As UTF-8. A file name may have bytes that are none, in Python half of a pair of surrogates:
    it becomes its escape, \udce9, which JSON reads back.
    """
    return text.encode(errors="backslashreplace")


def _assignment_list(arguments: argparse.Namespace) -> None:
    rows = [
        [task.id, task.title, str(len(task.checks)), f"{task.points:g}"]
        for task in classroom.assignments().values()
    ]
    _show(Table(("id", "title", "checks", "points"), rows))


def _assignment_new(arguments: argparse.Namespace) -> None:
    written = classroom.new(arguments.id, arguments.out or Path(arguments.id))
    _show("\n".join(map(str, written)))
    _show(f"\nWork in one of the two, and see what it is worth: perakit grade {written[0]}")


def _assignment_export(arguments: argparse.Namespace) -> None:
    if arguments.without_solutions:
        if arguments.id is not None:
            raise PerakitError(
                "--without-solutions writes one wheel with all assignments: leave out"
                f" {short(arguments.id)}"
            )
        wheel = export_without_solutions(arguments.out or Path("perakit-students"))
        _show(f"{wheel}\n\nStudents install it: pip install {wheel.name}")
        return
    if arguments.id is None:
        raise PerakitError(
            "say which assignment (see `perakit assignment list`), or --without-solutions"
        )
    written = classroom.export(arguments.id, arguments.out or Path(f"{arguments.id}-teacher"))
    _show("\n".join(map(str, written)))


def _params(arguments: argparse.Namespace) -> None:
    architecture = catalogue.describe(arguments.model)
    methods = [_method(text, arguments) for text in arguments.method]
    _show(catalogue.table(architecture, methods, arguments.targets))


def _verify(arguments: argparse.Namespace) -> int:
    wanted = [claims[id] for id in arguments.claims] or list(claims.values())
    if arguments.list:
        width = max(len(claim.id) for claim in wanted)
        print(
            "\n".join(
                f"{claim.verdict:<10} {claim.id:<{width}}  {claim.title}{_range(claim)}"
                for claim in wanted
            )
        )
        return 0
    check_count("examples", arguments.examples, most=MOST_EXAMPLES)
    # Else it leaves a folder here
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(gettempdir()) / "hypothesis"))
    quiet = arguments.json or arguments.markdown
    # None: no bar but on a terminal
    with tqdm(total=len(wanted), desc="checking", unit="claim", leave=False, disable=None) as bar:

        def show(evidence: Evidence) -> None:
            bar.update()
            if not quiet:
                claim = claims[evidence.claim]
                text = _evidence(claim, evidence, in_full=bool(arguments.claims))
                bar.write(printable(text), file=sys.stdout)

        report = verify([claim.id for claim in wanted], arguments.seed, arguments.examples, show)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        print(
            report.markdown() if arguments.markdown else report,
            end="" if arguments.markdown else "\n",
        )
    if report.failed:
        _say(f"the verdict does not stand for {', '.join(report.failed)}: see the evidence")
    return 1 if report.failed else 0


def _bench(arguments: argparse.Namespace) -> None:
    given = {
        name: value for name in BENCH_OPTIONS if (value := getattr(arguments, name)) is not None
    }
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    if arguments.layers:
        given["layers"] = tuple(map(bench.layer, arguments.layers))
    usual = bench.usual(arguments.device, page=bool(arguments.docs))
    settings = replace(usual, **given)
    if arguments.docs:  # refused now, and not after all has been measured
        bench.page(arguments.docs, settings.device)
    document = bench.run(settings, arguments.out)
    _show(bench.table(document))
    bench.publish(document, arguments.docs or arguments.out, onto_page=bool(arguments.docs))


def _explain(arguments: argparse.Namespace) -> None:
    model = load(arguments.model)
    if arguments.adapter:
        load_adapter(model, arguments.adapter)
    else:
        method, targets = _method(arguments.method, arguments), _targets(arguments.targets)
        _check_size(model, [method], targets, Recipe())
        attach(model, method, targets)
    named: dict[str, Any] = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    dtype = named.get(arguments.dtype, arguments.dtype)
    # In training: dropout changes the way
    explanation = explain(model.train(), arguments.tokens, dtype, arguments.device)
    if arguments.measure:
        explanation = measure(explanation, model, seed=arguments.seed)
    if arguments.json:  # first: after a mistake stdout has nothing
        write_atomically(arguments.json, as_json(explanation.to_dict(arguments.seed)))
    _show(explanation)


def _experiment(arguments: argparse.Namespace) -> None:
    if arguments.name not in EXPERIMENTS:
        raise PerakitError(
            f"no experiment {arguments.name!r}: choose one of {', '.join(EXPERIMENTS)}"
        )
    experiment = EXPERIMENTS[arguments.name]
    check_count("seeds", arguments.seeds, least=2, most=MOST_SEEDS)
    old = None if arguments.old == "none" else arguments.old
    options = Options(
        arguments.seeds, arguments.small, arguments.device, arguments.model, arguments.text, old
    )
    _, report = experiment.run(options, arguments.out, arguments.resume)
    _show(f"{experiment.title}\n")
    for heading, table in (("Findings", findings_table(report.findings)), *report.tables):
        _show(f"{heading}\n\n{table}\n")
    _show(
        f"In {arguments.out}/: {arguments.name}.md, {arguments.name}.png, {arguments.name}.jsonl."
    )


def _evidence(claim: Claim, evidence: Evidence, in_full: bool) -> str:
    if in_full:
        return f"{claim.title}\n  {claim.statement}\n  source: {claim.source}\n{evidence}\n"
    return (
        f"{claim.verdict if evidence.holds else 'FAILS':<10} {claim.id}:"
        f" {claim.title}{_range(claim)}\n{'':<10} {evidence.summary}"
    )


def _range(claim: Claim) -> str:
    return f" ({claim.range})" if claim.range else ""


def _method(text: str, arguments: argparse.Namespace) -> Method:
    """A method from `name` or `name:option=value,...`, with the command line's rank and alpha.

    `DoRA` is `dora`.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise PerakitError(
                f"method option {option!r} has no value: write {name}:{option}=VALUE"
            )
        options[key] = _value(value)
    if name not in Method.registry:
        name = {known.lower(): known for known in Method.registry}.get(name.lower(), name)
    common = {"method": name, "rank": arguments.rank, "alpha": arguments.alpha}
    return Method.from_dict(common | options)


def _value(text: str) -> Any:
    """A number or a word of Python's where `text` is one, else the text without its quotes."""
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return WORDS.get(text, text.strip("'\""))


def _show(what: object) -> None:
    """Print a result. Names from a file or an argument may hold anything, also ESC."""
    print(printable(str(what)))


def _say(text: str, before: str = "") -> None:
    """A sentence on stderr, as far as it can be written."""
    try:
        print(f"{before}perakit: {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


# --- arguments ------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Mistakes are one sentence, as all others."""

    def error(self, message: str) -> NoReturn:
        raise PerakitError(f"{message.rstrip('.')}; `{self.prog} --help` says what it takes")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """The value of an option. Python 3.11 makes an empty list of `--out=--`."""
        if action.nargs is None and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "-- is no value: write ./-- for such a name")
        return super()._get_values(action, arg_strings)

    def _print_message(self, message: str, file: Any = None) -> None:
        """The help. argparse's own keeps silent where it cannot be written."""
        print(message, end="", file=file, flush=True)


def _text(text: str) -> str:
    """Text that is there: a variable that a shell does not know would leave none."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave the option out")
    return text


def _path(text: str) -> Path:
    return Path(_text(text))


def _whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:  # also for digits without end
        raise argparse.ArgumentTypeError(f"{short(text)} is no whole number") from None
    if abs(value) > LARGEST_WHOLE:
        raise argparse.ArgumentTypeError(f"{short(text)} is beyond {LARGEST_WHOLE}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{short(text)} is no number") from None
    if LARGEST_NUMBER < abs(value) < math.inf:
        raise argparse.ArgumentTypeError(f"{short(text)} is beyond {LARGEST_NUMBER:g}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="perakit", description="PERA and LoRA from first principles.")
    parser.add_argument("--version", action="version", version=f"perakit {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run=lambda _: parser.print_help())
    recipe = Recipe()

    demo = commands.add_parser(
        "demo", help="fine-tune the tiny model from prose to code with LoRA and PERA, offline"
    )
    demo.add_argument(
        "--model",
        choices=("tiny", small.NAME),
        default="tiny",
        help="tiny, or small, which `make small` makes (default: %(default)s)",
    )
    demo.add_argument(
        "--out",
        type=_path,
        default=Path("perakit-demo"),
        help="folder for report, figure and adapters (default: %(default)s)",
    )
    demo.add_argument(
        "--small", action="store_true", help="only 12 steps: does everything, learns little"
    )
    _common(demo)
    demo.set_defaults(run=_demo)

    tune = commands.add_parser(
        "finetune", help="fine-tune a language model on your text with one or more methods"
    )
    tune.add_argument(
        "--model",
        type=_text,
        default="tiny",
        help=(
            "tiny, small, smollm2, gpt2, gpt2-medium ..., or a checkpoint folder (default:"
            " %(default)s)"
        ),
    )
    tune.add_argument(
        "--text",
        type=_text,
        required=True,
        help="a text file, or prose, code, prose:PACKAGE, package:PACKAGE, synthetic, product, sum",
    )
    tune.add_argument(
        "--old", type=_text, help="another such text, whose held-out cost is watched (forgetting)"
    )
    tune.add_argument("--limit", type=_whole, help="keep at most this many bytes of training text")
    tune.add_argument(
        "--out",
        type=_path,
        required=True,
        help="folder for report, figure and adapters; run again to resume",
    )
    tune.add_argument(
        "--method", nargs="+", default=["lora", "pera"], metavar="NAME", help=METHODS_HELP
    )
    tune.add_argument(
        "--targets",
        help=(
            "layer names separated by commas, as in c_attn[q,v],c_proj (default: all-linear; of"
            f" smollm2 {smollm2.USUAL['targets']})"
        ),
    )
    tune.add_argument(
        "--quantize",
        choices=["nf4"],
        help="keep the adapted layers' own weights in 4 bits (default: as they are)",
    )
    tune.add_argument(
        "--alpha", type=_number, help="scale numerator; default: the rank, so that the scale is 1"
    )
    tune.add_argument("--steps", type=_whole, default=recipe.steps, help="default: %(default)s")
    tune.add_argument(
        "--batch",
        type=_whole,
        help=f"windows a step (default: {recipe.batch}; of smollm2 {smollm2.USUAL['batch']})",
    )
    tune.add_argument(
        "--context",
        type=_whole,
        default=recipe.context,
        help="tokens a window (default: %(default)s)",
    )
    tune.add_argument(
        "--lr",
        type=_number,
        help=(
            f"peak learning rate, the same for every method (default: {recipe.lr:g}; of smollm2"
            f" {smollm2.USUAL['lr']:g})"
        ),
    )
    tune.add_argument(
        "--warmup",
        type=_whole,
        default=recipe.warmup,
        help="steps of rising learning rate (default: %(default)s)",
    )
    tune.add_argument(
        "--eval-every",
        type=_whole,
        default=recipe.eval_every,
        help="steps between held-out costs, and checkpoints (default: %(default)s)",
    )
    tune.add_argument("--bf16", action="store_true", help="autocast the forward pass to bfloat16")
    _common(tune)
    tune.set_defaults(run=_finetune)

    export = commands.add_parser(
        "export",
        help=(
            "write a saved adapter as a standard PEFT LoRA, which other libraries and servers load"
        ),
    )
    export.add_argument(
        "adapter", type=_path, metavar="DIR", help="folder that pk.save or `perakit finetune` wrote"
    )
    export.add_argument(
        "--out",
        type=_path,
        required=True,
        help="folder for adapter_config.json and adapter_model.safetensors",
    )
    export.add_argument(
        "--model",
        type=_text,
        default="tiny",
        help="the base that it was trained on: as for finetune (default: %(default)s)",
    )
    export.add_argument(
        "--rank",
        type=_whole,
        help="cut every layer to this rank; the table says what is lost (default: exact)",
    )
    export.add_argument(
        "--pad",
        action="store_true",
        help="fill up with zeros to one rank that servers take: 1, 8, 16, 32, ... 512",
    )
    export.set_defaults(run=_export)

    check = commands.add_parser(
        "verify",
        help="check every claim about PERA and its relatives: statement, verdict, evidence",
    )
    check.add_argument(
        "claims", nargs="*", metavar="ID", help="claims to check in full (default: all, in brief)"
    )
    check.add_argument(
        "--examples",
        type=_whole,
        default=EXAMPLES,
        help="tried for each verified claim (default: %(default)s)",
    )
    check.add_argument(
        "--seed", type=_whole, default=0, help="of everything random (default: %(default)s)"
    )
    form = check.add_mutually_exclusive_group()
    form.add_argument("--list", action="store_true", help="only show ids, verdicts and titles")
    form.add_argument(
        "--json",
        action="store_true",
        help="the report as JSON, with seed, versions and the hash of formulas.py",
    )
    form.add_argument(
        "--markdown", action="store_true", help="the report as a page: docs/claims.md"
    )
    check.set_defaults(run=_verify)

    speed = commands.add_parser(
        "bench",
        help="time base, LoRA, PERA, the authors' algorithm and PEFT side by side on this machine",
    )
    speed.add_argument(
        "--out",
        type=_path,
        default=Path("perakit-bench"),
        help="folder for numbers and figures (default: %(default)s)",
    )
    speed.add_argument(
        "--docs",
        type=_path,
        help=(
            "the folder of performance.md, whose part of this --device is renewed with its numbers"
            " and figures; on a CPU measures all parts and models"
        ),
    )
    speed.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    speed.add_argument(
        "--dtype",
        nargs="+",
        help="of the base: float32, bfloat16 (default: float32, on CUDA both)",
    )
    speed.add_argument(
        "--layers",
        nargs="+",
        metavar="MxN",
        help="outputs x inputs (default: 768x768 3072x768, on CUDA 768x768 4096x4096)",
    )
    speed.add_argument(
        "--tokens",
        nargs="+",
        type=_whole,
        help="a step (default: 256 1024 4096, on CUDA 256 4096 16384)",
    )
    speed.add_argument(
        "--ranks",
        nargs="+",
        type=_whole,
        help="of the adapters on single layers (default: 4 8 16 32, on CUDA 8 32)",
    )
    speed.add_argument(
        "--repeats",
        type=_whole,
        help=(
            "rounds that count, of inference twice, of plans a third as many (default: 9; with"
            " --docs on a CPU 33)"
        ),
    )
    speed.add_argument(
        "--parts",
        nargs="+",
        help=(
            "of layers, plans, inference, host, models, memory (default: all but plans; with --docs"
            " all; on CUDA layers, inference, models)"
        ),
    )
    speed.add_argument(
        "--models",
        nargs="+",
        help=(
            "whose training step is timed: tiny, 124M (default: tiny; with --docs both; on CUDA"
            " 124M)"
        ),
    )
    speed.add_argument(
        "--model-ranks", nargs="+", type=_whole, help="of the adapters on models (default: 8)"
    )
    speed.add_argument("--seed", type=_whole, help="of weights, factors and inputs (default: 0)")
    speed.set_defaults(run=_bench)

    why = commands.add_parser(
        "explain",
        help="which way each adapted layer goes, what the others would cost, and why",
    )
    why.add_argument(
        "--model", type=_text, default="tiny", help="as for finetune (default: %(default)s)"
    )
    method = why.add_mutually_exclusive_group()
    method.add_argument(
        "--method",
        default="pera",
        metavar="NAME",
        help="NAME or NAME:OPTION=VALUE,... (default: %(default)s)",
    )
    method.add_argument(
        "--adapter",
        type=_path,
        metavar="DIR",
        help="folder that pk.save or `perakit finetune` wrote, in place of a new adapter",
    )
    why.add_argument("--alpha", type=_number, help=argparse.SUPPRESS)
    why.add_argument(
        "--targets",
        default="all-linear",
        help="layer names separated by commas, as for finetune (default: %(default)s)",
    )
    why.add_argument(
        "--tokens",
        type=_whole,
        default=recipe.batch * recipe.context,
        help="rows that a layer is given in a step: batch times context (default: %(default)s)",
    )
    why.add_argument("--dtype", help="as if the model were in it: bfloat16 (default: as it is)")
    why.add_argument(
        "--measure",
        action="store_true",
        help="time one layer of each kind: as chosen, the plain way, plain LoRA; some seconds",
    )
    why.add_argument("--json", type=_path, metavar="FILE", help="write all of it, exact")
    _common(why)
    why.set_defaults(run=_explain)

    usual = Options()
    evidence = commands.add_parser(
        "experiment",
        help=(
            "repeat an experiment of the paper at a small size: table, figure, intervals, verdicts"
        ),
    )
    evidence.add_argument("name", metavar="NAME", help=", ".join(EXPERIMENTS))
    evidence.add_argument(
        "--seeds",
        type=_whole,
        default=usual.seeds,
        help="two at least; more can follow later (default: %(default)s)",
    )
    evidence.add_argument(
        "--out",
        type=_path,
        default=Path("perakit-experiments"),
        help="folder for results; what is there is not run again (default: %(default)s)",
    )
    evidence.add_argument(
        "--resume",
        action="store_true",
        help="go on with the options that the folder was begun with",
    )
    evidence.add_argument(
        "--small",
        action="store_true",
        help="a few steps: shows that it runs, says nothing about methods",
    )
    evidence.add_argument(
        "--device", default=usual.device, help="cpu or cuda (default: %(default)s)"
    )
    evidence.add_argument(
        "--model", type=_text, default=usual.model, help="as for finetune (default: %(default)s)"
    )
    evidence.add_argument(
        "--text",
        type=_text,
        default=usual.text,
        help="to learn, as for finetune (default: %(default)s)",
    )
    evidence.add_argument(
        "--old",
        type=_text,
        default=usual.old,
        help="text whose held-out cost is watched, none for none (default: %(default)s)",
    )
    evidence.set_defaults(run=_experiment)

    grading = commands.add_parser(
        "grade",
        help=(
            "grade submissions of an assignment: points, and the smallest input that breaks a"
            " function"
        ),
    )
    grading.add_argument(
        "files",
        nargs="+",
        type=_path,
        metavar="FILE",
        help=".py or .ipynb that was handed in; it is never changed",
    )
    grading.add_argument(
        "--assignment", metavar="ID", help="which one it is (default: as the file says)"
    )
    grading.add_argument(
        "--hidden",
        type=_path,
        metavar="FILE",
        help="a Python file with checks of your own, counted as well",
    )
    grading.add_argument(
        "--jobs",
        type=_whole,
        default=1,
        metavar="N",
        help="submissions that are graded at a time (default 1)",
    )
    grading.add_argument(
        "--json",
        type=_path,
        metavar="FILE",
        help="write every outcome, with seed, versions and hashes",
    )
    grading.add_argument(
        "--csv", type=_path, metavar="FILE", help="write a line of points for each submission"
    )
    grading.add_argument(
        "--gradescope",
        type=_path,
        metavar="FILE",
        help="write Gradescope's results.json (of one submission)",
    )
    grading.set_defaults(run=_grade)

    assignment = commands.add_parser(
        "assignment", help="the assignments of a four-week unit: list them, begin one, export one"
    )
    actions = assignment.add_subparsers(title="actions", metavar="ACTION", required=True)
    actions.add_parser("list", help="ids, titles, points").set_defaults(run=_assignment_list)
    begin = actions.add_parser("new", help="write what a student begins with, as .py and .ipynb")
    begin.set_defaults(run=_assignment_new)
    give = actions.add_parser(
        "export",
        help=(
            "write what a teacher needs: solution, notes, rubric; folders for otter-grader,"
            " nbgrader; or what students install"
        ),
    )
    give.add_argument(
        "--without-solutions",
        action="store_true",
        help="write a wheel of perakit for students: the checks of all assignments, no solutions",
    )
    give.set_defaults(run=_assignment_export)
    begin.add_argument("id", metavar="ID", help="of the assignment")
    give.add_argument("id", metavar="ID", nargs="?", help="of the assignment")
    for action in (begin, give):
        action.add_argument(
            "-o",
            "--out",
            type=_path,
            help="folder (default: one with the name of the assignment); nothing is overwritten",
        )

    params = commands.add_parser(
        "params", help="trainable parameters of each method on a well-known model"
    )
    params.add_argument(
        "--model",
        type=_text,
        required=True,
        help="gpt2, llama3-8b, roberta-base ..., or a config.json",
    )
    params.add_argument("--rank", type=_whole, default=8, help="default: %(default)s")
    params.add_argument("--alpha", type=_number, help=argparse.SUPPRESS)
    params.add_argument(
        "--targets",
        help="separated by commas: q,k,v,o,gate,up,down, or layer names (default: q,k,v,up,down)",
    )
    params.add_argument(
        "--method", nargs="+", default=["lora", "pera"], metavar="NAME", help=METHODS_HELP
    )
    params.set_defaults(run=_params)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rank", type=_whole, default=8, help="rank r of the factors (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=_whole,
        default=0,
        help="of factors, batches and dropout (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
