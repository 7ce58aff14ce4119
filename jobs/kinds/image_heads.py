"""The kind `image-heads`: how the heads of an image model attend from piece to piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
from pydantic import Field

from ...analysis.vision.image_heads import image_heads
from ..planner import Planner
from ..steps import Data, Found, Inputs, Step, Task, Unit, kind
from ..studies import kept, put_together, short_name


@kind("image-heads")
class ImageHeadsStep(Step):
    """Measure how far heads of an image model look, and group their attention maps."""

    table: ClassVar[str] = "image_heads"

    kind: Literal["image-heads"] = "image-heads"
    n_clusters: int = Field(default=6, ge=2)
    """Groups of like maps."""
    data: Data | None = None
    """Pictures; by default drawn ones. All their maps are held in memory."""

    def plan(self, at: Planner) -> Iterable[Task]:
        """Plan one unit, since maps of all images are grouped together."""
        model = at.model(self)
        prompts = at.prompts(self.data, default="pictures", model=model, seed=self.seed)
        params = {"n_clusters": self.n_clusters}
        yield at.task(
            self, f"image-heads-{short_name(model.name)}", model=model, params=params, data=[prompts]
        )

    def run(self, unit: Unit, model: object, inputs: Inputs) -> Found:
        """Read the pictures."""
        prompts = inputs.prompts[unit.task.data[0]]
        found = image_heads(
            model, [one.image for one in prompts], n_clusters=unit.task.params["n_clusters"], seed=unit.task.seed,
            progress=inputs.progress,
        )  # fmt: skip
        return kept(found, typical=[list(one) for one in found.kinds.typical])

    def assemble(
        self, task: Task, found: Sequence[Found | None], inputs: Inputs, folder: Path
    ) -> pd.DataFrame | None:
        """Write a row a head, and the figure."""
        return put_together(task, found, folder, "image_heads")
