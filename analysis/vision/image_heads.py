"""What the heads of an image model attend to: how far on the grid, how much to CLS, and which kinds of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from ...errors import EmptyPromptSet
from ..figures.image_heads import image_heads_figure
from ..files import write_atomically, write_table
from .pattern_kinds import PatternKinds, pattern_kinds
from .rings import mean_distance, ring_profile
from .vit import each_attention, first_piece


@dataclass(frozen=True)
class ImageHeads:
    """Attention between pieces, of every head.

    Attributes:
        rings: [layer, head, ring] share of attention at distance 0, 1, 2, ... on the grid, mean over pieces and images.
        near: The same as a mean over each ring's pieces, which is fair at the border.
        to_cls: [layer, head] attention of pieces on CLS; 0 where the model has none.
        kinds: Groups of like maps.
        typical: [cluster, query, key] the typical map of each group.
        model: Name.
    """

    rings: Float[np.ndarray, "layer head ring"]
    near: Float[np.ndarray, "layer head ring"]
    to_cls: Float[np.ndarray, "layer head"]
    kinds: PatternKinds
    typical: Float[np.ndarray, "cluster query_piece key_piece"]
    model: str

    def table(self) -> pd.DataFrame:
        """Return a row a head: `cluster` and the `share` of its maps in it, `distance`, `to_cls`, `ring_0`, ..."""
        distance = mean_distance(self.rings)
        at = [tuple(cell) for cell in np.argwhere(np.isfinite(self.to_cls))]
        table = self.kinds.table().assign(
            distance=[distance[cell] for cell in at], to_cls=[self.to_cls[cell] for cell in at]
        )
        return table.assign(
            **{f"ring_{k}": [self.rings[cell][k] for cell in at] for k in range(self.rings.shape[-1])}
        )

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the distance of every head, the maps in the plane, and the typical map of each group."""
        return image_heads_figure(
            mean_distance(self.rings), self.kinds.place, self.kinds.cluster, self.typical,
            title=f"Attention between the pieces of an image, {self.model}", dark=dark,
        )  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write `image_heads.parquet` and `image_heads.html` into a folder.

        Raises:
            CannotWrite: The folder cannot be written.
        """
        folder = Path(folder)
        write_table(folder / "image_heads.parquet", self.table())
        page = self.figure().to_html(include_plotlyjs=True, full_html=True)
        write_atomically(folder / "image_heads.html", page)
        return folder


def image_heads(
    model: Any,
    images: Sequence[str],
    *,
    n_clusters: int = 6,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ImageHeads:
    """Read images, and sort heads by how they attend from piece to piece.

    Formula: rings as in `ring_profile`, groups as in `pattern_kinds`. Rows of pieces are used as they are; what they
        give to CLS is told apart.
    Reference: Li et al. 2023, arXiv:2303.13731 (abstract read; details are ours).

    Args:
        model: A ViT, or the tower of a model that reads too (`NAME#tower`).
        images: Pictures, as in a prompt's `image`; every map of every one is kept in memory.
        n_clusters: Groups of maps.
        seed: Of the groups.
        progress: Called with the number of layers read and of all, in every batch of images.

    Raises:
        EmptyPromptSet: There is no image.
        MissingData: The model reads text, or its pieces form no square.
        BadOption: There are fewer maps than groups.
    """
    if not len(images):
        raise EmptyPromptSet("image_heads: there is no image; give at least one.")
    n_layers = int(model.cfg.n_layers)
    kept: list[list[np.ndarray]] = [[] for _ in range(n_layers)]
    cls: list[list[np.ndarray]] = [[] for _ in range(n_layers)]

    def visit(layer: int, rows: list[int], pattern: Tensor) -> None:
        first = first_piece(model, pattern.shape[-1])
        kept[layer].append(pattern[:, :, first:, first:].cpu().numpy())
        # Without CLS nothing is given to it.
        cls[layer].append(pattern[:, :, first:, :first].sum(-1).mean(-1).cpu().numpy())
        if progress:
            progress(layer + 1, n_layers)

    each_attention(model, images, visit)
    maps = np.stack([np.concatenate(parts).swapaxes(0, 1) for parts in kept])  # layer head image query key
    whole = Tensor(maps)
    found = pattern_kinds(maps, n_clusters, seed=seed)
    return ImageHeads(
        ring_profile(whole).mean(2).numpy(),
        ring_profile(whole, per_piece=True).mean(2).numpy(),
        np.stack([np.concatenate(parts).mean(0) for parts in cls]),
        found,
        np.stack([maps[one] for one in found.typical]),
        str(model.cfg.model_name),
    )
