"""What goes on inside a model: hidden states, attention, the logit lens, the KV cache.

Every function takes the model as it comes from `from_pretrained`, and looks at a private twin of
it, so that no other thread's pass is touched. The parts are found by watching the twin run, not by
their names. Tensors come back on the CPU, in float32.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import arguments
from .head import Head, Watch
from .head import final_norm as final_norm
from .head import unembed as unembed
from .models import check_model, context_size, input_device, vocab_size
from .recorder import rank_among
from .tables import Table
from .tokens import encode, token_id_of, token_labels
from .twin import twin

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The lens makes scores for as many (layer, token) pairs at a time as fit into this many numbers:
# 64 MB. From 32 MB up, glibc gives a block back as soon as it is free; smaller ones come to lie
# between results that stay, and memory grows with every part.
_MOST_SCORES = 2**24


class Labelled(NamedTuple):
    """A tensor, and the readable tokens along its axis of tokens."""

    tensor: Tensor
    labels: list[str]


def hidden_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    add_special_tokens: bool = True,
) -> Labelled:
    """The hidden state of each token after each layer.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model, or its body alone, as `AutoModel` loads it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    text : str
        The text to read.
    add_special_tokens : bool
        Whether the tokenizer may put a bos token in front of `text`; False for one that a chat
        template wrote, which begins with its own.

    Returns
    -------
    Labelled
        (tensor, labels): the tensor has the shape (layers + 1, tokens, width). Number 0 is the
        embedding, number n what the n-th layer made of it; the last one alone has been through the
        final norm too, and is the model's `last_hidden_state`.

    Raises
    ------
    TypeError, ValueError
        Before the model runs, for a text without tokens or too long for the model, and for a model
        that is not causal.
    ValueError
        Where a state is not finite.
    """
    input_ids = _input_ids(model, tokenizer, text, add_special_tokens)
    output = _run(twin(model), input_ids, output_hidden_states=True)
    states = _stacked(model, output.hidden_states, "hidden states")
    labels = token_labels(tokenizer, input_ids)
    _check_finite(model, states.isfinite().all(-1), labels, "hidden state after layer")
    return Labelled(states, labels)


def attentions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    add_special_tokens: bool = True,
) -> Labelled:
    """How much each token looks at each token before it, in each head of each layer.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model, or its body alone, as `AutoModel` loads it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    text : str
        The text to read.
    add_special_tokens : bool
        As in `hidden_states`.

    Returns
    -------
    Labelled
        (tensor, labels): the tensor has the shape (layers, heads, tokens, tokens). In [layer, head,
        i, j] stands the weight that token i, the query, gives to token j, the key; those of later
        tokens are 0. A query's weights add up to 1, or to less where the model has attention sinks
        (gpt-oss): a sink is no token, and has what is missing. A hybrid model's layers without
        attention are left out.

    Raises
    ------
    TypeError, ValueError
        As `hidden_states` does.
    ValueError
        For a model without attention, such as Mamba, or whose weights cannot be had.

    Notes
    -----
    transformers gives attention weights only where they are computed one by one, so this is done on
    a twin of the model whose attention is "eager".
    """
    input_ids = _input_ids(model, tokenizer, text, add_special_tokens)
    output = _run(_with_eager_attention(twin(model)), input_ids, output_attentions=True)
    weights = _of_attention(model, output, input_ids.shape[1])
    if not weights:
        raise ValueError(
            f"model is a {type(model).__name__}, which gave no attention weights: either it has "
            'no attention, or it must be loaded with attn_implementation="eager"'
        )
    weights = _stacked(model, [_all_heads(model, w) for w in weights], "attention weights")
    labels = token_labels(tokenizer, input_ids)
    _check_finite(model, weights.isfinite().all(-1).all(1), labels, "attention in layer")
    return Labelled(weights, labels)


@torch.no_grad()
def logit_lens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    top_k: int = 1,
    *,
    position: int | None = None,
    target: str | int | None = None,
    add_special_tokens: bool = True,
) -> Table:
    """What the model would say next if it ended after each of its layers.

    The hidden states of every layer go through the model's own final norm and language head. The
    rows of the last layer are the model's own prediction.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    text : str
        The text to read.
    top_k : int
        How many of the most likely tokens to list for each layer and token.
    position : int | None
        The number of the only token to look at, where -1 is the last; by default all of them are,
        which is much more work: a text of n tokens has n times as many predictions.
    target : str | int | None
        A token to follow, as a text that is one token, or its id.
    add_special_tokens : bool
        As in `hidden_states`.

    Returns
    -------
    Table
        A Table with a row per layer, token and rank. Columns: layer (0 is the embedding), position,
        token (the one read there), rank (1 + how many tokens have a higher logit; of equals the
        lowest id stands first), token_id and prediction (what would come next), logit,
        log_prob, probability, entropy (of the whole prediction, in bits); with a target, also
        target_rank (1 + how many tokens have a higher logit) and target_probability.

    Raises
    ------
    TypeError, ValueError
        Before the model runs, for an argument out of bounds, a text without tokens or too long for
        the model, and a model that is not causal.
    ValueError
        For one that does not end in layers, norm and head, and where a layer's logits hold NaN or
        +inf.

    Notes
    -----
    nostalgebraist, 2020, "interpreting GPT: the logit lens".
    """
    check_model(model)
    vocabulary = model.config.get_text_config().vocab_size
    top_k = arguments.whole("top_k", top_k, 1, vocabulary)
    if target is not None:
        target = token_id_of(tokenizer, target, vocabulary, name="target")
    input_ids = _input_ids(model, tokenizer, text, add_special_tokens)
    tokens = input_ids.shape[1]
    positions = list(range(tokens))
    if position is not None:
        positions = [arguments.whole("position", position, -tokens, tokens - 1) % tokens]

    copy, head = twin(model), Head(model)
    watch = Watch(copy)
    states = _run(copy, input_ids, output_hidden_states=True).hidden_states
    norm = watch.norm()
    # All hidden states but the last lack the final norm.
    ready = [norm(state[:, positions]).to(states[-1].device) for state in states[:-1]]
    ready = torch.cat([*ready, states[-1][:, positions]]).flatten(0, 1)
    rows = max(_MOST_SCORES // vocabulary, 1)
    parts = [_read_off(head.unembed(part), top_k, target) for part in ready.split(rows)]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    places = [(layer, p) for layer in range(len(states)) for p in positions]
    labels = token_labels(tokenizer, input_ids)
    finite = found["highest"].isfinite().view(len(states), -1)
    _check_finite(model, finite, [labels[p] for p in positions], "logits after layer")
    each = [i for i in range(len(places)) for _ in range(top_k)]
    table = {
        "layer": [places[i][0] for i in each],
        "position": [places[i][1] for i in each],
        "token": [labels[places[i][1]] for i in each],
        "rank": found["ranks"].flatten().tolist(),
        "token_id": found["ids"].flatten().tolist(),
        "prediction": token_labels(tokenizer, found["ids"]),
        "logit": found["logits"].flatten().tolist(),
        "log_prob": found["log_probs"].flatten().tolist(),
        "probability": found["log_probs"].double().exp().flatten().tolist(),
        "entropy": found["entropy"][each].tolist(),
    }
    if target is not None:
        table["target_rank"] = found["target_rank"][each].tolist()
        table["target_probability"] = found["target_log_prob"].double().exp()[each].tolist()
    return Table(table)


def kv_cache(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    add_special_tokens: bool = True,
) -> Table:
    """What the model remembers of `text`, layer by layer.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model, or its body alone, as `AutoModel` loads it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    text : str
        The text to read.
    add_special_tokens : bool
        As in `hidden_states`.

    Returns
    -------
    Table
        A Table with a row per layer. Columns: layer; kind, the transformers class that keeps it; a
        column with the shape of each tensor in it, such as keys and values, of shape (batch,
        key-value heads, tokens, head size); bytes; bytes_per_token, by how much it grew when one
        more token was read: 0 for a state-space layer, or a sliding window that is full. Under
        tensor parallelism it is what this process keeps: some of the heads.

    Raises
    ------
    TypeError, ValueError
        As `hidden_states` does.
    ValueError
        For a model without a cache, or whose cache is not one of transformers'.
    """
    input_ids = _input_ids(model, tokenizer, text, add_special_tokens, more=1)
    copy = twin(model)
    output = _run(copy, input_ids, use_cache=True)
    name = "cache_params" if "cache_params" in output else "past_key_values"
    cache = output.get(name)
    if not hasattr(cache, "layers"):
        raise ValueError(
            f"model is a {type(model).__name__}, which keeps no cache of its layers"
            if cache is None
            else f"model is a {type(model).__name__}, whose {name} is a {type(cache).__name__}, "
            "not a transformers Cache: its layers cannot be read"
        )
    before = [_tensors(layer) for layer in cache.layers]
    rows = [
        {"layer": n, "kind": type(layer).__name__}
        | {key: str(tuple(tensor.shape)) for key, tensor in tensors.items()}
        | {"bytes": sum(tensor.nbytes for tensor in tensors.values())}
        for n, (layer, tensors) in enumerate(zip(cache.layers, before, strict=True))
    ]
    _run(copy, input_ids[:, -1:], use_cache=True, **{name: cache})
    for row, layer in zip(rows, cache.layers, strict=True):
        grown = sum(tensor.nbytes for tensor in _tensors(layer).values())
        row["bytes_per_token"] = grown - row["bytes"]
    names = dict.fromkeys(key for row in rows for key in row if not key.startswith("bytes"))
    return Table(rows, columns=[*names, "bytes", "bytes_per_token"])


def _input_ids(model, tokenizer, text: str, add_special_tokens: bool, more: int = 0) -> Tensor:
    """The tokens of `text`, shape (1, tokens), where the model can read them and `more`."""
    check_model(model, needs_head=False)
    input_ids = encode(
        tokenizer,
        arguments.text("text", text),
        name="text",
        add_special_tokens=add_special_tokens,
        vocab_size=vocab_size(model),
    )[0]
    context, tokens = context_size(model), input_ids.shape[1]
    if context is not None and tokens + more > context:
        raise ValueError(
            f"text has {tokens} tokens, and the model's context holds {context - more}: shorten it"
        )
    return input_ids


def _check_finite(model, finite: Tensor, labels: list[str], what: str) -> None:
    """Raise ValueError where `finite`, shape (layers, tokens), is False; number 0 is the first."""
    if not finite.all():
        layer, token = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"model gives NaN or an infinity: {what} {layer}, at token {labels[token]}; check its "
            "weights and its dtype (float16 overflows: load it with dtype=torch.float32)"
        )


def _run(model, input_ids: Tensor, **wanted):
    """The model's output, with no more computed than is wanted."""
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in (("use_cache", False), ("logits_to_keep", 1)) if k in accepts}
    with torch.no_grad():
        return model(input_ids.to(input_device(model)), **frugal | wanted)


def _stacked(model, layers, what: str) -> Tensor:
    """A tensor per layer, each of shape (1, …), as one on the CPU."""
    shapes = list(dict.fromkeys(tuple(layer.shape) for layer in layers))
    if len(shapes) != 1:
        raise ValueError(
            f"model is a {type(model).__name__}, whose layers give {what} of different shapes, "
            f"{shapes!r:.200}: they cannot be put into one tensor"
        )
    return torch.cat([layer.float().cpu() for layer in layers])


def _of_attention(model, output, tokens: int) -> list[Tensor]:
    """The weights that are of attention: some layers put their running state in their place."""
    layers = getattr(output, "attentions", None) or ()
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if len(kinds) != len(layers):
        kinds = [None] * len(layers)
    return [
        weights
        for kind, weights in zip(kinds, layers, strict=True)
        if kind != "linear_attention"
        and weights is not None
        and weights.ndim == 4
        and weights.shape[-2:] == (tokens, tokens)
    ]


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
    # Of equals the lowest id stands first, which argmax takes.
    ids = logits.topk(top_k).indices.sort(-1).values
    highest, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(-1, order)
    found = {
        "ids": ids,
        "ranks": rank_among(highest),
        "logits": highest,
        "log_probs": log_probs.gather(-1, ids),
        "highest": logits.amax(-1),
        # Of −inf, 0 · −inf is left out; and what rounds to less than 0 is 0, not −0.
        "entropy": (log_probs.exp().mul_(log_probs).nansum(-1) / -math.log(2)).clamp(min=0) + 0.0,
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


def _with_eager_attention(copy):
    """`copy`, a twin, so set that it computes attention step by step."""
    for module in copy.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            config._attn_implementation_internal = "eager"
    return copy
