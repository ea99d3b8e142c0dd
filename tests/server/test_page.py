"""The page in a real browser, where there is one: Chromium with its driver, and selenium (neither is needed to install)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from .conftest import Running

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium isn't installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with its driver")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def slow(serve_with: Callable[..., AbstractContextManager[Running]], questions: list[str]) -> Iterator[Running]:
    """Two rows at a time, so that a run lasts."""
    with serve_with(batch=2, example=questions[0], suggested="priced-vote:price=0.02,first=2") as running:
        yield running


def element(page: Any, name: str) -> Any:
    return page.find_element("id", name)


def wait(true: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def choose(page: Any, name: str, value: str) -> None:
    page.execute_script(f"document.getElementById('{name}').value = arguments[0]", value)


def words(page: Any) -> str:
    return str(element(page, "verdict").text)


def start(page: Any, strategy: str, n: int, compress: str = "none", settings: str = "") -> None:
    choose(page, "strategy", strategy)
    choose(page, "strategy-settings", settings)
    choose(page, "compress", compress)
    choose(page, "n", str(n))
    choose(page, "seed", "3")
    element(page, "run").click()


def test_a_run_from_the_problem_to_the_verdict(page: Any, slow: Running, questions: list[str]) -> None:
    page.get(slow.url)
    wait(lambda: element(page, "served").text.startswith("serves bundled"))
    assert element(page, "problem").get_property("value") == questions[0]
    assert element(page, "strategy-settings").get_property("value") == "price=0.02,first=2"
    choose(page, "compress-settings", "interval=32")
    start(page, "deepprune", 8, "rpc")
    choose(page, "compress-settings", "")
    wait(lambda: len(page.find_elements("css selector", "#traces button")) == 8)
    wait(lambda: page.find_elements("css selector", ".track .pruned"))
    titles = [row.get_attribute("title") for row in page.find_elements("css selector", "#traces button")]
    assert any("agrees with cluster" in title for title in titles)
    wait(lambda: words(page).startswith("answer "))
    assert "★" in element(page, "traces").text
    row = page.find_elements("css selector", "#traces button")[0]
    row.send_keys("\n")  # by keyboard
    wait(lambda: element(page, "reader").is_displayed())
    assert page.find_elements("css selector", "#reader-text mark")
    assert page.find_elements("css selector", "#reader-text .gone")
    element(page, "close").click()
    wait(lambda: not element(page, "reader").is_displayed())
    wait(lambda: len(page.find_elements("css selector", "#runs tbody tr")) == 1)
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_reload_in_the_middle_and_a_stop(page: Any, slow: Running) -> None:
    page.get(slow.url)
    wait(lambda: element(page, "served").text.startswith("serves bundled"))
    start(page, "self-consistency", 40)
    wait(lambda: len(page.find_elements("css selector", "#traces button")) == 40)
    wait(lambda: page.find_elements("css selector", ".track .finished"))
    page.refresh()
    wait(lambda: len(page.find_elements("css selector", "#traces button")) == 40)
    wait(lambda: element(page, "stop").is_enabled())
    assert not words(page).startswith("answer")
    element(page, "stop").click()
    wait(lambda: words(page).startswith("answer "))
    assert page.find_elements("css selector", ".track .interrupted")
    slow.wait_idle()


def test_what_is_wrong_is_said(page: Any, slow: Running) -> None:
    page.get(slow.url)
    wait(lambda: element(page, "served").text.startswith("serves bundled"))
    start(page, "priced-vote", 4, settings="price=0")
    wait(lambda: "price is 0" in element(page, "error").text)
    problem = element(page, "problem")
    problem.clear()
    problem.send_keys("<img src=x onerror=alert(1)>")
    start(page, "priced-vote", 4)
    wait(lambda: "only reads the notation" in element(page, "error").text)


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_width_scrolls_sideways(page: Any, slow: Running, width: int) -> None:
    shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    page.get(slow.url)
    wait(lambda: page.find_elements("css selector", "#runs tbody tr"))
    ticks = page.find_elements("css selector", "#runs input")
    for tick in ticks[:3]:
        tick.click()
    element(page, "choose").click()
    wait(lambda: page.find_elements("css selector", "#drawing svg"))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    for button in page.find_elements("css selector", "#runs tbody button"):  # those of each run are within reach
        assert button.rect["x"] + button.rect["width"] <= width
    element(page, "choose-none").click()
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_runs_beside_each_other(page: Any, slow: Running, questions: list[str]) -> None:
    """By keyboard alone, from the list to the drawing; the list is read anew meanwhile, and takes the focus from nobody."""
    for strategy, n in (("priced-vote", 4), ("self-consistency", 3)):
        asked = {"problem": questions[0], "seed": 3, "laconic": {"strategy": strategy, "n": n}}
        assert slow.post("/laconic/runs", asked).status_code == 201
    slow.wait_idle()
    page.get_log("browser")  # of tests before
    page.get(slow.url)
    wait(lambda: len(page.find_elements("css selector", "#runs tbody tr")) >= 2)
    assert not element(page, "choose").is_enabled()
    ticks = page.find_elements("css selector", "#runs input")
    ticks[0].send_keys(" ")
    assert not element(page, "choose").is_enabled()
    ticks[1].send_keys(" ")
    page.execute_async_script("import('/runs.js').then((runs) => runs.list()).then(arguments[0])")
    assert page.execute_script("return document.activeElement === arguments[0]", ticks[1])
    element(page, "choose").send_keys("\n")
    wait(lambda: element(page, "compare").is_displayed())
    rows = {
        row.find_element("css selector", "th").text: [cell.text for cell in row.find_elements("css selector", "td")]
        for row in page.find_elements("css selector", "#columns tbody tr")
    }
    assert rows["strategy"] == ["self-consistency", "priced-vote"]
    assert all(text.startswith("answer ") for text in rows["verdict"])
    assert all(text[0].isdigit() for text in rows["tokens"])
    assert "× A" in rows["tokens"][1]
    assert "× A" not in rows["tokens"][0]
    assert [text.partition(":")[0] for text in rows["traces"]] == ["3", "4"]
    assert len(page.find_elements("css selector", "#legend li")) == 2
    for kind in ("tokens", "kv", "running", "length"):
        choose(page, "kind", kind)
        page.execute_script("document.getElementById('kind').dispatchEvent(new Event('change'))")
        lines = page.find_elements("css selector", "#drawing path.line")
        assert len(lines) == 2, kind
        assert all("NaN" not in line.get_attribute("d") for line in lines)
        assert "A ends at" in page.find_element("css selector", "#drawing svg").get_attribute("aria-label")
    page.refresh()  # what was chosen stays so
    wait(lambda: len(page.find_elements("css selector", "#runs input:checked")) == 2)
    element(page, "choose-none").click()
    assert not page.find_elements("css selector", "#runs input:checked")
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_what_a_refused_run_leaves(page: Any, slow: Running) -> None:
    """A sentence, and no run in the list."""
    before = len(slow.get("/laconic/runs").json())
    page.get(slow.url)
    wait(lambda: element(page, "served").text.startswith("serves bundled"))
    start(page, "priced-vote", 4, settings="price=0")
    wait(lambda: "price is 0" in element(page, "error").text)
    assert len(slow.get("/laconic/runs").json()) == before
    page.get_log("browser")  # the refusal's own line
