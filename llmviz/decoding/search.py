"""Greedy search and sampling, and what the loops of all strategies share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import LongTensor, Tensor
from torch.nn import functional

from .. import arguments, processors
from ..recorder import Recorder
from ..trace import Trace
from .prefix import Prefix, StaticPrefix, check_cache, eos_token_ids, pad_token_id


def greedy_search(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    max_new_tokens: int = 40,
    top_logprobs: int = 20,
    stop: Callable[[LongTensor], Tensor] | None = None,
    cache_implementation: str | None = None,
    **settings,
) -> Trace:
    """Take the token with the highest score, again and again.

    `input_ids` and `attention_mask` have the shape (rows, tokens), padded on the left; `stop`
    takes the text so far, of that shape, and says which rows are to end; `settings` go to
    `processors.process`. `cache_implementation` is None or "static" (`StaticPrefix`).
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
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    max_new_tokens: int = 40,
    seed: int | None = None,
    top_logprobs: int = 20,
    stop: Callable[[LongTensor], Tensor] | None = None,
    cache_implementation: str | None = None,
    **settings,
) -> Trace:
    """Draw each token from the distribution that the processors leave.

    The other arguments as in `greedy_search`. Draws are made on the CPU, so that a seed means the
    same on every device; without one they come from torch's global generator.
    """
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


def check_draws(do_sample: bool, seed: int | None) -> None:
    """Raise ValueError for what says nothing about whether and how to draw."""
    arguments.flag("do_sample", do_sample)
    if seed is not None:
        arguments.whole("seed", seed, low=0, high=2**64 - 1)


def seeded(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(int(seed))


def draw(probabilities: Tensor, generator: torch.Generator | None) -> LongTensor:
    """One token a row, shape (rows,), drawn on the CPU."""
    return torch.multinomial(probabilities.cpu(), 1, generator=generator).squeeze(1)


class Generation:
    """A generation under way: the text so far, which rows go on, and the record.

    The strategies differ in how they choose a token. What they share is here: a row ends with its
    first eos token, or where `stop` says so, and is filled with the pad token from there on.
    """

    def __init__(
        self,
        model,
        input_ids: LongTensor,
        attention_mask: LongTensor | None,
        max_new_tokens: int,
        top_logprobs: int,
        stop: Callable[[LongTensor], Tensor] | None,
        settings: dict,
        do_sample: bool = False,
        cache_implementation: str | None = None,
    ):
        processors.check(vocab_size=model.config.get_text_config().vocab_size, **settings)
        self.settings = settings | {"do_sample": do_sample}
        arguments.whole("max_new_tokens", max_new_tokens)
        check_cache(cache_implementation)
        if cache_implementation is None:
            self.prefix = Prefix(model, input_ids, attention_mask)
        else:
            self.prefix = StaticPrefix(
                model, input_ids, attention_mask, max_new_tokens=max_new_tokens
            )
        self.prompt_mask = self.prefix.attention_mask
        self.num_prompt_tokens = input_ids.shape[1]
        self.max_new_tokens = max_new_tokens
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

    def process(self, logits: Tensor, input_ids: LongTensor | None = None) -> Tensor:
        """What the processors make of `logits`, shape (rows, vocabulary), that come behind
        `input_ids`: the text so far, unless given."""
        input_ids = self.prefix.input_ids if input_ids is None else input_ids
        num_new_tokens = input_ids.shape[1] - self.num_prompt_tokens
        mask = functional.pad(self.prompt_mask, (0, num_new_tokens), value=1)
        return processors.process(
            logits,
            input_ids.to(logits.device),
            attention_mask=mask.to(logits.device),
            prompt_length=self.num_prompt_tokens,
            eos_token_ids=self.eos,
            **self.settings,
        )

    def append(self, tokens: LongTensor, logits: Tensor, scores: Tensor) -> None:
        """Put a token, shape (rows,), behind each row, and record what it was chosen from."""
        self.recorder.record(logits, scores, tokens)
        tokens = self.padded(tokens)
        self.prefix.append(tokens)
        self.judge(tokens)

    def padded(self, tokens: LongTensor) -> LongTensor:
        """`tokens`, shape (rows, …), with the pad token in the rows that have ended."""
        tokens = tokens.cpu()
        if not self.eos:  # then generate does not pad: rows that `stop` ended run on
            return tokens
        ended = ~self.unfinished.view(-1, *[1] * (tokens.ndim - 1))
        return tokens.masked_fill(ended, self.pad)

    def judge(self, tokens: LongTensor, input_ids: LongTensor | None = None) -> None:
        """See which rows end with these tokens, shape (rows,), the last ones of `input_ids`: of
        the text so far, unless given."""
        self.lengths += self.unfinished
        self.unfinished &= ~torch.isin(tokens, torch.tensor(self.eos, dtype=torch.long))
        if self.stop is not None:
            input_ids = self.prefix.input_ids if input_ids is None else input_ids
            self.unfinished &= ~self.stop(input_ids).cpu()

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
