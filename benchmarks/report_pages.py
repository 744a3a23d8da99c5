"""Reports of known networks in Chromium: how large they are, how fast they open, and whether everything on them works.

Each page is opened from its file. Its slider is compared with plans, axe looks at it in light and dark, and it is
searched, sorted, clicked and walked with the keyboard. Times are the median of five loads. Two screenshots go to
``docs/images``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphprune
from benchmarks.chromium import (
    chromium,
    costs_shown,
    milliseconds_to_load,
    open_page,
    requested,
    set_dark,
    slide,
    violations,
)
from benchmarks.common import image, llama, quiet_one_thread, row, table, token_ids, wide_console, write_json

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LOADS = 5
SLOWEST = 2000
"""Milliseconds in which a page must be there."""


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    return models.get_model(name).eval()


def _llama_on_meta() -> nn.Module:
    with torch.device("meta"):
        return llama(24, hidden=2048, vocabulary=32000, heads=32, kv_heads=8)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "resnet50": (lambda: _torchvision("resnet50"), image),
    "vit_b_16": (lambda: _torchvision("vit_b_16"), image),
    "llama-24": (_llama_on_meta, lambda: token_ids(32000)),
}
COMPARED = (10, 50, 90)
"""Percentages at which the page is compared with a plan."""


def main() -> int:
    """Write and try every page, print the table, write ``results/report_pages.json``; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(CASES)}; all by default")
    parser.add_argument("--folder", type=Path, help="keep the pages in this folder")
    options = parser.parse_args()
    quiet_one_thread()
    with tempfile.TemporaryDirectory() as temporary, chromium(1360, 1000) as driver:
        folder = options.folder or Path(temporary)
        results = {name: _tried(driver, name, folder) for name in options.names or CASES}
    wide_console().print(_table(results))
    if not options.names:
        write_json("report_pages.json", results)
    return 0 if all(not found["wrong"] for found in results.values()) else 1


def _tried(driver: Any, name: str, folder: Path) -> dict[str, Any]:
    """Write one page, and try everything on it."""
    build, inputs = CASES[name]
    graph = graphprune.trace(build(), inputs())
    plans = {percent: graph.plan(percent / 100, importance="random") for percent in COMPARED}
    start = time.perf_counter()
    path = graphprune.write_report(folder / f"{name}.html", graph, plans[50])
    seconds = time.perf_counter() - start
    times = [_load(driver, path) for _ in range(LOADS)]
    wrong = [f"opens in {statistics.median(times):.0f} ms"] if statistics.median(times) > SLOWEST else []
    wrong += _wrong_costs(driver, graph, plans) + _unusable(driver, graph)
    for dark in (False, True):
        _load(driver, path)
        set_dark(driver, dark)
        _pose(driver, graph)
        wrong += violations(driver)
        if (name, dark) in PICTURES:
            _picture(driver, IMAGES / PICTURES[name, dark])
    set_dark(driver, False)
    wrong += [entry["message"] for entry in driver.get_log("browser")] + requested(driver)
    return {
        "groups": len(graph.groups),
        "kilobytes": round(path.stat().st_size / 1e3),
        "seconds to write": round(seconds, 1),
        "milliseconds to open": round(statistics.median(times)),
        "wrong": wrong,
    }


PICTURES = {("resnet50", False): "report-light.png", ("llama-24", True): "report-dark.png"}


def _picture(driver: Any, path: Path) -> None:
    """Take a screenshot in 128 colors, which is a third as large."""
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    with Image.open(BytesIO(driver.get_screenshot_as_png())) as found:
        few = found.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def _load(driver: Any, path: Path) -> float:
    open_page(driver, path)
    return milliseconds_to_load(driver)


def _pose(driver: Any, graph: graphprune.ChannelGraph) -> None:
    """Half of every group gone, and the first residual stream selected."""
    slide(driver, 50)
    stream = next(number for number, group in enumerate(graph.groups) if group.role == "width")
    driver.execute_script(f"document.querySelector('#groups tr[data-row=g{stream}] button').click()")


def _wrong_costs(driver: Any, graph: graphprune.ChannelGraph, plans: dict[int, graphprune.Plan]) -> list[str]:
    """Where the slider counts something else than the library."""
    wrong = []
    for percent, plan in plans.items():
        slide(driver, percent)
        if costs_shown(driver) != dict(graph.cost(plan).counts):
            wrong.append(f"at {percent} %: {costs_shown(driver)}, but the plan costs {graph.cost(plan)}")
    return wrong


def _unusable(driver: Any, graph: graphprune.ChannelGraph) -> list[str]:
    """What does not work of searching, sorting, clicking and the keyboard."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def text(selector: str) -> str:
        return str(driver.find_element(By.CSS_SELECTOR, selector).text)

    wrong = []
    field = driver.find_element(By.ID, "groups-search")
    field.send_keys("width")
    found = sum("width" in f"{group.name} {group.role}" for group in graph.groups)
    if text("#groups-count") != f"{found} of {len(graph.groups)} rows":
        wrong.append(f"search: {text('#groups-count')}, not {found}")
    field.send_keys(Keys.BACKSPACE * len("width"))
    driver.find_element(By.CSS_SELECTOR, "#groups th:nth-child(5) button").click()
    most = max(graph.groups, key=lambda group: len(group.axes))
    if text("#groups tbody tr th") != most.name:
        wrong.append(f"sort: {text('#groups tbody tr th')} comes first, not {most.name}")
    driver.find_element(By.CSS_SELECTOR, "#groups tbody tr th button").click()
    if text("#detail h3") != most.name:
        wrong.append(f"click: {text('#detail h3')} is shown, not {most.name}")
    driver.find_element(By.CSS_SELECTOR, "#tree > li").send_keys(Keys.HOME)
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER):
        driver.switch_to.active_element.send_keys(key)
    if text("#detail h3") != text("#tree li li b"):
        wrong.append(f"keyboard: {text('#detail h3')} is shown, not {text('#tree li li b')}")
    slide(driver, 0)
    driver.find_element(By.ID, "ratio").send_keys(Keys.ARROW_RIGHT * 3)
    if text("#ratio-output") != "3 %":
        wrong.append(f"keyboard: the slider is at {text('#ratio-output')}, not 3 %")
    return wrong


def _table(results: dict[str, dict[str, Any]]) -> Any:
    columns = ("groups", "kilobytes", "seconds to write", "milliseconds to open")
    made = table("Reports in Chromium", "network", *columns, "wrong")
    for name, found in results.items():
        row(made, name, *(found[column] for column in columns), "; ".join(found["wrong"]) or "nothing")
    return made


if __name__ == "__main__":
    raise SystemExit(main())
