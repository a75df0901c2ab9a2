"""Lesson 04's self-checks know the right answers, and name the usual wrong ones."""

from types import SimpleNamespace

import pytest
import torch

from llmviz.checks import lesson_04
from tests import tiny
from tests.checks import shared_tests

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def model():
    return tiny.model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def newest(model, input_ids):
    return model(input_ids).logits[:, -1].argmax(-1)[:, None]


def right_greedy(model, input_ids, max_new_tokens):
    for _ in range(max_new_tokens):
        input_ids = torch.cat([input_ids, newest(model, input_ids)], dim=1)
    return input_ids


def right_until(model, input_ids, max_new_tokens, eos_token_ids):
    for _ in range(max_new_tokens):
        token = newest(model, input_ids)
        input_ids = torch.cat([input_ids, token], dim=1)
        if token in eos_token_ids:
            return input_ids
    return input_ids


def right_window(model, input_ids, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        window = input_ids[:, -context_size:]
        input_ids = torch.cat([input_ids, newest(model, window)], dim=1)
    return input_ids


RIGHT = {
    "greedy": right_greedy,
    "greedy_until": right_until,
    "greedy_window": right_window,
}


def with_cache(model, input_ids, max_new_tokens):
    cache, unread = None, input_ids
    for _ in range(max_new_tokens):
        output = model(unread, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        unread = output.logits[:, -1].argmax(-1, keepdim=True)
        input_ids = torch.cat([input_ids, unread], dim=1)
    return input_ids


def first_position(model, ids, n):
    for _ in range(n):
        ids = torch.cat([ids, model(ids).logits[:, 0].argmax(-1)[:, None]], dim=1)
    return ids


def whole_tensor(model, ids, n):
    for _ in range(n):
        ids = torch.cat([ids, model(ids).logits.argmax().view(1, 1)], dim=1)
    return ids


def never_appended(model, ids, n):
    found = [newest(model, ids) for _ in range(n)]
    return torch.cat([ids, *found], dim=1)


def newest_alone(model, ids, n):
    unread = ids
    for _ in range(n):
        unread = newest(model, unread)
        ids = torch.cat([ids, unread], dim=1)
    return ids


def keeps_going(model, ids, n, eos):
    return right_greedy(model, ids, n)


def drops_the_eos(model, ids, n, eos):
    for _ in range(n):
        token = newest(model, ids)
        if token.item() in eos:
            break
        ids = torch.cat([ids, token], dim=1)
    return ids


def knows_one_eos(model, ids, n, eos):
    for _ in range(n):
        ids = torch.cat([ids, newest(model, ids)], dim=1)
        if ids[0, -1] == eos[0]:
            break
    return ids


def eos_in_the_prompt(model, ids, n, eos):
    for _ in range(n):
        ids = torch.cat([ids, newest(model, ids)], dim=1)
        if any(e in ids for e in eos):
            break
    return ids


def looks_before_the_step(model, ids, n, eos):
    for _ in range(n):
        if ids[0, -1] in eos:
            return ids
        ids = torch.cat([ids, newest(model, ids)], dim=1)
    return ids


def crops_the_text(model, ids, n, size):
    for _ in range(n):
        ids = ids[:, -size:]
        ids = torch.cat([ids, newest(model, ids)], dim=1)
    return ids


def first_tokens(model, ids, n, size):
    for _ in range(n):
        ids = torch.cat([ids, newest(model, ids[:, :size])], dim=1)
    return ids


def crops_the_batch(model, ids, n, size):
    for _ in range(n):
        ids = torch.cat([ids, newest(model, ids[-size:])], dim=1)
    return ids


def crops_once(model, ids, n, size):
    window = ids[:, -size:]
    for _ in range(n):
        token = newest(model, window)
        window, ids = torch.cat([window, token], dim=1), torch.cat([ids, token], dim=1)
    return ids


WRONG = [
    ("greedy", first_position, "scores at the first position"),
    ("greedy", whole_tensor, "all positions at once"),
    ("greedy", never_appended, "shown the same text"),
    ("greedy", newest_alone, "newest token alone"),
    ("greedy", lambda m, i, n: right_greedy(m, i, n)[:, i.shape[1] :], "Only the new tokens"),
    ("greedy", lambda m, i, n: right_greedy(m, i, n - 1), "One token too few"),
    ("greedy", lambda m, i, n: right_greedy(m, i, n + 1), "One token too many"),
    ("greedy_until", keeps_going, "went on behind"),
    ("greedy_until", drops_the_eos, "token is missing"),
    ("greedy_until", knows_one_eos, "Only the first of the eos_token_ids"),
    ("greedy_until", eos_in_the_prompt, "stopped at its first token"),
    ("greedy_until", looks_before_the_step, "Nothing was written"),
    ("greedy_window", crops_the_text, "lost its beginning"),
    ("greedy_window", first_tokens, "read the first tokens"),
    ("greedy_window", lambda m, i, n, size: right_greedy(m, i, n), "nothing was cropped"),
    ("greedy_window", crops_the_batch, "nothing was cropped"),
    ("greedy_window", crops_once, "Only the prompt was cropped"),
    ("greedy_window", lambda m, i, n, s: right_window(m, i, n, s - 1), "too short"),
    ("greedy_window", lambda m, i, n, s: right_window(m, i, n, s + 1), "too long"),
]


def generate(model, input_ids, max_new_tokens, *_):
    return model.generate(input_ids, max_new_tokens=max_new_tokens)


WILD = [
    *[(name, generate, "write the loop yourself") for name in RIGHT],
    *[(name, lambda *_: [1, 2], "A tensor of shape") for name in RIGHT],
    *[(name, lambda *_: torch.zeros(2, 2), "shape should be") for name in RIGHT],
    *[
        (name, lambda *case, right=right: right(*case) * 0 - 1, "should be tensor")
        for name, right in RIGHT.items()
    ],
]
CONTEXT = dict.fromkeys(RIGHT, ["model", "tokenizer"])

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_04, RIGHT, WRONG, WILD, also_right=[("greedy", with_cache)], context=CONTEXT
)


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_costs_no_pass_of_the_model(name, tokenizer):
    def stub(*arguments): ...

    model = SimpleNamespace(device="cpu")  # cannot be called
    said = getattr(lesson_04, name).verdict(stub, model, tokenizer)
    assert said == "… not attempted yet"


def test_the_toy_is_causal_and_its_cache_changes_nothing():
    toy, ids = lesson_04.Toy(), torch.tensor([[3, 1, 4, 1, 5]])
    whole, start = toy(ids), toy(ids[:, :3])
    assert torch.equal(whole.logits[:, :3], start.logits)
    rest = toy(ids[:, 3:], past_key_values=start.past_key_values)
    assert torch.equal(whole.logits[:, 3:], rest.logits)
