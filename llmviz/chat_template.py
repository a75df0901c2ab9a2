"""A conversation as the model reads it: what the chat template writes, as tokens.

A template is a program that came with the tokenizer, and messages are what anybody typed. So the
template gets a bounded time, its errors become a ValueError, and what a message says stays text,
even where it spells a special token.
"""

from __future__ import annotations

import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .tokens import check_ids, printable

# What one rendering may cost: seconds of this thread's processor time, and characters.
MOST_SECONDS, MOST_CHARACTERS = 3, 20_000_000
_USUAL_ROLES = ("user", "assistant")


def conversation_ids(
    tokenizer,
    messages: list[dict],
    names: list[str],
    *,
    split_special_tokens: bool = True,
    vocab_size: int | None = None,
) -> list[int]:
    """The token ids of a conversation with the beginning of an answer, as its template writes it.

    names: what to call each of `messages` in an error.
    split_special_tokens: a special token that a message spells is read as the letters that it
        is spelled with. So is any other added token that stands in the template, except in what
        the assistant said, unless the template puts it around the messages of others.

    Raises ValueError for a tokenizer without a template, and for a conversation that the template
    refuses, leaves out, cannot render in time, or gives tokens without an embedding.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template, so it is not known how the model wants a "
            'conversation to be written: load a model made for chat (often "…-Instruct"), set '
            "tokenizer.chat_template, or continue a text of your own with llmviz.generate"
        )
    parted = any(isinstance(message.get("content"), list) for message in messages)
    text = None if parted else _rendered(tokenizer, messages)
    if text is None or not _is_ordinary(tokenizer, messages, text, split_special_tokens):
        form, neutral = _written(tokenizer, messages, names)
        mark = _unused([*messages, neutral])
        split = _split(tokenizer, form, neutral, mark) if split_special_tokens else form
        if text is None or split != messages:
            text = _rendered(tokenizer, split)
        ids = _encoded(tokenizer, text.split(mark))
        if split_special_tokens:
            neutral = neutral if split == form else _rendered(tokenizer, _neutral(split))
            _check_walls(tokenizer, ids, _encoded(tokenizer, neutral.split(mark)))
    else:
        ids = _ids(tokenizer, text)
    if not ids:
        raise ValueError("the model's chat template (tokenizer.chat_template) writes no text")
    if vocab_size is not None and max(ids) >= vocab_size:
        for name, message in zip(names, messages, strict=True):
            each_text(message, lambda t: check_ids(tokenizer, _ids(tokenizer, t), vocab_size, name))  # noqa: B023
        check_ids(tokenizer, ids, vocab_size, "tokenizer.chat_template")
    return ids


def each_text(value, change: Callable[[str], str]):
    """`value` with every string in it changed, those in its lists and dicts too, and their keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {each_text(k, change): each_text(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [each_text(item, change) for item in value]
    return value


# What the template writes


def _rendered(tokenizer, messages: list[dict]) -> str:
    """The conversation as the template writes it, with the beginning of an answer."""
    from jinja2 import TemplateError

    try:
        with _bounded():
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
    except TemplateError as error:
        raise ValueError(
            f"the model's chat template refuses a conversation of {_said_by(messages)}: "
            f"{printable(str(error))}"
        ) from error
    # A template is a program, and may fail as any program does.
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
        ValueError, TimeoutError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"the model's chat template fails on a conversation of {_said_by(messages)} "
            f"({type(error).__name__}: {printable(str(error))[:200]}): it is "
            "tokenizer.chat_template, to which you can assign another"
        ) from error


def _said_by(messages: list[dict]) -> str:
    return ", ".join(message["role"] for message in messages)


@contextmanager
def _bounded() -> Iterator[None]:
    """End what runs within, in this thread, with TimeoutError when it costs too much.

    A trace function is the one thing that reaches into a loop of the template without a second
    thread or process: it is called for every line that the compiled template runs.
    """
    end, written = time.thread_time() + MOST_SECONDS, 0

    def trace(frame, event, arg):
        nonlocal written
        if event == "return" and isinstance(arg, str):
            written += len(arg)
        if time.thread_time() > end or written > MOST_CHARACTERS:
            raise TimeoutError(
                f"it runs for more than {MOST_SECONDS} seconds, or writes more than "
                f"{MOST_CHARACTERS:,} characters"
            )
        return trace if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _is_ordinary(tokenizer, messages: list[dict], text: str, split_special_tokens: bool) -> bool:
    """Whether one look at the rendered `text` tells that nothing is left out or forged."""
    query = messages[-1]["content"].strip()
    if len(query) < 8 or query not in text:  # a short one may be a part of the template's words
        return False
    if any(message["role"] not in _USUAL_ROLES for message in messages):
        return False
    if not split_special_tokens:
        return True
    # What holds no first character of an added token can spell none, whatever becomes of it.
    first = {_folded(t.content.strip())[:1] for t in tokenizer.added_tokens_decoder.values()}
    found = set()
    each_text(messages, lambda text: found.update(_folded(text)))
    return not first & found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _written(tokenizer, messages: list[dict], names: list[str]) -> tuple[list[dict], str]:
    """The messages in a form that the template writes down, and how it writes neutral words.

    Some templates take a content as a string only, some as a list of parts only, and some pass
    over roles that they do not know in silence. So each content is replaced by a word of its own,
    which must turn up.
    """
    as_text = [_with_content(m, "".join(_texts(m.get("content")))) for m in messages]
    given_as_text = as_text == messages
    as_parts = [
        _with_content(m, [{"type": "text", "text": t} for t in _texts(m.get("content"))])
        for m in messages
    ]
    problem = None
    for form in (as_text, as_parts) if given_as_text else (messages, as_parts, as_text):
        try:
            neutral = _rendered(tokenizer, _neutral(form))
            _check_written(form, names, neutral)
            return form, neutral
        except ValueError as error:
            if form is as_text:
                problem = error
    raise problem


def _texts(content) -> list[str]:
    """The texts of a content: a string, a list of parts, or None."""
    if content is None or isinstance(content, str):
        return [content or ""]
    return [part["text"] for part in content]


def _with_content(message: dict, content) -> dict:
    return message if message.get("content") is None else {**message, "content": content}


def _neutral(messages: list[dict]) -> list[dict]:
    """The messages with a word of its own in place of each content's texts.

    A part of a list gets one more key, whose value no template has a reason to write.
    """
    found = []
    for i, message in enumerate(messages):
        word, content = _word(i), message.get("content")
        if isinstance(content, list):
            content = [{**part, "text": word, "unknown": _HIDDEN} for part in content]
        found.append(_with_content(message, word if isinstance(content, str) else content))
    return found


_HIDDEN = "zqhiddenqz"


def _word(i: int) -> str:
    return f"zqmessage{i}qz"


def _check_written(messages: list[dict], names: list[str], neutral: str) -> None:
    """Raise ValueError for a message that the template does not write, or writes as Python's."""
    if _HIDDEN in neutral.lower():
        raise ValueError("the model's chat template takes no list of parts")
    for i, (name, message) in enumerate(zip(names, messages, strict=True)):
        # Templates that drop the oldest turns leave usual roles out; they know them all the same.
        needed = i == len(messages) - 1 or message["role"] not in _USUAL_ROLES
        needed = needed or isinstance(message.get("content"), list)
        if needed and message.get("content") is not None and _word(i) not in neutral.lower():
            raise ValueError(
                f"{name}, role={message['role']!r}: the model's chat template leaves out what it "
                "says; what a tool returned is said by observation in some, by tool in others"
            )


# What a message spells stays text


def _unused(texts: list) -> str:
    """A character for private use that stands in none of the texts."""
    found = set()
    each_text(texts, found.update)
    return next(c for c in map(chr, (*range(0xE000, 0xF900), *range(0xF0000, 0x10FFFE)))
                if c not in found)  # fmt: skip


def _split(tokenizer, messages: list[dict], neutral: str, mark: str) -> list[dict]:
    """The messages with a mark inside every special token that they spell."""
    added = tokenizer.added_tokens_decoder
    special = _special_ids(tokenizer)
    template = tokenizer.get_chat_template()
    told = {i for i, t in added.items() if t.content.strip() and t.content in template}
    walls = _wall_ids(tokenizer, messages, neutral)

    def split(message: dict) -> dict:
        by_model = message["role"] == "assistant"
        forbidden = special | walls | (set() if by_model else told)
        return each_text(message, lambda text: _marked(tokenizer, text, forbidden, mark))

    return [split(message) for message in messages]


def _special_ids(tokenizer) -> set[int]:
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids} | {i for i, t in added.items() if t.special}


def _wall_ids(tokenizer, messages: list[dict], neutral: str) -> set[int]:
    """The added tokens next to what others than the assistant say: they open and close turns."""
    added, walls = tokenizer.added_tokens_decoder, set()
    pieces = re.split(r"zqmessage(\d+)qz", neutral, flags=re.IGNORECASE)
    for before, number, after in zip(pieces[::2], pieces[1::2], pieces[2::2], strict=False):
        if messages[int(number)]["role"] != "assistant":
            walls.update([i for i in _ids(tokenizer, before) if i in added][-1:])
            walls.update([i for i in _ids(tokenizer, after) if i in added][:1])
    return {i for i in walls if added[i].content.strip()}


def _marked(tokenizer, text: str, forbidden: set[int], mark: str) -> str:
    """`text` with `mark` wherever it must be cut for none of the tokens to arise from it.

    What counts is what the tokenizer makes of the text, so a spelling that it normalises or strips
    to a special token is found too.
    """
    if tokenizer.is_fast:
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [
            span
            for i, span in zip(read["input_ids"], read["offset_mapping"], strict=True)
            # The unknown token stands for much that spells no token at all.
            if i in forbidden
            and (i != tokenizer.unk_token_id or text[slice(*span)].strip() == tokenizer.unk_token)
        ]
    else:
        spelled = map(re.escape, tokenizer.convert_ids_to_tokens(sorted(forbidden)))
        longest_first = "|".join(sorted(spelled, key=len, reverse=True)) or "(?!)"
        spans = [found.span() for found in re.finditer(longest_first, text)]
    cuts = []
    for start, end in spans:
        cut = end - len(text[start:end].lstrip()) + 1
        if cut < end:
            cuts.append(cut)
    if not cuts:
        return text
    bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return mark.join(_marked(tokenizer, text[a:b], forbidden, mark) for a, b in bounds)


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _encoded(tokenizer, parts: list[str]) -> list[int]:
    """The ids of a text in parts, so cut that no token reaches over a cut."""
    found = _ids(tokenizer, parts[0])
    for part in parts[1:]:
        # A tokenizer may put a space before the first word; within a text there is none.
        for anchor in ("\n", ".", "a"):
            head, whole = _ids(tokenizer, anchor), _ids(tokenizer, anchor + part)
            if head and whole[: len(head)] == head:
                found += whole[len(head) :]
                break
        else:
            found += _ids(tokenizer, part)
    return found


def _check_walls(tokenizer, ids: list[int], neutral: list[int]) -> None:
    """Raise ValueError where `ids` hold other special tokens than the ids of neutral words.

    A template may change what is said (lower its case, join its parts), and make a special token
    of what was none.
    """
    special = _special_ids(tokenizer) - {tokenizer.unk_token_id}
    wanted = [i for i in neutral if i in special]
    found = [i for i in ids if i in special]
    if found != wanted:
        extra = next((i for i in found if found.count(i) > wanted.count(i)), None)
        named = "" if extra is None else f", such as {tokenizer.convert_ids_to_tokens(extra)}"
        raise ValueError(
            f"the model's chat template makes special tokens of what the messages say{named}: "
            "change the messages, or pass split_special_tokens=False if you trust them"
        )
