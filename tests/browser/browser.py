"""A headless Chromium for tests, driven by selenium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As few processes and requests of its own as can be: they would be taken for the page's.
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_REQUIRED = "T3DGS_MASKS_NEEDS_BROWSER"
"""Set where these tests have to run: a missing browser is a failure there, not a skip."""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """The browser; skips the test where there is none."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        reason = "needs Chromium and ChromeDriver (Debian: chromium, chromium-driver)"
        (pytest.fail if os.environ.get(_REQUIRED) else pytest.skip)(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in _OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Page:
    """A report that is open in the browser."""

    def __init__(self, chrome: webdriver.Chrome, path: Path) -> None:
        self.chrome = chrome
        self.path = path
        self.show(1280, 900)
        chrome.get_log("performance")  # what came before is not this page's
        chrome.get_log("browser")
        self.open()

    def open(self) -> None:
        """Load the file, from disk."""
        self.chrome.get(self.path.absolute().as_uri())
        self.settle()

    def show(self, width: int, height: int, *, dark: bool = False) -> None:
        """Choose the size of the window, in CSS pixels, and the colour scheme."""
        self.chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def script(self, code: str, *args: object) -> Any:
        return self.chrome.execute_script(code, *args)

    def settle(self) -> None:
        """Wait until the frame that was asked for last is drawn."""
        # Two turns of the event loop: the page draws after pictures are decoded.
        self.chrome.execute_async_script(
            """
            const done = arguments[0], canvas = document.getElementById("picture");
            let before = null;
            (function look() {
              const now = canvas.dataset.revision;
              if (now !== undefined && now === before) return done();
              before = now;
              requestAnimationFrame(() => setTimeout(look, 60));
            })();
            """
        )

    def find(self, selector: str) -> Any:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def text(self, element_id: str) -> str:
        return self.find(f"#{element_id}").text

    def click(self, selector: str) -> None:
        element = self.find(selector)
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        self.settle()

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        self.chrome.switch_to.active_element.send_keys(*keys)
        self.settle()

    def set_value(self, element_id: str, value: object) -> None:
        """Move a slider, or type a number."""
        self.script(
            """
            const element = document.getElementById(arguments[0]);
            element.value = arguments[1];
            element.dispatchEvent(new Event("input", {bubbles: true}));
            """,
            element_id,
            str(value),
        )
        self.settle()

    def layers(self, *names: str) -> None:
        """Show these layers and no others."""
        for name in ("photo", "coarse", "residual", "refined", "overlay"):
            box = self.find(f"#layer-{name}")
            if box.is_selected() != (name in names):
                box.click()
        self.settle()

    @property
    def frame(self) -> int:
        """Index of the frame that is drawn."""
        return int(self.find("#picture").get_attribute("data-frame"))

    def pixels(self, height: int, width: int) -> list[list[list[int]]]:
        """[height][width][RGB] of the picture, at the centres of such a grid."""
        return self.script(
            """
            const [height, width] = arguments;
            const canvas = document.getElementById("picture");
            // Of a copy: the browser has a word about canvases that are read again and again.
            const copy = document.createElement("canvas");
            copy.width = canvas.width;
            copy.height = canvas.height;
            const context = copy.getContext("2d", {willReadFrequently: true});
            context.drawImage(canvas, 0, 0);
            const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
            return Array.from({length: height}, (_, y) => Array.from({length: width}, (_, x) => {
              const row = Math.floor((y + 0.5) * canvas.height / height);
              const column = Math.floor((x + 0.5) * canvas.width / width);
              const at = 4 * (row * canvas.width + column);
              return [data[at], data[at + 1], data[at + 2]];
            }));
            """,
            height,
            width,
        )

    def wait_until(self, condition: str) -> None:
        WebDriverWait(self.chrome, 10).until(lambda chrome: chrome.execute_script(condition))

    def messages(self) -> list[str]:
        """What the page wrote to the console since the last call."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for since the last call, pictures in the page aside."""
        events = [json.loads(e["message"])["message"] for e in self.chrome.get_log("performance")]
        addresses = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in addresses if not address.startswith("data:")]
