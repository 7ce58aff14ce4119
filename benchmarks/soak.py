"""Use the workbench at random, and watch it: python benchmarks/soak.py [--minutes 30] [--seed 0].

A browser clicks, types, drags, changes pages, goes back and reloads; what it does follows from the seed. After every
act the page must come to rest without a traceback, without an error in the browser and without a request to another
machine; the server's log is searched for tracebacks at the end. A message about bad input is no error: it is an answer.
What takes longer than 20 seconds, as measuring refusals does, is left alone: another page is opened, as a reader would.
Every minute one line says how much was done and how much memory the server holds. Exit status 1 if anything was wrong.
Needs the `playwright` package and Chromium.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from browser_driver import PATIENCE, chromium, served, settle, visit

import headscope

LONG = 20.0  # seconds
PAGES = ("heads", "patterns", "intervene", "safety", "circuits", "vision", "runs")
TEXTS = (
    "the code of maya ribbon lemon volcano . question : the code of maya",
    "",
    "poem mirror closet butter poem mirror",
    "<img src=x onerror=alert(1)> **bold** $x^2$ [link](http://example.com)",
    "\u202eright to left\u202c \U0001f600 é",
    "word " * 600,
    "L0H0, L99H1",
    "L2H2,L2H3",
    "-1",
    "1e9",
)
KEYS = ("j", "k", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Enter", "Escape", "Tab", "n", "p", "?")
# How often each act is chosen. A page that lacks what an act needs passes it over.
ACTS = {
    "button": 10,
    "figure": 12,
    "table": 4,
    "tab": 6,
    "choice": 8,
    "switch": 6,
    "slider": 4,
    "text": 6,
    "key": 6,
    "fold": 4,
    "page": 6,
    "address": 3,
    "back": 2,
    "reload": 1,
}
FIND = {
    "button": "[data-testid=stButton] button:enabled, [data-testid=stDownloadButton] button:enabled,"
    " [data-testid=stFormSubmitButton] button:enabled, [data-testid=stButtonGroup] button:enabled",
    "figure": ".js-plotly-plot",
    "tab": "[data-testid=stTab], [role=tab]",
    "choice": "[data-testid=stSelectbox] input:enabled, [data-testid=stMultiSelect] input:enabled",
    "switch": "[data-testid=stCheckbox] label, [data-testid=stRadio] label",
    "slider": "[role=slider]",
    "text": "[data-testid=stTextInput] input:enabled, [data-testid=stTextArea] textarea:enabled,"
    " [data-testid=stNumberInput] input:enabled",
    "fold": "[data-testid=stExpander] summary, [data-testid=stPopoverButton]",
    "table": "[data-testid=stDataFrame]",
}


class Soak:
    """One browser tab, what it did, and what went wrong."""

    def __init__(self, page: Any, url: str, seed: int, models: list[str]) -> None:
        """Listen to the page; nothing is opened yet."""
        self.page, self.url, self.models = page, url, models
        self.draw = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.wrong: list[dict[str, Any]] = []
        self.last: list[str] = []
        self.slowest = 0.0
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.found(f"error in the browser: {error}"))
        page.on("dialog", lambda dialog: (self.found(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._asked)

    def found(self, what: str) -> None:
        """Note what went wrong, with the last acts before it."""
        self.wrong.append({"what": what[:2000], "address": self.page.url, "after": self.last[-6:]})
        print(json.dumps(self.wrong[-1]), file=sys.stderr, flush=True)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, self.url.replace("http", "ws", 1), "data:", "blob:")):
            self.found(f"asked another machine: {request.url}")

    def step(self) -> None:
        """Do one act, wait for the page to rest, and look at it."""
        act = self.draw.choices([*ACTS], [*ACTS.values()])[0]
        try:
            if not self._act(act):
                return
        except Exception as error:  # the element went away or is covered: a reader would miss it too
            self.done[f"{act}: missed"] += 1
            self.last.append(f"{act}: missed, {str(error).splitlines()[0][:120]}")
            self.page.keyboard.press("Escape")
        else:
            self.done[act] += 1
        try:
            settle(self.page, LONG)
        except Exception:
            self.done["left at work"] += 1
            self.last.append("left at work")
            self._leave()
        shown = self.page.locator("[data-testid=stException]")
        if shown.count():
            self.found("traceback on the page: " + shown.first.inner_text())
            visit(self.page, self.url, "heads")

    def _leave(self) -> None:
        start = time.monotonic()
        try:
            visit(self.page, self.url, "heads")
        except Exception as error:
            self.found(f"no other page opened within {PATIENCE:.0f} s: {str(error)[:300]}")
        self.slowest = max(self.slowest, time.monotonic() - start)

    def _act(self, act: str) -> bool:
        if act == "page":
            links = self.page.locator("[data-testid=stTopNavLink]")
            return links.count() > 0 and self._click(act, links)
        if act == "address":
            asked = {"model": self.draw.choice(self.models)}
            asked |= self.draw.choice(
                ({}, {"layer": 1, "head": 0}, {"layer": 99}, {"head": "x"}, {"prompt": TEXTS[2]})
            )
            name = self.draw.choice(PAGES)
            self.last.append(f"address {name} {asked}")
            visit(self.page, self.url, name, **asked)
            return True
        if act in ("back", "reload"):
            self.last.append(act)
            _ = self.page.go_back() if act == "back" else self.page.reload()
            return True
        if act == "key":
            key = self.draw.choice(KEYS)
            self.last.append(f"key {key}")
            self.page.keyboard.press(key)
            return True
        found = self.page.locator(FIND[act]).filter(visible=True)
        return found.count() > 0 and self._click(act, found)

    def _click(self, act: str, found: Any) -> bool:
        one = found.nth(self.draw.randrange(found.count()))
        name = (one.get_attribute("aria-label") or one.inner_text() or act).strip()[:60]
        self.last.append(f"{act} {name!r}")
        if act in ("figure", "table"):
            box = one.bounding_box()
            at = {axis: self.draw.random() * box[size] for axis, size in (("x", "width"), ("y", "height"))}
            one.click(position=at, timeout=5000)
        elif act == "slider":
            one.focus()
            for _ in range(self.draw.randrange(1, 5)):
                self.page.keyboard.press(self.draw.choice(("ArrowLeft", "ArrowRight", "Home", "End")))
        elif act == "text":
            text = self.draw.choice(TEXTS)
            one.fill(text if one.get_attribute("type") != "number" else str(self.draw.randrange(-3, 50)))
            self.page.keyboard.press("Control+Enter" if self.draw.random() < 0.5 else "Tab")
        elif act == "choice":
            one.click()
            options = self.page.locator("[role=option]")
            options.first.wait_for(timeout=3000)
            options.nth(self.draw.randrange(options.count())).click(timeout=3000)
            self.page.keyboard.press("Escape")
        else:
            one.click(timeout=5000)
        return True


def memory(process: psutil.Process) -> float:
    """Give the resident memory of the server in MB; the jobs it started are not counted."""
    return process.memory_info().rss / 2**20


def server_of(url: str) -> psutil.Process:
    """Find the process that listens at the address."""
    port = int(url.rsplit(":", 1)[1])
    children = psutil.Process().children(recursive=True)
    return next(
        p for p in children for c in p.net_connections() if c.status == "LISTEN" and c.laddr.port == port
    )


def main() -> int:
    """Run for the given time, and print a line a minute and what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", action="append", help="the models to change between (repeat it)")
    given = parser.parse_args()
    models = given.model or [card.name for card in headscope.available()]
    held: list[float] = []
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        log = Path(folder) / "log"
        with served(Path(folder) / "runs", log) as url:
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            soak = Soak(page, url, given.seed, models)
            visit(page, url, "heads", model=models[0])
            server, start = server_of(url), time.monotonic()
            while (passed := time.monotonic() - start) < 60 * given.minutes:
                soak.step()
                if passed >= 60 * len(held):
                    held.append(memory(server))
                    acts = sum(n for act, n in soak.done.items() if "missed" not in act)
                    line = f"{len(held) - 1:3d} min  {acts:5d} acts  {held[-1]:6.0f} MB"
                    print(f"{line}  {len(soak.wrong)} wrong", flush=True)
            held.append(memory(server))
        text = log.read_text(encoding="utf-8", errors="replace")
    tracebacks = re.findall(r"^Traceback.*?(?=^\S*\d{4}-|\Z)", text, flags=re.M | re.S)
    for one in tracebacks[:5]:
        print(one[-1500:], file=sys.stderr)
    half = len(held) // 2
    facts = {
        "seed": given.seed,
        "minutes": given.minutes,
        "models": models,
        "acts": dict(soak.done.most_common()),
    }
    memory_of = {"start": held[0], "half way": held[half], "most": max(held), "end": held[-1]}
    found = {"wrong": len(soak.wrong), "tracebacks in the log": len(tracebacks)}
    facts["another page while one is at work, slowest, s"] = round(soak.slowest, 1)
    print(json.dumps({**facts, "server_mb": {k: round(v) for k, v in memory_of.items()}, **found}, indent=2))
    return 1 if soak.wrong or tracebacks else 0


if __name__ == "__main__":
    raise SystemExit(main())
