"""Directions to add to activations: one vector for each head or layer, with arithmetic, and a file format."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import BadOption, BadRun, CannotWrite, MissingData, UnknownHead, nearest
from .heads import Head, parse_heads
from .points import POINTS

Place = Head | int

FORMAT = "headscope directions 1"
_LAYER = re.compile(r"layer\.(\d{1,9})")


@dataclass(frozen=True, eq=False)
class Directions:
    """One vector for each head (at `q`, `k`, `rot_q`, `rot_k`, `z`) or layer (at `resid`).

    Two are equal if they stand at the same point and hold the same numbers. They add and scale like vectors: the result
    of `2 * a - b` holds every head that either has, with 0 where one of them has none.

    Attributes:
        at: Name of the point (see `points`).
        vectors: Vectors by head or by layer, float32 on the CPU.
        about: What they are, for people.
    """

    at: str
    vectors: Mapping[Place, Float[Tensor, " d"]]
    about: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.at not in POINTS or self.at in ("scores", "pattern"):
            known = [name for name in POINTS if name not in ("scores", "pattern")]
            raise BadOption(f"directions: at is {self.at!r}.{nearest(str(self.at), known)}")
        if not self.vectors:
            raise BadOption("directions: there is no vector; give at least one head or layer.")
        held: dict[Place, Tensor] = {}
        for place, vector in self.vectors.items():
            one: Place = int(place) if self.at == "resid" and isinstance(place, int) else Head.parse(place)
            if (self.at == "resid") != isinstance(one, int):
                kind = "layers, as whole numbers" if self.at == "resid" else "heads, such as L5H1"
                raise BadOption(f"directions: {place!r} is no place for at={self.at!r}, which takes {kind}.")
            flat = torch.as_tensor(vector).detach().float().cpu()
            if flat.ndim != 1 or not bool(torch.isfinite(flat).all()):
                raise BadOption(f"directions: the vector of {place} is not one row of finite numbers.")
            held[one] = flat
        object.__setattr__(self, "vectors", dict(sorted(held.items())))

    @property
    def places(self) -> tuple[Place, ...]:
        """Heads or layers, in order."""
        return tuple(self.vectors)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads; none at `resid`."""
        return tuple(place for place in self.vectors if isinstance(place, Head))

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of point, places and numbers."""
        total = hashlib.sha256(self.at.encode())
        for place, vector in self.vectors.items():
            total.update(f"{place} {len(vector)}".encode())
            total.update((vector + 0.0).numpy().tobytes())  # + 0.0 makes -0 the same as 0
        return total.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Directions) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Directions(at={self.at!r}, {len(self.vectors)} vectors, digest={self.digest!r})"

    def __add__(self, other: Directions) -> Directions:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Directions) -> Directions:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, factor: float) -> Directions:
        return replace(self, vectors={place: factor * vector for place, vector in self.vectors.items()})

    __rmul__ = __mul__

    def __neg__(self) -> Directions:
        return -1.0 * self

    def norms(self) -> dict[Place, float]:
        """Return the length of each vector."""
        return {place: float(vector.norm()) for place, vector in self.vectors.items()}

    def only(self, places: Any) -> Directions:
        """Return the vectors of some heads or layers.

        Raises:
            UnknownHead: there is no vector for one of them.
        """
        wanted: Iterable[Place] = [int(one) for one in places] if self.at == "resid" else parse_heads(places)
        held: dict[Place, Tensor] = {}
        for place in wanted:
            if place not in self.vectors:
                raise UnknownHead(
                    f"{place}: there is no direction for it; there are {len(self.vectors)} others."
                )
            held[place] = self.vectors[place]
        return replace(self, vectors=held)

    def random(self, seed: int) -> Directions:
        """Return random directions of the same lengths at the same places: the control for these."""
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[Place, Tensor] = {}
        for place, vector in self.vectors.items():
            noise = torch.randn(vector.shape, generator=generator)
            drawn[place] = noise * (vector.norm() / noise.norm())
        return replace(self, vectors=drawn, about=f"random, as long as {self.digest}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file; it appears whole or not at all.

        Raises:
            CannotWrite: the folder is missing, read-only or full.
        """
        path = Path(path)
        tensors = {_written(place): vector.contiguous().clone() for place, vector in self.vectors.items()}
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            save_file(tensors, unfinished, metadata={"format": FORMAT, "at": self.at, "about": self.about})
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise CannotWrite(f"{path}: {error}; nothing was written") from error
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Directions:
        """Read what `save` wrote.

        Raises:
            MissingData: there is no such file.
            BadRun: the file holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingData(f"{path}: no such file of directions.")
        try:
            with safe_open(path, "pt") as file:
                about: dict[str, str] = file.metadata() or {}
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (OSError, SafetensorError) as error:
            raise BadRun(f"{path}: not a safetensors file: {error}") from error
        if about.get("format") != FORMAT:
            raise BadRun(
                f"{path}: expected {FORMAT!r}, found {json.dumps(about)[:200]}; save directions first."
            )
        vectors: dict[Place, Tensor] = {
            int(layer[1]) if (layer := _LAYER.fullmatch(name)) else Head.parse(name): vector
            for name, vector in held.items()
        }
        return cls(about.get("at", ""), vectors, about=about.get("about", ""))

    def _with(self, other: Directions, combine: Callable[[Tensor, Tensor], Tensor]) -> Directions:
        if not isinstance(other, Directions):
            return NotImplemented
        if self.at != other.at:
            raise BadOption(f"directions at {self.at} and at {other.at} cannot be added.")
        held: dict[Place, Tensor] = {}
        for place in (*self.vectors, *other.vectors):
            one, two = self.vectors.get(place), other.vectors.get(place)
            like = one if one is not None else two
            assert like is not None
            nothing = torch.zeros_like(like)
            held[place] = combine(nothing if one is None else one, nothing if two is None else two)
        return replace(self, vectors=held, about="")


def _written(place: Place) -> str:
    return f"layer.{place}" if isinstance(place, int) else str(place)
