"""What goes on inside a model: for now, the way from its last layer to its logits."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn


def final_norm(model) -> nn.Module:
    """What stands between the last layer and the language head: most often one norm.

    It is found by watching one token pass through the model, not by its name: it is what the
    decoder runs after the last of its layers. Called with the hidden states behind any layer,
    shape (…, width), it makes of them what the head reads; `hidden_states[-1]`, as transformers
    gives it, has already been through it.
    Raises ValueError for a model whose way from the last layer to the head is another.
    """
    decoder = model.get_decoder()
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    layers = {layer for stack in stacks for layer in stack}
    ran, head_input = [], []

    def watch(module, args, output):
        ran.append((module, output[0] if isinstance(output, (tuple, list)) else output))

    with ExitStack() as hooks, torch.no_grad():
        for module in [*layers, *(set(decoder.children()) - set(stacks))]:
            hooks.callback(module.register_forward_hook(watch).remove)
        head = model.get_output_embeddings()
        hooks.callback(
            head.register_forward_pre_hook(lambda _, args: head_input.append(args[0])).remove
        )
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
        last = max((i for i, (module, _) in enumerate(ran) if module in layers), default=None)
        if last is not None and head_input:
            parts = [module for module, _ in ran[last + 1 :]]
            norm = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
            if torch.allclose(norm(ran[last][1]).float(), head_input[0].float(), atol=1e-5):
                return norm
    raise ValueError(
        f"model is a {type(model).__name__}, whose way from the last layer to the language head "
        "is none that llmviz knows: a stack of layers, then norms and projections, then the head"
    )


def unembed(model, hidden: Tensor) -> Tensor:
    """The logits, shape (…, vocabulary), that the model makes of what its head reads.

    hidden: shape (…, width), of any number of dimensions, past the final norm:
        `hidden_states[-1]`, or `final_norm(model)(hidden_states[layer])` for an earlier layer.

    The model itself computes them, with its decoder replaced by one that returns `hidden`, so that
    scaled and capped logits (Granite, Cohere, Gemma 2) come out as its own. While this runs, no
    other thread may use the model.
    """
    flat = hidden.reshape(1, -1, hidden.shape[-1])
    decoder = model.get_decoder()
    nothing = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with patch.object(decoder, "forward", lambda *_, **__: _Output(flat)), torch.no_grad():
        logits = model(nothing, use_cache=False).logits
    return logits.reshape(*hidden.shape[:-1], -1)


class _Output(SimpleNamespace):
    """A decoder's output that holds a last hidden state, and None whatever else is asked."""

    def __init__(self, last_hidden_state: Tensor):
        super().__init__(last_hidden_state=last_hidden_state)

    def __getattr__(self, name: str):
        return None

    def __getitem__(self, index):
        return self.last_hidden_state if index == 0 else None
