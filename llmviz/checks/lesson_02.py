"""Self-checks of lesson 02: cutting a text to size, decoding indices, the input of GPT-2."""

from __future__ import annotations

import torch

from . import Exercise, Ways, normal


def _ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def _cut(tokenizer, text, max_tokens):
    return tokenizer.decode(_ids(tokenizer, text)[:max_tokens]).rstrip("\ufffd")


def _texts(tokenizer):
    return [
        (tokenizer, text, max_tokens)
        for text, max_tokens in [
            ("Schadenfreude is unbelievable, they say", 5),
            ("Rex🐶 barks", 4),  # cut within the emoji
            ("狗狗狗 is Chinese for dogs", 6),  # two whole characters
            ("dog", 100),
            (" a  dog,\n not a \ufffd cat \n", 100),  # a � that somebody wrote, and spaces
        ]
    ]


_PIECES = ["Rex", " dogs", " 🐶", "狗", " naïve", ", ", " ❤️", "un", "\n"]


def _any_text(dice, tokenizer):
    text = "".join(dice.choices(_PIECES, k=dice.randint(2, 8)))
    return tokenizer, text, dice.randint(1, 14)


def _one_by_one(tokenizer, text, max_tokens):
    return "".join(tokenizer.decode(i) for i in _ids(tokenizer, text)[:max_tokens])


def _whole_tokens_only(found, tokenizer, text, max_tokens) -> bool:
    """A token that ends in half a character may hold a space too, which may go with the half."""
    ids = _ids(tokenizer, text)[:max_tokens]
    while ids and tokenizer.decode(ids).endswith("\ufffd"):
        ids.pop()
    return found == tokenizer.decode(ids)


cut = Exercise(
    right=_cut,
    fits=_whole_tokens_only,
    cases=_texts,
    drawn=_any_text,
    mistakes={
        "Characters were counted, not tokens: the ids are what is to be cut.": (
            lambda tokenizer, text, n: text[:n]
        ),
        "Words were counted, not tokens: a rare word takes several.": Ways(
            lambda tokenizer, text, n: " ".join(text.split()[:n]),
            lambda tokenizer, text, n: " ".join(text.split(" ")[:n]),
        ),
        "These are the last tokens. The text is to keep its beginning.": (
            lambda tokenizer, text, n: tokenizer.decode(_ids(tokenizer, text)[-n:])
        ),
        "This is the vocabulary's spelling, in which Ġ is a space. Decode ids to get text.": (
            lambda tokenizer, text, n: "".join(
                tokenizer.convert_ids_to_tokens(_ids(tokenizer, text)[:n])
            )
        ),
        "One token is missing: max_tokens of them fit.": (
            lambda tokenizer, text, n: _cut(tokenizer, text, n - 1)
        ),
        "There is one token too many.": lambda tokenizer, text, n: _cut(tokenizer, text, n + 1),
        "Half a character is left at the end, as U+FFFD.": (
            lambda tokenizer, text, n: tokenizer.decode(_ids(tokenizer, text)[:n])
        ),
        "The tokens were decoded one by one, so that whole characters were lost with the half "
        "ones.": Ways(
            lambda *case: _one_by_one(*case).replace("\ufffd", ""),
            lambda *case: _one_by_one(*case).strip("\ufffd"),
        ),
    },
    praise="Right: it fits, and it is whole.",
)


def _likeliest(tokenizer, logits, k):
    return [tokenizer.decode(i) for i in logits.topk(k).indices]


def _scores(tokenizer):
    logits = normal(len(tokenizer), seed=1)
    for text, score in {" Paris": 17.4, " the": 14.9, " London": 13.2}.items():
        logits[_ids(tokenizer, text)[0]] = score
    return [(tokenizer, logits, 3), (tokenizer, logits, 1)]


def _any_scores(dice, tokenizer):
    return tokenizer, normal(len(tokenizer), seed=dice.getrandbits(32)), dice.randint(1, 5)


likeliest = Exercise(
    right=_likeliest,
    cases=_scores,
    drawn=_any_scores,
    mistakes={
        "Scores were decoded: 17.4 became the id 17. An id is the place where a score "
        "stands.": lambda tokenizer, logits, k: [
            tokenizer.decode(int(score)) for score in logits.topk(k).values
        ],
        "Probabilities were decoded: each became the id 0. An id is the place where a score "
        "stands.": lambda tokenizer, logits, k: [
            tokenizer.decode(int(p)) for p in logits.softmax(-1).topk(k).values
        ],
        "These are the tokens with the lowest scores.": lambda tokenizer, logits, k: [
            tokenizer.decode(i) for i in logits.argsort()[:k]
        ],
        "The tokens are right, but the highest score should come first.": (
            lambda tokenizer, logits, k: _likeliest(tokenizer, logits, k)[::-1]
        ),
        "The tokens were decoded into one string. A list is wanted, with a text for each.": Ways(
            lambda tokenizer, logits, k: tokenizer.decode(logits.topk(k).indices),
            lambda tokenizer, logits, k: [tokenizer.decode(logits.topk(k).indices)],
        ),
        "These are the ids, the right ones. Their texts are wanted.": (
            lambda tokenizer, logits, k: logits.topk(k).indices.tolist()
        ),
        "The leading space was lost. It belongs to the token.": lambda tokenizer, logits, k: [
            text.strip() for text in _likeliest(tokenizer, logits, k)
        ],
        "This is the vocabulary's spelling, in which Ġ is a space. Decode ids to get text.": (
            lambda tokenizer, logits, k: tokenizer.convert_ids_to_tokens(logits.topk(k).indices)
        ),
    },
    praise="Right: the places of the highest scores, decoded.",
)


def _gpt2_input(input_ids, wte, wpe):
    return wte[input_ids] + wpe[: input_ids.shape[1]]


gpt2_input = Exercise(
    right=_gpt2_input,
    # A single text comes first: there positions counted along the batch raise nothing.
    cases=[
        (torch.tensor([[3, 1, 3, 0]]), normal(5, 4, seed=2), normal(6, 4, seed=3)),
        (torch.tensor([[4, 0, 2], [1, 1, 3]]), normal(5, 4, seed=4), normal(6, 4, seed=5)),
    ],
    drawn=lambda dice: (
        torch.tensor(
            [dice.choices(range(5), k=n) for n in [dice.randint(1, 6)] * dice.randint(1, 3)]
        ),
        normal(5, 4, seed=dice.getrandbits(32)),
        normal(7, 4, seed=dice.getrandbits(32)),
    ),
    mistakes={
        "The positions are missing: the same token gets the same vector wherever it stands.": (
            lambda ids, wte, wpe: wte[ids]
        ),
        "The positions begin at 1. They begin at 0.": (
            lambda ids, wte, wpe: wte[ids] + wpe[1 : ids.shape[1] + 1]
        ),
        "wpe was looked up by token id. Its rows belong to positions.": (
            lambda ids, wte, wpe: wte[ids] + wpe[ids]
        ),
        "The positions were counted along the batch, so all tokens of a text got the same row of "
        "wpe. They run along the tokens.": Ways(
            lambda ids, wte, wpe: wte[ids] + wpe[: len(ids), None],
            lambda ids, wte, wpe: wte[ids] + wpe[: len(ids)],
        ),
        "These are the last rows of wpe. A text begins at position 0, however long it is.": (
            lambda ids, wte, wpe: wte[ids] + wpe[-ids.shape[1] :]
        ),
        "The two vectors were put side by side. GPT-2 adds them: the width stays the same.": (
            lambda ids, wte, wpe: torch.cat(
                [wte[ids], wpe[: ids.shape[1]].expand(*ids.shape, -1)], dim=-1
            )
        ),
        "The two vectors were multiplied. GPT-2 adds them.": (
            lambda ids, wte, wpe: wte[ids] * wpe[: ids.shape[1]]
        ),
        "Only the first text of the batch is there: the batch dimension is gone.": (
            lambda ids, wte, wpe: _gpt2_input(ids, wte, wpe)[0]
        ),
    },
    praise="Right: what a token is, plus where it stands.",
)
