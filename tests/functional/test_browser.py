"""Pages in a real browser: layout, keyboard, accessibility (axe-core), scripts and requests.

`PULP_STAR_SCREENSHOTS` names a folder that screenshots are saved to, to be looked at.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulpcore.app.models import Distribution

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed"),
]

SIZES = {"wide": (1280, 900), "narrow": (360, 740)}
FILES = {
    "README.md": b"# Example\n\nPackages of the *example* project, as plain text.\n",
    "Packages/a-1.0-1.noarch.rpm": b"x" * 5000,
    "repodata/repomd.xml": b"<repomd/>" * 40,
    "example-1.0.tar.gz": b"x" * 123_456,
    "example-1.0.tar.gz.asc": b"signature",
    "logo.svg": b"<svg/>",
    '"><img src=x onerror=alert(1)>.txt': b"1",
    "a-name-that-is-long-" + "x" * 180 + ".bin": b"12",
    "\u202egpj.exe": b"1",
}


@pytest.fixture(scope="module")
def pages(module_orm) -> Iterator[dict[str, str]]:
    """Paths of pages by their names."""
    version = module_orm.version(FILES)
    base = module_orm.distribution(
        f"{module_orm.unique()}/example/9", from_publication=False, repository_version=version
    )
    image = module_orm.distribution(f"{base.partition('/')[0]}/image", hidden=True)
    # As of pulp_container, which is not installed: the index has its command.
    rows = Distribution.objects.filter(base_path=image)
    rows.update(pulp_type="container.container", hidden=False)
    yield {
        "index": "",
        "tree": f"{base.partition('/')[0]}/",
        "directory": f"{base}/",
        "use": f"{base}/?use",
        "file": f"{base}/example-1.0.tar.gz?info",
        "error": f"{base}/Packages/gone.rpm",
    }
    rows.update(pulp_type="file.file")


@pytest.fixture(scope="module")
def browser(pages) -> Iterator[Any]:
    """Chromium; its driver has an event loop in this thread, where Django refuses queries."""
    # Chromium's own sandbox does not work as root, as which containers of tests run.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with pytest.MonkeyPatch.context() as patch, playwright.sync_playwright() as driver:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        running = driver.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=300_000)
        yield running
        running.close()


def open_page(browser: Any, url: str, size: str = "wide", **options: Any) -> Any:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(url)
    return page


NAMES = ("index", "tree", "directory", "use", "file", "error")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_page_is_accessible_and_fits(browser, content, pages, name, size, scheme):
    requested: list[str] = []
    page = open_page(browser, "about:blank", size, color_scheme=scheme, bypass_csp=True)
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"{content.base_url}{pages[name]}")
    if folder := os.environ.get("PULP_STAR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}-{size}-{scheme}.png")
    result = axe.Axe().run(page)
    assert result.violations_count == 0, result.generate_report()
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    is_dark = int(background.partition("(")[2].partition(",")[0]) < 128
    assert is_dark == (scheme == "dark")
    origin = str(content.base_url).partition("/pulp")[0]
    assert all(url.startswith(origin) for url in requested), requested
    page.context.close()


def test_page_fits_at_twice_the_size(browser, content, pages):
    page = open_page(browser, f"{content.base_url}{pages['directory']}", device_scale_factor=2)
    page.set_viewport_size({"width": 640, "height": 450})  # as 200 % zoom of 1280 by 900
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    page.context.close()


def test_names_run_no_script(browser, content, pages):
    page = open_page(browser, "about:blank")
    dialogs: list[Any] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
    page.goto(f"{content.base_url}{pages['directory']}")
    assert page.get_by_text("onerror=alert").count() == 1
    assert page.locator("table img").count() == 0
    assert not dialogs
    page.context.close()


def test_links_sort_and_form_filters_without_script(browser, content, pages):
    page = open_page(browser, f"{content.base_url}{pages['directory']}", java_script_enabled=False)
    page.get_by_role("link", name="Size", exact=True).click()
    assert "sort=size" in page.url
    page.get_by_role("searchbox").fill("logo")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="logo.svg", exact=True).wait_for()
    page.context.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "columns"), [("directory", 3), ("index", 4)], ids=["directory", "index"]
)
def test_links_that_sort_are_seen_and_show_the_order(browser, content, pages, name, columns, size):
    page = open_page(browser, f"{content.base_url}{pages[name]}", size)
    for _ in range(2):
        links = page.locator("thead a")
        assert links.count() == columns
        shown = """link => {
            link.scrollIntoView({block: "center"});
            const {x, y, width, height} = link.getBoundingClientRect();
            const top = document.elementFromPoint(x + width / 2, y + height / 2);
            return top === link && getComputedStyle(link, "::after").content;
        }"""
        marks = [links.nth(number).evaluate(shown) for number in range(columns)]
        assert False not in marks, "a link is not seen"
        assert len([mark for mark in marks if mark != "none"]) == 1
        links.last.scroll_into_view_if_needed()
        links.last.click()
    page.context.close()


def test_own_script_adds_copy_buttons_that_copy(browser, content, pages):
    page = open_page(browser, f"{content.base_url}{pages['file']}")
    button = page.get_by_role("button", name="Copy sha256")
    button.click()
    page.get_by_text("Copied").wait_for()
    page.context.close()


def test_keyboard_reaches_content_first(browser, content, pages):
    page = open_page(browser, f"{content.base_url}{pages['directory']}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.context.close()


def test_page_cannot_read_the_api(browser, content, instance, pages):
    """Even code that got into it, which has the opaque origin of the sandbox."""
    page = open_page(browser, f"{content.base_url}{pages['directory']}")
    assert page.evaluate("self.origin") == "null"
    page.context.close()


@pytest.mark.parametrize("name", NAMES)
def test_html_is_valid(content, pages, name):
    html5lib = pytest.importorskip("html5lib")
    answer = content.get(pages[name], headers={"Accept": "text/html"})
    html5lib.HTMLParser(strict=True).parse(answer.text)


def test_docs_viewer_shows_operations_and_loads_nothing_from_other_hosts(
    browser, content, instance
):
    answered: list[str] = []
    errors: list[str] = []
    page = open_page(browser, "about:blank")
    page.on("response", lambda response: answered.append(response.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{content.base_url}docs/")
    page.get_by_role("heading", name="Pulp content app").wait_for()
    page.get_by_role("heading", name="Get a file").first.wait_for()
    assert page.evaluate("self.origin") == "null"  # of the sandbox
    assert len(answered) == 4  # page, style, viewer, script
    assert all(url.startswith(instance.url) for url in answered)
    assert not errors
    if folder := os.environ.get("PULP_STAR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "docs.png")
    page.context.close()
