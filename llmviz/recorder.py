"""What turns a step's scores into a `Step`: a few candidates, with exact figures over all tokens.

A rank is everywhere 1 + how many scores are higher, so equal scores share a rank; among equals the
chosen token stands first, and then the lower id, as `argmax` has it. In bfloat16 most steps have
equal scores.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .trace import Candidate, Step


class Recorder:
    """Takes each step's scores, and keeps what a `Step` holds.

    `top_logprobs` is the number of most likely tokens to keep, before and after the processors; of
    tokens that share the last of these places, which ones are kept is arbitrary. The figures stay
    on the scores' device until `steps` is called.
    """

    def __init__(self, top_logprobs: int = 20):
        self.top_logprobs = top_logprobs
        self._records: list[dict[str, Tensor]] = []

    def record(
        self, logits: Tensor, scores: Tensor, tokens: Tensor, rows: Tensor | None = None
    ) -> None:
        """Keep one step.

        logits, scores: shape (rows, vocabulary), before and after the processors.
        tokens: the chosen ones, shape (chosen,), and `rows`, of the same shape, the row that each
            was chosen from; one token per row unless given.
        """
        device, untouched = logits.device, scores is logits
        logits = logits.float()
        scores = logits if untouched else scores.float()
        tokens = tokens.to(device)
        each_row = rows is None
        rows = torch.arange(len(tokens)) if each_row else rows.cpu()
        log_probs = logits.log_softmax(-1)
        probabilities = logits.softmax(-1)  # sums to 1 more closely than exp(log_probs)
        ranked = _ranked(logits)
        k = min(self.top_logprobs, logits.shape[-1])
        top = ranked.topk(k)
        ids, rank = top.indices, rank_among(top.values)
        kept = scores > -math.inf
        # The processors may have left everything as it was; under beams they get log_probs.
        if untouched or torch.equal(scores, log_probs):
            processed, mass = probabilities, torch.ones(len(ids))
        else:
            processed = scores.softmax(-1)
            mass = (probabilities * kept).sum(-1) / probabilities.sum(-1)
            top_after = _ranked(scores).topk(k).indices
            ids = torch.cat([ids, top_after], dim=-1)
            rank = torch.cat([rank, _rank(ranked, top_after)], dim=-1)
        chosen = ranked[rows, tokens]
        if each_row:
            higher = (ranked > chosen[:, None]).sum(-1)
        else:  # a row at a time, since many may be chosen from one
            pairs = zip(rows.tolist(), chosen, strict=True)
            higher = torch.stack([(ranked[r] > c).sum() for r, c in pairs])
        self._records.append(
            {
                "token_id": ids,
                "rank": rank,
                "logit": logits.gather(-1, ids),
                "log_prob": log_probs.gather(-1, ids),
                "score": scores.gather(-1, ids),
                "processed_probability": processed.gather(-1, ids),
                "entropy": _entropy(probabilities, log_probs),
                "kept": kept.sum(-1, dtype=torch.int32),
                "mass": mass,
                "row": rows,
                "before": torch.tensor(k),  # so many of the ids are the most likely before
                "chosen": [
                    tokens,
                    1 + higher,
                    *(x[rows, tokens] for x in (logits, log_probs, scores, processed)),
                ],
            }
        )

    def steps(self, lengths: list[int]) -> list[list[Step]]:
        """The steps of each row, of which the first `lengths[row]` count."""
        return self.follow([[row] * length for row, length in enumerate(lengths)])

    def follow(self, paths: list[list[int]]) -> list[list[Step]]:
        """The steps of sequences that wandered: `paths` say, for each sequence and step, which of
        the recorded step's tokens was the sequence's own."""
        records = [
            {k: [x.tolist() for x in v] if k == "chosen" else v.tolist() for k, v in record.items()}
            for record in self._records
        ]
        return [
            [self._step(record, i) for record, i in zip(records, path, strict=False)]
            for path in paths
        ]

    def _step(self, record: dict[str, list], i: int) -> Step:
        row = record["row"][i]
        columns = zip(*(record[name][row] for name in Candidate.__dataclass_fields__), strict=True)
        listed = [Candidate(*values) for values in columns]
        chosen = Candidate(*(values[i] for values in record["chosen"]))
        before, after = listed[: record["before"]], listed[record["before"] :]
        # Where the processors left fewer than k, the rest of their top k is arbitrary.
        rows = [*before, *(c for c in after if c.score > -math.inf), chosen]
        candidates = {c.token_id: c for c in reversed(rows)}  # the first mention counts
        return Step(
            token_id=chosen.token_id,
            rank=chosen.rank,
            log_prob=chosen.log_prob,
            entropy=record["entropy"][row],
            kept=record["kept"][row],
            mass=record["mass"][row],
            candidates=sorted(
                candidates.values(),
                key=lambda c: (c.rank, c.token_id != chosen.token_id, -c.score, c.token_id),
            ),
        )


def top_tokens(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The ids of each row's highest scores, and their ranks, both of shape (rows, top_k).

    Equals come by id, also where only some of them fit in: `topk` alone takes any of them.
    """
    ranked = _ranked(scores)
    least = ranked.topk(top_k).values[:, -1:]
    higher, equal = ranked > least, ranked == least
    left = top_k - higher.sum(-1, keepdim=True)
    ids = (higher | (equal & (equal.cumsum(-1) <= left))).nonzero()[:, 1].view(-1, top_k)
    values, order = ranked.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return ids.gather(-1, order), rank_among(values)


def _ranked(scores: Tensor) -> Tensor:
    """What the tokens are ranked by: their scores, where NaN is lower than any number."""
    return scores.masked_fill(scores.isnan(), -math.inf)


def _entropy(probabilities: Tensor, log_probs: Tensor) -> Tensor:
    """In bits, shape (rows,): never −0, and NaN where there is no distribution."""
    bits = (probabilities * log_probs).nansum(-1).abs() / math.log(2)
    return bits.masked_fill(probabilities[:, 0].isnan(), math.nan)


def rank_among(values: Tensor) -> Tensor:
    """The ranks of the k highest scores of each row, shape (rows, k), which come in order."""
    ascending = values.flip(-1).contiguous()
    not_higher = torch.searchsorted(ascending, values.contiguous(), right=True)
    return 1 + values.shape[-1] - not_higher


def _rank(scores: Tensor, ids: Tensor) -> Tensor:
    """How many tokens of its row have a higher score than each of `ids`, shape (rows, n), plus
    one."""
    chosen, order = scores.gather(-1, ids).sort(-1)
    # One pass over the vocabulary: how many of the chosen lie below each token?
    below = torch.searchsorted(chosen, scores)
    counts = torch.zeros(len(ids), ids.shape[-1] + 1, dtype=torch.long, device=ids.device)
    counts.scatter_add_(1, below, torch.ones_like(below))
    higher = counts.flip(-1).cumsum(-1).flip(-1)[:, 1:]
    return 1 + torch.zeros_like(ids).scatter_(1, order, higher)
