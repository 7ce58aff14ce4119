"""Continue prompts token by token, with a key-value cache and interventions that know where in the text they are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from ..datasets.prompts import Prompt, PromptSet
from ..errors import BadOption, BadPrompts, NonFinite, PromptTooLong
from .decoding import Decoding
from .encode import Batch, encode
from .faults import advice, first_fault
from .forward import Pass, announce
from .intervene import intervene
from .interventions import Intervention
from .places import Places
from .sampling import chooser, noise_of
from .tower import bridge_of, reads_only_images
from .turn import turn


@dataclass(frozen=True)
class Generation:
    """How one prompt went on.

    Attributes:
        prompt: What was continued.
        tokens: The new token ids, the end-of-text or stop token included.
        text: What they add to the prompt's text, without end-of-text and without the stop string and what follows it.
        logprobs: Log-probability (nats, temperature 1) of each new token under the model as it ran.
        stopped: True if it ended by itself, False if `max_new_tokens` cut it off.
    """

    prompt: Prompt
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    stopped: bool


@dataclass(frozen=True)
class Step:
    """One decoding step of one batch, after its tokens were chosen.

    Attributes:
        index: 0 for the step that feeds the last prompt token.
        batch: The prompts, padded on the left.
        tokens: What was fed.
        next_tokens: What was chosen.
        logits: What it was chosen from.
        alive: False in rows that had stopped before this step; their values mean nothing.
    """

    index: int
    batch: Batch
    tokens: Int[Tensor, "batch 1"]
    next_tokens: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch vocab"]
    alive: Bool[Tensor, " batch"]


@torch.no_grad()
def generate(
    model: Any,
    prompts: PromptSet | Sequence[Prompt | str] | Prompt | str,
    *,
    interventions: Intervention | Iterable[Intervention] = (),
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop: str | None = None,
    batch_size: int = 16,
    on_step: Callable[[Step], None] | None = None,
    decoding: Decoding | None = None,
) -> tuple[Generation, ...]:
    """Continue prompts, greedily or by sampling, and return one `Generation` each, in order.

    All but the last prompt token are fed at once; then the last one, and each new one, alone. So in a decoding step
    `hook_pattern` is a single row `[batch, head, 1, key_pos]`. A prompt's result does not depend on the batch it is in.

    Args:
        model: The bridge.
        prompts: A `PromptSet`, prompts, or plain texts; the BOS token's own text, such as "<s>", continues BOS alone.
        interventions: Applied throughout; their phase and positions are absolute, whatever is cached.
        max_new_tokens: At most this many tokens each.
        temperature: 0 takes the likeliest token; otherwise tokens are drawn from softmax(logits / temperature).
        top_k: Draw from this many likeliest tokens only; None for all of them. Nothing is drawn at temperature 0.
        seed: With the same seed a prompt gets the same noise clean and changed, and in any batch. It is drawn per
            prompt text; a text that occurs again in the call gets noise of its own.
        stop: End a prompt when its new text contains this string. The model's end-of-text token always ends it.
        batch_size: Prompts run together.
        on_step: Called after every decoding step.
        decoding: Runs the same tokens in several ways and combines their logits at every step; None runs them once.

    Raises:
        EmptyPromptSet: there are no prompts.
        PromptTooLong: a prompt with its continuation would not fit the context.
        BadOption: a value is out of range.
        BadPrompts: a prompt ends with an image.
        HookNeverFired, NoEffect: an intervention did not intervene (see `intervene`).
        NonFinite: a logit is NaN or infinite; the message names prompt, new token, layer and head.
    """
    given, model = model, bridge_of(model)
    if reads_only_images(model):
        raise BadOption(
            f"{model.cfg.model_name} reads images and writes no text, so nothing can be generated."
        )
    _check_options(max_new_tokens, temperature, stop, batch_size)
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise BadOption(f"top_k is {top_k!r}; give a whole number of at least 1, or None for all tokens.")
    whole = encode(model, prompts, padding_side="left")
    check_lengths(model, whole, max_new_tokens)
    _refuse_images_at_the_end(whole)
    noise = noise_of(whole.prompts, seed) if temperature else None
    ended = _end_tokens(model)
    done: list[Generation] = []
    with intervene(given, interventions):
        for start in range(0, len(whole), batch_size):
            rows = slice(start, start + batch_size)
            batch = encode(model, whole.prompts[rows], padding_side="left")
            choose = chooser(temperature, noise[rows] if noise else None, top_k)
            feed = _Feed(model, batch, decoding or Decoding(), start)
            done += _continue(model, batch, max_new_tokens, choose, stop, ended, on_step, feed)
    return tuple(done)


def _continue(
    model: Any,
    batch: Batch,
    max_new_tokens: int,
    choose: Callable[[Tensor], Tensor],
    stop: str | None,
    ended: set[int],
    on_step: Callable[[Step], None] | None,
    feed: _Feed,
) -> list[Generation]:
    """Run one batch to its end."""
    mask = batch.attention_mask
    alive = torch.ones(len(batch), dtype=torch.bool, device=mask.device)
    tokens: list[list[int]] = [[] for _ in batch.prompts]
    logprobs: list[list[float]] = [[] for _ in batch.prompts]
    if mask.shape[1] > 1:
        feed(batch.tokens[:, :-1], mask[:, :-1])
    fed = batch.tokens[:, -1:]
    for index in range(max_new_tokens):
        logits = feed(fed, mask)
        _check_finite(feed, batch, logits, alive, index, tokens)
        chosen = choose(logits).to(mask.device)
        logprob = logits.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        step = Step(index, batch, fed, chosen, logits, alive.clone())
        for row in alive.nonzero()[:, 0].tolist():
            tokens[row].append(int(chosen[row]))
            logprobs[row].append(float(logprob[row]))
            if tokens[row][-1] in ended or (stop and stop in _text(model, batch, row, tokens[row], ended)):
                alive[row] = False
        if on_step is not None:
            on_step(step)
        if not bool(alive.any()):
            break
        fed, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
    texts = [_text(model, batch, row, tokens[row], ended) for row in range(len(batch))]
    return [
        Generation(
            prompt,
            tuple(tokens[row]),
            texts[row].split(stop)[0] if stop else texts[row],
            tuple(logprobs[row]),
            not bool(alive[row]),
        )
        for row, prompt in enumerate(batch.prompts)
    ]


class _Feed:
    """Runs the next tokens of one batch, once for every copy of a decoding, each with a cache of its own."""

    def __init__(self, model: Any, batch: Batch, decoding: Decoding, first_row: int) -> None:
        self.model, self.batch, self.decoding, self.first_row = model, batch, decoding, first_row
        config = model.original_model.config
        self.places = Places(model, batch)
        self.caches = [DynamicCache(config=config) for _ in range(decoding.copies)]
        takes_keep = "logits_to_keep" in inspect.signature(model.original_model.forward).parameters
        self.keep = {"logits_to_keep": 1} if takes_keep else {}

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch key_pos"]
    ) -> Float[Tensor, "batch vocab"]:
        """Run tokens on top of the caches, which grow, and return the logits of the last one."""
        positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, -1)[:, -tokens.shape[1] :]
        found = []
        for copy, cache in enumerate(self.caches):
            with (
                turn(self.model),
                self.decoding.copy(self.model, copy),
                announce(self.model, Pass(positions, self.batch, self.first_row)),
            ):
                # The tokens that stand for images are among the first that are fed.
                images = {} if cache.get_seq_length() else self.decoding.images(self.batch, copy)
                logits = self.model(
                    tokens,
                    attention_mask=mask,
                    past_key_values=cache,
                    output_attentions=False,
                    **images,
                    **self.places.of(positions),
                    **self.keep,
                )
            found.append(logits[:, -1])
        return self.decoding.combine(torch.stack(found)) if len(found) > 1 else found[0]


def _end_tokens(model: Any) -> set[int]:
    """Return the ids that end a text, from generation settings, configuration and tokenizer."""
    found: set[int] = set()
    hf_model = model.original_model
    for source in (getattr(hf_model, "generation_config", None), hf_model.config, model.tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, (list, tuple)) else set() if ids is None else {int(ids)}
    return found


def _text(model: Any, batch: Batch, row: int, new: Sequence[int], ended: set[int]) -> str:
    """Return what new tokens add to a prompt's text; the prompt is decoded with them, as it decides about blanks."""
    new = list(new[:-1]) if new and new[-1] in ended else list(new)
    before = batch.tokens[row][batch.attention_mask[row].bool()].tolist()
    head, full, alone = (
        model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in (before, before + new, new)
    )
    return full[len(head) :] if full.startswith(head) else alone


def _check_options(max_new_tokens: int, temperature: float, stop: str | None, batch_size: int) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise BadOption(f"{name} is {value!r}; give a whole number of at least 1.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise BadOption(
            f"temperature is {temperature!r}; give 0 for the likeliest token, or a positive number."
        )
    if stop == "":
        raise BadOption("stop is an empty string, which every text contains; give a text, or None.")


def _refuse_images_at_the_end(batch: Batch) -> None:
    """The last token is fed alone, and an image's pieces cannot be fed apart from one another."""
    if batch.images and bool((last := batch.spans["image"][:, -1]).any()):
        raise BadPrompts(
            f"prompt {int(last.nonzero()[0])} ends with its image; let its text go on behind the image, with a word or "
            "a sign, and the model with that."
        )


def check_lengths(model: Any, batch: Batch, max_new_tokens: int) -> None:
    """Refuse prompts that would not fit the context with their continuation.

    Raises:
        PromptTooLong: one would not; the message names it.
    """
    n_ctx, name = int(model.cfg.n_ctx), model.cfg.model_name
    for index, length in enumerate(batch.lengths.tolist()):
        # The last new token is not fed, so it needs no place.
        if length + max_new_tokens - 1 > n_ctx:
            raise PromptTooLong(
                f"prompt {index} has {length} tokens and is to get {max_new_tokens} more; {name} reads at most "
                f"{n_ctx}. Shorten it, or ask for at most {n_ctx - length + 1} new tokens."
            )


def _check_finite(
    feed: _Feed, batch: Batch, logits: Tensor, alive: Tensor, index: int, tokens: Sequence[Sequence[int]]
) -> None:
    """Refuse logits that are no numbers, and say where they come from."""
    broken = ~torch.isfinite(logits).all(-1) & alive.to(logits.device)
    if not bool(broken.any()):
        return
    row, model = int(broken.nonzero()[0]), feed.model
    new = torch.tensor([list(own[:index]) + [0] * (index - len(own)) for own in tokens], dtype=torch.long)
    whole = torch.cat([batch.tokens, new.to(batch.tokens)], dim=1)
    mask = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(new.shape)], dim=1)
    fresh = _Feed(model, batch, feed.decoding, feed.first_row)  # empty caches: the text is read in one go
    where = first_fault(model, row, mask[row].bool(), lambda: fresh(whole, mask))
    raise NonFinite(
        f"{model.cfg.model_name}: prompt {feed.first_row + row} ({batch.prompts[row].text[:60]!r}) gives NaN or "
        f"infinite numbers at new token {index}, {where}.{advice(model)}"
    )
