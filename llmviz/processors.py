"""Processors: pure functions from a step's scores to new scores.

`scores` is a float tensor of shape (rows, vocabulary): logits, or under beam search
log-probabilities. `input_ids`, of shape (rows, tokens), is the text so far. Nothing is changed
in place. A token that is ruled out gets the score −inf, so its probability is exactly 0.
Each function is called with the scores, its setting, and what else it looks at; it computes what
the transformers class named in its docstring computes, to the bit.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Categorical

from . import arguments
from .settings import (
    DEFAULTS,
    SAMPLING,
    check,
    check_beams,
    check_eos,
    check_scores,
    check_text,
    plain_ids,
    processor,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Context, Settings

# Biases: from what the text would be without its prompt, and from what the caller wishes


@processor
def guidance_scale(scores: Tensor, guidance_scale: float, unconditional_logits: Tensor) -> Tensor:
    """Classifier-free guidance: move away from what the model says without the prompt.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    guidance_scale : float
        Any finite number; 1 is off.
    unconditional_logits : Tensor
        Of the shape of `scores`: the model's logits after the prompt's last token and the
        continuation, without the rest of the prompt.

    Returns
    -------
    Tensor
        u + scale · (s − u), where s and u are the log-probabilities with and without the prompt:
        above 1 the prompt counts for more, at 0 for nothing.

    Notes
    -----
    transformers: UnbatchedClassifierFreeGuidanceLogitsProcessor; Sanchez et al., 2023.
    """
    log_probs, without = scores.log_softmax(-1), unconditional_logits.log_softmax(-1)
    return guidance_scale * (log_probs - without) + without


@processor
def sequence_bias(
    scores: Tensor, sequence_bias: Mapping[tuple[int, ...], float] | Sequence, input_ids: Tensor
) -> Tensor:
    """Add each sequence's bias to its last token, where the text so far ends in its other tokens.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    sequence_bias : Mapping[tuple[int, ...], float] | Sequence
        Pairs [token ids, bias], or a dict from tuples of token ids to biases. A bias above 0 makes
        the sequence more likely, one below 0 less; −inf rules it out.
    input_ids : Tensor
        The text so far, shape (rows, tokens).

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).

    Notes
    -----
    transformers: SequenceBiasLogitsProcessor.
    """
    by_length: dict[int, list] = {0: []}  # in the order in which transformers adds them up
    for ids, bias in sequence_bias:
        by_length.setdefault(len(ids) - 1, []).append((ids[:-1], ids[-1], bias))
    total = torch.zeros_like(scores)
    for n, group in by_length.items():
        if not group or n > input_ids.shape[1]:
            continue
        first, last, biases = (
            torch.tensor(column, device=scores.device) for column in zip(*group, strict=True)
        )
        text = input_ids[:, None, input_ids.shape[1] - n :].to(scores.device)
        matches = (text == first).all(-1)
        total.index_add_(1, last, torch.where(matches, biases.to(total.dtype), 0.0))
    return scores + total


# Penalties: from what has been said


@processor
def repetition_penalty(
    scores: Tensor,
    repetition_penalty: float,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Divide the scores of tokens in the text so far, or multiply those that are negative.

    Above 1 that makes repetition less likely, below 1 more likely. Prompt and continuation count;
    padding, where `attention_mask` (rows, tokens) is 0, does not. Logits plus a constant are the
    same distribution before, and a different one after.

    transformers: RepetitionPenaltyLogitsProcessor; Keskar et al., 2019 (CTRL).

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    repetition_penalty : float
        Above 1 makes repetition less likely, below 1 more likely; 1 is off.
    input_ids : Tensor
        The text so far, shape (rows, tokens).
    attention_mask : Tensor | None
        Shape (rows, tokens); where it is 0, `input_ids` is padding, which does not count.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    seen = _counts(input_ids, scores.shape[-1], attention_mask) > 0
    lowered = torch.where(scores < 0, scores * repetition_penalty, scores / repetition_penalty)
    return torch.where(seen, lowered, scores)


@processor
def presence_penalty(scores: Tensor, presence_penalty: float, new_tokens: Tensor) -> Tensor:
    """Subtract the penalty once from every token that has been generated, however often.

    The OpenAI API's definition, which vLLM shares. Not in transformers.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    presence_penalty : float
        From −2 to 2; 0 is off.
    new_tokens : Tensor
        The continuation, shape (rows, tokens); the prompt does not count.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    seen = _counts(new_tokens, scores.shape[-1]) > 0
    return scores - presence_penalty * seen.to(scores.dtype)


@processor
def frequency_penalty(scores: Tensor, frequency_penalty: float, new_tokens: Tensor) -> Tensor:
    """Subtract the penalty from a token's score each time it has been generated.

    The OpenAI API's definition, which vLLM shares. Not in transformers.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    frequency_penalty : float
        From −2 to 2; 0 is off.
    new_tokens : Tensor
        The continuation, shape (rows, tokens); the prompt does not count.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    return scores - frequency_penalty * _counts(new_tokens, scores.shape[-1]).to(scores.dtype)


@processor
def no_repeat_ngram_size(scores: Tensor, no_repeat_ngram_size: int, input_ids: Tensor) -> Tensor:
    """Rule out every token that would complete an n-gram which the text so far contains.

    Prompt, continuation and padding count.

    transformers: NoRepeatNGramLogitsProcessor; Paulus et al., 2017.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    no_repeat_ngram_size : int
        The length of the n-grams, in tokens; 0 is off.
    input_ids : Tensor
        The text so far, shape (rows, tokens).

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    n, length = no_repeat_ngram_size, input_ids.shape[-1]
    if n == 0 or length < n:
        return scores
    ngrams = input_ids.unfold(1, n, 1)  # (rows, length + 1 − n, n)
    begun = input_ids[:, None, length + 1 - n :]
    completes = (ngrams[..., :-1] == begun).all(-1)
    banned = _counts(ngrams[..., -1], scores.shape[-1], completes) > 0
    return scores.masked_fill(banned, -math.inf)


def _counts(input_ids: Tensor, vocab_size: int, mask: Tensor | None = None) -> Tensor:
    """How often each token stands in a row where `mask` is true, shape (rows, vocabulary)."""
    if mask is not None:
        input_ids = torch.where(mask.bool(), input_ids, vocab_size)
    # A spare column takes what does not count, such as a pad token beyond the model's vocabulary.
    counts = input_ids.new_zeros(len(input_ids), vocab_size + 1)
    input_ids = input_ids.clamp(max=vocab_size)
    return counts.scatter_add_(1, input_ids, torch.ones_like(input_ids))[:, :vocab_size]


# Rules: what must and must not be said


@processor
def bad_words_ids(
    scores: Tensor,
    bad_words_ids: Sequence[Sequence[int]],
    input_ids: Tensor,
    eos_token_ids: Iterable[int] = (),
) -> Tensor:
    """Rule out the last token of each bad word where the text so far ends in its other tokens.

    A word that is an eos token and nothing else is left out, as in transformers.

    transformers: NoBadWordsLogitsProcessor.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    bad_words_ids : Sequence[Sequence[int]]
        Words, each a list of one or more token ids.
    input_ids : Tensor
        The text so far, shape (rows, tokens).
    eos_token_ids : Iterable[int]
        What ends a text.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    bias = torch.zeros_like(scores)
    words = [list(word) for word in bad_words_ids if len(word) > 1 or word[0] not in eos_token_ids]
    for row, text in enumerate(input_ids.tolist()):
        ends = [last for *first, last in words if text[len(text) - len(first) :] == first]
        bias[row, ends] = -math.inf
    return scores + bias


@processor
def min_new_tokens(
    scores: Tensor, min_new_tokens: int, new_tokens: Tensor, eos_token_ids: Iterable[int] = ()
) -> Tensor:
    """Rule out every eos token until that many tokens have been generated.

    transformers: MinNewTokensLengthLogitsProcessor.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    min_new_tokens : int
        How many tokens to generate at least; 0 is off.
    new_tokens : Tensor
        The continuation, shape (rows, tokens); the prompt does not count.
    eos_token_ids : Iterable[int]
        What ends a text.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    if new_tokens.shape[-1] >= min_new_tokens:
        return scores
    return _without(scores, eos_token_ids)


@processor
def prefix_allowed_tokens_fn(
    scores: Tensor,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]],
    input_ids: Tensor,
    num_beams: int = 1,
) -> Tensor:
    """Rule out every token that the caller's function does not list for a row.

    It is called with the prompt's number (the row's, divided by `num_beams`) and the row's text so
    far, shape (tokens,), padding included. Where all that it allows has been ruled out before, for
    all beams of a prompt, it is forced, with the score 0.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    prefix_allowed_tokens_fn : Callable[[int, Tensor], Sequence[int]]
        From the prompt's number and the row's text so far, shape (tokens,), to the ids that may
        follow.
    input_ids : Tensor
        The text so far, shape (rows, tokens).
    num_beams : int
        How many rows in sequence continue the same prompt.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).

    Raises
    ------
    ValueError
        Naming the row, where it allows nothing, or ids outside the vocabulary.

    Notes
    -----
    transformers: PrefixConstrainedLogitsProcessor; De Cao et al., 2020.
    """
    mask = torch.full_like(scores, -math.inf)
    for row, text in enumerate(input_ids):
        allowed = prefix_allowed_tokens_fn(row // num_beams, text)
        ids = plain_ids(allowed)
        if not ids or max(ids) >= scores.shape[-1]:
            raise ValueError(
                f"prefix_allowed_tokens_fn returned {arguments.shown(allowed)} for row {row}, "
                f"after {len(text)} tokens: it must return a list of one or more token ids below "
                f"{scores.shape[-1]}; a text that is complete goes on with an eos token"
            )
        mask[row, ids] = 0
    constrained = scores + mask
    impossible = constrained.amax(-1).isneginf().view(-1, num_beams).all(-1)
    return torch.where(impossible.repeat_interleave(num_beams)[:, None], mask, constrained)


@processor
def forced_eos_token_id(
    scores: Tensor,
    forced_eos_token_id: int | Sequence[int],
    new_tokens: Tensor,
    max_new_tokens: int,
) -> Tensor:
    """Rule out all but this token, or these, where the last token of `max_new_tokens` is chosen.

    transformers: ForcedEOSTokenLogitsProcessor.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    forced_eos_token_id : int | Sequence[int]
        A token id, or several.
    new_tokens : Tensor
        The continuation, shape (rows, tokens); the prompt does not count.
    max_new_tokens : int
        How long the continuation may become.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    if new_tokens.shape[-1] != max_new_tokens - 1:
        return scores
    ids = [forced_eos_token_id] if isinstance(forced_eos_token_id, int) else forced_eos_token_id
    forced = torch.full_like(scores, -math.inf)
    forced[:, ids] = 0
    return forced


@processor
def exponential_decay_length_penalty(
    scores: Tensor,
    exponential_decay_length_penalty: tuple[int, float],
    new_tokens: Tensor,
    eos_token_ids: Iterable[int] = (),
) -> Tensor:
    """Raise every eos token's score by |score| · (factor ** n − 1), n tokens after the start.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    exponential_decay_length_penalty : tuple[int, float]
        (start, factor), the start counted in generated tokens.
    new_tokens : Tensor
        The continuation, shape (rows, tokens); the prompt does not count.
    eos_token_ids : Iterable[int]
        What ends a text.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).

    Notes
    -----
    transformers: ExponentialDecayLengthPenalty.
    """
    start, factor = exponential_decay_length_penalty
    past = new_tokens.shape[-1] - start
    if past <= 0:
        return scores
    try:
        growth = factor**past - 1
    except OverflowError:
        growth = math.inf
    eos = [i for i in eos_token_ids if i < scores.shape[-1]]
    raised = torch.zeros_like(scores)
    raised[:, eos] = (scores[:, eos].abs() * growth).masked_fill(~scores[:, eos].isfinite(), 0.0)
    return scores + raised


@processor
def suppress_tokens(scores: Tensor, suppress_tokens: Sequence[int]) -> Tensor:
    """Rule out these tokens, always.

    transformers: SuppressTokensLogitsProcessor.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    suppress_tokens : Sequence[int]
        Token ids.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    return _without(scores, suppress_tokens)


@processor
def begin_suppress_tokens(
    scores: Tensor, begin_suppress_tokens: Sequence[int], new_tokens: Tensor
) -> Tensor:
    """Rule out these tokens as the first of the continuation.

    transformers: SuppressTokensAtBeginLogitsProcessor.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    begin_suppress_tokens : Sequence[int]
        Token ids.
    new_tokens : Tensor
        The continuation, shape (rows, tokens); the prompt does not count.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    return scores if new_tokens.shape[-1] else _without(scores, begin_suppress_tokens)


def _without(scores: Tensor, token_ids) -> Tensor:
    ids = [int(i) for i in token_ids if i < scores.shape[-1]]
    ids = torch.tensor(ids, dtype=torch.long, device=scores.device)
    return scores.index_fill(-1, ids, -math.inf)


@processor
def logits_processor(
    scores: Tensor, logits_processor: Callable | Sequence[Callable], input_ids: Tensor
) -> Tensor:
    """The caller's own: a function that takes (input_ids, scores), or a list of them in order.

    Any LogitsProcessor or LogitsProcessorList of transformers will do. One of a class that a
    setting switches on as well works besides it, where in transformers it takes its place.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    logits_processor : Callable | Sequence[Callable]
        A function that takes (input_ids, scores), or several in order.
    input_ids : Tensor
        The text so far, shape (rows, tokens).

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    listed = isinstance(logits_processor, (list, tuple))
    for function in logits_processor if listed else [logits_processor]:
        processed = function(input_ids, scores.clone())  # it may work in place
        if not isinstance(processed, Tensor) or processed.shape != scores.shape:
            kind = getattr(processed, "shape", type(processed).__name__)
            raise ValueError(
                f"logits_processor: {function!r:.200} returned {kind}, where scores of shape "
                f"{tuple(scores.shape)} were wanted"
            )
        scores = processed
    return scores


# Sampling: the temperature, and what cuts off the tail. The `min_tokens_to_keep` most likely stay.


@processor
def temperature(scores: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature: below 1 sharpens the distribution, above 1 flattens it.

    transformers: TemperatureLogitsWarper.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    temperature : float
        Above 0; 1 is off.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    return scores / temperature


@processor
def top_h(scores: Tensor, top_h: float) -> Tensor:
    """Keep the most likely tokens while their part of the entropy is at most `top_h` of it.

    With the probabilities p of the 100 most likely tokens alone, which add up to 1, the tokens stay
    from the first down while the sum of their −p log p is at most `top_h` times that of all 100.
    The first stays in any case; what is not among the 100 goes, whatever the setting.

    transformers: TopHLogitsWarper, to the letter of its code. Its docstring, and Potraghloo et al.,
    2025, bound the entropy of the *selected* distribution, renormalised; its code does not.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    top_h : float
        The share of the entropy, above 0 and at most 1.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    highest, ids = scores.topk(min(100, scores.shape[-1]))
    distribution = Categorical(logits=highest, validate_args=False)
    p = distribution.probs
    bound = (distribution.entropy() * top_h)[:, None]
    stays = (-p * p.log()).cumsum(-1) <= bound  # NaN, from a token that is ruled out, stays not
    stays[:, 0] = True
    goes = torch.ones_like(scores, dtype=torch.bool).scatter(1, ids, ~stays)
    return scores.masked_fill(goes, -math.inf)


@processor
def top_k(scores: Tensor, top_k: int, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the k highest scores of a row, and whatever ties with the k-th.

    The survivors keep their proportions.

    transformers: TopKLogitsWarper; Fan et al., 2018.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    top_k : int
        How many tokens to keep; 0 is off.
    min_tokens_to_keep : int
        How many tokens stay in any case.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    if top_k == 0:
        return scores
    return scores.masked_fill(_below_top(scores, max(top_k, min_tokens_to_keep)), -math.inf)


@processor
def top_p(scores: Tensor, top_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities add up to p (the nucleus).

    The token that crosses p is kept. From the least likely up, a token goes while the sum so far is
    at most 1 − p.

    transformers: TopPLogitsWarper; Holtzman et al., 2019.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    top_p : float
        The share of the probability, above 0 and at most 1; 1 is off.
    min_tokens_to_keep : int
        How many tokens stay in any case.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    ascending, order = scores.sort(descending=False)
    goes = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    goes[:, -min_tokens_to_keep:] = False
    return scores.masked_fill(goes.scatter(1, order, goes), -math.inf)


@processor
def min_p(scores: Tensor, min_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens at least `min_p` times as likely as the most likely one.

    transformers: MinPLogitsWarper; Nguyen et al., 2024.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    min_p : float
        From 0 to 1; 0 is off.
    min_tokens_to_keep : int
        How many tokens stay in any case.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    probabilities = scores.softmax(-1)
    goes = probabilities < min_p * probabilities.amax(-1, keepdim=True)
    likeliest = probabilities.topk(min(min_tokens_to_keep, scores.shape[-1])).indices
    return scores.masked_fill(goes.scatter(-1, likeliest, False), -math.inf)


@processor
def typical_p(scores: Tensor, typical_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the tokens whose surprisal is closest to the entropy, until they add up to p or more.

    The token that crosses p is kept, with whatever is as close. The most likely token itself can
    go, where it says far less than is expected. `min_tokens_to_keep` are the most typical ones.

    transformers: TypicalLogitsWarper; Meister et al., 2022.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    typical_p : float
        The share of the probability, above 0 and at most 1; 1 is off.
    min_tokens_to_keep : int
        How many tokens stay in any case.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    log_probs = scores.log_softmax(-1)
    entropy = -(log_probs * log_probs.exp()).nansum(-1, keepdim=True)  # 0 · −inf counts 0
    distance, order = (-log_probs - entropy).abs().sort()
    reached = scores.gather(-1, order).softmax(-1).cumsum(-1)
    crossing = (reached < typical_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    goes = distance > distance.gather(-1, crossing)
    goes[:, :min_tokens_to_keep] = False
    return scores.masked_fill(goes.scatter(1, order, goes), -math.inf)


@processor
def epsilon_cutoff(scores: Tensor, epsilon_cutoff: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens with a probability of epsilon or more.

    transformers: EpsilonLogitsWarper; Hewitt et al., 2022.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    epsilon_cutoff : float
        A probability, from 0 to below 1; 0 is off.
    min_tokens_to_keep : int
        How many tokens stay in any case.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    goes = (scores.softmax(-1) < epsilon_cutoff) & _below_top(scores, min_tokens_to_keep)
    return scores.masked_fill(goes, -math.inf)


@processor
def eta_cutoff(scores: Tensor, eta_cutoff: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens with a probability of eta or more, which is lower where entropy is high.

    With ε for the setting, eta = min(ε, √ε · exp(−entropy in nats)).

    transformers: EtaLogitsWarper; Hewitt et al., 2022.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    eta_cutoff : float
        The setting ε, from 0 to below 1; 0 is off.
    min_tokens_to_keep : int
        How many tokens stay in any case.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).
    """
    epsilon = torch.tensor(eta_cutoff, device=scores.device)
    entropy = Categorical(logits=scores, validate_args=False).entropy()
    eta = torch.min(epsilon, epsilon.sqrt() * (-entropy).exp())[:, None]
    goes = (scores.softmax(-1) < eta) & _below_top(scores, min_tokens_to_keep)
    return scores.masked_fill(goes, -math.inf)


def _below_top(scores: Tensor, k: int) -> Tensor:
    """True for the scores below the k-th highest of their row."""
    return scores < scores.topk(min(k, scores.shape[-1])).values[:, -1:]


def stages(
    scores: Tensor,
    input_ids: Tensor | None = None,
    *,
    attention_mask: Tensor | None = None,
    prompt_length: int = 0,
    max_new_tokens: int | None = None,
    eos_token_ids: Iterable[int] = (),
    num_beams: int = 1,
    min_tokens_to_keep: int | None = None,
    unconditional_logits: Tensor | None = None,
    do_sample: bool = True,
    **settings: Unpack[Settings],
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, scores) after each processor that is switched on, in transformers' order.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    input_ids : Tensor | None
        The text so far, shape (rows, tokens); only the sampling settings do without it.
    attention_mask : Tensor | None
        Where it is 0, `input_ids` is padding, which no repetition penalty counts.
    prompt_length : int
        How many tokens of it, padding included, are the prompt.
    max_new_tokens : int | None
        How long the continuation may become; `forced_eos_token_id` needs it.
    eos_token_ids : Iterable[int]
        What ends a text.
    num_beams : int
        How many rows in sequence continue the same prompt.
    min_tokens_to_keep : int | None
        How many tokens each cut-off spares at least: by default 1, or under beams one more than
        there are eos ids, and 2 or more, so that a beam can go on.
    unconditional_logits : Tensor | None
        What `guidance_scale` moves away from, of the shape of `scores`.
    do_sample : bool
        Whether the temperature and the cut-offs work, as in `generate`.
    **settings : Settings
        Those of `DEFAULTS`, by name; what is not given is off.

    Returns
    -------
    Iterator[tuple[str, Tensor]]
        Pairs of a processor's name and the scores after it.

    Notes
    -----
    presence_penalty and frequency_penalty, which transformers does not have, follow
    repetition_penalty. Raises TypeError for an unknown setting, ValueError for a value out of
    bounds.
    """
    check_scores(scores)
    check_beams(arguments.whole("num_beams", num_beams), len(scores))
    settings = check(vocab_size=scores.shape[-1], **settings)
    on = {name: value for name, value in settings.items() if value != DEFAULTS[name]}
    eos_token_ids = check_eos(eos_token_ids)
    if min_tokens_to_keep is None:
        min_tokens_to_keep = 1 if num_beams == 1 else max(2, len(eos_token_ids) + 1)
    if input_ids is not None:
        check_text("input_ids", input_ids, len(scores))
    prompt_length = arguments.whole("prompt_length", prompt_length, low=0)
    context = {
        "input_ids": input_ids,
        "new_tokens": None if input_ids is None else input_ids[:, prompt_length:],
        "attention_mask": attention_mask,
        "max_new_tokens": max_new_tokens,
        "eos_token_ids": eos_token_ids,
        "num_beams": num_beams,
        "min_tokens_to_keep": min_tokens_to_keep,
        "unconditional_logits": unconditional_logits,
    }
    sampling = arguments.flag("do_sample", do_sample)
    for name in DEFAULTS:
        if name not in on or (name in SAMPLING and not sampling):
            continue
        known = {k: v for k, v in context.items() if k in _CONTEXT[name]}
        for missing, what in _NEEDED.items():
            if missing in known and known[missing] is None:
                shown = arguments.shown(on[name])
                raise ValueError(f"{name}={shown} looks at {what}")
        scores = globals()[name](scores, on[name], **known)
        yield name, scores


# What each processor looks at, besides the scores.
_CONTEXT = {name: list(inspect.signature(globals()[name]).parameters)[2:] for name in DEFAULTS}
_NEEDED = {
    "input_ids": "the text: pass input_ids",
    "new_tokens": "the text: pass input_ids",
    "max_new_tokens": "the end of the text: pass max_new_tokens",
    "unconditional_logits": "the model's logits without the prompt: pass unconditional_logits",
}


def process(
    scores: Tensor,
    input_ids: Tensor | None = None,
    *,
    num_beams: int = 1,
    **context: Unpack[Context],
) -> Tensor:
    """`scores` after all the processors of `stages`, which takes the same arguments.

    Parameters
    ----------
    scores : Tensor
        Shape (rows, vocabulary).
    input_ids : Tensor | None
        As in `stages`.
    num_beams : int
        As in `stages`.
    **context : Context
        As in `stages`.

    Returns
    -------
    Tensor
        The new scores, shape (rows, vocabulary).

    Raises
    ------
    ValueError
        Where a row is left without a finite highest score: NaN, +inf, or all −inf. Under beams, one
        beam of a prompt may be all −inf. Scores that come in so raise too, unless a
        `logits_processor` of the caller's mends them.
    """
    processed = scores
    for _, after in stages(scores, input_ids, num_beams=num_beams, **context):
        processed = after
    # One look for both, since looking makes a GPU wait.
    highest = torch.stack([scores.amax(-1), processed.amax(-1)])
    highest = highest.view(2, -1, num_beams).amax(-1)
    bad = ~highest.isfinite()
    if context.get("logits_processor") is not None:
        bad[0] &= bad[1]
    if bad.any():
        when, row = bad.nonzero()[0].tolist()
        found = {"nan": "holds NaN", "inf": "holds +inf", "-inf": "is −inf for every token"}
        blame = ("the model's weights and dtype (float16 overflows)", "the processors in use")
        raise ValueError(
            f"scores: row {row * num_beams} {found[str(highest[when, row].item())]}, so no next "
            f"token can be chosen; check {blame[when]}"
        )
    return processed
