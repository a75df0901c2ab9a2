"""What the model says next, as tables: one position's scores, and greedy search step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from . import arguments
from .decoding import generate
from .models import check_model, context_size, vocab_size
from .recorder import top_tokens
from .tables import Table
from .tokens import encode, token_labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def logits_to_frame(logits: Tensor, tokenizer: PreTrainedTokenizerBase, top_k: int = 10) -> Table:
    """One position's scores, ranked: a Table with a row per token, the most likely first.

    Parameters
    ----------
    logits : Tensor
        Shape (vocabulary,), such as `model(**inputs).logits[0, -1]`; −inf rules a token out. It may
        be longer than the tokenizer's vocabulary: an id without a token is shown by its number.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    top_k : int
        How many tokens to list.

    Returns
    -------
    Table
        Columns: rank (1 + how many scores are higher, so equals share a rank; among them the lowest
        id stands first, which `argmax` takes), token_id, token, logit, log_prob (natural),
        probability; the last two are over the whole vocabulary, not over the rows shown.

    Raises
    ------
    TypeError
        For what are no numbers and for a tokenizer that is none.
    ValueError
        For another shape, for `top_k` below 1 or above the vocabulary, and for logits that give no
        distribution (NaN, +inf, or all −inf).
    """
    logits = arguments.tensor("logits", logits, "vocabulary", ruled_out=True)
    top_k = arguments.whole("top_k", top_k, 1, len(logits))
    arguments.tokenizer("tokenizer", tokenizer)
    ids, ranks = (x[0] for x in top_tokens(logits[None], top_k))
    log_probs = logits.log_softmax(-1)[ids].double()
    return Table(
        {
            "rank": ranks.tolist(),
            "token_id": ids.tolist(),
            "token": token_labels(tokenizer, ids),
            "logit": logits[ids].double().tolist(),
            "log_prob": log_probs.tolist(),
            "probability": log_probs.exp().tolist(),
        }
    )


def predict_next_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    num_steps: int = 10,
    top_k: int = 5,
    *,
    add_special_tokens: bool = True,
) -> Table:
    """Greedy search, step by step: a Table with a row per step.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    sentence : str
        The text to continue.
    num_steps : int
        How many tokens to generate.
    top_k : int
        How many tokens to list.
    add_special_tokens : bool
        Whether the tokenizer may put a bos token in front; False for a sentence that a chat
        template wrote, which begins with its own.

    Returns
    -------
    Table
        Columns: step (from 1), current sentence (the text before the step), then Top1_Token,
        Top1_Prob … up to `top_k`: the most likely next tokens and their probabilities (numbers from
        0 to 1). The next row's sentence ends with Top1_Token, also where others are equally likely.
        The table ends early when the model ends its text.

    Raises
    ------
    TypeError, ValueError
        For an argument out of bounds, before the model runs.
    """
    check_model(model)
    arguments.tokenizer("tokenizer", tokenizer)
    vocabulary = model.config.get_text_config().vocab_size
    num_steps = arguments.whole("num_steps", num_steps)
    top_k = arguments.whole("top_k", top_k, 1, vocabulary)
    sentence = arguments.text("sentence", sentence)
    input_ids, _ = encode(
        tokenizer,
        sentence,
        name="sentence",
        add_special_tokens=add_special_tokens,
        vocab_size=vocab_size(model),
    )
    context, tokens = context_size(model), input_ids.shape[1]
    if context is not None and tokens + num_steps - 1 > context:
        raise ValueError(
            f"sentence has {tokens} tokens, and with num_steps={num_steps} it does not fit into "
            f"the model's context of {context} tokens: shorten it, or take fewer steps"
        )
    run = generate(
        model,
        tokenizer,
        sentence,
        max_new_tokens=num_steps,
        top_logprobs=top_k,
        add_special_tokens=add_special_tokens,
    )
    rows = []
    for t, step in enumerate(run.steps[0]):
        so_far = run.sequences[0, : run.num_prompt_tokens + t]
        row = {"step": t + 1, "current sentence": tokenizer.decode(so_far)}
        for k, candidate in enumerate(step.candidates[:top_k], start=1):
            row[f"Top{k}_Token"] = run.labels[candidate.token_id]
            row[f"Top{k}_Prob"] = math.exp(candidate.log_prob)
        rows.append(row)
    return Table(rows)
