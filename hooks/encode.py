"""Turn prompts into a `Batch` of tokens, with spans, answers and positions that padding cannot shift."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..datasets.prompts import Prompt, PromptSet
from ..errors import BadOption, BadPrompts, EmptyPromptSet
from .eyes import Seen, in_boxes, stack
from .pictures import labels_of, see_alone
from .tokens import Codec, Tokens, span_mask
from .tower import reads_only_images

_log = logging.getLogger("headscope")
_told: set[tuple[str, str]] = set()  # model and word, so that each is named once


@dataclass(frozen=True)
class Batch:
    """Prompts as tensors; row i is `prompts[i]`.

    Attributes:
        tokens: Token ids of the text (not of the answer), BOS included where the model takes one.
        attention_mask: 1 where a real token stands (BOS included), 0 on padding.
        spans: For every span name that any prompt has: True on the tokens that the span covers; a row whose
            prompt lacks the name is all False. Where a prompt has an image, `image` marks its pieces, and the names of
            its boxes mark the pieces inside them.
        answer_ids: Tokens of the answer as the text continues with it; -1 where there is none.
        foil_ids: The same for the wrong answer.
        prompts: What was encoded.
        codec: The tokenizer's side of `encode`, kept so that `corrupted` can encode alike; None where a model reads
            images alone.
        padding_side: Where the padding stands: `"left"` or `"right"`.
        images: What each prompt shows, None where it shows nothing.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    spans: Mapping[str, Bool[Tensor, "batch pos"]]
    answer_ids: Int[Tensor, "batch answer_pos"]
    foil_ids: Int[Tensor, "batch answer_pos"]
    prompts: tuple[Prompt, ...]
    codec: Codec = field(repr=False, compare=False)
    padding_side: str = "right"
    images: tuple[Seen | None, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def last(self) -> Int[Tensor, " batch"]:
        """Column of each row's last real token: the one whose logits predict the answer."""
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (columns * self.attention_mask).argmax(dim=1)

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Absolute position counted over real tokens, the first (BOS) = 0; -1 on padding."""
        counted = self.attention_mask.cumsum(dim=1) - 1
        return counted.masked_fill(self.attention_mask == 0, -1)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Number of real tokens in each row."""
        return self.attention_mask.sum(dim=1)

    def to(self, device: Any) -> Batch:
        """Return the batch with its tensors on a device; itself if they are there already."""
        if self.tokens.device == torch.device(device):
            return self
        return self._map(lambda tensor: tensor.to(device), self.prompts, self.images)

    @property
    def image_inputs(self) -> dict[str, Tensor]:
        """What the forward pass takes beside the tokens: nothing, or such as `pixel_values`, in the order of rows."""
        return {name: tensor.to(self.tokens.device) for name, tensor in stack(self.images).items()}

    def rows(self, rows: slice | Sequence[int]) -> Batch:
        """Return some rows, at the same width."""
        chosen = list(range(len(self)))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        index = torch.tensor(chosen, dtype=torch.long, device=self.tokens.device)
        images = tuple(self.images[row] for row in chosen) if self.images else ()
        return self._map(lambda tensor: tensor[index], tuple(self.prompts[row] for row in chosen), images)

    def corrupted(self) -> Batch:
        """Encode the `corrupted` texts, keeping answers and foils, so that a metric asks the same of both
        runs.

        Span masks carry over to rows whose corrupted text has as many tokens; in other rows they are all
        False.

        Raises:
            BadPrompts: a prompt has no corrupted text.
        """
        for index, prompt in enumerate(self.prompts):
            if not prompt.corrupted:
                raise BadPrompts(
                    f"prompt {index} ({prompt.text[:60]!r}) has no corrupted text; give every prompt one."
                )
        texts = [
            replace(prompt, text=prompt.corrupted, corrupted=prompt.text, spans={}) for prompt in self.prompts
        ]
        if self.codec is None:
            raise BadPrompts("a model of images alone reads no corrupted text.")
        images = self.images or (None,) * len(self)
        encoded = [
            self.codec.tokens(prompt.text, f"corrupted text of prompt {i}", images[i])
            for i, prompt in enumerate(texts)
        ]
        tokens, mask = _pad(encoded, self.codec.pad_id, self.padding_side)
        spans = {name: torch.zeros(mask.shape, dtype=torch.bool) for name in self.spans}
        for row, own in enumerate(encoded):
            if len(own.ids) == int(self.lengths[row]):
                for name, clean in self.spans.items():
                    spans[name][row, mask[row].bool()] = clean[row, self.attention_mask[row].bool()].cpu()
        device = self.tokens.device
        return replace(
            self,
            tokens=tokens.to(device),
            attention_mask=mask.to(device),
            spans={name: span.to(device) for name, span in spans.items()},
            prompts=tuple(texts),
        )

    def _map(self, change: Any, prompts: tuple[Prompt, ...], images: tuple[Seen | None, ...]) -> Batch:
        return replace(
            self,
            tokens=change(self.tokens),
            attention_mask=change(self.attention_mask),
            spans={name: change(span) for name, span in self.spans.items()},
            answer_ids=change(self.answer_ids),
            foil_ids=change(self.foil_ids),
            prompts=prompts,
            images=images,
        )


def encode(
    model: Any, prompts: PromptSet | Sequence[Prompt | str] | Prompt | str, *, padding_side: str | None = None
) -> Batch:
    """Encode prompts for a model.

    BOS is prepended where the tokenizer does so or the model's configuration asks for it, as
    `model.to_tokens` does. A span covers every token that shares a character with it, where a token's own
    leading blanks do not count. An answer's tokens are those that `text + answer` has after the tokens of
    `text`. Words that the tokenizer has no token for are named once in a warning of the logger `headscope`.

    Args:
        model: The bridge, with its tokenizer.
        prompts: A `PromptSet`, prompts, or plain texts.
        padding_side: `"left"`, `"right"`, or None for the tokenizer's own.

    Raises:
        EmptyPromptSet: there are no prompts.
        PromptTooLong: a text has more tokens than the context; the message has its index and both lengths.
        BadSpan: a span lies outside its text or covers no token.
        BadPrompts: an answer merges with the text's last token, or a prompt has an image and the model sees none.
        BadImage: an image cannot be read.
    """
    listed = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
    if not listed:
        raise EmptyPromptSet(
            f"there is no prompt to run in {getattr(prompts, 'name', 'the list')!r}; give at least one."
        )
    chosen = tuple(Prompt(text=prompt) if isinstance(prompt, str) else prompt for prompt in listed)
    if reads_only_images(model):
        return of_pictures(model, chosen)
    codec = Codec.of(model)
    side = padding_side or codec.padding_side
    if side not in ("left", "right"):
        raise BadOption(f"padding_side is {padding_side!r}; choose left or right.")
    images = tuple(codec.see(prompt, f"prompt {index}") for index, prompt in enumerate(chosen))
    encoded = [
        codec.tokens(prompt.text, f"prompt {index}", seen)
        for index, (prompt, seen) in enumerate(zip(chosen, images, strict=True))
    ]
    tokens, mask = _pad(encoded, codec.pad_id, side)
    names = list(dict.fromkeys(name for prompt in chosen for name in prompt.spans))
    spans = {name: torch.zeros(mask.shape, dtype=torch.bool) for name in names}
    for index, (prompt, own) in enumerate(zip(chosen, encoded, strict=True)):
        for name, ranges in prompt.spans.items():
            spans[name][index, mask[index].bool()] = span_mask(
                own, prompt.text, name, ranges, f"prompt {index}"
            )
    if any(images):
        assert codec.eyes is not None
        spans |= _image_spans(codec.eyes.token_id, chosen, images, tokens, mask)
    answers = [
        codec.continuation(prompt.text, prompt.answer, f"prompt {i}") for i, prompt in enumerate(chosen)
    ]
    foils = [codec.continuation(prompt.text, prompt.foil, f"prompt {i}") for i, prompt in enumerate(chosen)]
    nothing = codec.tokenizer.unk_token_id
    read = zip(chosen, encoded, answers, foils, strict=True)
    suspects = [
        prompt for prompt, own, *ends in read if nothing in own.ids or any(nothing in end for end in ends)
    ]
    _tell_unknown(codec, unknown_words(codec, suspects)[0])
    batch = Batch(
        tokens,
        mask,
        spans,
        _table(answers),
        _table(foils),
        chosen,
        codec,
        side,
        images if any(images) else (),
    )
    return batch.to(model.cfg.device)


def of_pictures(model: Any, prompts: tuple[Prompt, ...]) -> Batch:
    """Encode the images of prompts for a model of images alone: one place to predict from, a label as answer and foil.

    Raises:
        BadPrompts: A prompt has no image, or several, or its answer is none of the model's labels.
        BadImage: An image cannot be read.
        BadModelFolder: The model came without its image processor.
    """
    images = tuple(see_alone(model, prompt.images, f"prompt {i}") for i, prompt in enumerate(prompts))
    answers, foils = (
        [labels_of(model, getattr(prompt, name), f"prompt {i}: {name}") for i, prompt in enumerate(prompts)]
        for name in ("answer", "foil")
    )
    tokens = torch.zeros(len(prompts), 1, dtype=torch.long)
    nothing: Any = None  # there is no text to encode
    mask, ends = torch.ones_like(tokens), (_table(answers), _table(foils))
    batch = Batch(tokens, mask, {}, *ends, prompts, nothing, "right", images)
    return batch.to(model.cfg.device)


def _image_spans(
    token_id: int, prompts: Sequence[Prompt], images: Sequence[Seen | None], tokens: Tensor, mask: Tensor
) -> dict[str, Bool[Tensor, "batch pos"]]:
    """Mark the pieces of images, and under each box's name those of them that lie in the box."""
    pieces = (tokens == token_id) & mask.bool()
    found = {"image": pieces}
    for row, (prompt, seen) in enumerate(zip(prompts, images, strict=True)):
        for name, boxes in prompt.boxes.items():
            if seen is None:
                raise BadPrompts(f"prompt {row} has boxes and no image; fill its `image` field.")
            inside = in_boxes(seen, boxes, f"prompt {row}: boxes {name!r}")
            found.setdefault(name, torch.zeros_like(pieces))[row, pieces[row]] = inside
    return found


def unknown_words(codec: Codec, prompts: Sequence[Prompt]) -> tuple[tuple[str, ...], int]:
    """Return the words of texts, answers and foils that the model has no token for, and how many prompts hold one."""
    found: dict[str, None] = {}
    n_prompts = 0
    for prompt in prompts:
        here = [word for text in (prompt.text, prompt.answer, prompt.foil) for word in codec.unknown(text)]
        found.update(dict.fromkeys(here))
        n_prompts += bool(here)
    return tuple(found), n_prompts


def some_of(words: Sequence[str], most: int = 5) -> str:
    """Quote the first words and count the rest."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(repr(word) for word in words[:most]) + more


def _tell_unknown(codec: Codec, words: Sequence[str]) -> None:
    new = [word for word in words if (codec.model_name, word) not in _told]
    if new:
        _told.update((codec.model_name, word) for word in new)
        _log.warning(
            "%s has no token for %s and reads %s there. Its words: model.tokenizer.get_vocab().",
            codec.model_name,
            some_of(new),
            codec.tokenizer.unk_token,
        )


def _pad(encoded: Sequence[Tokens], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Line rows up at the right edge (left padding) or at the left edge."""
    width = max(len(own.ids) for own in encoded)
    tokens = torch.full((len(encoded), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(encoded), width), dtype=torch.long)
    for row, own in enumerate(encoded):
        start = width - len(own.ids) if side == "left" else 0
        tokens[row, start : start + len(own.ids)] = torch.tensor(own.ids, dtype=torch.long)
        mask[row, start : start + len(own.ids)] = 1
    return tokens, mask


def _table(ids: Sequence[Sequence[int]]) -> Int[Tensor, "batch answer_pos"]:
    """Stack id lists of different lengths, -1 after the end; at least one column."""
    width = max(1, *(len(row) for row in ids))
    return torch.tensor([[*row, *([-1] * (width - len(row)))] for row in ids], dtype=torch.long)
