"""The built book, page by page: complete, readable without a network, and looked at in a headless browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image

from lib import paths

HTML = paths.ROOT / "_build" / "html"
PAGES = [paths.ROOT / "book" / "index"]
for part in yaml.safe_load((paths.ROOT / "_toc.yml").read_text())["parts"]:
    PAGES += [paths.ROOT / chapter["file"] for chapter in part["chapters"]]
PAGES = [str(page.relative_to(paths.ROOT)) for page in PAGES]
BROWSER = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
# no name resolves in there, so a page that needs the network shows it
FLAGS = [*FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]

pytestmark = pytest.mark.skipif(
    not (HTML / "index.html").exists(), reason="the book is not built: run `make book` first"
)
looked_at = pytest.mark.skipif(not BROWSER, reason="chromium is not installed: pages are not looked at")


class Elements(HTMLParser):
    """All elements of a page as (tag, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def page_text(page):
    return (HTML / f"{page}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elements():
    cache = {}
    return lambda page: cache.setdefault(page, Elements(page_text(page)).found)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_contents_exists_and_has_a_title(page):
    assert re.search(r"<h1>.+?<", page_text(page))


@pytest.mark.parametrize("page", PAGES)
def test_every_image_has_alternative_text_and_is_there(page, elements):
    for _, image in [e for e in elements(page) if e[0] == "img"]:
        assert len(image.get("alt") or "") > 10, f"{image.get('src')} has no alternative text"
        Image.open((HTML / page).parent / unquote(image["src"])).verify()


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_elsewhere(page, elements):
    loading = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
    for tag, attributes in elements(page):
        address = attributes.get(loading.get(tag, ""), "") or ""
        if attributes.get("rel") not in ("canonical", "next", "prev"):
            assert not urlsplit(address).netloc, f"{page} loads {address}"


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_book_lead_somewhere(page, elements):
    for tag, attributes in elements(page):
        link = urlsplit(attributes.get("href") or "")
        if tag == "a" and link.path and not link.scheme and not link.netloc:
            assert ((HTML / page).parent / unquote(link.path)).exists(), f"{page} links to {link.path}"


@pytest.mark.parametrize("page", [p for p in PAGES if "executed" in p])
def test_an_executed_page_shows_no_error_or_warning_and_its_figures_are_numbered(page):
    text = page_text(page)
    assert "Traceback (most recent call last)" not in text and 'class="output stderr' not in text
    assert text.count("<figure") == text.count('<span class="caption-number">Fig. ')


@looked_at
@pytest.mark.parametrize("page", PAGES)
def test_a_browser_shows_the_page(page, tmp_path):
    dom = browse(page, "--dump-dom").stdout.decode()
    formulas = page_text(page).count('class="math ')
    assert dom.count("<mjx-container") >= formulas and "mjx-merror" not in dom
    assert "<svg" in dom or not formulas
    browse(page, f"--screenshot={tmp_path}/page.png", "--window-size=1300,1600")
    shot = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert shot.std() > 10, "the page is blank"


@looked_at
def test_dark_mode_is_dark_and_legible(tmp_path):
    page = next(p for p in PAGES if p.endswith("method"))
    dark = "--blink-settings=preferredColorScheme=0"
    browse(page, f"--screenshot={tmp_path}/dark.png", "--window-size=1300,1600", dark)
    shot = np.asarray(Image.open(tmp_path / "dark.png").convert("L"))
    assert np.median(shot) < 60 and (shot > 180).mean() > 0.005, "text does not stand out from the ground"


def browse(page, *flags):
    return subprocess.run(
        [BROWSER, *FLAGS, *flags, (HTML / f"{page}.html").as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
