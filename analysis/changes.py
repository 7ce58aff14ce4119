"""One change to a model: what is done to which heads, where, and how far it flows. In words, as code, as a command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..datasets.prompts import Prompt
from ..errors import BadOption, nearest
from ..hooks.directions import Directions
from ..hooks.heads import Head, parse_heads
from ..hooks.interventions import Intervention, mean, resample, scale, uniform, zero
from .direct import FLOWS
from .steering.presets import PRESETS as STEERING
from .steering.steered import Steered

KINDS: dict[str, str] = {
    "zero": "the head writes nothing: z := 0",
    "mean": "the head writes what it writes on average over the prompt's tokens",
    "resample": "the head writes what it writes on the prompt's corrupted text",
    "uniform": "the head looks at everything alike: z := mean of the values it may see",
    "scale": "what the head writes is multiplied by the gain",
}
"""What can be done to what a head writes, with what it means."""

STEERED: dict[str, str] = {
    name: f"{one.summary} The number: {one.strength}; {one.neutral:g} does nothing."
    for name, one in STEERING.items()
    if name not in KINDS
}
"""The methods of steering, with what they do."""


def usual_strength(name: str) -> float:
    """Return the number to begin with: for a method of steering, the one after that which changes nothing.

    >>> usual_strength("juice"), usual_strength("scale")
    (0.5, 2.0)
    """
    one = STEERING.get(name)
    if one is None:
        return 2.0
    beyond = [value for value in one.strengths if value > one.neutral]
    return beyond[0] if beyond else one.strengths[-1]


PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "remove": ({"kind": "zero", "phase": "all"}, "the plain ablation"),
    "undifferentiated attention": (
        {"kind": "uniform", "phase": "all"},
        "attention spread evenly over all allowed keys; Zhou et al. 2024, arXiv:2410.13708, ablate safety heads so",
    ),
    "scaling contribution": (
        {"kind": "scale", "gain": 1e-5, "phase": "all"},
        "what the head writes is made vanishingly small; Zhou et al. 2024, arXiv:2410.13708",
    ),
    "retrieval masking": (
        {"kind": "uniform", "phase": "decode"},
        "the prompt is read unchanged, only new tokens are written without the head; Wu et al. 2024, arXiv:2404.15574",
    ),
    "reinforce": ({"kind": "scale", "gain": 2.0, "phase": "all"}, "what the head writes counts twice"),
    "flip": ({"kind": "scale", "gain": -1.0, "phase": "all"}, "what the head writes is turned round"),
    **{
        name: (
            {"kind": name, "gain": usual_strength(name), "phase": "all"},
            f"{words} {STEERING[name].reference}",
        )
        for name, words in STEERED.items()
    },
}
"""Changes with a name: their kind, gain and phase, and what they are."""


_DEFAULTS: dict[str, Any] = {
    "phase": "all",
    "positions": None,
    "flow": "total",
    "keys": None,
    "directions": "",
}


@dataclass(frozen=True)
class Change:
    """What to change.

    Attributes:
        kind: One of `KINDS`, or a method of steering.
        heads: The heads, in any form that `parse_heads` reads.
        gain: The factor of `scale`: 2 doubles, 0 removes, -1 flips. The strength of a method of steering.
        phase: `all`, `prefill` or `decode`; see `Intervention`.
        positions: As in `Intervention`: None for all, numbers, or the name of a span of the prompt.
        flow: `total`: everything that comes later feels the change. `direct`: the logits only.
        reference: What `mean` averages over; None for the prompts that are changed.
        suppressed: Heads that a method of steering holds down.
        keys: What a method of steering turns attention to: positions, or the name of a span of the prompt.
        directions: A file of directions, for the methods that need some.
    """

    kind: str
    heads: tuple[Head, ...]
    gain: float = field(default=2.0, kw_only=True)
    phase: str = field(default="all", kw_only=True)
    positions: Any = field(default=None, kw_only=True)
    flow: str = field(default="total", kw_only=True)
    reference: tuple[Prompt, ...] | None = field(default=None, kw_only=True, repr=False)
    suppressed: tuple[Head, ...] = field(default=(), kw_only=True)
    keys: Any = field(default=None, kw_only=True)
    directions: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        kinds = (*KINDS, *STEERED)
        for name, value, choices in (("kind", self.kind, kinds), ("flow", self.flow, FLOWS)):
            if value not in choices:
                raise BadOption(f"{name} {value!r} is unknown.{nearest(str(value), choices)}")
        object.__setattr__(self, "heads", parse_heads(self.heads))
        object.__setattr__(self, "suppressed", parse_heads(self.suppressed))
        if (
            self.kind in KINDS
        ):  # wrong gains, phases and positions are refused now, not in the middle of a run
            self.intervention((Prompt("any"),))

    def __str__(self) -> str:
        if self.kind in STEERED:
            return self._steering()
        gain = f" ×{self.gain:g}" if self.kind == "scale" else ""
        flow = "" if self.flow == "total" else ", direct effect on the logits"
        where = "" if self.positions is None else f", positions {_written(self.positions)}"
        phase = "" if self.phase == "all" else f", {self.phase}"
        return f"{self.kind}{gain} of {', '.join(map(str, self.heads))}{where}{phase}{flow}"

    def on(self, heads: Iterable[Head]) -> Change:
        """The same change of other heads."""
        return replace(self, heads=tuple(heads))

    def _steering(self) -> str:
        needs = STEERING[self.kind].needs
        parts = [f"{self.kind} {self.gain:g}"]
        parts += [f"of {', '.join(map(str, self.heads))}"] if "heads" in needs and self.heads else []
        parts += [f"against {', '.join(map(str, self.suppressed))}"] if self.suppressed else []
        parts += [f"towards {_written(self.keys)}"] if self.keys is not None else []
        parts += [f"along {self.directions}"] if self.directions else []
        where = [] if self.positions is None else [f"positions {_written(self.positions)}"]
        where += [] if self.phase == "all" else [self.phase]
        return ", ".join([" ".join(parts), *where])

    def steered(self, model: Any, prompts: Iterable[Prompt]) -> Steered:
        """Make all that generation is to be given.

        Raises:
            MissingData: A method of steering needs what is not given.
            BadOption: Its strength is out of range, or it does not fit the model.
            BadRun: The file of directions cannot be read.
        """
        if self.kind in KINDS:
            return Steered((self.intervention(prompts),))
        needs = STEERING[self.kind].needs
        along = Directions.load(self.directions) if self.directions and "directions" in needs else None
        return STEERING[self.kind].make(
            self.gain,
            heads=self.heads,
            suppressed=self.suppressed,
            keys=self.keys,
            directions=along,
            model=model,
            positions=self.positions,
            phase=self.phase,  # pyright: ignore[reportArgumentType] - refused there if it is none
        )

    @property
    def of_heads(self) -> bool:
        """Whether the change is made to heads, so that random heads can be changed beside them."""
        return self.kind in KINDS or "heads" in STEERING[self.kind].needs

    def intervention(self, prompts: Iterable[Prompt]) -> Intervention:
        """Make the intervention for these prompts; of the kinds that change what a head writes."""
        where: dict[str, Any] = {"positions": self.positions, "phase": self.phase}
        if self.kind == "scale":
            return scale(self.heads, self.gain, **where)
        if self.kind == "mean":
            return mean(self.heads, self.reference or tuple(prompts), **where)
        kinds: dict[str, Callable[..., Intervention]] = {
            "zero": zero,
            "uniform": uniform,
            "resample": resample,
        }
        return kinds[self.kind](self.heads, **where)

    def spans_of(self, prompt: Prompt) -> tuple[str, ...]:
        """The names of the prompt's spans that this change reads."""
        if self.kind in STEERED and "documents" in STEERING[self.kind].needs:
            return tuple(prompt.spans)
        return tuple(dict.fromkeys(name for name in (self.positions, self.keys) if name in prompt.spans))

    def python(self) -> str:
        """The expression that makes this change."""
        heads = ",".join(map(str, self.heads))
        extra = [f"gain={exact(self.gain)}"] if self.kind == "scale" or self.kind in STEERED else []
        extra += [f"suppressed={','.join(map(str, self.suppressed))!r}"] if self.suppressed else []
        extra += [
            f"{name}={getattr(self, name)!r}"
            for name, default in _DEFAULTS.items()
            if getattr(self, name) != default
        ]
        return f"Change({', '.join([repr(self.kind), repr(heads), *extra])})"

    def options(self) -> list[str]:
        """The options of `headscope generate` that make this change.

        Raises:
            BadOption: the command line has no option for it; the message says for what.
        """
        if self.reference is not None:
            raise BadOption("headscope generate has no option for a reference of its own; copy it as Python.")
        heads = ",".join(map(str, self.heads))
        if self.kind in STEERED:
            given = ["--steer", f"{self.kind}={exact(self.gain)}"]
            given += ["--heads", heads] if self.of_heads else []
            given += ["--suppress", ",".join(map(str, self.suppressed))] if self.suppressed else []
            given += [f"--keys={_written(self.keys)}"] if self.keys is not None else []
            given += [f"--directions={self.directions}"] if self.directions else []
        elif self.kind == "scale":
            given = ["--scale", f"{heads}={exact(self.gain)}"]
        else:
            given = ["--ablate", heads, "--how", self.kind]
        if self.phase != "all":
            given += ["--phase", self.phase]
        if self.positions is not None:
            given += [f"--positions={_written(self.positions)}"]  # one word: the first number may be negative
        if self.flow != "total":
            given += ["--flow", self.flow]
        return given


def exact(number: float) -> str:
    """Write a number as briefly as reads back to the same one.

    >>> exact(2.0), exact(1e-5), exact(1 / 3)
    ('2', '1e-05', '0.3333333333333333')
    """
    brief = f"{number:g}"
    return brief if float(brief) == number else repr(float(number))


def read_positions(text: str) -> Any:
    """Read positions as a person writes them: nothing for all, `0,3,-1`, or the name of a span.

    >>> read_positions(""), read_positions("0, -1"), read_positions("needle")
    (None, (0, -1), 'needle')
    """
    items = [item for item in text.replace(",", " ").split() if item]
    if not items:
        return None
    try:
        return tuple(int(item) for item in items)
    except ValueError:
        if len(items) == 1 and items[0].replace("-", "").replace("_", "").isalnum():
            return items[0]
        raise BadOption(
            f"positions {text!r}: write whole numbers with commas between, such as 0,3,-1, or the name of a span."
        ) from None


def generate_command(
    model: str, prompt: Prompt, change: Change, *, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """Write the `headscope generate` call that continues the prompt clean and changed in the same way.

    Raises:
        BadOption: the command line cannot say it.
    """
    numbers = [
        "--max-new-tokens",
        str(max_new_tokens),
        "--temperature",
        exact(temperature),
        "--seed",
        str(seed),
    ]
    # One word where the text would else be read as an option.
    text = prompt.text
    given = [f"--prompt={text}"] if text.startswith("-") else ["--prompt", text]
    if change.kind == "resample" and prompt.corrupted:
        given += [f"--corrupted={prompt.corrupted}"]
    for name in change.spans_of(prompt):
        given += [f"--span={name}={start}:{stop}" for start, stop in prompt.spans[name]]
    return shlex.join(["headscope", "generate", "--model", model, *given, *change.options(), *numbers])


def compare_python(
    model: str, prompt: Prompt, change: Change, *, max_new_tokens: int, temperature: float, seed: int
) -> str:
    """Write the Python that makes the comparison again."""
    text = repr(prompt.text)
    if change.kind == "resample" or change.spans_of(prompt):
        fields = {"corrupted": prompt.corrupted, "spans": dict(prompt.spans)}
        text = f"Prompt({text}, {', '.join(f'{name}={value!r}' for name, value in fields.items() if value)})"
    numbers = f"max_new_tokens={max_new_tokens}, temperature={exact(temperature)}, seed={seed}"
    return "\n".join(
        [
            "import headscope",
            "from headscope.analysis.changes import Change",
            "from headscope.analysis.compare import compare",
            *(["from headscope.datasets.prompts import Prompt"] if text.startswith("Prompt(") else []),
            "",
            f"model = headscope.load({model!r})",
            f"change = {change.python()}",
            f"found = compare(model, {text}, change, {numbers})",
            "print(found.table())",
        ]
    )


def _written(positions: Any) -> str:
    return positions if isinstance(positions, str) else ",".join(map(str, positions))
