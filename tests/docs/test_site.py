"""The site, built and looked at in a browser: nothing is broken, nothing is fetched from elsewhere,
a phone and a keyboard are enough.

Notebooks are shown with the outputs of build/notebooks where `make docs` has left some, and else
without.
"""

import functools
import http.server
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
import types
import zlib
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from filelock import FileLock

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.thorough  # the site is built once more, and every page opened in a browser
_spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs/build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the site is not looked at in a browser"
)


def make_site(folder, notebooks, docs=None):
    """Run docs/build.py; what it says, and its exit status."""
    command = [
        sys.executable,
        (docs or ROOT / "docs") / "build.py",
        "--site",
        folder / "site",
        "--work",
        folder / "work",
        "--notebooks",
        notebooks,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    """A folder with a copy of every notebook, executed where there is one."""
    folder = tmp_path_factory.mktemp("notebooks")
    for plain in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        copy = ROOT / "build/notebooks" / plain.name
        shutil.copy(copy if copy.exists() else plain, folder)
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id, notebooks):
    """The folder of the built site, built once for all workers."""
    if not list((ROOT / "build").glob("mathjax-*")) and shutil.which("npm") is None:
        pytest.skip("no npm on this machine, which brings MathJax")
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "one-site"
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            done = make_site(folder, notebooks)
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
            (folder / "built").touch()
    return folder / "site"


@pytest.fixture(scope="session")
def pages(site):
    """Address within the site -> parsed page."""
    found = {
        path.relative_to(site).as_posix(): BeautifulSoup(
            path.read_text(encoding="utf-8"), "html.parser"
        )
        for path in site.rglob("*.html")
    }
    assert {
        "index.html",
        "claims.html",
        "api/models.html",
        "methods/pera.html",
        "search.html",
    } <= set(found)
    return found


# --- the files ------------------------------------------------------------------------------------


def test_every_page_and_notebook_is_there(pages):
    sources = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    books = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py")}
    assert sources | books <= set(pages)


def broken(pages, exists):
    """The links, images, styles and scripts of all pages that lead nowhere within the site."""
    named = {
        place: (
            {tag["id"] for tag in page.find_all(id=True)}
            | {tag["name"] for tag in page.find_all("a", attrs={"name": True})}
        )
        for place, page in pages.items()
    }
    found = []
    for place, page in pages.items():
        for tag, attribute in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
            for target in page.find_all(tag, attrs={attribute: True}):
                address = urlsplit(urljoin("//here/" + place, target[attribute]))
                if address.netloc != "here" or address.scheme:
                    continue
                path, anchor = unquote(address.path).lstrip("/"), unquote(address.fragment)
                if not (path in pages or exists(path)) or (
                    anchor and path in pages and anchor not in named[path]
                ):
                    found.append((place, target[attribute]))
    return found


def test_no_link_is_broken(site, pages):
    assert broken(pages, lambda path: (site / path).is_file()) == []


def test_a_broken_link_is_noticed():
    pages = {
        "a.html": BeautifulSoup(
            '<p id="x"><a href="#x"></a><a href="sub/b.html#y"></a><a href="#no"></a><a'
            ' href="https://x.org/no"></a>',
            "html.parser",
        ),
        "sub/b.html": BeautifulSoup(
            '<p id="y"><img src="no.png"><a href="../a.html#x"></a><a href="../a.html#no"></a>',
            "html.parser",
        ),
    }
    assert broken(pages, lambda path: False) == [
        ("a.html", "#no"),
        ("sub/b.html", "../a.html#no"),
        ("sub/b.html", "no.png"),
    ]


def test_the_text_links_to_places_of_the_site(pages):
    def text_links(place):
        return {
            (link.get_text(), link["href"])
            for link in pages[place].article.find_all("a", href=True)
        }

    assert ("is a PERA of rank 1", "claims.html#claims-identity") in text_links("theory.html")
    assert ("notebook 01", "notebooks/01_low_rank_adaptation.html") in text_links("index.html")
    assert any(
        href.startswith("../claims.html#claims-")
        for _, href in text_links("notebooks/04_rank.html")
    )
    files = {
        re.sub(r"[?#].*", "", href)
        for page in pages.values()
        for link in page.find_all("a", href=True)
        if not urlsplit(href := link["href"]).scheme
    }
    assert {Path(name).suffix for name in files if name and not name.endswith("/")} <= {
        ".html",
        ".json",
        ".jsonl",
    }


def test_one_heading_of_first_order(pages):
    assert {
        place: len(page.find_all("h1"))
        for place, page in pages.items()
        if len(page.find_all("h1")) != 1
    } == {}


def test_every_image_says_what_it_shows(pages):
    images = [(place, image) for place, page in pages.items() for image in page.find_all("img")]
    assert len(images) > 15
    bad = [
        (place, image["src"])
        for place, image in images
        if len(image.get("alt", "")) < 12
        or image["alt"] == image["src"]
        or "/" in image["alt"].split()[0]
    ]
    assert bad == []


def test_every_public_name_has_its_place(site):
    """In the inventory that Sphinx writes beside the pages: names and where they are."""
    header, body = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
    assert b"Project: perakit" in header
    listed = {line.split(" ")[0] for line in zlib.decompress(body).decode().splitlines()}
    missing = []
    for name in (
        "perakit",
        "perakit.formulas",
        "perakit.theory",
        "perakit.toy",
        "perakit.strategies",
        "perakit.testing",
        "perakit.plots",
        "perakit.classroom",
    ):
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__ == name
            and key[0] != "_"
            and value.__doc__
        ]
        for key in public:
            value = getattr(module, key)
            documented = callable(value) or isinstance(value, types.ModuleType)
            if (
                documented
                and not {f"{name}.{key}", f"module-{name}.{key}"} & listed
                and key not in NOT_LISTED
            ):
                missing.append(f"{name}.{key}")
    assert missing == []


# Two of the inside, two that have pages of their own
NOT_LISTED = {"check_count", "styled", "theory", "toy"}


def test_formulas_in_docstrings_are_plain_text(pages):
    text = re.sub(r"\s+", " ", pages["api/formulas.html"].article.get_text())
    assert "PERA: ΔW = B A + Σ_{i<=j} h_ij (b_i∘b_j)(a_i∘a_j)ᵀ." in text
    assert {code.get_text() for code in pages["api/models.html"].find_all("code")} >= {
        "targets",
        "pk.PERA(rank=8)",
    }


# --- what stops the build -------------------------------------------------------------------------


def test_a_missing_notebook_stops_the_build_with_one_sentence(tmp_path, site):
    done = make_site(tmp_path, tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"build\.py: no executed copy of 01_low_rank_adaptation, .*: run `python notebooks/make\.py"
        r" --execute .*` first\n",
        done.stderr,
    )


def test_without_npm_the_build_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        build.BuildError,
        match=r"npm is missing, which brings MathJax 3\.2\.2 for the formulas: install Node\.js",
    ):
        build.mathjax(tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('%config x\nax.set_title("Rank against\\nlayer size");', "Rank against layer size"),
        ('ax.set(title=f"Error of rank {r}"); ax.plot(x)', "Error of rank"),
        ('ax.set_title(f"{name}")', ""),
        ("_ = plots.plot_matrix(W)", "Heat map of a real matrix"),
        ("!broken (", ""),
    ],
)
def test_a_figure_is_described_by_what_its_cell_says(code, said):
    found = build.titles(code)
    assert found.startswith(said)
    assert bool(found) == bool(said)


# --- in a browser ---------------------------------------------------------------------------------


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served, on this machine alone."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Silent, directory=site)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield opened
        opened.close()


LOOK = """async () => {
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  if (window.MathJax?.startup) await MathJax.startup.promise;
  const article = document.querySelector("article");
  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code").forEach(code => code.remove());
  const unread = [...article.querySelectorAll(".math")]
    .filter(math => !math.querySelector("mjx-container"));
  const scrolls = e => e && e !== article
    && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const outside = [...article.querySelectorAll("*")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e));
  return {
    outside: outside.slice(0, 5).map(e => e.outerHTML.slice(0, 200)),
    width: document.documentElement.scrollWidth, window: window.innerWidth,
    maths: article.querySelectorAll(".math").length, unread: unread.length,
    errors: article.querySelectorAll("mjx-merror").length,
    text: prose.textContent,
    images: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
  };
}"""


@pytest.fixture(scope="session")
def visits(browser, address, pages):
    """Every page as a phone shows it; the requests and messages of all of them. Of the sources one
    stands for all.
    """
    context = browser.new_context(viewport=PHONE)
    page, seen, requests, messages = context.new_page(), {}, [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console",
        lambda message: (
            messages.append((page.url, message.text))
            if message.type in {"error", "warning"}
            else None
        ),
    )
    page.on("pageerror", lambda error: messages.append((page.url, str(error))))
    for place in sorted(pages):
        if not place.startswith("_modules/") or place == "_modules/perakit/formulas.html":
            page.goto(address + place)
            seen[place] = page.evaluate(LOOK)
    context.close()
    return seen, requests, messages


@needs_browser
def test_no_request_leaves_the_machine(visits, address):
    _, requests, _ = visits
    assert {urlsplit(url).netloc for url in requests if urlsplit(url).scheme != "data"} == {
        urlsplit(address).netloc
    }
    assert any(urlsplit(url).path == "/_static/mathjax/tex-chtml.js" for url in requests)


@needs_browser
def test_no_page_complains(visits):
    assert visits[2] == []


@needs_browser
def test_formulas_are_set(visits):
    seen, _, _ = visits
    assert {place: look for place, look in seen.items() if look["unread"] or look["errors"]} == {}
    assert {"claims.html", "concepts.html", "theorem-1.html", "notebooks/04_rank.html"} <= {
        place for place, look in seen.items() if look["maths"] > 5
    }
    assert {
        place: look["text"]
        for place, look in seen.items()
        if "$$" in look["text"] or re.search(r"\\(frac|sum|lVert|circ|top)\b", look["text"])
    } == {}


@needs_browser
def test_every_image_is_loaded(visits):
    assert {place: look["images"] for place, look in visits[0].items() if look["images"]} == {}


@needs_browser
def test_no_page_is_wider_than_a_phone(visits):
    assert {
        place: look["width"] for place, look in visits[0].items() if look["width"] > look["window"]
    } == {}
    assert {place: look["outside"] for place, look in visits[0].items() if look["outside"]} == {}, (
        "cut off at the edge"
    )


@pytest.fixture
def tab(browser):
    """A window on a desk."""
    context = browser.new_context(viewport=DESK)
    yield context.new_page()
    context.close()


FOCUS = """() => {
  const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return {tag: e.tagName, href: e.getAttribute("href"), name: e.getAttribute("name"),
          text: e.innerText,
          outline: style.outlineStyle,
          visible: box.right > 0 && box.left < innerWidth && style.visibility !== "hidden"}; }"""


def tabbed(page, until, most=200):
    """Press Tab until the focus is on what is looked for; all that had it on the way."""
    way = []
    for _ in range(most):
        page.keyboard.press("Tab")
        way.append(page.evaluate(FOCUS))
        if until(way[-1]):
            return way
    raise AssertionError(f"never reached: {[step['text'] for step in way]}")


@needs_browser
def test_a_keyboard_is_enough(tab, address):
    tab.goto(address + "claims.html")
    first, *_ = tabbed(tab, lambda step: step["tag"] == "A")
    assert (first["text"], first["href"]) == ("Skip to content", "#furo-main-content")
    assert first["outline"] != "none"
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#furo-main-content")

    tab.goto(address + "claims.html")
    way = tabbed(tab, lambda step: step["text"] == "Start here")
    assert any(step["name"] == "q" and step["outline"] != "none" for step in way), (
        "the search field comes before"
    )
    tab.keyboard.press("Enter")
    tab.wait_for_url(address + "start.html")
    assert tab.evaluate("document.querySelector('h1').innerText.trim()").startswith("Start here")


@needs_browser
def test_tab_reaches_every_link_of_a_page(tab, address):
    for viewport in (DESK, PHONE):
        tab.set_viewport_size(viewport)
        tab.goto(address + "methods/pera.html")
        wanted = tab.evaluate(
            "[...document.querySelectorAll('a[href]:not(.headerlink)')].filter(a =>"
            " a.checkVisibility()).length"
        )
        way = tabbed(tab, lambda step: step["tag"] == "BODY")
        tab.wait_for_timeout(300)
        assert wanted > 30
        assert sum(step["tag"] == "A" for step in way) >= wanted


@needs_browser
def test_on_a_phone_the_drawer_opens_where_the_focus_is(browser, address):
    context = browser.new_context(viewport=PHONE, reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    tabbed(page, lambda step: step["name"] == "q")
    page.wait_for_function("document.activeElement.getBoundingClientRect().left >= 0")
    context.close()


@needs_browser
def test_search_finds(tab, address):
    tab.goto(address)
    tabbed(tab, lambda step: step["name"] == "q")
    tab.keyboard.type("order share")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#search-results li a")
    assert "search.html" in tab.url


@needs_browser
def test_the_page_is_readable_in_the_dark(browser, address):
    """Text and ground differ, and figures keep their white ground."""
    context = browser.new_context(viewport=DESK, color_scheme="dark")
    page = context.new_page()
    page.goto(address + "methods/pera.html")
    ground, text, figure = page.evaluate(
        """() => ["body", "article p", "article img"].map((s, k) =>
        getComputedStyle(document.querySelector(s))[k === 1 ? "color" : "backgroundColor"]
        .match(/\\d+/g).slice(0, 3).map(Number))"""
    )
    assert max(ground) < 60
    assert min(text) > 150
    assert figure == [255, 255, 255]
    context.close()


@needs_browser
def test_what_is_wrong_is_noticed(browser, tmp_path):
    """A page with a broken formula, an image that is not there and a table that is too wide, looked
    at in the same way.
    """
    (tmp_path / "page.html").write_text(
        '<article><span class="math">x</span><img src="no.png"><div style="width:'
        ' 900px">$$</div></article>',
        encoding="utf-8",
    )
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    look = page.evaluate(LOOK)
    assert (look["unread"], len(look["images"]), "$$" in look["text"]) == (1, 1, True), json.dumps(
        look
    )
    assert look["width"] > look["window"]
    assert look["outside"][0].startswith('<div style="width: 900px"')
    context.close()
