"""The report is one file that loads nothing, shows text as text, and says what was not checked."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from headscope.analysis.attention import Attention
from headscope.analysis.report import ALONE, Part, page, write_report
from headscope.analysis.scores import FROM_ATTENTION, HeadScores, Source
from headscope.analysis.verification import Arm, Verification
from headscope.errors import CannotWrite
from headscope.hooks.heads import Head

EVIL = '<img src=x onerror=alert(1)></script><script>alert("2")</script>'
FACTS = {
    "model": {"name": "tiny", "digest": "abc123", "n_layers": 2, "n_heads": 3, "dtype": "float32"},
    "data": {"name": "pairs", "digest": "def456", "n_prompts": 12},
    "job": {"method": "induction", "options": {"form": "paper"}},
    "seed": 7,
    "started": "2026-01-02T03:04:05+00:00",
    "seconds": 1.25,
    "versions": {"python": "3.11.1", "torch": "2.13.0"},
}


def scores(method: str = "induction", model: str = "tiny") -> HeadScores:
    values = np.array([[0.9, 0.1, 0.2], [0.05, 0.3, 0.15]])
    samples = np.random.default_rng(0).normal(values, 0.01, (12, 2, 3))
    samples[:, 1, 2] = np.nan
    return HeadScores(
        np.where(np.isfinite(samples[0]), values, np.nan),
        samples,
        method,
        model=Source(model, "abc123"),
        data=Source("pairs", "def456"),
        higher="attends to what followed this token last time",
        chance=np.full(12, 0.1),
        notes=("3 prompts were rejected.", FROM_ATTENTION),
    )


def check() -> Verification:
    clean = np.ones(20)
    arms = []
    for k in (1, 2):
        arms.append(Arm("top", k, 0, tuple(Head(0, i) for i in range(k)), np.zeros(20)))
        arms += [
            Arm(name, k, draw, tuple(Head(1, i) for i in range(k)), np.r_[np.ones(19), draw == 1])
            for name in ("same-layers", "anywhere")
            for draw in (1, 2)
        ]
    return Verification(clean, tuple(arms), "needle_accuracy", "uniform (decode)", "decode", "induction",
                        notes=("k=2: too few heads.",))  # fmt: skip


def attention(tokens=("<s>", " a", " b")) -> Attention:
    pattern = np.tril(np.ones((len(tokens), len(tokens)))) / np.arange(1, len(tokens) + 1)[:, None]
    return Attention(tokens, (Head(0, 0), Head(1, 1)), np.stack([pattern, pattern]), {"needle": (1,)})


class Reader(HTMLParser):
    """Collects what a browser would see outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(*parts: Part, **options) -> Reader:
    return Reader(
        page(parts, **({"command": "headscope score induction --model tiny", "facts": [FACTS]} | options))
    )


def figures(reader: Reader) -> dict:
    (text,) = re.findall(r"^const figures = (.*);$", reader.scripts[-1], re.M)
    return json.loads(text)


def test_the_page_has_question_verdict_heads_notes_command_and_origin():
    text = read(Part(scores(), attention=attention())).text
    for wanted in (
        "Which heads of tiny are induction heads?",
        "L0H0 comes first with 0.90",
        "the next head, L1H1, has 0.30",
        ALONE,
        "3 prompts were rejected.",
        "1 of 6 heads have no score",
        "headscope score induction --model tiny",
        "abc123",
        "def456",
        "torch 2.13.0",
        "seed 7",
        "1.2",
    ):
        assert wanted in text, wanted
    assert "Is it causal?" not in text


def test_a_checked_part_gives_the_verdict_first_and_both_controls():
    reader = read(Part(check().mark(scores()), verification=check()))
    text = reader.text
    assert check().verdict in text and text.index(check().verdict) < text.index("All heads")
    assert ALONE not in text and FROM_ATTENTION not in text
    assert text.count(check().verdict) == 1, "the verdict is said once, not again among the notes"
    for wanted in (
        "top heads by score",
        "random heads, same layers",
        "random heads, anywhere",
        "mean of 2 draws",
        "k=2: too few heads.",
        "attention spread evenly while the answer is written (uniform, decode)",
        "needle accuracy",
    ):
        assert wanted in text, wanted
    assert set(figures(reader)) == {"part0-grid", "part0-curve"}


def test_an_unchecked_part_is_marked_also_beside_a_checked_one():
    reader = read(Part(scores(), verification=check()), Part(scores("previous-token")), title="Two questions")
    assert reader.text.count(ALONE) == 1 and "checked causally, against two controls" in reader.text
    assert "Two questions" in reader.text and reader.tags.count("h1") == 1


def test_nothing_is_loaded_from_outside():
    reader = read(Part(scores(), verification=check(), attention=attention()))
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    assert not {"src", "href", "action", "srcset"} & {name for name, _ in reader.attributes}
    policy = next(
        value for name, value in reader.attributes if name == "content" and value and "default-src" in value
    )
    assert "default-src 'none'" in policy and "http" not in policy
    assert reader.tags.count("script") == 2, "plotly.js once, and the figures"
    assert sum("plotly.js v" in script for script in reader.scripts) == 1


@pytest.mark.parametrize("where", ["model", "token", "question", "note", "command"])
def test_foreign_text_stays_text(where):
    part = Part(
        scores(model=EVIL if where == "model" else "tiny"),
        attention=attention(("<s>", EVIL, " b") if where == "token" else ("<s>", " a", " b")),
        question=EVIL if where == "question" else "",
        remarks=(EVIL,) if where == "note" else (),
    )
    reader = read(part, command=EVIL if where == "command" else "headscope")
    assert EVIL in " ".join(reader.words), "shown as it is"
    assert "img" not in reader.tags and reader.tags.count("script") == 2
    assert "onerror" not in {name for name, _ in reader.attributes}


def test_figures_are_drawn_for_light_and_dark_pages():
    both = figures(read(Part(scores(), attention=attention())))
    assert set(both) == {"part0-grid", "part0-pattern"}
    for pair in both.values():
        light, dark = (
            pair[name]["layout"]["template"]["layout"]["paper_bgcolor"] for name in ("light", "dark")
        )
        assert light == "#ffffff" and dark == "#0e1117"


def test_a_long_prompt_is_shown_as_text_only():
    reader = read(Part(scores(), attention=attention(("<s>", *[" a"] * 100))))
    assert set(figures(reader)) == {"part0-grid"} and reader.text.count(" a") >= 200


def test_a_known_head_is_named_with_its_place():
    text = read(Part(scores(), known={"induction head": Head(1, 1), "idle head": Head(1, 2)})).text
    assert "L1H1, the induction head by construction, is number 2." in text
    assert "L1H2, the idle head by construction, is not scored." in text


def test_no_score_at_all_is_said():
    empty = HeadScores(np.full((2, 3), np.nan), None, "induction", notes=("No prompt was accepted.",))
    text = read(Part(empty)).text
    assert "No head has a score: the notes say why." in text and "6 of 6 heads have no score" in text
    assert "No prompt was accepted." in text and "q: p-value" not in text


def test_an_option_that_cannot_be_seen_is_quoted():
    options = {"stop": "\n", "form": "paper", "span": ""}
    text = read(Part(scores()), facts=[FACTS | {"job": FACTS["job"] | {"options": options}}]).text
    assert r"stop='\n', form=paper, span=''" in text


def test_about_this_score_comes_from_the_method_itself():
    text = read(Part(scores("induction"))).text
    assert "Formula" in text and "arXiv:2209.11895" in text
    assert "About this score" not in read(Part(scores("made-by-someone-else"))).text


def test_a_full_disk_leaves_no_report(tmp_path, monkeypatch):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=r"report\.html: No space left"):
        write_report(tmp_path / "report.html", [Part(scores())], command="x")
    assert not list(tmp_path.iterdir())
