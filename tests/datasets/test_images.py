"""Pictures from files: every mode becomes RGB, and what is no picture gets one clear error."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from headscope.datasets import images
from headscope.datasets.images import open_image
from headscope.errors import BadImage


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tiff" if mode in ("CMYK", "I;16") else "picture.png")
    Image.new(mode, (5, 4)).save(path)
    assert open_image(str(path)).mode == "RGB"


def test_transparent_parts_lie_on_white_and_sixteen_bits_keep_their_greys(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(str(tmp_path / "clear.png")).getpixel((0, 0)) == (255, 255, 255)
    Image.fromarray(np.full((2, 2), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert abs(open_image(str(tmp_path / "deep.png")).getpixel((0, 0))[0] - 128) <= 1


def test_of_several_frames_it_is_the_first(tmp_path):
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    red, _, blue = open_image(str(tmp_path / "moving.gif")).getpixel((1, 1))
    assert red > 200 and blue < 50


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "bmp", "tiff"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImage, match=r"damaged or cut short|not an image"):
        open_image(str(path))


def test_what_is_no_image_is_refused(tmp_path):
    for name, data in {"a.png": b"hello", "b.jpg": b"", "c.png": b"<svg onload=alert(1)>"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImage, match="not an image"):
            open_image(str(tmp_path / name))
    with pytest.raises(BadImage, match="no image file"):
        open_image(str(tmp_path))


def _claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(_claims(side, side))
    with pytest.raises(BadImage, match=r"at most 40,000,000 pixels are read"):
        open_image(str(path))


def test_a_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_MB", 0.001)
    path = tmp_path / "large.bmp"
    Image.new("RGB", (100, 100)).save(path)
    with pytest.raises(BadImage, match=r"at most 0.001 MB"):
        open_image(str(path))


def test_pixels_without_a_known_white_are_refused(tmp_path):
    path = tmp_path / "depth.tiff"
    Image.new("F", (8, 8), 0.5).save(path)
    with pytest.raises(BadImage, match="floating-point numbers"):
        open_image(str(path))


@pytest.mark.parametrize("name", ["a" * 5000, "nul\0.png", "/dev/zero"])
def test_a_name_that_no_picture_can_have_is_refused(name):
    with pytest.raises(BadImage, match="no image file"):
        open_image(name)
