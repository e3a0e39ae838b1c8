"""compare.html in a real browser without a network: what is seen, clicked, zoomed and hovered."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.catalog.find import find_runs
from lab.compare.comparison import compare
from lab.compare.page import render
from lab.compare.palette import palettes
from lab.compare.read import read_run
from tests.compared import reload_event, write_run, write_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"
    ),
]

HOSTILE = '<img src=x onerror="window.harmed=1"></script><script>window.harmed=1</script>'
FORMULA = "%{y}$\\frac{a}{b}$"
DRAWN = "!!window.charts?._fullLayout && !!rows[0].querySelector('i').style.background"
PANELS = 4  # traces of a run that are seen at the start: memory, loss, speed, its point


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opening(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """Opens the comparison of a folder offline; at the end nothing may have gone wrong on it."""
    context = browser.new_context(offline=True, viewport={"width": 1440, "height": 1000})
    wrong: list[str] = []

    def open_page(folder: Path) -> Any:
        found = find_runs([folder])
        comparison = compare(
            [read_run(location) for location in found.locations], title=folder.name
        )
        path = folder / "compare.html"
        path.write_text(render(comparison, folder=folder, made=datetime.now(UTC)))
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if r.url != path.as_uri() else None)
        page.goto(path.as_uri())
        settle(page, DRAWN)
        return page

    yield open_page
    context.close()
    assert wrong == []


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[Path], Any]]:
    with opening(browser) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep") / "s", (0, 5, 10))


@pytest.fixture(scope="module")
def looked_at(browser: Any, sweep: Path) -> Iterator[Any]:
    """The sweep's page, for those who only look and point."""
    with opening(browser) as open_page:
        yield open_page(sweep)


def drawn(page: Any) -> dict[str, int]:
    """How many lines there are in each panel, and points beside the front."""
    counts = {"points": page.locator(".subplot.x4y4 .points path").count()}
    for panel in ("xy", "x2y2", "x3y3"):
        counts[panel] = page.locator(f".subplot.{panel} path.js-line").count()
    return counts


def settle(page: Any, expression: str) -> None:
    """Wait until it is true; plotly draws when the browser has time for it."""
    until = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < until, expression
        page.wait_for_timeout(20)


def test_every_run_is_in_every_panel_and_in_the_table(looked_at: Any) -> None:
    page = looked_at
    assert drawn(page) == {"xy": 3, "x2y2": 3, "x3y3": 3, "points": 3}
    assert page.locator(".subplot.xy .points path").count() == 7 + 3  # the reloads
    assert page.locator(".legendtext").all_text_contents() == [
        f"interval_steps={steps}" for steps in (0, 5, 10)
    ]
    assert page.locator("tbody tr").count() == 3
    assert page.locator("tbody tr >> nth=1").inner_text().split("\t")[1:4] == [
        "5",
        "completed",
        "40",
    ]
    assert page.locator(".annotation-text", has_text="the same in every bit in 3 runs").count() == 1


def test_a_click_in_the_legend_hides_a_run_in_every_panel(open_page: Any, sweep: Path) -> None:
    page = open_page(sweep)
    page.locator(".legendtoggle").nth(1).click()
    settle(page, "document.querySelectorAll('tbody tr.hidden').length === 1")
    assert drawn(page) == {"xy": 2, "x2y2": 2, "x3y3": 2, "points": 2}
    assert page.locator(".subplot.xy .points path").count() == 3
    page.locator("tbody tr").nth(1).click()
    settle(page, "document.querySelectorAll('tbody tr.hidden').length === 0")
    assert drawn(page)["xy"] == 3


def test_rows_filter_and_sort(open_page: Any, sweep: Path) -> None:
    page = open_page(sweep)
    page.fill("#filter", "7 interval")
    settle(page, "document.querySelectorAll('tbody tr.hidden').length === 2")
    assert drawn(page)["x2y2"] == 1
    page.click("#none")
    settle(page, "document.querySelectorAll('tbody tr.hidden').length === 3")
    page.click("#all")
    settle(page, "document.querySelectorAll('tbody tr.hidden').length === 0")
    column = page.locator("tbody td:nth-child(6)")
    page.locator("th", has_text="peak GB").first.click()
    ascending = column.all_inner_texts()
    assert ascending == sorted(ascending, key=float)
    page.locator("th", has_text="peak GB").first.click()
    assert column.all_inner_texts() == ascending[::-1]


def test_memory_axis_and_loss_are_chosen(open_page: Any, sweep: Path) -> None:
    page = open_page(sweep)
    seen = "() => [charts.data[0].x.at(-1), charts.data[0].y.at(-1), charts.data[2].y.length]"
    assert page.evaluate(seen) == pytest.approx([40, 1.78, 40])
    page.get_by_text("active", exact=True).click()
    settle(page, "charts.layout.annotations[0].text === 'MLX active memory'")
    assert page.evaluate(seen) == pytest.approx([40, 0.89, 40])
    page.get_by_text("time", exact=True).first.click()
    settle(page, "charts.layout.xaxis3.title.text.startsWith('time')")
    page.get_by_text("validation", exact=True).click()
    settle(page, "charts.layout.annotations[1].text === 'Validation loss'")
    assert page.evaluate(seen) == pytest.approx([20, 0.89, 4])


def test_lines_points_and_rows_have_the_runs_colour(open_page: Any, sweep: Path) -> None:
    page = open_page(sweep)
    comparison = compare(list(map(read_run, find_runs([sweep]).locations)), title="")
    by_value, by_run = palettes(comparison)
    colours = "[0, 5, 10].map((i) => [charts.data[i].line.color, charts.data[i + 4].marker.color])"
    assert page.evaluate(colours) == [[colour, colour] for colour in by_value.colours]
    page.get_by_text("run", exact=True).first.click()
    settle(page, f"charts.data[0].line.color === '{by_run.colours[0]}'")
    assert page.evaluate(colours) == [[colour, colour] for colour in by_run.colours]
    swatch = page.locator("i.run").nth(1).evaluate("e => e.style.background")
    red, green, blue = (int(by_run.colours[1][i : i + 2], 16) for i in (1, 3, 5))
    assert swatch == f"rgb({red}, {green}, {blue})"


def test_zooming_one_panel_zooms_those_of_the_same_axis(open_page: Any, sweep: Path) -> None:
    page = open_page(sweep)
    drag = page.locator(".xy .nsewdrag").bounding_box()
    first, end = page.evaluate("charts._fullLayout.xaxis3.range")
    assert 0 <= first <= 1
    assert 40 <= end < 42
    page.mouse.move(drag["x"] + drag["width"] * 0.25, drag["y"] + 50)
    page.mouse.down()
    page.mouse.move(drag["x"] + drag["width"] * 0.5, drag["y"] + 55, steps=4)
    page.mouse.up()
    settle(page, "charts._fullLayout.xaxis3.range[0] > 5")
    low, high = page.evaluate("charts._fullLayout.xaxis3.range")
    quarter, half = (first + share * (end - first) for share in (0.25, 0.5))
    assert (low, high) == pytest.approx((quarter, half), abs=0.3)
    page.mouse.dblclick(drag["x"] + 200, drag["y"] + 60)
    settle(page, "charts._fullLayout.xaxis3.range[1] >= 40")


def test_hovering_says_run_step_and_value(looked_at: Any) -> None:
    for curve, panel, says in (
        (5, "xy", "1: interval_steps=5 1.080 GB, 2.5 s"),
        (6, "xy", "1: interval_steps=5reload 5 of 7 (interval) after step 25gave 0.250 GB back"),
        (2, "x2y2", "3 runs, the same in every bit: 1.0000, 2.5 s"),
    ):
        hover(looked_at, curve, panel, says)


def test_one_tooltip_tells_all_runs_at_a_step(looked_at: Any) -> None:
    page = looked_at
    drag = page.locator(".xy .nsewdrag").bounding_box()
    page.mouse.move(drag["x"] + drag["width"] * 0.5, drag["y"] + drag["height"] * 0.5)
    text = "document.querySelector('.hoverlayer')?.textContent ?? ''"
    settle(page, f"({text}).startsWith('step ')")
    for name in ("0: interval_steps=0", "1: interval_steps=5", "2: interval_steps=10"):
        assert name in page.evaluate(text)


def test_the_address_keeps_the_view(open_page: Any, sweep: Path) -> None:
    page = open_page(sweep)
    page.get_by_text("active", exact=True).click()
    page.get_by_text("dark", exact=True).click()
    page.locator("tbody tr").nth(1).click()
    settle(page, "location.hash === '#memory=active&theme=dark&hidden=1'")
    page.reload()
    settle(page, DRAWN)
    settle(page, "charts.layout.annotations[0].text === 'MLX active memory'")
    assert page.locator("tbody tr.hidden").count() == 1
    assert drawn(page)["xy"] == 2
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.set_viewport_size({"width": 390, "height": 800})
    settle(page, "charts._fullLayout.height === 1500")
    settle(page, "document.documentElement.scrollWidth === 390")


def hover(page: Any, curve: int, panel: str, says: str) -> None:
    point = json.dumps([{"curveNumber": curve, "pointNumber": 4}])
    text = "document.querySelector('.hoverlayer')?.textContent ?? ''"
    page.evaluate(f"Plotly.Fx.hover(charts, {point}, '{panel}')")
    settle(page, f"({text}).includes({json.dumps(says)})")


def test_hostile_text_is_only_shown(open_page: Any, tmp_path: Path) -> None:
    write_run(tmp_path / HOSTILE.replace("/", "_"), {"model.name": HOSTILE})
    other = write_run(tmp_path / "b", {"model.name": FORMULA}, every=9)
    with (other / "events.jsonl").open("a") as file:
        file.write(json.dumps(reload_event(3, HOSTILE)) + "\n")
    page = open_page(tmp_path)
    hover(page, 0, "xy", "<img src=x")
    assert page.locator(".legendtext").all_text_contents()[1] == f"name={FORMULA}"
    assert page.locator("img").count() == 0
    assert page.evaluate("window.harmed") is None
