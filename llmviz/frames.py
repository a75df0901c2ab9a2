"""Tables: a position's scores, and a generation step by step, as DataFrames."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .decoding import generate
from .tables import Table
from .tokens import token_labels


def logits_to_frame(logits: Tensor, tokenizer, top_k: int = 10) -> Table:
    """One position's scores, ranked: a Table with a row a token, the likeliest first.

    logits: shape (vocabulary,), such as `model(**inputs).logits[0, -1]`.
    Columns: rank, token_id, token, logit, log_prob (natural), probability; the last two are over
    the whole vocabulary, not over the rows shown.
    Raises ValueError for another shape, for `top_k` below 1 or above the vocabulary, and for
    logits that give no distribution (NaN, +inf, or all −inf).
    """
    logits = torch.as_tensor(logits).detach().float().cpu()
    if logits.ndim != 1:
        raise ValueError(
            f"logits has the shape {tuple(logits.shape)}: pass one position's scores, of shape "
            "(vocabulary,), such as logits[0, -1]"
        )
    _check_top_k(top_k, len(logits))
    log_probs = logits.log_softmax(-1)
    if log_probs.isnan().any():
        raise ValueError("logits holds NaN or +inf, or is −inf throughout: no probabilities follow")
    top = logits.topk(top_k)
    chosen = log_probs[top.indices].double()
    return Table(
        {
            "rank": range(1, top_k + 1),
            "token_id": top.indices.tolist(),
            "token": token_labels(tokenizer, top.indices),
            "logit": top.values.double().tolist(),
            "log_prob": chosen.tolist(),
            "probability": chosen.exp().tolist(),
        }
    )


def predict_next_tokens(
    model, tokenizer, sentence: str, num_steps: int = 10, top_k: int = 5
) -> Table:
    """Greedy search, step by step: a Table with a row a step.

    Columns: step (from 1), current sentence (the text before the step), then Top1_Token,
    Top1_Prob … up to `top_k`: the likeliest next tokens and their probabilities (numbers from
    0 to 1). The next row's sentence has Top1_Token behind it. The table ends early when the
    model ends its text.
    Raises TypeError or ValueError for an argument out of bounds, before the model runs.
    """
    if not isinstance(sentence, str):
        raise TypeError(f"sentence must be a string, not {type(sentence).__name__}")
    if not sentence:
        raise ValueError("sentence is '', which has no tokens: give the model at least one")
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r}: it must be a whole number of 1 or more")
    _check_top_k(top_k, model.config.get_text_config().vocab_size)
    run = generate(model, tokenizer, sentence, max_new_tokens=num_steps, top_logprobs=top_k)
    rows = []
    for t, step in enumerate(run.steps[0]):
        so_far = run.sequences[0, : run.num_prompt_tokens + t]
        row = {"step": t + 1, "current sentence": tokenizer.decode(so_far)}
        for k, candidate in enumerate(step.candidates[:top_k], start=1):
            row[f"Top{k}_Token"] = run.labels[candidate.token_id]
            row[f"Top{k}_Prob"] = math.exp(candidate.log_prob)
        rows.append(row)
    return Table(rows)


def _check_top_k(top_k, vocabulary: int) -> None:
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= vocabulary:
        raise ValueError(
            f"top_k={top_k!r}: it must be a whole number from 1 to the vocabulary's {vocabulary}"
        )
