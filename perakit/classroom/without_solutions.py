"""What students install: a wheel of perakit that has the checks and no reference solutions.

It is made from the files of this installation, and has their name and version.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from perakit import __version__
from perakit.classroom.assignment import FOLDER, SOLUTION, STUB
from perakit.classroom.export import write
from perakit.classroom.submission import parse_percent, to_percent
from perakit.errors import PerakitError

PACKAGE = Path(__file__).parents[1]
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can have; a wheel's files have no other
ABOUT = f"""\
Wheel-Version: 1.0
Generator: perakit {__version__}
Root-Is-Purelib: true
Tag: py3-none-any
"""


def export_without_solutions(folder: str | Path) -> Path:
    """Write perakit-VERSION-py3-none-any.whl into `folder`; a file that is there stays.

    Students install it with pip, and have everything but the reference solutions and the teacher's
    notes. Twice made it is the same, byte for byte. Returns its path. PerakitError where perakit
    runs without being installed, or its version is not the installed one.
    """
    name = f"perakit-{__version__.replace('-', '_')}"
    files = dict(_package()) | {
        f"{name}.dist-info/{path}": data for path, data in _about(_installed()).items()
    }
    record = f"{name}.dist-info/RECORD"
    wheel = _zipped(files | {record: _record(files, record)})
    return write(Path(folder), {f"{name}-py3-none-any.whl": wheel})[0]


def without_solutions(text: str) -> str:
    r"""An assignment's file with a stub in place of each solution, and no cells for the teacher.

    >>> without_solutions("# %%\n# BEGIN SOLUTION\n1 + 1\n# END SOLUTION\n").splitlines()[-1]
    'raise NotImplementedError  # your code here'
    """
    return to_percent(
        replace(cell, source=SOLUTION.sub(rf"\1{STUB}", cell.source))
        for cell in parse_percent(text)
        if "instructor" not in cell.tags
    )


def _package() -> Iterator[tuple[str, bytes]]:
    """The package's files, by their names in the wheel."""
    for path in sorted(PACKAGE.rglob("*")):
        parts = path.relative_to(PACKAGE).parts
        hidden = any(part == "__pycache__" or part.startswith(".") for part in parts)
        if hidden or path.suffix == ".pyc" or not path.is_file():
            continue
        data = path.read_bytes()
        if path.parent == FOLDER:
            # Whatever else a teacher keeps there is no assignment, and nothing for students
            if not path.match("week*_*.py"):
                continue
            data = without_solutions(data.decode("utf-8")).encode()
        yield "/".join(("perakit", *parts)), data


def _installed() -> Distribution:
    try:
        found = distribution("perakit")
    except PackageNotFoundError as error:
        raise PerakitError(
            "perakit runs here without being installed: `pip install -e .` in its folder, and try"
            " again"
        ) from error
    if found.version != __version__:
        raise PerakitError(
            f"perakit {__version__} runs here, and {found.version} is installed: install it again"
        )
    return found


def _about(installed: Distribution) -> dict[str, bytes]:
    """What the installation says of itself, without how it came here."""
    texts = {"METADATA": installed.read_text("METADATA"), "WHEEL": ABOUT}
    texts["entry_points.txt"] = installed.read_text("entry_points.txt")
    for path in installed.files or []:
        if path.parts[0].endswith(".dist-info") and path.parts[1] == "licenses":
            name = "/".join(path.parts[1:])
            texts[name] = installed.read_text(name)
    return {name: text.encode() for name, text in texts.items() if text}


def _record(files: Mapping[str, bytes], record: str) -> bytes:
    """Each file with its hash and its size; the record itself has neither."""
    rows = []
    for name, data in sorted(files.items()):
        hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={hashed},{len(data)}\n")
    return "".join([*rows, f"{record},,\n"]).encode()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip in which nothing says when and where it was made."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        # The names of the record come last, as the format asks
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return made.getvalue()
