"""Batches written by hand, for functions of tokens and attention that need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headscope.datasets.prompts import Prompt
from headscope.hooks.encode import Batch


def batch_of(rows: Sequence[Sequence[int]], *, side: str = "right", width: int = 0, pad: int = 0) -> Batch:
    """Lay token rows into one batch, padded to the longest row or to `width`."""
    width = max(width, *(len(row) for row in rows))
    tokens = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        columns = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[index, columns] = torch.tensor(row)
        mask[index, columns] = 1
    nothing = torch.full((len(rows), 1), -1)
    prompts = tuple(Prompt(" ".join(map(str, row))) for row in rows)
    codec: Any = None
    return Batch(tokens, mask, {}, nothing, nothing, prompts, codec, side)


def random_patterns(n_prompts: int, n_heads: int, n_tokens: int, seed: int = 0) -> Tensor:
    """Draw causal attention: every row is a random distribution over the keys up to its own."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(n_prompts, n_heads, n_tokens, n_tokens, generator=generator).double().tril() ** 3
    return weights / weights.sum(-1, keepdim=True)


def laid_in(patterns: Tensor, lengths: Sequence[int], width: int, side: str) -> Tensor:
    """Lay square patterns into a wider batch; rows of padding queries hold NaN, padding keys get nothing."""
    wide = torch.full((*patterns.shape[:2], width, width), float("nan"), dtype=patterns.dtype)
    for row, length in enumerate(lengths):
        start = width - length if side == "left" else 0
        here = slice(start, start + length)
        wide[row, :, here, :] = 0
        wide[row, :, here, here] = patterns[row, :, :length, :length]
    return wide


def check_pattern_method(
    function: Callable[..., Tensor], reference: Callable[[np.ndarray, list[int]], float], **options: Any
) -> None:
    """Hold a pattern method against a plain loop, and against padding, batching and reordering heads.

    Args:
        function: The method.
        reference: The same for one head: a pattern `[query, key]` and its tokens.
        **options: Of the method.
    """
    generator = torch.Generator().manual_seed(1)
    lengths = (9, 5, 7, 2)
    rows = [torch.randint(1, 5, (length,), generator=generator).tolist() for length in lengths]
    patterns = torch.zeros(4, 3, 9, 9, dtype=torch.double)
    for row, length in enumerate(lengths):
        patterns[row, :, :length, :length] = random_patterns(1, 3, length, seed=row)[0]
    wanted = np.array(
        [
            [reference(patterns[row, head, : len(own), : len(own)].numpy(), own) for head in range(3)]
            for row, own in enumerate(rows)
        ]
    )
    for side in ("left", "right"):
        # Padding holds a token that also occurs in the text, as where EOS pads and begins a text alike.
        batch = batch_of(rows, side=side, width=12, pad=1)
        wide = laid_in(patterns, lengths, 12, side)
        found = function(wide, batch, **options)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12, err_msg=f"loop, padded {side}")
        for row in range(4):
            alone = function(wide[row : row + 1], batch.rows([row]), **options)
            np.testing.assert_allclose(alone.numpy(), wanted[row : row + 1], atol=1e-12)
        order = [2, 0, 1]
        swapped = function(wide[:, order], batch, **options)
        np.testing.assert_allclose(swapped.numpy(), wanted[:, order], atol=1e-12)
