"""A private copy of a model that shares its weights: to look inside without touching the model.

Hooks, another attention, a stand-in for one of its parts: whatever is done to a twin, no other
thread that runs the model can see it. A pass through it computes what a pass through the model
does, to the bit.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable
from types import MethodType

from torch import Tensor, nn

_PLAIN = {bool, int, float, str, type(None), Tensor, nn.Parameter}
_CONTAINERS = {dict, OrderedDict, list, tuple, set}
# transformers hangs hooks into a model when hidden states are first asked for. A twin made in the
# middle of that would have some of them: it starts with none, and gets them when it is asked.
_CAPTURE = "transformers.utils.output_capturing"
# What was compiled runs the model, not its twin.
_LEFT_OUT = {"_output_capturing_hooks_installed", "_compiled_call_impl", "_compiled_call"}


def twin(model: nn.Module, kept: Iterable[nn.Module] = ()) -> nn.Module:
    """A copy of the tree of modules, with the model's own parameters and buffers in it.

    kept: modules that the twin shares with the model, with all below them.

    Hooks are copied too, accelerate's for offloaded layers among them, and so are configurations.
    No weight is copied; it takes some milliseconds.
    """
    bare = getattr(model, "_orig_mod", model)  # of torch.compile
    return _copied(bare, {id(module): module for module in kept})


def is_changed_by_a_pass(model: nn.Module) -> bool:
    """Whether a pass writes into the model, so that two at a time would disturb each other.

    Offloaded layers fetch their weights for the pass, and some rotary embeddings set their
    frequencies by the length of the text.
    """
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        if any(getattr(h, "offload", False) for h in (hook, *getattr(hook, "hooks", ()))):
            return True
        kinds = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        if any("dynamic" in kind or kind == "longrope" for kind in kinds if kind):
            return True
    return False


def _copied(value, known: dict):
    """`value`, or its copy where it is, or holds, a part of the model; `known` by the part's id."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, nn.Module):
        return _copied_module(value, known)
    if kind in _CONTAINERS:
        if kind is tuple:
            return tuple([_copied(each, known) for each in value])
        # Filled afterwards, since it may hold itself.
        copy = known[id(value)] = kind()
        if not value:
            return copy
        if kind is list:
            copy.extend([_copied(each, known) for each in value])
        elif kind is set:
            copy.update([_copied(each, known) for each in list(value)])
        else:
            copy.update([(key, _copied(each, known)) for key, each in list(value.items())])
        return copy
    if kind is MethodType:
        return MethodType(value.__func__, _copied(value.__self__, known))
    if kind is functools.partial:
        copy = functools.partial(
            value.func, *_copied(value.args, known), **_copied(value.keywords, known)
        )
        copy.__dict__.update(_copied(value.__dict__, known))
        return copy
    if _has_state_of_the_pass(kind):
        copy = known[id(value)] = kind.__new__(kind)
        copy.__dict__.update(_copied(value.__dict__, known))
        return copy
    return value


def _copied_module(module: nn.Module, known: dict) -> nn.Module:
    copy = known[id(module)] = object.__new__(type(module))
    state = dict(module.__dict__)  # all at once: another thread may be adding to it
    for key, value in state.items():
        if key not in _LEFT_OUT:
            copy.__dict__[key] = value if type(value) in _PLAIN else _copied(value, known)
    hooks = copy._forward_hooks
    for number, hook in list(hooks.items()):
        if getattr(hook, "__module__", None) == _CAPTURE:
            del hooks[number]
    if "rope_type" in state:  # some of them write into their buffers
        for name, buffer in copy._buffers.items():
            copy._buffers[name] = None if buffer is None else buffer.clone()
    return copy


@functools.cache
def _has_state_of_the_pass(kind: type) -> bool:
    """Whether it is a configuration, or one of accelerate's hooks, which keep notes of a pass."""
    names = {f"{each.__module__}.{each.__name__}" for each in kind.__mro__}
    wanted = {"transformers.configuration_utils.PreTrainedConfig", "accelerate.hooks.ModelHook"}
    return not names.isdisjoint(wanted)
