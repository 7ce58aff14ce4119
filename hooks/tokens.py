"""Tokenise texts with their character offsets, in the way that the model's bridge would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ..datasets.prompts import Prompt
from ..errors import BadModelFolder, BadPrompts, BadSpan, PromptTooLong
from .eyes import Eyes, Seen


@dataclass(frozen=True)
class Tokens:
    """Token ids of one text, each with the characters `[start, end)` it stands for; added tokens have `(0, 0)`."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Codec:
    """A model's tokenizer with the facts about BOS, EOS, padding and context that encoding needs."""

    tokenizer: Any
    model_name: str
    n_ctx: int
    pad_id: int
    padding_side: str
    prepend_bos: bool
    tokenizer_prepends_bos: bool
    tokenizer_appends_eos: bool
    eyes: Eyes | None = None

    @classmethod
    def of(cls, model: Any) -> Codec:
        """Read the codec of a bridge.

        Raises:
            BadModelFolder: the model has no tokenizer, or one that gives no character offsets.
        """
        tokenizer, cfg = model.tokenizer, model.cfg
        if tokenizer is None:
            raise BadModelFolder(
                f"{cfg.model_name} was loaded without a tokenizer; put tokenizer.json beside its weights."
            )
        if not getattr(tokenizer, "is_fast", False):
            raise BadModelFolder(
                f"{cfg.model_name}: {type(tokenizer).__name__} gives no character offsets; "
                "save a fast tokenizer (tokenizer.json) beside the weights."
            )
        return cls(
            tokenizer=tokenizer,
            model_name=str(cfg.model_name),
            n_ctx=int(cfg.n_ctx),
            pad_id=int(tokenizer.pad_token_id or 0),
            padding_side=getattr(tokenizer, "padding_side", None) or "right",
            prepend_bos=bool(getattr(cfg, "default_prepend_bos", True)),
            tokenizer_prepends_bos=bool(getattr(cfg, "tokenizer_prepends_bos", True)),
            tokenizer_appends_eos=bool(getattr(cfg, "tokenizer_appends_eos", False)),
            eyes=Eyes.of(model),
        )

    def see(self, prompt: Prompt, where: str) -> Seen | None:
        """Read a prompt's images; None if it has none.

        Raises:
            BadImage: An image cannot be read.
            BadPrompts: The model takes no images.
        """
        if not prompt.image:
            return None
        if self.eyes is None:
            raise BadPrompts(
                f"{where} has an image ({prompt.image[:60]!r}), and {self.model_name} takes text only; choose a model "
                "that sees images, or leave the prompt's image empty."
            )
        return self.eyes.see(prompt.images, where)

    def tokens(self, text: str, where: str, seen: Seen | None = None) -> Tokens:
        """Tokenise one text, with the tokens of its image where the text names it, or after BOS.

        Args:
            text: The text.
            where: What an error calls it, such as `prompt 3`.
            seen: The image that belongs to it.

        Raises:
            PromptTooLong: it has more tokens than the context.
            BadPrompts: it has none.
        """
        tokens = self._read(text)
        if self.eyes is not None:
            bos = self.tokenizer.bos_token_id
            ids, offsets = self.eyes.place(list(tokens.ids), list(tokens.offsets), seen, bos, where)
            tokens = Tokens(tuple(ids), tuple(offsets))
        if len(tokens.ids) > self.n_ctx:
            raise PromptTooLong(
                f"{where} ({text[:40]!r}...) has {len(tokens.ids)} tokens; {self.model_name} reads at most "
                f"{self.n_ctx}. Shorten it or choose a model with a longer context."
            )
        if not tokens.ids:
            raise BadPrompts(
                f"{where} has no tokens: its text is {text!r} and {self.model_name} prepends no BOS."
            )
        return tokens

    def continuation(self, text: str, answer: str, where: str) -> tuple[int, ...]:
        """Return the tokens that `text + answer` has after those of `text`; none for an empty answer.

        Raises:
            BadPrompts: tokenisation merges across the border, so that the answer has no tokens of its own.
        """
        if not answer:
            return ()
        before, both = self._read(text).ids, self._read(text + answer).ids
        if both[: len(before)] != before or len(both) == len(before):
            raise BadPrompts(
                f"{where}: the answer {answer!r} merges with the end of the text {text[-20:]!r} into one token; "
                "end the text before the blank and begin the answer with it."
            )
        return both[len(before) :]

    def unknown(self, text: str) -> tuple[str, ...]:
        """Return the pieces of a text that the tokenizer has no token for, in order and each once."""
        nothing = self.tokenizer.unk_token_id
        if nothing is None or not text:
            return ()
        read = self._read(text)
        pieces = [
            text[slice(*place)] for own, place in zip(read.ids, read.offsets, strict=True) if own == nothing
        ]
        # Where the token for what is unknown is also the end of text, as in GPT-2, its own text is known.
        return tuple(
            dict.fromkeys(piece for piece in pieces if piece.strip() and piece != self.tokenizer.unk_token)
        )

    def _read(self, text: str) -> Tokens:
        """Tokenise as `TransformerBridge.to_tokens` does, untruncated and with offsets.

        A text that is the BOS token itself is the empty text, so that BOS alone can be asked for and is not doubled.
        """
        text = "" if text == self.tokenizer.bos_token else text
        read = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(read["input_ids"]), [tuple(pair) for pair in read["offset_mapping"]]
        if self.tokenizer_appends_eos:
            while len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
                ids.pop()
                offsets.pop()
        bos = self.tokenizer.bos_token_id
        if self.prepend_bos and not self.tokenizer_prepends_bos and self._bos_is_one_token():
            ids.insert(0, bos)
            offsets.insert(0, (0, 0))
        elif not self.prepend_bos and self.tokenizer_prepends_bos and ids and ids[0] == bos:
            ids.pop(0)
            offsets.pop(0)
        return Tokens(tuple(ids), tuple(offsets))

    def _bos_is_one_token(self) -> bool:
        bos = self.tokenizer.bos_token
        return bos is not None and len(self.tokenizer(bos, add_special_tokens=False)["input_ids"]) == 1


def span_mask(
    tokens: Tokens, text: str, name: str, ranges: Sequence[tuple[int, int]], where: str
) -> Bool[Tensor, " pos"]:
    """Mark the tokens that share a character with any of the ranges.

    A token's leading blanks do not count (many tokenizers glue the blank before a word to it), so that a
    range which ends with a blank does not catch the next word.

    Raises:
        BadSpan: a range lies outside the text, is empty, or no token covers it.
    """
    mask = torch.zeros(len(tokens.ids), dtype=torch.bool)
    for start, end in ranges:
        if not 0 <= start < end <= len(text):
            raise BadSpan(
                f"{where}: span {name!r} is characters {start}-{end}, but the text has characters 0-{len(text)}; "
                "start must be below end, both inside the text."
            )
        found = False
        for position, (first, stop) in enumerate(tokens.offsets):
            inked = first + len(text[first:stop]) - len(text[first:stop].lstrip())
            first = inked if inked < stop else first
            if first < end and start < stop and first < stop:
                mask[position] = found = True
        if not found:
            raise BadSpan(
                f"{where}: span {name!r} ({text[start:end]!r}, characters {start}-{end}) covers no token; "
                "mark the word itself."
            )
    return mask
