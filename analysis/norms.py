"""Norms as linear maps: what a part of the residual stream becomes, with the norm's scale held at its real value.

A layer norm or RMS norm divides by a number that depends on the whole vector. With that number held fixed the rest is
linear, so that a sum of parts can be followed through it part by part. Gain and bias are read from what the norm does
to a probe, so that stored forms (Gemma's 1 + weight) do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import BadOption

_LARGE = 1e3  # a probe beside which no epsilon counts


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm taken apart: `norm(x) = gain * centred(x) / scale(x) + bias`.

    Attributes:
        gain: Factor by dimension.
        bias: Added after it; zeros for an RMS norm.
        centre: Whether the mean over dimensions is taken off first, as a layer norm does.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centre: bool

    def direction(self, part: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """Return what becomes of a part before the division by the scale."""
        centred = part - part.mean(-1, keepdim=True) if self.centre else part
        return centred * self.gain

    def scale(
        self, x: Float[Tensor, "*any d_model"], y: Float[Tensor, "*any d_model"]
    ) -> Float[Tensor, "*any 1"]:
        """Find the number that the norm divided by when it made `y` of `x`.

        Raises:
            BadOption: No single number explains `y`: this is no layer norm and no RMS norm.
        """
        wanted, made = self.direction(x), y - self.bias
        scale = (wanted * wanted).sum(-1, keepdim=True) / (wanted * made).sum(-1, keepdim=True)
        error = (wanted / scale - made).abs().max()
        if not bool(error <= _tolerance(y) * y.abs().max().clamp_min(1)):
            raise BadOption(
                "a norm of this model is neither a layer norm nor an RMS norm, so its parts cannot be told apart."
            )
        return scale

    def fold(self, weight: Float[Tensor, "*any d_model d_head"]) -> Float[Tensor, "*any d_model d_head"]:
        """Put gain and centring into the matrix that reads behind the norm."""
        folded = weight * self.gain[:, None]
        return folded - folded.mean(-2, keepdim=True) if self.centre else folded


@torch.no_grad()
def read_norm(norm: Any, like: Float[Tensor, " d_model"]) -> Norm:
    """Find out gain, bias and centring of a norm by running it on three vectors.

    Args:
        norm: The module.
        like: Any vector of the residual stream; gives size, dtype and device.

    Raises:
        BadOption: The module is neither a layer norm nor an RMS norm.
    """
    probe = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).sign() * _LARGE
    probe = (probe + torch.linspace(0, _LARGE / 4, len(like))).to(like)
    there, back, shifted = (norm(x[None, None])[0, 0] for x in (probe, -probe, probe + _LARGE))
    bias = ((there + back) / 2).detach()
    made = there - bias
    centre = bool((shifted - there).abs().max() <= 10 * _tolerance(there) * made.abs().max())
    centred = probe - probe.mean() if centre else probe
    gain = (made * centred.square().mean().sqrt() / centred).detach()
    found = Norm(gain, bias, centre)
    mixed = probe.roll(1) * 0.5
    found.scale(mixed, norm(mixed[None, None])[0, 0])
    return found


def _tolerance(x: Tensor) -> float:
    return 1e-4 if x.dtype in (torch.float32, torch.float64) else 3e-2
