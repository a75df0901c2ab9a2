"""Beam search: several hypotheses at once, ranked by the log-probability of the whole text.

The plain one, beam-sample, which draws its candidates, and diverse beam search, whose groups of
beams keep out of each other's way. A step reads aloud as: extend every running hypothesis by every
token, take the best candidates, let those that end finish and the best of the others run on.

`transformers.GenerationMixin._beam_search` is followed to the letter, with the same `topk` over
the same layout, so that even ties fall alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import zip_longest

import torch
from torch import BoolTensor, LongTensor, Tensor

from .. import processors
from ..models import check_count
from ..trace import BeamCandidate, BeamStep, Recorder, Trace
from .prefix import Prefix, eos_token_ids
from .search import seeded

# Stands for "not at all": finite, so that what is added to it still has an order.
NEVER = -1e9


def beam_search(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    num_beams: int,
    max_new_tokens: int = 40,
    num_return_sequences: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    do_sample: bool = False,
    seed: int | None = None,
    num_beam_groups: int = 1,
    diversity_penalty: float = 0.0,
    stop: Callable[[LongTensor], BoolTensor] | None = None,
    top_logprobs: int = 20,
    **settings,
) -> Trace:
    """Keep the `num_beams` best hypotheses running, and return the best that finished.

    input_ids, attention_mask: shape (prompts, tokens), padded on the left.
    num_return_sequences: how many of a prompt's finished hypotheses to return, the best first.
    length_penalty: a finished hypothesis scores its sum of log-probabilities divided by
        length ** length_penalty. The sum is negative, so a higher penalty favours *long* ones.
    early_stopping: True stops when `num_beams` have finished; False when, besides, the best
        running one would not beat the worst of them if it ended now; "never" when it would not
        even at the full length (for a length_penalty above 0).
    do_sample: draw each step's candidates without replacement, from the softmax of their totals
        (beam-sample), on a CPU generator with `seed`.
    num_beam_groups, diversity_penalty: diverse beam search (Vijayakumar et al., 2016), which has
        left transformers' core. The beams form groups that choose one after the other; a token's
        score is lowered by the penalty for each beam of an earlier group that goes on with it in
        the same step. What was subtracted stays in the total.
    stop: from input_ids (rows, tokens) to a bool tensor (rows,): which of these texts end here.
    settings: for `processors.process`, which under beams gets log-probabilities, not logits.

    The trace has `sequences_scores`, and in `beams` every candidate of every step with its fate.
    Raises ValueError, before the model runs, for an argument that is out of bounds.
    """
    arguments = {
        "max_new_tokens": max_new_tokens,
        "num_beams": num_beams,
        "num_return_sequences": num_return_sequences,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "do_sample": do_sample,
        "num_beam_groups": num_beam_groups,
        "diversity_penalty": diversity_penalty,
    }
    check_beams(**arguments)
    processors.check(vocab_size=model.config.get_text_config().vocab_size, **settings)
    (prompts, start), eos = input_ids.shape, eos_token_ids(model)
    size = num_beams // num_beam_groups
    # A row a beam: group after group, and in each of them prompt after prompt.
    rows = torch.arange(prompts).repeat_interleave(size).repeat(num_beam_groups)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prefix = Prefix(model, input_ids.cpu()[rows], mask.cpu()[rows])
    groups = [
        _Beams(first, prompts, size, len(eos), max_new_tokens, length_penalty, early_stopping)
        for first in range(0, len(rows), prompts * size)
    ]
    generator, recorder = seeded(seed), Recorder(top_logprobs)

    while True:
        logits = prefix.next_logits()
        log_probs = logits.log_softmax(-1)
        taken = torch.zeros_like(log_probs[:prompts])  # beams of earlier groups on each token
        processed = []
        for group in groups:
            scores = log_probs[group.rows]
            if diversity_penalty:
                scores = hamming_diversity(scores, diversity_penalty, taken)
            scores = processors.process(
                scores,
                prefix.input_ids[group.rows],
                attention_mask=prefix.attention_mask[group.rows],
                prompt_length=start,
                eos_token_ids=eos,
                num_beams=size,
                do_sample=do_sample,
                **settings,
            )
            group.extend(scores, do_sample, generator)
            ended = torch.isin(group.tokens, torch.tensor(eos, dtype=torch.long))
            if stop is not None:
                tails = group.tokens.view(-1, 1).to(prefix.input_ids.device)
                texts = torch.cat([prefix.input_ids[group.origins.flatten()], tails], dim=-1)
                ended |= stop(texts).cpu().view_as(ended)
            group.sort_out(ended, log_probs, scores)
            taken += group.chosen_by(taken)
            processed.append(scores)
        recorder.record(
            logits,
            torch.cat(processed),
            torch.cat([group.tokens.flatten() for group in groups]),
            torch.cat([group.origins.flatten() for group in groups]),
        )
        if not any(group.open.any() for group in groups):
            break
        prefix.reorder(torch.cat([group.next_rows.flatten() for group in groups]))
        prefix.append(torch.cat([group.next_tokens.flatten() for group in groups]))

    best = [h for prompt in range(prompts) for h in _best(groups, prompt)[:num_return_sequences]]
    beams = [_history(groups, prompt) for prompt in range(prompts)]
    number = {id(c): i for steps in beams for step in steps for i, c in enumerate(step.candidates)}
    width, pad = max(len(path) for _, path in best), filler(model)
    tokens = [[c.token_id for c, _ in path] + [pad] * (width - len(path)) for _, path in best]
    texts = input_ids.cpu().repeat_interleave(num_return_sequences, dim=0)
    return Trace(
        [],
        [],
        torch.cat([texts, torch.tensor(tokens, dtype=torch.long)], dim=-1),
        start,
        recorder.follow([[place for _, place in path] for _, path in best]),
        settings={**settings, **arguments, "seed": seed},
        sequences_scores=[score for score, _ in best],
        beams=beams,
        beam_paths=[[number[id(c)] for c, _ in path] for _, path in best],
    )


def hamming_diversity(scores: Tensor, diversity_penalty: float, taken: Tensor) -> Tensor:
    """Subtract the penalty from a token's score for every beam that has taken the token.

    scores: shape (prompts · beams of a group, vocabulary). taken: shape (prompts, vocabulary), how
    many beams of earlier groups go on with each token in this step.
    Vijayakumar et al., 2016, section 4; once transformers' HammingDiversityLogitsProcessor.
    """
    beams = len(scores) // len(taken)
    return scores - diversity_penalty * taken.repeat_interleave(beams, dim=0)


def filler(model) -> int:
    """What fills a returned row behind its end. A pad token of 0 counts as none, as in `generate`;
    where a model has no eos either, rows are filled with −1."""
    eos = eos_token_ids(model)
    return (model.generation_config.pad_token_id or eos[0]) if eos else -1


def check_beams(
    *,
    num_beams: int,
    num_return_sequences: int,
    length_penalty: float,
    early_stopping: bool | str,
    do_sample: bool,
    num_beam_groups: int,
    diversity_penalty: float,
    max_new_tokens: int,
) -> None:
    """Raise a ValueError for the first argument of `beam_search` that is out of bounds."""
    check_count("max_new_tokens", max_new_tokens)
    check_count("num_beams", num_beams)
    check_count("num_return_sequences", num_return_sequences)
    check_count("num_beam_groups", num_beam_groups)
    if num_return_sequences > num_beams:
        raise ValueError(
            f"num_return_sequences={num_return_sequences} with num_beams={num_beams}: a beam "
            "search finishes with as many hypotheses as it has beams, so ask for that many at most"
        )
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f"early_stopping={early_stopping!r}: it must be True, False or 'never'")
    for name, value in (
        ("length_penalty", length_penalty),
        ("diversity_penalty", diversity_penalty),
    ):
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{name}={value!r}: it must be a finite number")
    # The longest length's power has to be a number that can be divided by.
    if abs(length_penalty * math.log(max_new_tokens)) > 300:
        raise ValueError(
            f"length_penalty={length_penalty!r}: {max_new_tokens} tokens to that power is out of "
            "range; useful values lie between -2 and 2"
        )
    if num_beams % num_beam_groups:
        raise ValueError(
            f"num_beam_groups={num_beam_groups} does not divide num_beams={num_beams}: groups must "
            "be of equal size"
        )
    if diversity_penalty < 0 or (num_beam_groups > 1 and diversity_penalty == 0):
        raise ValueError(
            f"diversity_penalty={diversity_penalty!r}: it must be above 0, or all "
            f"{num_beam_groups} groups do the same"
        )
    if do_sample and num_beam_groups > 1:
        raise ValueError(
            f"num_beam_groups={num_beam_groups} with do_sample=True: groups of beams are not "
            "sampled; pass do_sample=False or num_beam_groups=1"
        )


class _Beams:
    """One beam search over a batch of prompts: what runs, what has finished, and its last step.

    Tensors have a row a prompt, and stay on the CPU. A path tells a hypothesis: for each of its
    tokens the BeamCandidate, and that one's place among all that were recorded in the step.
    """

    def __init__(
        self,
        first_row: int,
        prompts: int,
        num_beams: int,
        num_eos: int,
        max_new_tokens: int,
        length_penalty: float,
        early_stopping: bool | str,
    ):
        self.rows = slice(first_row, first_row + prompts * num_beams)
        self.row_of_beam = torch.arange(first_row, self.rows.stop).view(prompts, num_beams)
        self.num_beams, self.first_beam = num_beams, first_row // prompts
        self.length, self.max_new_tokens = 0, max_new_tokens
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        # Enough for every beam to go on, even where some end in every eos.
        self.num_candidates = max(2, 1 + num_eos) * num_beams
        # At first all beams hold the same text, so only one of them may count.
        self.running = torch.full((prompts, num_beams), NEVER)
        self.running[:, 0] = 0.0
        self.finished = torch.full((prompts, num_beams), NEVER)
        self.is_finished = torch.zeros(prompts, num_beams, dtype=torch.bool)
        # Whether a prompt's finished hypotheses can still change.
        self.open = torch.ones(prompts, dtype=torch.bool)
        self.running_paths = [[[] for _ in range(num_beams)] for _ in range(prompts)]
        self.finished_paths = [[[] for _ in range(num_beams)] for _ in range(prompts)]
        self.history: list[list[list[BeamCandidate]]] = [[] for _ in range(prompts)]

    def extend(self, scores: Tensor, do_sample: bool, generator: torch.Generator | None) -> None:
        """Take the step's candidates, from the scores of shape (prompts · beams, vocabulary)."""
        vocabulary = scores.shape[-1]
        totals = scores.view(*self.running.shape, vocabulary)
        totals = (totals + self.running[:, :, None].to(scores.device)).flatten(1)
        if do_sample:
            probabilities = totals.softmax(-1).cpu()
            numbers = torch.multinomial(probabilities, self.num_candidates, generator=generator)
            self.sums = totals.gather(1, numbers.to(totals.device)).cpu()
        else:
            self.sums, numbers = (x.cpu() for x in totals.topk(self.num_candidates))
        self.beams, self.tokens = numbers // vocabulary, numbers % vocabulary
        self.origins = self.row_of_beam.gather(1, self.beams)

    def sort_out(self, ended: BoolTensor, log_probs: Tensor, scores: Tensor) -> None:
        """Let each candidate finish, go on, or fall away.

        ended: which candidates are complete texts, shape (prompts, candidates).
        log_probs, scores: what they were taken from, of all rows, and of this group's; for the
            record only.
        """
        self.length += 1
        # Those that have not ended go on, ranked by the sum alone.
        totals = self.sums + NEVER * ended
        going_on = totals.topk(self.num_beams).indices
        # Those that end may finish, but not the reserve behind the first `num_beams`.
        ends = ended | (self.length == self.max_new_tokens)
        may_finish = ends & (torch.arange(self.num_candidates) < self.num_beams)
        final = self.sums / self.length**self.length_penalty
        contest = torch.cat([self.finished, final + NEVER * ~may_finish], dim=1)
        best = contest.topk(self.num_beams).indices
        best = torch.where(self.open[:, None], best, torch.arange(self.num_beams))

        self._remember(going_on, best, ended, final, log_probs, scores)
        self.finished = contest.gather(1, best)
        self.is_finished = torch.cat([self.is_finished, may_finish], dim=1).gather(1, best)
        self.running = totals.gather(1, going_on)
        self.next_rows = self.origins.gather(1, going_on)
        self.next_tokens = self.tokens.gather(1, going_on)
        self.was_open = self.open

        # A prompt is done when not even its best running one would beat a finished one;
        length = self.length
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.max_new_tokens
        best_running = self.running[:, :1] / length**self.length_penalty
        worst_finished = torch.where(self.is_finished, self.finished.amin(1, keepdim=True), NEVER)
        self.open = self.open & (best_running > worst_finished).any(1)
        # where that is enough, when all places are taken; and when there is nothing to go on with.
        if self.early_stopping is True:
            self.open = self.open & ~self.is_finished.all(1)
        self.open = self.open & ~ends.all()
        self._remember_end()

    def chosen_by(self, like: Tensor) -> Tensor:
        """How many beams go on with each token, shape (prompts, vocabulary)."""
        ones = self.was_open[:, None].expand_as(self.next_tokens).to(like)
        return torch.zeros_like(like).scatter_add_(1, self.next_tokens.to(like.device), ones)

    def _remember(self, going_on, best, ended, final, log_probs, scores) -> None:
        """Put the step's candidates with their fates into the history, and lengthen the paths."""
        size, first = self.num_beams, self.rows.start
        own_rows, at_limit = self.origins - first, self.length == self.max_new_tokens
        columns = (
            self.beams + self.first_beam,
            self.tokens,
            log_probs[self.origins, self.tokens],
            scores[own_rows, self.tokens],
            self.sums,
            final,
            ended,
        )
        columns = [column.tolist() for column in columns]
        for prompt in self.open.nonzero().flatten().tolist():
            next_beam = {rank: beam for beam, rank in enumerate(going_on[prompt].tolist())}
            kept = best[prompt].tolist()
            candidates = []
            for rank in range(self.num_candidates):
                *figures, final_score, has_ended = (column[prompt][rank] for column in columns)
                stays, is_kept = next_beam.get(rank), size + rank in kept
                fate, reason = _fate(rank, size, has_ended, at_limit, stays, is_kept)
                compared = (has_ended or at_limit) and rank < size
                candidates.append(
                    BeamCandidate(
                        *figures,
                        rank=rank,
                        fate=fate,
                        reason=reason,
                        next_beam=self.first_beam + stays if fate == "running" else None,
                        final_score=final_score if compared else None,
                    )
                )
            self.history[prompt].append(candidates)
            place = (first // size + prompt) * self.num_candidates
            before = [self.running_paths[prompt][beam] for beam in self.beams[prompt].tolist()]
            paths = [[*b, (c, place + c.rank)] for b, c in zip(before, candidates, strict=True)]
            self.running_paths[prompt] = [paths[rank] for rank in next_beam]
            for i, path in enumerate(self.finished_paths[prompt]):
                if self.is_finished[prompt, i] and i not in kept:
                    path[-1][0].fate = "discarded"
                    path[-1][0].reason = f"finished, but {size} better ones finished later"
            self.finished_paths[prompt] = [(self.finished_paths[prompt] + paths)[i] for i in kept]

    def _remember_end(self) -> None:
        """Say of the hypotheses that still ran why their search ended."""
        for prompt in (self.was_open & ~self.open).nonzero().flatten().tolist():
            for candidate in self.history[prompt][-1]:
                if candidate.fate == "running":
                    if self.early_stopping is True and self.is_finished[prompt].all():
                        why = f"{self.num_beams} have finished, and early_stopping is True"
                    else:
                        why = "no running one would beat the worst that finished"
                    candidate.reason = f"still running at the end: {why}"
                    candidate.next_beam = None


def _fate(
    rank: int, num_beams: int, ended: bool, at_limit: bool, next_beam: int | None, kept: bool
) -> tuple[str, str]:
    """What becomes of a candidate, and why."""
    if not ended and not at_limit:
        if next_beam is None:
            return "pruned", f"only the best {num_beams} unfinished ones go on"
        return "running", f"one of the best {num_beams} unfinished ones"
    how = "ends here" if ended else "reaches the full length"
    if rank >= num_beams:
        return "discarded", f"{how}, but only the first {num_beams} candidates may finish"
    if not kept:
        return "discarded", f"{how}, but {num_beams} finished ones score better"
    return "finished", f"{how}, and is among the best {num_beams} that finished"


def _best(groups: list[_Beams], prompt: int) -> list[tuple[float, list]]:
    """The finished hypotheses of all groups, as (score, path), the best first."""
    finished = [
        pair
        for group in groups
        for pair in zip(group.finished[prompt].tolist(), group.finished_paths[prompt], strict=True)
    ]
    return sorted(finished, key=lambda pair: -pair[0])


def _history(groups: list[_Beams], prompt: int) -> list[BeamStep]:
    """The candidates of all groups, step by step."""
    steps = zip_longest(*(group.history[prompt] for group in groups), fillvalue=[])
    return [BeamStep([c for part in step for c in part]) for step in steps]
