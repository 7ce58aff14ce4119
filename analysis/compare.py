"""Continue one prompt three times with the same noise: clean, changed, and with random heads changed alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..datasets.prompts import Prompt, PromptSet
from ..errors import BadOption, NoEffect, UnknownHead
from ..hooks.encode import encode
from ..hooks.forward import Pass, announce
from ..hooks.generate import Step, generate
from ..hooks.heads import Head, all_heads, parse_heads
from ..hooks.turn import turn
from .changes import Change
from .controls import draw_controls
from .direct import flowing
from .steering.steered import Steered, combined

SIDES = ("clean", "changed", "control")


@dataclass(frozen=True)
class Side:
    """How the prompt went on in one of the three.

    Attributes:
        name: One of `SIDES`.
        heads: The heads that were changed; none in the clean one.
        tokens: New token ids.
        pieces: Their texts; joined they give what was written.
        logprobs: Log-probability (nats, temperature 1) of each new token under the model as it ran.
        deltas: What the change did to the log-probability of each of these tokens: this model minus the clean one,
            both reading this side's text. Above 0 the change made the token likelier. All 0 in the clean one.
        clean_deltas: The same for the tokens of the clean text: this model minus the clean one, both reading that.
        first_difference: Where the tokens first differ from the clean ones; None where they never do.
        stopped: Whether the text ended by itself.
    """

    name: str
    heads: tuple[Head, ...]
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    logprobs: tuple[float, ...]
    deltas: tuple[float, ...]
    clean_deltas: tuple[float, ...]
    first_difference: int | None
    stopped: bool

    @property
    def text(self) -> str:
        """What was written."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Comparison:
    """Three continuations of one prompt.

    Attributes:
        prompt: What was continued.
        change: What was changed.
        clean, changed: The model as it is, and changed.
        control: Random heads of the same layers changed in the same way; None where there are no others.
        notes: What could not be done as asked.
    """

    prompt: Prompt
    change: Change
    clean: Side
    changed: Side
    control: Side | None
    notes: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side, ...]:
        """Those that there are, clean first."""
        return tuple(side for side in (self.clean, self.changed, self.control) if side is not None)

    def table(self) -> pd.DataFrame:
        """Return one row per side and new token: `side, index, token, piece, logprob, delta`."""
        rows = [
            (side.name, index, token, piece, logprob, delta)
            for side in self.sides
            for index, (token, piece, logprob, delta) in enumerate(
                zip(side.tokens, side.pieces, side.logprobs, side.deltas, strict=True)
            )
        ]
        return pd.DataFrame(rows, columns=["side", "index", "token", "piece", "logprob", "delta"])


def compare(
    model: Any,
    prompt: Prompt | str,
    change: Change,
    *,
    control: Sequence[Head] | str | None = None,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    seed: int = 0,
    on_text: Callable[[str, str], None] | None = None,
) -> Comparison:
    """Continue a prompt clean, changed, and with a control changed, all with the same seed.

    Args:
        model: The bridge.
        prompt: What to continue.
        change: What to change.
        control: The control's heads; by default as many random ones from the same layers, drawn with the seed.
        max_new_tokens: At most this many tokens each.
        temperature: 0 takes the likeliest token.
        seed: Of the sampling and of the control.
        on_text: Called with a side's name and its text so far after every new token.

    Raises:
        UnknownHead, PromptTooLong, BadOption: as for `generate` and `intervene`.
        HookNeverFired, NoEffect: the change did not act, or changed nothing. A control without effect is a note.
    """
    prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
    heads = parse_heads(change.heads, model)
    notes: list[str] = []
    if not change.of_heads:
        heads, others = (), ()
        notes = [f"{change.kind} changes no heads by themselves, so there are no random ones beside it."]
    elif control is None:
        rng = np.random.default_rng(seed)
        sets, notes = draw_controls(heads, all_heads(model), "same-layers", draws=1, rng=rng)
        others = sets[0] if sets else ()
    else:
        others = parse_heads(control, model)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    runner = _Runner(model, prompt, options, on_text)

    clean = runner.side("clean", None)
    changed = runner.side("changed", change, clean)
    try:
        beside = runner.side("control", change.on(others), clean) if others else None
    except (BadOption, UnknownHead) as error:
        if not change.directions:
            raise
        notes.append(f"No control: {error}")  # the file has no directions for other heads
        beside = None
    except NoEffect:
        names = ", ".join(map(str, others))
        notes.append(
            f"Changing the control {names} in this way changes nothing at all: its text is the clean one."
        )
        nothing = (0.0,) * len(clean.tokens)
        beside = _as(clean, "control", others, nothing, nothing, None)
        runner.say("control", clean.text)
    return Comparison(prompt, change, clean, changed, beside, tuple(notes))


@torch.no_grad()
def forced_logprobs(
    model: Any, prompt: Prompt | str, tokens: Sequence[int], change: Change | None = None
) -> tuple[float, ...]:
    """Give the log-probability of each of these tokens as the continuation of a prompt, in one pass.

    Positions and phases are those of generation: the tokens count as generated ones.

    Args:
        model: The bridge.
        prompt: What they continue.
        tokens: The continuation, read as it stands (teacher forcing).
        change: What to change; None for the model as it is.

    Returns:
        One number per token, in nats.
    """
    if not len(tokens):
        return ()
    prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
    steered = Steered() if change is None else change.steered(model, (prompt,))
    batch = encode(model, steered.prompts(model, PromptSet("prompt", (prompt,))), padding_side="left")
    new = torch.tensor([list(tokens)], dtype=torch.long, device=batch.tokens.device)
    fed = torch.cat([batch.tokens, new[:, :-1]], dim=1)
    positions = torch.arange(fed.shape[1], device=fed.device)[None]

    def run() -> torch.Tensor:
        with turn(model), announce(model, Pass(positions, batch)):
            return model(fed, attention_mask=torch.ones_like(fed), output_attentions=False, use_cache=False)

    with flowing("total" if change is None else change.flow, model, steered.interventions):
        logits = combined(model, run, steered.decoding)
    rows = logits[0, batch.tokens.shape[1] - 1 :].float().log_softmax(-1)
    return tuple(rows.gather(1, new[0, :, None].to(rows.device))[:, 0].tolist())


class _Runner:
    """Makes one side after another."""

    def __init__(
        self, model: Any, prompt: Prompt, options: dict[str, Any], on_text: Callable[[str, str], None] | None
    ) -> None:
        self.model, self.prompt, self.options, self.on_text = model, prompt, options, on_text
        self.before: list[int] = []
        self.written: list[int] = []

    def side(self, name: str, change: Change | None, clean: Side | None = None) -> Side:
        self.written = []

        def hear(step: Step) -> None:
            self.written.append(int(step.next_tokens[0]))
            self.say(name, "".join(self._pieces(self.written)))

        steered = Steered() if change is None else change.steered(self.model, (self.prompt,))
        prompts = steered.prompts(self.model, PromptSet("prompt", (self.prompt,)))
        own = encode(self.model, prompts)
        self.before = own.tokens[0][own.attention_mask[0].bool()].tolist()
        with flowing("total" if change is None else change.flow, self.model, steered.interventions):
            (made,) = generate(self.model, prompts, on_step=hear, decoding=steered.decoding, **self.options)
        nothing = (0.0,) * len(made.tokens)
        side = Side(
            name,
            () if change is None else change.heads,
            made.tokens,
            self._pieces(made.tokens),
            made.logprobs,
            nothing,
            nothing,
            None,
            made.stopped,
        )
        if change is None or clean is None:
            return side
        under_clean = forced_logprobs(self.model, self.prompt, made.tokens)
        under_change = forced_logprobs(self.model, self.prompt, clean.tokens, change)
        return _as(
            side,
            name,
            change.heads,
            tuple(np.subtract(made.logprobs, under_clean).tolist()),
            tuple(np.subtract(under_change, clean.logprobs).tolist()),
            _first_difference(clean.tokens, made.tokens),
        )

    def say(self, name: str, text: str) -> None:
        if self.on_text is not None:
            self.on_text(name, text)

    def _pieces(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Cut the text of new tokens into one piece a token; a character of several tokens stands with the last."""
        texts = [self._decode([*self.before, *tokens[:count]]) for count in range(len(tokens) + 1)]
        pieces, done = [], len(texts[0])
        for text in texts[1:]:
            whole = len(text.rstrip("\ufffd"))
            pieces.append(text[done:whole])
            done = max(done, whole)
        return tuple(pieces)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.model.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _as(
    side: Side,
    name: str,
    heads: tuple[Head, ...],
    deltas: tuple[float, ...],
    clean_deltas: tuple[float, ...],
    first_difference: int | None,
) -> Side:
    return Side(
        name,
        heads,
        side.tokens,
        side.pieces,
        side.logprobs,
        deltas,
        clean_deltas,
        first_difference,
        side.stopped,
    )


def _first_difference(clean: Sequence[int], other: Sequence[int]) -> int | None:
    """Find where two texts part; where one ends earlier, that is its end."""
    for index, (a, b) in enumerate(zip(clean, other, strict=False)):
        if a != b:
            return index
    return None if len(clean) == len(other) else min(len(clean), len(other))
