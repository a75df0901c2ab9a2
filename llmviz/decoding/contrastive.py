"""Contrastive search: a likely token whose meaning the text does not hold yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .. import arguments
from ..trace import Trace
from .search import MOST_ROWS, Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Unpack

    from ..settings import SettingsOfContrast


def contrastive_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    penalty_alpha: float = 0.6,
    top_k: int = 4,
    max_new_tokens: int = 40,
    top_logprobs: int = 20,
    stop: Callable[[Tensor], Tensor] | None = None,
    **settings: Unpack[SettingsOfContrast],
) -> Trace:
    """Of the `top_k` most likely tokens, take a likely one that repeats the text little.

    It has the highest (1 − α) · probability − α · degeneration penalty, with α = `penalty_alpha`.
    The penalty is the highest cosine similarity of the candidate's last hidden state with those of
    the text so far, so each candidate is shown to the model before one is chosen: all of them at
    once, as `top_k` rows, which makes a step one pass. α = 0 and `top_k` = 1 are greedy search. A
    token that a processor ruled out is no candidate. The trace's scores are the contrastive ones,
    −inf for all tokens but the candidates; nothing is drawn from their softmax.

    Su et al., 2022, "A Contrastive Framework for Neural Text Generation"; the processors work on
    the logits before the candidates are picked, as in transformers, which had it until version 4.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    input_ids : Tensor
        The prompts, shape (rows, tokens), padded on the left.
    attention_mask : Tensor | None
        Of the same shape: 0 where `input_ids` is padding, else 1; all 1 unless given.
    penalty_alpha : float
        The weight α of the penalty, from 0 to 1.
    top_k : int
        How many candidates to compare.
    max_new_tokens : int
        How many tokens to generate at most.
    top_logprobs : int
        How many of the most likely tokens to record at each step.
    stop : Callable[[Tensor], Tensor] | None
        From the text so far, shape (rows, tokens), to a bool tensor (rows,): which rows are to end.
    **settings : SettingsOfContrast
        For `processors.process`.

    Returns
    -------
    Trace
        The record of the run, without texts.

    Raises
    ------
    ValueError
        For α outside [0, 1], for `top_k` below 1 or above `MOST_ROWS`, and for hidden states that
        hold NaN.
    """
    penalty_alpha = check_alpha(penalty_alpha)
    top_k = arguments.whole("top_k", top_k, high=MOST_ROWS)
    run = Generation(
        model,
        input_ids,
        attention_mask,
        max_new_tokens,
        top_logprobs,
        stop,
        settings,
        reads_last=True,
    )
    text = run.prefix
    rows = torch.arange(len(input_ids))
    output = text.read(output_hidden_states=True)
    logits, context = output.logits[:, -1].float(), output.hidden_states[-1]
    while run.goes_on:
        scores = run.process(logits)
        highest, candidates = scores.topk(min(top_k, scores.shape[-1]))
        k, mask = candidates.shape[-1], text.attention_mask
        # The look-ahead: every row k times, each with another candidate after it.
        text.reorder(rows.repeat_interleave(k))
        text.append(run.padded(candidates).flatten())
        output = text.read(output_hidden_states=True)
        hidden = output.hidden_states[-1][:, -1].unflatten(0, (-1, k))
        penalty = degeneration_penalty(hidden, context, mask).to(scores.device)
        probabilities = scores.softmax(-1).gather(-1, candidates)
        contrast = (1 - penalty_alpha) * probabilities - penalty_alpha * penalty
        contrast = contrast.masked_fill(highest == -math.inf, -math.inf)
        best = contrast.argmax(-1).cpu()
        if not contrast.amax(-1).isfinite().all():
            raise ValueError(
                "the model's last hidden states hold NaN or an infinite number, so candidates "
                "cannot be compared; check the model's weights and dtype (float16 overflows)"
            )
        # Of each row's k copies the best goes on, with what the cache and the output hold of it.
        text.reorder(rows * k + best)
        tokens = candidates.cpu()[rows, best]
        contrast = torch.full_like(scores, -math.inf).scatter(-1, candidates, contrast)
        run.recorder.record(logits, contrast, tokens)
        run.judge(run.padded(tokens))
        logits = output.logits[rows * k + best, -1].float()
        context = torch.cat([context, hidden[rows, best, None]], dim=1)
    return run.trace(penalty_alpha=penalty_alpha, top_k=top_k)


def check_alpha(penalty_alpha: float) -> float:
    wanted = "a number from 0 to 1"
    return arguments.number("penalty_alpha", penalty_alpha, 0, 1, wanted=wanted)


def degeneration_penalty(hidden: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    """How much each candidate repeats: its highest cosine similarity with a token of the text.

    Parameters
    ----------
    hidden : Tensor
        The candidates' hidden states, shape (rows, candidates, width).
    context : Tensor
        Those of the text, shape (rows, tokens, width); it counts where `mask`, shape (rows,
        tokens), is not 0.
    mask : Tensor
        0 where the text is padding.

    Returns
    -------
    Tensor
        Shape (rows, candidates), from −1 to 1.
    """
    similarity = normalize(hidden.float(), dim=-1) @ normalize(context.float(), dim=-1).mT
    return similarity.masked_fill(mask[:, None] == 0, -math.inf).amax(-1)
