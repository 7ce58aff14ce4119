"""Head outputs as a stream of shuffled rows, from a model and prompts, that can be taken up anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ....datasets.prompts import Prompt, PromptSet
from ....errors import BadOption, EmptyPromptSet, HookNeverFired, NonFinite
from ....hooks.encode import Batch, encode
from ....hooks.forward import forward
from ....hooks.turn import watching
from ...defaults import as_prompt_set

ROWS = 32  # prompts in one forward pass
_KEPT = 2**27  # numbers of z kept in memory, so that small data is run through the model once: 512 MB


class Place(NamedTuple):
    """Where a stream stands: the epoch, the shard of prompts in it, and the batch to come."""

    epoch: int = 0
    shard: int = 0
    batch: int = 0


class _Seen(Exception):
    """Leaves a forward pass when the layer that is wanted has been read."""


@torch.no_grad()
def layer_z(model: Any, batch: Batch, layer: int) -> Float[Tensor, "batch pos head d_head"]:
    """Return z of one layer; the layers behind it are not run.

    Raises:
        HookNeverFired: The layer shows no z.
        NonFinite: z of a real token is NaN or infinite.
    """
    found: list[Tensor] = []

    def keep(z: Tensor, hook: Any) -> None:
        found.append(z.detach())
        raise _Seen

    point = f"blocks.{layer}.attn.hook_z"
    try:
        with watching(model, [(point, keep)]):
            forward(model, batch, logits_at="last")
    except _Seen:
        z = found[0]
        broken = ~torch.isfinite(z).flatten(2).all(2) & batch.attention_mask.bool().to(z.device)
        if bool(broken.any()):
            row = int(broken.any(1).nonzero()[0])
            raise NonFinite(
                f"{point} of {model.cfg.model_name} is NaN or infinite on prompt {row} of its batch "
                f"({batch.prompts[row].text[:60]!r}); no SAE can be trained on that."
            ) from None
        return z
    raise HookNeverFired(f"{model.cfg.model_name}: {point} did not fire in 1 forward pass.")


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows of z of one layer, or of one head, over and over again in new orders.

    In every epoch the prompts are shuffled and cut into shards; the tokens of a shard are shuffled and handed out in
    batches of nearly equal size. Each order follows from the seed and the place alone, so a stream that is taken up at
    a place goes on as if it had never stopped. Data that fits into memory is run through the model once, other data
    once an epoch.

    Attributes:
        model: The bridge.
        prompts: What it reads; all real tokens count.
        layer: Whose z.
        head: One head, or None for all heads of the layer one after the other.
        batch_tokens: Rows of one batch, about.
        shard_prompts: Prompts whose tokens are held and mixed at a time.
        bos: Whether the first token of each prompt counts.
        seed: Of the orders.
    """

    model: Any
    prompts: Sequence[Prompt]
    layer: int
    head: int | None = None
    batch_tokens: int = 1024
    shard_prompts: int = 512
    bos: bool = True
    seed: int = 0
    _kept: dict[str, list[Tensor] | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n_layers, n_heads = int(self.model.cfg.n_layers), int(self.model.cfg.n_heads)
        if not 0 <= self.layer < n_layers:
            raise BadOption(f"layer {self.layer}: {self.model.cfg.model_name} has layers 0-{n_layers - 1}.")
        if self.head is not None and not 0 <= self.head < n_heads:
            raise BadOption(f"head {self.head}: {self.model.cfg.model_name} has heads 0-{n_heads - 1}.")
        if not len(self.prompts):
            raise EmptyPromptSet(
                "there are no prompts, so there is no activation to train on; give at least one."
            )

    @property
    def width(self) -> int:
        """Numbers in a row."""
        cfg = self.model.cfg
        return int(cfg.d_head) * (int(cfg.n_heads) if self.head is None else 1)

    @property
    def n_shards(self) -> int:
        """Shards in an epoch."""
        return -(-len(self.prompts) // self.shard_prompts)

    def batches(self, place: Place | None = None) -> Iterator[tuple[Place, Float[Tensor, "row width"]]]:
        """Hand out batches without end, each with the place that comes after it."""
        epoch, shard, first = place or Place()
        while True:
            rows = self.shard(epoch, shard)
            parts = rows.tensor_split(max(1, round(len(rows) / self.batch_tokens)))
            for index in range(first, len(parts)):
                last = index + 1 == len(parts)
                after = Place(epoch, shard, index + 1) if not last else self._next(epoch, shard)
                yield after, parts[index]
            epoch, shard, first = self._next(epoch, shard)

    def shard(self, epoch: int, shard: int) -> Float[Tensor, "row width"]:
        """Return the rows of one shard in their order, float32.

        Raises:
            EmptyPromptSet: Its prompts have no token that counts.
        """
        order = torch.randperm(len(self.prompts), generator=self._generator(epoch, -1)).tolist()
        chosen = order[shard * self.shard_prompts : (shard + 1) * self.shard_prompts]
        if "all" not in self._kept:
            self._kept["all"] = self._run(range(len(self.prompts)), most=_KEPT)
        kept = self._kept["all"]
        own = self._run(chosen) if kept is None else [kept[i] for i in chosen]
        assert own is not None
        rows = torch.cat(own)
        if not len(rows):
            raise EmptyPromptSet("the prompts hold no token but the first, which was not to count.")
        return rows[torch.randperm(len(rows), generator=self._generator(epoch, shard)).to(rows.device)]

    def _run(self, chosen: Sequence[int], most: int | None = None) -> list[Tensor] | None:
        """Return the rows of some prompts, prompt by prompt in the order given; None if there are more than `most`."""
        parts: dict[int, Tensor] = {}
        size = 0
        by_length = sorted(chosen, key=lambda i: len(self.prompts[i].text))  # little padding
        for start in range(0, len(by_length), ROWS):
            own = by_length[start : start + ROWS]
            for batch, rows in rows_of(
                self.model, [self.prompts[i] for i in own], self.layer, self.head, bos=self.bos
            ):
                lengths = (batch.lengths - (0 if self.bos else 1)).tolist()
                parts |= dict(zip(own, rows.split(lengths), strict=True))
                size += rows.numel()
            if most is not None and size > most:
                return None
        return [parts[i] for i in chosen]

    def _next(self, epoch: int, shard: int) -> Place:
        return Place(epoch, shard + 1) if shard + 1 < self.n_shards else Place(epoch + 1)

    def _generator(self, epoch: int, shard: int) -> torch.Generator:
        return torch.Generator().manual_seed(
            ((self.seed * 1_000_003 + epoch) * 1_000_003 + shard + 1) % 2**63
        )


def rows_of(
    model: Any,
    prompts: PromptSet | Sequence[Prompt],
    layer: int,
    head: int | None = None,
    *,
    bos: bool = True,
) -> Iterator[tuple[Batch, Float[Tensor, "row width"]]]:
    """Run prompts in their order and give the rows of their real tokens, float32, a batch of prompts at a time."""
    listed = tuple(as_prompt_set(prompts))
    for start in range(0, len(listed), ROWS):
        batch = encode(model, listed[start : start + ROWS], padding_side="right")
        z = layer_z(model, batch, layer)
        counted = batch.positions.to(z.device) >= (0 if bos else 1)
        yield batch, (z.flatten(2) if head is None else z[:, :, head])[counted].float()
