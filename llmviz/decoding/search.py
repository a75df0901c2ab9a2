"""Greedy search and sampling: one loop, two ways to choose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import LongTensor, Tensor

from .. import processors
from ..trace import Recorder, Trace
from .prefix import Prefix, check_count, eos_token_ids, lengths_of, pad_token_id


def greedy_search(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    max_new_tokens: int = 40,
    top_logprobs: int = 20,
    **settings,
) -> Trace:
    """Take the token with the highest score, again and again.

    `input_ids` and `attention_mask` have the shape (rows, tokens), padded on the left; `settings`
    go to `processors.process`.
    """

    def likeliest(scores: Tensor) -> LongTensor:
        return scores.argmax(-1)

    return _search(
        model, input_ids, attention_mask, likeliest, False, max_new_tokens, top_logprobs, settings
    )


def sample(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    max_new_tokens: int = 40,
    seed: int | None = None,
    top_logprobs: int = 20,
    **settings,
) -> Trace:
    """Draw each token from the distribution that the processors leave.

    `input_ids` and `attention_mask` have the shape (rows, tokens), padded on the left; `settings`
    go to `processors.process`. Draws are made on the CPU, so that a seed means the same on every
    device; without one they come from torch's global generator.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def draw(scores: Tensor) -> LongTensor:
        probabilities = scores.softmax(-1).cpu()
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    run = _search(
        model, input_ids, attention_mask, draw, True, max_new_tokens, top_logprobs, settings
    )
    run.settings["seed"] = seed
    return run


def _search(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None,
    choose: Callable[[Tensor], LongTensor],
    do_sample: bool,
    max_new_tokens: int,
    top_logprobs: int,
    settings: dict,
) -> Trace:
    check_count("max_new_tokens", max_new_tokens)
    processors.check(vocab_size=model.config.get_text_config().vocab_size, **settings)
    settings = {**settings, "do_sample": do_sample}
    prefix = Prefix(model, input_ids, attention_mask)
    recorder = Recorder(top_logprobs)
    eos, pad = torch.tensor(eos_token_ids(model)), pad_token_id(model)
    unfinished, start = torch.ones(len(input_ids), dtype=torch.bool), input_ids.shape[1]
    for _ in range(max_new_tokens):
        logits = prefix.next_logits()
        scores = processors.process(
            logits,
            prefix.input_ids,
            attention_mask=prefix.attention_mask,
            prompt_length=start,
            eos_token_ids=eos.tolist(),
            **settings,
        )
        tokens = choose(scores)
        recorder.record(logits, scores, tokens)
        tokens = torch.where(unfinished, tokens.cpu(), pad)
        prefix.append(tokens)
        unfinished &= ~torch.isin(tokens, eos)
        if not unfinished.any():
            break
    sequences = prefix.input_ids.cpu()
    steps = recorder.steps(lengths_of(sequences[:, start:], eos.tolist()))
    return Trace([], [], sequences, start, steps, settings=settings)
