"""One table in three dresses."""

import html.parser

import pytest

from perakit.table import Table

TABLE = Table(("name", "n"), [["a", "1"], ["long name", "23456"]], "in all: 2")


def test_text():
    assert (
        str(TABLE)
        == "name           n\n---------  -----\na              1\nlong name  23456\nin all: 2"
    )


def test_text_has_no_trailing_blanks():
    text = str(Table(("a", "b"), [["long", ""]]))
    assert text == "a     b\n----  -\nlong"


def test_markdown():
    assert (
        TABLE.markdown()
        == "| name | n |\n| :-- | --: |\n| a | 1 |\n| long name | 23456 |\n\nin all: 2"
    )
    assert Table(("a|b",), [["c|d"]]).markdown() == "| a\\|b |\n| :-- |\n| c\\|d |"


def test_words_stand_to_the_left():
    words = Table(("claim", "verdict"), [["a claim", "holds"]], numbers=False)
    assert str(words) == "claim    verdict\n-------  -------\na claim  holds"
    assert words.markdown() == "| claim | verdict |\n| :-- | :-- |\n| a claim | holds |"


def test_html():
    assert (
        TABLE._repr_html_()
        == "<table><tr><th>name</th><th>n</th></tr><tr><td>a</td><td>1</td></tr>"
        "<tr><td>long name</td><td>23456</td></tr></table><p>in all: 2</p>"
    )


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "a & b", '"quoted"', "</table>"])
def test_html_is_escaped(hostile):
    seen = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: seen.append((tag, attributes))
    data = []
    parser.handle_data = data.append
    parser.feed(Table((hostile,), [[hostile]], hostile)._repr_html_())
    assert seen == [(tag, []) for tag in ("table", "tr", "th", "tr", "td", "p")]
    assert "".join(data) == 3 * hostile


def test_no_rows_and_no_foot():
    empty = Table(("name", "n"), [])
    assert str(empty) == "name  n\n----  -"
    assert empty.markdown() == "| name | n |\n| :-- | --: |"
    assert empty._repr_html_() == "<table><tr><th>name</th><th>n</th></tr></table>"


def test_no_cell_moves_a_cursor_or_breaks_a_row():
    wild = Table(("a\x1b[2J", "n"), [["b\nc", "\udcff"]], "foot\x07\nof two lines")
    assert str(wild) == (
        "a\\x1b[2J       n\n--------  ------\nb\\nc      \\udcff\nfoot\\x07\nof two lines"
    )
    assert wild.markdown() == (
        "| a\\x1b[2J | n |\n| :-- | --: |\n| b\\nc | \\udcff |\n\nfoot\\x07  \nof two lines"
    )
    assert "<td>b\\nc</td><td>\\udcff</td>" in wild._repr_html_()
    assert "<p>foot\\x07</p><p>of two lines</p>" in wild._repr_html_()
