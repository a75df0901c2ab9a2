"""Figures of what a model predicts and generates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from .. import arguments, processors
from ..colours import BLUE, FAINT, INK, MUTED, ORANGE, RED, SERIES
from ..formats import given
from ..trace import Candidate, Step, Trace
from .axes import (
    PROBABILITY,
    drawable,
    every_so_many,
    few,
    legend,
    lists_of,
    new_axes,
    no_spines,
    token_ticks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike

_BARS = 100  # the most that can be read
_WIDEST = 12.5  # inches: a page
_PER_LINE, _LINES = 12, 10  # steps and lines of a board
_LETTERS, _ROWS = 75, 40  # of a strip of tokens


def plot_probabilities(
    probabilities: Tensor | ArrayLike,
    labels: Iterable[str],
    *,
    chosen: int | None = None,
    rest: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Horizontal bars of the most likely next tokens, the most likely on top.

    Parameters
    ----------
    probabilities : Tensor | ArrayLike
        One per label, from 0 to 1, in the order to draw; 100 at most.
    labels : Iterable[str]
        A readable text per token.
    chosen : int | None
        The position of a bar to single out.
    rest : bool
        Add a hollow bar for all other tokens together, 1 minus the sum.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For an argument that is out of bounds.
    """
    values = arguments.numbers_of("probabilities", probabilities, 0.0, 1.001)
    names = arguments.labels("labels", labels, len(values), "probabilities")
    few("probabilities", names, _BARS)
    if chosen is not None:
        chosen = arguments.whole("chosen", chosen, 0, len(values) - 1)
    rest = arguments.flag("rest", rest)
    ax = new_axes(ax, height=0.55 + 0.27 * (len(values) + rest))
    colours = [ORANGE if i == chosen else BLUE for i in range(len(values))]
    ax.barh(range(len(values)), values, color=colours, height=0.72)
    if rest:
        others = max(1 - math.fsum(values), 0.0)
        ax.barh(len(values), others, facecolor="none", edgecolor=MUTED, hatch="////", height=0.72)
        values, names = [*values, others], [*names, "all others"]
    for y, value in enumerate(values):
        ax.text(value, y, f" {value:.1%}", va="center", color=MUTED, fontsize=9)
    token_ticks(ax.yaxis, names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * max(values) or 1)
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    return ax


def plot_temperature(
    logits: Tensor | ArrayLike,
    labels: Iterable[str],
    temperatures: ArrayLike = (0.1, 1.0, 5.0),
    ax: Axes | None = None,
) -> Axes:
    """The probabilities of the same scores at several temperatures, as bars side by side.

    Parameters
    ----------
    logits : Tensor | ArrayLike
        Shape (tokens,), with a label each, 100 at most; −inf for a token that cannot come.
    labels : Iterable[str]
        A readable text per token.
    temperatures : ArrayLike
        Finite numbers above 0, 12 at most.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For an argument that is out of bounds.
    """
    logits = arguments.tensor("logits", logits, "tokens", ruled_out=True)
    labels = arguments.labels("labels", labels, len(logits), "logits")
    few("logits", labels, _BARS)
    values = arguments.numbers_of("temperatures", temperatures)
    if min(values) <= 0:
        raise ValueError(f"temperatures holds {min(values)}: pass numbers above 0")
    if len(values) > 12:
        raise ValueError(f"temperatures has {len(values)} entries: 12 at most can be told apart")
    rows = [processors.temperature(logits[None], value)[0].softmax(-1) for value in values]
    for value, row in zip(values, rows, strict=True):
        if not row.isfinite().all():
            raise ValueError(f"temperatures holds {value}: logits divided by it are not finite")
    ax = new_axes(ax, width=8, height=3.4)
    width = 0.8 / len(values)
    for i, (temperature, row) in enumerate(zip(values, rows, strict=True)):
        at = [x + (i - (len(values) - 1) / 2) * width for x in range(len(labels))]
        colour = SERIES[i % len(SERIES)]
        ax.bar(at, row.tolist(), width=width, label=f"T = {given(temperature)}", color=colour)
    token_ticks(ax.xaxis, labels)
    ax.set_ylabel("probability")
    ax.legend(frameon=False)
    return ax


def plot_tokens(
    labels: Iterable[str], token_ids: Tensor | ArrayLike | None = None, *, ax: Axes | None = None
) -> Axes:
    """A text as a strip of coloured boxes, one per token, with the ids below where they are given.

    A long text goes on in a new line; after 40 lines the figure says how many tokens are left out.

    Parameters
    ----------
    labels : Iterable[str]
        A readable text per token.
    token_ids : Tensor | ArrayLike | None
        The tokens' ids, one per label.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For labels that are no list of strings, and for ids that are no whole numbers, one per
        label.
    """
    labels = arguments.labels("labels", labels)
    ids = None
    if token_ids is not None:
        found = arguments.numbers_of("token_ids", token_ids, low=0)
        if len(found) != len(labels):
            raise ValueError(f"token_ids has {len(found)} entries and labels {len(labels)}")
        ids = [f"{i:.0f}" if i % 1 == 0 else str(i) for i in found]
        if not all(map(str.isdecimal, ids)):
            raise ValueError(f"token_ids={arguments.shown(token_ids)}: ids are whole numbers")
    boxes, left, line = [], 0, 0  # (left end, line, text)
    for label in labels:
        text = drawable(label, _LETTERS // 2)
        if left and left + len(text) + 2 > _LETTERS:
            left, line = 0, line + 1
        if line == _ROWS:
            break
        boxes.append((left, line, text))
        left += len(text) + 2
    longest = max(left + len(text) + 2 for left, _, text in boxes)
    lines = boxes[-1][1] + 1
    ax = new_axes(ax, width=max(0.16 * longest, 2), height=0.8 * lines)
    for n, (left, line, text) in enumerate(boxes):
        width, y = len(text) + 2, -line
        ax.barh(y, width, left=left, color=SERIES[n % len(SERIES)], alpha=0.3, edgecolor="white")
        style = {"ha": "center", "va": "center", "parse_math": False}
        at = left + width / 2
        ax.text(at, y + (0.12 if ids else 0), text, fontsize=12, color=INK, **style)
        if ids:
            ax.text(at, y - 0.2, ids[n], fontsize=9, color=MUTED, **style)
    if len(boxes) < len(labels):
        more = f"… {len(labels) - len(boxes):,} more tokens"
        ax.text(0, -lines, more, va="center", color=MUTED, fontsize=9)
    ax.set_xlim(0, longest)
    ax.axis("off")
    return ax


def plot_surprisal(
    surprisals: Mapping[str, ArrayLike], labels: Iterable[str], *, ax: Axes | None = None
) -> Axes:
    """Surprisal token by token, in bits: a line for each named list in `surprisals`.

    Parameters
    ----------
    surprisals : Mapping[str, ArrayLike]
        Lists of bits, by the names of their lines.
    labels : Iterable[str]
        The tokens along the axis; a list may be shorter than they are, none longer. Where they are
        too many for a page, one in so many is shown, and the figure says so.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For other input, and for bits that are not finite.
    """
    rows = lists_of("surprisals", surprisals, low=-0.001)
    labels = arguments.labels("labels", labels)
    longest = max(map(len, rows.values()))
    if longest > len(labels):
        raise ValueError(f"surprisals has {longest} values in a list, for {len(labels)} labels")
    every = every_so_many(len(labels), 16) if ax is None else 1
    ax = new_axes(ax, width=min(max(0.78 * len(labels), 5), _WIDEST), height=3)
    lines = []
    for i, bits in enumerate(rows.values()):
        style = {"color": SERIES[i % len(SERIES)], "marker": "osD^v"[i % 5], "markersize": 5}
        lines += ax.plot(range(len(bits)), bits, linewidth=1.6, **style)
    token_ticks(ax.xaxis, labels, every)
    if every > 1:
        ax.set_xlabel(f"one label in {every} is shown")
    ax.set_ylabel("surprisal, bits")
    ax.set_ylim(bottom=0)
    if len(rows) > 1:
        legend(ax, lines, list(rows))
    return ax


def plot_steps(run: Trace, *, sequence: int = 0, top_k: int = 5, ax: Axes | None = None) -> Axes:
    """A generation as a board: a column per step, the most likely tokens from the top down.

    The darker a cell, the more likely the token was under the model; the chosen one has a frame. A
    choice whose rank is beyond `top_k` stands in a row of its own at the bottom; of equally likely
    tokens the chosen one stands first. After twelve steps the board goes on below; after 120 it
    says how many are left out.

    Parameters
    ----------
    run : Trace
        A recorded run, as `generate` returns it.
    sequence : int
        The number of the sequence in `run`, from 0.
    top_k : int
        How many rows the board has.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For a run without new tokens, and arguments out of bounds.
    """
    top_k = arguments.whole("top_k", top_k, 1, 50)
    steps = arguments.steps("run", run, sequence)
    if not steps:
        raise ValueError(f"run has no new tokens in sequence {sequence}")
    cells = [_board(run, t, step, top_k) for t, step in enumerate(steps, start=1)]
    cells, left_out = cells[: _PER_LINE * _LINES], len(steps) - _PER_LINE * _LINES
    outside = any(row == top_k for column in cells for row, *_ in column)
    rows, lines = top_k + outside, math.ceil(len(cells) / _PER_LINE)
    columns, deep = min(len(cells), _PER_LINE), rows + 0.8  # with its steps' numbers below
    height = rows + (lines - 1) * deep
    ax = new_axes(ax, width=max(1.05 * columns + 0.6, 4), height=0.62 * height + 0.5)
    for t, column in enumerate(cells):
        line, x = divmod(t, _PER_LINE)
        for row, p, label, picked in column:
            _draw_cell(ax, x, line * deep + row, p, label, picked)
        if lines > 1:
            style = {"ha": "center", "va": "center", "color": MUTED, "fontsize": 10}
            ax.text(x, line * deep + rows - 0.25, str(t + 1), **style)
    ax.set_xlim(-0.6, columns - 0.4)
    ax.set_ylim(height - (0.5 if lines == 1 else 0), -0.55)
    ticks = range(columns if lines == 1 else 0)
    ax.set_xticks(ticks, [str(t + 1) for t in ticks])
    names = [str(k) for k in range(1, top_k + 1)] + ["below"] * outside
    places = [line * deep + row for line in range(lines) for row in range(rows)]
    ax.set_yticks(places, names * lines)
    ax.set_xlabel("step" if left_out <= 0 else f"step; the last {left_out:,} steps are left out")
    ax.set_ylabel("rank")
    no_spines(ax)
    ax.tick_params(length=0)
    return ax


def _board(run: Trace, t: int, step: Step, top_k: int) -> list[tuple[int, float, str, bool]]:
    """A step's cells: row, probability, label, and whether the token was chosen.

    A token's row is its rank − 1, and equals follow each other, the chosen one first; the record
    may leave out ranks below the likeliest.
    """

    def rank(c: Candidate) -> tuple[int, bool]:
        chosen = c.token_id == step.token_id
        return step.rank if chosen else c.rank, not chosen

    cells, row = [], -1
    for candidate in sorted(step.candidates, key=rank):
        place, other = rank(candidate)
        row = max(row + 1, place - 1)
        if row < top_k or not other:
            label = drawable(arguments.label("run", run, candidate.token_id), 12)
            cells.append((min(row, top_k), math.exp(candidate.log_prob), label, not other))
    if not any(picked for *_, picked in cells):
        raise ValueError(f"run does not hold, in step {t}, the token that was chosen there")
    return cells


def _draw_cell(ax: Axes, x: float, y: float, p: float, label: str, picked: bool) -> None:
    ax.add_patch(
        plt.Rectangle(
            (x - 0.46, y - 0.44),
            0.92,
            0.88,
            facecolor=PROBABILITY(p),
            edgecolor=ORANGE if picked else FAINT,
            linewidth=2.6 if picked else 0.8,
            zorder=3 if picked else 2,
        )
    )
    size = 9.5 if len(label) <= 9 else 8
    style = {"ha": "center", "va": "center", "color": "white" if p > 0.7 else INK, "zorder": 4}
    ax.text(x, y - 0.12, label, fontsize=size, parse_math=False, **style)
    ax.text(x, y + 0.24, f"{p:.1%}" if p >= 0.001 else "<0.1%", fontsize=7.5, **style)


def plot_sampler(
    run: Trace, step: int = 1, *, sequence: int = 0, top_k: int = 12, ax: Axes | None = None
) -> Axes:
    """One step's probabilities before and after the processors, as pairs of bars.

    A token that a processor ruled out keeps its bar before, and is marked "cut". The last pair
    holds all other tokens, so each kind of bar adds up to 1 over the vocabulary.

    Parameters
    ----------
    run : Trace
        A recorded run, as `generate` returns it.
    step : int
        The number of the step, from 1.
    sequence : int
        The number of the sequence in `run`, from 0.
    top_k : int
        How many pairs of bars to draw.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For a step that does not exist, and arguments out of bounds.
    """
    top_k = arguments.whole("top_k", top_k, 1, _BARS)
    steps = arguments.steps("run", run, sequence)
    if not steps:
        raise ValueError(f"run has no new tokens in sequence {sequence}")
    record = steps[arguments.whole("step", step, 1, len(steps)) - 1]
    shown = record.candidates[:top_k]
    before = [math.exp(c.log_prob) for c in shown]
    after = [c.processed_probability for c in shown]
    labels = [arguments.label("run", run, c.token_id) for c in shown] + ["all others"]
    ax = new_axes(ax, height=0.7 + 0.36 * len(labels))
    before.append(max(1 - math.fsum(before), 0.0))
    after.append(max(1 - math.fsum(after), 0.0))
    rows = range(len(labels))
    ax.barh([y - 0.2 for y in rows], before, height=0.36, color=FAINT)
    colours = [ORANGE if c.token_id == record.token_id else BLUE for c in shown] + [BLUE]
    ax.barh([y + 0.2 for y in rows], after, height=0.36, color=colours)
    for y, (p, q) in enumerate(zip(before, after, strict=True)):
        cut = y < len(shown) and shown[y].score == -math.inf
        ax.text(p, y - 0.2, f" {p:.1%}", va="center", color=MUTED, fontsize=8)
        ax.text(q, y + 0.2, " cut" if cut else f" {q:.1%}", va="center", color=INK, fontsize=8)
    token_ticks(ax.yaxis, labels)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * max(before + after))
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    swatches = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (FAINT, BLUE, ORANGE)]
    ax.legend(swatches, ["before", "after", "chosen"], frameon=False, loc="center right")
    return ax


def plot_rank_curve(
    logits: Tensor | ArrayLike,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Probability against rank, both logarithmic, and how far each cut-off reaches.

    Parameters
    ----------
    logits : Tensor | ArrayLike
        Shape (vocabulary,).
    top_k : int
        The cut-off at this rank; 0 is off.
    top_p : float
        The nucleus' share; 1 is off.
    min_p : float
        The share of the most likely token's probability; 0 is off.
    typical_p : float
        The share of the most typical tokens; 1 is off.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For logits of another shape, with NaN or +inf, and for a cut-off out of bounds.

    Notes
    -----
    A cut-off that keeps everything is not drawn. Top-k, top-p and min-p keep all ranks left of
    their line; typical keeps the dotted ranks, which may leave out the most likely.
    """
    scores = arguments.tensor("logits", logits, "vocabulary", ruled_out=True)[None]
    settings = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p}
    processors.check(**settings)
    kept = {
        name: getattr(processors, name)(scores, value)[0] > -math.inf
        for name, value in settings.items()
        if value != processors.DEFAULTS[name]
    }
    probabilities, order = scores[0].softmax(-1).sort(descending=True)
    ranks = torch.arange(1, len(probabilities) + 1)
    ax = new_axes(ax, width=7.5, height=3.8)
    ax.loglog(ranks, probabilities, color=INK, linewidth=1.6)
    for i, name in enumerate(settings):
        if name in kept:
            count = int(kept[name].sum())
            label = f"{name} = {given(settings[name])} keeps {count:,}"
            _draw_cut_off(ax, i, label, count, ranks[kept[name][order]], probabilities)
    ax.set_xlabel("rank")
    ax.set_ylabel("probability")
    ax.set_ylim(bottom=1e-8)
    if kept:
        ax.legend(frameon=False, loc="upper right")
    return ax


def _draw_cut_off(
    ax: Axes, i: int, label: str, count: int, ranks: Tensor, probabilities: Tensor
) -> None:
    if label.startswith("typical_p"):
        style = {"color": RED, "marker": "o", "linestyle": "none", "markersize": 4}
        ax.plot(ranks, probabilities[ranks - 1], label=label, **style)
    else:
        style = {"color": SERIES[i], "linestyle": ("-", "--", "-.")[i], "linewidth": 1.8}
        ax.axvline(count + 0.5, label=label, **style)
