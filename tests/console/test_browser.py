"""The pages in a real browser, over a project that was really played."""

import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import missing

from towpath.console import application
from towpath.demo.story import STORY
from towpath.platform import Platform
from towpath.traffic import sla_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
PAGES = ("/", "/models/demand", "/models/demnad", "/consumers")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")  # an open browser has an event loop of its own, which no other file should meet
def browser() -> "Iterator[Browser]":
    if not CHROMIUM.exists():
        missing("chromium", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(browser: "Browser", played: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import uvicorn

    folder = tmp_path_factory.mktemp("console") / "shop"
    shutil.copytree(played, folder, symlinks=True)
    with Platform.open(folder, variables={}) as platform, socket.socket() as listening:
        for name, promised in (("ordering", "p99=0.01ms,availability=50%"), ("warehouse_north", "p99=20ms")):
            platform.consumers.add(name, models=("demand",), sla=sla_of(promised), lifetime=timedelta(days=90))
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        app = application(platform.at(STORY.morning(9)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: "Browser", address: str) -> "Iterator[Page]":
    context = browser.new_context(base_url=address, color_scheme=request.param, java_script_enabled=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda failed: complaints.append(failed.url))
    yield page
    context.close()
    # chromium itself notes the answer 404 of a page that is asked for on purpose
    assert [said for said in complaints if "404" not in said] == []


def test_a_model_is_reached_from_the_fleet_by_keyboard_alone(page: "Page") -> None:
    # given the fleet with its one model, and its open incident before everything else
    page.goto("/")
    assert page.title() == "Fleet · Towpath"
    assert page.locator(".trouble").inner_text().startswith("did_it_run")
    # when Tab walks to the model's link and Enter follows it
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('td a')"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.keyboard.press("Enter")
    page.wait_for_url("**/models/demand")
    # then it is the model's page, and where one stood was seen
    assert outline == "solid"
    assert page.locator("h1").inner_text().startswith("demand")


def test_the_model_page_shows_the_whole_story(page: "Page") -> None:
    page.goto("/models/demand")
    said = page.locator("main").inner_text()
    for part in ("did_it_run", "promoted @1", "killed", "the first champion", "better than fallback", "champion"):
        assert part in said
    # the metric and the fallback's, of outcomes that matured, as numbers and as two lines
    assert page.locator(".facts").inner_text().count("0.") >= 2
    assert page.locator("svg.chart.wide polyline").count() >= 2
    assert page.get_by_role("img", name="wape of demand").count() == 1
    # details open by keyboard
    page.locator("summary", has_text="The numbers").focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] table").inner_text().count("2026-04-1") >= 2


@pytest.mark.parametrize("width", [320, 390, 768, 1000, 1160, 1280])
def test_no_page_scrolls_sideways(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for path in PAGES:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_text_can_be_read_in_both_palettes(page: "Page") -> None:
    # contrast as WCAG counts it, of each text against the nearest background that is painted
    script = """() => {
      const channels = text => (text.match(/[0-9.]+/g) || []).map(Number)
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
      const behind = element => {
        for (let at = element; at; at = at.parentElement) {
          const found = channels(getComputedStyle(at).backgroundColor)
          if (found.length === 3 || found[3] > 0) return found
        }
        return [255, 255, 255]
      }
      const bad = []
      for (const element of document.querySelectorAll('main *, header *, footer')) {
        const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
        if (!own || !element.checkVisibility() || element.closest('svg')) continue
        const [a, b] = [light(channels(getComputedStyle(element).color)), light(behind(element))]
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
        if (ratio < 4.5) bad.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`)
      }
      return bad
    }"""
    for path in PAGES:
        page.goto(path)
        assert page.evaluate(script) == []


def test_the_two_palettes_are_two(page: "Page", request: pytest.FixtureRequest) -> None:
    page.goto("/")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in paper[4:-1].split(",")) < 128 * 3
    assert dark == ("dark" in request.node.name)


def test_a_misspelt_model_is_told_the_nearest_name(page: "Page") -> None:
    answer = page.goto("/models/demnad")
    assert answer is not None
    assert answer.status == 404
    assert "did you mean 'demand'?" in page.locator("h1").inner_text()
    page.get_by_role("link", name="Back to the fleet").click()
    assert page.title() == "Fleet · Towpath"


def test_the_pages_need_no_script(browser: "Browser", address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.locator("td a").first.click()
    page.wait_for_url("**/models/demand")
    context.close()
