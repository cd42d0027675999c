"""docs/theorem-1.md, executed: each python block prints the text block below it."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/theorem-1.md"
BLOCKS = re.compile(r"```python\n(.*?)```\n```text\n(.*?)```", flags=re.DOTALL)


def test_the_page_prints_what_it_says():
    page, names = PAGE.read_text(), {}
    blocks = BLOCKS.findall(page)
    assert len(blocks) == page.count("```python") == 6
    for code, text in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        assert out.getvalue() == text
