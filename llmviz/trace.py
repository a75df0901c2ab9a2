"""What a run recorded: plain data, to a DataFrame and to JSON and back.

A step keeps a few candidates with exact figures over the whole vocabulary, never the whole
vocabulary: 100 steps are some 200 KB, where `output_scores` would keep 19 MB for 49,152 tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Candidate:
    """One token that could have come next."""

    token_id: int
    rank: int  # 1 is the likeliest under the model; ties share a rank
    logit: float  # before the processors
    log_prob: float  # natural logarithm, of softmax(logits)
    score: float  # after the processors; −inf where one ruled the token out
    processed_probability: float  # softmax(scores): what the token was drawn with


@dataclass(slots=True)
class Step:
    """One prediction: the token that was chosen, and what it was chosen from."""

    token_id: int
    rank: int  # of the chosen token, before the processors
    log_prob: float  # of the chosen token, before the processors
    entropy: float  # bits, of softmax(logits) over the whole vocabulary
    kept: int  # how many tokens the processors left possible
    mass: float  # the probability, before the processors, of the tokens they left
    candidates: list[
        Candidate
    ]  # by log_prob: the likeliest before, the likeliest after, the chosen

    @property
    def surprisal(self) -> float:
        """Of the chosen token, in bits: −log2 of its probability under the model."""
        return -self.log_prob / math.log(2)


@dataclass(eq=False)
class Trace:
    """The record of a generation, one entry of `steps` a sequence.

    `sequences` is a LongTensor of shape (sequences, prompt + new tokens) on the CPU; its first
    `num_prompt_tokens` columns are the prompt, padded on the left where prompts differ in length.
    `texts` are the decoded sequences, prompt included, without special tokens. `labels` holds a
    readable form of every token that the trace mentions.
    """

    prompts: list[str]
    texts: list[str]
    sequences: Tensor
    num_prompt_tokens: int
    steps: list[list[Step]]
    labels: dict[int, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    sequences_scores: list[float] | None = None

    @property
    def text(self) -> str:
        """The first sequence's text, prompt included."""
        return self.texts[0]

    @property
    def tokens(self) -> list[list[str]]:
        """The new tokens of each sequence, readable."""
        return [[self.labels[s.token_id] for s in steps] for steps in self.steps]

    @property
    def sum_logprobs(self) -> list[float]:
        """The log-probability (natural) of each sequence's new tokens, eos included, under the
        model itself: before temperature, penalties and cut-offs."""
        return [math.fsum(s.log_prob for s in steps) for steps in self.steps]

    @property
    def frame(self):
        """A Table (DataFrame) with a row a sequence, step and candidate.

        Columns: sequence, step (from 1), rank, token_id, token, logit, log_prob, probability (the
        three before the processors), score, processed_probability (after them), chosen.
        """
        from .tables import Table

        return Table(
            {
                "sequence": s,
                "step": t,
                "rank": c.rank,
                "token_id": c.token_id,
                "token": self.labels[c.token_id],
                "logit": c.logit,
                "log_prob": c.log_prob,
                "probability": math.exp(c.log_prob),
                "score": c.score,
                "processed_probability": c.processed_probability,
                "chosen": c.token_id == step.token_id,
            }
            for s, steps in enumerate(self.steps)
            for t, step in enumerate(steps, start=1)
            for c in step.candidates
        )

    @property
    def summary(self):
        """A Table with a row a sequence and step: the chosen token and what stood behind it.

        Columns: sequence, step (from 1), token_id, token, probability, rank, surprisal and entropy
        (both in bits), kept (tokens left by the processors), mass (their probability).
        """
        from .tables import Table

        return Table(
            {
                "sequence": s,
                "step": t,
                "token_id": step.token_id,
                "token": self.labels[step.token_id],
                "probability": math.exp(step.log_prob),
                "rank": step.rank,
                "surprisal": step.surprisal,
                "entropy": step.entropy,
                "kept": step.kept,
                "mass": step.mass,
            }
            for s, steps in enumerate(self.steps)
            for t, step in enumerate(steps, start=1)
        )

    def to_json(self) -> str:
        """All of the record as JSON (RFC 8259: −inf is written as null)."""
        data = asdict(self) | {"sequences": self.sequences.tolist()}
        return json.dumps(_infinite_to_null(data), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """The Trace that `to_json` wrote. Raises ValueError for any other text."""
        try:
            data = json.loads(text)
            data["sequences"] = torch.tensor(data["sequences"], dtype=torch.long)
            data["labels"] = {int(i): label for i, label in data["labels"].items()}
            data["steps"] = [[_step(s) for s in steps] for steps in data["steps"]]
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"text is not a trace written by to_json: {error!r}") from error

    def __repr__(self) -> str:
        steps = max(map(len, self.steps), default=0)
        return f"Trace({len(self.texts)} sequence(s), {steps} steps: {self.text!r:.60})"


def _infinite_to_null(value):
    if isinstance(value, dict):
        return {k: _infinite_to_null(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_infinite_to_null(v) for v in value]
    return None if value == -math.inf else value


def _step(data: dict) -> Step:
    candidates = [
        Candidate(**{k: -math.inf if v is None else v for k, v in c.items()})
        for c in data.pop("candidates")
    ]
    data = {k: -math.inf if v is None else v for k, v in data.items()}
    return Step(**data, candidates=candidates)


class Recorder:
    """Takes each step's scores, and keeps what a `Step` holds.

    `top_logprobs` is the number of likeliest tokens to keep, before and after the processors. The
    figures stay on the scores' device until `steps` is called: a GPU is not made to wait.
    """

    def __init__(self, top_logprobs: int = 20):
        self.top_logprobs = top_logprobs
        self._records: list[dict[str, Tensor]] = []

    def record(self, logits: Tensor, scores: Tensor, tokens: Tensor) -> None:
        """Keep one step: `logits` and `scores` of shape (rows, vocabulary), before and after the
        processors (the same tensor where none is on); `tokens`, shape (rows,), the chosen ones."""
        k = min(self.top_logprobs, logits.shape[-1])
        log_probs = logits.log_softmax(-1)
        probabilities = logits.softmax(-1)  # sums to 1 more closely than exp(log_probs)
        chosen = tokens[:, None].to(logits.device)
        ids = [logits.topk(k).indices, chosen]
        if scores is not logits:
            ids.insert(1, scores.topk(k).indices)
        ids = torch.cat(ids, dim=-1)
        # The top k of the logits know their ranks; the others' are counted.
        others = logits.gather(-1, ids[:, k:])
        rank = torch.cat(
            [
                torch.arange(1, k + 1, device=ids.device).expand(len(ids), -1),
                1 + torch.stack([(logits > o).sum(-1) for o in others.T[:, :, None]], dim=-1),
            ],
            dim=-1,
        )
        kept = scores > -math.inf
        self._records.append(
            {
                "token_id": ids,
                "rank": rank,
                "logit": logits.gather(-1, ids),
                "log_prob": log_probs.gather(-1, ids),
                "score": scores.gather(-1, ids),
                "processed_probability": (
                    probabilities if scores is logits else scores.softmax(-1)
                ).gather(-1, ids),
                "entropy": torch.special.entr(probabilities).sum(-1) / math.log(2),
                "kept": kept.sum(-1),
                "mass": (probabilities * kept).sum(-1) / probabilities.sum(-1),
            }
        )

    def steps(self, lengths: list[int]) -> list[list[Step]]:
        """The steps of each row, of which the first `lengths[row]` count."""
        records = [{k: v.tolist() for k, v in record.items()} for record in self._records]
        return [
            [self._step(record, row) for record in records[:length]]
            for row, length in enumerate(lengths)
        ]

    @staticmethod
    def _step(record: dict[str, list], row: int) -> Step:
        names = Candidate.__dataclass_fields__
        columns = zip(*(record[name][row] for name in names), strict=True)
        rows = [Candidate(*values) for values in columns]
        chosen = rows[-1]
        candidates = {c.token_id: c for c in reversed(rows)}  # the first mention counts
        return Step(
            token_id=chosen.token_id,
            rank=chosen.rank,
            log_prob=chosen.log_prob,
            entropy=record["entropy"][row],
            kept=record["kept"][row],
            mass=record["mass"][row],
            candidates=sorted(candidates.values(), key=lambda c: (c.rank, -c.score)),
        )
