"""Interventions on the attention pattern: mass moves between sets of keys, and every row keeps its sum."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import BadOption
from .apply import own
from .interventions import Phase, PointEdit, Positions, read_positions
from .site import Site
from .steering import checked_strength


@dataclass(frozen=True)
class PatternEdit(PointEdit):
    """A change of attention: every weight is multiplied by a factor. A subclass says which (`factors`).

    Factors of exactly 1 leave every bit of a weight, and forbidden keys, whose weight is 0, stay forbidden.
    """

    @property
    def at(self) -> str:
        return "pattern"

    @abstractmethod
    def factors(
        self, site: Site, pattern: Float[Tensor, "batch head query_pos key_pos"]
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Return what to multiply the attention of `in_layer(site.layer)` with; rows must keep their sum.

        `pattern` is that attention in float32 or wider, what earlier interventions did included.
        """

    def new(self, site: Site) -> Float[Tensor, "batch head query_pos key_pos"]:
        pattern = own(self, site)
        # A factor may be far beyond what float16 holds where a key has little attention; their product is not.
        wide = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
        return (wide * self.factors(site, wide)).to(pattern)


@dataclass(frozen=True)
class Reweight(PatternEdit):
    """A fraction of the attention on some keys goes to other keys, in proportion to what these have."""

    source: tuple[int, ...] | str
    fraction: float | tuple[float, ...]
    target: Positions = field(default=None, kw_only=True)
    kind: ClassVar[str] = "reweight"

    def __post_init__(self) -> None:
        super().__post_init__()
        source, target = (read_positions("reweight", one) for one in (self.source, self.target))
        if source is None:
            raise BadOption(
                "reweight: give the keys to take attention from: positions, or the name of a span."
            )
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "fraction", _between("reweight", "fraction", self.fraction, 0.0, 1.0))

    @property
    def is_identity(self) -> bool:
        return not any(self.fraction) if isinstance(self.fraction, tuple) else self.fraction == 0

    def factors(self, site: Site, pattern: Tensor) -> Tensor:
        source = site.keys(self.source)
        target = ~source if self.target is None else site.keys(self.target) & ~source
        fraction = site.strengths(self.fraction).to(pattern)[:, None, None]
        return moving(pattern, source[:, None, None], target[:, None, None], fraction)


@dataclass(frozen=True)
class SplitSoftmax(PatternEdit):
    """The attention mass pi on some keys becomes pi ** tau: more for tau < 1; the others share the rest as before."""

    keys: tuple[int, ...] | str
    tau: float | tuple[float, ...]
    kind: ClassVar[str] = "split_softmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = read_positions("split_softmax", self.keys)
        if keys is None:
            raise BadOption("split_softmax: give the keys: positions, or the name of a span.")
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "tau", _between("split_softmax", "tau", self.tau, 0.0, float("inf")))

    @property
    def is_identity(self) -> bool:
        return all(one == 1 for one in self.tau) if isinstance(self.tau, tuple) else self.tau == 1

    def factors(self, site: Site, pattern: Tensor) -> Tensor:
        chosen = site.keys(self.keys)[:, None, None]
        tau = site.strengths(self.tau).to(pattern)[:, None, None]
        mass = (pattern * chosen).sum(-1)
        rest = (pattern * ~chosen).sum(-1)
        whole = mass + rest
        share = (mass / whole.clamp(min=1e-30)).clamp(0, 1)
        raised = share**tau
        # Without mass on either side there is nothing to move, and tau = 1 is to leave every bit.
        still = (tau == 1) | (mass == 0) | (rest == 0)
        on = torch.where(still, 1.0, raised * whole / mass.clamp(min=1e-30))
        off = torch.where(still, 1.0, (1 - raised) * whole / rest.clamp(min=1e-30))
        return torch.where(chosen, on[..., None], off[..., None])


@dataclass(frozen=True)
class Calibrate(PatternEdit):
    """Attention on sinks other than the first is cut to beta of it; what is freed goes to all other keys."""

    beta: float | tuple[float, ...] = field(default=0.4, kw_only=True)
    threshold: float = field(default=0.1, kw_only=True)
    relative: bool = field(default=False, kw_only=True)
    kind: ClassVar[str] = "act"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", _between("act", "beta", self.beta, 0.0, float("inf")))
        _between("act", "threshold", self.threshold, 0.0, float("inf"))

    @property
    def is_identity(self) -> bool:
        return all(one == 1 for one in self.beta) if isinstance(self.beta, tuple) else self.beta == 1

    def factors(self, site: Site, pattern: Tensor) -> Tensor:
        sinks = self._sinks(site, pattern)[:, :, None]
        fraction = 1 - site.strengths(self.beta).to(pattern)[:, None, None]
        first = (site.positions == 0)[:, None]
        return moving(pattern, sinks, ~sinks, torch.where(first, 0.0, fraction))

    def pass_over(self, site: Site) -> None:
        self._sinks(site, own(self, site).float())

    def _sinks(self, site: Site, pattern: Tensor) -> Bool[Tensor, "batch head key_pos"]:
        """Return the sinks, judged by the rows of the prompt before its last token, in this pass and earlier ones."""
        rows = (site.positions >= 0) & (site.positions < site.lengths[:, None] - 1)
        columns = (pattern * rows[:, None, :, None]).nan_to_num().sum(2)
        may = rows[:, :, None] & (site.key_positions[:, None] <= site.positions[:, :, None])
        counts = (may & (site.key_positions >= 0)[:, None]).sum(1)
        columns, counts = self._remember(site, columns, counts)
        means = columns / counts[:, None].clamp(min=1)
        bar = self.threshold / (site.lengths - 1).clamp(min=1) if self.relative else self.threshold
        bar = torch.as_tensor(bar, device=means.device).to(means).reshape(-1, 1, 1)
        found = (means > bar) & (counts > 0)[:, None]
        return (found & (found.cumsum(-1) > 1))[..., site.n_dropped :]

    def _remember(self, site: Site, columns: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Add what this pass saw of each key column to what earlier ones did."""
        new = [torch.nn.functional.pad(one, (site.n_dropped, 0)) for one in (columns, counts)]
        for index, before in enumerate(site.memory.get("columns", ())):
            new[index] += torch.nn.functional.pad(before, (0, new[index].shape[-1] - before.shape[-1]))
        site.memory["columns"] = tuple(new)
        return new[0], new[1]


def moving(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    source: Bool[Tensor, "#batch #head #query_pos key_pos"],
    target: Bool[Tensor, "#batch #head #query_pos key_pos"],
    fraction: float | Float[Tensor, "#batch #head #query_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Return the factors that move a fraction of the attention on source keys to target keys.

    Formula: a_j := (1 - f) a_j on the source, a_j (1 + f S / T) on the target, with S and T the row's mass on either.
    Direction: f = 1 empties the source; f = 0 gives 1 everywhere, exactly. Shape and unit: factors; every row keeps its
    sum. A row without any mass on the target stays as it is. A key that is in both counts as source.

    >>> row = torch.tensor([[[[0.5, 0.3, 0.2]]]])
    >>> source, target = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    >>> [round(x, 2) for x in (row * moving(row, source, target, 0.6)).flatten().tolist()]
    [0.2, 0.6, 0.2]
    """
    target = target & ~source
    mass = (pattern * source).sum(-1)
    room = (pattern * target).sum(-1)
    moved = torch.where(room > 0, torch.as_tensor(fraction).to(pattern), 0.0)
    gain = 1 + moved * mass / room.clamp(min=1e-30)
    rest = torch.where(target, gain[..., None], torch.ones_like(pattern))
    return torch.where(source, (1 - moved)[..., None], rest)


def reweight(
    heads: Any, source: Any, fraction: Any, *, target: Any = None, positions: Any = None, phase: Phase = "all"
) -> Reweight:
    """Move a fraction of the attention on `source` keys to `target` keys, in proportion to what these have.

    Args:
        heads: The heads to change.
        source: Keys that lose: absolute positions (BOS = 0, negative from the prompt's end), or the name of a span.
        fraction: From 0 (nothing changes) to 1 (all of it), or one for each prompt of the call.
        target: Keys that gain, in the same form; None for all others. A row without mass there stays as it is.
        positions: Of the queries, as in `Intervention`.
        phase: As in `Intervention`.
    """
    return Reweight(heads, source, fraction, target=target, positions=positions, phase=phase)


def split_softmax(
    heads: Any, keys: Any, tau: Any, *, positions: Any = None, phase: Phase = "all"
) -> SplitSoftmax:
    """Raise the attention mass pi on `keys` to pi ** tau: tau < 1 gives them more, tau = 1 changes nothing.

    With the gold span as keys this is the upper bound of Focus Directions, which may not see it. Reference: the use is
    from arXiv:2503.23306, the formula from Li et al. 2024, arXiv:2402.10962, remembered and not read again.

    Args:
        heads: The heads to change: `Head`s, or text such as `"L5H1,L6H0"`.
        keys: Tokens to look at: positions, or the name of a span.
        tau: The exponent, for all prompts or one for each.
        positions: Of the queries, as in `Intervention`.
        phase: As in `Intervention`.
    """
    return SplitSoftmax(heads, keys, tau, positions=positions, phase=phase)


def act(
    heads: Any,
    *,
    beta: Any = 0.4,
    threshold: float = 0.1,
    relative: bool = False,
    positions: Any = None,
    phase: Phase = "all",
) -> Calibrate:
    """Cut attention sinks other than the first to `beta` of their attention, and give the rest to all other keys.

    A key is a sink of a head if the mean attention of the queries that may see it is above the threshold; the first of
    them, mostly BOS, is left alone, and so is the first row. Sinks are found once, while the prompt is read: by the
    queries before its last token, so that a plain pass and generation find the same. beta = 1 changes nothing.

    Reference: ACT, Yu et al. 2024, arXiv:2406.15765. Their code takes 0.1 as the threshold; third-party accounts of the
    paper say 5 / T, which `relative=True, threshold=5` gives (T here is the number of those queries).

    Args:
        heads: The heads to change: `Head`s, or text such as `"L5H1,L6H0"`.
        beta: Share of their attention that sinks keep, for all prompts or one for each.
        threshold: Mean attention above which a key is a sink.
        relative: The threshold is divided by the number of queries.
        positions: Of the queries, as in `Intervention`.
        phase: As in `Intervention`.
    """
    return Calibrate(
        heads, beta=beta, threshold=threshold, relative=relative, positions=positions, phase=phase
    )


def _between(kind: str, name: str, value: Any, low: float, high: float) -> float | tuple[float, ...]:
    found = checked_strength(kind, name, value)
    for one in found if isinstance(found, tuple) else (found,):
        if not low <= one <= high:
            limit = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
            raise BadOption(f"{kind}: {name} is {one:g}; give a number {limit}.")
    return found
