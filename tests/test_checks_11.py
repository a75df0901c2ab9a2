"""Lesson 11's self-checks know the right answers, and name the usual wrong ones."""

import copy
from types import SimpleNamespace

import pytest
import torch

from llmviz.checks import lesson_11
from tests import tiny
from tests.checks import shared_tests


class Words:
    """A tokenizer with an id for each word of a text, as far as the check needs one."""

    def __call__(self, text, return_tensors):
        return SimpleNamespace(input_ids=torch.arange(3, 3 + len(text.split()))[None])


@pytest.fixture(scope="module")
def model():
    """Its norm's weights differ from 1, as a trained model's do."""
    model = copy.deepcopy(tiny.model("llama"))  # which other tests share
    generator = torch.Generator().manual_seed(1)
    norm = model.model.norm.weight
    norm.data = 0.5 + torch.rand(norm.shape, generator=generator)
    return model


@pytest.fixture
def words():
    return Words()


def state_of(states, layer):
    return states[layer][0, -1]


def right_layer_logits(model, states, layer):
    state = state_of(states, layer)
    return model.lm_head(state if layer == len(states) - 1 else model.model.norm(state))


def right_first(logits, token_id):
    for layer, scores in enumerate(logits):
        if scores.max() == scores[token_id]:
            return layer
    return -1


def right_settled(top):
    changes = [layer for layer in range(1, len(top)) if top[layer] != top[layer - 1]]
    return max(changes, default=0)


RIGHT = {
    "layer_logits": right_layer_logits,
    "first_on_top": right_first,
    "settled": right_settled,
}


def always_normed(model, states, layer):
    return model.lm_head(model.model.norm(state_of(states, layer)))


def every_token(model, states, layer):
    normed = states[layer] if layer == len(states) - 1 else model.model.norm(states[layer])
    return model.lm_head(normed)


def below(model, states, layer):
    return right_layer_logits(model, states, layer - 1 if layer else 0)


def above(model, states, layer):
    return right_layer_logits(model, states, layer + 1 if layer < len(states) - 1 else layer)


def own_highest(logits, token_id):
    return logits.argmax(0)[token_id]


def last_on_top(logits, token_id):
    layers = [n for n, scores in enumerate(logits) if scores.argmax() == token_id]
    return layers[-1] if layers else -1


def stays_on_top(logits, token_id):
    layer = len(logits)
    while layer and logits[layer - 1].argmax() == token_id:
        layer -= 1
    return layer


def first_or(otherwise):
    def attempt(logits, token_id):
        found = right_first(logits, token_id)
        return (otherwise if otherwise is not None else len(logits)) if found < 0 else found

    return attempt


def all_on_top(logits, token_id):
    return [n for n, scores in enumerate(logits) if scores.argmax() == token_id]


def first_pair(top):
    return [n for n in range(1, len(top)) if top[n] == top[n - 1]][0] if len(set(top)) > 1 else 0


def last_to_differ(top):
    return max((n for n in range(len(top)) if top[n] != top[-1]), default=-1)


WRONG = [
    ("layer_logits", lambda m, s, n: m.lm_head(state_of(s, n)), "final norm is missing"),
    ("layer_logits", always_normed, "normed a second time"),
    ("layer_logits", lambda m, s, n: every_token(m, s, n)[0, 0], "lens of the first token"),
    ("layer_logits", lambda m, s, n: every_token(m, s, n)[0], "every token; only"),
    ("layer_logits", every_token, "batch's axis included"),
    ("layer_logits", lambda m, s, n: every_token(m, s, n)[:, -1], "axis of 1 is still there"),
    ("layer_logits", below, "layer below"),
    ("layer_logits", above, "layer above"),
    ("layer_logits", lambda *a: right_layer_logits(*a).softmax(0), "These are probabilities"),
    ("layer_logits", lambda *a: right_layer_logits(*a).softmax(0).log(), "log-probabilities"),
    ("first_on_top", own_highest, "own logit is highest"),
    ("first_on_top", last_on_top, "last layer at which"),
    ("first_on_top", lambda logits, token: right_first(logits, token) + 1, "One too many"),
    ("first_on_top", stays_on_top, "stays on top"),
    ("first_on_top", all_on_top, "only the first is wanted"),
    ("first_on_top", first_or(0), "got a layer all the same"),
    ("first_on_top", first_or(None), "got the number of layers"),
    ("settled", lambda top: top.index(top[-1]), "comes first"),
    ("settled", last_to_differ, "something else"),
    ("settled", lambda top: right_settled(top) + 1, "One too high"),
    ("settled", lambda top: len(top) - right_settled(top), "how many layers"),
    ("settled", first_pair, "same as the one below"),
    ("settled", lambda top: top[-1], "the layer is wanted"),
    ("settled", lambda top: right_settled(top) or 1, "from layer 0 on"),
]

WILD = [
    ("layer_logits", lambda *a: "Paris", "A tensor of shape"),
    ("first_on_top", lambda *a: 1, "should be 2, and is 1"),
    ("settled", lambda top: 6.5, "should be 5, and is 6.5"),
]

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_11, RIGHT, WRONG, WILD, context={"layer_logits": ["model", "words"]}
)
