"""The unchanged model beside a changed one: the same tokens at the same place, a key-value cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .passes import Passes
from .points import hook_name


class _SeenAll(Exception):
    """Leaves a pass as soon as everything that was wanted has been seen."""


@torch.no_grad()
def run_clean(
    model: Any, passes: Passes, wanted: set[tuple[int, str]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Run the tokens of the pass that is about to begin through the unchanged model, and keep what was asked for.

    Attention looks back only, so what the clean model computed for cached tokens stays right: with a cache of its own
    it reads each token once, as the changed model does.

    Args:
        model: The bridge, whose `intervene` blocks are paused.
        passes: Its running pass receives the values (`clean`) and the cache.
        wanted: Layers and points.
        args: What the wrapped model is called with.
        kwargs: The same by name.
    """
    now = passes.now
    assert now is not None
    now.clean.clear()
    call = dict(kwargs)
    if kwargs.get("past_key_values") is not None:
        if now.clean_cache is None:
            now.clean_cache = DynamicCache(config=model.original_model.config)
        call["past_key_values"] = now.clean_cache
    missing = set(wanted)

    def keep(layer: int, at: str) -> Any:
        def hook_fn(value: Tensor, hook: Any) -> None:
            now.clean[layer, at] = value.detach().clone()
            missing.discard((layer, at))
            if not missing:
                raise _SeenAll

        return hook_fn

    hooks = [(hook_name(model, layer, at), keep(layer, at)) for layer, at in sorted(wanted)]
    with silenced(model), model.hooks(fwd_hooks=hooks):
        try:
            model.original_model(*args, **call)
        except _SeenAll:
            return
    assert not missing, f"the clean run did not reach {missing}"


@contextmanager
def silenced(model: Any) -> Iterator[None]:
    """Take all hooks off a model's hook points inside the block, so that nobody sees or changes what runs there."""
    points = [point for point in set(model.hook_dict.values()) if point._forward_hooks]
    held = [(point, dict(point._forward_hooks)) for point in points]
    try:
        for point in points:
            point._forward_hooks.clear()
        yield
    finally:
        for point, hooks in held:
            point._forward_hooks.update(hooks)
