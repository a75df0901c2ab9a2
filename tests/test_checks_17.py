"""Lesson 17's self-checks know the right answers, and name the usual wrong ones."""

import math

import pytest

import llmviz as lv
from llmviz.checks import lesson_17
from tests import tiny
from tests.checks import shared_tests


def right_cache_bytes(config, tokens, batch, itemsize):
    width = config.num_key_value_heads * config.head_dim
    return sum(2 * width * tokens * batch * itemsize for _ in range(config.num_hidden_layers))


def right_largest_batch(memory, weight_bytes, bytes_per_token, tokens):
    batch = 0
    while weight_bytes + (batch + 1) * tokens * bytes_per_token <= memory:
        batch += 1
    return batch


def right_speed(batch, operations, weight_bytes, cache_bytes, kernels, machine):
    arithmetic = batch * operations / machine["flops"]
    memory = (weight_bytes + batch * cache_bytes) / machine["bandwidth"]
    launches = kernels * machine["launch"]
    return min(batch / arithmetic, batch / memory, batch / launches)


RIGHT = {
    "cache_bytes": right_cache_bytes,
    "largest_batch": right_largest_batch,
    "speed": right_speed,
}


def test_the_cache_is_as_large_as_the_real_one():
    model, text = tiny.model("llama"), "the cat"
    table = lv.kv_cache(model, tiny.tokenizer(), text)
    tokens = len(lv.token_table(tiny.tokenizer(), text))
    assert lesson_17.cache_bytes.right(model.config, tokens, 1, 4) == table["bytes"].sum()


def test_the_praise_of_the_cache_is_true():
    case = lesson_17.cache_bytes.cases[-1]
    assert f"{right_cache_bytes(*case) / 1e9:.1f} GB" in lesson_17.cache_bytes.praise


def test_the_praise_of_the_speed_is_true():
    one, many = lesson_17.speed.cases[0], lesson_17.speed.cases[-1]
    assert many == (64, *one[1:])
    assert right_speed(*many) == pytest.approx(64 * right_speed(*one))


def cache_of(layers="num_hidden_layers", heads="num_key_value_heads", head="head_dim", both=2):
    def attempt(config, tokens, batch, itemsize):
        numbers = getattr(config, layers, 1) * getattr(config, heads) * getattr(config, head)
        return both * numbers * tokens * batch * itemsize

    return attempt


def speed_of(
    operations=lambda b: b, weights=lambda b: 1, caches=lambda b: b, kernels=lambda b: 1, of=max
):
    def attempt(batch, ops, weight_bytes, cache_bytes, count, machine):
        read = weights(batch) * weight_bytes + caches(batch) * cache_bytes
        arithmetic = operations(batch) * ops / machine["flops"]
        launches = kernels(batch) * count * machine["launch"]
        return batch / of([arithmetic, read / machine["bandwidth"], launches])

    return attempt


WRONG = [
    ("cache_bytes", cache_of(both=1), "half of that"),
    ("cache_bytes", cache_of(heads="num_attention_heads"), "query heads"),
    ("cache_bytes", cache_of(layers="none"), "One layer's"),
    ("cache_bytes", lambda c, tokens, b, size: right_cache_bytes(c, tokens, 1, size), "batch"),
    ("cache_bytes", lambda c, tokens, b, size: right_cache_bytes(c, tokens, b, 1), "not bytes"),
    ("largest_batch", lambda m, w, per, n: m // (per * n), "need their place"),
    ("largest_batch", lambda m, w, per, n: m // (w + per * n), "for every text"),
    ("largest_batch", lambda m, w, per, n: max(math.ceil((m - w) / (per * n)), 0), "round down"),
    ("largest_batch", lambda m, w, per, n: (m - w) // (per * n), "answer is 0"),
    ("largest_batch", lambda m, w, per, n: max((m - w) // per, 0), "how many tokens"),
    ("speed", speed_of(of=sum), "side by side"),
    ("speed", speed_of(of=min), "quickest"),
    ("speed", lambda batch, *case: batch / right_speed(batch, *case), "the seconds of a step"),
    ("speed", lambda batch, *case: right_speed(batch, *case) / batch, "steps a second"),
    ("speed", speed_of(operations=lambda b: 1), "The arithmetic is done"),
    ("speed", speed_of(weights=lambda b: b), "read once"),
    ("speed", speed_of(caches=lambda b: 1), "has a cache to be read"),
    ("speed", speed_of(kernels=lambda b: b), "started once"),
]

WILD = [
    ("cache_bytes", lambda config, *_: config.n_layer, "raised AttributeError"),
    ("cache_bytes", lambda *_: 7, "and is 7."),
    ("largest_batch", lambda *_: 5.5, "and is 5.5."),
    ("speed", lambda *_: "bandwidth", "and is 'bandwidth'."),
    ("speed", lambda *case: case[-1]["speed"], "raised KeyError"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_17, RIGHT, WRONG, WILD
)
