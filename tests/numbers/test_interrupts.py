"""Whatever is raised, wherever: an interrupt in the middle of Headscope's own lines, an error in a caller's function.

Afterwards the model carries nothing, and its logits are the same to the bit. Only an interrupt in the few lines that
clean up, in the microseconds of a `finally`, is out of Python's hands.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import left_behind
import pytest
import torch
from models import sentence

from headscope.analysis.compare import forced_logprobs
from headscope.analysis.direct import direct
from headscope.analysis.score import score_patterns
from headscope.datasets.prompts import Prompt
from headscope.hooks.capture import capture_z, each_pattern
from headscope.hooks.decoding import Buckets, rotary_base
from headscope.hooks.encode import Batch, encode
from headscope.hooks.forward import Pass, announce, forward, running_pass
from headscope.hooks.generate import generate
from headscope.hooks.hidden import final_hidden, unembedded
from headscope.hooks.intervene import intervene, paused
from headscope.hooks.interventions import resample, uniform, zero
from headscope.hooks.lean import forward_as, lean
from headscope.hooks.rows import read_rows
from headscope.hooks.steering import replay
from headscope.hooks.sweep import sweep
from headscope.hooks.turn import open_blocks, turn, watching

PROMPT = Prompt(sentence(4, 1), corrupted=sentence(4, 2), answer=" cat")


class Stop(KeyboardInterrupt):
    """Told from one that somebody really presses."""


@pytest.fixture
def model(tiny: Callable[[str], Any]) -> Any:
    found = tiny("llama")
    with torch.no_grad():
        forward(found, encode(found, [PROMPT]))
    return found


@pytest.fixture
def unchanged(model: Any) -> Any:
    """Hold after the test that the model carries nothing and computes the same."""
    with torch.no_grad():
        batch = encode(model, [PROMPT])
        clean = forward(model, batch)

        def hold(where: Any = "") -> None:
            assert left_behind.left_on(model) == [], where
            assert not open_blocks(model) and running_pass(model) is None, where
            assert torch.equal(forward(model, batch), clean), where

        yield hold
        hold()


def intervened(model: Any) -> None:
    batch = encode(model, [PROMPT])
    with intervene(model, [uniform("L0H0"), resample("L1H1"), replay("L2H0", 0.5)]):
        forward(model, batch)


WORK: dict[str, Callable[[Any], Any]] = {
    "intervene": intervened,
    "capture": lambda m: capture_z(m, encode(m, [PROMPT])),
    "hidden": lambda m: final_hidden(m, encode(m, [PROMPT]), [zero("L0H1")]),
    "rows": lambda m: read_rows(m, "the cat saw"),
    "generate": lambda m: generate(
        m, "the cat", max_new_tokens=1, interventions=zero("L0H0"), decoding=Buckets((10000.0, 20000.0))
    ),
    "sweep": lambda m: sweep(m, encode(m, [PROMPT]), "kl_to_clean", zero, heads="L0H0,L2H1"),
}
_WATCHED = {
    f"{name}.py" for name in ("turn", "intervene", "clean", "lean", "hidden", "decoding", "forward", "blocks")
}


@cache
def cleaning_up(path: str) -> tuple[set[int], set[int]]:
    """The lines of a file that stand under a `finally`, and those of `with`, which come again when it is left."""
    nodes = list(ast.walk(ast.parse(Path(path).read_text())))
    bodies = [part for node in nodes if isinstance(node, ast.Try) for part in node.finalbody]
    finals = {line for part in bodies for line in range(part.lineno, (part.end_lineno or 0) + 1)}
    heads = [node for node in nodes if isinstance(node, ast.With)]
    return finals, {line for node in heads for line in range(node.lineno, node.body[0].lineno)}


def interrupted(work: Callable[[], Any], at: int | None) -> tuple[int, str]:
    """Run work and raise at the n-th line that modules with something to undo execute; the lines and where it was."""
    count, where = 0, ""
    seen: set[tuple[Any, int]] = set()

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal count, where
        place = (frame, frame.f_lineno)
        finals, withs = cleaning_up(frame.f_code.co_filename)
        leaving = frame.f_lineno in finals or (frame.f_lineno in withs and place in seen)
        seen.add(place)
        if event == "line" and not leaving:
            count += 1
            if count == at:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                raise Stop
        return line

    def call(frame: Any, event: str, arg: Any) -> Any:
        path = frame.f_code.co_filename
        return line if "hooks" in path and path.rpartition("/")[2] in _WATCHED else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    except Stop:
        pass
    finally:
        sys.settrace(before)
    return count, where


@pytest.mark.parametrize("name", WORK)
def test_an_interrupt_at_any_line_leaves_nothing(model: Any, unchanged: Any, name: str) -> None:
    work = partial(WORK[name], model)
    n_lines, _ = interrupted(work, None)
    assert n_lines > 20
    for at in range(1, n_lines + 1, max(1, n_lines // 9)):
        count, where = interrupted(work, at)
        assert count == at and where, "it was not interrupted"
        unchanged(f"{name} interrupted at line {at} of {n_lines}, {where}")


def boom(error: type[BaseException], *_: Any, **__: Any) -> Any:
    raise error("in the caller's own function")


CALLBACKS: dict[str, Callable[[Any, Batch, Callable[..., Any]], Any]] = {
    "visit": lambda m, b, f: each_pattern(m, b, f),
    "progress of scores": lambda m, b, f: score_patterns(m, [PROMPT], ["first-token"], progress=f),
    "progress of a sweep": lambda m, b, f: sweep(m, b, "kl_to_clean", zero, progress=f),
    "metric": lambda m, b, f: sweep(m, b, f, zero),
    "kind": lambda m, b, f: sweep(m, b, "kl_to_clean", f),
    "on_step": lambda m, b, f: generate(m, "the cat", interventions=zero("L0H0"), on_step=f),
    "hook": lambda m, b, f: m.run_with_hooks(b.tokens, fwd_hooks=[("blocks.1.attn.hook_z", f)]),
    "hook in a block": lambda m, b, f: hooked(m, b, f),
}


def hooked(model: Any, batch: Batch, act: Callable[..., Any]) -> None:
    with (
        intervene(model, [uniform("L0H0"), replay("L2H0", 0.5)]),
        watching(model, [("blocks.1.hook_in", act)]),
    ):
        forward(model, batch)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("name", CALLBACKS)
def test_an_error_in_a_callers_function_comes_through_and_leaves_nothing(
    model: Any, unchanged: Any, name: str, error: type[BaseException]
) -> None:
    with pytest.raises(error, match="in the caller's own function"):
        CALLBACKS[name](model, encode(model, [PROMPT]), partial(boom, error))
    unchanged(name)


BLOCKS: dict[str, Callable[[Any], Any]] = {
    "intervene": lambda m: intervene(m, [zero("L0H0"), uniform("L1H1")]),
    "direct": lambda m: direct(m, zero("L1H0")),
    "paused": paused,
    "turn": turn,
    "watching": lambda m: watching(m, [("blocks.0.hook_in", lambda value, hook: value * 2)]),
    "announce": lambda m: announce(m, Pass(torch.zeros(1, 1, dtype=torch.long))),
    "unembedded": unembedded,
    "lean": lean,
    "forward_as": lambda m: forward_as(m.blocks[0].attn, lambda *_, **__: 1 / 0),
    "rotary_base": lambda m: rotary_base(m, 20000.0),
}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("name", BLOCKS)
def test_an_error_inside_a_block_leaves_nothing(
    model: Any, unchanged: Any, name: str, error: type[BaseException]
) -> None:
    with pytest.raises(error, match="own function"), BLOCKS[name](model), intervene(model, zero("L2H2")):
        boom(error)
    unchanged(name)
    block = BLOCKS[name](model)
    block.__enter__()
    if name in ("intervene", "direct"):
        assert open_blocks(model)
        model(encode(model, [PROMPT]).tokens)
    block.__exit__(None, None, None)
    unchanged(f"{name}, left as it should be")


def test_a_continuation_that_is_interrupted_leaves_nothing(
    model: Any, unchanged: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("headscope.analysis.compare.combined", partial(boom, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="own function"):
        forced_logprobs(model, "the cat", [5, 6])
    unchanged()
