"""A picture from numbers, as a `data:` address: far smaller and faster to draw than a plotly trace of its cells."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8


def png_address(
    levels: UInt8[np.ndarray, "height width"], colours: Sequence[tuple[int, int, int]], *, zoom: int = 1
) -> str:
    """Encode an image whose pixels are numbers of colours.

    Args:
        levels: For every pixel, the index of its colour.
        colours: At most 256 colours as red, green, blue from 0 to 255.
        zoom: Every pixel becomes a square of this side, so that browsers do not blur it when they enlarge it.
    """
    big = np.repeat(np.repeat(np.asarray(levels, dtype=np.uint8), zoom, axis=0), zoom, axis=1)
    height, width = big.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), big], axis=1)  # 0: the line is not filtered
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, body)
        for name, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits, colours by index
            (b"PLTE", bytes(part for colour in colours for part in colour)),
            (b"IDAT", zlib.compress(lines.tobytes(), 6)),
            (b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def shades(colours: Sequence[str], n: int = 255) -> list[tuple[int, int, int]]:
    """Blend `#rrggbb` colours into n steps, evenly spread.

    >>> shades(["#000000", "#ffffff"], 3)
    [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    """
    points = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours], dtype=float)
    at = np.linspace(0, len(colours) - 1, n)
    blended = np.stack([np.interp(at, np.arange(len(colours)), points[:, i]) for i in range(3)], axis=1)
    return [(int(red), int(green), int(blue)) for red, green, blue in np.floor(blended + 0.5)]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
