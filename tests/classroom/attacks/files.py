"""Files that are hard to read, or that are read as something else."""

import json

MARK = "# perakit assignment `lora`\n"
LINES = "# %% tags=["


def notebook(*sources):
    """A notebook of code cells."""
    cells = [{"cell_type": "code", "metadata": {}, "source": source} for source in sources]
    return json.dumps({"cells": cells, "nbformat": 4})


ATTACKS = {
    "brackets, very deep": {
        "cell": "x = " + "(" * 100_000 + ")" * 100_000 + "\n",
        "body": "return -1",
        "said": "a cell did not run",
    },
    "sums, very deep": {
        "cell": "x = " + "+".join("1" * 100_000) + "\n",
        "body": "return -1",
        "said": "got -1",
    },
    "blocks, very deep": {
        "cell": "".join(" " * k + "if 1:\n" for k in range(200)) + " " * 200 + "pass\n",
        "body": "return -1",
        "said": "too many levels of indentation",
    },
    "a notebook, very deep": {
        "file": '{"cells": ' + "[" * 200_000,
        "name": "work.ipynb",
        "said": "is no notebook",
    },
    "a notebook whose tags are deep": {
        "file": notebook(MARK)[:-1] + ', "more": ' + "[" * 900 + "]" * 900 + "}",
        "name": "work.ipynb",
        "said": "your file does not define `trainable`",
    },
    "a notebook with halves of characters": {
        "file": notebook(MARK, "x = '\ud800'", "raise ValueError('\udce9\x1b[2J')"),
        "name": "work.ipynb",
        "said": "a cell did not run",
        "quick": True,
    },
    "a notebook of numbers": {
        "file": '{"cells": [{"cell_type": "code", "source": ' + "9" * 5000 + "}]}",
        "name": "work.ipynb",
        "said": "is no notebook",
    },
    "tags in tags": {
        "file": MARK + LINES + "tags=[" * 1_000_000 + "\nx = 1\n",
        "said": "your file does not define `trainable`",
    },
    "tags without their end": {
        "file": MARK + LINES + "a" * 9_000_000 + "\nx = 1\n",
        "said": "your file does not define `trainable`",
    },
    "tags, deep": {
        "file": MARK + f'{LINES}"experiment"]\nx = 1\n# %% tags=[{"{" * 99}]\ny = 1\n',
        "said": "your file does not define `trainable`",
    },
    "many cells": {
        "file": MARK + "# %%\nx = 1\n" * 20_000,
        "said": "your file does not define `trainable`",
    },
    "more cells than time": {
        "file": MARK + "# %%\nx = 1\n" * 900_000,
        "said": "your file does not define `trainable`",
        "or": ("your file did not finish within 4 s",),
    },
    "a header without an end": {
        "file": "# ---\n" + "#\n" * 3_000_000 + MARK,
        "said": "your file does not define `trainable`",
    },
    "a byte of nothing": {
        "cell": "x = '\0'\n",
        "body": "return -1",
        "said": "null bytes",
    },
    "a coding of its own": {
        "before": "# -*- coding: utf-7 -*-\n",
        "body": "return -1",
        "said": "got -1",
    },
    "a mark at the beginning": {
        "before": "\ufeff",
        "body": "return -1",
        "said": "got -1",
    },
    "another Python": {
        "cell": "from __future__ import annotations, barry_as_FLUFL\n",
        "body": "return -1",
        "said": "got -1",
    },
    "an error of grammar for terminals": {
        "cell": "x = '\x1b[2J\x1b[31mPASS 1/1\n",
        "body": "return -1",
        "said": "\\x1b[2J",
    },
    "a name for terminals": {
        "body": "return -1",
        "name": "\x1b[2J\nPASS.py",
        "said": "\\x1b[2J\\nPASS.py",
    },
    "a name for spreadsheets": {
        "body": "return -1",
        "name": "=cmd|' C calc'!A0.py",
        "said": "=cmd|' C calc'!A0.py",
    },
    "a name that is no text": {
        "body": "return -1",
        "name": b"\xff\xfe.py",
        "said": "\\udcff",
    },
    "libraries beside it": {
        "body": "return -1",
        "beside": {"numpy.py": "raise SystemExit", "json.py": "raise SystemExit"},
        "said": "got -1",
    },
    "another assignment": {
        "file": "# perakit assignment `../../../etc/passwd`\n",
        "said": "does not say which assignment it is",
    },
    "many assignments": {
        "file": "".join(f"# perakit assignment `a{k}`\n" for k in range(200_000)),
        "said": "names several assignments",
    },
    "magic words": {
        "cell": "%%bash\nsleep 1000\n",
        "body": "return -1",
        "said": "got -1",
    },
    "a shell": {
        "cell": "x = !sleep 1000\n!sleep 1000 &\nget_ipython().system('sleep 1000 &')\n",
        "body": "return -1",
        "said": "got -1",
    },
    "await without an end": {
        "cell": "import asyncio\nawait asyncio.sleep(1000)\n",
        "body": "return -1",
        "said": "your file did not finish within 4 s",
        "loses": True,
    },
}
