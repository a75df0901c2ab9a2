"""Text to tokens and back: one place decides how a token is shown to a person."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from os.path import commonprefix

from . import arguments

VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def readable(text: str) -> str:
    """Make white space and control characters in `text` visible.

    A space becomes ␣, a newline ↵, a tab ⇥, a carriage return ␍; any other character that
    cannot be printed is written as its code point, such as ⟨U+200B⟩.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {arguments.shown(text)}")
    return "".join(VISIBLE.get(c) or (c if c.isprintable() else f"⟨U+{ord(c):04X}⟩") for c in text)


def printable(text: str) -> str:
    """`text` as it may go to a terminal or a page: words and line breaks as they are.

    What steers a terminal (ESC, BEL, a carriage return), turns the direction of what follows, or
    cannot be encoded is written as `readable` writes it. The marks that emoji and the scripts of
    Persian, Hebrew and Hindi need stay.
    """
    return "".join(readable(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    if character in "\n\t\u200c\u200d\u200e\u200f":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def token_label(tokenizer, token_id: int) -> str:
    """The readable form of one token, such as `␣cute`: what it adds within a text.

    A token that holds only a part of a character is shown by its bytes, such as ⟨F0 9F⟩; an
    empty one, or an id without a token, by its number, such as ⟨49153⟩.
    """
    return token_labels(tokenizer, [token_id])[0]


def token_labels(tokenizer, token_ids) -> list[str]:
    """`token_label` of every id in `token_ids` (a list, or a tensor of any shape)."""
    check_tokenizer(tokenizer)
    try:
        ids = token_ids.flatten().tolist() if hasattr(token_ids, "flatten") else [*token_ids]
    except TypeError as error:
        raise TypeError(f"token_ids must be ids, not {arguments.shown(token_ids)}") from error
    for i in ids:
        if type(i) is not int and not arguments.is_whole(i):
            raise TypeError(f"token_ids must be whole numbers, not {arguments.shown(i)}")
    around = _neighbours(tokenizer)
    added = tokenizer.added_tokens_decoder.values() if around else ()
    special = {token.content for token in added if token.special}
    return [_label(tokenizer, int(i), special, around) for i in ids]


def _neighbours(tokenizer) -> tuple[str, str] | None:
    """Two tokens that are joined without a space, or None where there is always one.

    Between them, a third one shows what it adds. Alone it need not: SentencePiece's decoder drops
    a space from the start of a text, and WordPiece's puts one before all but the first token.
    """
    # With byte-level BPE a token is the same everywhere, so there is no need to look.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "decoder", None)).__name__ == "ByteLevel":
        return None
    for prefix in ("", "##"):
        left, right = f"{prefix}a", f"{prefix}b"
        if tokenizer.convert_tokens_to_string([left, right]) == f"{left}b":
            return left, right
    return None


def _label(tokenizer, token_id: int, special: set[str], around: tuple[str, str] | None) -> str:
    piece = tokenizer.convert_ids_to_tokens(token_id) if 0 <= token_id < 2**31 else None
    if not piece:
        return f"⟨{token_id}⟩"
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):  # as SentencePiece spells it
        return f"⟨{byte[1]}⟩"
    text = ""
    if around and piece not in special:
        left, right = around
        joined = tokenizer.convert_tokens_to_string([left, piece, right])
        if joined.startswith(left) and joined.endswith("b"):
            text = joined[len(left) : -1]
    text = text or tokenizer.convert_tokens_to_string([piece])
    if "\ufffd" in text and "\ufffd" not in piece:
        if all(c in _byte_of() for c in piece):
            return "⟨" + " ".join(f"{_byte_of()[c]:02X}" for c in piece) + "⟩"
        return readable(piece)
    return readable(text) or f"⟨{token_id}⟩"


def clipped(label: str, most: int) -> str:
    """The label, cut to `most` characters."""
    return label if len(label) <= most else label[: most - 1] + "…"


def token_id_of(tokenizer, token: str | int, vocab_size: int, name: str = "token") -> int:
    """The id of `token`: an id already, or a text of one token, where ␣ and ↵ are what they show.

    Raises ValueError that names `name` for a text of more tokens or none, and for an id outside
    the vocabulary.
    """
    check_tokenizer(tokenizer)
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
    """How `text` is cut into tokens: a Table with a row per token.

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

    check_tokenizer(tokenizer)
    add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
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


def check_tokenizer(tokenizer) -> None:
    """Raise TypeError for anything but a tokenizer of transformers, or one that works alike."""
    needed = ("__call__", "decode", "convert_ids_to_tokens", "added_tokens_decoder")
    if isinstance(tokenizer, type) or not all(hasattr(tokenizer, name) for name in needed):
        raise TypeError(
            f"tokenizer must be a tokenizer of transformers, not {arguments.shown(tokenizer)}: "
            "llmviz.load returns one with its model"
        )


def check_ids(tokenizer, token_ids: list[int], vocab_size: int | None, name: str) -> None:
    """Raise ValueError where the model has no embedding for a token of the text `name`."""
    highest = max(token_ids, default=0)
    if vocab_size is not None and highest >= vocab_size:
        raise ValueError(
            f"{name} holds the token {token_label(tokenizer, highest)}, id {highest}, and the "
            f"model has embeddings for ids below {vocab_size} only: use the tokenizer it was "
            "trained with, or call model.resize_token_embeddings(len(tokenizer)) and train it"
        )


class GrowingText:
    """The text of tokens that come one by one, for any kind of decoder: it only ever grows.

    What later tokens may still change is held back: a character whose other bytes have not come
    yet; a run of byte tokens, of which SentencePiece's decoder makes � throughout where one of
    them fits into no character; the end of a word, where the decoder drops a mark that stands
    there. So the text is what stays whatever token comes next, and two of them are tried.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.token_ids: list[int] = []
        self.text = ""
        # So many tokens are known for good, and their text.
        self.settled, self.settled_text = 0, ""
        self.next_tokens = _next_tokens(tokenizer)
        self.skipped = _special_ids(tokenizer)

    def add(self, token_id: int) -> str:
        """Take one more token, and return the text that is certain."""
        if token_id in self.skipped and not decoded(self.tokenizer, [token_id]):
            return self.text
        self.token_ids.append(token_id)
        # A decoder looks at a token's neighbours, and no further: a few known tokens are enough.
        start = max(self.settled - _NEIGHBOURS, 0)
        known = decoded(self.tokenizer, self.token_ids[start : self.settled])
        recent = self.token_ids[start:]
        whole = decoded(self.tokenizer, recent)
        after = [decoded(self.tokenizer, [*recent, i]) for i in self.next_tokens]
        certain = commonprefix([whole, *after]).rstrip("\ufffd")
        text = self.settled_text + certain[len(known) :]
        if certain.startswith(known) and text.startswith(self.text):
            self.text = text
            if certain == whole:
                self.settled, self.settled_text = len(self.token_ids), text
        return self.text

    def end(self) -> str:
        """The text when no more tokens come: that of the most tokens that end in a character."""
        best = ""
        for count in range(len(self.token_ids), 0, -1):
            text = decoded(self.tokenizer, self.token_ids[:count])
            best = max(best, text.rstrip("\ufffd"), key=len)
            if not text.endswith("\ufffd"):
                break
        # A decoder that looks further back must not take away what was shown.
        return best if best.startswith(self.text) else self.text + best[len(self.text) :]


_NEIGHBOURS = 8


def decoded(tokenizer, token_ids: list[int]) -> str:
    """The text of these tokens without special ones, with all its spaces."""
    # Cleaned up, "do n" would become "don't" with the next token, and not grow.
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _special_ids(tokenizer) -> set[int]:
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids} | {i for i, t in added.items() if t.special}


def _next_tokens(tokenizer) -> list[int]:
    """A token of letters, and the byte that fits into no character where there is one."""
    special = _special_ids(tokenizer)
    ordinary = (i for i in range(len(tokenizer)) if i not in special)
    word = next((i for i in ordinary if decoded(tokenizer, [i]).strip().isalnum()), None)
    byte = tokenizer.convert_tokens_to_ids("<0xFF>")
    is_byte = byte is not None and tokenizer.convert_ids_to_tokens(byte) == "<0xFF>"
    return [i for i in (word, byte if is_byte else None) if i is not None]


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """GPT-2's table from printable stand-ins to bytes, which every byte-level BPE uses.

    The 188 bytes that print stand for themselves; the others, in order, for U+0100 and up.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(0x100 + i): b for i, b in enumerate(rest)}
