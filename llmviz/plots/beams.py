"""The history of a beam search as a tree."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .. import arguments
from ..colours import BLUE, FAINT, GREEN, INK, MUTED, ORANGE
from ..formats import fixed
from ..trace import BeamCandidate, BeamStep, Trace
from .axes import drawable, new_axes, no_spines

_FEW = 12  # steps in which every candidate bears a token; also the widest figure
_MOST = 60  # steps that are drawn
_COLUMN, _ROW, _HIGHEST = 1.55, 0.42, 40.0  # inches


def plot_beam_tree(
    run: Trace, *, prompt: int = 0, max_steps: int | None = None, ax: Axes | None = None
) -> Axes:
    """The history of a beam search as a tree that grows to the right, a column per step.

    A filled blue node went on, a white one was pruned, a green square ended and was kept as a
    finished hypothesis, a white square ended and was discarded. Each bears its token and the
    running sum of scores, a finished one its final score; beyond twelve steps only those that went
    on bear a token, as far as there is room. The best hypothesis has the thick line.

    Parameters
    ----------
    run : Trace
        A recorded run, as `generate` returns it.
    prompt : int
        Its number in a batch.
    max_steps : int | None
        How many steps to draw, from the first; all of them unless given, or the first 60 of a
        longer search, and then the figure says how many are left out.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For a trace without beams, and sums that are no numbers.
    """
    steps, best = _history(run, prompt)
    if max_steps is not None:
        steps = steps[: arguments.whole("max_steps", max_steps, 1)]
    left_out = max(len(steps) - _MOST, 0)
    steps = steps[:_MOST]
    widest = max(len(step.candidates) for step in steps)
    column = min(_COLUMN, _COLUMN * _FEW / len(steps))
    row = min(_ROW, _HIGHEST / widest)
    labels = _labels(run, steps, column, row)
    height = 0.8 + row * widest
    ax = new_axes(ax, width=2.0 + column * len(steps), height=height)
    ax.text(-0.12, 0, "start", ha="right", va="center", color=MUTED, fontsize=9)
    _draw(ax, steps, best)
    for (x, y), (label, alive) in labels.items():
        style = {"color": INK if alive else MUTED, "fontsize": 7.5, "zorder": 4}
        ax.text(x + 0.09, y, label, va="center", parse_math=False, **style)
    ax.set_xlim(-0.7, len(steps) + 0.75)
    ax.set_ylim(widest - 0.4, -0.6)
    shown = range(1, len(steps) + 1, math.ceil(len(steps) / 24))
    ax.set_xticks(shown, [f"step {t}" for t in shown])
    if left_out:
        ax.set_xlabel(f"the last {left_out:,} steps are not drawn")
    ax.yaxis.set_visible(False)
    no_spines(ax)
    handles = [
        plt.Line2D([], [], marker=m, linestyle="none", markerfacecolor=f, markeredgecolor=MUTED)
        for m, f in (("o", BLUE), ("o", "white"), ("s", GREEN), ("s", "white"))
    ]
    ax.legend(
        handles,
        ["goes on", "pruned", "finished", "discarded"],
        frameon=False, ncols=4, loc="upper left", fontsize=9,
        bbox_to_anchor=(0, (-0.6 if left_out else -0.3) / height),
    )  # fmt: skip
    return ax


def _history(run: Trace, prompt: int) -> tuple[list[BeamStep], list[int]]:
    """A prompt's steps, checked, and the best hypothesis's candidate in each of them."""
    if not arguments.trace("run", run).beams:
        raise ValueError("run has no beams: make it with lv.generate(…, num_beams=2 or more)")
    prompt = arguments.whole("prompt", prompt, 0, len(run.beams) - 1)
    steps, paths = run.beams[prompt], run.beam_paths or [[]]
    if not steps or not all(isinstance(s, BeamStep) and s.candidates for s in steps):
        raise ValueError(f"run has no steps with candidates for prompt {prompt}")
    for t, step in enumerate(steps, start=1):
        for c in step.candidates:
            sums = [c.sum_score, c.final_score] if isinstance(c, BeamCandidate) else [None, None]
            if not (_is_sum(sums[0]) and (sums[1] is None or _is_sum(sums[1]))):
                raise ValueError(
                    f"run holds, in step {t} of prompt {prompt}, {arguments.shown(c)}: its sums "
                    "must be numbers"
                )
    return steps, paths[prompt * len(paths) // len(run.beams)]


def _is_sum(value) -> bool:
    return arguments.is_number(value) and value < math.inf  # NaN compares as false


def _labels(run: Trace, steps: list[BeamStep], column: float, row: float) -> dict:
    """By place, the text beside a node, and whether the node is alive."""
    few = len(steps) <= _FEW and row == _ROW  # or it would drown in labels
    room = 10 if len(steps) <= _FEW else int((column - 0.2) / 0.07)  # letters
    labels = {}
    for x, step in enumerate(steps, start=1):
        for y, c in enumerate(step.candidates):
            alive = c.fate in ("running", "finished")
            label = drawable(arguments.label("run", run, c.token_id), max(room, 2))
            if few or (c.fate == "finished" and row == _ROW):
                label += f"\n{fixed(c.sum_score if c.final_score is None else c.final_score)}"
            if few or (alive and room > 2 and row > 0.12):
                labels[x, y] = label, alive
    return labels


def _draw(ax: Axes, steps: list[BeamStep], best: list[int]) -> None:
    """The lines and nodes: a candidate stands at (its step, its rank)."""
    root = (0.0, 0.0)
    parents = {}  # running hypothesis → the end of its node's label
    lines, nodes = {"best": [], "alive": [], "dead": []}, {}
    for x, step in enumerate(steps, start=1):
        next_parents = {}
        for y, c in enumerate(step.candidates):
            on_path = x <= len(best) and best[x - 1] == y
            alive = c.fate in ("running", "finished")
            kind = "best" if on_path else "alive" if alive else "dead"
            lines[kind].append([parents.get(c.beam, root), (x - 0.08, y)])
            nodes.setdefault((c.fate, on_path), []).append((x, y))
            if c.next_beam is not None:
                next_parents[c.next_beam] = (x + 0.55, y)
        parents = next_parents
    looks = {"dead": (FAINT, 0.8), "alive": (BLUE, 1.1), "best": (ORANGE, 2.8)}
    for z, (kind, (colour, width)) in enumerate(looks.items()):
        ax.add_collection(LineCollection(lines[kind], colors=colour, linewidths=width, zorder=z))
    for (fate, on_path), places in nodes.items():
        ax.scatter(
            *zip(*places, strict=True),
            s=46,
            marker="s" if fate in ("finished", "discarded") else "o",
            facecolor={"running": BLUE, "finished": GREEN}.get(fate, "white"),
            edgecolor=ORANGE if on_path else MUTED,
            linewidth=1.8 if on_path else 0.8,
            zorder=3,
        )
