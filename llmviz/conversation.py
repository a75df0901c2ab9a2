"""Chat: questions and answers with any model whose tokenizer has a chat template.

A conversation is a list of messages, dicts with a role and a content. The template writes it as
one text, the model continues that text, and what it says up to an eos token is the answer.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os.path import commonprefix

import torch
from torch import BoolTensor, LongTensor, Tensor

from . import arguments, processors
from .decoding.beams import beam_search
from .decoding.brought import warn_of_brought
from .decoding.prefix import Prefix, as_list, eos_token_ids
from .decoding.search import Generation, check_draws, draw, seeded
from .models import check_model, context_size

ROLES = ("user", "system", "assistant", "observation", "tool")


def chat(
    model,
    tokenizer,
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
    logits_processor: Callable | list[Callable] | None = None,
    eos_token_id: int | list[int] | None = None,
    past_key_values: ChatCache | None = None,
    return_past_key_values: bool = False,
    **settings,
) -> tuple:
    """Ask, and return (response, history): the answer, and the conversation with it at its end.

    query: what is said now, by `role`: "user", "system", "assistant", or what a tool returned,
        which some models' templates call "observation", and others "tool".
    history: what was said before, as returned by the last call, or a list of dicts such as
        {"role": "user", "content": "Hello"}; it is not changed.
    system: a system prompt, to stand first, in place of one that the history may have. Without
        one, some templates write their own.
    max_length: of conversation and answer together, in tokens, so a longer history leaves less for
        the answer. The model's context ends it too.
    max_new_tokens: of the answer alone.
    num_beams: above 1, `beam_search`.
    do_sample, top_p, temperature, seed: as in `generate`; the defaults are those of ChatGLM3.
        do_sample=False takes the likeliest token each time.
    logits_processor: functions from (input_ids, scores) to scores. Behind them
        `remove_invalid_values` does its work.
    eos_token_id: tokens that end an answer, besides all that the model's generation configuration
        names, and the tokenizer's own.
    past_key_values, return_past_key_values: with True, returns (response, history,
        past_key_values); handed to the next call with that history, they spare the model to read
        again what it knows. The tokens are those of a call without. Not with beams.
    settings: the other processors of `generate`, such as repetition_penalty or top_k.

    Raises TypeError or ValueError, before the model runs, for an argument that is out of bounds,
    for a tokenizer without a chat template, and for a conversation that is too long, or that the
    template refuses or leaves out.
    """
    given = {k: v for k, v in locals().items() if k not in ("settings", "return_past_key_values")}
    arguments.whole("num_beams", num_beams)
    if num_beams == 1:
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
        num_beams=num_beams,
        do_sample=do_sample,
        seed=seed,
        max_new_tokens=turn.max_new_tokens,
        stop=turn.ends,
        top_logprobs=1,
        **turn.settings,
    )
    return turn.reply([step.token_id for step in run.steps[0]])


def stream_chat(
    model,
    tokenizer,
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
    logits_processor: Callable | list[Callable] | None = None,
    eos_token_id: int | list[int] | None = None,
    past_key_values: ChatCache | None = None,
    return_past_key_values: bool = False,
    **settings,
) -> Iterator[tuple]:
    """`chat` that shows the answer as it is made: an iterator over (response, history).

    Each response is the whole answer so far. It begins with the one before, and never ends in half
    a character. The last one is the answer of `chat`. Stop iterating, and the model stops; history
    and past_key_values, as last given, are good to go on with. `print_stream` prints it.

    Takes and raises what `chat` does; with return_past_key_values=True, iterates over
    (response, history, past_key_values). Beams raise ValueError: what a beam search will say is
    not known before its end.
    """
    given = {k: v for k, v in locals().items() if k in _OF_TURN}
    check_draws(do_sample, seed)
    if num_beams != 1:
        raise ValueError(f"num_beams={num_beams!r}: beams cannot be streamed; use chat")
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


def print_stream(stream: Iterator[tuple]) -> tuple:
    """Print the answer of `stream_chat` as it is made, and return the last of its tuples.

    The notebook's stop button ends the answer where it is. Raises KeyboardInterrupt where there is
    none yet.
    """
    last, printed = None, 0
    try:
        for last in stream:
            print(last[0][printed:], end="", flush=True)
            printed = len(last[0])
    except KeyboardInterrupt:
        if last is None:
            raise
    print()
    return last


def remove_invalid_values(input_ids: LongTensor, scores: Tensor) -> Tensor:
    """A `logits_processor` against NaN and +inf: what is no number is never chosen.

    NaN becomes −inf. +inf is taken as certainty: the tokens that have it become 0, all others −inf.
    −inf stays, since that is how a token is ruled out, and so does a row that is NaN throughout:
    no choice can be made of it, and the decoding loops say so. transformers'
    InfNanRemoveLogitsProcessor makes 0 of NaN, which beats all other tokens where the scores are
    negative, as those of GPT-2, and all log-probabilities, are.
    """
    valid = scores.masked_fill(scores.isnan(), -math.inf)
    certain = scores == math.inf
    certainty = torch.zeros_like(scores).masked_fill(~certain, -math.inf)
    valid = torch.where(certain.any(-1, keepdim=True), certainty, valid)
    return torch.where(scores.isnan().all(-1, keepdim=True), scores, valid)


@dataclass(eq=False)
class ChatCache:
    """What a model remembers of a conversation: the tokens it has read, and its KV cache of them.

    While a stream runs on, so does its cache; it holds at any time what its tokens say.
    """

    tokens: LongTensor = field(default_factory=lambda: torch.empty(1, 0, dtype=torch.long))
    cache: object = None

    def __repr__(self) -> str:
        return f"ChatCache({self.tokens.shape[1] if self.cache is not None else 0} tokens)"

    def begin(self, prefix: Prefix) -> None:
        """Spare `prefix`, which has read nothing yet, the tokens that both begin with.

        A template may write earlier turns in another way than it did (without their thinking, for
        one), and a text's tokens need not be those that the model chose: what differs, and all
        behind it, is taken back, or else everything is read again.
        """
        # A running state, such as Mamba's, cannot go back, and goes on one token at a time only.
        if self.cache is None or getattr(prefix.model, "_is_stateful", False):
            return
        known, wanted = self.tokens[0].tolist(), prefix.input_ids[0].tolist()
        # One token at least must be read, for the scores behind it.
        shared = min(len(commonprefix([known, wanted])), len(wanted) - 1)
        cache = copy.deepcopy(self.cache)
        try:
            if shared < len(known):
                cache.crop(shared - len(known))
        except RuntimeError:  # a sliding window has let go of what it would need
            return
        prefix.cache, prefix.unread = cache, len(wanted) - shared

    def follow(self, prefix: Prefix) -> Tensor:
        """Let `prefix` read on, and return its next logits, shape (1, vocabulary)."""
        # Interrupted, some layers would have read more than others: nothing is known meanwhile.
        self.cache = None
        logits = prefix.next_logits()
        self.tokens, self.cache = prefix.input_ids, prefix.cache
        return logits


class _Turn:
    """A question ready to be answered: what the model reads, and what makes an answer of it."""

    def __init__(
        self, model, tokenizer, query, history, role, system, max_length, max_new_tokens,
        top_p, temperature, logits_processor, eos_token_id, **settings,
    ):  # fmt: skip
        check_model(model)
        self.tokenizer = tokenizer
        self.messages = _messages(query, history, role, system)
        text = _rendered(tokenizer, self.messages, system is not None)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        self.input_ids = torch.tensor([ids])
        self.max_new_tokens = _room(model, len(ids), max_length, max_new_tokens)
        eos = [*eos_token_ids(model), *as_list(tokenizer.eos_token_id), *as_list(eos_token_id)]
        self.eos = torch.tensor(eos, dtype=torch.long)
        processors.check(logits_processor=logits_processor)
        own = logits_processor or []
        own = list(own) if isinstance(own, (list, tuple)) else [own]
        settings |= {"top_p": top_p, "temperature": temperature}
        self.settings = settings | {"logits_processor": [*own, remove_invalid_values]}

    def ends(self, input_ids: LongTensor) -> BoolTensor:
        """Whether a row of `input_ids`, shape (rows, tokens), ends in an eos token."""
        return torch.isin(input_ids[:, -1], self.eos.to(input_ids.device))

    def reply(self, tokens: list[int]) -> tuple[str, list[dict]]:
        """(response, history), as far as the answer's tokens tell."""
        if tokens and tokens[-1] in self.eos:
            tokens = tokens[:-1]
        # Cleaned up, "do n" would become "don't" with the next token, and not grow.
        text = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        response = text.rstrip("\ufffd")  # a character whose other bytes have not come yet
        answer = {"role": "assistant", "content": response}
        return response, [*self.messages, answer]


_OF_TURN = (
    "model", "tokenizer", "query", "history", "role", "system", "max_length", "max_new_tokens",
    "top_p", "temperature", "logits_processor", "eos_token_id",
)  # fmt: skip


def _answers(
    turn: _Turn, run: Generation, do_sample: bool, generator: torch.Generator | None
) -> Iterator[tuple[str, list[dict], ChatCache]]:
    """The answer each time that it has grown."""
    tokens, shown, memory = [], None, ChatCache()
    while run.goes_on:
        scores = run.process(memory.follow(run.prefix))
        token = draw(scores.softmax(-1), generator) if do_sample else scores.argmax(-1).cpu()
        run.prefix.append(token)
        run.judge(token)
        tokens.append(token.item())
        response, history = turn.reply(tokens)
        # An empty answer is shown too, at its end.
        if response != shown and (response or not run.goes_on):
            shown = response
            yield response, history, memory


def _warn_of_brought(model, **told) -> None:
    warn_of_brought(model, told, known=processors.DEFAULTS, call="lv.chat")


def _messages(query: str, history, role: str, system: str | None) -> list[dict]:
    """The conversation up to and with the query; a list of its own."""
    for name, text in (("query", query), ("system", system or "")):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string, not {type(text).__name__}: {text!r:.60}")
    if role not in ROLES:
        raise ValueError(f"role={role!r}: it must be one of {', '.join(ROLES)}")
    history = [] if history is None else history
    if not isinstance(history, (list, tuple)):
        raise TypeError(f"history must be a list of messages, not {type(history).__name__}")
    for i, message in enumerate(history):
        if not isinstance(message, dict) or "role" not in message:
            raise TypeError(
                f"history[{i}] is {message!r:.60}: each message must be a dict with a role and a "
                'content, such as {"role": "user", "content": "Hello"}'
            )
    messages = [dict(message) for message in history]
    if system is not None:
        if messages and messages[0]["role"] == "system":
            del messages[0]
        messages.insert(0, {"role": "system", "content": system})
    return [*messages, {"role": role, "content": query}]


def _rendered(tokenizer, messages: list[dict], with_system: bool) -> str:
    """The conversation as the template writes it, with the beginning of an answer."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template, so it is not known how the model wants a "
            'conversation to be written: load a model made for chat (often "…-Instruct"), set '
            "tokenizer.chat_template, or continue a text of your own with llmviz.generate"
        )

    def render(messages: list[dict]) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    try:
        text = render(messages)
        # Some templates pass in silence over roles that they do not know.
        for i in (-1, 0) if with_system else (-1,):
            other = [*messages]
            other[i] = {**messages[i], "content": messages[i]["content"] + "x"}
            if render(other) == text:
                raise ValueError(
                    f"role={messages[i]['role']!r}: the model's chat template leaves out what it "
                    "says; what a tool returned is said by observation in some, by tool in others"
                )
    except TemplateError as error:
        said = ", ".join(str(message["role"]) for message in messages)
        raise ValueError(
            f"the model's chat template refuses a conversation of {said}: {error}"
        ) from error
    return text


def _room(model, prompt_tokens: int, max_length: int, max_new_tokens: int | None) -> int:
    """How many tokens the answer may have."""
    arguments.whole("max_length", max_length)
    context = context_size(model)
    room = min(max_length, max_length if context is None else context) - prompt_tokens
    if room < 1:
        raise ValueError(
            f"the conversation has {prompt_tokens} tokens, which leaves no room for an answer: "
            f"max_length={max_length} counts them too, and the model's context holds "
            f"{context or 'any number'}; drop the oldest messages of history"
        )
    if max_new_tokens is None:
        return room
    arguments.whole("max_new_tokens", max_new_tokens)
    return min(room, max_new_tokens)
