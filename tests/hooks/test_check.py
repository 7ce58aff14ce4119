import pytest
import torch

from headscope.errors import HookNeverFired, NoEffect, NonFinite
from headscope.hooks.check import self_check


def test_every_architecture_passes(any_model):
    found = self_check(any_model)
    assert found.pattern_edits
    assert found.row_sum_error is not None and found.row_sum_error < 1e-5


class Altered:
    """A bridge whose hooks of one kind are spoiled, as an architecture that the bridge half supports would be."""

    def __init__(self, model, kind, spoil):
        self._model, self._kind, self._spoil = model, kind, spoil

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        return self._model(*args, **kwargs)

    def hooks(self, fwd_hooks):
        changed = []
        for name, hook in fwd_hooks:
            spoiled = self._spoil(hook) if name.endswith(self._kind) and ".1." in name else hook
            changed += [] if spoiled is None else [(name, spoiled)]
        return self._model.hooks(fwd_hooks=changed)


def ignore(hook):
    """Let the hook see a copy, so that its edit is lost."""

    def call(value, hook):
        inner(value.clone(), hook)

    inner = hook
    return call


def test_a_hook_z_edit_that_is_ignored_is_refused(tiny):
    with pytest.raises(NoEffect, match=r"layers \[1\]"):
        self_check(Altered(tiny("llama"), "hook_z", ignore))


def test_a_hook_z_that_does_not_fire_is_refused(tiny):
    with pytest.raises(HookNeverFired, match=r"hook_z of layers \[1\]"):
        self_check(Altered(tiny("llama"), "hook_z", lambda hook: None))


@pytest.mark.parametrize("spoil", [ignore, lambda hook: None])
def test_pattern_edits_that_are_ignored_in_one_layer_are_a_missing_capability(tiny, spoil):
    assert not self_check(Altered(tiny("llama"), "hook_pattern", spoil)).pattern_edits


def test_rows_that_do_not_sum_to_one_are_refused(tiny):
    def scaled(inner):
        def call(value, hook):
            inner(value * 1.01, hook)

        return call

    with pytest.raises(NoEffect, match="layer 1 sum to 1"):
        self_check(Altered(tiny("llama"), "hook_pattern", scaled))


def test_a_layer_that_writes_nothing_is_not_an_ignored_edit(model_folder):
    from headscope.hooks.load import load

    model = load(model_folder("gpt2"))
    with torch.no_grad():
        for weight in model.blocks[1].attn.o.parameters():
            weight.zero_()
    assert self_check(model).pattern_edits


def test_damaged_logits_are_refused(model_folder):
    from headscope.hooks.load import load

    model = load(model_folder("llama"))
    with torch.no_grad():
        model.blocks[2].mlp.out.weight.fill_(float("nan"))
    with pytest.raises(NonFinite, match="damaged"):
        self_check(model)


def test_it_leaves_the_model_as_it_was(any_model):
    before = {key: value.clone() for key, value in any_model.original_model.state_dict().items()}
    self_check(any_model)
    assert all(
        torch.equal(before[key], value) for key, value in any_model.original_model.state_dict().items()
    )
