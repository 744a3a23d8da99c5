"""A page in headless Chromium, as a reader has it: what it logs, how fast it is there, and what axe finds in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@contextmanager
def chromium(width: int = 1440, height: int = 1000) -> Iterator[Any]:
    """A running browser, as a selenium driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*_FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(300)  # axe needs half a minute for a page of a hundred layers on a busy machine
    try:
        yield driver
    finally:
        driver.quit()


def open_page(driver: Any, path: Path) -> None:
    """Open a file as a double click on it does."""
    driver.get(path.resolve().as_uri())


def set_dark(driver: Any, dark: bool) -> None:
    """Prefer dark colors, or light ones."""
    value = "dark" if dark else "light"
    features = [{"name": "prefers-color-scheme", "value": value}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def violations(driver: Any) -> list[str]:
    """What the accessibility checks of axe find in the page."""
    from axe_core_python.selenium import Axe

    found = Axe().run(driver)["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]


def milliseconds_to_load(driver: Any) -> float:
    """From the start of the navigation to the end of the load event."""
    return float(driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))


def requested(driver: Any) -> list[str]:
    """What the page asked for besides itself."""
    found: list[str] = driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    return found


def slide(driver: Any, percent: int) -> None:
    """Move the slider of a report."""
    script = "const r = document.getElementById('ratio'); r.value = arguments[0]; r.dispatchEvent(new Event('input'))"
    driver.execute_script(script, percent)


def costs_shown(driver: Any) -> dict[str, int]:
    """By kind, the costs that a report shows, to the last digit."""
    script = "return [...document.querySelectorAll('data.value')].map((one) => [one.id.slice(5), one.value])"
    return {kind: int(value) for kind, value in driver.execute_script(script)}
