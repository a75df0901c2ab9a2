"""A second device for machines without one: CPU tensors that claim to be elsewhere.

As on a GPU, they do not mix with tensors on the CPU, and come back by `.cpu()`. Used in a process
of its own, since the device is registered with torch for good:

    python -m tests.far_device OUTPUT.pt
"""

import copy
import sys

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests import tiny
from tests.everything import STRATEGIES, everything

# What may take tensors of both kinds: copies, and an index on the CPU for a tensor elsewhere.
MIXING = ("aten._to_copy.", "aten.copy_.", "aten.index.", "aten.index_put")


class Far(torch.Tensor):
    @staticmethod
    def __new__(cls, near):
        like = {"strides": near.stride(), "dtype": near.dtype, "device": "far:0"}
        far = torch.Tensor._make_wrapper_subclass(cls, near.size(), **like)
        far.near = near
        return far

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        return self.near.tolist()


def _run(func, args, kwargs):
    """Run on the CPU what would run on the device, unless a GPU would refuse."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    is_far = [isinstance(x, Far) for x in tensors]
    name, device = str(func), kwargs.get("device")
    if device is None:
        gives_far = is_far[0] if name.startswith("aten.copy_.") else any(is_far)
    else:
        gives_far = torch.device(device).type == "far"
        kwargs = {**kwargs, "device": "cpu"}
    # A number, which has no dimension, mixes with everything.
    mixed = any(is_far) and not all(f or x.ndim == 0 for f, x in zip(is_far, tensors, strict=True))
    may_mix = name.startswith(MIXING) and (is_far[0] or not name.startswith("aten.index"))
    if mixed and not may_mix:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}")

    def near(x):
        return x.near if isinstance(x, Far) else x

    given = {id(near(x)): x for x in tensors}  # what works in place gives back what it was given

    def outer(x):
        if not isinstance(x, torch.Tensor):
            return x
        return given.get(id(x)) if id(x) in given else Far(x) if gives_far else x

    return tree_map(outer, func(*tree_map(near, args), **tree_map(near, kwargs)))


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does with Python data on the device itself, where nothing could catch it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor:
            device = kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return made if device is None else made.to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            at = args[1] if isinstance(args[1], tuple) else (args[1],)
            at = tuple(torch.tensor(i, dtype=torch.long) if isinstance(i, list) else i for i in at)
            args = (args[0], at, *args[2:])
        return func(*args, **kwargs)


def carried_away(model):
    """A copy of `model` on the device."""
    model = copy.deepcopy(model).requires_grad_(False)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                far = torch.nn.Parameter(Far(parameter.data), requires_grad=False)
                module._parameters[name] = far
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Far(buffer)
    return model


# With layers of both kinds of attention; and one whose positions are learnt, for what may differ.
MODELS = {"gemma3_text": STRATEGIES, "gpt2": {"greedy": {}, "beams": STRATEGIES["beams"]}}


def main(output: str) -> None:
    _setup_privateuseone_for_python_backend("far")
    found = {}
    with _Dispatch(), _Functions():
        for architecture, strategies in MODELS.items():
            model = carried_away(tiny.model(architecture))
            try:
                model(torch.tensor([[1, 2, 3]]))
            except RuntimeError as error:
                assert "same device" in str(error)
            else:
                raise AssertionError("tokens on the CPU were taken by a model that is elsewhere")
            found[architecture] = everything(model, tiny.tokenizer(), strategies)
    torch.save(found, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
