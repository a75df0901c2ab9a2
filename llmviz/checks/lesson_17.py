"""Self-checks of lesson 17: a cache in bytes, the largest batch, a speed behind three walls."""

from __future__ import annotations

from types import SimpleNamespace

from . import Exercise


def _config(layers, heads, key_value_heads, head_dim):
    return SimpleNamespace(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        hidden_size=heads * head_dim,
    )


def _cache_bytes(config, tokens, batch, itemsize):
    numbers = config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return 2 * numbers * itemsize * tokens * batch


def _any_cache(dice):
    fewer = dice.randint(1, 8)
    config = _config(dice.randint(1, 40), fewer * dice.randint(1, 4), fewer, dice.choice([8, 64]))
    return config, dice.randint(1, 2000), dice.randint(1, 9), dice.choice([1, 2, 4])


cache_bytes = Exercise(
    right=_cache_bytes,
    cases=[
        (_config(30, 9, 3, 64), 100, 1, 4),
        (_config(2, 4, 2, 8), 10, 3, 2),
        (_config(32, 32, 32, 128), 4096, 1, 2),
    ],
    drawn=_any_cache,
    mistakes={
        "It is half of that: a token leaves a key and a value.": lambda *case: (
            _cache_bytes(*case) // 2
        ),
        "Those are the query heads. The cache has key-value heads, which may be fewer.": (
            lambda config, *case: (
                _cache_bytes(config, *case)
                * config.num_attention_heads
                // config.num_key_value_heads
            )
        ),
        "One layer's cache is in it. Every layer has its own.": lambda config, *case: (
            _cache_bytes(config, *case) // config.num_hidden_layers
        ),
        "The batch is missing: every text has a cache of its own.": (
            lambda config, tokens, batch, itemsize: _cache_bytes(config, tokens, 1, itemsize)
        ),
        "These are numbers, not bytes: itemsize is missing.": (
            lambda config, tokens, batch, itemsize: _cache_bytes(config, tokens, batch, 1)
        ),
    },
    praise="Right. Beside its weights that model keeps 2.1 GB for one text of 4,096 tokens.",
)


def _largest_batch(memory, weight_bytes, bytes_per_token, tokens):
    return max(int((memory - weight_bytes) // (bytes_per_token * tokens)), 0)


largest_batch = Exercise(
    right=_largest_batch,
    cases=[
        (1_000, 400, 10, 7),
        (24_000_000_000, 538_060_032, 46_080, 1_000),
        (1_000, 400, 100, 3),
        (400, 1_000, 10, 7),
    ],
    drawn=lambda dice: (
        dice.randint(1_000, 9_000),
        dice.randint(100, 3_000),
        dice.randint(1, 20),
        dice.randint(1, 30),
    ),
    mistakes={
        "The weights need their place too, once.": lambda memory, weights, *case: _largest_batch(
            memory, 0, *case
        ),
        "The weights are counted for every text. They are there once for the whole batch.": (
            lambda memory, weights, per_token, tokens: int(memory // (weights + per_token * tokens))
        ),
        "The last text fits only in part: round down.": lambda memory, weights, per_token, tokens: (
            max(-int(-(memory - weights) // (per_token * tokens)), 0)
        ),
        "Where not even the weights fit, the answer is 0.": (
            lambda memory, weights, per_token, tokens: int(
                (memory - weights) // (per_token * tokens)
            )
        ),
        "That is how many tokens fit; a text has several.": (
            lambda memory, weights, per_token, tokens: max(int((memory - weights) // per_token), 0)
        ),
    },
    praise="Right. It counts full texts: while they are short, more would fit.",
)

_H200 = {"flops": 67e12, "bandwidth": 4.8e12, "launch": 5e-6}
_LAPTOP = {"flops": 1e12, "bandwidth": 90e9, "launch": 5e-7}
_MODEL = (268_959_744, 538_060_032)


def _seconds(batch, operations, weight_bytes, cache_bytes, kernels, machine):
    return (
        batch * operations / machine["flops"],
        (weight_bytes + batch * cache_bytes) / machine["bandwidth"],
        kernels * machine["launch"],
    )


def _speed(batch, *case):
    return batch / max(_seconds(batch, *case))


def _arithmetic_of_one(batch, operations, *case):
    return _speed(batch, operations / batch, *case)


def _weights_for_each(batch, operations, weight_bytes, *case):
    return _speed(batch, operations, batch * weight_bytes, *case)


def _one_cache(batch, operations, weight_bytes, cache_bytes, *case):
    return _speed(batch, operations, weight_bytes, cache_bytes / batch, *case)


def _launches_for_each(batch, operations, weight_bytes, cache_bytes, kernels, machine):
    return _speed(batch, operations, weight_bytes, cache_bytes, batch * kernels, machine)


def _any_speed(dice):
    """Each of the three is the slowest now and then."""
    machine = {"flops": dice.uniform(1, 9), "bandwidth": dice.uniform(1, 9), "launch": 1.0}
    return (*(dice.randint(1, 20) for _ in range(4)), dice.randint(1, 60), machine)


speed = Exercise(
    right=_speed,
    cases=[
        (1, *_MODEL, 4_608_000, 1_100, _H200),
        (1, *_MODEL, 4_608_000, 1_100, _LAPTOP),
        (64, *_MODEL, 4_608_000, 1_100, _LAPTOP),
        (2, *_MODEL, 368_640_000, 1, _LAPTOP),
        (64, *_MODEL, 4_608_000, 1_100, _H200),
    ],
    drawn=_any_speed,
    mistakes={
        "They go on side by side: the slowest of the three counts, not their sum.": (
            lambda batch, *case: batch / sum(_seconds(batch, *case))
        ),
        "That is the quickest of the three. A step waits for the slowest.": (
            lambda batch, *case: batch / min(_seconds(batch, *case))
        ),
        "That is the seconds of a step, not the tokens of a second.": lambda *case: max(
            _seconds(*case)
        ),
        "Those are steps a second. A step gives every text of the batch a token.": (
            lambda *case: 1 / max(_seconds(*case))
        ),
        "The arithmetic is done for every text of the batch.": _arithmetic_of_one,
        "The weights are read once for the whole batch, not for every text.": _weights_for_each,
        "Every text of the batch has a cache to be read.": _one_cache,
        "A kernel works on the whole batch: it is started once.": _launches_for_each,
    },
    praise="Right. 64 texts bring the H200 64 times the tokens here: it still waits for kernels.",
)
