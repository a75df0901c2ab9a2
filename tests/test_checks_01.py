"""Lesson 01's self-checks know the right answers, and name the usual wrong ones."""

import pytest
import torch

from llmviz.checks import lesson_01
from tests import tiny
from tests.checks import shared_tests


@pytest.fixture(scope="module")
def model():
    """Grouped, like the course's model: 4 query heads, 2 key-value heads."""
    return tiny.model("llama")


def right_head(hidden, weight):
    return torch.einsum("btw,vw->btv", hidden, weight)


def right_count(tensors):
    seen, total = set(), 0
    for tensor in tensors.values():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            total += tensor.numel()
    return total


def right_bytes(config, bytes_per_number):
    one = config.num_key_value_heads * config.head_dim * bytes_per_number
    return config.num_hidden_layers * (one + one)


RIGHT = {
    "head": right_head,
    "count_parameters": right_count,
    "cache_bytes_per_token": right_bytes,
}


def test_the_functions_of_pytorch_and_transformers_count_the_same(model):
    assert right_count(model.state_dict()) == model.num_parameters()
    assert right_count(model.state_dict()) == sum(p.numel() for p in model.parameters())


def test_the_bytes_are_those_of_a_real_cache(model):
    cache = model(torch.arange(7)[None]).past_key_values
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert right_bytes(model.config, 4) * 7 == measured


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def tensors_by_id(tensors):
    return sum(t.numel() for t in {id(t): t for t in tensors.values()}.values())


def bytes_with(config, heads, size, tensors=2, layers=None, width=None):
    layers = config.num_hidden_layers if layers is None else layers
    return tensors * layers * heads * (config.head_dim if width is None else width) * size


WRONG = [
    ("head", lambda h, w: torch.matmul(h, w), "columns of weight"),
    ("head", lambda h, w: torch.softmax(h @ w.T, dim=-1), "probabilities"),
    ("head", lambda h, w: (h @ w.T).max(-1).indices, "token ids"),
    ("head", lambda h, w: h[:, -1] @ w.T, "last position"),
    ("head", lambda h, w: h[0] @ w.T, "first text"),
    ("head", lambda h, w: unit(h) @ unit(w).T, "cosines"),
    ("count_parameters", tensors_by_id, "both of its names"),
    ("count_parameters", lambda t: sum(x.numel() for x in set(t.values())), "both of its names"),
    (
        "count_parameters",
        lambda t: sum(shape.numel() for shape in {x.shape for x in t.values()}),
        "same shape",
    ),
    (
        "count_parameters",
        lambda t: sum(len(key) for key in {tuple(x.flatten().tolist()) for x in t.values()}),
        "equal numbers",
    ),
    (
        "count_parameters",
        lambda t: sum(x.numel() for n, x in t.items() if n != "lm_head.weight"),
        "left out",
    ),
    ("count_parameters", lambda t: len({x.data_ptr() for x in t.values()}), "not the numbers"),
    ("count_parameters", lambda t: 4 * right_count(t), "Bytes"),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, c.num_attention_heads, size),
        "query heads were counted",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, c.num_key_value_heads, size, tensors=1),
        "Half is missing",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, c.num_attention_heads, size, tensors=1),
        "Two slips",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, 1, size, width=c.hidden_size),
        "whole width",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, c.num_key_value_heads, size, layers=1),
        "one layer's share",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, c.num_key_value_heads, 1),
        "numbers, not bytes",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(c, c.num_key_value_heads, 4),
        "changed nothing",
    ),
    (
        "cache_bytes_per_token",
        lambda c, size: bytes_with(
            c, c.num_key_value_heads, size, width=c.hidden_size // c.num_attention_heads
        ),
        "config.head_dim",
    ),
]

WILD = [
    ("head", lambda h, w: h[..., :3], "The shape should be (1, 3, 4), and is (1, 3, 3)."),
    ("head", lambda h, w: 7, "A tensor of shape (1, 3, 4) was wanted, not a int."),
    ("head", lambda h, w: w @ h, "raised RuntimeError"),
    ("count_parameters", lambda t: 12, "and is 12."),
    ("count_parameters", lambda t: t.numel(), "raised AttributeError"),
    ("cache_bytes_per_token", lambda c, size: -1, "should be 1920, and is -1."),
]
CONTEXT = {"count_parameters": ["model"], "cache_bytes_per_token": ["model"]}

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_01, RIGHT, WRONG, WILD, context=CONTEXT
)
