"""Text from the disk: what is read, how it is split, and what is said when it is not there."""

import ast
import codecs
import hashlib
import os
import sysconfig

import pytest

from perakit import PerakitError
from perakit.toy import corpus

DOCSTRING = "The quick brown fox jumps over the lazy dog, as in file number {}."
MODULE = '''"""{doc} Module."""
import os  # a comment stays


@property
class Thing(dict):
    """{doc} Class.

    With a second paragraph.
    """

    size = """not a docstring"""

    def method(self):
        r"""{doc} Method."""
        return "neither is this"

    async def later(self):
        "short one"
        return {n}


def outer():
    def inner():
        ("{doc} Inner.")
        return 1

    return inner
'''


def write_package(folder, files=40, name="fablebook"):
    """A package of `files` modules, each with text of its own."""
    root = folder / name
    root.mkdir()
    for n in range(files):
        (root / f"m{n}.py").write_text(MODULE.format(doc=DOCSTRING.format(n), n=n))
    (root / "__init__.py").write_text("")
    return root


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return write_package(tmp_path)


def numbers(text):
    """The files that a piece of text comes from."""
    return {int(word.split(b".")[0]) for word in text.split(b"file number ")[1:]}


def documented(tree):
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, owners) and ast.get_docstring(node) is not None
    ]


class TestProse:
    def test_it_is_the_docstrings_cleaned(self, package):
        found = corpus.load("prose:fablebook")
        passages = (found.train + b"\n\n" + found.heldout).decode()
        for n in range(40):
            doc = DOCSTRING.format(n)
            wanted = [
                f"{doc} Module.",
                f"{doc} Class.\n\nWith a second paragraph.",
                f"{doc} Method.",
                f"{doc} Inner.",
            ]
            assert all(passage in passages for passage in wanted)
        assert "short one" not in passages
        assert "import" not in passages
        assert "not a docstring" not in passages
        assert (
            found.source
            == "docstrings of 40 files, package fablebook of unknown version, split by file"
        )

    def test_whole_files_are_held_out(self, package):
        found = corpus.load("prose:fablebook")
        train, heldout = numbers(found.train), numbers(found.heldout)
        assert heldout == {
            n
            for n in range(40)
            if int(hashlib.sha256(f"m{n}.py".encode()).hexdigest(), 16) % 10 == 0
        }
        assert 2 <= len(heldout) <= 6
        assert not train & heldout
        assert train | heldout == set(range(40))

    def test_the_split_follows_the_path_not_the_text(self, package):
        before = corpus.load("prose:fablebook")
        for path in package.glob("m*.py"):
            path.write_text(path.read_text().replace("lazy", "sleepy"))
        (package / "new.py").write_text(MODULE.format(doc=DOCSTRING.format(99), n=99))
        after = corpus.load("prose:fablebook")
        assert numbers(after.train) - {99} == numbers(before.train)
        assert numbers(after.heldout) - {99} == numbers(before.heldout)

    def test_a_passage_on_both_sides_leaves_the_heldout_text(self, package):
        repeated = f'"""{"This notice stands in every single file of the package."}"""\n'
        for path in package.glob("m*.py"):
            path.write_text(path.read_text() + f"\ndef notice():\n    {repeated}\n")
        found = corpus.load("prose:fablebook")
        assert found.train.count(b"This notice stands") == 1
        assert b"This notice stands" not in found.heldout
        assert numbers(found.heldout)

    def test_also_across_joined_parts(self, package, tmp_path):
        twin = write_package(tmp_path, files=60, name="otherbook")
        # m0 says what m59 says in the other package: a held-out file here, a training file there
        for n in range(60):
            (twin / f"m{n}.py").write_text(MODULE.format(doc=DOCSTRING.format(59 - n), n=n))
        alone = corpus.load("prose:otherbook")
        assert numbers(corpus.load("prose:fablebook").train) & numbers(alone.heldout)
        found = corpus.load("prose:fablebook+prose:otherbook")
        passages = set(found.train.split(b"\n\n"))
        assert not passages.intersection(
            set(found.heldout.split(b"\n\n")) - {b"With a second paragraph."}
        )

    def test_unreadable_files_are_skipped(self, package):
        wanted = corpus.load("prose:fablebook")
        (package / "syntax.py").write_text(f'"""{DOCSTRING}"""\nthis is no python')
        (package / "liar.py").write_bytes(b'# coding: utf-8\n"""' + b"\xe9" * 60 + b'"""')
        (package / "unknown.py").write_bytes(b'# coding: nothing\n"""' + b"a" * 60 + b'"""')
        (package / "silent.py").write_bytes(b'"""' + b"\xe9" * 60 + b'"""')
        os.mkfifo(package / "pipe.py")
        (package / "null.py").write_bytes(b'"""' + b"a" * 60 + b'"""\x00')
        (package / "folder.py").mkdir()
        (package / "dangling.py").symlink_to(package / "nowhere.py")
        (package / "deep.py").write_text(f'"""{DOCSTRING}"""\nx = ' + "(" * 5000 + ")" * 5000)
        assert corpus.load("prose:fablebook") == wanted

    @pytest.mark.parametrize(
        ("encoding", "comment"),
        [("latin-1", "# -*- coding: latin-1 -*-"), ("cp1252", "\n# coding=cp1252")],
    )
    def test_the_encoding_that_a_file_says(self, package, encoding, comment):
        text = f'{comment}\n"""{DOCSTRING.format("m1")} Café."""\n'
        for path in package.glob("m*.py"):
            path.write_bytes(text.encode(encoding))
        found = corpus.load("prose:fablebook").train
        assert found.decode() == f"{DOCSTRING.format('m1')} Café."

    def test_a_byte_order_mark_is_no_text(self, package):
        for path in package.glob("m*.py"):
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        assert b"\xef\xbb\xbf" not in corpus.load("package:fablebook").train
        assert len(numbers(corpus.load("prose:fablebook").train)) > 30

    def test_half_a_character_in_an_escape(self, package):
        (package / "m1.py").write_text(f'"""{DOCSTRING.format(1)} \\udcff"""\n')
        assert b"\\udcff" in corpus.load("prose:fablebook").train

    def test_tests_and_caches_are_skipped(self, package):
        wanted = corpus.load("prose:fablebook")
        for name in ("tests", "test", "__pycache__", "site-packages"):
            (package / name).mkdir()
            (package / name / "x.py").write_text(MODULE.format(doc=DOCSTRING.format(77), n=77))
        assert corpus.load("prose:fablebook") == wanted

    def test_odd_escapes_do_not_warn(self, package):
        (package / "escape.py").write_text(f'"""{DOCSTRING.format(55)} \\d"""\n')
        found = corpus.load("prose:fablebook")
        assert 55 in numbers(found.train + found.heldout)


class TestCode:
    def test_it_is_the_source_without_docstrings(self, package):
        found = corpus.load("package:fablebook")
        files = (found.train + b"\n\n" + found.heldout).split(b"\n\n")
        assert len(files) == 40
        for text in files:
            tree = ast.parse(text)
            assert not documented(tree)
            assert DOCSTRING[:20].encode() not in text
            assert b"a comment stays" in text
            assert b'size = """not a docstring"""' in text
            assert b"@property" in text
        assert b"".join(files).count(b"return 17") == 1

    @pytest.mark.parametrize(
        "source",
        [
            (
                'class Error(Exception):\n    """Nothing but a docstring stands in this'
                ' class."""\n\n\nx = 1\n'
            ),
            'def f():\n    """Nothing but a docstring stands in this function."""\n',
            'def f(): "A docstring on the line of its function."; return 1\n',
            'class C: "A docstring on the line of its class, all alone."\n',
            'class C:\n    """A docstring with a remark"""  # noqa\n',
            'def f():\n    """A docstring before a semicolon."""; return "é"\n',
            '"""A module that is a docstring."""; x = 1\n',
            'def f():\n    ("In parentheses "\n     "on two lines, all of it.")\n    return 2\n',
        ],
    )
    def test_what_is_left_is_still_python(self, package, source):
        for path in package.glob("m*.py"):
            path.write_text(source + f"file_number = {path.stem[1:]}\n")
        found = corpus.load("package:fablebook")
        for text in (found.train + b"\n\n" + found.heldout).split(b"\n\n"):
            tree = ast.parse(text)
            assert not documented(tree)
            assert b"docstring" not in text
            kept = {type(node) for node in ast.walk(ast.parse(source))} - {ast.Expr, ast.Constant}
            # Nothing but the docstring has gone
            assert kept <= {type(node) for node in ast.walk(tree)}

    def test_the_standard_library(self):
        found = corpus.load("code", limit=90_000)
        assert found.source.startswith("code without docstrings of ")
        assert b"def " in found.train
        assert b"\n\n\n" not in found.train
        assert corpus.load("code", limit=90_000) == found

    def test_prose_and_code_hold_out_the_same_files(self, package):
        prose, code = corpus.load("prose:fablebook"), corpus.load("package:fablebook")
        returned = {
            int(part.split()[0])
            for part in code.heldout.split(b"async def later(self):\n        return ")[1:]
        }
        assert returned == numbers(prose.heldout)


class TestSynthetic:
    def test_every_line_is_a_sorted_number(self):
        found = corpus.load("synthetic")
        lines = (found.train + found.heldout).decode().splitlines()
        assert len(lines) == 6600
        for line in lines:
            verb, digits, arrow, answer = line.split()
            assert (verb, arrow) == ("sort", "->")
            assert answer == "".join(sorted(digits))

    def test_the_seed_decides(self):
        assert corpus.load("synthetic") == corpus.load("synthetic")
        assert corpus.load("synthetic").train == corpus.load("synthetic:0").train
        assert corpus.load("synthetic:1").train != corpus.load("synthetic:0").train

    def test_it_is_the_same_on_every_machine(self):
        assert corpus.load("synthetic").train.startswith(b"sort ")
        assert hashlib.sha256(corpus.load("synthetic").train).hexdigest()[:16] == "d6c9ef89543ab864"

    @pytest.mark.parametrize(
        ("task", "answers", "digest"),
        [
            ("product", {"++": "+", "+-": "-", "-+": "-", "--": "+"}, "6a0d3d3ed71092b2"),
            ("sum", {"++": "+", "+-": "+", "-+": "+", "--": "-"}, "583e22d2bb8a607d"),
        ],
    )
    def test_every_third_sign_is_what_the_rule_says(self, task, answers, digest):
        found = corpus.load(task)
        assert found.train == corpus.load(f"{task}:0").train != corpus.load(f"{task}:1").train
        triples = (found.train + found.heldout).decode().split()
        assert len(triples) == 8 * 6600
        assert {three[:2]: three[2] for three in triples} == answers
        assert all(answers[three[:2]] == three[2] for three in triples)
        # Each of the four pairs as often as the others: half a bit a byte is needed, and is enough
        counts = [sum(three.startswith(pair) for three in triples) for pair in answers]
        assert max(counts) < 1.05 * min(counts)
        assert {len(line) for line in found.train.splitlines()} == {31}
        assert hashlib.sha256(found.train).hexdigest()[:16] == digest


class TestFile:
    def test_the_last_tenth_is_held_out(self, tmp_path):
        text = bytes(range(1, 128)) * 5  # UTF-8, if an odd one: it stays as it is
        path = tmp_path / "a+b.txt"  # a path first, then a list of parts
        path.write_bytes(text)
        found = corpus.load(str(path))
        assert found.train + found.heldout == text
        assert len(found.heldout) == 63
        assert found.source == "file a+b.txt, last tenth held out"

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "empty.txt").write_bytes(b"")
        found = corpus.load(str(tmp_path / "empty.txt"))
        assert (found.train, found.heldout) == (b"", b"")

    @pytest.mark.parametrize(
        "encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le-mark", "utf-16-be-mark"]
    )
    def test_a_byte_order_mark_says_the_encoding(self, tmp_path, encoding):
        path, text = tmp_path / "text.txt", "Größe, 価格: €\r\n" * 9
        name = encoding.removesuffix("-mark")
        path.write_bytes((text if name == encoding else f"\ufeff{text}").encode(name))
        found = corpus.load(str(path))
        assert (found.train + found.heldout).decode() == text

    def test_a_coding_comment_says_the_encoding(self, tmp_path):
        path = tmp_path / "text.py"
        text = "# -*- coding: cp1252 -*-\n# Größe: €\n"
        path.write_bytes(text.encode("cp1252"))
        found = corpus.load(str(path))
        assert (found.train + found.heldout).decode() == text

    def test_valid_utf8_is_never_asked(self, tmp_path):
        path = tmp_path / "text.md"
        path.write_text("# Huffman coding: lossless, in short é\n")
        assert corpus.load(str(path)).train.startswith(b"# Huffman coding: lossless")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("café".encode("latin-1"), "is not UTF-8 and says no encoding that it has .*: convert"),
            (b"# coding: utf-8\ncaf\xe9", "is not UTF-8 and says no encoding"),
            (b"# coding: rot13\ncaf\xe9", "is not UTF-8 and says no encoding"),
            (b"# coding: nothing\ncaf\xe9", "is not UTF-8 and says no encoding"),
            (codecs.BOM_UTF8 + b"\xe9", "is not UTF-8 and says no encoding"),
            (codecs.BOM_UTF16_LE + b"a\0b", "is not UTF-8 and says no encoding"),
            ("café".encode("utf-16-le"), "is a binary file .it has zero bytes., no text"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a binary file"),
            (b"text and \0", "is a binary file"),
            ("text and \0".encode("utf-16"), "is a binary file"),
            (b"\xff\xd8\xff\xe0JFIF", "is not UTF-8"),
        ],
    )
    def test_what_is_no_text_is_refused(self, tmp_path, data, message):
        (tmp_path / "text.txt").write_bytes(data)
        with pytest.raises(PerakitError, match=rf"'.*text.txt' {message}"):
            corpus.load(str(tmp_path / "text.txt"))

    @pytest.mark.parametrize("limit", [None, *range(1, 40)])
    def test_all_cuts_are_between_characters(self, tmp_path, limit):
        text = "aé€𝄞" * 7
        (tmp_path / "text.txt").write_text(text)
        found = corpus.load(str(tmp_path / "text.txt"), limit)
        train, heldout = found.train.decode(), found.heldout.decode()
        assert text.startswith(train)
        if limit is None:
            assert train + heldout == text
        else:
            assert limit - 3 <= len(found.train) <= limit

    def test_no_plain_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(PerakitError, match=r"is a device or a pipe, not a plain file"):
                corpus.load(str(path))
        (tmp_path / "giant").touch()
        os.truncate(tmp_path / "giant", 2**40)
        with pytest.raises(PerakitError, match=r"is larger than the 1,073,741,824 bytes"):
            corpus.load(str(tmp_path / "giant"))


class TestLimit:
    @pytest.mark.parametrize("spec", ["prose:fablebook", "package:fablebook", "synthetic"])
    def test_at_most_so_many_bytes(self, package, spec):
        full, cut = corpus.load(spec), corpus.load(spec, limit=900)
        assert len(cut.train) == 900
        assert len(cut.heldout) == 100
        assert full.train.startswith(cut.train)
        assert full.heldout.startswith(cut.heldout)

    def test_of_all_joined_parts_together(self, package):
        cut = corpus.load("prose:fablebook+synthetic", limit=900)
        assert len(cut.train) <= 900
        assert len(cut.heldout) <= 100
        assert b"quick brown" in cut.train
        assert b"sort " in cut.train

    def test_a_file(self, tmp_path):
        (tmp_path / "text.txt").write_bytes(b"a" * 900 + b"b" * 100)
        cut = corpus.load(str(tmp_path / "text.txt"), limit=90)
        assert (cut.train, cut.heldout) == (b"a" * 90, b"b" * 10)

    @pytest.mark.parametrize("limit", [0, -1])
    def test_it_must_be_positive(self, limit):
        with pytest.raises(PerakitError, match=rf"limit={limit}"):
            corpus.load("synthetic", limit=limit)


def test_joined_texts():
    one, two = corpus.load("synthetic:1"), corpus.load("synthetic:2")
    both = corpus.load("synthetic:1+synthetic:2")
    assert both.name == "synthetic:1+synthetic:2"
    assert both.train == one.train + b"\n\n" + two.train
    assert both.source == "made-up sorting task, seed 1; made-up sorting task, seed 2"


def test_describe():
    found = corpus.load("synthetic", limit=90)
    assert found.describe() == {
        "text": "synthetic",
        "source": "made-up sorting task, seed 0",
        "train_bytes": 90,
        "heldout_bytes": 10,
        "sha256": hashlib.sha256(b"90:" + found.train + found.heldout).hexdigest(),
    }


def test_the_hash_follows_the_text(package):
    before = corpus.load("prose:fablebook").sha256
    assert corpus.load("prose:fablebook").sha256 == before
    heldout = numbers(corpus.load("prose:fablebook").heldout).pop()
    path = package / f"m{heldout}.py"
    path.write_text(path.read_text().replace("lazy", "daft"))
    assert corpus.load("prose:fablebook").sha256 != before
    assert corpus.Corpus("x", b"ab", b"c", "").sha256 != corpus.Corpus("x", b"a", b"bc", "").sha256


def test_prose_is_the_standard_library():
    found = corpus.load("prose", limit=9000)
    assert found.source.startswith("docstrings of ")
    assert "standard library of Python 3." in found.source
    assert (len(found.train), len(found.heldout)) == (9000, 1000)


def test_an_installed_package_has_a_version():
    assert ", package hypothesis " in corpus.load("prose:hypothesis", limit=5000).source
    assert "unknown" not in corpus.load("prose:hypothesis", limit=5000).source


def test_no_sources_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(
        PerakitError,
        match=(
            r"standard library of Python 3.* has too few Python source files on this machine:"
            r" choose another"
        ),
    ):
        corpus.load("prose")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no text file ''"),
        (
            "nowhere.txt",
            (
                "no text file 'nowhere.txt': give prose, code, prose:PACKAGE, package:PACKAGE,"
                " synthetic"
            ),
        ),
        (".", "no text file '.'"),
        ("proze", "no text file 'proze'"),
        ("synthetic+nowhere.txt", "no text file 'nowhere.txt'"),
        pytest.param(
            "a long text that is no path " * 20, "no text file", id="text instead of a path"
        ),
        ("package:", "package: needs a name, for example package:sympy"),
        (
            "package:no_such_thing",
            "no installed package 'no_such_thing' with Python source: install it or name another",
        ),
        ("prose:no_such_thing", "no installed package 'no_such_thing'"),
        ("package:a.b", "no installed package 'a.b'"),
        ("package:../etc", "no installed package '../etc'"),
        ("package:math", "no installed package 'math'"),  # compiled
        # Five files, none of them in the held-out tenth
        ("package:json", "too few Python source files"),
        ("synthetic:" + 5000 * "1", r"SEED needs a whole number below .* \(5,002 characters\)"),
        ("package:__main__", "no installed package '__main__' with Python source"),
        ("synthetic:x", r"synthetic:SEED needs a whole number below .*, not 'x'"),
        ("synthetic:-1", r"synthetic:SEED needs a whole number below .*, not '-1'"),
        ("synthetic:²", r"synthetic:SEED needs a whole number below .*, not '²'"),
    ],
)
def test_a_text_that_is_not_there(spec, message):
    with pytest.raises(PerakitError, match=message):
        corpus.load(spec)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        PerakitError, match=r"cannot read '.*secret.txt': Permission denied; give prose"
    ):
        corpus.load(str(path))


def test_a_package_is_read_not_imported(package):
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert corpus.load("prose:fablebook").train


@pytest.mark.parametrize("spec", [None, 3, b"prose", ["prose"]])
def test_a_text_that_is_no_name(spec):
    with pytest.raises(PerakitError, match=r"the text is a str, not .*: give prose, code"):
        corpus.load(spec)


@pytest.mark.parametrize("spec", ["a\0b", 300 * "a"])
def test_a_name_that_no_file_has(spec):
    with pytest.raises(PerakitError, match=r"no text file .*: give prose"):
        corpus.load(spec)
