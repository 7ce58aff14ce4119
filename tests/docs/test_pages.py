"""The runner of the pages' blocks finds what is wrong in them."""

from __future__ import annotations

import pages
import pytest

PRINTS = "<!-- prints -->\n```text\n{}\n```\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def runs(text: str) -> pages.Page:
        page = tmp_path / "page.md"
        page.write_text(text, encoding="utf-8")
        return pages.Page(page).run()

    return runs


def test_blocks_share_a_namespace_and_files_and_their_output_is_compared(run):
    done = run(
        '```python title="mine.py"\nseven = 7\n```\n'
        "```python\nfrom mine import seven\n```\n"
        "```python\nprint(seven)\nprint('and', 0.123)\n```\n" + PRINTS.format("7\nand 0.1...")
    )
    assert done.ran == 3 and not done.skipped


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("```python\nprint(7)\n```\n" + PRINTS.format("8"), "the page says"),
        ("<!-- fails: ValueError -->\n```python\nprint(7)\n```\n", "ended in None"),
        ("<!-- fails: ValueError -->\n```python\n{}[0]\n```\n", "KeyError"),
        ("<!-- fails: UnknownMethod -->\n```sh\nheadscope methods\n```\n", "ended well"),
        ("```sh\nheadscope score nothing --model organism/planted\n```\n", "UnknownMethod"),
        ("```sh\nheadscope methods --nothing\n```\n", "no such option|No such option"),
        ("```sh\nmake nothing\n```\n", "make nothing"),
        ("```sh\npip install 'headscope[nothing]'\n```\n", "nothing"),
        ("```sh\nrm -rf nothing\n```\n", "run it, or say why"),
        ("```sh\nheadscope app --nothing\n```\n", "no option --nothing"),
        ("<!-- not run: there is no cluster -->\n```sh\nsbatch --wrap 'headscope runn'\n```\n", "runn"),
        (
            "<!-- not run: there is no cluster -->\n```sh\nsbatch --wrap 'headscope run --x'\n```\n",
            "no option --x",
        ),
        ("```ruby\nputs 7\n```\n", "ruby"),
    ],
)
def test_what_is_wrong_is_found(run, text, what):
    with pytest.raises(AssertionError, match=what):
        run(text)


def test_a_wrong_prompt_is_found(run):
    with pytest.raises(Exception, match="spans"):
        run('```json\n{"text": "abc", "spans": {"needle": [[1, 9]]}}\n```\n')


def test_a_wrong_part_of_a_job_is_found(run):
    with pytest.raises(Exception, match="shard"):
        run("```yaml\nrun: {shard: 8}\n```\n")


def test_a_block_that_is_not_run_is_counted_with_its_reason(run):
    done = run("<!-- not run: it needs\n a cluster -->\n```python\nnothing()\n```\n")
    assert [reason for _, reason in done.skipped] == ["it needs a cluster"] and done.ran == 0
