"""Choose next tokens: the likeliest, or drawn with noise that belongs to the prompt and not to the batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..datasets.prompts import Prompt


def chooser(
    temperature: float, noise: Sequence[torch.Generator] | None, top_k: int | None = None
) -> Callable[[Tensor], Tensor]:
    """Return what picks each row's next token: the maximum, after adding Gumbel noise where one samples.

    With `top_k` only that many likeliest tokens are drawn from; tokens that are as likely as the last of them stay in.
    """

    def choose(logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        if noise is None:
            return logits.argmax(-1)
        # Adding -log(-log u) and taking the maximum draws from the softmax with noise that does not depend on the
        # logits, so that clean and changed runs differ by the change alone.
        u = torch.stack([torch.rand(logits.shape[-1], generator=own, dtype=torch.float64) for own in noise])
        gumbel = -torch.log(-torch.log(u.clamp(min=torch.finfo(torch.float64).tiny)))
        wide = logits.double().cpu()
        # The likeliest at 0, since a very small temperature would make every positive logit infinite.
        scaled = (wide - wide.amax(-1, keepdim=True)) / temperature
        if top_k is not None and top_k < scaled.shape[-1]:
            least = scaled.topk(top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        return (scaled + gumbel).argmax(-1)

    return choose


def noise_of(prompts: Sequence[Prompt], seed: int) -> list[torch.Generator]:
    """Give every prompt a generator of its own, fixed by the seed, its text and which occurrence of it this is."""
    seen: Counter[str] = Counter()
    generators = []
    for prompt in prompts:
        digest = hashlib.sha256(f"{seed}\0{seen[prompt.text]}\0{prompt.text}".encode()).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
        seen[prompt.text] += 1
    return generators
