"""How a beam search looks in a saved notebook: its tree as a picture, and tables of hypotheses."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ..colours import BLUE, FAINT, GREEN, INK, MUTED, ORANGE
from ..decoding.beams import BeamSearch
from ..formats import fixed, given
from ..html import escaped, quoted
from ..tokens import clipped
from ..trace import BeamCandidate, BeamStep, Trace
from ..widgets.base import card, table, token
from .replays import finished_of, verdict

_FATES = {
    "running": "goes on",
    "finished": "finished",
    "pruned": "pruned",
    "discarded": "discarded",
}
_TAIL = 4  # of a hypothesis, so many last tokens are shown


@dataclass(frozen=True, eq=False)
class Grown:
    """A search at one of its steps, for one length penalty and early stopping, as known then."""

    length_penalty: float
    present: Trace
    finished: list[tuple[float, list[BeamCandidate]]]  # (score, path), the best first
    is_over: bool
    verdict: str

    @property
    def candidates(self) -> list[BeamCandidate]:
        return self.present.beams[0][-1].candidates

    def hypothesis(self, candidate: BeamCandidate) -> list[str]:
        """The labels of its tokens, from the first one on."""
        path = [candidate]
        for step in self.present.beams[0][-2::-1]:
            path.append(next(c for c in step.candidates if c.next_beam == path[-1].beam))
        return self.labels(path[::-1])

    def labels(self, path: list[BeamCandidate]) -> list[str]:
        return [self.present.labels[c.token_id] for c in path]

    def lines(self) -> list[str]:
        """The candidates and the finished hypotheses, a line each."""
        lines = []
        for c in self.candidates:
            text = "".join(self.hypothesis(c)[-_TAIL:])
            lines.append(f"{c.rank + 1}. {text}  {fixed(c.sum_score)}  {c.fate}: {c.reason}")
        for score, path in self.finished:
            text = "".join(self.labels(path))
            lines.append(f"finished: {text}  {fixed(path[-1].sum_score)} → {fixed(score, 3)}")
        return lines


def grown(
    prompt: str,
    search: BeamSearch,
    labels: dict[int, str],
    *,
    length_penalty: float,
    early_stopping: bool | str,
    length: int,
    step: int,
) -> Grown:
    """A search of `length` steps as it stood after `step` of them.

    A small vocabulary fills places with what continues no hypothesis: that is not shown.
    """
    books = search.books(length_penalty, early_stopping, step)
    history = books.history[0]
    place = {id(c): i for candidates in history for i, c in enumerate(candidates)}
    found = ((score, [c for c, _ in path]) for score, path in finished_of(books))
    finished = [(score, path) for score, path in found if id(path[-1]) in place]
    best = finished[0][1] if finished else [c for c, _ in books.running_paths[0][0]]
    best = [place[id(c)] for c in best if id(c) in place]
    present = Trace(
        [prompt],
        [],
        search.input_ids,
        search.start,
        [],
        labels,
        beams=[[BeamStep(candidates) for candidates in history]],
        beam_paths=[best],
    )
    is_over = step == length
    said = verdict(search, history[-1], step) if is_over else (
        f"step {step} of {length}: the search goes on"
    )  # fmt: skip
    return Grown(length_penalty, present, finished, is_over, said)


def picture(now: Grown, length: int, comparison: str, call: str) -> str:
    """A search at one of its `length` steps, as HTML."""
    rows = [
        [
            str(c.rank + 1),
            _hypothesis_html(now.hypothesis(c), c.fate),
            fixed(c.score),
            fixed(c.sum_score),
            f"<b>{_FATES[c.fate]}</b>" if c.fate in ("running", "finished") else _FATES[c.fate],
            f'<div style="color:{MUTED};white-space:normal;font-size:12px;max-width:420px">'
            f"{escaped(c.reason)}</div>",
        ]
        for c in now.candidates
    ]
    head = ["", f"candidates of step {len(now.present.beams[0])}", "log-prob.", "sum", "", "why"]
    return card(
        f'<div style="color:{MUTED};white-space:pre-wrap">'
        f"{escaped(now.present.prompts[0][-300:])} …</div>",
        f'<div style="margin:4px 0"><b>{escaped(now.verdict)}</b></div>',
        # From right to left, so that of a tree that is too wide the newest steps are seen.
        '<div style="width:0;min-width:100%;overflow-x:auto;direction:rtl">'
        f"{tree_svg(now.present, length)}</div>",
        _legend(),
        table(head, rows, "llrrll"),
        _finished_html(now),
        f'<div style="margin-top:4px">{escaped(comparison)}</div>'
        f'<div style="font-family:monospace;font-size:12px;color:{MUTED};white-space:pre-wrap">'
        f"{escaped(call)}</div>",
    )


def _finished_html(now: Grown) -> str:
    if not now.finished:
        return f'<div style="color:{MUTED};margin:4px 0">none has finished yet</div>'
    rows = [
        [
            "▸" if place == 0 else "",
            _hypothesis_html(now.labels(path), "finished", 20),
            fixed(path[-1].sum_score),
            str(len(path)),
            f"<b>{fixed(score, 3)}</b>",
        ]
        for place, (score, path) in enumerate(now.finished)
    ]
    power = f"score = sum / length ** {given(now.length_penalty)}"
    return table(["", "finished so far", "sum", "length", power], rows, "llrrr")


_ROW = 34  # pixels of a candidate in the tree
_COLUMNS = 12  # steps that fit beside each other into a card
# What means something in HTML, in an address or to a typesetter of mathematics.
_QUOTED = {ord(c): f"%{ord(c):02X}" for c in "%#&<>\"'$\\`"}


def tree_svg(run: Trace, num_steps: int) -> str:
    """A beam search as a tree that grows to the right, as an <img> with an alternative text.

    Of `num_steps` columns in all, it has as many as steps were made: the last 12 of them, which
    fit into a card; where there are more, the picture says so.
    Its places are ranks, not scores, so that the same search is the same picture everywhere. Round
    is what goes on, square what has ended; filled is what is kept, hollow what is not.
    """
    steps, best = run.beams[0], run.beam_paths[0]
    first = max(len(steps) - _COLUMNS, 0)
    column = min(max(750 // num_steps, 67), 96)
    widest = max(len(step.candidates) for step in steps[first:])
    height, width = widest * _ROW + 24, (len(steps) - first) * column + 62
    lines, nodes = [], []
    middle = _ROW // 2 + 20
    before = "start" if first == 0 else f"… {first}" if first < 1000 else "…"
    parents, root = {}, (40, middle)
    nodes.append(_svg_text(4, middle + 4, before, MUTED))
    if first:
        nodes.append(_svg_text(4, middle + 17, "steps", MUTED))
    for x, step in enumerate(steps[first:], start=first):
        left, following = 64 + (x - first) * column, {}
        nodes.append(_svg_text(left - 5, 12, f"step {x + 1}", MUTED, 11))
        for y, c in enumerate(step.candidates):
            top = 20 + y * _ROW + _ROW // 2
            on_path = x < len(best) and best[x] == y
            alive = c.fate in ("running", "finished")
            colour, thick = (ORANGE, 3) if on_path else (BLUE, 1.3) if alive else (FAINT, 1)
            x0, y0 = parents.get(c.beam, root)
            # Level below the parent's label, then aslant.
            line = (
                f'<path d="M{x0} {y0} H{left - 22} L{left} {top}" stroke="{colour}" '
                f'stroke-width="{thick}" fill="none"/>'
            )
            lines.append((on_path, alive, line))
            nodes.append(_svg_node(left, top, c.fate, on_path))
            ink = INK if alive else MUTED
            label = clipped(run.labels[c.token_id], (column - 16) // 7)
            score = c.sum_score if c.final_score is None else c.final_score
            struck = c.fate in ("pruned", "discarded")
            nodes.append(_svg_text(left + 9, top - 6, label, ink, 12, "monospace", struck))
            nodes.append(_svg_text(left + 9, top + 13, f" {fixed(score)}", MUTED, 10))
            if c.next_beam is not None:
                following[c.next_beam] = (left, top)
        parents = following
    drawn = "".join(line for *_, line in sorted(lines, key=lambda item: item[:2]))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><rect width="100%" height="100%" fill="#ffffff"/>'
        f"{drawn}{''.join(nodes)}</svg>"
    )
    path = "".join(run.labels[s.candidates[i].token_id] for s, i in zip(steps, best, strict=False))
    left_out = f", of which the first {first} are left out" if first else ""
    alt = f"Tree of a beam search over {len(steps)} steps{left_out}; its best hypothesis is {path}"
    address = f"data:image/svg+xml;charset=utf-8,{svg.translate(_QUOTED)}"
    return (
        f'<img src="{address}" alt="{quoted(alt)}" '
        f'style="display:block;margin-right:auto;width:{width}px;max-width:none;height:{height}px">'
    )


def _svg_node(x: int, y: int, fate: str, on_path: bool) -> str:
    fill = {"running": BLUE, "finished": GREEN}.get(fate, "#ffffff")
    edge = f'fill="{fill}" stroke="{ORANGE if on_path else MUTED}" stroke-width="{1 + on_path}"'
    if fate in ("finished", "discarded"):
        return f'<rect x="{x - 5}" y="{y - 5}" width="10" height="10" {edge}/>'
    return f'<circle cx="{x}" cy="{y}" r="5" {edge}/>'


def _svg_text(
    x: int, y: int, text: str, colour: str, size: int = 12, family: str = "sans-serif",
    struck: bool = False,
) -> str:  # fmt: skip
    # What XML forbids, such as a control character, would break the whole picture.
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    line = ' text-decoration="line-through"' if struck else ""
    return (
        f'<text x="{x}" y="{y}" font-family="{family}" font-size="{size}" fill="{colour}"{line}>'
        f"{escape(text)}</text>"
    )


def _hypothesis_html(labels: list[str], fate: str, most: int = _TAIL) -> str:
    """The last tokens of a hypothesis, `most` of them, the very last one in bold."""
    more = "…" if len(labels) > most else ""
    *before, last = (token(clipped(label, 16)) for label in labels[-most:])
    last = f"<s>{last}</s>" if fate in ("pruned", "discarded") else f"<b>{last}</b>"
    return f'<span style="color:{MUTED}">{more}{"".join(before)}</span>{last}'


def _legend() -> str:
    signs = [
        ("border-radius:50%", BLUE, "goes on"),
        ("border-radius:50%", "#ffffff", "pruned"),
        ("", GREEN, "finished, and kept so far"),
        ("", "#ffffff", "discarded"),
    ]
    items = "".join(
        f'<span style="display:inline-block;width:8px;height:8px;border:1px solid {MUTED};'
        f'background:{fill};{shape};margin:0 4px 0 14px"></span>{name}'
        for shape, fill, name in signs
    )
    return (
        f'<div style="font-size:11px;color:{MUTED}">numbers: sum of log-probabilities; of one that '
        f"has ended, its score{items}</div>"
    )
