"""Chat: questions and answers with any model whose tokenizer has a chat template.

A conversation is a list of messages, dicts with a role and a content. The template writes it as
one text, the model continues that text, and what it says up to an eos token is the answer.
"""

from __future__ import annotations

import copy
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import arguments, processors
from .chat_cache import ChatCache
from .chat_template import conversation_ids, each_text
from .decoding.beams import beam_search
from .decoding.brought import warn_of_brought
from .decoding.prefix import as_list, eos_token_ids
from .decoding.search import Generation, check_draws, draw, seeded
from .models import check_model, context_size, vocab_size
from .tokens import GrowingText, check_tokenizer, printable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from .settings import SettingsOfChat

ROLES = ("user", "system", "assistant", "observation", "tool")


def chat(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    history: list[dict] | None = None,
    role: str = "user",
    *,
    system: str | None = None,
    max_length: int = 8192,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    seed: int | None = None,
    logits_processor: Callable | Sequence[Callable] | None = None,
    eos_token_id: int | list[int] | None = None,
    past_key_values: ChatCache | None = None,
    return_past_key_values: bool = False,
    split_special_tokens: bool = True,
    **settings: Unpack[SettingsOfChat],
) -> tuple[Any, ...]:
    """Ask, and return (response, history): the answer, and the conversation with it at its end.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    query : str
        What is said now, by `role`: "user", "system", "assistant", or what a tool returned, which
        some models' templates call "observation", and others "tool".
    history : list[dict] | None
        What was said before, as returned by the last call, or a list of dicts such as {"role":
        "user", "content": "Hello"}; it is not changed. A content may be a list of parts, such as
        [{"type": "text", "text": "Hello"}].
    role : str
        Who says `query`.
    system : str | None
        A system prompt, to stand first, in place of one that the history may have. Without one,
        some templates write their own.
    max_length : int
        Of conversation and answer together, in tokens, so a longer history leaves less for the
        answer. The model's context ends it too.
    max_new_tokens : int | None
        Of the answer alone.
    num_beams : int
        Above 1, `beam_search`.
    do_sample : bool
        Whether to draw; False takes the most likely token each time.
    top_p : float
        As in `generate`; the default is that of ChatGLM3.
    temperature : float
        As in `generate`; the default is that of ChatGLM3.
    seed : int | None
        Of the draws, as in `generate`.
    logits_processor : Callable | Sequence[Callable] | None
        Functions from (input_ids, scores) to scores. After them `remove_invalid_values` does its
        work.
    eos_token_id : int | list[int] | None
        Tokens that end an answer, besides all that the model's generation configuration names, and
        the tokenizer's own.
    past_key_values : ChatCache | None
        What the last call returned with `return_past_key_values`: handed on with that history, it
        spares the model to read again what it knows. The tokens are those of a call without. Not
        with beams.
    return_past_key_values : bool
        Whether to return (response, history, past_key_values).
    split_special_tokens : bool
        A special token that a message spells, such as <|im_end|>, is read as the letters that it is
        spelled with, so nobody but the template opens and closes turns. False reads it as the
        token, which only messages that you trust should be able to write.
    **settings : SettingsOfChat
        The other processors of `generate`, such as repetition_penalty or top_k.

    Returns
    -------
    tuple[Any, ...]
        (response, history): the answer, and the conversation with it at its end, a new list.

    Raises
    ------
    TypeError, ValueError
        Before the model runs, for an argument that is out of bounds, for a tokenizer without a chat
        template, and for a conversation that is too long, that has tokens without an embedding, or
        that the template refuses, leaves out or cannot render.
    """
    given = {k: v for k, v in locals().items() if k not in ("settings", "return_past_key_values")}
    arguments.flag("return_past_key_values", return_past_key_values)
    if arguments.whole("num_beams", num_beams) == 1:
        answers = stream_chat(**given, **settings, return_past_key_values=True)
        (last,) = deque(answers, maxlen=1)
        return last if return_past_key_values else last[:2]
    if past_key_values is not None or return_past_key_values:
        raise ValueError(
            f"past_key_values with num_beams={num_beams}: the cache of a beam search holds all "
            "its beams, and not the answer alone; pass num_beams=1"
        )
    check_draws(do_sample, seed)
    turn = _Turn(**{k: given[k] for k in _OF_TURN}, **settings)
    _warn_of_brought(model, do_sample=do_sample, num_beams=num_beams, **turn.settings)
    run = beam_search(
        model,
        turn.input_ids,
        num_beams=int(num_beams),
        do_sample=do_sample,
        seed=seed,
        max_new_tokens=turn.max_new_tokens,
        stop=turn.ends,
        top_logprobs=1,
        **turn.settings,
    )
    text = GrowingText(tokenizer)
    for step in run.steps[0]:
        turn.take(text, step.token_id)
    return turn.reply(text.end())


def stream_chat(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    history: list[dict] | None = None,
    role: str = "user",
    *,
    system: str | None = None,
    max_length: int = 8192,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    do_sample: bool = True,
    top_p: float = 0.8,
    temperature: float = 0.8,
    seed: int | None = None,
    logits_processor: Callable | Sequence[Callable] | None = None,
    eos_token_id: int | list[int] | None = None,
    past_key_values: ChatCache | None = None,
    return_past_key_values: bool = False,
    split_special_tokens: bool = True,
    **settings: Unpack[SettingsOfChat],
) -> Iterator[tuple[Any, ...]]:
    """`chat` that shows the answer as it is made: an iterator over (response, history).

    Each response is the whole answer so far. It begins with the one before, and never ends in half
    a character; what the tokenizer's decoder may still change is held back. The last one is the
    answer of `chat`. Stop iterating, and the model stops; history and past_key_values, as last
    given, are good to go on with. `print_stream` prints it.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    query : str
        As in `chat`.
    history : list[dict] | None
        As in `chat`.
    role : str
        As in `chat`.
    system : str | None
        As in `chat`.
    max_length : int
        As in `chat`.
    max_new_tokens : int | None
        As in `chat`.
    num_beams : int
        1: what a beam search will say is not known before its end.
    do_sample : bool
        As in `chat`.
    top_p : float
        As in `chat`.
    temperature : float
        As in `chat`.
    seed : int | None
        As in `chat`.
    logits_processor : Callable | Sequence[Callable] | None
        As in `chat`.
    eos_token_id : int | list[int] | None
        As in `chat`.
    past_key_values : ChatCache | None
        As in `chat`.
    return_past_key_values : bool
        Whether to iterate over (response, history, past_key_values).
    split_special_tokens : bool
        As in `chat`.
    **settings : SettingsOfChat
        As in `chat`.

    Returns
    -------
    Iterator[tuple[Any, ...]]
        Iterates over (response, history).

    Raises
    ------
    TypeError, ValueError
        As `chat` does.
    """
    given = {k: v for k, v in locals().items() if k in _OF_TURN}
    check_draws(do_sample, seed)
    arguments.flag("return_past_key_values", return_past_key_values)
    if arguments.whole("num_beams", num_beams) != 1:
        raise ValueError(f"num_beams={num_beams}: beams cannot be streamed; use chat")
    if not isinstance(past_key_values, (ChatCache, type(None))):
        raise TypeError(
            "past_key_values must be what chat or stream_chat returned with "
            f"return_past_key_values=True, not {type(past_key_values).__name__}"
        )
    turn = _Turn(**given, **settings)
    _warn_of_brought(model, do_sample=do_sample, num_beams=1, **turn.settings)
    run = Generation(
        model, turn.input_ids, None, turn.max_new_tokens, 1, turn.ends, turn.settings, do_sample
    )
    if past_key_values is not None:
        past_key_values.begin(run.prefix)
    answers = _answers(turn, run, do_sample, seeded(seed))
    return answers if return_past_key_values else (answer[:2] for answer in answers)


def print_stream(stream: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Print the answer of `stream_chat` as it is made, and return the last of its tuples.

    A character that would steer the terminal, such as ESC or one that turns the direction of
    writing, is printed as its code point, such as ⟨U+001B⟩. The notebook's stop button ends the
    answer where it is.

    Parameters
    ----------
    stream : Iterable[tuple[Any, ...]]
        What `stream_chat` returns.

    Returns
    -------
    tuple[Any, ...]
        The last of the tuples.

    Raises
    ------
    KeyboardInterrupt
        Where there is none yet.
    TypeError
        For anything but what `stream_chat` returns.
    """
    try:
        answers = iter(stream)
    except TypeError as error:
        shown = arguments.shown(stream)
        raise TypeError(f"stream must be what stream_chat returns, not {shown}") from error
    last, printed = None, 0
    try:
        for last in answers:
            if not (isinstance(last, tuple) and last and isinstance(last[0], str)):
                raise TypeError(
                    "stream must give tuples of a response and a history, as stream_chat does, "
                    f"not {arguments.shown(last)}"
                )
            print(printable(last[0][printed:]), end="", flush=True)
            printed = len(last[0])
    except KeyboardInterrupt:
        if last is None:
            raise
    print()
    return last


def remove_invalid_values(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A `logits_processor` against NaN and +inf: no token with such a score is chosen.

    NaN becomes −inf. +inf is taken as certainty: the tokens that have it become 0, all others −inf.
    −inf stays, since that is how a token is ruled out, and so does a row that is NaN throughout: no
    choice can be made of it, and the decoding loops say so. transformers'
    InfNanRemoveLogitsProcessor makes 0 of NaN, which beats all other tokens where the scores are
    negative, as those of GPT-2, and all log-probabilities, are.

    Parameters
    ----------
    input_ids : Tensor
        The text so far, shape (rows, tokens); not looked at.
    scores : Tensor
        Shape (rows, vocabulary).

    Returns
    -------
    Tensor
        Shape (rows, vocabulary), without NaN and +inf.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"scores must be a float tensor, not {arguments.shown(scores)}")
    valid = scores.masked_fill(scores.isnan(), -math.inf)
    certain = scores == math.inf
    certainty = torch.zeros_like(scores).masked_fill(~certain, -math.inf)
    valid = torch.where(certain.any(-1, keepdim=True), certainty, valid)
    return torch.where(scores.isnan().all(-1, keepdim=True), scores, valid)


class _Turn:
    """A question ready to be answered: what the model reads, and what makes an answer of it."""

    def __init__(
        self, model, tokenizer, query, history, role, system, max_length, max_new_tokens,
        top_p, temperature, logits_processor, eos_token_id, split_special_tokens, **settings,
    ):  # fmt: skip
        check_model(model)
        check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        arguments.flag("split_special_tokens", split_special_tokens)
        self.messages, names = _messages(query, history, role, system)
        eos = _eos_token_ids(model, tokenizer, eos_token_id)
        self.eos = torch.tensor(eos, dtype=torch.long)
        processors.check(logits_processor=logits_processor, top_p=top_p, temperature=temperature)
        own = logits_processor or []
        own = list(own) if isinstance(own, (list, tuple)) else [own]
        settings |= {"top_p": top_p, "temperature": temperature}
        self.settings = settings | {"logits_processor": [*own, remove_invalid_values]}
        max_length = arguments.whole("max_length", max_length)
        if max_new_tokens is not None:
            max_new_tokens = arguments.whole("max_new_tokens", max_new_tokens)
        ids = conversation_ids(
            tokenizer, self.messages, names,
            split_special_tokens=split_special_tokens, vocab_size=vocab_size(model),
        )  # fmt: skip
        self.input_ids = torch.tensor([ids])
        self.max_new_tokens = _room(model, len(ids), max_length, max_new_tokens)

    def ends(self, input_ids: Tensor) -> Tensor:
        """Whether a row of `input_ids`, shape (rows, tokens), ends in an eos token."""
        return torch.isin(input_ids[:, -1], self.eos.to(input_ids.device))

    def take(self, text: GrowingText, token_id: int) -> str:
        """Add a token to the answer's text, unless it ends the answer; the text so far."""
        return text.text if token_id in self.eos else text.add(token_id)

    def reply(self, response: str) -> tuple[str, list[dict]]:
        """(response, history), a list of its own."""
        return response, [*self.messages, {"role": "assistant", "content": response}]


_OF_TURN = (
    "model", "tokenizer", "query", "history", "role", "system", "max_length", "max_new_tokens",
    "top_p", "temperature", "logits_processor", "eos_token_id", "split_special_tokens",
)  # fmt: skip


def _answers(
    turn: _Turn, run: Generation, do_sample: bool, generator: torch.Generator | None
) -> Iterator[tuple[str, list[dict], ChatCache]]:
    """The answer each time that it has grown."""
    text, shown, memory = GrowingText(turn.tokenizer), None, ChatCache()
    while run.goes_on:
        scores = run.process(memory.follow(run.prefix))
        token = draw(scores.softmax(-1), generator) if do_sample else scores.argmax(-1).cpu()
        run.prefix.append(token)
        run.judge(token)
        response = turn.take(text, token.item())
        if not run.goes_on:
            response = text.end()
        # An empty answer is shown too, at its end.
        if response != shown and (response or not run.goes_on):
            shown = response
            yield (*turn.reply(response), memory)


def _warn_of_brought(model, **told) -> None:
    warn_of_brought(model, told, known=processors.DEFAULTS, call="lv.chat")


def _messages(query, history, role, system) -> tuple[list[dict], list[str]]:
    """The conversation up to and with the query, a copy; and what to call each message."""
    arguments.text("query", query)
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"role={arguments.shown(role)}: it must be one of {', '.join(ROLES)}")
    history = [] if history is None else history
    if not isinstance(history, (list, tuple)):
        raise TypeError(f"history must be a list of messages, not {type(history).__name__}")
    names = [f"history[{i}]" for i in range(len(history))]
    messages = [_message(*both) for both in zip(names, history, strict=True)]
    if system is not None:
        arguments.text("system", system)
        if messages and messages[0]["role"] == "system":
            del messages[0], names[0]
        messages.insert(0, {"role": "system", "content": system})
        names.insert(0, "system")
    return [*messages, {"role": role, "content": query}], [*names, "query"]


def _message(name: str, message) -> dict:
    """A copy of a message of the history, if it is one."""
    if not isinstance(message, dict) or "role" not in message:
        raise TypeError(
            f"{name} is {arguments.shown(message)}: each message must be a dict with a role and a "
            'content, such as {"role": "user", "content": "Hello"}'
        )
    role, content = message["role"], message.get("content")
    if not isinstance(role, str):
        raise TypeError(f"{name}['role'] must be a string, not {arguments.shown(role)}")
    # A role stands in the template's own marks, such as <|role|>, and must not end them.
    if not re.fullmatch(r"[\w .=-]+", role):
        raise ValueError(
            f"{name}['role'] is {arguments.shown(role)}: a role is a word, such as user or tool"
        )
    if content is None and not (message.get("tool_calls") or message.get("function_call")):
        raise TypeError(
            f"{name} has no content: it must be a string, such as {{'content': 'Hello'}}"
        )
    if isinstance(content, (list, tuple)):
        for i, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                raise TypeError(
                    f"{name}['content'][{i}] is {arguments.shown(part)}: each part must be a text, "
                    'such as {"type": "text", "text": "Hello"}'
                )
    elif content is not None and not isinstance(content, str):
        raise TypeError(
            f"{name}['content'] must be a string or a list of parts, not {arguments.shown(content)}"
        )
    try:
        each_text(message, lambda text: arguments.text(name, text))
        return copy.deepcopy(message)
    except RecursionError:
        raise ValueError(f"{name} holds lists or dicts within themselves") from None


def _eos_token_ids(model, tokenizer, eos_token_id) -> list[int]:
    """The tokens that end an answer: the caller's, the model's and the tokenizer's."""
    if hasattr(eos_token_id, "tolist"):
        eos_token_id = eos_token_id.tolist()
    listed = isinstance(eos_token_id, (list, tuple, set))
    own = eos_token_id if listed else [] if eos_token_id is None else [eos_token_id]
    own = [arguments.whole("eos_token_id", i, low=0, high=vocab_size(model) - 1) for i in own]
    return [*own, *eos_token_ids(model), *as_list(tokenizer.eos_token_id)]


def _room(model, prompt_tokens: int, max_length: int, max_new_tokens: int | None) -> int:
    """How many tokens the answer may have."""
    context = context_size(model)
    room = min(max_length, max_length if context is None else context) - prompt_tokens
    if room < 1:
        raise ValueError(
            f"the conversation has {prompt_tokens} tokens, which leaves no room for an answer: "
            f"max_length={max_length} counts them too, and the model's context holds "
            f"{context or 'any number'}; drop the oldest messages of history, or "
            "shorten query or system"
        )
    return room if max_new_tokens is None else min(room, max_new_tokens)
