"""Put an intervention's values in place: at the queries that it chooses, in its heads, and nowhere else."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import BadOption
from .interventions import Intervention
from .points import POINTS
from .site import Site, at_positions


def chosen(intervention: Intervention, site: Site) -> Bool[Tensor, "batch pos"]:
    """Return the queries that an intervention changes: real, and right by position and phase.

    Raises:
        BadOption: one of them is a position for which the intervention has no value.
    """
    positions, lengths = site.positions, site.lengths[:, None]
    if intervention.positions is not None and not site.countable:
        raise BadOption(
            f"{intervention}: this tower runs images of all sizes as one row, in an order of its own, so positions in "
            "it are not known; leave them out."
        )
    mask = positions >= 0
    if intervention.phase != "all":
        mask = mask & ((positions >= lengths - 1) == (intervention.phase == "decode"))
    if isinstance(intervention.positions, str):
        mask = mask & site.span(intervention.positions)
    elif intervention.positions is not None:
        mask = mask & at_positions(positions, site.lengths, intervention.positions)
    defined = intervention.defined(site)
    if defined is not None and bool((mask & ~defined).any()):
        position = int(positions[mask & ~defined][0])
        raise BadOption(
            f"{intervention}: there is no reference value for position {position}; "
            "choose earlier positions, phase='prefill', or a longer reference."
        )
    return mask


def apply(intervention: Intervention, site: Site) -> Tensor:
    """Return what stands at the site with the intervention's part replaced where it acts; all else bit-equal."""
    mask = chosen(intervention, site)
    new = intervention.new(site)
    axis = POINTS[site.at].head_axis
    if axis is None:
        return torch.where(mask[:, :, None], new.to(site.value), site.value)
    mask = mask[:, :, None, None] if axis == 2 else mask[:, None, :, None]
    heads = columns(intervention, site)
    value = site.value.clone()
    here = (slice(None),) * axis + (heads,)
    value[here] = torch.where(mask, new.to(site.value), site.value[here])
    return value


def columns(intervention: Intervention, site: Site) -> list[int]:
    """Return which entries of the site's head axis the intervention replaces, in order."""
    heads = intervention.in_layer(site.layer)
    if not POINTS[site.at].shared or not heads:
        return heads
    assert site.n_heads, "the site does not know how many query heads there are"
    size = site.n_heads // site.value.shape[2]
    return list(dict.fromkeys(head // size for head in heads))


def own(intervention: Intervention, site: Site) -> Tensor:
    """Return the part of the site's value that the intervention replaces."""
    axis = POINTS[site.at].head_axis
    if axis is None:
        return site.value
    return site.value[(slice(None),) * axis + (columns(intervention, site),)]
