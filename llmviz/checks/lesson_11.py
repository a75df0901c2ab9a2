"""Self-checks of lesson 11: a layer's logit lens, and when a prediction comes and stays."""

from __future__ import annotations

from functools import lru_cache

import torch

from ..head import final_norm
from . import Exercise, Ways, normal


def _lens(state, model, norms: int):
    for _ in range(norms):
        state = final_norm(model)(state)
    return model.get_output_embeddings()(state)


def _norms(hidden_states, layer) -> int:
    """How many final norms a layer's state still needs."""
    return int(layer < len(hidden_states) - 1)


def _layer_logits(model, hidden_states, layer):
    return _lens(hidden_states[layer], model, _norms(hidden_states, layer))[0, -1]


def _layer_logits_of_all(model, hidden_states, layer):
    return _lens(hidden_states[layer], model, _norms(hidden_states, layer))


@lru_cache
def _small_model():
    """A model with other layers, another width and another vocabulary than the lesson's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 30, "initializer_range": 0.5}
    config = LlamaConfig(num_hidden_layers=4, num_attention_heads=2, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = LlamaForCausalLM(config).eval().requires_grad_(False)
    small.model.norm.weight += 0.5 * normal(16, seed=1)
    return small


def _states(model, ids):
    with torch.no_grad():
        return model(ids.to(model.device), output_hidden_states=True).hidden_states


def _layer_cases(model, tokenizer):
    small, ids = _small_model(), torch.tensor([[3, 14, 15, 9]])
    cases = [(small, _states(small, ids), layer) for layer in (2, 3, 4, 0)]
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    states = _states(model, ids)
    return [*cases, (model, states, len(states) // 2)]


def _any_layer(dice, model, tokenizer):
    small = _small_model()
    ids = torch.tensor([dice.choices(range(30), k=dice.randint(1, 6))])
    return small, _states(small, ids), dice.randint(0, 4)


layer_logits = Exercise(
    right=_layer_logits,
    cases=_layer_cases,
    drawn=_any_layer,
    mistakes={
        "The final norm is missing: the head never saw a state without it.": (
            lambda model, states, layer: _lens(states[layer], model, 0)[0, -1]
        ),
        "Right below, but the last hidden state is normed a second time: it has been through the "
        "final norm already.": lambda model, states, layer: _lens(states[layer], model, 1)[0, -1],
        "This is the lens of the first token. What comes next is read off another.": (
            lambda model, states, layer: _layer_logits_of_all(model, states, layer)[0, 0]
        ),
        "These are the logits behind every token; only those behind the last are wanted.": (
            lambda model, states, layer: _layer_logits_of_all(model, states, layer)[0]
        ),
        "These are the logits behind every token, the batch's axis included; only those behind the "
        "last are wanted.": _layer_logits_of_all,
        "The batch's axis of 1 is still there: the shape should be (vocabulary,).": (
            lambda model, states, layer: _layer_logits_of_all(model, states, layer)[:, -1]
        ),
        "This is the layer below: number 0 is the embedding, so layer n has the index n.": (
            lambda model, states, layer: _layer_logits(model, states, max(layer - 1, 0))
        ),
        "This is the layer above: number 0 is the embedding, so layer n has the index n.": (
            lambda model, states, layer: _layer_logits(
                model, states, min(layer + 1, len(states) - 1)
            )
        ),
        "These are probabilities. Return the logits, before the softmax.": (
            lambda model, states, layer: _layer_logits(model, states, layer).softmax(-1)
        ),
        "These are log-probabilities. Return the logits, as the head gives them.": (
            lambda model, states, layer: _layer_logits(model, states, layer).log_softmax(-1)
        ),
    },
    praise="Right: and at the last layer it is the model's own output.",
)


def _on_top(logits, token_id) -> list[int]:
    """The layers at which the token has rank 1."""
    return [layer for layer, top in enumerate(logits.argmax(-1).tolist()) if top == token_id]


def _first_on_top(logits, token_id):
    return (_on_top(logits, token_id) or [-1])[0]


# Token 0 is on top at layers 0 and 3, token 2 at 2, 4 and 5, token 3 at 1, token 1 nowhere.
_LENS = torch.tensor(
    [
        [9.0, 1.0, 7.0, 2.0],
        [1.0, 3.0, 2.0, 8.0],
        [0.0, 1.0, 5.0, 2.0],
        [8.0, 7.0, 6.0, 1.0],
        [2.0, 1.0, 3.0, 0.0],
        [1.0, 0.0, 4.0, 2.0],
    ]
)


def _stays(logits, token_id, never):
    top = (logits.argmax(-1) == token_id).tolist()
    return _settled(top) if top[-1] else never


_STAYS = Ways(
    lambda logits, token_id: _settled((logits.argmax(-1) == token_id).tolist()),
    lambda logits, token_id: _stays(logits, token_id, -1),
    lambda logits, token_id: _stays(logits, token_id, len(logits)),
)

first_on_top = Exercise(
    right=_first_on_top,
    cases=[(_LENS, token_id) for token_id in (2, 0, 1)],
    drawn=lambda dice: (
        normal(dice.randint(2, 9), 4, seed=dice.getrandbits(32)),
        dice.randrange(4),
    ),
    mistakes={
        "A token that is never on top got a layer all the same. The answer to that is -1.": (
            lambda logits, token_id: max(_first_on_top(logits, token_id), 0)
        ),
        "A token that is never on top got the number of layers. The answer to that is -1.": (
            lambda logits, token_id: (_on_top(logits, token_id) or [len(logits)])[0]
        ),
        "That is the layer where the token's own logit is highest. A logit counts only against the "
        "other tokens' at the same layer.": lambda logits, token_id: int(
            logits[:, token_id].argmax()
        ),
        "That is the last layer at which it is on top; the first is wanted.": (
            lambda logits, token_id: (_on_top(logits, token_id) or [-1])[-1]
        ),
        "One too many: layer 0 is the embedding, so the first row has the number 0.": (
            lambda logits, token_id: _first_on_top(logits, token_id) + 1
        ),
        "That is the layer from which on it stays on top. It was there before, and left again.": (
            _STAYS
        ),
        "These are all the layers at which it is on top; only the first is wanted.": _on_top,
    },
    praise="Right: it arrives there. Whether it stays is another question.",
)


def _settled(top):
    layer = len(top) - 1
    while layer > 0 and top[layer - 1] == top[-1]:
        layer -= 1
    return layer


def _first_pair(top):
    return next((i for i in range(1, len(top)) if top[i] == top[i - 1]), 0)


settled = Exercise(
    right=_settled,
    cases=[([5, 5, 7, 3, 3, 7, 7, 7],), ([5, 5, 7],), ([4, 4, 4],)],
    drawn=lambda dice: (dice.choices([3, 11], k=dice.randint(2, 9)),),
    mistakes={
        "Where every layer says the same, it is settled from layer 0 on.": (
            lambda top: max(_settled(top), 1)
        ),
        "That is where the final token comes first. It leaves again, so nothing is settled yet.": (
            lambda top: top.index(top[-1])
        ),
        "That is the last layer that says something else; it settles one above.": (
            lambda top: _settled(top) - 1
        ),
        "One too high: the layer below says the same already.": lambda top: _settled(top) + 1,
        "That is how many layers say the same at the end. Their first one is wanted.": (
            lambda top: len(top) - _settled(top)
        ),
        "That is the first layer that says the same as the one below. It changes again later.": (
            Ways(_first_pair, lambda top: _first_pair(top) if len(set(top)) > 1 else 0)
        ),
        "That is the token on which it settles; the layer is wanted.": lambda top: top[-1],
    },
    praise="Right: from there on the layers above no longer change the winner.",
)
