"""Draw the figures of the tutorial anew: python benchmarks/docs_figures.py. Needs Chromium."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pages

from headscope.analysis.figures.export import png


def main() -> None:
    """Run the tutorial's blocks, and write what its figures show."""
    os.chdir(tempfile.mkdtemp())
    seen = {}

    class Kept(pages.Page):
        def _python(self, block: pages.Block) -> None:
            super()._python(block)
            if "figure" in self.namespace:
                seen[len(seen)] = self.namespace.pop("figure")

        def _sh(self, block: pages.Block) -> None:
            """Commands draw nothing here."""

        def _compare(self, block: pages.Block) -> None:
            """The tests compare what is printed."""

    done = Kept(pages.ROOT / "docs" / "tutorial.md").run()
    gallery, check = seen.values()
    figures = {"gallery": gallery, "heatmap": done.namespace["scores"].heatmap(), "check": check}
    for name, figure in figures.items():
        path = pages.ROOT / "docs" / "images" / f"{name}.png"
        path.write_bytes(png(figure))
        print(path, f"{path.stat().st_size // 1024} KB", figure.layout.width, figure.layout.height)


if __name__ == "__main__":
    main()
