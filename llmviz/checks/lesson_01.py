"""Self-checks of lesson 01: the head, tied weights, and the size of the cache."""

from __future__ import annotations

import torch

from . import Exercise, normal


def _head(hidden, weight):
    return hidden @ weight.T


head = Exercise(
    right=_head,
    # The square weight comes first: there a forgotten transpose raises nothing.
    cases=[
        (normal(1, 3, 4, seed=1), normal(4, 4, seed=2)),
        (normal(2, 3, 4, seed=3), normal(5, 4, seed=4)),
        (normal(4, 4, 4, seed=5), normal(4, 4, seed=6)),
    ],
    drawn=lambda dice: (
        normal(dice.randint(1, 3), dice.randint(1, 4), 5, seed=dice.getrandbits(32)),
        normal(dice.randint(2, 7), 5, seed=dice.getrandbits(32)),
    ),
    mistakes={
        "hidden met the columns of weight. A token's vector is a row, of shape (width,), and each "
        "position is to be multiplied with every row.": lambda h, w: h @ w,
        "These are probabilities. The head stops before the softmax: its scores may be negative, "
        "and add up to anything.": lambda h, w: _head(h, w).softmax(-1),
        "These are token ids, the winners already. The head returns the scores of all tokens.": (
            lambda h, w: _head(h, w).argmax(-1)
        ),
        "Only the last position was scored. The head scores every position, and leaves the choice "
        "of one to whoever calls it.": lambda h, w: _head(h, w)[:, -1],
        "Only the first text of the batch was scored: the batch dimension is gone.": (
            lambda h, w: _head(h, w)[0]
        ),
        "These are cosines: the vectors' lengths were divided out. A logit is the plain dot "
        "product, in which lengths count.": lambda h, w: torch.cosine_similarity(
            h[..., None, :], w, dim=-1
        ),
    },
    praise="Right: one matrix product, for every text, position and token at once.",
)


def _count_parameters(tensors):
    return sum({tensor.data_ptr(): tensor.numel() for tensor in tensors.values()}.values())


def _small(tensors):
    """The same names, each tied to the same others, with few numbers and memory of their own."""
    small = {x.data_ptr(): torch.rand([min(n, 3) for n in x.shape]) for x in tensors.values()}
    return {name: small[x.data_ptr()].detach() for name, x in tensors.items()}


def _state_dicts(model):
    embedding = normal(10, 4, seed=5)
    body = {
        "layers.0.weight": normal(4, 4, seed=6),
        "layers.1.weight": normal(4, 3, seed=7),
        "layers.2.weight": normal(4, 4, seed=8),
        # As norms are when training begins: equal numbers, each with a memory of its own.
        "layers.0.norm.weight": torch.ones(4),
        "layers.1.norm.weight": torch.ones(4),
    }
    tied = {"embed_tokens.weight": embedding, **body, "lm_head.weight": embedding.detach()}
    untied = tied | {"lm_head.weight": normal(10, 4, seed=9)}
    copied = tied | {"lm_head.weight": embedding.clone()}
    # Which matrices are tied differs from model to model, and so do their names.
    elsewhere = {
        "shared": embedding,
        "encoder": embedding.detach(),
        **body,
        "out": body["layers.1.weight"].detach(),
    }
    return [(tied,), (untied,), (copied,), (elsewhere,), (_small(model.state_dict()),)]


def _any_tensors(dice, model):
    kept = [normal(dice.randint(1, 4), 3, seed=i) for i in range(5)]
    kept += [kept[0].clone(), torch.zeros(3), torch.zeros(3)]
    tied = [dice.choice(kept).detach() for _ in range(3)]
    return ({f"layers.{i}.weight": x for i, x in enumerate(dice.sample(kept + tied, 11))},)


def _count_by_value(tensors):
    kept = []
    for tensor in tensors.values():
        if not any(torch.equal(tensor, other) for other in kept):
            kept.append(tensor)
    return sum(tensor.numel() for tensor in kept)


count_parameters = Exercise(
    right=_count_parameters,
    cases=_state_dicts,
    drawn=_any_tensors,
    mistakes={
        "The tied matrix was counted under both of its names. They are two tensor objects, but "
        "they begin at the same place in memory.": lambda t: sum(x.numel() for x in t.values()),
        "Tensors of the same shape were taken for one. Two layers have the same shapes, and "
        "different numbers.": lambda t: sum({x.shape: x.numel() for x in t.values()}.values()),
        "Tensors with equal numbers were taken for one. Two fresh norms are all ones, and still "
        "two: ask where the numbers are, not what they are.": _count_by_value,
        "The head was left out, and here it is not tied: it has a memory of its own, which "
        "counts.": lambda t: sum(x.numel() for name, x in t.items() if "lm_head" not in name),
        "Tensors were counted, not the numbers in them.": lambda t: len(
            {x.data_ptr() for x in t.values()}
        ),
        "Bytes were counted, not numbers: in float32 a number takes four.": lambda t: sum(
            {x.data_ptr(): x.nbytes for x in t.values()}.values()
        ),
    },
    praise="Right: a tensor counts once, however many names it has.",
)


def _bytes_per_token(config, bytes_per_number):
    per_layer = 2 * config.num_key_value_heads * config.head_dim
    return config.num_hidden_layers * per_layer * bytes_per_number


def _config(hidden_size, heads, key_value_heads, head_dim, layers):
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=hidden_size,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        num_hidden_layers=layers,
    )


def _configs(model):
    # head_dim · heads differs from hidden_size, as in Qwen3: no two mistakes give one number.
    crafted = _config(60, 6, 2, 24, 5)
    return [(crafted, 4), (crafted, 2), (model.config, 4)]


def _any_config(dice, model):
    fewer = dice.randint(1, 4)
    heads = fewer * dice.randint(1, 3)
    return (
        _config(heads * 8, heads, fewer, dice.choice([4, 8, 16]), dice.randint(1, 9)),
        dice.choice([1, 2, 4]),
    )


def _with_query_heads(c, size):
    return 2 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * size


cache_bytes_per_token = Exercise(
    right=_bytes_per_token,
    cases=_configs,
    drawn=_any_config,
    mistakes={
        "The query heads were counted. The cache keeps keys and values, and those have fewer heads "
        "here.": _with_query_heads,
        "Half is missing: a layer keeps keys and values, two tensors of the same shape.": (
            lambda c, size: _bytes_per_token(c, size) // 2
        ),
        "Two slips that hide one another: query heads where key-value heads belong, and only one "
        "of the layer's two tensors.": lambda c, size: _with_query_heads(c, size) // 2,
        "The whole width was counted. Keys and values are narrower than the hidden state: as wide "
        "as their heads together.": lambda c, size: 2 * c.num_hidden_layers * c.hidden_size * size,
        "That is one layer's share. Every layer has keys and values of its own.": (
            lambda c, size: _bytes_per_token(c, size) // c.num_hidden_layers
        ),
        "These are numbers, not bytes: each takes bytes_per_number.": (
            lambda c, size: _bytes_per_token(c, 1)
        ),
        "bytes_per_number=2 changed nothing: the 4 seems to be written into the function.": (
            lambda c, size: _bytes_per_token(c, 4)
        ),
        "A head's size is config.head_dim, which need not be hidden_size divided by the number of "
        "heads.": lambda c, size: (
            2
            * c.num_hidden_layers
            * c.num_key_value_heads
            * (c.hidden_size // c.num_attention_heads)
            * size
        ),
    },
    praise="Right: keys and values, in every layer, for the key-value heads only.",
)
