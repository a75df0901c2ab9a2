"""Processors: pure functions from a step's scores to new scores.

`scores` is a float tensor of shape (rows, vocabulary): logits, or under beam search
log-probabilities. `input_ids`, of shape (rows, tokens), is the text so far. Nothing is changed
in place. A token that is ruled out gets the score −inf, so its probability is exactly 0.
Each function is called with the scores, its setting, and what else it looks at; it computes what
the transformers class named in its docstring computes, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import LongTensor, Tensor
from torch.distributions import Categorical


def _number(value, kind=(int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _whole(value) -> bool:
    return _number(value, int) and value >= 0


def _ids(value) -> bool:
    listed = isinstance(value, (list, tuple)) and set(map(type, value)) <= {int}
    return listed and min(value, default=0) >= 0


def _words(value) -> bool:
    listed = isinstance(value, (list, tuple)) and len(value) > 0
    return listed and all(_ids(word) and len(word) > 0 for word in value)


def _function(value) -> bool:
    return callable(value) and not isinstance(value, type)


def _functions(value) -> bool:
    return all(map(_function, value)) if isinstance(value, (list, tuple)) else _function(value)


# What a value must be, and whether it is. NaN compares as false, so it fits none.
_POSITIVE = "a finite number above 0", lambda v: _number(v) and 0 < v < math.inf
_PENALTY = "a number from −2 to 2", lambda v: _number(v) and -2 <= v <= 2
_COUNT = "a whole number of 1 or more, or 0 to switch it off", _whole
_SHARE = "a number above 0 and at most 1", lambda v: _number(v) and 0 < v <= 1
_RATIO = "a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1
_CUT_OFF = "a number from 0 to below 1", lambda v: _number(v) and 0 <= v < 1
_IDS = "a list of token ids, or None", _ids
_WORDS = "a list of words, each a list of one or more token ids, or None", _words
_CONSTRAINT = "a function of (prompt's number, input_ids) to token ids, or None", _function
_OWN = "a function of (input_ids, scores) to scores, a list of them, or None", _functions

# Each setting's value when it is off, and its bounds, in the order in which they work.
_SETTINGS: dict[str, tuple] = {
    "repetition_penalty": (1.0, *_POSITIVE),
    "presence_penalty": (0.0, *_PENALTY),
    "frequency_penalty": (0.0, *_PENALTY),
    "no_repeat_ngram_size": (0, *_COUNT),
    "bad_words_ids": (None, *_WORDS),
    "min_new_tokens": (0, *_COUNT),
    "prefix_allowed_tokens_fn": (None, *_CONSTRAINT),
    "suppress_tokens": (None, *_IDS),
    "logits_processor": (None, *_OWN),
    "temperature": (1.0, *_POSITIVE),
    "top_k": (0, *_COUNT),
    "top_p": (1.0, *_SHARE),
    "min_p": (0.0, *_RATIO),
    "typical_p": (1.0, *_SHARE),
    "epsilon_cutoff": (0.0, *_CUT_OFF),
    "eta_cutoff": (0.0, *_CUT_OFF),
}
DEFAULTS = {name: off for name, (off, _, _) in _SETTINGS.items()}


def check(*, vocab_size: int | None = None, **settings) -> None:
    """Raise a ValueError for the first setting that is out of bounds, naming what would do.

    With `vocab_size`, token ids beyond it are out of bounds too. Raises TypeError for a name that
    is no setting.
    """
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise TypeError(f"{name} is no setting; there are {', '.join(_SETTINGS)}")
        off, wanted, fits = _SETTINGS[name]
        if not fits(value) and not (value is None and off is None):
            hint = ""
            if name == "temperature" and value == 0:
                hint = "; for the limit of 0, greedy search, pass do_sample=False"
            raise ValueError(f"{name}={value!r:.200}: it must be {wanted}{hint}")
    if vocab_size is not None:
        words = [("bad_words_ids", word) for word in settings.get("bad_words_ids") or ()]
        for name, ids in [*words, ("suppress_tokens", settings.get("suppress_tokens") or ())]:
            if ids and max(ids) >= vocab_size:
                raise ValueError(
                    f"{name} holds the token id {max(ids)}: it must be below {vocab_size}, the "
                    "size of the vocabulary"
                )


# Penalties: from what has been said


def repetition_penalty(
    scores: Tensor,
    repetition_penalty: float,
    input_ids: LongTensor,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Divide the scores of tokens in the text so far, or multiply those that are negative.

    Above 1 that makes repetition less likely, below 1 likelier. Prompt and continuation count;
    padding, where `attention_mask` (rows, tokens) is 0, does not. Logits plus a constant are the
    same distribution before, and another one after.
    transformers: RepetitionPenaltyLogitsProcessor; Keskar et al., 2019 (CTRL).
    """
    check(repetition_penalty=repetition_penalty)
    seen = _counts(input_ids, scores.shape[-1], attention_mask) > 0
    lowered = torch.where(scores < 0, scores * repetition_penalty, scores / repetition_penalty)
    return torch.where(seen, lowered, scores)


def presence_penalty(scores: Tensor, presence_penalty: float, new_tokens: LongTensor) -> Tensor:
    """Subtract the penalty once from every token that has been generated, however often.

    `new_tokens`, shape (rows, tokens), is the continuation; the prompt does not count. Not in
    transformers: the OpenAI API's definition, which vLLM shares.
    """
    check(presence_penalty=presence_penalty)
    seen = _counts(new_tokens, scores.shape[-1]) > 0
    return scores - presence_penalty * seen.to(scores.dtype)


def frequency_penalty(scores: Tensor, frequency_penalty: float, new_tokens: LongTensor) -> Tensor:
    """Subtract the penalty from a token's score each time that it has been generated.

    `new_tokens`, shape (rows, tokens), is the continuation; the prompt does not count. Not in
    transformers: the OpenAI API's definition, which vLLM shares.
    """
    check(frequency_penalty=frequency_penalty)
    return scores - frequency_penalty * _counts(new_tokens, scores.shape[-1]).to(scores.dtype)


def no_repeat_ngram_size(
    scores: Tensor, no_repeat_ngram_size: int, input_ids: LongTensor
) -> Tensor:
    """Rule out every token that would complete an n-gram which the text so far contains.

    Prompt, continuation and padding count. transformers: NoRepeatNGramLogitsProcessor;
    Paulus et al., 2017.
    """
    check(no_repeat_ngram_size=no_repeat_ngram_size)
    n, length = no_repeat_ngram_size, input_ids.shape[-1]
    if n == 0 or length < n:
        return scores
    ngrams = input_ids.unfold(1, n, 1)  # (rows, length + 1 − n, n)
    begun = input_ids[:, None, length + 1 - n :]
    completes = (ngrams[..., :-1] == begun).all(-1)
    banned = _counts(ngrams[..., -1], scores.shape[-1], completes) > 0
    return scores.masked_fill(banned, -math.inf)


def _counts(input_ids: LongTensor, vocab_size: int, mask: Tensor | None = None) -> LongTensor:
    """How often each token stands in a row where `mask` is true, shape (rows, vocabulary)."""
    if mask is not None:
        input_ids = torch.where(mask.bool(), input_ids, vocab_size)
    # A spare column takes what does not count, such as a pad token behind the model's vocabulary.
    counts = input_ids.new_zeros(len(input_ids), vocab_size + 1)
    input_ids = input_ids.clamp(max=vocab_size)
    return counts.scatter_add_(1, input_ids, torch.ones_like(input_ids))[:, :vocab_size]


# Rules: what must and must not be said


def bad_words_ids(
    scores: Tensor, bad_words_ids: list[list[int]], input_ids: LongTensor, eos_token_ids=()
) -> Tensor:
    """Rule out the last token of each bad word where the text so far ends in its other tokens.

    A word that is an eos token and nothing else is left out, as in transformers:
    NoBadWordsLogitsProcessor.
    """
    check(bad_words_ids=bad_words_ids, vocab_size=scores.shape[-1])
    bias = torch.zeros_like(scores)
    words = [list(word) for word in bad_words_ids if len(word) > 1 or word[0] not in eos_token_ids]
    for row, text in enumerate(input_ids.tolist()):
        ends = [last for *first, last in words if text[len(text) - len(first) :] == first]
        bias[row, ends] = -math.inf
    return scores + bias


def min_new_tokens(
    scores: Tensor, min_new_tokens: int, new_tokens: LongTensor, eos_token_ids=()
) -> Tensor:
    """Rule out every eos token until that many tokens have been generated.

    `new_tokens`, shape (rows, tokens), is the continuation.
    transformers: MinNewTokensLengthLogitsProcessor.
    """
    check(min_new_tokens=min_new_tokens)
    if new_tokens.shape[-1] >= min_new_tokens:
        return scores
    return _without(scores, eos_token_ids)


def prefix_allowed_tokens_fn(
    scores: Tensor,
    prefix_allowed_tokens_fn: Callable[[int, LongTensor], list[int]],
    input_ids: LongTensor,
    num_beams: int = 1,
) -> Tensor:
    """Rule out every token that the caller's function does not list for a row.

    It is called with the prompt's number (the row's, divided by `num_beams`) and the row's text
    so far, shape (tokens,), padding included. Where all that it allows has been ruled out before,
    for all beams of a prompt, it is forced, with the score 0.
    Raises ValueError, naming the row, where it allows nothing, or ids outside the vocabulary.
    transformers: PrefixConstrainedLogitsProcessor; De Cao et al., 2020.
    """
    check(prefix_allowed_tokens_fn=prefix_allowed_tokens_fn)
    mask = torch.full_like(scores, -math.inf)
    for row, text in enumerate(input_ids):
        allowed = prefix_allowed_tokens_fn(row // num_beams, text)
        allowed = allowed.tolist() if hasattr(allowed, "tolist") else allowed
        if not allowed or not _ids(allowed) or max(allowed) >= scores.shape[-1]:
            raise ValueError(
                f"prefix_allowed_tokens_fn returned {allowed!r:.200} for row {row}, after "
                f"{len(text)} tokens: it must return a list of one or more token ids below "
                f"{scores.shape[-1]}; a text that is complete goes on with an eos token"
            )
        mask[row, allowed] = 0
    constrained = scores + mask
    impossible = constrained.amax(-1).isneginf().view(-1, num_beams).all(-1)
    return torch.where(impossible.repeat_interleave(num_beams)[:, None], mask, constrained)


def suppress_tokens(scores: Tensor, suppress_tokens: list[int]) -> Tensor:
    """Rule out these tokens, always. transformers: SuppressTokensLogitsProcessor."""
    check(suppress_tokens=suppress_tokens, vocab_size=scores.shape[-1])
    return _without(scores, suppress_tokens)


def _without(scores: Tensor, token_ids) -> Tensor:
    ids = [int(i) for i in token_ids if i < scores.shape[-1]]
    ids = torch.tensor(ids, dtype=torch.long, device=scores.device)
    return scores.index_fill(-1, ids, -math.inf)


def logits_processor(scores: Tensor, logits_processor, input_ids: LongTensor) -> Tensor:
    """The caller's own: a function that takes (input_ids, scores), or a list of them in order.

    Any LogitsProcessor or LogitsProcessorList of transformers will do. One of a class that a
    setting switches on as well works besides it, where in transformers it takes its place.
    """
    check(logits_processor=logits_processor)
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


# Sampling: the temperature, and what cuts off the tail. The `min_tokens_to_keep` likeliest stay.


def temperature(scores: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature: below 1 sharpens the distribution, above 1 flattens it.

    transformers: TemperatureLogitsWarper.
    """
    check(temperature=temperature)
    return scores / temperature


def top_k(scores: Tensor, top_k: int, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the k highest scores of a row, and whatever ties with the k-th.

    The survivors keep their proportions. transformers: TopKLogitsWarper; Fan et al., 2018.
    """
    check(top_k=top_k)
    if top_k == 0:
        return scores
    return scores.masked_fill(_below_top(scores, max(top_k, min_tokens_to_keep)), -math.inf)


def top_p(scores: Tensor, top_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities add up to p or more (the nucleus).

    The token that crosses p is kept. From the least likely up, a token goes while the sum so far
    is at most 1 − p. transformers: TopPLogitsWarper; Holtzman et al., 2019.
    """
    check(top_p=top_p)
    ascending, order = scores.sort(descending=False)
    goes = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    goes[:, -min_tokens_to_keep:] = False
    return scores.masked_fill(goes.scatter(1, order, goes), -math.inf)


def min_p(scores: Tensor, min_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens at least `min_p` times as likely as the likeliest one.

    transformers: MinPLogitsWarper; Nguyen et al., 2024.
    """
    check(min_p=min_p)
    probabilities = scores.softmax(-1)
    goes = probabilities < min_p * probabilities.amax(-1, keepdim=True)
    likeliest = probabilities.topk(min(min_tokens_to_keep, scores.shape[-1])).indices
    return scores.masked_fill(goes.scatter(-1, likeliest, False), -math.inf)


def typical_p(scores: Tensor, typical_p: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep the tokens whose surprisal is closest to the entropy, until they add up to p or more.

    The token that crosses p is kept, with whatever is as close. The likeliest token itself can
    go, where it says far less than is expected. `min_tokens_to_keep` are the most typical ones.
    transformers: TypicalLogitsWarper; Meister et al., 2022.
    """
    check(typical_p=typical_p)
    log_probs = scores.log_softmax(-1)
    entropy = -(log_probs * log_probs.exp()).nansum(-1, keepdim=True)  # 0 · −inf counts 0
    distance, order = (-log_probs - entropy).abs().sort()
    reached = scores.gather(-1, order).softmax(-1).cumsum(-1)
    crossing = (reached < typical_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    goes = distance > distance.gather(-1, crossing)
    goes[:, :min_tokens_to_keep] = False
    return scores.masked_fill(goes.scatter(1, order, goes), -math.inf)


def epsilon_cutoff(scores: Tensor, epsilon_cutoff: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens with a probability of epsilon or more.

    transformers: EpsilonLogitsWarper; Hewitt et al., 2022.
    """
    check(epsilon_cutoff=epsilon_cutoff)
    goes = (scores.softmax(-1) < epsilon_cutoff) & _below_top(scores, min_tokens_to_keep)
    return scores.masked_fill(goes, -math.inf)


def eta_cutoff(scores: Tensor, eta_cutoff: float, min_tokens_to_keep: int = 1) -> Tensor:
    """Keep tokens with a probability of eta or more, which is lower where entropy is high.

    With ε for the setting, eta = min(ε, √ε · exp(−entropy in nats)).
    transformers: EtaLogitsWarper; Hewitt et al., 2022.
    """
    check(eta_cutoff=eta_cutoff)
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
    input_ids: LongTensor | None = None,
    *,
    attention_mask: Tensor | None = None,
    prompt_length: int = 0,
    eos_token_ids=(),
    num_beams: int = 1,
    min_tokens_to_keep: int | None = None,
    do_sample: bool = True,
    **settings,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, scores) after each processor that is switched on, in transformers' order.

    input_ids: the text so far, shape (rows, tokens); only the sampling settings do without it.
    attention_mask: where it is 0, `input_ids` is padding, which no repetition penalty counts.
    prompt_length: how many tokens of it, padding included, are the prompt.
    eos_token_ids: what `min_new_tokens` holds back.
    num_beams: how many rows in sequence continue the same prompt.
    min_tokens_to_keep: how many tokens each cut-off spares at least: by default 1, or under beams
        one more than there are eos ids, and 2 or more, so that a beam can go on.
    do_sample: whether the temperature and the cut-offs work, as in `generate`.
    settings: those of `DEFAULTS`, by name; what is not given is off.

    presence_penalty and frequency_penalty, which transformers has not, follow repetition_penalty.
    Raises TypeError for a setting's name that there is not, ValueError for its value.
    """
    on = {name: value for name, value in settings.items() if value != DEFAULTS.get(name)}
    check(**{name: settings[name] for name in settings.keys() - DEFAULTS.keys()})
    if min_tokens_to_keep is None:
        min_tokens_to_keep = 1 if num_beams == 1 else max(2, len(eos_token_ids) + 1)
    new_tokens = None if input_ids is None else input_ids[:, prompt_length:]
    order: list[tuple[Callable, tuple]] = [
        (repetition_penalty, (input_ids, attention_mask)),
        (presence_penalty, (new_tokens,)),
        (frequency_penalty, (new_tokens,)),
        (no_repeat_ngram_size, (input_ids,)),
        (bad_words_ids, (input_ids, eos_token_ids)),
        (min_new_tokens, (new_tokens, eos_token_ids)),
        (prefix_allowed_tokens_fn, (input_ids, num_beams)),
        (suppress_tokens, ()),
        (logits_processor, (input_ids,)),
    ]
    if do_sample:
        cut_offs = (top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff)
        order += [(temperature, ()), *((c, (min_tokens_to_keep,)) for c in cut_offs)]
    for function, context in order:
        name = function.__name__
        if name in on:
            if input_ids is None and context[:1] == (None,):
                raise ValueError(f"{name}={on[name]!r:.200} looks at the text: pass input_ids")
            scores = function(scores, on[name], *context)
            yield name, scores


def process(
    scores: Tensor, input_ids: LongTensor | None = None, *, num_beams: int = 1, **arguments
) -> Tensor:
    """`scores` after all the processors of `stages`, which takes the same arguments.

    Raises ValueError where a row is left without a finite highest score: NaN, +inf, or all −inf.
    Under beams, one beam of a prompt may be all −inf. Scores that come in so raise too, unless a
    `logits_processor` of the caller's mends them.
    """
    processed = scores
    for _, after in stages(scores, input_ids, num_beams=num_beams, **arguments):
        processed = after
    # One look for both, since looking makes a GPU wait.
    highest = torch.stack([scores.amax(-1), processed.amax(-1)])
    highest = highest.view(2, -1, num_beams).amax(-1)
    bad = ~highest.isfinite()
    if arguments.get("logits_processor") is not None:
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
