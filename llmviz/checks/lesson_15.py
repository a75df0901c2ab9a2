"""Self-checks of lesson 15: what a stream prints, and room in the context."""

from __future__ import annotations

from . import Exercise


def _conversation(*contents: str, system: str | None = None) -> list[dict]:
    """Questions and answers in turn."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return said if system is None else [{"role": "system", "content": system}, *said]


def _texts(tokenizer, ids, *, special=False, held_back=True):
    """The text so far after each token."""
    texts = [
        tokenizer.decode(ids[: n + 1], skip_special_tokens=not special) for n in range(len(ids))
    ]
    return [text.rstrip("\ufffd") for text in texts] if held_back else texts


def _pieces(tokenizer, ids, **options):
    texts = _texts(tokenizer, ids, **options)
    return [text[len(before) :] for before, text in zip(["", *texts[:-1]], texts, strict=True)]


def _alone(tokenizer, ids, *, held_back=False):
    pieces = [tokenizer.decode([i], skip_special_tokens=True) for i in ids]
    return [piece.rstrip("\ufffd") for piece in pieces] if held_back else pieces


def _is_a_stream(found, tokenizer, ids) -> bool:
    """Whether each character is printed once, whole, and with the token that completes it.

    A token that ends in half a character may keep what is whole of it back until the other half
    comes, and a � that somebody wrote looks like a half.
    """
    texts, shown, least = _texts(tokenizer, ids, held_back=False), "", ""
    if len(found) != len(ids):
        return False
    for piece, text in zip(found, texts, strict=True):
        shown += piece
        least = least if text.endswith("\ufffd") else text
        if not texts[-1].startswith(shown) or not len(least) <= len(shown) <= len(text):
            return False
    return True


_PIECES = ["café", " 🐈", "猫", ", ", " ❤️", " dogs", "\ufffdx", " \ufffd x", "!", "\n"]


def _any_ids(dice, tokenizer):
    text = "".join([*dice.choices(_PIECES, k=dice.randint(2, 7)), "."])
    return tokenizer, tokenizer(text)["input_ids"]


pieces = Exercise(
    right=_pieces,
    fits=_is_a_stream,
    # A cat of three tokens, the first of which holds a space too; an end token; a real �.
    cases=lambda tokenizer: [
        (tokenizer, tokenizer("café 🐈, 猫!<|im_end|>")["input_ids"]),
        (tokenizer, tokenizer("I ❤️ you")["input_ids"]),
        (tokenizer, tokenizer("a \ufffd b\ufffdc 🐈.")["input_ids"]),
    ],
    drawn=_any_ids,
    mistakes={
        "Each token was decoded alone, so the cat is three �. Decode all tokens so far.": _alone,
        "Each token was decoded alone, and its � thrown away: the cat never appears. Decode all "
        "tokens so far.": lambda tokenizer, ids: _alone(tokenizer, ids, held_back=True),
        "A � was printed, and a terminal cannot take it back. Hold it until its character is "
        "whole.": lambda tokenizer, ids: _pieces(tokenizer, ids, held_back=False),
        "These are the whole texts so far, and each would be printed behind the one before. What "
        "is new?": _texts,
        "A special token is shown: the stream ends with <|im_end|>.": lambda tokenizer, ids: (
            _pieces(tokenizer, ids, special=True)
        ),
        "There is no string for a token that completes no character. It gets an empty one.": (
            lambda tokenizer, ids: [piece for piece in _pieces(tokenizer, ids) if piece]
        ),
    },
    praise="Right: it prints each character once, and whole.",
)


def _tokens(tokenizer, messages, prompt=True) -> int:
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)
    return len(inputs["input_ids"])


def _make_room(tokenizer, messages, most, *, start=1, pair=2, prompt=True, least=2):
    while len(messages) > least and _tokens(tokenizer, messages, prompt) > most:
        messages = messages[:start] + messages[start + pair :]
    return messages


def _newest_dropped(tokenizer, messages, most):
    while len(messages) > 2 and _tokens(tokenizer, messages) > most:
        messages = messages[:-3] + messages[-1:]
    return messages


_LONG = _conversation(
    "What is the capital of France?", "The capital of France is Paris.",
    "And of Italy?", "The capital of Italy is Rome.",
    "And of Spain?", "Madrid.",
    "Which of them is the largest?",
    system="Answer briefly.",
)  # fmt: skip


def _rooms(tokenizer) -> list[tuple]:
    """Room for one pair less, to the token; for one token less than that; for all; for none."""
    without_one = _tokens(tokenizer, _LONG[:1] + _LONG[3:])
    return [
        (tokenizer, [*_LONG], most)
        for most in (without_one, without_one - 1, _tokens(tokenizer, _LONG), 5)
    ]


def _any_room(dice, tokenizer):
    contents = ["Of what?", "Madrid.", "The capital of Italy is Rome.", "And then?", "Yes, 猫."]
    said = dice.choices(contents, k=dice.choice([1, 3, 5, 7]))
    messages = _conversation(*said, system=dice.choice(["Answer.", "Answer briefly, please."]))
    return tokenizer, messages, dice.randint(10, _tokens(tokenizer, messages) + 5)


make_room = Exercise(
    right=_make_room,
    cases=_rooms,
    drawn=_any_room,
    mistakes={
        "The generation prompt was not counted. It is read too.": lambda *case: _make_room(
            *case, prompt=False
        ),
        "One pair too many is gone: `most` tokens fit, only more do not.": (
            lambda tokenizer, messages, most: _make_room(tokenizer, messages, most - 1)
        ),
        "The system message was dropped. It always stays.": lambda *case: _make_room(
            *case, start=0
        ),
        "A question went without its answer, which now answers nothing. Drop both.": lambda *case: (
            _make_room(*case, pair=1)
        ),
        "The newest turns went. The oldest are the ones to forget.": _newest_dropped,
        "Nothing was dropped, though there is no room.": lambda tokenizer, messages, most: messages,
        "The new question is gone, too. Stop while it stands there.": (
            lambda *case: _make_room(*case, least=1)
        ),
    },
    praise="Right: what is forgotten is the oldest, and never half a turn.",
)
