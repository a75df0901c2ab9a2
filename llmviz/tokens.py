"""Text to tokens and back: one place decides how a token is shown to a person."""

from __future__ import annotations

import re
from functools import lru_cache

from . import arguments

VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def readable(text: str) -> str:
    """Make white space and control characters in `text` visible.

    A space becomes ␣, a newline ↵, a tab ⇥, a carriage return ␍; any other character that
    cannot be printed is written as its code point, such as ⟨U+200B⟩.
    """
    return "".join(VISIBLE.get(c) or (c if c.isprintable() else f"⟨U+{ord(c):04X}⟩") for c in text)


def token_label(tokenizer, token_id: int) -> str:
    """The readable form of one token, such as `␣cute`.

    A token that holds only a part of a character is shown by its bytes, such as ⟨F0 9F⟩; an
    empty one, or an id without a token, by its number, such as ⟨49153⟩.
    """
    piece = tokenizer.convert_ids_to_tokens(int(token_id))
    if not piece:
        return f"⟨{int(token_id)}⟩"
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):  # as SentencePiece spells it
        return f"⟨{byte[1]}⟩"
    text = tokenizer.convert_tokens_to_string([piece])
    if "\ufffd" in text and "\ufffd" not in piece:
        if all(c in _byte_of() for c in piece):
            return "⟨" + " ".join(f"{_byte_of()[c]:02X}" for c in piece) + "⟩"
        return piece
    # SentencePiece marks a leading space with ▁, and drops it from the start of a text.
    if piece.startswith("▁") and not text.startswith(" "):
        text = " " + text
    return readable(text) or f"⟨{int(token_id)}⟩"


def token_labels(tokenizer, token_ids) -> list[str]:
    """`token_label` of every id in `token_ids` (a list, or a tensor of any shape)."""
    ids = token_ids.flatten().tolist() if hasattr(token_ids, "flatten") else list(token_ids)
    return [token_label(tokenizer, i) for i in ids]


def clipped(label: str, most: int) -> str:
    """The label, cut to `most` characters."""
    return label if len(label) <= most else label[: most - 1] + "…"


def token_id_of(tokenizer, token: str | int, vocab_size: int, name: str = "token") -> int:
    """The id of `token`: an id already, or a text of one token, where ␣ and ↵ are what they show.

    Raises ValueError that names `name` for a text of more tokens or none, and for an id outside
    the vocabulary.
    """
    if isinstance(token, str):
        text = token
        for plain, shown in VISIBLE.items():
            text = text.replace(shown, plain)
        ids = tokenizer(arguments.text(name, text), add_special_tokens=False)["input_ids"]
        check_ids(tokenizer, ids, vocab_size, name)
        if len(ids) != 1:
            pieces = " ".join(token_labels(tokenizer, ids[:12]))
            raise ValueError(
                f"{name}={token!r:.60} is {len(ids)} tokens ({pieces}): pass a text that is one "
                "token, mind a leading space, or a token's id"
            )
        return ids[0]
    if not arguments.is_whole(token) or not 0 <= token < vocab_size:
        raise ValueError(
            f"{name}={arguments.shown(token)}: it must be a text that is one token, or an id below "
            f"{vocab_size}"
        )
    return int(token)


def token_table(tokenizer, text: str):
    """How `text` is cut into tokens: a Table with a row a token.

    Columns: position, token_id, token (readable), piece (as the vocabulary spells it), special.
    Raises TypeError for anything but a string, ValueError for an empty one.
    """
    from .tables import Table

    ids = encode(tokenizer, text, name="text")[0][0].tolist()
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return Table(
        {
            "position": range(len(ids)),
            "token_id": ids,
            "token": token_labels(tokenizer, ids),
            "piece": tokenizer.convert_ids_to_tokens(ids),
            "special": [i in special for i in ids],
        }
    )


def encode(
    tokenizer,
    prompt: str | list[str],
    pad_token_id: int = 0,
    name: str = "prompt",
    *,
    add_special_tokens: bool = True,
    vocab_size: int | None = None,
):
    """Tokenise one prompt or a list of them.

    Shorter prompts of a list are padded on the left, so that every row ends in its last real
    token. With `add_special_tokens` the tokenizer may put a bos token in front, which a text that
    a chat template wrote already has. `vocab_size` is the number of tokens that the model knows.
    Returns `input_ids` and `attention_mask`, LongTensors of shape (prompts, tokens).
    Raises TypeError or ValueError that names `name` for a prompt that is not text, that has no
    tokens, or one that the model has no embedding for.
    """
    import torch

    arguments.flag("add_special_tokens", add_special_tokens)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
        kind = type(prompt).__name__
        raise TypeError(
            f"{name} must be a string or a list of strings, not {kind}: {arguments.shown(prompt)}"
        )
    if not prompts:
        raise ValueError(f"{name} is an empty list: give at least one string")
    rows = []
    for i, text in enumerate(prompts):
        which = name if isinstance(prompt, str) else f"{name}[{i}]"
        arguments.text(which, text)
        row = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        if not row:
            raise ValueError(
                f"{which} is {arguments.shown(text)}, which has no tokens: give the model at "
                "least one"
            )
        check_ids(tokenizer, row, vocab_size, which)
        rows.append(row)
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad_token_id] * (width - len(r)) + r for r in rows])
    attention_mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    return input_ids, attention_mask


def check_ids(tokenizer, token_ids: list[int], vocab_size: int | None, name: str) -> None:
    """Raise ValueError where the model has no embedding for a token of the text `name`."""
    highest = max(token_ids, default=0)
    if vocab_size is not None and highest >= vocab_size:
        raise ValueError(
            f"{name} holds the token {token_label(tokenizer, highest)}, id {highest}, and the "
            f"model has embeddings for ids below {vocab_size} only: use the tokenizer it was "
            "trained with, or call model.resize_token_embeddings(len(tokenizer)) and train it"
        )


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """GPT-2's table from printable stand-ins to bytes, which every byte-level BPE uses.

    The 188 bytes that print stand for themselves; the others, in order, for U+0100 and up.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(0x100 + i): b for i, b in enumerate(rest)}
