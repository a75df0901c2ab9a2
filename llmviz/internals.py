"""What goes on inside a model: hidden states, attention, the logit lens, the KV cache.

Every function takes the model as it comes from `from_pretrained`, and leaves it as it was. The
parts are found by watching the model run, not by their names. Tensors come back on the CPU, in
float32.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import LongTensor, Tensor, nn

from .models import check_model, context_size, input_device
from .tables import Table
from .tokens import encode, token_id_of, token_labels

# The lens makes scores for as many (layer, token) pairs at a time as fit into this many numbers:
# 64 MB. From 32 MB up, glibc gives a block back as soon as it is free; smaller ones come to lie
# between results that stay, and memory grows with every part.
_MOST_SCORES = 2**24


class Labelled(NamedTuple):
    """A tensor, and the readable tokens along its axis of tokens."""

    tensor: Tensor
    labels: list[str]


def hidden_states(model, tokenizer, text: str) -> Labelled:
    """The hidden state of each token behind each layer.

    Returns (tensor, labels): the tensor has the shape (layers + 1, tokens, width). Number 0 is
    the embedding, number n what the n-th layer made of it; the last one alone has been through
    the final norm too, and is the model's `last_hidden_state`.
    Raises TypeError or ValueError for a text or a model that has none.
    """
    input_ids = _input_ids(model, tokenizer, text)
    states = _run(model, input_ids, output_hidden_states=True).hidden_states
    return Labelled(_stacked(states), token_labels(tokenizer, input_ids))


def attentions(model, tokenizer, text: str) -> Labelled:
    """How much each token looks at each token before it, in each head of each layer.

    Returns (tensor, labels): the tensor has the shape (layers, heads, tokens, tokens). In
    [layer, head, i, j] stands the weight that token i, the query, gives to token j, the key; a
    query's weights add up to 1, and those of later tokens are 0. A hybrid model's layers without
    attention are left out.

    transformers gives attention weights only where they are computed one by one, so the model's
    attention is switched to "eager" for this call. While it runs, no other thread may use the
    model.
    Raises TypeError or ValueError for a text that has no tokens, and for a model without
    attention, such as Mamba, or whose weights cannot be had.
    """
    input_ids = _input_ids(model, tokenizer, text)
    with _eager_attention(model):
        output = _run(model, input_ids, output_attentions=True)
    weights = [w for w in getattr(output, "attentions", None) or () if w is not None]
    if not weights:
        raise ValueError(
            f"model is a {type(model).__name__}, which gave no attention weights: either it has "
            'no attention, or it must be loaded with attn_implementation="eager"'
        )
    weights = _stacked([_all_heads(model, w) for w in weights])
    return Labelled(weights, token_labels(tokenizer, input_ids))


@torch.no_grad()
def logit_lens(
    model,
    tokenizer,
    text: str,
    top_k: int = 1,
    *,
    position: int | None = None,
    target: str | int | None = None,
) -> Table:
    """What the model would say next if it ended after each of its layers.

    The hidden states of every layer go through the model's own final norm and language head. The
    rows of the last layer are the model's own prediction.

    top_k: how many of the likeliest tokens to list for each layer and token.
    position: of the only token to look at, where -1 is the last; by default all of them. That is
        much less work: a text of n tokens has n times as many predictions.
    target: a token to follow, as a text that is one token, or its id.

    Returns a Table with a row a layer, token and rank. Columns: layer (0 is the embedding),
    position, token (the one read there), rank, token_id and prediction (what would come next),
    logit, log_prob, probability, entropy (of the whole prediction, in bits); with a target, also
    target_rank and target_probability.
    Raises TypeError or ValueError for an argument out of bounds.
    nostalgebraist, 2020, "interpreting GPT: the logit lens".
    """
    input_ids = _input_ids(model, tokenizer, text)
    tokens, vocabulary = input_ids.shape[1], model.config.get_text_config().vocab_size
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= vocabulary:
        raise ValueError(
            f"top_k={top_k!r}: it must be a whole number from 1 to the vocabulary's {vocabulary}"
        )
    if position is None:
        positions = range(tokens)
    elif isinstance(position, int) and -tokens <= position < tokens:
        positions = [position % tokens]
    else:
        raise ValueError(f"position={position!r}: the text has tokens 0 to {tokens - 1}")
    target_id = None
    if target is not None:
        target_id = token_id_of(tokenizer, target, vocabulary, name="target")

    with _watched(model) as way:
        states = _run(model, input_ids, output_hidden_states=True).hidden_states
    norm, picked = way.final_norm(), list(positions)
    # All hidden states but the last lack the final norm.
    ready = [norm(state[:, picked]).to(states[-1].device) for state in states[:-1]]
    ready = torch.cat([*ready, states[-1][:, picked]]).flatten(0, 1)
    rows = max(_MOST_SCORES // vocabulary, 1)
    parts = [_read_off(unembed(model, part), top_k, target_id) for part in ready.split(rows)]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    places = [(layer, p) for layer in range(len(states)) for p in picked]
    labels = token_labels(tokenizer, input_ids)
    each = [i for i in range(len(places)) for _ in range(top_k)]
    table = {
        "layer": [places[i][0] for i in each],
        "position": [places[i][1] for i in each],
        "token": [labels[places[i][1]] for i in each],
        "rank": list(range(1, top_k + 1)) * len(places),
        "token_id": found["ids"].flatten().tolist(),
        "prediction": token_labels(tokenizer, found["ids"]),
        "logit": found["logits"].flatten().tolist(),
        "log_prob": found["log_probs"].flatten().tolist(),
        "probability": found["log_probs"].double().exp().flatten().tolist(),
        "entropy": found["entropy"][each].tolist(),
    }
    if target_id is not None:
        table["target_rank"] = found["target_rank"][each].tolist()
        table["target_probability"] = found["target_log_prob"].double().exp()[each].tolist()
    return Table(table)


def kv_cache(model, tokenizer, text: str) -> Table:
    """What the model remembers of `text`, layer by layer.

    Returns a Table with a row a layer. Columns: layer; kind, the transformers class that keeps it;
    a column with the shape of each tensor in it, such as keys and values, of shape (batch,
    key-value heads, tokens, head size); bytes; bytes_per_token, by how much it grew when one more
    token was read: 0 for a state-space layer, or a sliding window that is full. Under tensor
    parallelism it is what this process keeps: some of the heads.
    Raises TypeError or ValueError for a text that has no tokens, and for a model without a cache.
    """
    input_ids = _input_ids(model, tokenizer, text, more=1)
    output = _run(model, input_ids, use_cache=True)
    name = "cache_params" if "cache_params" in output else "past_key_values"
    cache = output.get(name)
    if not hasattr(cache, "layers"):
        raise ValueError(f"model is a {type(model).__name__}, which keeps no cache of its layers")
    before = [_tensors(layer) for layer in cache.layers]
    rows = [
        {"layer": n, "kind": type(layer).__name__}
        | {key: str(tuple(tensor.shape)) for key, tensor in tensors.items()}
        | {"bytes": sum(tensor.nbytes for tensor in tensors.values())}
        for n, (layer, tensors) in enumerate(zip(cache.layers, before, strict=True))
    ]
    _run(model, input_ids[:, -1:], use_cache=True, **{name: cache})
    for row, layer in zip(rows, cache.layers, strict=True):
        grown = sum(tensor.nbytes for tensor in _tensors(layer).values())
        row["bytes_per_token"] = grown - row["bytes"]
    names = dict.fromkeys(key for row in rows for key in row if not key.startswith("bytes"))
    return Table(rows, columns=[*names, "bytes", "bytes_per_token"])


def final_norm(model) -> nn.Module:
    """What stands between the last layer and the language head: most often one norm.

    It is found by watching one token pass through the model, not by its name: it is what the
    decoder runs after the last of its layers. Called with the hidden states behind any layer,
    shape (batch, tokens, width), it makes of them what the head reads; `hidden_states[-1]`, as
    transformers gives it, has already been through it.
    Raises ValueError for a model whose way from the last layer to the head is another.
    """
    with _watched(model) as way:
        _run(model, torch.zeros(1, 1, dtype=torch.long))
    return way.final_norm()


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
    nothing = torch.zeros(1, 1, dtype=torch.long, device=input_device(model))
    with patch.object(decoder, "forward", lambda *_, **__: _Output(flat)), torch.no_grad():
        logits = model(nothing, use_cache=False).logits
    return logits.reshape(*hidden.shape[:-1], -1)


def _input_ids(model, tokenizer, text: str, more: int = 0) -> LongTensor:
    """The tokens of `text`, shape (1, tokens), where the model can read them and `more`."""
    check_model(model)
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {type(text).__name__}: {text!r:.60}")
    input_ids = encode(tokenizer, text, name="text")[0]
    context, tokens = context_size(model), input_ids.shape[1]
    if context is not None and tokens + more > context:
        raise ValueError(
            f"text has {tokens} tokens, and the model's context holds {context - more}: shorten it"
        )
    return input_ids


def _run(model, input_ids: LongTensor, **wanted):
    """The model's output, with no more computed than is wanted."""
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in (("use_cache", False), ("logits_to_keep", 1)) if k in accepts}
    with torch.no_grad():
        return model(input_ids.to(input_device(model)), **frugal | wanted)


def _stacked(layers) -> Tensor:
    """A tensor a layer, each of shape (1, …), as one on the CPU."""
    return torch.cat([layer.float().cpu() for layer in layers])


def _all_heads(model, weights: Tensor) -> Tensor:
    """A layer's attention weights, shape (1, heads, …), of all heads: under tensor parallelism each
    process computes some of them."""
    if not model.tp_size or weights.shape[1] == model.config.get_text_config().num_attention_heads:
        return weights
    mesh = next(p.device_mesh for p in model.parameters() if hasattr(p, "device_mesh"))
    parts = [torch.empty_like(weights) for _ in range(model.tp_size)]
    torch.distributed.all_gather(parts, weights.contiguous(), group=mesh.get_group())
    return torch.cat(parts, dim=1)


def _read_off(logits: Tensor, top_k: int, target_id: int | None) -> dict[str, Tensor]:
    """What the lens tells of logits of shape (rows, vocabulary), on the CPU."""
    logits = logits.float()
    log_probs = logits.log_softmax(-1)
    ids = logits.topk(top_k).indices
    found = {
        "ids": ids,
        "logits": logits.gather(-1, ids),
        "log_probs": log_probs.gather(-1, ids),
        "entropy": -log_probs.exp().mul_(log_probs).nansum(-1) / math.log(2),
    }
    if target_id is not None:
        target = logits[:, target_id, None]
        found["target_rank"] = 1 + (logits > target).sum(-1)
        found["target_log_prob"] = log_probs[:, target_id]
    return {name: tensor.cpu() for name, tensor in found.items()}


def _tensors(layer) -> dict[str, Tensor]:
    """The tensors that a layer of a cache holds; a state-space layer has lists of them."""
    found = {}
    for name, value in vars(layer).items():
        listed = value if isinstance(value, dict) else {0: value}
        for number, tensor in listed.items():
            if isinstance(tensor, Tensor) and not name.startswith("_"):
                found[f"{name}_{number}" if number else name] = tensor
    return found


@contextmanager
def _eager_attention(model) -> Iterator[None]:
    """Have the model compute attention step by step, and as before when the block is left."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    with ExitStack() as changes:
        for config in configs.values():
            if hasattr(config, "_attn_implementation_internal"):
                # Not through its setter, which would write to the nested ones, and leave them so.
                changes.enter_context(
                    patch.object(config, "_attn_implementation_internal", "eager")
                )
        yield


class _Way:
    """What a decoder ran from its last layer on, and what its head was given."""

    def __init__(self, model):
        self.model, self.ran, self.head_input = model, [], None

    def final_norm(self) -> nn.Module:
        if self.ran and self.head_input is not None:
            (_, hidden), *parts = self.ran
            norm = parts[0][0] if len(parts) == 1 else nn.Sequential(*(m for m, _ in parts))
            read = self.head_input
            with torch.no_grad():
                made = norm(hidden)[:, -read.shape[1] :].to(read.device)
            if torch.allclose(made.float(), read.float(), atol=1e-5):
                return norm
        raise ValueError(
            f"model is a {type(self.model).__name__}, whose way from the last layer to the "
            "language head is none that llmviz knows: a stack of layers, then norms and "
            "projections, then the head"
        )


@contextmanager
def _watched(model) -> Iterator[_Way]:
    """Watch the model run, once, within the block."""
    decoder, way = model.get_decoder(), _Way(model)
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    layers = {layer for stack in stacks for layer in stack}

    def ran(module, args, output):
        if module in layers:
            way.ran.clear()
        if module in layers or way.ran:
            way.ran.append((module, output[0] if isinstance(output, (tuple, list)) else output))

    def head(module, args):
        way.head_input = args[0]

    with ExitStack() as hooks:
        for module in [*layers, *(set(decoder.children()) - set(stacks))]:
            hooks.callback(module.register_forward_hook(ran).remove)
        hooks.callback(model.get_output_embeddings().register_forward_pre_hook(head).remove)
        yield way


class _Output(SimpleNamespace):
    """A decoder's output that holds a last hidden state, and None whatever else is asked."""

    def __init__(self, last_hidden_state: Tensor):
        super().__init__(last_hidden_state=last_hidden_state)

    def __getattr__(self, name: str):
        return None

    def __getitem__(self, index):
        return self.last_hidden_state if index == 0 else None
