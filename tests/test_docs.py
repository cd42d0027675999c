"""The pages in docs/, executed: each python block prints the text below it, and every link leads
somewhere.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAIR = re.compile(r"^```python\n(.*?)^```\n+^```text\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
EXECUTED = [page for page in DOCS if PAIR.search(page.read_text())]
END = "--- end of block ---"
# For each line on stdin, blocks and where their output goes: run them in a fork, in one namespace
# for all, and say with which status it ended. Importing torch, most of the time, is done once.
RUN = """
import json, os, sys, traceback
import torch, perakit
for line in sys.stdin:
    blocks, end, *places = json.loads(line)
    child = os.fork()
    if not child:
        for stream, place in zip((1, 2), places):
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT), stream)
        names, status = {}, 1
        try:
            for code in blocks:
                exec(code, names)
                print("\\n" + end)
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def lines(text):
    """Without spaces at their ends, which editors remove from a page."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(blocks): what each block prints, in one namespace, and in a process of its own: a page
    may add to registries.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONIOENCODING": "utf-8",
    }
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", RUN]
    server = subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=environment)
    places = [tmp_path_factory.mktemp("printed") / stream for stream in ("out", "err")]

    def run(blocks):
        for place in places:
            place.write_text("")
        server.stdin.write(json.dumps([blocks, END, *map(str, places)]) + "\n")
        server.stdin.flush()
        status = server.stdout.readline()
        out, err = (place.read_text(encoding="utf-8") for place in places)
        assert status == "0\n", err
        assert err == "", "a reader would see this besides the text"
        return out.split(f"\n{END}\n")[:-1]

    yield run
    _, err = server.communicate()
    assert err == "", "importing perakit says this"


def test_the_pages_that_print_are_executed():
    assert {"theorem-1.md", "theory.md"} <= {page.name for page in EXECUTED}


# These take 5 to 10 seconds each
SLOW = {"theory.md", "ecosystem.md", "export.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.thorough if page.name in SLOW else [])
        for page in EXECUTED
    ],
    ids=lambda page: page.name,
)
def test_each_block_prints_what_the_page_says(page, run):
    text = page.read_text()
    pairs = PAIR.findall(text)
    assert len(pairs) == text.count("```python"), (
        "every python block of a page that prints is followed by its text"
    )
    outputs = run([code for code, _ in pairs])
    assert len(outputs) == len(pairs)
    for (code, expected), printed in zip(pairs, outputs, strict=True):
        assert lines(printed) == lines(expected), code


def test_a_wrong_page_is_noticed(run):
    assert [lines(printed) for printed in run(["x = 1\nprint(x, ' ')", "print(x + 1)"])] == [
        ["1"],
        ["2"],
    ]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(["1 / 0"])
    with pytest.raises(AssertionError, match="besides the text"):
        run(["import warnings; warnings.warn('odd')"])


# --- links ----------------------------------------------------------------------------------------


def prose(text):
    """Without code and formulas, where brackets mean something else."""
    return re.sub(
        r"^```.*?^```|\$\$.*?\$\$|`[^`\n]*`|\$[^$\n]*\$", "", text, flags=re.DOTALL | re.MULTILINE
    )


def anchors(text):
    """The places in a page that a link can name: headings, in GitHub's spelling, and ids."""
    headings = re.findall(
        r"^#+ (.*)$",
        re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE),
        flags=re.MULTILINE,
    )
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def broken(page, text):
    """The relative links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):  # of another site: not looked at
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        inside = path.is_file() and path.suffix == ".md" and anchor
        if not path.exists() or (
            inside and anchor not in anchors(text if path == page else path.read_text())
        ):
            found.append(target)
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_relative_links_and_images_exist(page):
    assert broken(page, page.read_text()) == []


def test_a_broken_link_is_noticed():
    text = (
        "# A heading\n[a](no.md) ![b](no/fig.png) [c](#a-heading) [d](#no) [e](theorem-1.md#no)"
        " [f](https://x.org) `[g](no)` $[h](no)$"
    )
    assert broken(ROOT / "docs/theory.md", text) == [
        "no.md",
        "no/fig.png",
        "#no",
        "theorem-1.md#no",
    ]


# --- the numbers in the prose of theory.md --------------------------------------------------------


def test_the_prose_of_the_theory_page_has_the_numbers_of_its_figures():
    page = " ".join((ROOT / "docs/theory.md").read_text().split())
    numbers = json.loads((ROOT / "docs/theory/numbers.json").read_text())
    figures, training = numbers["figures"], numbers["made_from"]["training"]
    assert not numbers["made_from"]["small"]

    def percent(value, digits=1):
        return f"{100 * value:.{digits}f} %"

    real, spectra, means = (
        figures["real-update"],
        figures["spectra"],
        figures["interaction"]["mean"],
    )
    corner = {
        (k, name): percent(real["blocks"][k][name][0]["error"])
        for k in ("16", "32", "48")
        for name in ("LoRA", "PERA")
    }
    whole = real["whole layer, error of the best matrix of each rank"]
    share = {name: found["whole model"] for name, found in spectra["order_share"].items()}
    bits = [
        f"{training[f'PERA, feature_scale={s}']['heldout_bits_per_byte']['after']:.4f}"
        for s in (1, 192)
    ]
    sentences = [
        (
            f"the last ten are at most {percent(spectra['trained']['PERA as published'][4])} of the"
            " first"
        ),
        (
            f"leaves {corner['32', 'LoRA']} of the 32 × 32 corner; {corner['32', 'PERA']} was found"
            " for PERA"
        ),
        (
            f"{corner['16', 'LoRA']} and {corner['16', 'PERA']}, on the 48 × 48 corner"
            f" {corner['48', 'LoRA']} and {corner['48', 'PERA']}"
        ),
        f"the bounds are {percent(whole['4'])} (rank 4) and {percent(whole['14'])} (rank K = 14)",
        (
            f"the share was {percent(share['as published'], 2)}, and"
            f" {percent(share['feature_scale=192'])} with"
        ),
        f"cost {bits[0]} and {bits[1]} bits per byte",
        (
            f"is {means['tiny GPT-2, no adapter']:.4f} without an adapter and"
            f" {means['tiny GPT-2, trained PERA']:.4f} with"
        ),
    ]
    assert [sentence for sentence in sentences if sentence not in page] == []
    # and what is said without a number
    targets = figures["targets-by-rank"]["targets"]
    assert all(
        p["error"] < 1.0001 * p["lower"] for line in targets["identity"].values() for p in line
    )
    assert targets["block"]["PERA"][0]["error"] > 0.9999 * targets["block"]["LoRA"][0]["error"]
    assert targets["pera"]["PERA"][1]["error"] < 1e-9
    gains = [
        1 - lines["PERA"][0]["error"] / lines["LoRA"][0]["error"]
        for lines in real["blocks"].values()
    ]
    assert gains == sorted(gains, reverse=True)
