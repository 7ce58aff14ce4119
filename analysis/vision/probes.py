"""What can be read off the heads of an image tower: a linear probe, and efficient probing with learned queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ...errors import BadOption, MissingData
from ..statistics import binomial_interval


def linear_probe(
    features: Float[Tensor, "image layer head piece d_head"],
    labels: Sequence[str],
    *,
    train: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a linear classifier on each head's output, averaged over the pieces, and test it on other images.

    Returns:
        A row a head: `accuracy` on the held-out images with its exact 95 % interval, `shuffled` (the same with shuffled
        training labels: what the head's width alone gives), `n`.

    Raises:
        MissingData: There are fewer than two labels, or too few images.
    """
    names, y, first, rest = split(labels, train, seed)
    pooled = features.mean(3).double().cpu().numpy()
    shuffled = np.random.default_rng(seed).permutation(y[first])
    rows = []
    for layer, head in np.ndindex(pooled.shape[1:3]):
        x = pooled[:, layer, head]
        right = int((_linear().fit(x[first], y[first]).predict(x[rest]) == y[rest]).sum())
        control = float((_linear().fit(x[first], shuffled).predict(x[rest]) == y[rest]).mean())
        low, high = binomial_interval(right, len(rest))
        rows.append(
            {
                "layer": layer,
                "head": head,
                "accuracy": right / len(rest),
                "low": low,
                "high": high,
                "shuffled": control,
                "chance": 1 / len(names),
                "n": len(rest),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Probed:
    """What efficient probing found.

    Attributes:
        accuracy: On the held-out images.
        low: Lower end of its exact 95 % interval.
        high: Its upper end.
        n: Held-out images.
        attention: Where the learned queries look on the held-out images [image, query, piece]; rows sum to 1.
        held_out: Which images they are.
        parameters: How many numbers were learned.
    """

    accuracy: float
    low: float
    high: float
    n: int
    attention: Float[np.ndarray, "image query piece"]
    held_out: Int[np.ndarray, " image"]
    parameters: int


class EfficientProbe(nn.Module):
    """Learned queries attend to frozen pieces without a key projection; one value projection in slices.

    Formula: a = softmax(Q xᵀ / √D); the m-th slice of the output is a_m V(x)_m; then a batch norm without parameters of
        its own and a linear classifier.
    Reference: Psomas et al. 2025, arXiv:2506.10178, and the authors' code. Theirs has 32 queries, the LARS optimiser
        and 90 epochs; ours are few queries and Adam over the whole set, for small towers.
    """

    def __init__(self, d_in: int, n_queries: int, n_labels: int, d_out: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(n_queries, d_in) * 0.02)
        self.value = nn.Linear(d_in, d_out, bias=False)
        self.norm = nn.BatchNorm1d(d_out, affine=False)
        self.classify = nn.Linear(d_out, n_labels)

    def forward(self, x: Float[Tensor, "image piece d_in"]) -> tuple[Tensor, Tensor]:
        """Return logits [image, label] and attention [image, query, piece]."""
        attention = (self.queries @ x.transpose(1, 2) * x.shape[-1] ** -0.5).softmax(-1)
        slices = self.value(x).unflatten(-1, (len(self.queries), -1))  # image piece query width
        pooled = torch.einsum("bqp,bpqw->bqw", attention, slices).flatten(1)
        return self.classify(self.norm(pooled)), attention


def efficient_probe(
    features: Float[Tensor, "image piece d_in"],
    labels: Sequence[str],
    *,
    n_queries: int = 4,
    epochs: int = 200,
    train: float = 0.5,
    seed: int = 0,
) -> Probed:
    """Train efficient probing on frozen pieces, such as one head's outputs, and test it on other images.

    Raises:
        BadOption: The width is not a multiple of the number of queries, or there are features of several heads.
        MissingData: There are fewer than two labels, or too few images.
    """
    if features.ndim != 3:
        raise BadOption(
            f"efficient_probe: features have the shape {tuple(features.shape)}, expected [image, piece, width]; take "
            "one head's, such as head_outputs(model, images)[:, layer, head]."
        )
    width = features.shape[-1]
    if n_queries < 1 or width % n_queries:
        raise BadOption(f"n_queries is {n_queries}; the {width} channels cannot be cut into as many slices.")
    names, y, first, rest = split(labels, train, seed)
    x = features.float()
    x = (x - x[first].mean((0, 1))) / x[first].std((0, 1)).clamp_min(1e-6)
    target = torch.tensor(y, device=x.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = EfficientProbe(width, n_queries, len(names), width).to(x.device)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-2, weight_decay=1e-4)
    with torch.enable_grad():
        for _ in range(epochs):
            loss = nn.functional.cross_entropy(probe(x[first])[0], target[first])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    probe.eval()
    with torch.no_grad():
        logits, attention = probe(x[rest])
    right = int((logits.argmax(-1) == target[rest]).sum())
    low, high = binomial_interval(right, len(rest))
    size = sum(parameter.numel() for parameter in probe.parameters())
    return Probed(right / len(rest), low, high, len(rest), attention.cpu().numpy(), rest, size)


def _linear():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def split(
    labels: Sequence[str], train: float, seed: int
) -> tuple[list[str], np.ndarray, Int[np.ndarray, " image"], Int[np.ndarray, " image"]]:
    """Return the names of labels, the label of each image as a number, and the images to train and to test on."""
    names = sorted(set(labels))
    if len(names) < 2:
        raise MissingData("a probe needs images of at least two labels.")
    y = np.array([names.index(label) for label in labels])
    order = np.random.default_rng(seed).permutation(len(y))
    cut = round(train * len(y))
    first, rest = np.sort(order[:cut]), np.sort(order[cut:])
    if len(set(y[first])) < len(names) or not len(rest):
        raise MissingData(
            f"{len(y)} images are too few to train on every one of {len(names)} labels and test on others."
        )
    return names, y, first, rest
