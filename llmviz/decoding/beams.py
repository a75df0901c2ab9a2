"""Beam search: several hypotheses at once, ranked by the log-probability of the whole text.

The plain one, beam-sample, which draws its candidates, and diverse beam search, whose groups of
beams keep out of each other's way. A step reads aloud as: extend every running hypothesis by every
token, take the best candidates, let those that end finish and the best of the others run on.

`transformers.GenerationMixin._beam_search` is followed to the letter, with the same `topk` over
the same layout, so that even ties fall alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import BoolTensor, LongTensor, Tensor

from .. import arguments, processors
from ..models import check_length
from ..recorder import Recorder
from ..trace import BeamCandidate, BeamStep, Trace
from .guidance import unconditional
from .prefix import Prefix, eos_token_ids
from .search import MOST_ROWS, check_draws, check_inputs, check_stop, seeded, stopped

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
    Where a vocabulary or a constraint leaves fewer hypotheses than beams, the places of the others
    are filled, as in transformers, with texts of a score around −10⁹ or −∞: these are returned if
    so many are asked for, and are no candidates.
    Raises TypeError or ValueError, before the model runs, for an argument that is out of bounds,
    and for a text that with `max_new_tokens` would not fit into the model's context.
    """
    asked = check_beams(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        num_return_sequences=num_return_sequences,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        do_sample=do_sample,
        num_beam_groups=num_beam_groups,
        diversity_penalty=diversity_penalty,
    )
    search = BeamSearch(
        model,
        input_ids,
        attention_mask,
        seed=seed,
        stop=stop,
        top_logprobs=top_logprobs,
        **settings,
        **{name: asked[name] for name in _OF_SEARCH},
    )
    groups = search.groups(asked["length_penalty"], asked["early_stopping"])
    while any(group.open.any() for group in groups):
        search.extend(groups)
    return search.trace(groups, settings={**search.settings, **asked, "seed": search.seed})


# What the model's part needs to know; the rest is bookkeeping.
_OF_SEARCH = ("max_new_tokens", "num_beams", "do_sample", "num_beam_groups", "diversity_penalty")


class BeamSearch:
    """The model's part of a beam search: its candidates, step by step.

    What is done with them, which may finish and when it is enough, is `Beams`' part, and needs no
    model. Which candidates a step has depends neither on the length penalty nor on early stopping,
    since running hypotheses are ranked by their sums alone. So `record` searches for as long as
    there is something to extend, and from that `replay` gives the search for any length penalty
    and any early stopping at once.

    The arguments are those of `beam_search`; the model does not run yet.
    """

    def __init__(
        self,
        model,
        input_ids: LongTensor,
        attention_mask: LongTensor | None = None,
        *,
        num_beams: int,
        max_new_tokens: int = 40,
        do_sample: bool = False,
        seed: int | None = None,
        num_beam_groups: int = 1,
        diversity_penalty: float = 0.0,
        stop: Callable[[LongTensor], BoolTensor] | None = None,
        top_logprobs: int = 20,
        **settings,
    ):
        plain = check_beams(
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=do_sample,
            num_beam_groups=num_beam_groups,
            diversity_penalty=diversity_penalty,
            num_return_sequences=1,
            length_penalty=1.0,
            early_stopping=False,
        )
        self.arguments = {name: plain[name] for name in _OF_SEARCH}
        self.do_sample, self.seed = check_draws(do_sample, seed)
        input_ids, mask = check_inputs(model, input_ids, attention_mask)
        size = model.config.get_text_config().vocab_size
        self.settings = processors.check(vocab_size=size, **settings)
        self.max_new_tokens, self.num_groups = plain["max_new_tokens"], plain["num_beam_groups"]
        check_length(model, int(mask.sum(-1).max()), self.max_new_tokens)
        check_stop(stop)
        self.recorder = Recorder(arguments.whole("top_logprobs", top_logprobs))
        self.input_ids, self.stop = input_ids.cpu(), stop
        (self.prompts, self.start), self.eos = input_ids.shape, eos_token_ids(model)
        self.num_beams = plain["num_beams"] // self.num_groups
        self.diversity_penalty = plain["diversity_penalty"]
        # Enough for every beam to go on, even where some end in every eos.
        self.num_candidates = max(2, 1 + len(self.eos)) * self.num_beams
        if self.num_candidates > self.num_beams * size:
            raise ValueError(
                f"num_beams={num_beams}: model has a vocabulary of {size} tokens, of which "
                f"{len(self.eos)} end a text; beams need more tokens to choose from"
            )
        # A row per beam: group after group, and in each of them prompt after prompt.
        rows = torch.arange(self.prompts).repeat_interleave(self.num_beams).repeat(self.num_groups)
        self.prefix = Prefix(model, self.input_ids[rows], mask.cpu()[rows])
        self.prompt_lengths = mask.cpu().sum(-1)
        self.unconditional = unconditional(model, self.settings, self.start)
        self.generator, self.filler = seeded(self.seed), filler(model)
        self.steps: list[list[_Candidates]] = []  # a step's, one per group

    def groups(self, length_penalty: float, early_stopping: bool | str) -> list[Beams]:
        """The bookkeeping of each group, at the start."""
        rows = self.prompts * self.num_beams
        return [
            Beams(
                first=rows * group,
                prompts=self.prompts,
                num_beams=self.num_beams,
                num_candidates=self.num_candidates,
                max_new_tokens=self.max_new_tokens,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
            )
            for group in range(self.num_groups)
        ]

    def extend(self, groups: list[Beams]) -> None:
        """One step: find the candidates of every group, in one pass of the model, and let the
        group sort them out."""
        prefix = self.prefix
        if self.steps:
            prefix.reorder(torch.cat([group.next_rows.flatten() for group in groups]))
            prefix.append(torch.cat([group.next_tokens.flatten() for group in groups]))
        logits = prefix.next_logits()
        log_probs = logits.log_softmax(-1)
        without_prompt = self.unconditional and self.unconditional.logits(prefix.input_ids)
        taken = torch.zeros_like(log_probs[: self.prompts])  # beams of earlier groups on each token
        processed, step = [], []
        for group in groups:
            scores = log_probs[group.rows]
            if self.diversity_penalty:
                scores = hamming_diversity(scores, self.diversity_penalty, taken)
            scores = processors.process(
                scores,
                prefix.input_ids[group.rows],
                attention_mask=prefix.attention_mask[group.rows],
                prompt_length=self.start,
                max_new_tokens=self.max_new_tokens,
                eos_token_ids=self.eos,
                num_beams=self.num_beams,
                unconditional_logits=None if without_prompt is None else without_prompt[group.rows],
                do_sample=self.do_sample,
                **self.settings,
            )
            step.append(self._candidates(group, log_probs[group.rows], scores))
            group.sort_out(step[-1])
            taken += group.chosen_by(taken)
            processed.append(scores)
        self.steps.append(step)
        self.recorder.record(
            logits,
            torch.cat(processed),
            torch.cat([candidates.tokens.flatten() for candidates in step]),
            torch.cat([candidates.rows.flatten() for candidates in step]),
        )

    def _candidates(self, group: Beams, log_probs: Tensor, scores: Tensor) -> _Candidates:
        """The group's best continuations, from figures of shape (prompts · beams, vocabulary)."""
        vocabulary, running = scores.shape[-1], group.running
        totals = scores.view(*running.shape, vocabulary)
        totals = (totals + running[:, :, None].to(scores.device)).flatten(1)
        if self.do_sample:
            probabilities = totals.softmax(-1).cpu()
            numbers = torch.multinomial(
                probabilities, self.num_candidates, generator=self.generator
            )
            sums = totals.gather(1, numbers.to(totals.device)).cpu()
        else:
            sums, numbers = (x.cpu() for x in totals.topk(self.num_candidates))
        beams, tokens = numbers // vocabulary, numbers % vocabulary
        rows = group.row_of_beam.gather(1, beams)
        ended = torch.isin(tokens, torch.tensor(self.eos, dtype=torch.long))
        if self.stop is not None:
            tails = tokens.view(-1, 1).to(self.prefix.input_ids.device)
            texts = torch.cat([self.prefix.input_ids[rows.flatten()], tails], dim=-1)
            ended |= stopped(self.stop, texts).view_as(ended)
        own_rows = rows - group.rows.start
        return _Candidates(
            rows=rows,
            beams=beams,
            tokens=tokens,
            sums=sums,
            ended=ended,
            log_probs=log_probs[own_rows, tokens].cpu(),
            scores=scores[own_rows, tokens].cpu(),
        )

    def record(self) -> Iterator[int]:
        """Search until there is nothing left to extend, and yield the number of steps so far."""
        groups = self.groups(length_penalty=1.0, early_stopping="never")
        while not all(group.all_ended for group in groups):
            self.extend(groups)
            yield len(self.steps)

    def replay(
        self,
        *,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        num_return_sequences: int = 1,
    ) -> Trace:
        """What `beam_search` returns for these arguments, from what `record` has recorded.

        Raises ValueError for an argument that is out of bounds, and for several groups: there the
        later ones depend on when an earlier one stops.
        """
        asked = check_beams(
            **self.arguments,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        settings = {**self.settings, **asked, "seed": self.seed}
        return self.trace([self.books(asked["length_penalty"], asked["early_stopping"])], settings)

    def books(
        self, length_penalty: float, early_stopping: bool | str, num_steps: int | None = None
    ) -> Beams:
        """The bookkeeping after so many of the recorded steps: all of them, unless given. It ends
        early where that is enough."""
        if self.num_groups > 1:
            raise ValueError(f"num_beam_groups={self.num_groups}: only one group can be replayed")
        (beams,) = self.groups(length_penalty, early_stopping)
        for (candidates,) in self.steps[:num_steps]:
            if not beams.open.any():
                break
            beams.sort_out(candidates)
        return beams

    def trace(self, groups: list[Beams], settings: dict) -> Trace:
        """The record of the search, with `settings["num_return_sequences"]` texts per prompt."""
        returned = settings["num_return_sequences"]
        best = [h for prompt in range(self.prompts) for h in _best(groups, prompt)[:returned]]
        beams = [_history(groups, prompt) for prompt in range(self.prompts)]
        number = {id(c): i for steps in beams for s in steps for i, c in enumerate(s.candidates)}
        width = max(len(path) for _, path in best)
        tokens = [
            [c.token_id for c, _ in path] + [self.filler] * (width - len(path)) for _, path in best
        ]
        texts = self.input_ids.repeat_interleave(returned, dim=0)
        return Trace(
            [],
            [],
            torch.cat([texts, torch.tensor(tokens, dtype=torch.long)], dim=-1),
            self.start,
            self.recorder.follow([[place for _, place in path] for _, path in best]),
            settings=settings,
            sequences_scores=[score for score, _ in best],
            beams=beams,
            # A returned text that is none of the real hypotheses is told as far as it was one.
            beam_paths=[[number[id(c)] for c, _ in path if id(c) in number] for _, path in best],
            prompt_lengths=self.prompt_lengths.repeat_interleave(returned).tolist(),
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
    """What fills a returned row after its end. A pad token of 0 counts as none, as in `generate`;
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
) -> dict:
    """The arguments of `beam_search` as plain Python; a ValueError for the first out of bounds."""
    early_stopping = arguments.plain(early_stopping)
    plain = {
        "max_new_tokens": arguments.whole("max_new_tokens", max_new_tokens),
        "num_beams": arguments.whole("num_beams", num_beams, high=MOST_ROWS),
        "num_return_sequences": arguments.whole("num_return_sequences", num_return_sequences),
        "length_penalty": float(arguments.number("length_penalty", length_penalty)),
        "early_stopping": early_stopping,
        "do_sample": arguments.flag("do_sample", do_sample),
        "num_beam_groups": arguments.whole("num_beam_groups", num_beam_groups),
        "diversity_penalty": float(
            arguments.number(
                "diversity_penalty", diversity_penalty, 0, 1e30, wanted="a number from 0 to 1e30"
            )
        ),
    }
    if not isinstance(early_stopping, (bool, str)) or early_stopping not in (True, False, "never"):
        raise ValueError(
            f"early_stopping={arguments.shown(early_stopping)}: it must be True, False or 'never'"
        )
    _check_together(**plain)
    return plain


def _check_together(
    *, num_beams, num_return_sequences, num_beam_groups, diversity_penalty, max_new_tokens,
    length_penalty, do_sample, early_stopping,
) -> None:  # fmt: skip
    """Raise a ValueError for arguments that contradict each other."""
    if num_return_sequences > num_beams:
        raise ValueError(
            f"num_return_sequences={num_return_sequences} with num_beams={num_beams}: a beam "
            "search finishes with as many hypotheses as it has beams, so ask for that many at most"
        )
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
            f"diversity_penalty={diversity_penalty!r} with num_beam_groups={num_beam_groups}: it "
            "must be above 0 with several groups, which would all do the same, and 0 or more with "
            "one"
        )
    if do_sample and num_beam_groups > 1:
        raise ValueError(
            f"num_beam_groups={num_beam_groups} with do_sample=True: groups of beams are not "
            "sampled; pass do_sample=False or num_beam_groups=1"
        )


class _Candidates(NamedTuple):
    """A step's candidates, the best first. Tensors of shape (prompts, candidates), on the CPU."""

    rows: LongTensor  # the row of the batch, among those of all groups, that each extends
    beams: LongTensor  # the running hypothesis of its prompt and group that each extends
    tokens: LongTensor
    sums: Tensor  # of the whole hypothesis: the running total with this token
    ended: BoolTensor  # whether its text is complete
    log_probs: Tensor  # of the token under the model; this and the next for the record only
    scores: Tensor  # of the token after the processors


class Beams:
    """The bookkeeping of a beam search over a batch of prompts: what runs, and what has finished.

    It takes a step's candidates as they come and knows no model. Tensors have a row per prompt, and
    stay on the CPU. A path tells a hypothesis: for each of its tokens the BeamCandidate, and that
    one's place among all that were recorded in the step.
    """

    def __init__(
        self,
        *,
        first: int,
        prompts: int,
        num_beams: int,
        num_candidates: int,
        max_new_tokens: int,
        length_penalty: float,
        early_stopping: bool | str,
    ):
        self.rows = slice(first, first + prompts * num_beams)
        self.row_of_beam = torch.arange(first, self.rows.stop).view(prompts, num_beams)
        self.num_beams, self.first_beam = num_beams, first // prompts
        self.num_candidates = num_candidates
        self.length, self.max_new_tokens = 0, max_new_tokens
        self.length_penalty, self.early_stopping = float(length_penalty), early_stopping
        # At first all beams hold the same text, so only one of them may count.
        self.running = torch.full((prompts, num_beams), NEVER)
        self.running[:, 0] = 0.0
        self.exists = self.running == 0.0  # which of them are hypotheses: the others hold places
        self.finished = torch.full((prompts, num_beams), NEVER)
        self.is_finished = torch.zeros(prompts, num_beams, dtype=torch.bool)
        # Whether a prompt's finished hypotheses can still change.
        self.open = torch.ones(prompts, dtype=torch.bool)
        self.all_ended = False  # whether there is nothing left to extend
        self.running_paths = [[[] for _ in range(num_beams)] for _ in range(prompts)]
        self.finished_paths = [[[] for _ in range(num_beams)] for _ in range(prompts)]
        self.history: list[list[list[BeamCandidate]]] = [[] for _ in range(prompts)]

    def sort_out(self, step: _Candidates) -> None:
        """Let each candidate finish, go on, or fall away."""
        self.length += 1
        # Those that have not ended go on, ranked by the sum alone.
        totals = step.sums + NEVER * step.ended
        going_on = totals.topk(self.num_beams).indices
        # Those that end may finish, but not the reserve after the first `num_beams`.
        ends = step.ended | (self.length == self.max_new_tokens)
        may_finish = ends & (torch.arange(self.num_candidates) < self.num_beams)
        final = step.sums / self.length**self.length_penalty
        contest = torch.cat([self.finished, final + NEVER * ~may_finish], dim=1)
        best = contest.topk(self.num_beams).indices
        best = torch.where(self.open[:, None], best, torch.arange(self.num_beams))

        real = self.exists.gather(1, step.beams) & (step.sums > -math.inf)
        self._remember(step, going_on, best, final, real)
        self.exists = (real & ~step.ended).gather(1, going_on)
        self.finished = contest.gather(1, best)
        self.is_finished = torch.cat([self.is_finished, may_finish], dim=1).gather(1, best)
        self.running = totals.gather(1, going_on)
        self.next_rows = step.rows.gather(1, going_on)
        self.next_tokens = step.tokens.gather(1, going_on)
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
        self.all_ended = bool(ends.all())
        self.open = self.open & (not self.all_ended)
        self._remember_end()

    def chosen_by(self, like: Tensor) -> Tensor:
        """How many beams go on with each token, shape (prompts, vocabulary)."""
        ones = self.was_open[:, None].expand_as(self.next_tokens).to(like)
        return torch.zeros_like(like).scatter_add_(1, self.next_tokens.to(like.device), ones)

    def _remember(self, step: _Candidates, going_on, best, final, real) -> None:
        """Put the step's candidates with their fates into the history, and lengthen the paths.

        Those that are not `real`, since they extend no hypothesis or are ruled out, are looked at
        for want of others, as in transformers. They have paths, but no place in the history.
        """
        size, first = self.num_beams, self.rows.start
        at_limit = self.length == self.max_new_tokens
        columns = (
            step.beams + self.first_beam,
            step.tokens,
            step.log_probs,
            step.scores,
            step.sums,
            final,
            step.ended,
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
            shown = zip(candidates, real[prompt].tolist(), strict=True)
            self.history[prompt].append([c for c, is_real in shown if is_real])
            place = (first // size + prompt) * self.num_candidates
            before = [self.running_paths[prompt][beam] for beam in step.beams[prompt].tolist()]
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


def _best(groups: list[Beams], prompt: int) -> list[tuple[float, list]]:
    """The finished hypotheses of all groups, as (score, path), the best first."""
    finished = [
        pair
        for group in groups
        for pair in zip(group.finished[prompt].tolist(), group.finished_paths[prompt], strict=True)
    ]
    return sorted(finished, key=lambda pair: -pair[0])


def _history(groups: list[Beams], prompt: int) -> list[BeamStep]:
    """The candidates of all groups, step by step."""
    steps = zip_longest(*(group.history[prompt] for group in groups), fillvalue=[])
    return [BeamStep([c for part in step for c in part]) for step in steps]
