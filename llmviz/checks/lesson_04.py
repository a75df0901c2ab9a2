"""Checks of lesson 04: the greedy loop, stopping at the end of the text, a sliding window.

Each is tried on a toy first, and then on the lesson's model. The toy takes any number for a token
id, where a real model raises IndexError (and on a GPU takes the whole session down with it).
"""

import torch
from torch.nn.functional import one_hot
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from . import Exercise


class Toy(torch.nn.Module):
    """A causal model of eleven tokens: the next one depends on all that were read, and on how many.

    Its highest score of all stands at the second position, not at the last. As a cache it hands
    out the ids that it has read, or writes them into the cache that it was given.
    """

    vocabulary = 11
    device = torch.device("cpu")

    def forward(self, input_ids, *, past_key_values=None, **_):
        new = input_ids.shape[-1]
        cache = past_key_values if isinstance(past_key_values, Cache) else None
        read = getattr(cache, "read", None) if cache is not None else past_key_values
        if read is not None:
            input_ids = torch.cat([read, input_ids], dim=-1)
        if cache is not None:
            cache.read = input_ids
        position = torch.arange(input_ids.shape[-1])
        following = (3 * input_ids.cumsum(-1) + 5 * position) % self.vocabulary
        height = 2.0 + (position == 1)
        logits = height[:, None] * one_hot(following, self.vocabulary)
        past = input_ids if cache is None else cache
        return CausalLMOutputWithPast(logits=logits[:, -new:], past_key_values=past)

    def generate(self, *_, **__):
        raise NotImplementedError(
            "write the loop yourself; model(input_ids).logits is all it needs"
        )


def _ids(*tokens):
    return torch.tensor([tokens])


def _any_ids(dice):
    return _ids(*dice.choices(range(Toy.vocabulary), k=dice.randint(1, 7)))


def _encode(model, tokenizer, text):
    return tokenizer(text, return_tensors="pt").input_ids.to(model.device)


def _highest_at(model, input_ids, position=-1):
    with torch.no_grad():
        return model(input_ids).logits[:, position].argmax(-1, keepdim=True)


def _joined(*parts):
    return torch.cat(parts, dim=-1)


def _loop(
    model, input_ids, steps, read=lambda ids: ids, choose=_highest_at, stop=lambda ids: False
):
    """Greedy search with its parts exchangeable, so that each mistake is one part."""
    for _ in range(steps):
        input_ids = _joined(input_ids, choose(model, read(input_ids)))
        if stop(input_ids):
            break
    return input_ids


def _highest_of_all(model, input_ids):
    with torch.no_grad():
        return model(input_ids).logits.argmax()[None, None]


def _always_the_same(model, input_ids, steps):
    return _joined(input_ids, *[_highest_at(model, input_ids)] * steps)


def _greedy_cases(model, tokenizer):
    prompt = _encode(model, tokenizer, "The capital of France is")
    return [(Toy(), _ids(3, 1, 4), 5), (Toy(), _ids(2, 7, 1, 8), 1), (model, prompt, 4)]


greedy = Exercise(
    right=_loop,
    cases=_greedy_cases,
    drawn=lambda dice, model, tokenizer: (Toy(), _any_ids(dice), dice.randint(1, 8)),
    mistakes={
        "Every step took the scores at the first position, which predict the text's second token. "
        "Where do those of its next token stand?": (
            lambda model, ids, n: _loop(model, ids, n, choose=lambda m, i: _highest_at(m, i, 0))
        ),
        "argmax looked through all positions at once and returned an index into the flattened "
        "logits, which is no token id. Pick one position first, then the best of its scores.": (
            lambda model, ids, n: _loop(model, ids, n, choose=_highest_of_all)
        ),
        "All new tokens are the same, because the model was shown the same text at each step. "
        "Put each new token behind the text before the next step.": _always_the_same,
        "The model was shown the newest token alone, without the text before it. Show it the whole "
        "text (or hand it past_key_values).": (
            lambda model, ids, n: _joined(
                ids, _loop(model, _highest_at(model, ids), n - 1, lambda i: i[:, -1:])
            )
        ),
        "Only the new tokens came back. Return the prompt with the new tokens behind it, as "
        "model.generate does.": lambda model, ids, n: _loop(model, ids, n)[:, ids.shape[1] :],
        "One token too few: the token that the last step chose belongs to the text as well.": (
            lambda model, ids, n: _loop(model, ids, n - 1)
        ),
        "One token too many: the loop took a step more than max_new_tokens.": (
            lambda model, ids, n: _loop(model, ids, n + 1)
        ),
    },
    praise="Right: the same tokens as model.generate, from a loop of your own.",
)


def _newest_in(eos_token_ids):
    return lambda input_ids: input_ids[0, -1].item() in eos_token_ids


def _anywhere_in(eos_token_ids):
    return lambda input_ids: bool(set(input_ids[0].tolist()) & set(eos_token_ids))


def _until(model, input_ids, max_new_tokens, eos_token_ids):
    return _loop(model, input_ids, max_new_tokens, stop=_newest_in(eos_token_ids))


def _without_eos(model, input_ids, max_new_tokens, eos_token_ids):
    found = _until(model, input_ids, max_new_tokens, eos_token_ids)
    return found[:, :-1] if _newest_in(eos_token_ids)(found) else found


def _until_cases(model, tokenizer):
    # A chat whose answer is said already, so that the model has but to end it.
    said = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ]
    chat = tokenizer.apply_chat_template(
        said, continue_final_message=True, return_tensors="pt", return_dict=True
    ).input_ids.to(model.device)
    eos = [tokenizer.eos_token_id]
    toy = Toy()
    return [
        (toy, _ids(3, 1, 4), 8, [9]),
        (toy, _ids(3, 1, 4), 8, [10, 9]),
        (toy, _ids(3, 1, 4), 3, [0]),
        (toy, _ids(2, 7, 1, 8), 8, [7]),
        (toy, _ids(2, 1, 8, 7), 8, [7]),  # as a chat ends after each turn
        (model, chat, 3, eos),
    ]


def _any_until(dice, model, tokenizer):
    ids, steps = _any_ids(dice), dice.randint(1, 8)
    eos = dice.choice(_loop(Toy(), ids, 8)[0, ids.shape[1] :].tolist())
    return Toy(), ids, steps, dice.sample([eos, Toy.vocabulary + 1], 2)


def _before_the_step(model, input_ids, max_new_tokens, eos_token_ids):
    for _ in range(max_new_tokens):
        if _newest_in(eos_token_ids)(input_ids):
            break
        input_ids = _loop(model, input_ids, 1)
    return input_ids


greedy_until = Exercise(
    right=_until,
    cases=_until_cases,
    drawn=_any_until,
    mistakes={
        "The loop went on behind the end-of-text token. Look at each new token once it is in the "
        "text, and leave the loop if it is one of eos_token_ids.": (
            lambda model, ids, n, eos: _loop(model, ids, n)
        ),
        "The end-of-text token is missing. It belongs to the text, as in model.generate: put it "
        "there first, and stop then.": _without_eos,
        "Only the first of the eos_token_ids ended the text. A model may have several; each of "
        "them does.": lambda model, ids, n, eos: _until(model, ids, n, eos[:1]),
        "The loop stopped at its first token, because the prompt holds an end-of-text token (in a "
        "chat, each turn ends in one). Look at the newest token only.": (
            lambda model, ids, n, eos: _loop(model, ids, n, stop=_anywhere_in(eos))
        ),
        "Nothing was written, because the prompt itself ends in an end-of-text token. Only a new "
        "token ends the text: look at it after the step, not before.": _before_the_step,
    },
    praise="Right: the model ends its text, and your loop listens.",
)


def _in_window(model, input_ids, max_new_tokens, context_size):
    return _loop(model, input_ids, max_new_tokens, read=lambda ids: ids[:, -context_size:])


def _cropping_the_text(model, input_ids, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        input_ids = input_ids[:, -context_size:]
        input_ids = _joined(input_ids, _highest_at(model, input_ids))
    return input_ids


def _cropping_once(model, input_ids, max_new_tokens, context_size):
    found = _loop(model, input_ids[:, -context_size:], max_new_tokens)
    return _joined(input_ids[:, :-context_size], found)


def _window_cases(model, tokenizer):
    prompt = _encode(model, tokenizer, "I enjoy walking with my cute dog")
    return [(Toy(), _ids(3, 1, 4, 1, 5), 6, 4), (Toy(), _ids(3, 1), 6, 4), (model, prompt, 4, 3)]


def _any_window(dice, model, tokenizer):
    return Toy(), _any_ids(dice), dice.randint(1, 7), dice.randint(2, 6)


greedy_window = Exercise(
    right=_in_window,
    cases=_window_cases,
    drawn=_any_window,
    mistakes={
        "The text that came back has lost its beginning. Crop what the model reads, under a name "
        "of its own, and let the text itself grow.": _cropping_the_text,
        "The model read the first tokens of the text, so it never saw what it had written. Its "
        "window is the last context_size tokens.": (
            lambda model, ids, n, size: _loop(model, ids, n, read=lambda i: i[:, :size])
        ),
        "The model read the whole text: nothing was cropped. (If you did crop: the shape is "
        "(1, tokens). Which of the two dimensions did you crop?)": (
            lambda model, ids, n, size: _loop(model, ids, n)
        ),
        "Only the prompt was cropped, so the window grew with the text. Crop at each step.": (
            _cropping_once
        ),
        "The window is one token too short.": (
            lambda model, ids, n, size: _in_window(model, ids, n, size - 1)
        ),
        "The window is one token too long.": (
            lambda model, ids, n, size: _in_window(model, ids, n, size + 1)
        ),
    },
    praise="Right: this loop never reads more than its window, however long the text grows.",
)
