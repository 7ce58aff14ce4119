"""Prompts: what is refused, what a bad file says, and what survives a round trip."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.datasets.prompts import Prompt, PromptSet
from headscope.errors import BadPrompts, BadSpan, CannotWrite, EmptyPromptSet, MissingData

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@st.composite
def any_prompt(draw: st.DrawFn) -> Prompt:
    text = draw(TEXT)
    start = st.integers(0, len(text) - 1)
    pair = start.flatmap(lambda s: st.tuples(st.just(s), st.integers(s + 1, len(text))))
    return Prompt(
        text,
        answer=draw(st.just("") | TEXT),
        foil=draw(st.just("") | TEXT),
        corrupted=draw(st.just("") | TEXT),
        spans=draw(st.dictionaries(TEXT, st.lists(pair, max_size=3), max_size=2)),
        label=draw(st.just("") | TEXT),
        image=draw(st.just("") | TEXT),
        variants=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
    )


@given(prompts=st.lists(any_prompt(), min_size=1, max_size=4))
def test_a_set_written_and_read_again_is_the_same(tmp_path_factory, prompts):
    path = tmp_path_factory.mktemp("prompts") / "set.jsonl"
    before = PromptSet("set", tuple(prompts))
    after = PromptSet.from_jsonl(before.to_jsonl(path))
    assert after == before
    assert after.digest == before.digest
    assert len(path.read_bytes().split(b"\n")) == len(prompts) + 1


def test_the_digest_follows_content_and_order_but_not_the_name():
    a, b = Prompt("a", answer=" x"), Prompt("b")
    digest = PromptSet("one", (a, b)).digest
    assert PromptSet("two", (a, b)).digest == digest
    assert PromptSet("one", (b, a)).digest != digest
    assert PromptSet("one", (Prompt("a", answer=" y"), b)).digest != digest
    assert PromptSet("one", (Prompt("a", answer=" x", spans={"s": [(0, 1)]}), b)).digest != digest
    assert digest == "79d65cc1db60ecc7"


def test_a_prompt_is_a_frozen_value():
    prompt = Prompt("a red key", spans={"needle": [[2, 5]]}, variants={"long": "a very red key"})
    assert prompt.spans == {"needle": ((2, 5),)}
    assert prompt.marked("needle") == ("red",) and prompt.marked("gold") == ()
    assert {prompt: 1}[copy.deepcopy(prompt)] == 1
    assert pickle.loads(pickle.dumps(prompt)) == prompt
    with pytest.raises(AttributeError):
        prompt.text = "b"


def test_changing_the_callers_dict_does_not_change_the_prompt():
    spans = {"needle": [[0, 1]]}
    prompt = Prompt("abc", spans=spans)
    spans["needle"].append([1, 2])
    spans["other"] = [[0, 1]]
    assert prompt.spans == {"needle": ((0, 1),)}


def test_a_slice_and_a_filter_are_sets_of_the_same_name():
    prompts = PromptSet("abc", tuple(Prompt(letter, label=letter) for letter in "abc"))
    assert [p.text for p in prompts[::2]] == ["a", "c"] and prompts[::2].name == "abc"
    assert [p.text for p in prompts.filter(lambda p: p.label != "b")] == ["a", "c"]
    assert prompts[-1].text == "c" and len(prompts[3:]) == 0


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((1, 4), "spans.gold[0]: ends at 4, expected at most 3, the length of the text"),
        ((-1, 2), "starts at -1, expected 0 or more"),
        ((2, 2), "is [2, 2], expected start < end"),
        ((2, 1), "expected start < end"),
        ((0.0, 1.0), "expected [start, end], two whole numbers"),
        ((True, 2), "expected [start, end], two whole numbers"),
        ((0, 1, 2), "expected [start, end], two whole numbers"),
        ("01", "expected [start, end], two whole numbers"),
    ],
)
def test_a_span_outside_the_text_is_refused(pair, words):
    with pytest.raises(BadSpan) as error:
        Prompt("abc", spans={"gold": [pair]})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": ""}, "text: is empty, expected at least one character"),
        ({"text": None}, "text: is NoneType None, expected a string"),
        ({"text": "a", "answer": 3}, "answer: is int 3, expected a string"),
        ({"text": "a", "spans": [[0, 1]]}, "spans: is list [[0, 1]], expected an object"),
        ({"text": "a", "spans": {"x": "01"}}, "spans.x: is str '01', expected a list of [start, end]"),
        ({"text": "a", "variants": {"x": ""}}, "variants.x: is empty"),
        ({"text": "a", "variants": "x"}, "variants: is str 'x', expected an object"),
        ({"text": "a\udc80"}, "text: has half of a surrogate pair at character 1"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(fields, words):
    with pytest.raises(BadPrompts) as error:
        Prompt(**fields)
    assert words in str(error.value)


def test_numpy_whole_numbers_are_offsets_too():
    import numpy as np

    prompt = Prompt("abc", spans={"gold": [(np.int64(0), np.int64(2))]})
    assert json.dumps(prompt.to_record()) == '{"text": "abc", "spans": {"gold": [[0, 2]]}}'


def test_a_set_takes_only_prompts():
    with pytest.raises(BadPrompts, match=r"words\[1\]: expected a Prompt, got str"):
        PromptSet("words", (Prompt("a"), "b"))
    with pytest.raises(BadPrompts, match="expected a sequence of Prompt, got one str"):
        PromptSet("words", "abc")


BAD_LINES = [
    (b'{"text": "abc", "spans": {"needle": [[1, 9]]}}', "spans.needle[0]: ends at 9, expected at most 3"),
    (
        b'{"text": "abc", "anwser": " x"}',
        "anwser: unknown field, expected one of the fields of a prompt. Nearest: answer",
    ),
    (b'{"answer": " x"}', "text: is missing, expected a string"),
    (b'{"text": "abc", "text": "abd"}', "text: stands twice in one object"),
    (b'{"text": "abc", "spans": {"a": [[0, 1]], "a": [[1, 2]]}}', "a: stands twice in one object"),
    (b'{"text": NaN}', "holds NaN, which is not JSON"),
    (b'{"text": "abc"', "not JSON:"),
    (b'{"text": "\xff"}', "byte 11 (0xff) is not UTF-8"),
    (b'["abc"]', "is list ['abc'], expected one JSON object"),
    (b'{"text": "\\ud800"}', "text: has half of a surrogate pair at character 0"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"text": ' + b"9" * 5000 + b"}", "holds a number of 5000 digits"),
    (b"null", "is NoneType None, expected one JSON object"),
]


@pytest.mark.parametrize(("line", "words"), BAD_LINES, ids=[words[:30] for _, words in BAD_LINES])
def test_a_bad_line_says_where_and_what(tmp_path, line, words):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(BadPrompts) as error:
        PromptSet.from_jsonl(path)
    text = str(error.value)
    assert "set.jsonl:2: " in text and words in text
    assert len(text) < 600


def test_all_bad_lines_are_reported_at_once(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\n".join([b'{"text": "good"}', b"", *(line for line, _ in BAD_LINES)]))
    with pytest.raises(BadPrompts) as error:
        PromptSet.from_jsonl(path)
    text = str(error.value)
    assert f"{len(BAD_LINES)} bad lines" in text
    for number in range(3, 3 + len(BAD_LINES)):
        assert f"set.jsonl:{number}: " in text


def test_thousands_of_bad_lines_do_not_make_a_message_of_thousands(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"{}\n" * 5000)
    with pytest.raises(BadPrompts, match="5,000 bad lines") as error:
        PromptSet.from_jsonl(path)
    assert "... and 4,800 more problems" in str(error.value)
    assert len(str(error.value).splitlines()) == 202


def test_byte_order_mark_windows_ends_blank_lines_and_line_separators_are_read(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes('\ufeff{"text": "a"}\r\n\r\n{"text": "b\u2028c"}\r\n{"text": "d"}'.encode())
    assert [prompt.text for prompt in PromptSet.from_jsonl(path)] == ["a", "b\u2028c", "d"]


def test_a_huge_line_is_read(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"text": "word " * 1_000_000, "spans": {"gold": [[4_999_990, 4_999_999]]}}))
    assert len(PromptSet.from_jsonl(path)[0].text) == 5_000_000


@pytest.mark.parametrize(
    "data", [b"", b"\n \r\n\n", b"\xef\xbb\xbf"], ids=["nothing", "blank lines", "only a mark"]
)
def test_an_empty_file_is_refused(tmp_path, data):
    path = tmp_path / "set.jsonl"
    path.write_bytes(data)
    with pytest.raises(EmptyPromptSet, match="holds no prompt"):
        PromptSet.from_jsonl(path)


def test_utf_16_is_named(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"text": "a"}\n', encoding="utf-16")
    with pytest.raises(BadPrompts, match="UTF-16, expected UTF-8"):
        PromptSet.from_jsonl(path)


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "needle.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(MissingData, match=r"no such file.*needle\.jsonl"):
        PromptSet.from_jsonl(tmp_path / "nedle.jsonl")
    with pytest.raises(MissingData, match="no such file"):
        PromptSet.from_jsonl(tmp_path / "nowhere" / "set.jsonl")
    with pytest.raises(MissingData, match="is a folder"):
        PromptSet.from_jsonl(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "set.jsonl"
    prompts = PromptSet("set", (Prompt("a"),))
    prompts.to_jsonl(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CannotWrite, match="No space left on device; nothing was written"):
        PromptSet("set", (Prompt("b"),)).to_jsonl(path)
    assert [p.name for p in tmp_path.iterdir()] == ["set.jsonl"]
    assert PromptSet.from_jsonl(path) == prompts

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PromptSet("set", (Prompt("b"),)).to_jsonl(path)
    assert [p.name for p in tmp_path.iterdir()] == ["set.jsonl"]


def test_writing_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CannotWrite, match="nothing was written"):
        PromptSet("set", (Prompt("a"),)).to_jsonl(tmp_path / "nowhere" / "set.jsonl")
