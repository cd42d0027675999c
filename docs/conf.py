"""How Sphinx reads the site. `python docs/build.py` gathers the pages and calls it; see there."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

import perakit

project = html_title = "perakit"
author = "The perakit maintainers"
release = version = perakit.__version__
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
templates_path = ["_templates"]
exclude_patterns = ["files"]
highlight_language = "none"  # a block says what it is, or is a formula
smartquotes = False

# Markdown as GitHub reads it, with formulas
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

# Notebooks come with their outputs
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "error"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # the default is another site's
nb_code_prompt_show = "Show the answer"
nb_code_prompt_hide = "Hide the answer"

# Formulas: MathJax from this site. No menu, which would make every formula a stop of the Tab key.
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("Array", "Index", "Targets")}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["perakit.css"]
html_favicon = "_static/favicon.svg"
html_domain_indices = False  # a list of modules, which the API page is
html_show_copyright = html_show_sourcelink = html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#00608f",
        "color-brand-content": "#00608f",
        "color-brand-visited": "#6b3f8c",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc4f0",
        "color-brand-content": "#7cc4f0",
        "color-brand-visited": "#c9a7e6",
    },
}


# --- docstrings: plain text, into what Sphinx reads -----------------------------------------------


def is_code(paragraph: str) -> bool:
    """Whether a paragraph of a docstring is Python: prose does not parse."""
    if paragraph.lstrip().startswith(">>> "):
        return True
    try:
        return bool(ast.parse(inspect.cleandoc(paragraph)).body)
    except SyntaxError:
        return False


def inline(text: str) -> str:
    """`code` as code, everything else as it is written: no character means markup."""
    parts = re.split(r"`([^`]+)`", text)
    parts[0::2] = [re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[0::2]]
    parts[1::2] = [rf"\ ``{part.strip()}``\ " for part in parts[1::2]]
    return "\\ " + "".join(parts)


def named(text: str, arguments: set[str]) -> str:
    """Each argument's name, where its shape or explanation follows, as code."""
    return re.sub(
        r"(^|[;,.] )(\w+)(?=:| \([^)]*\))",
        lambda m: f"{m[1]}`{m[2]}`" if m[2] in arguments else m[0],
        text,
    )


def as_rst(docstring: list[str], arguments: set[str]) -> list[str]:
    """Paragraphs of plain text as reStructuredText.

    A new one where a line begins an argument, what is returned, raised, or the source.
    """
    rst: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(docstring).strip("\n")):
        if paragraph.lstrip().startswith(">>>"):  # a session: what was typed, and what came
            lines = inspect.cleandoc(paragraph).splitlines()
            rst += [".. code-block:: pycon", "", *("   " + line for line in lines), ""]
            continue
        if is_code(paragraph):
            if not rst or not rst[-1].startswith("   "):
                kind = "pycon" if paragraph.lstrip().startswith(">>> ") else "python"
                rst += [f".. code-block:: {kind}", ""]
            rst += [*("   " + line for line in inspect.cleandoc(paragraph).splitlines()), ""]
            continue
        pieces: list[str] = []
        for line in paragraph.splitlines():
            starts = re.match(r"(Returns|Raises|Source:|Rule:)\b", line) or (
                (first := re.match(r"\w+(?=:)", line)) and first[0] in arguments
            )
            if pieces and not (starts and pieces[-1].rstrip().endswith(".")):
                pieces[-1] += " " + line.strip()
            else:
                pieces.append(line.strip())
        for piece in pieces:
            rst += [inline(named(piece, arguments)), ""]
    return rst


def process_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Before Sphinx parses a docstring: perakit's are plain text."""
    try:
        arguments = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        arguments = set(getattr(obj, "__annotations__", ()))
    lines[:] = as_rst(lines, arguments)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", process_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
