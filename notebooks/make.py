"""The notebooks from their sources: NN_name.py in jupytext's percent format is what one edits.

    python notebooks/make.py                     # writes every NN_name.ipynb, without outputs
    python notebooks/make.py --execute FOLDER    # runs them; FOLDER gets copies with outputs

The notebooks that are written are the same bytes every time; two are run at a time. Each carries a
hash of itself: one that somebody has changed by hand no longer fits its hash, and is not
overwritten. Running writes into FOLDER only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from perakit.errors import PerakitError
from perakit.files import write_atomically

__all__ = [
    "SOURCES",
    "CellExecutionError",
    "execute",
    "is_fresh",
    "is_made",
    "lesson",
    "notebook",
    "text",
    "write",
]

HERE = Path(__file__).resolve().parent
SOURCES = sorted(HERE.glob("[0-9][0-9]_*.py"))
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning
    # Jupyter's own, whatever the caller has
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def notebook(source: Path) -> NotebookNode:
    """The notebook of a source, without outputs.

    Cells are numbered, so that nothing changes but what was edited.
    """
    made = jupytext.read(source)
    made.metadata = nbformat.from_dict(KERNEL)
    for i, cell in enumerate(made.cells):
        # a script has blank lines around its functions
        cell["id"], cell.source = f"cell-{i}", cell.source.strip("\n")
    made.metadata["perakit"] = {"lesson": signature(made)}
    return made


def text(made: NotebookNode) -> str:
    """A notebook as it lies on the disk."""
    return nbformat.writes(made).rstrip("\n") + "\n"


def signature(made: NotebookNode) -> str:
    """A hash of the cells: another cell, an output or a letter changes it."""
    return hashlib.sha256(json.dumps(made.cells, sort_keys=True).encode()).hexdigest()


def lesson(data: bytes) -> str | None:
    """Which lesson the bytes of a notebook began as, however they were changed since.

    None for a notebook of somebody else, or for what is no notebook.
    """
    try:
        found = json.loads(data)["metadata"]["perakit"]["lesson"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def is_made(path: Path) -> bool:
    """Whether the file is as some source made it, and holds nothing that somebody added."""
    data = path.read_bytes()
    try:
        return lesson(data) is not None and lesson(data) == signature(
            nbformat.reads(data.decode(), 4)
        )
    except Exception:  # whatever nbformat says of half a notebook: nobody's source made this
        return False


def write(source: Path) -> Path:
    """Write the .ipynb beside its source.

    Raises PerakitError where one lies there that somebody has changed by hand.
    """
    path = source.with_suffix(".ipynb")
    if path.exists() and not is_made(path):
        raise PerakitError(
            f"{path.name} is not as make.py wrote it, so it is left as it is: move it out of"
            f" {path.parent.name}/ if you want to keep it, delete it if not, and run this again"
        )
    write_atomically(path, text(notebook(source)).encode())
    return path


def execute(source: Path, folder: Path) -> float:
    """Run a notebook in an empty folder, as a reader would, and keep the copy with outputs.

    Returns its seconds.
    A cell that raises stops it, with nbclient's CellExecutionError, which shows the cell.
    """
    made, start = notebook(source), time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        quiet = ["--IPKernelApp.log_level=ERROR"]
        place = {"metadata": {"path": empty}}
        client = NotebookClient(
            made, timeout=300, kernel_name="python3", resources=place, extra_arguments=quiet
        )
        client.execute(env=os.environ | ENVIRONMENT)
    seconds = time.perf_counter() - start
    for cell in made.cells:
        cell.metadata.pop("execution", None)  # when each cell ran: of no use to a reader
    made.metadata["perakit"] = {"sha256": fingerprint(source), "seconds": round(seconds, 1)}
    write_atomically(folder / f"{source.stem}.ipynb", text(made).encode())
    return seconds


def fingerprint(source: Path) -> str:
    """A hash of the source and of the package that it runs on.

    An executed copy with another one is out of date.
    """
    files = [source, *sorted((HERE.parent / "perakit").rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_fresh(source: Path, folder: Path) -> bool:
    """Whether the folder has an executed copy of this source, made with this package."""
    ran = folder / f"{source.stem}.ipynb"
    return ran.exists() and nbformat.read(ran, 4).metadata.get("perakit", {}).get(
        "sha256"
    ) == fingerprint(source)


def main(argv: Sequence[str] | None = None) -> int:
    """Write all, or run those named (by default all that are out of date)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--execute", type=Path, metavar="FOLDER")
    parser.add_argument("names", nargs="*", help="parts of names, such as 03 (default: all)")
    arguments = parser.parse_args(argv)
    wanted = [
        source
        for source in SOURCES
        if not arguments.names or any(name in source.stem for name in arguments.names)
    ]
    if arguments.execute:
        if arguments.execute.resolve() in (HERE, HERE.parent / "my-notebooks"):
            parser.error(
                "what lies in FOLDER is written over: name another one, such as build/runs"
            )
        stale = [source for source in wanted if not is_fresh(source, arguments.execute)]
        with ThreadPoolExecutor(2) as pool:
            for source, seconds in zip(
                stale, pool.map(lambda s: execute(s, arguments.execute), stale), strict=True
            ):
                print(f"{source.stem}: {seconds:.0f} s", file=sys.stderr)
        return 0
    refused = 0
    for source in wanted:
        try:
            write(source)
        except PerakitError as error:
            print(f"make.py: {error}", file=sys.stderr)
            refused = 1
    return refused


if __name__ == "__main__":
    sys.exit(main())
