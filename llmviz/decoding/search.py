"""Greedy search and sampling, and what the loops of all strategies share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .. import arguments, processors
from ..models import check_length, check_model, vocab_size
from ..recorder import Recorder
from ..trace import Trace
from .guidance import Unconditional, unconditional
from .prefix import Prefix, StaticPrefix, check_cache, eos_token_ids, pad_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Unpack

    from ..settings import Settings

# Every beam, returned sequence or look-ahead is a row of the batch, and costs memory and time.
MOST_ROWS = 1024


def greedy_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 40,
    top_logprobs: int = 20,
    stop: Callable[[Tensor], Tensor] | None = None,
    cache_implementation: str | None = None,
    **settings: Unpack[Settings],
) -> Trace:
    """Take the token with the highest score, again and again.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    input_ids : Tensor
        The prompts, shape (rows, tokens), padded on the left.
    attention_mask : Tensor | None
        Of the same shape: 0 where `input_ids` is padding, else 1; all 1 unless given.
    max_new_tokens : int
        How many tokens to generate at most.
    top_logprobs : int
        How many of the most likely tokens to record at each step.
    stop : Callable[[Tensor], Tensor] | None
        From the text so far, shape (rows, tokens), to a bool tensor (rows,): which rows are to end.
    cache_implementation : str | None
        None, or "static" (`prefix.StaticPrefix`).
    **settings : Settings
        For `processors.process`.

    Returns
    -------
    Trace
        The record of the run, without texts.

    Raises
    ------
    TypeError, ValueError
        Before the model runs, for an argument that is out of bounds, and for a text that with
        `max_new_tokens` would not fit into the model's context.
    """
    run = Generation(
        model,
        input_ids,
        attention_mask,
        max_new_tokens,
        top_logprobs,
        stop,
        settings,
        cache_implementation=cache_implementation,
    )
    while run.goes_on:
        logits = run.prefix.next_logits()
        scores = run.process(logits)
        run.append(scores.argmax(-1), logits, scores)
    return run.trace()


def sample(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int = 40,
    seed: int | None = None,
    top_logprobs: int = 20,
    stop: Callable[[Tensor], Tensor] | None = None,
    cache_implementation: str | None = None,
    **settings: Unpack[Settings],
) -> Trace:
    """Draw each token from the distribution that the processors leave.

    Draws are made on the CPU, so that a seed means the same on every device.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    input_ids : Tensor
        The prompts, shape (rows, tokens), padded on the left.
    attention_mask : Tensor | None
        Of the same shape: 0 where `input_ids` is padding, else 1; all 1 unless given.
    max_new_tokens : int
        How many tokens to generate at most.
    seed : int | None
        Of the draws, which are made on the CPU; None takes torch's global generator.
    top_logprobs : int
        How many of the most likely tokens to record at each step.
    stop : Callable[[Tensor], Tensor] | None
        From the text so far, shape (rows, tokens), to a bool tensor (rows,): which rows are to end.
    cache_implementation : str | None
        None, or "static" (`prefix.StaticPrefix`).
    **settings : Settings
        For `processors.process`.

    Returns
    -------
    Trace
        The record of the run, without texts.
    """
    _, seed = check_draws(True, seed)
    generator = seeded(seed)
    run = Generation(
        model,
        input_ids,
        attention_mask,
        max_new_tokens,
        top_logprobs,
        stop,
        settings,
        do_sample=True,
        cache_implementation=cache_implementation,
    )
    while run.goes_on:
        logits = run.prefix.next_logits()
        scores = run.process(logits)
        run.append(draw(scores.softmax(-1), generator), logits, scores)
    return run.trace(seed=seed)


def check_draws(do_sample: bool, seed: int | None) -> tuple[bool, int | None]:
    """Whether and how to draw, as plain Python; a ValueError for what says nothing about it."""
    do_sample = arguments.flag("do_sample", do_sample)
    if seed is not None:
        seed = arguments.whole("seed", seed, low=0, high=2**64 - 1)
    return do_sample, seed


def check_inputs(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A strategy's prompts and their mask, both int64; TypeError or ValueError where they are not
    token ids of the model, padded on the left."""
    check_model(model)
    for name, given in (("input_ids", input_ids), ("attention_mask", attention_mask)):
        if not isinstance(given, Tensor) and not (given is None and name == "attention_mask"):
            raise TypeError(
                f"{name} must be a tensor of shape (rows, tokens), not {type(given).__name__}: "
                f'pass tokenizer(texts, return_tensors="pt").{name}'
            )
    whole = input_ids.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
    if input_ids.ndim != 2 or 0 in input_ids.shape or not whole:
        raise ValueError(
            f"input_ids is a tensor of {input_ids.dtype} and shape {tuple(input_ids.shape)}: it "
            "must hold token ids in the shape (rows, tokens), with one token or more"
        )
    size = vocab_size(model)
    lowest, highest = input_ids.min().item(), input_ids.max().item()
    if lowest < 0 or highest >= size:
        raise ValueError(
            f"input_ids holds the token id {lowest if lowest < 0 else highest}: the model has "
            f"embeddings for the ids from 0 to {size - 1}; was it made with the tokenizer of "
            "another model?"
        )
    input_ids = input_ids.long()
    if attention_mask is None:
        return input_ids, torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}, and input_ids "
            f"{tuple(input_ids.shape)}: both must be (rows, tokens)"
        )
    mask = attention_mask.long()
    if not torch.equal(mask, attention_mask) or not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask must hold 1 for a token and 0 for padding, nothing else")
    if not mask[:, -1].all() or (mask.diff(dim=-1) < 0).any():
        raise ValueError(
            "attention_mask has a 0 after a 1, or none at all: prompts must be padded on the left "
            '(tokenizer.padding_side = "left"), since each one is continued at its end'
        )
    return input_ids, mask


def check_stop(stop: Callable | None) -> None:
    if stop is not None and (not callable(stop) or isinstance(stop, type)):
        raise TypeError(
            f"stop={arguments.shown(stop)}: it must be a function of input_ids (rows, tokens) to a "
            "bool tensor (rows,), or None"
        )


def stopped(stop: Callable[[Tensor], Tensor], input_ids: Tensor) -> Tensor:
    """Which rows `stop` ends, shape (rows,), on the CPU."""
    ends = stop(input_ids)
    if (
        not isinstance(ends, Tensor)
        or ends.dtype != torch.bool
        or ends.shape != input_ids.shape[:1]
    ):
        found = ends.dtype if isinstance(ends, Tensor) else type(ends).__name__
        shape = f" of shape {tuple(ends.shape)}" if isinstance(ends, Tensor) else ""
        raise ValueError(
            f"stop returned {found}{shape}: it must return a bool tensor of shape "
            f"({len(input_ids)},), one value for each row"
        )
    return ends.cpu()


def seeded(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(int(seed))


def draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One token per row, shape (rows,), drawn on the CPU."""
    return torch.multinomial(probabilities.cpu(), 1, generator=generator).squeeze(1)


class Generation:
    """A generation under way: the text so far, which rows go on, and the record.

    The strategies differ in how they choose a token. What they share is here: a row ends with its
    first eos token, or where `stop` says so, and is filled with the pad token from there on.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        max_new_tokens: int,
        top_logprobs: int,
        stop: Callable[[Tensor], Tensor] | None,
        settings: dict,
        do_sample: bool = False,
        cache_implementation: str | None = None,
        reads_last: bool = False,
        takes_back: bool = False,
    ):
        input_ids, attention_mask = check_inputs(model, input_ids, attention_mask)
        size = model.config.get_text_config().vocab_size
        settings = processors.check(vocab_size=size, **settings)
        self.settings = settings | {"do_sample": arguments.flag("do_sample", do_sample)}
        max_new_tokens = arguments.whole("max_new_tokens", max_new_tokens)
        top_logprobs = arguments.whole("top_logprobs", top_logprobs)
        check_length(model, int(attention_mask.sum(-1).max()), max_new_tokens, reads_last)
        check_cache(cache_implementation)
        check_stop(stop)
        if cache_implementation is None:
            self.prefix = Prefix(model, input_ids, attention_mask)
        else:
            self.prefix = StaticPrefix(
                model, input_ids, attention_mask, max_new_tokens=max_new_tokens
            )
        self.prompt_mask = self.prefix.attention_mask
        self.num_prompt_tokens = input_ids.shape[1]
        self.max_new_tokens = max_new_tokens
        self.unconditional = unconditional(model, settings, self.num_prompt_tokens, takes_back)
        self.recorder = Recorder(top_logprobs)
        self.eos, self.pad, self.stop = eos_token_ids(model), pad_token_id(model), stop
        self.unfinished = torch.ones(len(input_ids), dtype=torch.bool)
        self.lengths = torch.zeros(len(input_ids), dtype=torch.long)

    @property
    def goes_on(self) -> bool:
        return self.left > 0 and bool(self.unfinished.any())

    @property
    def left(self) -> int:
        """How many tokens may still come."""
        return self.max_new_tokens - int(self.lengths.max())

    def process(
        self,
        logits: Tensor,
        input_ids: Tensor | None = None,
        unconditional: Unconditional | None = None,
    ) -> Tensor:
        """What the processors make of `logits`, shape (rows, vocabulary), that come after
        `input_ids`: the text so far, unless given. `unconditional` guides another model's."""
        input_ids = self.prefix.input_ids if input_ids is None else input_ids
        num_new_tokens = input_ids.shape[1] - self.num_prompt_tokens
        mask = functional.pad(self.prompt_mask, (0, num_new_tokens), value=1)
        without_prompt = unconditional or self.unconditional
        return processors.process(
            logits,
            input_ids.to(logits.device),
            attention_mask=mask.to(logits.device),
            prompt_length=self.num_prompt_tokens,
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self.eos,
            unconditional_logits=without_prompt and without_prompt.logits(input_ids),
            **self.settings,
        )

    def append(self, tokens: Tensor, logits: Tensor, scores: Tensor) -> None:
        """Add a token, shape (rows,), to each row, and record what it was chosen from."""
        self.recorder.record(logits, scores, tokens)
        tokens = self.padded(tokens)
        self.prefix.append(tokens)
        self.judge(tokens)

    def padded(self, tokens: Tensor) -> Tensor:
        """`tokens`, shape (rows, …), with the pad token in the rows that have ended."""
        tokens = tokens.cpu()
        if not self.eos:  # then generate does not pad: rows that `stop` ended run on
            return tokens
        ended = ~self.unfinished.view(-1, *[1] * (tokens.ndim - 1))
        return tokens.masked_fill(ended, self.pad)

    def judge(self, tokens: Tensor, input_ids: Tensor | None = None) -> None:
        """See which rows end with these tokens, shape (rows,), the last ones of `input_ids`: of
        the text so far, unless given."""
        self.lengths += self.unfinished
        self.unfinished &= ~torch.isin(tokens, torch.tensor(self.eos, dtype=torch.long))
        if self.stop is not None:
            input_ids = self.prefix.input_ids if input_ids is None else input_ids
            self.unfinished &= ~stopped(self.stop, input_ids)

    def trace(self, **settings) -> Trace:
        steps = self.recorder.steps(self.lengths.tolist())
        settings = self.settings | settings
        return Trace(
            [],
            [],
            self.prefix.input_ids.cpu(),
            self.num_prompt_tokens,
            steps,
            settings=settings,
            prompt_lengths=self.prompt_mask.sum(-1).tolist(),
        )
