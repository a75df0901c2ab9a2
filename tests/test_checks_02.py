"""Lesson 02's self-checks know the right answers, and name the usual wrong ones."""

import pytest
import torch
from transformers import AutoTokenizer

from llmviz.checks import lesson_02
from llmviz.models import default_model_folder
from tests.checks import shared_tests


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(default_model_folder())


def right_cut(tokenizer, text, max_tokens):
    """Drops bytes that are no character, without knowing how decode shows them."""
    kept = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
    decoded = tokenizer.decode(kept)
    while not text.startswith(decoded):
        decoded = decoded[:-1]
    return decoded


def right_likeliest(tokenizer, logits, k):
    order = sorted(range(len(logits)), key=logits.tolist().__getitem__, reverse=True)
    return tokenizer.batch_decode([[i] for i in order[:k]])


def right_input(input_ids, wte, wpe):
    rows = [[wte[i] + wpe[p] for p, i in enumerate(text)] for text in input_ids.tolist()]
    return torch.stack([torch.stack(text) for text in rows])


RIGHT = {"cut": right_cut, "likeliest": right_likeliest, "gpt2_input": right_input}


def drop_until_whole(tokenizer, text, max_tokens):
    ids = tokenizer(text)["input_ids"][:max_tokens]
    while ids and tokenizer.decode(ids).endswith("\ufffd"):
        ids = ids[:-1]
    return tokenizer.decode(ids)


def softmax_first(tokenizer, logits, k):
    return [tokenizer.decode([i]) for i in logits.softmax(-1).argsort(descending=True)[:k]]


def embeddings(input_ids, wte, wpe):
    f = torch.nn.functional.embedding
    return f(input_ids, wte) + f(torch.arange(input_ids.shape[-1]), wpe)


ALSO_RIGHT = [
    ("cut", drop_until_whole),
    ("likeliest", softmax_first),
    ("gpt2_input", embeddings),
]


def ids_of(tokenizer, text):
    return tokenizer.encode(text)


def top(logits, k):
    return logits.sort(descending=True).indices[:k]


def side_by_side(ids, wte, wpe):
    positions = torch.stack([wpe[: ids.shape[1]]] * len(ids))
    return torch.cat([wte[ids], positions], -1)


WRONG = [
    ("cut", lambda t, text, n: "".join(list(text)[:n]), "Characters were counted"),
    ("cut", lambda t, text, n: " ".join(text.split(" ")[:n]), "Words were counted"),
    ("cut", lambda t, text, n: t.decode(ids_of(t, text)[-n:]), "last tokens"),
    ("cut", lambda t, text, n: "".join(t.tokenize(text)[:n]), "spelling"),
    ("cut", lambda t, text, n: right_cut(t, text, n - 1), "One token is missing"),
    ("cut", lambda t, text, n: right_cut(t, text, n + 1), "one token too many"),
    ("cut", lambda t, text, n: t.decode(ids_of(t, text)[:n]), "Half a character"),
    (
        "cut",
        lambda t, text, n: "".join(t.batch_decode([[i] for i in ids_of(t, text)[:n]])).strip("�"),
        "one by one",
    ),
    (
        "likeliest",
        lambda t, logits, k: [t.decode(int(s)) for s in logits.sort(descending=True).values[:k]],
        "Scores were decoded",
    ),
    (
        "likeliest",
        lambda t, logits, k: [t.decode(int(p)) for p in logits.softmax(0).topk(k).values],
        "Probabilities were decoded",
    ),
    (
        "likeliest",
        lambda t, logits, k: [t.decode(i) for i in logits.topk(k, largest=False).indices],
        "lowest scores",
    ),
    (
        "likeliest",
        lambda t, logits, k: [t.decode(i) for i in logits.argsort()[-k:]],
        "highest score should come first",
    ),
    ("likeliest", lambda t, logits, k: t.decode(top(logits, k).tolist()), "one string"),
    ("likeliest", lambda t, logits, k: top(logits, k).tolist(), "These are the ids"),
    (
        "likeliest",
        lambda t, logits, k: [t.decode(i).lstrip(" ") for i in top(logits, k)],
        "leading space was lost",
    ),
    (
        "likeliest",
        lambda t, logits, k: t.convert_ids_to_tokens(top(logits, k).tolist()),
        "spelling",
    ),
    ("gpt2_input", lambda ids, wte, wpe: torch.nn.functional.embedding(ids, wte), "missing"),
    (
        "gpt2_input",
        lambda ids, wte, wpe: wte[ids] + wpe[torch.arange(1, ids.shape[1] + 1)],
        "begin at 1",
    ),
    ("gpt2_input", lambda ids, wte, wpe: wte[ids] + wpe[ids], "looked up by token id"),
    (
        "gpt2_input",
        lambda ids, wte, wpe: wte[ids] + wpe[torch.arange(len(ids))][:, None],
        "along the batch",
    ),
    ("gpt2_input", lambda ids, wte, wpe: wte[ids] + wpe[: len(ids)], "along the batch"),
    ("gpt2_input", lambda ids, wte, wpe: wte[ids] + wpe[len(wpe) - ids.shape[1] :], "last rows"),
    ("gpt2_input", side_by_side, "side by side"),
    ("gpt2_input", lambda ids, wte, wpe: wte[ids] * wpe[: ids.shape[1]], "multiplied"),
    ("gpt2_input", lambda ids, wte, wpe: right_input(ids, wte, wpe)[0], "first text"),
]

WILD = [
    ("cut", lambda t, text, n: "!", "'Schadenfreude is'"),
    ("likeliest", lambda t, logits, k: ["!"], "' Paris'"),
    (
        "gpt2_input",
        lambda ids, wte, wpe: wte[ids].sum(-1),
        "The shape should be (1, 4, 4), and is (1, 4).",
    ),
    ("gpt2_input", lambda ids, wte, wpe: wte[ids] + wpe, "Your code raised RuntimeError"),
]
CONTEXT = {"cut": ["tokenizer"], "likeliest": ["tokenizer"]}

test_right, test_stub, test_mistake, test_all_tried, test_wild = shared_tests(
    lesson_02, RIGHT, WRONG, WILD, also_right=ALSO_RIGHT, context=CONTEXT
)
