"""Processors: pure functions from a step's scores to new scores.

`scores` is a float tensor of shape (rows, vocabulary): logits, or under beam search
log-probabilities. `input_ids`, of shape (rows, tokens), is the text so far. Nothing is changed
in place. A token that is ruled out gets the score −inf, so its probability is exactly 0.
Each function computes what the transformers class named in its docstring computes, to the bit.
"""

from __future__ import annotations

import math

from torch import LongTensor, Tensor


def _number(value, kind=(int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and not math.isnan(value)


_ALLOWED = {
    "temperature": ("a finite number above 0", lambda v: _number(v) and 0 < v < math.inf),
    "top_k": ("a whole number of 1 or more, or 0 to switch it off",
              lambda v: _number(v, int) and v >= 0),
    "top_p": ("a number above 0 and at most 1", lambda v: _number(v) and 0 < v <= 1),
    "min_p": ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1),
}  # fmt: skip


def check(**settings) -> None:
    """Raise a ValueError for the first setting that is out of bounds, naming what would do."""
    for name, value in settings.items():
        wanted, fits = _ALLOWED[name]
        if not fits(value):
            hint = ""
            if name == "temperature" and value == 0:
                hint = "; for the limit of 0, greedy search, pass do_sample=False"
            raise ValueError(f"{name}={value!r}: it must be {wanted}{hint}")


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
    k = min(max(top_k, min_tokens_to_keep), scores.shape[-1])
    kth = scores.topk(k).values[:, -1, None]
    return scores.masked_fill(scores < kth, -math.inf)


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
    goes.scatter_(-1, probabilities.topk(min_tokens_to_keep).indices, False)
    return scores.masked_fill(goes, -math.inf)


def stages(
    scores: Tensor,
    input_ids: LongTensor | None = None,
    *,
    do_sample: bool = True,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
):
    """Yield (name, scores) after each processor that is switched on, in transformers' order.

    The cut-offs and the temperature work only when `do_sample`, as in `generate`.
    """
    here = globals()
    if do_sample:
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        for name, value in settings.items():
            if value != off[name]:
                scores = here[name](scores, value)
                yield name, scores


def process(scores: Tensor, input_ids: LongTensor | None = None, **settings) -> Tensor:
    """`scores` after all the processors of `stages`, which takes the same arguments.

    Raises ValueError where a row is left without a finite highest score: NaN, +inf, or all −inf.
    """
    for _, processed in stages(scores, input_ids, **settings):
        scores = processed
    highest = scores.amax(-1)
    if not highest.isfinite().all():
        row = int((~highest.isfinite()).nonzero()[0])
        found = {"nan": "holds NaN", "inf": "holds +inf", "-inf": "is −inf for every token"}
        raise ValueError(
            f"scores: row {row} {found[str(highest[row].item())]}, so no next token can be chosen; "
            "check the model's weights and dtype (float16 overflows), or the processors in use"
        )
    return scores
