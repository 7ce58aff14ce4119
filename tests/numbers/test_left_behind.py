"""The watch that follows every test sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import left_behind
import pytest
import torch
from models import sentence, write_model

from headscope.hooks.encode import encode
from headscope.hooks.forward import Pass, announce, forward
from headscope.hooks.intervene import intervene
from headscope.hooks.interventions import zero
from headscope.hooks.load import load


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that a test loads by itself."""
    return load(write_model("llama", tmp_path_factory.mktemp("own") / "tiny-own"))


def nothing(*_: Any, **__: Any) -> None:
    return None


def entered(block: Any) -> Any:
    block.__enter__()
    return block


def weight_of(model: Any) -> torch.Tensor:
    return next(model.original_model.parameters())


LEFT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hook point": (
        lambda m: m.add_hook("blocks.0.attn.hook_z", nothing),
        "_forward_hooks of",
    ),
    "torch hook": (
        lambda m: m.original_model.register_forward_pre_hook(nothing),
        "_forward_pre_hooks of original_model",
    ),
    "backward hook": (
        lambda m: m.blocks[1].register_full_backward_hook(nothing),
        "_backward_hooks of",
    ),
    "forward": (lambda m: m.blocks[1].__dict__.update(forward=m.blocks[1].forward), "forward of blocks.1"),
    "weight": (lambda m: weight_of(m).detach().mul_(1.5), "weight"),
    "mode": (lambda m: m.train(), "mode of"),
    "gradients": (lambda m: weight_of(m).requires_grad_(not weight_of(m).requires_grad), "weight"),
    "buffer": (
        lambda m: [
            d.__setitem__("inv_freq", d["inv_freq"] * 2)
            for d in (module._buffers for module in m.original_model.modules())
            if "inv_freq" in d
        ],
        "inv_freq",
    ),
    "open block": (lambda m: entered(intervene(m, zero("L0H0"))), "1 open intervene blocks"),
    "announced pass": (
        lambda m: entered(announce(m, Pass(torch.zeros(1, 1, dtype=torch.long)))),
        "an announced pass",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_is_left_on_a_model_is_seen_and_named(tmp_path: Path, what: str) -> None:
    model = load(write_model("llama", tmp_path / "tiny-own"))
    assert left_behind.left_on(model) == [], "at first sight"
    leave, name = LEFT[what]
    held = leave(model)
    problems = left_behind.left_on(model)
    assert any(name in problem for problem in problems), problems
    left_behind.bridges.discard(model)
    del held


def test_what_is_put_back_is_nothing_left(own: Any) -> None:
    """Passes, hooks taken away again, and a weight that was changed and put back."""
    left_behind.remember(own)
    batch = encode(own, [sentence(5, 1)])
    with own.hooks(fwd_hooks=[("blocks.0.attn.hook_z", nothing)]), intervene(own, zero("L0H0")):
        forward(own, batch)
    own(batch.tokens)
    kept = weight_of(own).detach().clone()
    weight_of(own).detach().zero_()
    weight_of(own).detach().copy_(kept)
    assert left_behind.left_on(own) == []
    assert own in left_behind.bridges
