"""Token strips and grids as self-contained HTML: inline styles, no script, nothing fetched.

They keep their colours in a saved notebook that is neither trusted nor running. All text in them is
escaped, shown with its control characters made visible, and never read as mathematics.
"""

from __future__ import annotations

import html
import math
import re
from os.path import commonprefix

from .tokens import clipped, readable
from .trace import Step, Trace

# Typesetters leave an element of these classes alone: MathJax 2 (nbviewer) the first, MathJax 3
# (JupyterLab) the second. The outermost element of every view has both.
VERBATIM = "tex2jax_ignore mathjax_ignore"

# Colours stand in the HTML in plain values: a sanitiser removes variables and functions of CSS.
_STRIP = (
    "font-family:monospace;font-size:14px;line-height:1.9;color:#222222;background:#ffffff;"
    "padding:6px 8px;max-width:900px"
)
# Boxes of their own, so that a line can break between two tokens.
_TOKEN = (
    "display:inline-block;line-height:1.3;padding:2px 1px 1px;margin-right:1px;"
    "border-radius:2px 2px 0 0;white-space:pre-wrap"
)
_CELL = "text-align:left;vertical-align:top;color:#222222"
_MOST_BITS = 10  # entropies above are underlined like this one


def printable(text: str) -> str:
    """`text` with every control character shown as its sign or code point, as labels do.

    Spaces, tabs and newlines stay. What is left can neither steer a terminal nor turn the direction
    of the text around it, and can be encoded.
    """
    return "".join(c if c in " \t\n" or c.isprintable() else readable(c) for c in text)


def escaped(text: str) -> str:
    """`text` as the content of an HTML element: nothing but text, whatever it holds.

    A dollar sign or a backslash stands in an element of its own, where no typesetter finds both
    ends of a formula; so even a viewer that drops the class `VERBATIM` shows it as it is.
    """
    return re.sub(r"[$\\]", r"<span>\g<0></span>", quoted(text))


def quoted(text: str) -> str:
    """`text` as the value of an HTML attribute, in quotation marks."""
    return html.escape(printable(text))


class View:
    """HTML for a notebook, with the same content as plain text for everything else."""

    def __init__(self, html: str, text: str):
        self._html, self._text = html, printable(text)

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


def token_strip(run: Trace, *, sequence: int = 0) -> View:
    """The new tokens of a sequence: the darker the fill, the likelier the token was; the thicker
    the underline, the more undecided the model (entropy). Both stand in the tooltip, with the rank.
    """
    steps = run.steps[sequence]
    prompt = run.prompts[sequence * len(run.prompts) // len(run.steps)]
    tokens = "".join(_token(step, run.labels) for step in steps)
    grey = f'<span style="color:#6b7280;white-space:pre-wrap">{escaped(prompt)}</span>'
    lines = [f"{prompt!r} +"] + [
        f"{run.labels[s.token_id]}  p = {math.exp(s.log_prob):.3f}, rank {s.rank}, "
        f"entropy {s.entropy:.2f} bits"
        for s in steps
    ]
    return _view(f"{grey} {tokens}{_legend()}", lines)


def side_by_side(runs: dict[str, Trace]) -> View:
    """Continuations of one prompt under several strategies, a row each.

    Tokens are pale up to the first one in which a row differs from the first row, which is marked.
    Each row ends in the log-probability of its tokens under the model. Raises ValueError where the
    prompts differ, or for fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"runs has {len(runs)} entries: two or more can be compared")
    prompts = {run.prompts[0] for run in runs.values()}
    if len(prompts) > 1:
        raise ValueError(f"runs continue different prompts: {sorted(prompts)!r:.200}")
    first = [step.token_id for step in next(iter(runs.values())).steps[0]]
    rows, lines = [], [repr(prompts.pop())]
    for i, (name, run) in enumerate(runs.items()):
        ids = [step.token_id for step in run.steps[0]]
        same = len(commonprefix([ids, first])) if i else 0
        cells = []
        for t, token_id in enumerate(ids):
            style = "color:#222222"
            if t < same:
                style = "color:#9ca3af"
            elif t == same and i:
                style = "color:#222222;background:#fde3b0;border-bottom:3px solid #e69f00"
            cells.append(f'<span style="{_TOKEN};{style}">{escaped(run.labels[token_id])}</span>')
        total = run.sum_logprobs[0]
        rows.append(
            '<tr style="background:#ffffff">'
            f'<td style="{_CELL}"><b>{escaped(name)}</b></td>'
            f'<td style="{_CELL}">{"".join(cells)}</td>'
            f'<td style="{_CELL}">{total:.2f}</td></tr>'
        )
        where = ""
        if i:
            alike = same == len(ids) == len(first)
            where = " (the same)" if alike else f" (differs from token {same + 1} on)"
        lines.append(f"{name}: {''.join(run.tokens[0])}  log-probability {total:.2f}{where}")
    header = "".join(
        f'<th style="text-align:left;color:#6b7280">{h}</th>'
        for h in ("strategy", "continuation", "log-probability")
    )
    table = f'<tr style="background:#ffffff">{header}</tr>{"".join(rows)}'
    return _view(table, lines, tag="table")


def attention_strip(weights, labels: list[str], *, query: int = -1) -> View:
    """The text as one head sees it from one token: the darker, the more weight a token gets.

    weights: shape (tokens, tokens), one head's, as in `llmviz.attentions(…).tensor[layer, head]`.
    query: the number of the token that looks; it is framed, and those behind it are grey. The
        weight of a token stands in its tooltip, and under it from 1 % on.
    """
    rows = [[float(w) for w in row] for row in weights]
    if len(rows) != len(labels) or any(len(row) != len(labels) for row in rows):
        raise ValueError(f"weights must have the shape ({len(labels)}, {len(labels)}), as labels")
    if not -len(labels) <= query < len(labels):
        raise ValueError(f"query={query!r}: the text has tokens 0 to {len(labels) - 1}")
    query %= len(labels)
    boxes, lines = [], [f"weights from token {query}, {labels[query]}"]
    for i, (label, weight) in enumerate(zip(labels, rows[query], strict=True)):
        style, below = f"{_TOKEN};text-align:center;vertical-align:top", "&nbsp;"
        if i > query:
            style += ";color:#9ca3af"
        else:
            fill, ink = _shade(math.sqrt(weight))
            style += f";background:{fill};color:{ink}"
            below = f"{weight:.0%}" if weight >= 0.01 else below
            lines.append(f"{i} {label}  {weight:.3f}")
        if i == query:
            style += ";outline:2px solid #e69f00"
        boxes.append(
            f'<span title="{quoted(label)}  {weight:.1%}" style="{style}">{escaped(label)}'
            f'<br><span style="font-size:9px">{below}</span></span>'
        )
    return _view("".join(boxes), lines)


def lens_grid(lens, *, every: int = 1) -> View:
    """A logit lens as a grid: a row a layer, the last on top, a column a token of the text.

    In each cell stands the token that comes next by that layer; the darker, the more probable.
    lens: the Table that `llmviz.logit_lens` returns.
    every: show only the last layer and each so-many-th below it.
    """
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every!r}: it must be a whole number of 1 or more")
    top = lens[lens["rank"] == 1]
    read = top.drop_duplicates("position")
    last = int(top["layer"].max())
    shown = set(range(last, -1, -every))
    cell = "padding:2px 6px;border:1px solid #ffffff;text-align:left;white-space:pre"
    head = f"{cell};color:#6b7280;font-weight:normal"
    rows, lines = [], ["layer  " + " ".join(read["token"])]
    for layer, group in reversed(list(top.groupby("layer"))):
        if layer not in shown:
            continue
        boxes = [f'<th style="{head};text-align:right">{layer}</th>']
        for row in group.itertuples():
            fill, ink = _shade(row.probability)
            hover = (
                f"{quoted(row.prediction)}  p = {row.probability:.3f}, behind layer {layer}, "
                f"after {quoted(row.token)}"
            )
            boxes.append(
                f'<td title="{hover}" style="{cell};background:{fill};color:{ink}">'
                f"{escaped(clipped(row.prediction, 12))}</td>"
            )
        rows.append(f'<tr style="background:#ffffff">{"".join(boxes)}</tr>')
        lines.append(f"{layer:>5}  " + " ".join(group["prediction"]))
    names = "".join(
        f'<th style="{head}"><b>{escaped(clipped(t, 12))}</b></th>' for t in read["token"]
    )
    rows.append(
        f'<tr style="background:#ffffff"><th style="{head};text-align:right">reads</th>{names}</tr>'
    )
    table = f'<table style="{_STRIP};font-size:12px;line-height:1.3;max-width:none">'
    return _view(f"{table}{''.join(rows)}</table>", lines, style="overflow-x:auto")


def _view(content: str, lines: list[str], *, tag: str = "div", style: str = _STRIP) -> View:
    return View(f'<{tag} class="{VERBATIM}" style="{style}">{content}</{tag}>', "\n".join(lines))


def _shade(share: float) -> tuple[str, str]:
    """The fill for a share from 0 to 1, as in the figures, and an ink that is read on it."""
    half = min(share, 0.5) * 2
    fill = _mix((255, 255, 255), (156, 203, 232), half)
    if share > 0.5:
        fill = _mix((156, 203, 232), (0, 90, 143), 2 * share - 1)
    return fill, "#ffffff" if share > 0.7 else "#222222"


def _token(step: Step, labels: dict[int, str]) -> str:
    p, bits = math.exp(step.log_prob), step.entropy
    share = min(bits / _MOST_BITS, 1)
    style = (
        f"{_TOKEN};background:{_mix((255, 255, 255), (86, 160, 211), p)};"
        f"border-bottom:{1 + round(4 * share)}px solid {_mix((229, 231, 235), (213, 94, 0), share)}"
    )
    label = labels[step.token_id]
    hover = quoted(f"{label}  p = {p:.3f}, rank {step.rank}, entropy {bits:.2f} bits")
    return f'<span title="{hover}" style="{style}">{escaped(label)}</span>'


def _legend() -> str:
    swatch = "padding:0 6px;margin:0 2px 0 10px"
    return (
        '<div style="font-size:11px;color:#6b7280;line-height:1.4">fill: probability'
        f'<span style="{swatch};background:{_mix((255, 255, 255), (86, 160, 211), 0.1)}">10%</span>'
        f'<span style="{swatch};background:{_mix((255, 255, 255), (86, 160, 211), 0.9)}">90%</span>'
        " · underline: entropy"
        f'<span style="{swatch};border-bottom:1px solid #e5e7eb">0</span>'
        f'<span style="{swatch};border-bottom:5px solid #d55e00">{_MOST_BITS} bits</span></div>'
    )


def _mix(low: tuple[int, int, int], high: tuple[int, int, int], share: float) -> str:
    # Shares in steps of 5%, so that a last digit that differs between machines changes no colour.
    share = round(share * 20) / 20
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True)
    )
