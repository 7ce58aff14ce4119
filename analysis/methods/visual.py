"""Heads by how they look at an image: how much of their attention it gets, how narrowly, and whether on the object."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import MissingData
from ...hooks.encode import Batch
from ..registry import method
from .queries import real_tokens

Queries = Literal["last", "after"]
_PAPER = "Bi et al. 2024, arXiv:2412.18108"


@method(
    "visual-mass",
    data="scenes",
    higher="attends to the image while it reads or answers the text",
    reference=_PAPER,
)
def visual_mass(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], batch: Batch, *, queries: Queries = "last"
) -> Float[Tensor, "prompt head"]:
    """Sum the attention that goes to the image's pieces.

    Formula: W = sum over j in the image of A[i, j], for the last prompt token i (`queries="last"`), whose row writes
        the first token of the answer, or the mean over all tokens i after the image (`"after"`).
    Direction: 1 means that the head looks at nothing but the image; uniform attention scores the image's share of the
        keys.
    Shape and unit: a share in [0, 1] per prompt and head; NaN for a prompt without an image.
    Reference: Bi et al. 2024, arXiv:2412.18108, the attention on visual tokens at the first generated token; read from
        the authors' code, which averages over samples.

    Raises:
        MissingData: No prompt has an image.
    """
    image = image_pieces(batch, "visual-mass")
    return _mean(mass_on(pattern, image), batch, image, queries)


@method(
    "visual-concentration",
    data="scenes",
    higher="looks at few places of the image",
    reference=_PAPER,
    alternative=None,
)
def visual_concentration(
    pattern: Float[Tensor, "prompt head query_pos key_pos"],
    batch: Batch,
    *,
    queries: Queries = "last",
    min_mass: float = 0.05,
) -> Float[Tensor, "prompt head"]:
    """Measure how narrowly a head looks where it looks at the image.

    Formula: C = 1 − H(p) / log N, p_j = A[i, j] / W over the image's N pieces, W = visual mass; the rows i are
        those that `queries` chooses, as in `visual-mass`.
    Direction: 1 means one piece gets everything, 0 means all pieces get the same.
    Shape and unit: a number in [0, 1] per prompt and head; NaN where a query's visual mass is below `min_mass`, since
        the shares of next to nothing mean nothing.
    Reference: Bi et al. 2024, arXiv:2412.18108, call concentration an entropy (abstract); their exact equation was not
        seen. Dividing by log N, which makes image sizes comparable, is ours.

    Raises:
        MissingData: No prompt has an image.
    """
    image = image_pieces(batch, "visual-concentration")
    mass = mass_on(pattern, image)
    share = (pattern * image[:, None, None]) / mass.clamp_min(1e-12)[..., None]
    entropy = -torch.xlogy(share, share).sum(-1)
    n_pieces = image.sum(-1).clamp_min(2)[:, None, None]
    narrow = 1 - entropy / n_pieces.log()
    return _mean(narrow.masked_fill(mass < min_mass, torch.nan), batch, image, queries)


@method(
    "box-share",
    data="scenes",
    higher="looks at the object that is asked about, where it looks at the image",
    reference=_PAPER,
)
def box_share(
    pattern: Float[Tensor, "prompt head query_pos key_pos"],
    batch: Batch,
    *,
    box: str = "object",
    queries: Queries = "last",
    min_mass: float = 0.05,
) -> Float[Tensor, "prompt head"]:
    """Measure which share of a head's attention on the image lies inside the object's box.

    Formula: R / W, R = sum of A[i, j] over pieces whose middle lies in the box, W = visual mass; the rows i are
        those that `queries` chooses, as in `visual-mass`.
    Direction: 1 means that of the image the head looks only at the object; uniform attention scores the box's share of
        the image's pieces.
    Shape and unit: a share in [0, 1] per prompt and head; NaN for a prompt without the box, and where a query's visual
        mass is below `min_mass`.
    Reference: Bi et al. 2024, arXiv:2412.18108: visual mass and mass in the box are what the authors' code records; how
        the paper combines them was not seen, so this ratio is ours.

    Raises:
        MissingData: No prompt has an image with this box.
    """
    image = image_pieces(batch, "box-share")
    if box not in batch.spans:
        raise MissingData(f"box-share: no prompt has a box named {box!r}; fill the prompts' `boxes`.")
    inside = batch.spans[box] & image
    mass = mass_on(pattern, image)
    share = mass_on(pattern, inside) / mass.clamp_min(1e-12)
    unknown = (mass < min_mass) | ~inside.any(-1)[:, None, None]
    return _mean(share.masked_fill(unknown, torch.nan), batch, image, queries)


def image_pieces(batch: Batch, name: str) -> Bool[Tensor, "prompt pos"]:
    """Mark the image's pieces.

    Raises:
        MissingData: No prompt has an image.
    """
    if "image" not in batch.spans:
        raise MissingData(
            f"{name}: the prompts have no images; give prompts with an `image`, or --data scenes, to a model that sees."
        )
    return batch.spans["image"]


def mass_on(
    pattern: Float[Tensor, "prompt head query_pos key_pos"], keys: Bool[Tensor, "prompt key_pos"]
) -> Float[Tensor, "prompt head query_pos"]:
    """Sum each row's attention over the marked keys."""
    return (pattern * keys[:, None, None].to(pattern)).sum(-1)


def _mean(
    values: Float[Tensor, "prompt head query_pos"],
    batch: Batch,
    image: Bool[Tensor, "prompt pos"],
    queries: Queries,
) -> Float[Tensor, "prompt head"]:
    """Average over the chosen queries that have a value; NaN for a prompt without an image or without such queries."""
    columns = torch.arange(image.shape[1], device=image.device)
    has_image = image.any(-1, keepdim=True)
    if queries == "last":
        chosen = (columns == batch.last[:, None]) & has_image
    else:
        last_piece = torch.where(image, columns, -1).amax(-1, keepdim=True)
        chosen = (columns > last_piece) & real_tokens(batch) & has_image
    known = chosen[:, None] & ~values.isnan()
    total = torch.where(known, values, torch.zeros_like(values)).sum(-1)
    return total / known.sum(-1)  # 0 / 0 is NaN
