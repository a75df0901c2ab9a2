"""Self-checks of lesson 14: an answer's boundary, contextual calibration, calibration error."""

from __future__ import annotations

from os.path import commonprefix

import torch

from . import Exercise, normal


def _random(*shape: int, seed: int) -> torch.Tensor:
    return 2 * normal(*shape, seed=seed)


def _log_probs_from(start, logits, whole_ids, *, shift=1) -> list[float]:
    log_probs = logits.log_softmax(-1)
    return [log_probs[i - shift, whole_ids[i]].item() for i in range(start, len(whole_ids))]


def _start(prompt_ids, whole_ids) -> int:
    return len(commonprefix([prompt_ids, whole_ids]))


def _answer(logits, prompt_ids, whole_ids):
    return sum(_log_probs_from(_start(prompt_ids, whole_ids), logits, whole_ids))


def _raw_logits(logits, prompt_ids, whole_ids):
    positions = range(_start(prompt_ids, whole_ids), len(whole_ids))
    return sum(logits[i - 1, whole_ids[i]].item() for i in positions)


def _over_tokens(logits, prompt_ids, whole_ids):
    positions = range(_start(prompt_ids, whole_ids), len(whole_ids))
    log_probs = logits.log_softmax(0)
    return sum(log_probs[i - 1, whole_ids[i]].item() for i in positions)


def _first_only(logits, prompt_ids, whole_ids):
    return _log_probs_from(_start(prompt_ids, whole_ids), logits, whole_ids)[0]


def _mean(logits, prompt_ids, whole_ids):
    found = _log_probs_from(_start(prompt_ids, whole_ids), logits, whole_ids)
    return sum(found) / len(found)


def _product(logits, prompt_ids, whole_ids):
    return torch.tensor(_answer(logits, prompt_ids, whole_ids)).exp().item()


def _any_answer(dice):
    prompt = dice.choices(range(5), k=dice.randint(2, 6))
    shared = dice.randint(1, len(prompt))
    new = [i for i in range(6) if prompt[shared : shared + 1] != [i]]
    answer = [dice.choice(new), *dice.choices(range(5), k=dice.randint(1, 3))]
    whole = prompt[:shared] + answer
    return _random(len(whole), 6, seed=dice.getrandbits(32)), prompt, whole


answer_log_prob = Exercise(
    right=_answer,
    # First a prompt that stays whole, so that each mistake is seen by itself; then one whose last
    # token melts into an answer of two tokens, and one whose last two become one.
    cases=[
        (_random(6, 9, seed=1), [3, 1, 4], [3, 1, 4, 1, 5, 2]),
        (_random(5, 9, seed=2), [2, 7, 1, 8], [2, 7, 1, 4, 5]),
        (_random(4, 9, seed=3), [2, 7, 1, 8], [2, 7, 6, 3]),
        # Tokens that agree again after the first difference, and a prompt that repeats itself.
        (_random(5, 9, seed=4), [2, 7, 1, 8], [2, 7, 6, 8, 3]),
        (_random(6, 9, seed=5), [2, 2, 7, 2], [2, 2, 7, 2, 7, 2]),
    ],
    drawn=_any_answer,
    mistakes={
        "The answer begins at len(prompt_ids). Where the prompt's last token has melted into the "
        "answer, that is too late: compare the two lists.": lambda z, p, w: sum(
            _log_probs_from(len(p), z, w)
        ),
        "Token i was read from row i. Which row predicts it?": lambda z, p, w: sum(
            _log_probs_from(_start(p, w), z, w, shift=0)
        ),
        "Only the answer's first token is counted. An answer is all of its tokens.": _first_only,
        "The first token of the answer is left out. It is predicted by the last token that both "
        "lists share.": lambda z, p, w: sum(_log_probs_from(_start(p, w) + 1, z, w)),
        "Tokens of the prompt are counted too. They are given, not said.": lambda z, p, w: sum(
            _log_probs_from(1, z, w)
        ),
        "This is the mean per token. The probability of the whole answer is wanted: a sum of "
        "logarithms.": _mean,
        "Logits were added up as they are. They are scores: which function makes log-probabilities "
        "of them?": _raw_logits,
        "The softmax went over the tokens of the text. It belongs over the vocabulary, the last "
        "dimension.": _over_tokens,
        "This is the probability. Its logarithm is wanted, which a long answer does not bring to "
        "0.": _product,
    },
    praise="Right: all of the answer's tokens, from where they begin.",
)


def _calibrate(log_probs, content_free):
    return (log_probs - content_free.softmax(-1).mean(0).log()).softmax(-1)


def _not_renormalised(log_probs, content_free):
    return log_probs.softmax(-1) / content_free.softmax(-1).mean(0)


calibrate = Exercise(
    right=_calibrate,
    cases=[
        (_random(5, 2, seed=4) - 3, _random(3, 2, seed=5) - 2),
        (_random(4, 3, seed=6) - 3, _random(2, 3, seed=7) - 5),
        (_random(2, 3, seed=8), _random(1, 3, seed=9)),
    ],
    drawn=lambda dice: (
        _random(dice.randint(2, 5), 3, seed=dice.getrandbits(32)) - dice.randint(0, 4),
        _random(dice.randint(2, 4), 3, seed=dice.getrandbits(32)) - dice.randint(0, 4),
    ),
    mistakes={
        "The prior was multiplied in. It is what the model says of no question, and has to go: "
        "divide.": lambda x, free: (x + free.softmax(-1).mean(0).log()).softmax(-1),
        "The prior changed nothing: these are the shares without calibration. A content's labels, "
        "a row, add up to 1; a softmax down the contents makes all priors equal.": (
            lambda x, free: x.softmax(-1)
        ),
        "The mean was taken over log-probabilities. Make shares of each content's labels first, "
        "and take the mean of those.": lambda x, free: (x - free.mean(0)).softmax(-1),
        "The contents' probabilities were averaged before they were shares, so the content whose "
        "labels are likeliest counts most.": (
            lambda x, free: (x - free.exp().mean(0).log()).softmax(-1)
        ),
        "The prior itself was subtracted from log-probabilities. Dividing means subtracting its "
        "logarithm.": lambda x, free: (x - free.softmax(-1).mean(0)).softmax(-1),
        "The rows do not add up to 1: after the division, make shares again.": _not_renormalised,
        "These are logarithms. Shares are wanted.": (
            lambda x, free: x - free.softmax(-1).mean(0).log()
        ),
        "The softmax went down the questions. Each question, a row, has shares of its own.": (
            lambda x, free: (x - free.softmax(-1).mean(0).log()).softmax(0)
        ),
    },
    praise="Right: what is left is what the question said.",
)


def _bins(confidence, right, edges):
    """Per bin that is not empty: answers, mean confidence minus accuracy."""
    for low, high in zip(edges, edges[1:], strict=False):
        here = (low <= confidence) & (confidence < high)
        if here.any():
            yield here.sum().item(), (confidence[here].mean() - right[here].float().mean()).item()


def _error(confidence, right, edges):
    return sum(n * abs(gap) for n, gap in _bins(confidence, right, edges)) / len(confidence)


def _unweighted(confidence, right, edges, *, empty=False):
    gaps = [abs(gap) for _, gap in _bins(confidence, right, edges)]
    return sum(gaps) / (len(edges) - 1 if empty else len(gaps))


def _signed(confidence, right, edges):
    return (confidence.mean() - right.float().mean()).item()


def _worst(confidence, right, edges):
    return max(abs(gap) for _, gap in _bins(confidence, right, edges))


def _any_answers(dice):
    """Some confidences lie on an edge: both are eighths, which a float holds exactly."""
    count = dice.randint(5, 12)
    confidence = torch.tensor([dice.randint(1, 8) / 8 for _ in range(count)])
    return confidence, torch.tensor(dice.choices([True, False], k=count)), _EIGHTHS


_EIGHTHS = [0.0, 0.25, 0.5, 0.625, 0.75, 1.001]

calibration_error = Exercise(
    right=_error,
    # Under- and overconfident bins with unlike numbers, and an empty bin.
    cases=[
        (
            torch.tensor([0.55, 0.6, 0.65, 0.52, 0.75, 0.95, 0.97, 0.99]),
            torch.tensor([True, True, True, True, True, False, True, True]),
            [0.5, 0.7, 0.8, 0.9, 1.001],
        ),
        (
            torch.tensor([0.5, 0.75, 0.92, 0.95, 0.58]),
            torch.tensor([True, False, True, False, True]),
            [0.5, 0.6, 0.75, 0.9, 1.001],
        ),
    ],
    drawn=_any_answers,
    mistakes={
        "Overconfident and underconfident bins cancel. Take the distance in each bin, without its "
        "sign.": _signed,
        "This is their distance over all answers. Where bins err in opposite ways, they cancel: "
        "take it in each bin.": lambda c, r, e: abs(_signed(c, r, e)),
        "Each bin counts alike. Weigh it by how many answers lie in it.": _unweighted,
        "Each bin counts alike, the empty ones too. Weigh it by how many answers lie in it.": (
            lambda c, r, e: _unweighted(c, r, e, empty=True)
        ),
        "The distance was taken answer by answer. One answer is right or wrong: only the means of "
        "a bin can be compared.": lambda c, r, e: (c - r.float()).abs().mean().item(),
        "The answers were added up and not divided by their number.": lambda c, r, e: (
            len(c) * _error(c, r, e)
        ),
        "This is the largest distance of a bin, not their mean.": _worst,
        "The result is NaN, as it is when the mean of an empty bin comes in.": (
            lambda c, r, e: torch.nan
        ),
    },
    praise="Right: 0 would mean that every confidence was worth its number.",
)
