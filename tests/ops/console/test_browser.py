"""The console in a real browser: both sizes and colours, the keys, a token, a move, and texts that would be scripts."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from store.registry.moves import Move
from tests.ops.console.shown import Shown
from tests.ops.furnished import HOSTILE, LANES, SUPPORT

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER: Final = shutil.which("chromedriver")
DEADLINE_S: Final = 120.0
PAGES: Final = ("", *(f"/lane/{lane}{page}" for lane in LANES for page in ("", "/history", "/buffer", "/audits")))

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        None in {CHROMIUM, DRIVER} and "CI" not in os.environ,  # noqa: TID251 - there it is a failure
        reason="no browser here: run deploy/setup-services long",
    ),
]


def until(condition: Callable[[], Any]) -> Any:
    """What a condition comes to, once it holds; an element that is replaced meanwhile is looked for again."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            if found := condition():
                return found
            why: object = condition
        except Exception as error:  # noqa: BLE001 - stale elements
            why = error
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


class Browser:
    """Chromium, and what the tests do with it."""

    def __init__(self, driver: webdriver.Chrome, shown: Shown) -> None:
        self.driver = driver
        self.root = f"{str(shown.http.base_url).rstrip('/')}/console"

    def size(self, width: int, *, dark: bool) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, path: str = "") -> None:
        self.driver.get(self.root + path)
        until(lambda: self.run("return document.readyState === 'complete' && Boolean(window.htmx)"))

    def show(self, token: str) -> None:
        """Show a token by the keyboard alone."""
        self.press("t")
        until(lambda: self.one("#token[open]"))
        self.driver.switch_to.active_element.send_keys(token, Keys.ENTER)
        until(lambda: " · " in self.one("#who").text)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, key: str) -> None:
        self.one("body").send_keys(key)

    @property
    def path(self) -> str:
        return self.driver.current_url.partition("/console")[2]

    def complaints(self) -> list[str]:
        """What the console of the browser says of broken rules and scripts."""
        driver: Any = self.driver
        return [one["message"] for one in driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    assert None not in {CHROMIUM, DRIVER}, "no browser here: run deploy/setup-services long"
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome, console: Shown) -> Iterator[Browser]:
    found = Browser(driver, console)
    found.size(1280, dark=False)
    found.open()
    found.run("sessionStorage.clear()")
    found.complaints()
    yield found
    assert not found.complaints()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_runs_over_its_edge_and_each_has_its_colours(
    browser: Browser,
    token: str,
    width: int,
    dark: bool,  # noqa: FBT001
) -> None:
    browser.show(token)
    browser.size(width, dark=dark)
    for path in PAGES:
        browser.open(path)
        until(lambda: "reader" in browser.one("#who").text)
        assert browser.run("return document.scrollingElement.scrollWidth") <= width, path
        shade = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, shade[4:-1].split(","))) < 3 * 128) is dark, shade
        assert browser.run("return [...document.querySelectorAll('h1')].length") == 1


def test_the_keyboard_goes_everywhere(browser: Browser) -> None:
    browser.press("2")
    until(lambda: browser.path == f"/lane/{LANES[1]}")
    for key, page in (("h", "/history"), ("b", "/buffer"), ("a", "/audits"), ("o", "")):
        browser.press(key)
        until(lambda page=page: browser.path == f"/lane/{LANES[1]}{page}")  # type: ignore[misc]
    browser.press("?")
    until(lambda: browser.one("#help[open]").is_displayed())
    browser.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(lambda: not browser.run("return document.querySelector('dialog[open]')"))
    browser.press("l")
    until(lambda: browser.path == "")
    browser.press(Keys.TAB)
    outlined = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outlined == "solid", "one sees where the focus is"


def test_a_token_stays_in_its_tab_and_travels_in_a_header_alone(browser: Browser, token: str) -> None:
    browser.show(token)
    assert browser.run("return document.cookie") == ""
    assert browser.run("return localStorage.length") == 0
    assert browser.run("return sessionStorage.length") == 1
    browser.press("1")
    browser.open(f"/lane/{SUPPORT}/buffer")
    until(lambda: browser.one("blockquote"))
    assert token not in browser.driver.page_source
    assert token not in browser.driver.current_url
    browser.press("t")
    until(lambda: browser.one("#token[open] [data-forget]")).click()
    until(lambda: browser.one("#who").text == "Show a token")
    assert browser.run("return sessionStorage.length") == 0
    until(lambda: not browser.driver.find_elements(By.CSS_SELECTOR, "blockquote"))


def test_a_text_that_is_a_script_is_read_and_not_run(browser: Browser, token: str) -> None:
    browser.show(token)
    for lane in LANES:
        browser.open(f"/lane/{lane}/audits")
        until(lambda: HOSTILE in browser.one("main").text)
        assert "owned" not in browser.driver.title
        assert browser.run("return document.querySelectorAll('main img, main script').length") == 0


def test_an_inline_script_is_refused_by_the_policy(browser: Browser) -> None:
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s)"
    )
    assert browser.run("return window.owned === undefined")
    complaints = browser.complaints()
    assert len(complaints) == 1
    assert "Content Security Policy" in complaints[0]


def test_numbers_come_by_themselves_and_not_while_something_is_open(browser: Browser) -> None:
    browser.run("window.seen = 0; document.addEventListener('htmx:afterSwap', () => window.seen++)")
    until(lambda: browser.run("return window.seen") > 0)
    browser.press("?")
    until(lambda: browser.one("#help[open]"))
    browser.run(
        "window.refused = 0; document.addEventListener('htmx:beforeRequest', e => window.refused += e.defaultPrevented)"
    )
    browser.run("window.seen = 0")
    until(lambda: browser.run("return window.refused") > 0)
    assert browser.run("return window.seen") == 0


def test_a_gateway_that_does_not_answer_is_told_until_it_does(browser: Browser, console: Shown) -> None:
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/console*"]})
    until(lambda: browser.one("#away").is_displayed())
    browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    until(lambda: not browser.one("#away").is_displayed())
    assert browser.complaints(), "the browser says so, too"


def test_a_lane_is_paused_with_a_confirmation_and_resumed(browser: Browser, console: Shown) -> None:
    browser.open(f"/lane/{SUPPORT}")
    assert not browser.one("#act-pause").is_enabled()
    browser.show(console.token("operate", "mover"))
    for kind in ("pause", "resume"):
        until(lambda kind=kind: browser.one(f"#act-{kind}")).click()  # type: ignore[misc]
        until(lambda: browser.one("#move[open] #move-why")).send_keys("to see it", Keys.ENTER)
        until(lambda: browser.one("#move[open] [data-reread]")).click()
        until(lambda kind=kind: last(console).kind == kind)  # type: ignore[misc]
        assert (last(console).who, last(console).why) == ("mover, by the console", "to see it")
        until(lambda kind=kind: browser.one("#act-resume" if kind == "pause" else "#act-pause"))  # type: ignore[misc]


def last(console: Shown) -> Move:
    return console.site.registry.moves(SUPPORT).read()[-1]
