"""A closed question: which of these answers does the model find most likely?"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from os.path import commonprefix

import torch
from torch import LongTensor, Tensor

from . import arguments
from .decoding.prefix import Prefix
from .models import check_model, context_size, vocab_size
from .tables import Table
from .tokens import check_ids, check_tokenizer, token_labels


def score_choices(
    model,
    tokenizer,
    prompt: str,
    choices: Iterable[str],
    *,
    add_special_tokens: bool = True,
    batch_size: int = 64,
) -> Table:
    """How likely the model finds each of `choices` as the continuation of `prompt`.

    prompt, choices: texts that are joined as they are, so a choice usually begins with a space.
    add_special_tokens: False for a prompt that a chat template wrote, with its special tokens in
        it.
    batch_size: how many choices the model reads at a time; fewer need less memory.

    Returns a Table with a row per choice, in the order given. Columns: choice; tokens, readable;
    token_log_probs, of each token after those before it; log_prob, their sum: the natural
    logarithm of the probability of the whole answer; probability, softmax(log_prob): the share
    among the choices, which add up to 1 even where the model would say something else;
    mean_log_prob, per token; mean_probability, softmax(mean_log_prob): the share when long
    answers are not to suffer for their length.

    Prompt and choice are tokenised together, as the model would read them. Where one of the
    choices melts into the prompt's last tokens, the scores of all of them begin at the first such
    token, so that all continue the very same tokens. The prompt is read once, and the choices
    after it as one batch, padded on the right.

    An answer's probability includes all texts that go on from its tokens: where "goods" is "good"
    and "s", "good" is never less likely. End the choices alike, with a full stop for one, if that
    matters.

    Raises TypeError or ValueError, before the model runs, for a prompt or choices that are no
    texts, that have no tokens of their own or tokens without an embedding, for a choice given
    twice, and for texts that do not fit into the model's context; and afterwards where no
    probabilities follow from what the model says.
    """
    check_model(model)
    check_tokenizer(tokenizer)
    batch_size = arguments.whole("batch_size", batch_size)
    add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
    choices = _checked_texts(prompt, choices)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]

    whole = [ids(prompt + choice) for choice in choices]
    start = len(commonprefix([ids(prompt), *whole]))
    answers = [row[start:] for row in whole]
    _check_tokens(model, tokenizer, whole, start, choices)

    text = Prefix(model, torch.tensor([whole[0][:start]]))
    first = text.next_logits()[0].log_softmax(-1)
    found = []
    for i in range(0, len(answers), batch_size):
        batch = answers[i : i + batch_size]
        rest = _log_probs_after(text, batch).tolist()
        for answer, row in zip(batch, rest, strict=True):
            found.append(_Short([first[answer[0]].item(), *row[: len(answer) - 1]]))
    total = torch.tensor([sum(row) for row in found], dtype=torch.double)
    mean = total / torch.tensor([len(row) for row in found])
    if total.isnan().any():
        raise ValueError(
            "the model's logits hold NaN or +inf, or are −inf throughout, so no probabilities "
            "follow; check its weights and dtype"
        )
    if total.isneginf().all():
        raise ValueError(
            "choices: the model gives each of them the probability 0, a logit of −inf, so none has "
            "a share; give at least one that it can say"
        )
    return Table(
        {
            "choice": choices,
            "tokens": [token_labels(tokenizer, answer) for answer in answers],
            "token_log_probs": found,
            "log_prob": total.tolist(),
            "probability": total.softmax(-1).tolist(),
            "mean_log_prob": mean.tolist(),
            "mean_probability": mean.softmax(-1).tolist(),
        }
    )


class _Short(list):
    """A list of numbers that prints itself short, as a Table does."""

    def __repr__(self) -> str:
        return "[" + ", ".join(f"{number:.3f}" for number in self) + "]"


def _log_probs_after(text: Prefix, answers: list[list[int]]) -> Tensor:
    """The log-probability of each token but the first of `answers`, which follow `text`.

    Shape (answers, tokens of the longest − 1), on the CPU; what stands after a shorter answer's
    end means nothing. `text`, of one row, stays as it is.
    """
    width = max(map(len, answers))
    if width == 1:
        return torch.empty(len(answers), 0)
    # What is read last does not reach what stands before it, so any token will do as padding.
    padded = torch.tensor([answer + [0] * (width - len(answer)) for answer in answers])
    rows = copy.copy(text)
    rows.cache = copy.deepcopy(text.cache)
    rows.reorder(torch.zeros(len(answers), dtype=torch.long))
    # A running state, such as Mamba's, goes on one token at a time.
    step = 1 if getattr(text.model, "_is_stateful", False) else width
    parts = []
    for read, said in zip(
        padded[:, :-1].split(step, dim=1), padded[:, 1:].split(step, dim=1), strict=True
    ):
        for column in read.T:
            rows.append(column)
        logits = rows.read(logits_to_keep=read.shape[1]).logits[:, -read.shape[1] :].float()
        parts.append(_log_prob_of(said, logits).cpu())
    return torch.cat(parts, dim=1)


def _log_prob_of(tokens: LongTensor, logits: Tensor) -> Tensor:
    """log_softmax(logits)[tokens], shape (rows, tokens), without a second tensor of that size."""
    chosen = logits.gather(-1, tokens[..., None].to(logits.device)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def _checked_texts(prompt, choices) -> list[str]:
    """The choices as a list, if they and the prompt are texts."""
    arguments.text("prompt", prompt)
    try:
        listed = None if isinstance(choices, (str, bytes)) else list(choices)
    except TypeError:  # not iterable
        listed = None
    if listed is None:
        kind = type(choices).__name__
        raise TypeError(
            f"choices must be a list of strings, not {kind}: {arguments.shown(choices)}"
        )
    if not all(isinstance(choice, str) for choice in listed):
        raise TypeError(f"choices must be a list of strings, not {arguments.shown(listed)}")
    if not listed:
        raise ValueError("choices is an empty list: give at least one answer")
    listed = [str(arguments.text(f"choices[{i}]", choice)) for i, choice in enumerate(listed)]
    twice = [choice for choice in listed if listed.count(choice) > 1]
    if twice:
        raise ValueError(
            f"choices holds {arguments.shown(twice[0])} twice: each answer must stand there once"
        )
    return listed


def _check_tokens(model, tokenizer, whole: list[list[int]], start: int, choices: list[str]) -> None:
    """Raise ValueError for prompt and choices, tokenised as `whole`, that cannot be scored."""
    if start == 0:
        raise ValueError(
            "prompt has no token that stays one in front of all choices, and the first token has "
            "nothing to follow: write a longer prompt, or put tokenizer.bos_token before it"
        )
    check_ids(tokenizer, whole[0][:start], vocab_size(model), "prompt")
    for i, row in enumerate(whole):
        if len(row) == start:
            raise ValueError(
                f"choices[{i}] is {arguments.shown(choices[i])}, which adds no token to the prompt"
            )
        check_ids(tokenizer, row[start:], vocab_size(model), f"choices[{i}]")
    context, longest = context_size(model), max(map(len, whole)) - 1
    if context is not None and longest > context:
        raise ValueError(
            f"prompt and the longest of the choices have {longest} tokens to read, and the model's "
            f"context holds {context}: shorten the prompt"
        )
