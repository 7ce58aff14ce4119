"""Headscope: a workbench for attention heads on TransformerLens.

The names below are loaded on first use, so that ``import headscope`` and ``headscope --help`` do not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.demo import demo
    from .analysis.registry import methods
    from .analysis.score import score
    from .analysis.scores import HeadScores
    from .analysis.verify import verify
    from .datasets.prompts import Prompt, PromptSet
    from .errors import HeadscopeError
    from .hooks.directions import Directions
    from .hooks.encode import encode
    from .hooks.generate import generate
    from .hooks.heads import Head
    from .hooks.info import describe
    from .hooks.intervene import intervene
    from .hooks.interventions import mean, resample, scale, uniform, zero
    from .hooks.load import available, load
    from .hooks.reweight import act, reweight, split_softmax
    from .hooks.steering import add, replay
    from .hooks.sweep import sweep
    from .hooks.tower import tower

__version__ = "0.1.0"

_HOME = {
    "load": "hooks.load",
    "describe": "hooks.info",
    "available": "hooks.load",
    "Head": "hooks.heads",
    "encode": "hooks.encode",
    "intervene": "hooks.intervene",
    "zero": "hooks.interventions",
    "mean": "hooks.interventions",
    "resample": "hooks.interventions",
    "uniform": "hooks.interventions",
    "scale": "hooks.interventions",
    "replay": "hooks.steering",
    "add": "hooks.steering",
    "reweight": "hooks.reweight",
    "split_softmax": "hooks.reweight",
    "act": "hooks.reweight",
    "Directions": "hooks.directions",
    "generate": "hooks.generate",
    "sweep": "hooks.sweep",
    "tower": "hooks.tower",
    "methods": "analysis.registry",
    "score": "analysis.score",
    "HeadScores": "analysis.scores",
    "verify": "analysis.verify",
    "demo": "analysis.demo",
    "Prompt": "datasets.prompts",
    "PromptSet": "datasets.prompts",
    "HeadscopeError": "errors",
}

__all__ = [
    "load",
    "describe",
    "available",
    "Head",
    "encode",
    "intervene",
    "zero",
    "mean",
    "resample",
    "uniform",
    "scale",
    "replay",
    "add",
    "reweight",
    "split_softmax",
    "act",
    "Directions",
    "generate",
    "sweep",
    "tower",
    "methods",
    "score",
    "HeadScores",
    "verify",
    "demo",
    "Prompt",
    "PromptSet",
    "HeadscopeError",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    import difflib

    near = difflib.get_close_matches(name, __all__, n=3, cutoff=0.5)
    hint = f" Nearest: {', '.join(near)}." if near else f" Public names: {', '.join(__all__)}."
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
