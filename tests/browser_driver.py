"""Drive the workbench in a real browser: for the end-to-end tests, the benchmark and the pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from headscope.app import launch

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE = 90.0  # seconds; a busy machine imports torch slowly


@contextmanager
def served(runs: Path, log: Path) -> Iterator[str]:
    """Serve the app on a free port, and give its address."""
    port = launch.free_port("127.0.0.1", 0)
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command(port=port, address="127.0.0.1"),
            env=launch.environment(runs),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the app did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


def visit(page: Any, url: str, path: str = "", **parameters: object) -> None:
    """Open a page of the app at an address, and wait until it is drawn."""
    page.goto(f"{url}/{path}?{urlencode(parameters)}", timeout=1000 * PATIENCE)
    settle(page)


def settle(page: Any, patience: float = PATIENCE) -> None:
    """Wait until Streamlit is connected and idle and has drawn what it sent, for at most so many seconds."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=1000 * patience)
    end, quiet = time.monotonic() + patience, 0
    while quiet < 4:
        assert time.monotonic() < end, "the page did not come to rest"
        running = page.locator("[data-testid=stApp]").get_attribute("data-test-script-state") != "notRunning"
        waiting = page.locator("[data-testid=stSkeleton], [data-testid=stSpinner]").count()
        quiet = 0 if running or waiting else quiet + 1
        page.wait_for_timeout(100)
