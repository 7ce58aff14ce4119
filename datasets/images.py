"""Open what a prompt's `image` field names: a picture file, or a scene written as a line of text."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import BadImage
from .scenes.scene import Scene

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_MB = 20
MAX_PIXELS = 40_000_000


def open_image(image: str, where: str = "image") -> Image.Image:
    """Return the picture, RGB; transparent parts lie on white, and of several frames it is the first.

    Args:
        image: A path, or a scene's text form such as `scene:17:red-circle@0`.
        where: What an error calls it, such as `prompt 3`.

    Raises:
        BadImage: It is no file, no image, cut short or too large; the message says which.
    """
    if image.startswith("scene:"):
        return Scene.parse(image).draw()
    path = Path(image).expanduser()
    size = file_size(path)
    if size is None:
        raise BadImage(f"{where}: there is no image file {image[:200]!r}.")
    if size > MAX_MB * 1e6:
        raise BadImage(f"{where}: {image[:200]!r} has {size / 1e6:.0f} MB; at most {MAX_MB} MB are read.")
    try:
        with warnings.catch_warnings():
            # The library's own alarm about size comes after ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MAX_PIXELS:
                    raise BadImage(
                        f"{where}: {image[:200]!r} is {width} x {height} pixels; at most {MAX_PIXELS:,} pixels are "
                        "read. Make it smaller."
                    )
                if opened.mode == "F":
                    raise BadImage(
                        f"{where}: the pixels of {image[:200]!r} are floating-point numbers, of which nobody says how "
                        "bright they are; save it with 8 or 16 bits."
                    )
                return _rgb(opened)
    except Image.DecompressionBombError as error:
        raise BadImage(
            f"{where}: {image[:200]!r} is too large: at most {MAX_PIXELS:,} pixels are read. Make it smaller."
        ) from error
    except UnidentifiedImageError as error:
        raise BadImage(
            f"{where}: {image[:200]!r} is not an image that can be read; give {', '.join(FORMATS)}."
        ) from error
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # what Pillow raises for damaged files of every format
        raise BadImage(f"{where}: {image[:200]!r} is damaged or cut short: {error}.") from error


def file_size(path: Path) -> int | None:
    """Return how many bytes a file has; None where there is no such file, or no file can have such a name."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


def _rgb(opened: Image.Image) -> Image.Image:
    opened.seek(0)
    if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
        layered = opened.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("RGB")
    if opened.mode.startswith("I"):
        # Sixteen bits a pixel would be clipped to white by a plain conversion.
        return opened.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    return opened.convert("RGB")
