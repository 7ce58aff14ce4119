"""Every block of code in README and docs/ runs, in its order; the few that cannot say why."""

from __future__ import annotations

import time

import pages
import pytest

ALL = {page.relative_to(pages.ROOT).as_posix(): page for page in pages.PAGES}
ELSEWHERE = {"README.md"}  # tests/test_readme.py runs it, and looks at what it prints


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ALL) - ELSEWHERE))
def test_the_blocks_of(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    done = pages.Page(ALL[name]).run()
    with capsys.disabled():
        print(f"\n{name}: {done.ran} blocks run in {time.perf_counter() - start:.1f} s", end="")
        for where, reason in done.skipped:
            print(f"\n    not run: {where}: {reason}", end="")


def blocks_of_all_pages() -> list[pages.Block]:
    return [block for page in pages.PAGES for block in pages.blocks(page)]


def test_few_blocks_are_not_run_and_each_says_why():
    found = blocks_of_all_pages()
    not_run = [block for block in found if block.not_run]
    assert all(len(block.not_run.split()) >= 3 for block in not_run)
    assert len(not_run) <= 0.1 * len(found), [block.where for block in not_run]


def test_every_fence_names_its_language_and_is_closed():
    for page in pages.PAGES:
        fences = [
            line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip()[:3] == "```"
        ]
        assert len(fences) == 2 * len(pages.blocks(page)), page
    assert {block.language for block in blocks_of_all_pages()} <= pages.LANGUAGES
