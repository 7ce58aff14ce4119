"""What to do to which heads, at which positions and in which phase: frozen values that compose in a list.

Every intervention replaces activations, never weights. Those in this module replace head outputs z
(`blocks.L.attn.hook_z`), so they are per query head also where heads share keys and values: a new one is a subclass of
`Intervention` with its own `new_z`. One that acts elsewhere, on queries, keys, scores, the pattern or the residual
stream, is a subclass of `PointEdit` with its own `at` and `new`. `apply.py` does the choosing for all of them.

Removing every head of a layer this way leaves the output projection's bias b_O in place: it belongs to no head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..datasets.prompts import Prompt, PromptSet
from ..errors import BadOption, EmptyPromptSet, nearest
from .encode import Batch
from .heads import Head, parse_heads
from .points import POINTS, kv_groups, refuse_unsupported
from .references import References
from .site import Site, running_mean

Phase = Literal["prefill", "decode", "all"]
Positions = tuple[int, ...] | str | None


@dataclass(frozen=True)
class Intervention(ABC):
    """A change to what some heads hand on.

    Attributes:
        heads: The heads to change.
        positions: None for all; absolute positions among a row's real tokens (BOS = 0, negative ones count from the
            end of the prompt); or the name of a span of the prompts.
        phase: `"decode"` is every position that predicts a new token: the last prompt token and all generated ones.
            `"prefill"` is all earlier ones. In a plain forward pass each row's last real token is the decode position.
    """

    heads: tuple[Head, ...]
    positions: Positions = field(default=None, kw_only=True)
    phase: Phase = field(default="all", kw_only=True)

    kind: ClassVar[str]
    needs_values: ClassVar[bool] = False
    needs_resid: ClassVar[bool] = False

    @property
    def at(self) -> str:
        """Name of the point where it acts (see `points`)."""
        return "z"

    @property
    def needs_clean(self) -> bool:
        """Whether the unchanged model has to run beside the changed one (`site.clean`)."""
        return False

    def __post_init__(self) -> None:
        heads = parse_heads(self.heads)
        if not heads and POINTS[self.at].head_axis is not None:
            raise BadOption(f"{self.kind}: no heads are given; name at least one, such as L0H0.")
        if self.phase not in get_args(Phase):
            raise BadOption(
                f"{self.kind}: phase {self.phase!r} is unknown.{nearest(str(self.phase), get_args(Phase))}"
            )
        object.__setattr__(self, "heads", heads)
        object.__setattr__(self, "positions", read_positions(self.kind, self.positions))

    def __str__(self) -> str:
        extra = ["" if self.positions is None else f", positions={self.positions!r}"]
        extra.append("" if self.phase == "all" else f", phase={self.phase!r}")
        return f"{self.kind}({','.join(map(str, self.heads))}{''.join(extra)})"

    @property
    def is_identity(self) -> bool:
        """Whether changing nothing is what this intervention is meant to do."""
        return False

    @property
    def acts_on(self) -> tuple[Head | int, ...]:
        """What it names: heads, or layers of the residual stream."""
        return self.heads

    @property
    def in_layers(self) -> tuple[int, ...]:
        """The layers in which it acts, in order."""
        return tuple(sorted({one if isinstance(one, int) else one.layer for one in self.acts_on}))

    def in_layer(self, layer: int) -> list[int]:
        """Return the indices of its heads in one layer, in order."""
        return [head.index for head in self.heads if head.layer == layer]

    def check(self, model: Any) -> None:
        """Refuse a model on which it cannot act as it says.

        Raises:
            UnknownHead: the model lacks a head.
            BadOption: edits at its point would be ignored, or reach heads that were not named.
        """
        parse_heads(self.heads, model)
        refuse_unsupported(model, self.at, self)
        if POINTS[self.at].shared and (size := kv_groups(model)) > 1:
            for head in self.heads:
                first = head.index - head.index % size
                group = [Head(head.layer, index) for index in range(first, first + size)]
                if missing := [str(one) for one in group if one not in self.heads]:
                    raise BadOption(
                        f"{self}: {head} shares its keys with {', '.join(missing)}, which an edit of {self.at} would "
                        "change too; name the whole group."
                    )

    def prepare(self, references: References, batch: Batch | None) -> None:  # noqa: B027 (most kinds need nothing)
        """Make the reference runs that `new_z` will read, while no hook is active.

        Called once before anything runs, perhaps with no batch, and again before each new batch.
        """

    def pass_over(self, site: Site) -> None:  # noqa: B027 (most kinds remember nothing)
        """Look at a pass in which no query is chosen, for kinds that remember what they saw."""

    def defined(self, site: Site) -> Bool[Tensor, "batch pos"] | None:
        """Return where a new z exists; None means everywhere."""
        return None

    @abstractmethod
    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        """Return the replacement for `in_layer(site.layer)`, in that order, at every position (chosen or not)."""

    def new(self, site: Site) -> Tensor:
        """Return the replacement at the point where it acts, in the shape of `own(self, site)`."""
        return self.new_z(site)


@dataclass(frozen=True)
class PointEdit(Intervention):
    """A change at another point than z: a subclass says where (`at`) and what stands there afterwards (`new`)."""

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        raise AssertionError(f"{self.kind} acts on {self.at}, not on z")

    @property
    @abstractmethod
    def at(self) -> str:
        """Name of the point where it acts (see `points`)."""

    @abstractmethod
    def new(self, site: Site) -> Tensor:
        """Return the replacement for `own(self, site)`, at every position (chosen or not).

        For `q`, `k` and `rot_q` that is `[batch, pos, head, d_head]`, for `scores` and `pattern` `[batch, head,
        query_pos, key_pos]`, for `resid` `[batch, pos, d_model]`.
        """


@dataclass(frozen=True)
class Zero(Intervention):
    """z := 0."""

    kind: ClassVar[str] = "zero"

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        return torch.zeros_like(site.z[:, :, self.in_layer(site.layer)])


@dataclass(frozen=True)
class Scale(Intervention):
    """z := gain * z."""

    gain: float
    kind: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.gain, (int, float)) and abs(self.gain) < float("inf")):
            raise BadOption(f"scale: gain is {self.gain!r}; give a finite number.")

    @property
    def is_identity(self) -> bool:
        return self.gain == 1.0

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        return site.z[:, :, self.in_layer(site.layer)] * self.gain


@dataclass(frozen=True)
class Uniform(Intervention):
    """z := the mean of the values the query may see, as if attention were spread evenly over them."""

    kind: ClassVar[str] = "uniform"
    needs_values: ClassVar[bool] = True

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        values = site.values(self.in_layer(site.layer))
        if site.spread is not None:
            return site.spread(values)
        return running_mean(values, site.key_positions >= 0, site.z.shape[1], site.window)


@dataclass(frozen=True)
class Mean(Intervention):
    """z := its mean over reference prompts, over all their real tokens or at the same absolute position."""

    reference: tuple[Prompt, ...] = field(repr=False)
    by_position: bool = field(default=False, kw_only=True)
    kind: ClassVar[str] = "mean"

    def prepare(self, references: References, batch: Batch | None) -> None:
        if self.by_position and getattr(references.model, "in_one_row", False):
            raise BadOption(
                f"{self}: positions in this tower are not known; average over them (by_position=False)."
            )
        references.mean(self.reference, self.by_position)

    def defined(self, site: Site) -> Bool[Tensor, "batch pos"] | None:
        return site.positions < self._means(site).shape[0] if self.by_position else None

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        means = self._means(site)[:, self.in_layer(site.layer)]
        return means[site.positions.clamp(0, means.shape[0] - 1)].to(site.z)

    def _means(self, site: Site) -> Float[Tensor, "position head d_head"]:
        assert site.references is not None, "the runner made no References"
        return site.references.mean(self.reference, self.by_position)[site.layer]


@dataclass(frozen=True)
class Resample(Intervention):
    """z := the z of the same head at the same position when the model reads the prompt's corrupted text."""

    kind: ClassVar[str] = "resample"

    def prepare(self, references: References, batch: Batch | None) -> None:
        if batch is not None:
            references.paired(batch)

    def defined(self, site: Site) -> Bool[Tensor, "batch pos"] | None:
        return site.positions < site.lengths[:, None]

    def new_z(self, site: Site) -> Float[Tensor, "batch pos head d_head"]:
        assert site.references is not None, "the runner made no References"
        if site.batch is None:
            raise BadOption(
                "resample: the prompts are not known, so neither is their corrupted text: run the model through "
                "headscope's forward or generate, or give intervene(..., batch=...)."
            )
        paired = site.references.paired(site.batch)[site.layer][:, :, self.in_layer(site.layer)]
        rows = torch.arange(paired.shape[0], device=paired.device)[:, None]
        return paired[rows, site.positions.clamp(0, paired.shape[1] - 1)].to(site.z)


def zero(heads: Any, *, positions: Any = None, phase: Phase = "all") -> Zero:
    """Remove heads: z := 0. Not the same as `uniform`, which keeps what a head writes without looking.

    Args:
        heads: The heads to change: `Head`s, or text such as `"L5H1,L6H0"`.
        positions: At which tokens; None for all, and see `Intervention`.
        phase: `prefill`, `decode` or `all`; see `Intervention`.
    """
    return Zero(heads, positions=positions, phase=phase)


def scale(heads: Any, gain: float, *, positions: Any = None, phase: Phase = "all") -> Scale:
    """Multiply head outputs: z := gain * z (2 reinforces, 1 does nothing, -1 flips the sign).

    Args:
        heads: The heads to change: `Head`s, or text such as `"L5H1,L6H0"`.
        gain: The factor; 1 changes nothing.
        positions: At which tokens; None for all, and see `Intervention`.
        phase: `prefill`, `decode` or `all`; see `Intervention`.
    """
    return Scale(heads, gain, positions=positions, phase=phase)


def uniform(heads: Any, *, positions: Any = None, phase: Phase = "all") -> Uniform:
    """Spread attention evenly over the allowed keys: z_t := mean of v_j, j <= t, j real and in the layer's window.

    Args:
        heads: The heads to change: `Head`s, or text such as `"L5H1,L6H0"`.
        positions: At which tokens; None for all, and see `Intervention`.
        phase: `prefill`, `decode` or `all`; see `Intervention`.
    """
    return Uniform(heads, positions=positions, phase=phase)


def mean(
    heads: Any,
    reference: PromptSet | Batch | Iterable[Prompt | str] | Prompt | str,
    *,
    by_position: bool = False,
    positions: Any = None,
    phase: Phase = "all",
) -> Mean:
    """Replace z by its clean mean over reference prompts.

    Args:
        heads: The heads to change.
        reference: Prompts whose clean z is averaged.
        by_position: False averages over all real tokens of all prompts (BOS included): one vector a head. True averages
            over prompts at each absolute position; a position that no reference prompt reaches is an error.
        positions: As in `Intervention`.
        phase: As in `Intervention`.
    """
    if isinstance(reference, str | Prompt):
        reference = [reference]
    listed = reference.prompts if isinstance(reference, Batch) else reference
    prompts = tuple(Prompt(text=prompt) if isinstance(prompt, str) else prompt for prompt in listed)
    if not prompts:
        raise EmptyPromptSet("mean: the reference has no prompts; give at least one.")
    return Mean(heads, prompts, by_position=by_position, positions=positions, phase=phase)


def resample(heads: Any, *, positions: Any = None, phase: Phase = "all") -> Resample:
    """Replace z by that of the paired run on each prompt's `corrupted` text, which must have as many tokens.

    Args:
        heads: The heads to change: `Head`s, or text such as `"L5H1,L6H0"`.
        positions: At which tokens; None for all, and see `Intervention`.
        phase: `prefill`, `decode` or `all`; see `Intervention`.
    """
    return Resample(heads, positions=positions, phase=phase)


def read_positions(kind: str, positions: Any) -> Positions:
    """Read positions: None, the name of a span, or whole numbers."""
    if positions is None or isinstance(positions, str):
        return positions
    listed = [positions] if hasattr(positions, "__index__") else positions
    if not isinstance(listed, Iterable) or not (listed := list(listed)):
        raise BadOption(
            f"{kind}: positions is {positions!r}; give integers, the name of a span, or None for all."
        )
    if not all(hasattr(position, "__index__") and not isinstance(position, bool) for position in listed):
        raise BadOption(
            f"{kind}: positions is {positions!r}; give integers, the name of a span, or None for all."
        )
    return tuple(int(position) for position in listed)
