"""Everything that touches a running model: load it, give it tokens, read it, change it."""

from .capture import capture_z, each_pattern
from .encode import Batch, encode
from .forward import forward
from .heads import Head, all_heads, parse_heads
from .info import ModelInfo, describe
from .load import ModelCard, available, load

__all__ = [
    "Batch",
    "Head",
    "ModelCard",
    "ModelInfo",
    "all_heads",
    "available",
    "capture_z",
    "describe",
    "each_pattern",
    "encode",
    "forward",
    "load",
    "parse_heads",
]
