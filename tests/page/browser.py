"""A browser without a window, for tests of pages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1200,1600",
)


class Browser:
    """A page in Chromium.

    Attributes:
        driver: Selenium's driver.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> float:
        """Open a page, wait until its charts are drawn, and return the seconds that took."""
        begun = time.monotonic()
        self.driver.get(path.resolve().as_uri())
        idle = "return !window.Bokeh || Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)"
        while not self.run(idle):
            assert time.monotonic() - begun < 60, self.complaints()
            time.sleep(0.05)
        return time.monotonic() - begun

    def run(self, script: str, *args: Any) -> Any:
        """Run a script in the page, and return what it returns."""
        return self.driver.execute_script(script, *args)

    def complaints(self) -> list[str]:
        """Return the warnings and errors in the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> set[str]:
        """Return what was asked for since the last call: the beginnings of the addresses."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.add(message["params"]["request"]["url"].partition(":")[0])
        return found


@contextmanager
def browser(*, dark: bool = False) -> Iterator[Browser]:
    """Start a browser."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else [])):
        options.add_argument(flag)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
