"""Take pictures of every page, light and dark, to be looked at: python benchmarks/screenshots.py OUT [--url URL].

Needs the `playwright` package and a Chromium; CHROMIUM names its program if it is not /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
EVIL = '<img src=x onerror=alert(1)> the <b>bold</b> cat & "dog" `code` $x$ [a](http://b) the <b>bold</b> cat'
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "heads": ("", {}),
    "patterns": ("patterns", {}),
    "patterns-lines": ("patterns", {"view": "Lines", "layer": "1", "head": "1"}),
    "patterns-neurons": ("patterns", {"view": "Neurons", "layer": "2", "head": "1"}),
    "patterns-corrupted": ("patterns", {"beside": "its corrupted form", "layer": "2", "head": "1"}),
    "patterns-weighted": ("patterns", {"show": "weighted by ‖v·W_O‖", "token": "9"}),
    "patterns-evil": ("patterns", {"prompt": EVIL}),
    "patterns-wrong-address": ("patterns", {"model": "organism/txet", "layer": "77", "head": "x"}),
    "intervene": ("intervene", {}),
    "circuits": ("circuits", {}),
    "vision": ("vision", {}),
    "runs": ("runs", {}),
}


def settle(page: Page, timeout: float = 120.0) -> None:
    """Wait until Streamlit has connected, is not running, and has drawn what it sent."""
    page.wait_for_selector("[data-testid=stApp]", timeout=timeout * 1000)
    end, quiet = time.monotonic() + timeout, 0
    while time.monotonic() < end and quiet < 4:
        state = page.evaluate(
            "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState ?? ''"
        )
        skeletons = page.locator("[data-testid=stSkeleton], [data-testid=stSpinner]").count()
        quiet = quiet + 1 if state == "notRunning" and not skeletons else 0
        page.wait_for_timeout(150)
    page.wait_for_timeout(300)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8501")
    parser.add_argument("--only", nargs="*", default=list(PAGES))
    parser.add_argument("--themes", nargs="*", default=["light", "dark"])
    parser.add_argument("--width", type=int, default=1440)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        for theme in given.themes:
            context = browser.new_context(
                viewport={"width": given.width, "height": 1000}, color_scheme=theme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.on("pageerror", lambda error: print("page error:", error))
            page.on("console", lambda said: print("console:", said.text) if said.type == "error" else None)
            for name in given.only:
                path, parameters = PAGES[name]
                page.goto(f"{given.url}/{path}?{urlencode(parameters)}", timeout=120_000)
                settle(page)
                height = page.evaluate(
                    "() => (document.querySelector('[data-testid=stMainBlockContainer]')?.scrollHeight ?? 900) + 80"
                )
                page.set_viewport_size({"width": given.width, "height": int(min(max(height, 900), 4000))})
                page.wait_for_timeout(400)
                page.screenshot(path=given.out / f"{name}-{theme}.png")
                page.set_viewport_size({"width": given.width, "height": 1000})
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
