"""Measure the workbench in a real browser: python benchmarks/app.py [--model organism/text] [--tokens 128].

Two waits of a reader, from the key press or click to the frame that shows the result: another head (the promise is
300 ms) and another prompt (1 s), on the patterns page with the model loaded. Needs the `playwright` package and
Chromium. On a busy machine the waits say more about the machine: `cpu_ms` is the processor time that the server and the
browser together spent on one of them, which a quiet machine need not exceed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from browser_driver import chromium, served, settle, visit

from headscope.datasets.skills import SKILLS

# Clicks, then waits for the frame after the one in which both figures and the text hold new data.
NEXT_HEAD = """async () => {
  const plots = () => [...document.querySelectorAll('.js-plotly-plot')];
  const state = () => [plots().at(-1)?.data?.[0]?.z, plots()[0]?.layout?.shapes?.[0]?.x0 + 100 *
    plots()[0]?.layout?.shapes?.[0]?.y0];
  const frame = () => new Promise(requestAnimationFrame);
  const [z, shape] = state();
  const button = [...document.querySelectorAll('button')].find((b) => b.innerText.startsWith('Next'));
  const start = performance.now();
  button.click();
  for (;;) {
    await frame();
    const [newZ, newShape] = state();
    if (newZ !== z && newShape !== shape) break;
    if (performance.now() - start > 60000) throw new Error('no redraw within a minute');
  }
  await frame();
  await frame();
  return performance.now() - start;
}"""
NEW_PROMPT = """async ([first, start]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const roots = () => [document, ...[...document.querySelectorAll('*')].map((e) => e.shadowRoot).filter(Boolean)];
  const shown = () => roots().map((root) => root.querySelector('.words')).find(Boolean);
  for (;;) {
    await frame();
    const words = shown();
    if (words && words.children.length > 1 && words.innerText.includes(first)) break;
    if (performance.now() - start > 60000) throw new Error('no redraw within a minute');
  }
  await frame();
  await frame();
  return performance.now() - start;
}"""


def prompts(n: int, n_tokens: int, seed: int = 0) -> list[str]:
    """Write n different texts of `n_tokens` words (less one, for BOS) that the text organism knows."""
    words = [word for prompt in SKILLS["needle"](40, seed=seed) for word in prompt.text.split()]
    draw = random.Random(seed)
    starts = [draw.randrange(len(words) - n_tokens) for _ in range(n)]
    return [" ".join(words[start : start + n_tokens - 1]) for start in starts]


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Give the median, the 90th percentile and the worst, in milliseconds."""
    return {
        "median_ms": round(median(milliseconds), 1),
        "p90_ms": round(quantiles(milliseconds, n=10)[-1], 1),
        "max_ms": round(max(milliseconds), 1),
        "n": len(milliseconds),
    }


def cpu_seconds() -> float:
    """Add up the processor time of everything this process started: the server, and the browser with its helpers."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(page: Any, url: str, model: str, n_tokens: int, rounds: int) -> dict[str, Any]:
    """Visit the page, warm it up, and time both waits."""
    texts = prompts(rounds + 2, n_tokens)
    visit(page, url, "patterns", model=model, prompt=texts[0], layer=0, head=0)
    heads, new, spent = [], [], 0.0
    for index in range(rounds + 2):
        spent = cpu_seconds() if index == 2 else spent
        took = page.evaluate(NEXT_HEAD)
        settle(page)
        heads += [took] if index > 1 else []
    head_cpu = cpu_seconds() - spent
    for index, text in enumerate(texts[1:]):
        spent = cpu_seconds() if index == 1 else spent
        page.get_by_label("Prompt", exact=True).fill(text)
        start = page.evaluate("() => performance.now()")
        page.keyboard.press("Control+Enter")
        took = page.evaluate(NEW_PROMPT, [text[:40], start])
        settle(page)
        new += [took] if index > 0 else []
    new_cpu = cpu_seconds() - spent
    return {
        "another head": summary(heads) | {"cpu_ms": round(1000 * head_cpu / len(heads), 1)},
        "another prompt": summary(new) | {"cpu_ms": round(1000 * new_cpu / len(new), 1)},
    }


def main() -> None:
    """Print the measurements as JSON, with how busy the machine was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="organism/text")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--url", help="Of a running app; without it one is started.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        load = os.getloadavg()[0]
        if given.url:
            found = measure(page, given.url, given.model, given.tokens, given.rounds)
        else:
            with served(Path(folder), Path(folder) / "log") as url:
                found = measure(page, url, given.model, given.tokens, given.rounds)
    facts = {
        "model": given.model,
        "tokens": given.tokens,
        "cores": os.cpu_count(),
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
    }
    print(json.dumps({**facts, **found}, indent=2))


if __name__ == "__main__":
    main()
