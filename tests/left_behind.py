"""What a model may not carry out of a test: hooks, replaced forwards, changed weights or buffers, open blocks.

A quick look at every live model follows every test, so it sums up what must not change; only where the sum differs from
that of the model as it was loaded is the difference named.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from transformer_lens.model_bridge import TransformerBridge

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
bridges: WeakSet[Any] = WeakSet()
_known: WeakKeyDictionary[Any, Watched] = WeakKeyDictionary()


class Watched:
    """The parts of one model, and what they were like when it was first seen."""

    def __init__(self, model: Any) -> None:
        # The wrapped model is no child of its bridge, though most of its parts are.
        parts = {
            id(one): (name, one) for name, one in model.original_model.named_modules(prefix="original_model")
        }
        parts |= {id(one): (name, one) for name, one in model.named_modules()}
        named = dict(parts.values())
        self.names = [name or "the model" for name in named]
        self.inside = [module.__dict__ for module in named.values()]
        self.hooks = [getattr(module, kind) for module in named.values() for kind in _HOOKS]
        self.tensors = [d[kind] for d in self.inside for kind in ("_parameters", "_buffers") if d[kind]]
        self.attention = [block.attn.original_component for block in model.blocks if hasattr(block, "attn")]
        self.config = getattr(model.original_model, "config", None)
        self.sum, self.parts = self.summed(), self.named()

    def summed(self) -> tuple[Any, ...]:
        """Sum up everything, in a fraction of a millisecond."""
        tensors = [one for held in self.tensors for one in held.values() if one is not None]
        return (
            sum(map(len, self.hooks)),
            [id(d["forward"]) for d in self.inside if "forward" in d],
            sum(d["training"] for d in self.inside),
            [(id(one), one._version, one.requires_grad) for one in tensors],
            [getattr(part, "accepts_pattern_fn", None) for part in self.attention],
            getattr(self.config, "_attn_implementation", None),
        )

    def named(self) -> dict[str, Any]:
        """Return the same with names; weights by their numbers, which a test may change and put back."""
        found: dict[str, Any] = {"attention function": self.summed()[4:]}
        for index, (name, d) in enumerate(zip(self.names, self.inside, strict=True)):
            for place, kind in enumerate(_HOOKS):
                held = self.hooks[index * len(_HOOKS) + place].values()
                # transformers puts hooks of its own on a model when it is first asked for all attention, for good.
                owners = [str(getattr(one, "__module__", "")) for one in held]
                found[f"{kind} of {name}"] = sum(not owner.startswith("transformers.") for owner in owners)
            found[f"forward of {name}"] = id(d["forward"]) if "forward" in d else None
            found[f"mode of {name}"] = d["training"]
            for kind in ("_parameters", "_buffers"):
                for key, one in d[kind].items():
                    if one is not None and not one.is_meta:  # an outline has no numbers
                        wide = one.detach().double()
                        found[f"{name}.{key}"] = (
                            float(wide.sum()),
                            float(wide.abs().sum()),
                            one.requires_grad,
                        )
        return found


def watch_bridges() -> None:
    """Note every bridge from its making on, whoever loads it."""
    made = TransformerBridge.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        bridges.add(self)

    TransformerBridge.__init__ = init  # type: ignore[method-assign]


def remember(model: Any) -> None:
    """Take a model's state as what it is to return to."""
    _known[model] = Watched(model)


def left_on(model: Any) -> list[str]:
    """Say what differs from when the model was first seen; hooks are taken away, so that the next test runs."""
    from headscope.hooks.forward import running_pass
    from headscope.hooks.turn import open_blocks

    problems = [f"{len(open_blocks(model))} open intervene blocks"] if open_blocks(model) else []
    if running_pass(model) is not None:
        problems.append("an announced pass")
    known = _known.get(model)
    if known is None:
        if hooked := [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]:
            problems.append(f"hooks on {', '.join(hooked[:5])}")
            model.reset_hooks()
        remember(model)
    elif known.summed() != known.sum:
        now = known.named()
        changed = [key for key in {**known.parts, **now} if known.parts.get(key) != now.get(key)]
        if changed:
            model.reset_hooks()
            remember(model)
        known.sum = known.summed()
        problems += changed
    return problems


def check_all() -> dict[str, list[str]]:
    """Return what every live bridge carries that it should not, by the name of its model."""
    found = {str(model.cfg.model_name): left_on(model)[:8] for model in list(bridges)}
    return {name: problems for name, problems in found.items() if problems}


def check_process() -> list[str]:
    """Return what a test changed in torch for everybody."""
    problems = [] if torch.is_grad_enabled() else ["gradients are off"]
    if torch.get_default_dtype() != torch.float32:
        problems.append(f"the default dtype is {torch.get_default_dtype()}")
    return problems
