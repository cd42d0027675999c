"""Make the site: python docs/build.py writes build/site; open build/site/index.html.

Runs the notebooks whose source or package has changed, fetches MathJax once with npm, gathers pages
and notebooks in one folder, and calls Sphinx, for which every warning is an error. The pages are
written for GitHub, where their links lead to files; in the gathered copies they lead to pages.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat

from perakit import plots

ROOT = Path(__file__).resolve().parents[1]
DOCS, NOTEBOOKS = ROOT / "docs", ROOT / "notebooks"
MATHJAX = "3.2.2"
MATHJAX_SHA256 = "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09"
# 2 of its 24 MB
MATHJAX_PARTS = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")
LINK = re.compile(r"(?<!!)\[([^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]\(([^)\s]+)\)")
NOT_PAGES = {"build.py", "_build", "__pycache__"}


class BuildError(Exception):
    """What a reader can mend, in one sentence."""


# --- what the pages need besides themselves -------------------------------------------------------


def mathjax(folder: Path) -> Path:
    """MathJax's files, in `folder` from then on: npm brings the package, whose hash is known."""
    ready = folder / f"mathjax-{MATHJAX}"
    if ready.exists():
        return ready
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError(
            f"npm is missing, which brings MathJax {MATHJAX} for the formulas: install Node.js,"
            " then run this again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        done = subprocess.run(
            [npm, "pack", "--silent", f"mathjax@{MATHJAX}"],
            cwd=temporary,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise BuildError(
                f"npm could not bring MathJax {MATHJAX} ({why}): the first build needs the network,"
                " later ones do not"
            )
        package = Path(temporary, f"mathjax-{MATHJAX}.tgz")
        if (found := hashlib.sha256(package.read_bytes()).hexdigest()) != MATHJAX_SHA256:
            raise BuildError(
                f"npm brought another MathJax {MATHJAX} than the one known here: its SHA-256 is"
                f" {found}"
            )
        with tarfile.open(package) as archive:
            archive.extractall(temporary, filter="data")
        es5, unpacked = Path(temporary, "package/es5"), Path(temporary, "unpacked")
        for part in MATHJAX_PARTS:
            copy = shutil.copytree if (es5 / part).is_dir() else shutil.copyfile
            (unpacked / part).parent.mkdir(parents=True, exist_ok=True)
            copy(es5 / part, unpacked / part)
        shutil.copyfile(Path(temporary, "package/LICENSE"), unpacked / "LICENSE")
        unpacked.rename(ready)
    return ready


def executed(folder: Path) -> list[Path]:
    """The executed copies of all notebooks, or an error that names those which have none."""
    copies = [
        folder / f"{source.stem}.ipynb" for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    ]
    if missing := [copy.stem for copy in copies if not copy.exists()]:
        raise BuildError(
            f"no executed copy of {', '.join(missing)}: run `python notebooks/make.py --execute"
            f" {folder}` first"
        )
    return copies


# --- from files as GitHub shows them to pages as Sphinx reads them --------------------------------


def ids(path: Path) -> set[str]:
    """The places that a page names with <a id="...">."""
    return (
        set(re.findall(r'<a id="([^"]+)">', path.read_text(encoding="utf-8")))
        if path.suffix == ".md" and path.is_file()
        else set()
    )


class Site:
    """One folder with everything that Sphinx reads: `files` maps a place in it to its bytes."""

    def __init__(self, notebooks: Sequence[Path]) -> None:
        self.files: dict[str, bytes] = {}
        self.notebooks = {copy.stem for copy in notebooks}
        for path in sorted(DOCS.rglob("*")):
            place = path.relative_to(DOCS)
            if path.is_file() and not NOT_PAGES & set(place.parts):
                text = (
                    self.page(path.read_text(encoding="utf-8"), path)
                    if path.suffix == ".md"
                    else None
                )
                self.files[place.as_posix()] = path.read_bytes() if text is None else text.encode()
        for copy in notebooks:
            self.files[f"notebooks/{copy.name}"] = self.notebook(copy).encode()

    def page(self, text: str, origin: Path) -> str:
        """A page: its named places and links."""
        text = re.sub(r'^<a id="([^"]+)"></a>$', rf"({origin.stem}-\1)=", text, flags=re.MULTILINE)
        return LINK.sub(self.link(origin), text)

    def notebook(self, copy: Path) -> str:
        """A notebook: its links, and a description for every figure."""
        book, figures = nbformat.read(copy, 4), 0
        title = book.cells[0].source.splitlines()[0].lstrip("# ")
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = LINK.sub(self.link(NOTEBOOKS / copy.name), cell.source)
            elif any("image/png" in output.get("data", {}) for output in cell.get("outputs", ())):
                figures += 1
                said = titles(cell.source) or "described in the text"
                alt = cell.metadata.get("alt") or f"Figure {figures} of notebook {title}: {said}"
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
        return nbformat.writes(book)

    def link(self, origin: Path) -> Callable[[re.Match[str]], str]:
        """How a link of the file `origin` is written in the site."""

        def rewritten(match: re.Match[str]) -> str:
            text, target = match.groups()
            name, _, anchor = target.partition("#")
            path = Path(os.path.normpath(origin.parent / name)) if name else origin
            if re.match(r"[a-z]+:", target) or not path.is_relative_to(ROOT):
                return match[0]
            if anchor and anchor in ids(path):
                return f"[{text}](#{path.stem}-{anchor})"  # a label, which the whole site has once
            if not name or (path.is_relative_to(DOCS) and origin.is_relative_to(DOCS)):
                return match[0]
            if path.is_dir():
                return text
            if (place := self.place(path)) is None:
                return match[0]  # nothing is there: Sphinx will say so
            root = DOCS if origin.is_relative_to(DOCS) else ROOT
            here = Path(os.path.relpath(origin, root)).parent
            there = Path(os.path.relpath(place, here)).as_posix()
            return f"[{text}]({there}{'#' + anchor if anchor else ''})"

        return rewritten

    def place(self, path: Path) -> str | None:
        """Where a file of the repository is in the site.

        Files that are no pages are handed out as they are.
        """
        if path.is_relative_to(DOCS) and path.suffix == ".md":
            return path.relative_to(DOCS).as_posix()
        if path == ROOT / "README.md":
            return "index.md"
        if path.parent == NOTEBOOKS and path.suffix == ".ipynb":
            return f"notebooks/{path.name}" if path.stem in self.notebooks else None
        if not path.is_file():
            return None
        place = f"files/{path.relative_to(ROOT).as_posix()}"
        self.files[place] = path.read_bytes()
        return place

    def write(self, folder: Path) -> None:
        """Write what has changed, so that Sphinx reads no more, and remove what is gone."""
        for old in sorted(folder.rglob("*"), reverse=True):
            if old.is_file() and old.relative_to(folder).as_posix() not in self.files:
                old.unlink()
        for place, data in self.files.items():
            path = folder / place
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def titles(code: str) -> str:
    """What a cell says of its figure, or nothing.

    The titles that it gives, or what perakit's plot functions draw.
    """
    try:
        calls = [
            node
            for node in ast.walk(ast.parse(re.sub(r"^\s*%.*$", "", code, flags=re.MULTILINE)))
            if isinstance(node, ast.Call)
        ]
    except SyntaxError:
        return ""
    named = {call: getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls}
    given = [
        call.args[0]
        for call in calls
        if named[call] in {"set_title", "suptitle", "title"} and call.args
    ]
    given += [
        keyword.value for call in calls for keyword in call.keywords if keyword.arg == "title"
    ]
    found = [text for text in map(plain, given) if re.match(r"\w.{9}", text)]
    drawn = [
        getattr(plots, name).__doc__.splitlines()[0].rstrip(".")
        for name in named.values()
        if name in plots.__all__
    ]
    return "; ".join(dict.fromkeys(re.sub(r"\s+", " ", text) for text in found or drawn))


def plain(node: ast.expr) -> str:
    """A string, or of an f-string what is known without running it."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(
        part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"
        for part in parts
    ).strip("… ")


# --- all of it ------------------------------------------------------------------------------------


def build(site: Path, work: Path, notebooks: Sequence[Path], mathjax_folder: Path) -> None:
    """Gather everything in `work`, and write the site; a warning of Sphinx is an error."""
    source = work / "source"
    gathered = Site(notebooks)
    for path in mathjax_folder.rglob("*"):
        if path.is_file():
            gathered.files[f"_static/mathjax/{path.relative_to(mathjax_folder).as_posix()}"] = (
                path.read_bytes()
            )
    gathered.write(source)
    sphinx = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(work / "doctrees"),
        str(source),
        str(site),
    ]
    if subprocess.run(sphinx, cwd=ROOT).returncode:
        raise BuildError("the site has errors: see the lines above")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first lines of this file say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--site",
        type=Path,
        default=ROOT / "build/site",
        help="where the site goes (default build/site)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build/docs",
        help="what is gathered and kept for the next build",
    )
    parser.add_argument(
        "--notebooks",
        type=Path,
        metavar="FOLDER",
        help="executed copies to show as they are, instead of running any",
    )
    arguments = parser.parse_args(argv)
    try:
        parts = mathjax(ROOT / "build")
        folder = arguments.notebooks or ROOT / "build/notebooks"
        if (
            arguments.notebooks is None
            and subprocess.run(
                [sys.executable, NOTEBOOKS / "make.py", "--execute", folder]
            ).returncode
        ):
            raise BuildError("a notebook failed: see the lines above")
        build(arguments.site, arguments.work, executed(folder), parts)
    except BuildError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
