"""A beam search for every place of two sliders, made beforehand and told without repetition.

Which candidates a step has depends neither on the length penalty nor on early stopping, so the
candidates are told once; a replay says what becomes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from ..decoding.beams import BeamSearch
from ..trace import BeamCandidate

FATES = ("running", "finished", "pruned", "discarded")
STOPPINGS = (False, True, "never")
_LOWEST, _HIGHEST = -2.0, 4.0

# What a candidate is to a replay: its fate, why, and the beam that goes on with it.
Cell = tuple[str, str, int | None]


def penalties(given: float) -> list[float]:
    """The places of the slider for the length penalty: tenths, and the one that was given."""
    tenths = range(round(10 * _LOWEST), round(10 * _HIGHEST) + 1)
    return sorted({given, *(number / 10 for number in tenths)})


@dataclass(frozen=True)
class Replay:
    """The bookkeeping of a search, step by step, as it was known after each step."""

    cells: tuple[tuple[Cell, ...], ...]  # a tuple per step, a cell per candidate
    finished: tuple[tuple[tuple[int, int], ...], ...]  # per step: (step, candidate), best first
    over: str  # the sentence at the end
    candidates: list[list[BeamCandidate]] = field(compare=False)


def replay(search: BeamSearch, length_penalty: float, early_stopping: bool | str) -> Replay:
    """What is told of the search for these two."""
    (books,) = search.groups(length_penalty, early_stopping)
    cells, finished, place = [], [], {}
    for (candidates,) in search.steps:
        if not books.open.any():
            break
        books.sort_out(candidates)
        step = books.history[0][-1]
        cells.append(tuple((c.fate, c.reason, c.next_beam) for c in step))
        place |= {id(c): (len(cells) - 1, i) for i, c in enumerate(step)}
        ended = [path[-1][0] for _, path in finished_of(books)]
        finished.append(tuple(place[id(c)] for c in ended if id(c) in place))
    over = verdict(search, step, len(cells))
    return Replay(tuple(cells), tuple(finished), over, books.history[0])


def finished_of(books) -> list[tuple[float, list[tuple[BeamCandidate, int]]]]:
    """The finished hypotheses, as (score, path), the best first."""
    found = zip(books.finished[0].tolist(), books.finished_paths[0], strict=True)
    counts = books.is_finished[0].tolist()
    return [pair for pair, counted in zip(found, counts, strict=True) if counted]


def verdict(search: BeamSearch, last: list[BeamCandidate], step: int) -> str:
    """How a search ended with these candidates of its last step."""
    if step == search.max_new_tokens:
        return f"step {step}: over, at max_new_tokens"
    reasons = (c.reason.partition(": ")[2] for c in last if c.fate == "running")
    return f"step {step}: over, since {next(reasons, 'nothing is left to go on with')}"


def all_replays(
    search: BeamSearch, length_penalties: list[float]
) -> tuple[list[Replay], list[list[int]]]:
    """The replays that differ, and for each of STOPPINGS the number of the one at each penalty.

    Two hypotheses change places at one penalty at most, and so do the bounds of a running one on
    either side of 0. So what is the same at both ends of a range is the same within it.
    """
    numbers: dict[Replay, int] = {}
    above = sum(penalty <= 0 for penalty in length_penalties)

    def row(stopping: bool | str) -> list[int]:
        found: dict[int, int] = {}

        def at(i: int) -> int:
            if i not in found:
                made = replay(search, length_penalties[i], stopping)
                found[i] = numbers.setdefault(made, len(numbers))
            return found[i]

        def fill(low: int, high: int) -> None:
            if at(low) == at(high):
                found.update((i, found[low]) for i in range(low, high))
            elif high - low > 1:
                middle = (low + high) // 2
                fill(low, middle)
                fill(middle, high)

        fill(0, above - 1)
        fill(above, len(length_penalties) - 1)
        return [found[i] for i in range(len(length_penalties))]

    places = [row(stopping) for stopping in STOPPINGS]
    return list(numbers), places


def told(search: BeamSearch, replays: list[Replay]) -> dict:
    """What is JSON: candidates and fates once, and of each replay what differs from these.

    steps: a list per step, per candidate [beam, token id, score, sum, whether it may finish, fate,
        number of the reason, beam that goes on with it or null].
    replays: per replay its number of steps, the changes [step, candidate, fate, reason, beam], per
        step the finished ones [step, candidate] or null where these are as before, and how it ends.
    lost: the reason of those that had finished and are no longer among them.
    """
    reasons: dict[str, int] = {}

    def cell(one: Cell) -> list:
        fate, reason, beam = one
        return [FATES.index(fate), reasons.setdefault(reason, len(reasons)), beam]

    longest = max(replays, key=lambda replay: len(replay.cells))
    steps = [
        [[*_figures(c), *cell(its_cell)] for c, its_cell in zip(step, cells, strict=True)]
        for step, cells in zip(longest.candidates, longest.cells, strict=True)
    ]
    return {
        "steps": steps,
        "replays": [
            {
                "steps": len(replay.cells),
                "changes": [[t, i, *cell(one)] for t, i, one in _changes(replay, longest)],
                "finished": [
                    None if before == now else now
                    for before, now in pairwise([(), *replay.finished])
                ],
                "over": replay.over,
            }
            for replay in replays
        ],
        "reasons": list(reasons),
        "lost": _lost(replays),
    }


def _lost(replays: list[Replay]) -> str:
    """Why one that had finished does not count any more, where there is one."""
    ends = (
        c.reason
        for replay in replays
        for cells, candidates in zip(replay.cells, replay.candidates, strict=True)
        for (fate, *_), c in zip(cells, candidates, strict=True)
        if fate == "finished" and c.fate == "discarded"
    )
    return next(ends, "")


def _changes(replay: Replay, usual: Replay) -> list[tuple[int, int, Cell]]:
    """The cells in which a replay differs, with the numbers of step and candidate."""
    return [
        (t, i, one)
        for t, (cells, others) in enumerate(zip(replay.cells, usual.cells, strict=False))
        for i, (one, other) in enumerate(zip(cells, others, strict=True))
        if one != other
    ]


def _figures(c: BeamCandidate) -> list:
    # Nine digits tell any float32.
    score, total = (float(f"{value:.9g}") for value in (c.score, c.sum_score))
    return [c.rank, c.beam, c.token_id, score, total, c.final_score is not None]
