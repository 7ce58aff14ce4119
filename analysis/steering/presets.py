"""Every steering method under one call shape: what it needs, the number that a slider moves, where it does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import BadOption, MissingData, nearest
from ...hooks.decoding import Buckets, own_base
from ...hooks.directions import Directions
from ...hooks.encode import encode
from ...hooks.interventions import Phase, scale
from ...hooks.rebalance import Rebalance
from ...hooks.reweight import act, reweight, split_softmax
from ...hooks.sinks import var
from ...hooks.steering import add, replay
from ...hooks.vision import vhr
from ..defaults import default_prompts
from ..vision.mitigation_methods import injections, layers_for_var
from ..vision.tracing import trace
from .sorting import Sorting
from .steered import Steered

NEEDS = {
    "heads": "heads to change",
    "suppressed": "heads to suppress, if there are any",
    "directions": "directions, such as a file that `fit` or `focus` made",
    "keys": "tokens to look at: positions, or the name of a span",
    "documents": "prompts with spans that mark their documents",
    "model": "the loaded model",
    "images": "prompts with an image",
}


@dataclass(frozen=True)
class Preset:
    """A steering method.

    Attributes:
        name: As commands and jobs write it.
        summary: What it does, in one sentence.
        needs: Names from `NEEDS`; `suppressed` may stay empty.
        strength: What the number is.
        neutral: The number that changes nothing.
        strengths: Usual numbers, `neutral` among them.
        reference: The paper.
        build: Makes it: `build(strength, **what it needs)`.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    strength: str
    neutral: float
    strengths: tuple[float, ...]
    reference: str
    build: Callable[..., Steered]

    def make(
        self,
        strength: float,
        *,
        heads: Any = (),
        suppressed: Any = (),
        directions: Directions | None = None,
        keys: Any = None,
        model: Any = None,
        positions: Any = None,
        phase: Phase = "all",
        **options: Any,
    ) -> Steered:
        """Return what the method does at this strength; what it does not need is passed over.

        Raises:
            MissingData: something that it needs is not given.
            BadOption: the strength or an option is out of range.
        """
        given = {
            "heads": heads,
            "suppressed": suppressed,
            "directions": directions,
            "keys": keys,
            "model": model,
        }
        for need in self.needs:
            if need == "heads" and suppressed and "suppressed" in self.needs:
                continue  # there may be heads to suppress only
            if need != "suppressed" and need in given and given[need] in (None, (), [], ""):
                raise MissingData(f"{self.name} needs {need}: {NEEDS[need]}.")
        wanted = {need: given[need] for need in self.needs if need in given}
        if "documents" in self.needs or "model" in self.needs:
            return self.build(strength, **wanted, **options)
        return self.build(strength, **wanted, positions=positions, phase=phase, **options)


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        BadOption: there is none of this name.
    """
    if name not in PRESETS:
        raise BadOption(f"{name!r} is no steering method.{nearest(name, PRESETS)}")
    return PRESETS[name]


def _juice(
    strength: float, heads: Any, suppressed: Any = (), *, ratio: float = 1.0, dual: bool = True, **at: Any
) -> Steered:
    changes = [replay(heads, strength, dual=dual, **at)] if heads else []
    if suppressed and ratio:
        changes.append(replay(suppressed, -ratio * strength, dual=dual, **at))
    return Steered(tuple(changes))


def _june(strength: float, heads: Any, suppressed: Any = (), *, ratio: float = 1.0, **at: Any) -> Steered:
    return _juice(strength, heads, suppressed, ratio=ratio, dual=False, **at)


def _scale(strength: float, heads: Any, **at: Any) -> Steered:
    return Steered((scale(heads, strength, **at),))


def _add(strength: float, directions: Directions, **at: Any) -> Steered:
    return Steered((add(directions, strength, **at),))


def _focus(strength: float, heads: Any, directions: Directions, **at: Any) -> Steered:
    return Steered((add(directions, strength, heads=heads, **at),))


def _split(strength: float, heads: Any, keys: Any, **at: Any) -> Steered:
    return Steered((split_softmax(heads, keys, 1 - strength, **at),))


def _reweight(strength: float, heads: Any, keys: Any, *, target: Any = None, **at: Any) -> Steered:
    return Steered((reweight(heads, keys, strength, target=target, **at),))


def _act(
    strength: float, heads: Any, *, threshold: float = 0.1, relative: bool = False, **at: Any
) -> Steered:
    return Steered((act(heads, beta=1 - strength, threshold=threshold, relative=relative, **at),))


def _sorting(strength: float, *, keep: int | None = None) -> Steered:
    return Steered(rewrite=Sorting(_whole("sorting", strength), keep)) if strength else Steered()


BUCKET_FACTORS = (1.0, 1.75, 1.8, 1.9, 2.0, 2.5)
"""The bases that the paper uses for tools, over the models' own base of 10000."""


def _buckets(
    strength: float, model: Any, *, bases: Sequence[float] = (), mix: str = "probabilities"
) -> Steered:
    own = own_base(model)
    listed = tuple(bases) or tuple(factor * own for factor in BUCKET_FACTORS)
    count = _whole("buckets", strength)
    if not 1 <= count <= len(listed):
        raise BadOption(
            f"buckets: {count} copies asked for and {len(listed)} bases given; give 1 to {len(listed)}."
        )
    return Steered(decoding=Buckets(listed[:count], mix=mix))  # type: ignore[arg-type]


def _vhr(strength: float, model: Any) -> Steered:
    return Steered((vhr(model, strength),))


def _var(strength: float, model: Any) -> Steered:
    if not strength:
        return Steered()
    shown = encode(model, default_prompts(model, "scenes", n=8))
    return Steered((var(model, shown, strength, layers=layers_for_var(model)),))


def _iri(strength: float, model: Any) -> Steered:
    if not strength:
        return Steered()
    asked = default_prompts(model, "scene-color", n=12)
    found = injections(trace(model, asked), strength, int(model.cfg.n_layers))
    if not found:
        raise MissingData(
            f"iri: noise on drawn scenes hardly changes the answers of {model.cfg.model_name}, so no layer brings them "
            "back; trace prompts of your own, and give injections(traced, ...)."
        )
    return Steered(found)


def _rebalance(strength: float, model: Any) -> Steered:
    return Steered(decoding=Rebalance(strength)) if strength else Steered()


def _whole(name: str, strength: float) -> int:
    if strength != int(strength) or strength < 0:
        raise BadOption(f"{name}: strength is {strength:g}; it counts, so give a whole number.")
    return int(strength)


_LIST = (
    Preset(
        "juice",
        "Boost heads by their own output from a clean run beside, and suppress others by theirs.",
        ("heads", "suppressed"),
        "times the clean output that is added, and for suppressed heads taken away",
        0.0,
        (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0),
        "Li et al. 2025, arXiv:2503.10996",
        _juice,
    ),
    Preset(
        "june",
        "The same in a single run: boosted heads are scaled by 1 + strength, suppressed ones by 1 - strength.",
        ("heads", "suppressed"),
        "times the head's own output that is added",
        0.0,
        (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0),
        "Li et al. 2025, arXiv:2503.10996",
        _june,
    ),
    Preset(
        "scale",
        "Multiply what heads write: 2 reinforces, -1 turns it around, 0 removes it.",
        ("heads",),
        "factor on the head's output",
        1.0,
        (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0),
        "Head Pursuit, arXiv:2510.21518 (-1 and 5); VHR, arXiv:2412.13949 (2)",
        _scale,
    ),
    Preset(
        "add",
        "Add directions to the residual stream, or to the queries, keys or outputs of heads.",
        ("directions",),
        "factor on the directions",
        0.0,
        (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0),
        "Rimsky et al. 2023, arXiv:2312.06681; Zou et al. 2023, arXiv:2310.01405",
        _add,
    ),
    Preset(
        "focus",
        "Add learned directions to rotated queries, so that heads look at what answers the question.",
        ("heads", "directions"),
        "alpha, the factor on the directions",
        0.0,
        (-0.5, 0.0, 0.1, 0.2, 0.3, 0.5, 1.0),
        "Zhu et al. 2025, arXiv:2503.23306",
        _focus,
    ),
    Preset(
        "split-softmax",
        "Raise the attention on known keys: what focusing could reach at best, as it is told where to look.",
        ("heads", "keys"),
        "1 - tau: the mass pi on the keys becomes pi ** tau; 1 puts all attention there",
        0.0,
        (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        "Li et al. 2024, arXiv:2402.10962 (formula remembered), as used in arXiv:2503.23306",
        _split,
    ),
    Preset(
        "reweight",
        "Move a share of the attention on some keys to others; every row keeps its sum.",
        ("heads", "keys"),
        "share of the attention on the keys that moves away",
        0.0,
        (0.0, 0.25, 0.5, 0.75, 1.0),
        "The form behind VAR, arXiv:2503.03321, and ACT, arXiv:2406.15765",
        _reweight,
    ),
    Preset(
        "act",
        "Cut attention sinks other than the first, and give what they had to all other keys.",
        ("heads",),
        "1 - beta: the share of a sink's attention that is taken; the paper takes 0.6",
        0.0,
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "Yu et al. 2024, arXiv:2406.15765",
        _act,
    ),
    Preset(
        "sorting",
        "Put documents in the order of the attention they get, the most attended last.",
        ("documents",),
        "how often the documents are sorted",
        0.0,
        (0.0, 1.0, 2.0, 3.0),
        "Peysakhovich & Lerer 2023, arXiv:2310.01427",
        _sorting,
    ),
    Preset(
        "buckets",
        "Read the text under several rotary bases at once, and trust the copy that is most certain.",
        ("model",),
        "how many bases",
        1.0,
        (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        "Chen et al. 2023, arXiv:2312.04455",
        _buckets,
    ),
)

_OF_IMAGES = (
    Preset(
        "vhr",
        "Multiply the heads whose output the image changes most, chosen for every prompt.",
        ("model", "images"),
        "gain of the chosen heads; the paper takes 2",
        1.0,
        (0.5, 1.0, 1.5, 2.0, 3.0),
        "He et al. 2024, arXiv:2412.13949",
        _vhr,
    ),
    Preset(
        "var",
        "Move attention from sinks to the rest of the image, in heads that look at it.",
        ("model", "images"),
        "share of the attention on sinks that moves; the paper takes 0.6",
        0.0,
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "Kang et al. 2025, arXiv:2503.03321",
        _var,
    ),
    Preset(
        "iri",
        "Add what attention and MLPs wrote in the layers that matter most to what later ones write.",
        ("model", "images"),
        "strength for attention; the MLPs' is 0.6 of it, as in the paper, which takes 0.26",
        0.0,
        (0.0, 0.13, 0.26, 0.52, 1.0),
        "Li et al. 2025, arXiv:2511.05923",
        _iri,
    ),
    Preset(
        "rebalance",
        "Choose tokens against a run on a noised image.",
        ("model", "images"),
        "weight of the noised run",
        0.0,
        (0.0, 0.5, 1.0, 2.0),
        "Ours, after the abstract of Liang et al. 2024, arXiv:2409.06485",
        _rebalance,
    ),
)

PRESETS = {one.name: one for one in (*_LIST, *_OF_IMAGES)}
