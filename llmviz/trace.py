"""What a run recorded: plain data, to a DataFrame and to JSON and back.

A step keeps a few candidates with exact figures over the whole vocabulary, never the whole
vocabulary: 100 steps are some 200 KB, where `output_scores` would keep 19 MB for 49,152 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from .arguments import shown

if TYPE_CHECKING:
    from .tables import Table


@dataclass(slots=True)
class Candidate:
    """One token that could have come next."""

    token_id: int
    rank: int  # 1 + how many logits are higher: 1 is the most likely, and equals share a rank
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
    # The most likely before the processors, the most likely after them, and the chosen one; by
    # rank, and among equals the chosen one first.
    candidates: list[Candidate]

    @property
    def surprisal(self) -> float:
        """Of the chosen token, in bits: −log2 of its probability under the model."""
        return abs(self.log_prob) / math.log(2)  # a log_prob is 0 or less, and −0 is no surprise


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
    replacement: int | None  # the model's own token after them; None where the text ended first
    draft_probabilities: list[float] | None = None
    model_probabilities: list[float] | None = None


class Labels(dict):
    """Token ids and how they are shown: an id without a label by its number, such as ⟨123⟩."""

    def __missing__(self, token_id: int) -> str:
        return f"⟨{token_id}⟩"


@dataclass(eq=False)
class Trace:
    """The record of a generation, with one entry of `steps` per sequence.

    `sequences` is a int64 tensor of shape (sequences, prompt + new tokens) on the CPU; its first
    `num_prompt_tokens` columns are the prompt, padded on the left where prompts differ in length.
    `prompt_lengths` say, for each sequence, how many of these are no padding; None means all.
    `texts` are the decoded sequences, prompt included, without padding and special tokens. `labels`
    hold a readable form of every token that the trace mentions. `settings` hold plain data; a
    function stands there by its name. A strategy that was called with ids leaves `prompts`, `texts`
    and `labels` empty: its tokens are shown by their numbers.

    Beam search adds `sequences_scores` (sum of the scores / length ** length_penalty), `beams` (a
    list of BeamSteps per prompt) and `beam_paths` (for each sequence, the number of its candidate
    in each of these steps, as far as it is a hypothesis: see `beam_search`); assisted decoding adds
    `drafts`, DoLa `premature_layers` (for each sequence, the number of the layer that each step was
    contrasted with).
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
    prompt_lengths: list[int] | None = None

    def __post_init__(self):
        self.labels = Labels(self.labels)
        self.settings = plain_data(self.settings)

    @property
    def text(self) -> str:
        """The first sequence's text, prompt included. Raises ValueError where there is none."""
        if not self.texts:
            raise ValueError(
                "this trace has no texts, since a strategy that takes ids knows no tokenizer: call "
                "lv.generate, or tokenizer.decode(run.sequences[0])"
            )
        return self.texts[0]

    @property
    def tokens(self) -> list[list[str]]:
        """The new tokens of each sequence, readable."""
        return [[self.labels[s.token_id] for s in steps] for steps in self.steps]

    @property
    def token_ids(self) -> list[list[int]]:
        """Each sequence's ids, prompt included, without the padding on either side."""
        start = self.num_prompt_tokens
        lengths = self.prompt_lengths or [start] * len(self.steps)
        rows = self.sequences.tolist()
        return [
            row[start - length : start + len(steps)]
            for row, length, steps in zip(rows, lengths, self.steps, strict=True)
        ]

    @property
    def sum_logprobs(self) -> list[float]:
        """The log-probability (natural) of each sequence's new tokens, eos included, under the
        model itself: before temperature, penalties and cut-offs."""
        return [math.fsum(s.log_prob for s in steps) for steps in self.steps]

    @property
    def frame(self) -> Table:
        """A Table (DataFrame) with a row per sequence, step and candidate.

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
    def summary(self) -> Table:
        """A Table with a row per sequence and step: the chosen token and what it was chosen from.

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
    def beam_frame(self) -> Table:
        """A Table with a row per prompt, step and candidate of a beam search.

        Columns: prompt, step (from 1), then the fields of `BeamCandidate` with `token` after
        `token_id` and `probability` after `log_prob`. Raises ValueError where no beams ran.
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
        if table["final_score"].dtype == object:  # none has ended yet
            table = table.astype({"final_score": "Float64"})
        return table.astype({"next_beam": "Int64"})

    def mentioned(self) -> set[int]:
        """The ids of all tokens that the trace mentions."""
        ids = {c.token_id for steps in self.steps for step in steps for c in step.candidates}
        ids |= {c.token_id for steps in self.beams or [] for s in steps for c in s.candidates}
        for draft in self.drafts or []:
            ids |= {*draft.proposed} | {draft.replacement} - {None}
        return ids

    def to_json(self) -> str:
        """All of the record as JSON (RFC 8259), under the name and number of its format.

        JSON lacks three numbers. In the figures, −inf is written as null, and NaN and +inf as
        "NaN" and "Infinity"; a `final_score` of −inf, where null says that there is none, as
        "-Infinity". In `settings`, which may hold anything, they are `{"number": "NaN"}` and so on.
        """
        from .trace_json import write

        return write(self)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """The Trace that `to_json` wrote, also in the first edition, whose format had no number.

        Raises TypeError for what is no string, and ValueError for any other text: it says what is
        wrong with it and where, such as at steps[0][2].rank.
        """
        from .trace_json import read

        return read(text)

    def __repr__(self) -> str:
        steps = max(map(len, self.steps), default=0)
        text = self.texts[0] if self.texts else ""  # a strategy called by itself decodes nothing
        return f"Trace({len(self.sequences)} sequence(s), {steps} steps: {text!r:.60})"


def plain_data(value, depth: int = 0):
    """`value` as JSON can hold it; what is no data is replaced by its name."""
    if depth > 100:
        raise ValueError(f"settings are nested more than 100 deep: {shown(value)}")
    if hasattr(value, "tolist") and not isinstance(value, type):  # of numpy or torch
        value = value.tolist()
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, dict):
        return {str(k): plain_data(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain_data(v, depth + 1) for v in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
