"""What a run recorded: plain data, to a DataFrame and to JSON and back.

A step keeps a few candidates with exact figures over the whole vocabulary, never the whole
vocabulary: 100 steps are some 200 KB, where `output_scores` would keep 19 MB for 49,152 tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

import torch
from torch import LongTensor, Tensor


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


@dataclass(slots=True)
class BeamCandidate:
    """One of the K continuations that a step of beam search looked at, and what became of it."""

    beam: int  # the running hypothesis that it extends
    token_id: int
    log_prob: float  # of the token under the model, natural
    score: float  # of the token after the processors
    sum_score: float  # of the whole hypothesis: the running total with this token
    rank: int  # among the step's K candidates, from 0
    fate: str  # "running", "pruned", "finished" or "discarded"
    reason: str  # why, in a sentence
    next_beam: int | None = None  # its number among the next running hypotheses
    final_score: float | None = None  # with the length penalty, where it ended and was compared


@dataclass(slots=True)
class BeamStep:
    """One step of beam search: its candidates, by rank."""

    candidates: list[BeamCandidate]


@dataclass(slots=True)
class Draft:
    """One round of assisted decoding: tokens proposed cheaply, then judged by the model at once.

    The probabilities, after the processors, are those of the proposed tokens: under the draft model
    (None where no model proposed them), and under the model as far as it judged, which is up to
    the first token that it refused.
    """

    proposed: list[int]
    accepted: int  # how many of the proposed tokens stayed, from the left
    replacement: int | None  # the model's own token behind them; None where the text ended first
    draft_probabilities: list[float] | None = None
    model_probabilities: list[float] | None = None


@dataclass(eq=False)
class Trace:
    """The record of a generation, one entry of `steps` a sequence.

    `sequences` is a LongTensor of shape (sequences, prompt + new tokens) on the CPU; its first
    `num_prompt_tokens` columns are the prompt, padded on the left where prompts differ in length.
    `texts` are the decoded sequences, prompt included, without special tokens. `labels` holds a
    readable form of every token that the trace mentions. `settings` hold plain data; a function
    stands there by its name.

    Beam search adds `sequences_scores` (sum of the scores / length ** length_penalty), `beams` (a
    list of BeamSteps a prompt) and `beam_paths` (for each sequence, the number of its candidate in
    each of these steps); assisted decoding adds `drafts`, DoLa `premature_layers` (for each
    sequence, the number of the layer that each step was contrasted with).
    """

    prompts: list[str]
    texts: list[str]
    sequences: Tensor
    num_prompt_tokens: int
    steps: list[list[Step]]
    labels: dict[int, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    sequences_scores: list[float] | None = None
    beams: list[list[BeamStep]] | None = None
    beam_paths: list[list[int]] | None = None
    drafts: list[Draft] | None = None
    premature_layers: list[list[int]] | None = None

    def __post_init__(self):
        self.settings = _plain(self.settings)

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

    @property
    def beam_frame(self):
        """A Table with a row a prompt, step and candidate of a beam search.

        Columns: prompt, step (from 1), then the fields of `BeamCandidate` with `token` behind
        `token_id` and `probability` behind `log_prob`. Raises ValueError where no beams ran.
        """
        from .tables import Table

        if self.beams is None:
            raise ValueError("this trace has no beams: run generate with num_beams of 2 or more")
        table = Table(
            {
                "prompt": p,
                "step": t,
                "rank": c.rank,
                "beam": c.beam,
                "token_id": c.token_id,
                "token": self.labels[c.token_id],
                "log_prob": c.log_prob,
                "probability": math.exp(c.log_prob),
                "score": c.score,
                "sum_score": c.sum_score,
                "fate": c.fate,
                "next_beam": c.next_beam,
                "final_score": c.final_score,
                "reason": c.reason,
            }
            for p, steps in enumerate(self.beams)
            for t, step in enumerate(steps, start=1)
            for c in step.candidates
        )
        return table.astype({"next_beam": "Int64", "final_score": float})

    def mentioned(self) -> set[int]:
        """The ids of all tokens that the trace mentions."""
        ids = {c.token_id for steps in self.steps for step in steps for c in step.candidates}
        ids |= {c.token_id for steps in self.beams or [] for s in steps for c in s.candidates}
        for draft in self.drafts or []:
            ids |= {*draft.proposed} | {draft.replacement} - {None}
        return ids

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
            if data["beams"] is not None:
                data["beams"] = [[_beam_step(s) for s in steps] for steps in data["beams"]]
            if data["drafts"] is not None:
                data["drafts"] = [Draft(**draft) for draft in data["drafts"]]
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"text is not a trace written by to_json: {error!r}") from error

    def __repr__(self) -> str:
        steps = max(map(len, self.steps), default=0)
        text = self.texts[0] if self.texts else ""  # a strategy called by itself decodes nothing
        return f"Trace({len(self.sequences)} sequence(s), {steps} steps: {text!r:.60})"


def _infinite_to_null(value):
    if isinstance(value, dict):
        return {k: _infinite_to_null(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_infinite_to_null(v) for v in value]
    return None if value == -math.inf else value


def _plain(value):
    """`value` as JSON can hold it; what is no data is replaced by its name."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, range)):
        return [_plain(v) for v in value]
    if isinstance(value, Tensor):
        return value.tolist()
    return getattr(value, "__qualname__", type(value).__qualname__)


def _restore(kind, data: dict):
    """A dataclass from its fields, where a null that should be a number was −inf."""
    fields = kind.__dataclass_fields__
    null_to_infinite = {
        k: -math.inf for k, v in data.items() if v is None and fields[k].type == "float"
    }
    return kind(**data | null_to_infinite)


def _step(data: dict) -> Step:
    candidates = [_restore(Candidate, c) for c in data["candidates"]]
    return _restore(Step, data | {"candidates": candidates})


def _beam_step(data: dict) -> BeamStep:
    return BeamStep([_restore(BeamCandidate, c) for c in data["candidates"]])


class Recorder:
    """Takes each step's scores, and keeps what a `Step` holds.

    `top_logprobs` is the number of likeliest tokens to keep, before and after the processors. The
    figures stay on the scores' device until `steps` is called.
    """

    def __init__(self, top_logprobs: int = 20):
        self.top_logprobs = top_logprobs
        self._records: list[dict[str, Tensor]] = []

    def record(
        self, logits: Tensor, scores: Tensor, tokens: LongTensor, rows: LongTensor | None = None
    ) -> None:
        """Keep one step.

        logits, scores: shape (rows, vocabulary), before and after the processors.
        tokens: the chosen ones, shape (chosen,), and `rows`, of the same shape, the row that each
            was chosen from; one token a row unless given.
        """
        device, k = logits.device, min(self.top_logprobs, logits.shape[-1])
        tokens = tokens.to(device)
        each_row = rows is None
        rows = torch.arange(len(tokens)) if each_row else rows.cpu()
        log_probs = logits.log_softmax(-1)
        probabilities = logits.softmax(-1)  # sums to 1 more closely than exp(log_probs)
        ids = logits.topk(k).indices
        rank = torch.arange(1, k + 1, device=device).expand(len(ids), -1)
        kept = scores > -math.inf
        # The processors may have left everything as it was; under beams they get log_probs.
        if scores is logits or torch.equal(scores, log_probs):
            processed, mass = probabilities, torch.ones(len(ids))
        else:
            processed = scores.softmax(-1)
            mass = (probabilities * kept).sum(-1) / probabilities.sum(-1)
            likeliest_after = scores.topk(k).indices
            ids = torch.cat([ids, likeliest_after], dim=-1)
            rank = torch.cat([rank, _rank(logits, likeliest_after)], dim=-1)
        chosen = logits[rows, tokens]
        if each_row:
            likelier = (logits > chosen[:, None]).sum(-1)
        else:  # a row at a time, since many may be chosen from one
            pairs = zip(rows.tolist(), chosen, strict=True)
            likelier = torch.stack([(logits[r] > c).sum() for r, c in pairs])
        self._records.append(
            {
                "token_id": ids,
                "rank": rank,
                "logit": logits.gather(-1, ids),
                "log_prob": log_probs.gather(-1, ids),
                "score": scores.gather(-1, ids),
                "processed_probability": processed.gather(-1, ids),
                "entropy": -(probabilities * log_probs).nansum(-1) / math.log(2),
                "kept": kept.sum(-1, dtype=torch.int32),
                "mass": mass,
                "row": rows,
                "chosen": [
                    tokens,
                    1 + likelier,
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
        chosen = Candidate(*(values[i] for values in record["chosen"]))
        rows = [*(Candidate(*values) for values in columns), chosen]
        # Where the processors left fewer than k, the rest of their top k is arbitrary.
        rows = [
            c for c in rows if c.rank <= self.top_logprobs or c.score > -math.inf or c is chosen
        ]
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


def _rank(logits: Tensor, ids: LongTensor) -> LongTensor:
    """How many tokens of its row are likelier than each of `ids`, shape (rows, n), plus one."""
    chosen, order = logits.gather(-1, ids).sort(-1)
    # One pass over the vocabulary: how many of the chosen lie below each token?
    below = torch.searchsorted(chosen, logits)
    counts = torch.zeros(len(ids), ids.shape[-1] + 1, dtype=torch.long, device=ids.device)
    counts.scatter_add_(1, below, torch.ones_like(below))
    likelier = counts.flip(-1).cumsum(-1).flip(-1)[:, 1:]
    return 1 + torch.zeros_like(ids).scatter_(1, order, likelier)
