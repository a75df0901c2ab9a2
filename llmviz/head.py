"""A model's end: the final norm, and the head that turns what it gives into logits.

The parts are found by watching the model run, not by their names, and the model itself computes
the logits. Both happen on a private twin, so the model is never touched.
"""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .models import input_device
from .twin import twin

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The part of `model` between the last layer and the language head: most often one norm.

    It is found by watching one token pass through a twin of the model, not by its name: it is what
    the decoder runs after the last of its layers. Called with the hidden states after any layer,
    shape (batch, tokens, width), it makes of them what the head reads; `hidden_states[-1]`, as
    transformers gives it, has already been through it.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.

    Returns
    -------
    nn.Module
        A part of `model` itself, not of the twin.

    Raises
    ------
    ValueError
        For a model that does not end in layers, norm and head.
    """
    copy = twin(model)
    watch = Watch(copy)
    _run_one_token(copy)
    names = {module: name for name, module in copy.named_modules()}
    bare = getattr(model, "_orig_mod", model)
    return _in_sequence([bare.get_submodule(names[module]) for module in watch.parts()])


def unembed(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The logits, shape (…, vocabulary), that the model makes of what its head reads.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    hidden : Tensor
        Shape (…, width), of any number of dimensions, past the final norm: `hidden_states[-1]`, or
        `final_norm(model)(hidden_states[layer])` for an earlier layer.

    Returns
    -------
    Tensor
        Shape (…, vocabulary).

    Raises
    ------
    ValueError
        For a model that does not end in layers, norm and head.

    Notes
    -----
    The model itself computes them, on a twin whose decoder returns `hidden`, so that scaled and
    capped logits (Granite, Cohere, Gemma 2) come out as its own.
    """
    return Head(model).unembed(hidden)


class Head:
    """`final_norm` and `unembed` of one model, on a twin that is made once: for many calls.

    One thread at a time may use it.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        decoder = _decoder(model)
        # Only what is around the decoder: the layers in it are not run.
        self._end = twin(model, kept=decoder.children())
        self._given = given = _Output(None)
        _decoder(self._end).forward = lambda *_, **__: given
        self._nothing = torch.zeros(1, 1, dtype=torch.long, device=input_device(model))

    @cached_property
    def norm(self) -> nn.Module:
        copy = twin(self._model)
        watch = Watch(copy)
        _run_one_token(copy)
        return watch.norm()

    @torch.no_grad()
    def unembed(self, hidden: Tensor) -> Tensor:
        self._given.last_hidden_state = hidden.reshape(1, -1, hidden.shape[-1])
        logits = self._end(self._nothing, use_cache=False).logits
        return logits.reshape(*hidden.shape[:-1], -1)


class Watch:
    """What a decoder runs from its last layer on, and what its head is given, in one pass.

    copy: a twin, since hooks are hung into it; they go when the norm is asked for.
    """

    def __init__(self, copy: nn.Module):
        self._model, self._ran, self._head_input = copy, [], None
        decoder = _decoder(copy)
        stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
        self._layers = {layer for stack in stacks for layer in stack}
        others = set(decoder.children()) - set(stacks)
        self._hooks = [
            module.register_forward_hook(self._after, with_kwargs=True)
            for module in {*self._layers, *others}
        ]
        head = copy.get_output_embeddings()
        self._hooks.append(head.register_forward_pre_hook(self._before_the_head))

    def _after(self, module, args, kwargs, output) -> None:
        if module in self._layers:
            self._ran.clear()
        if module in self._layers or self._ran:
            output = output[0] if isinstance(output, (tuple, list)) else output
            self._ran.append((module, output, len(args) + len(kwargs)))

    def _before_the_head(self, module, args) -> None:
        self._head_input = args[0]

    @torch.no_grad()
    def parts(self) -> list[nn.Module]:
        """The modules between the last layer and the head, in order."""
        for hook in self._hooks:
            hook.remove()
        if self._ran and self._head_input is not None:
            (_, hidden, _), *after = self._ran
            parts, read = [module for module, _, _ in after], self._head_input
            if all(inputs == 1 for _, _, inputs in after):
                made = _in_sequence(parts)(hidden)[:, -read.shape[1] :].to(read.device)
                # A model whose weights hold NaN is looked at as any other.
                if torch.allclose(made.float(), read.float(), atol=1e-5, equal_nan=True):
                    return parts
        raise _not_supported(self._model)

    def norm(self) -> nn.Module:
        return _in_sequence(self.parts())


class _Output(SimpleNamespace):
    """A decoder's output that holds a last hidden state, and None whatever else is asked."""

    def __init__(self, last_hidden_state: Tensor | None):
        super().__init__(last_hidden_state=last_hidden_state)

    def __getattr__(self, name: str):
        return None

    def __getitem__(self, index):
        return self.last_hidden_state if index == 0 else None


def _decoder(model) -> nn.Module:
    """The part that ends in the hidden states which the head reads."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if decoder is model:  # Llama 4 does not say which part it is
        others = [child for child in model.children() if child is not head]
        decoder = others[0] if len(others) == 1 else model
    if decoder is model or head is None:
        raise _not_supported(model)
    return decoder


def _in_sequence(modules: list[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


@torch.no_grad()
def _run_one_token(model) -> None:
    model(torch.zeros(1, 1, dtype=torch.long, device=input_device(model)), use_cache=False)


def _not_supported(model) -> ValueError:
    return ValueError(
        f"model is a {type(model).__name__}, which does not end in layers, then norms and "
        "projections, then the head: the only form that the logit lens and DoLa can read"
    )
