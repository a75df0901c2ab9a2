"""Token strips and grids as self-contained HTML: inline styles, no script, nothing fetched.

They keep their colours in a saved notebook that is neither trusted nor running. All text in them is
escaped, shown with its control characters made visible, and never read as mathematics.
"""

from __future__ import annotations

import html
import math
import re
from os.path import commonprefix
from typing import TYPE_CHECKING

from . import arguments
from .formats import fixed
from .tokens import clipped, printable
from .trace import Step, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import ArrayLike
    from torch import Tensor

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
    """The new tokens of a sequence: the darker the fill, the more likely the token was; the thicker
    the underline, the more undecided the model (entropy). Both stand in the tooltip, with the rank.

    Parameters
    ----------
    run : Trace
        A recorded run, as `generate` returns it.
    sequence : int
        The number of the sequence in `run`, from 0.

    Returns
    -------
    View
        What a notebook shows.

    Raises
    ------
    TypeError, ValueError
        For anything but a Trace, a sequence that it does not have, and figures in it that are not
        numbers.
    """
    steps, prompt = arguments.steps("run", run, sequence), _prompt("run", run, sequence)
    labels = [arguments.label("run", run, step.token_id) for step in steps]
    tokens = "".join(map(_token, steps, labels))
    grey = f'<span style="color:#6b7280;white-space:pre-wrap">{escaped(prompt)}</span>'
    lines = [f"{prompt!r} +", *map(_figures, steps, labels)]
    return _view(f"{grey} {tokens}{_legend()}", lines)


def _prompt(name: str, run: Trace, sequence: int) -> str:
    """A sequence's prompt: several sequences may continue one."""
    prompts = run.prompts
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{name} holds no text of its prompt: lv.generate and lv.trace_of give it")
    return prompts[sequence * len(prompts) // len(run.steps)]


def side_by_side(runs: dict[str, Trace]) -> View:
    """Continuations of one prompt under several strategies, a row each.

    Tokens are pale up to the first one in which a row differs from the first row, which is marked.
    Each row ends in the log-probability of its tokens under the model.

    Parameters
    ----------
    runs : dict[str, Trace]
        Runs by the names of their strategies, two or more.

    Returns
    -------
    View
        What a notebook shows.

    Raises
    ------
    TypeError, ValueError
        Where the prompts differ, for fewer than two runs, and for anything but Traces by their
        names.
    """
    if not isinstance(runs, dict) or not all(isinstance(name, str) for name in runs):
        raise TypeError(f"runs={arguments.shown(runs)}: it must be a dict of Traces by their names")
    if len(runs) < 2:
        raise ValueError(f"runs has {len(runs)} entries: two or more can be compared")
    found = {name: arguments.steps(_entry(name), run) for name, run in runs.items()}
    prompts = {_prompt(_entry(name), run, 0) for name, run in runs.items()}
    if len(prompts) > 1:
        raise ValueError(f"runs continue different prompts: {arguments.shown(sorted(prompts))}")
    first = [step.token_id for step in next(iter(found.values()))]
    rows, lines = [], [repr(prompts.pop())]
    for i, (name, steps) in enumerate(found.items()):
        ids = [step.token_id for step in steps]
        labels = [arguments.label(_entry(name), runs[name], token_id) for token_id in ids]
        same = len(commonprefix([ids, first])) if i else 0
        total = fixed(math.fsum(step.log_prob for step in steps))
        rows.append(_row(name, labels, same if i else None, total))
        where = ""
        if i:
            alike = same == len(ids) == len(first)
            where = " (the same)" if alike else f" (differs from token {same + 1} on)"
        lines.append(f"{name}: {''.join(labels)}  log-probability {total}{where}")
    header = "".join(
        f'<th style="text-align:left;color:#6b7280">{h}</th>'
        for h in ("strategy", "continuation", "log-probability")
    )
    return _view(f'<tr style="background:#ffffff">{header}</tr>{"".join(rows)}', lines, tag="table")


def _entry(name: str) -> str:
    return f"runs[{arguments.shown(name)}]"


def _row(name: str, labels: list[str], same: int | None, total: str) -> str:
    """A row of `side_by_side`; its first `same` tokens are those of the first row."""
    cells = []
    for t, label in enumerate(labels):
        style = "color:#222222"
        if same is not None and t < same:
            style = "color:#9ca3af"
        elif t == same:
            style = "color:#222222;background:#fde3b0;border-bottom:3px solid #e69f00"
        cells.append(f'<span style="{_TOKEN};{style}">{escaped(label)}</span>')
    return (
        '<tr style="background:#ffffff">'
        f'<td style="{_CELL}"><b>{escaped(name)}</b></td>'
        f'<td style="{_CELL}">{"".join(cells)}</td>'
        f'<td style="{_CELL}">{total}</td></tr>'
    )


def attention_strip(weights: Tensor | ArrayLike, labels: Iterable[str], *, query: int = -1) -> View:
    """The text as one head sees it from one token: the darker, the more weight a token gets.

    Parameters
    ----------
    weights : Tensor | ArrayLike
        Shape (tokens, tokens), one head's, as in `llmviz.attentions(…).tensor[layer, head]`, from 0
        to 1. A row adds up to 1, or to less in a model with attention sinks (gpt-oss).
    labels : Iterable[str]
        A readable text per token.
    query : int
        The number of the token that looks; it is framed, and those after it are grey. The weight of
        a token stands in its tooltip, and under it from 1 % on.

    Returns
    -------
    View
        What a notebook shows.

    Raises
    ------
    TypeError, ValueError
        For other shapes and values.
    """
    weights = arguments.tensor("weights", weights, "tokens", "tokens", low=0.0, high=1.001)
    labels = arguments.labels("labels", labels, len(weights), "weights")
    query = arguments.whole("query", query, -len(labels), len(labels) - 1) % len(labels)
    boxes, lines = [], [f"weights from token {query}, {labels[query]}"]
    for i, (label, weight) in enumerate(zip(labels, weights[query].tolist(), strict=True)):
        style, below = f"{_TOKEN};text-align:center;vertical-align:top", "&nbsp;"
        if i > query and not weight:
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


def lens_grid(lens: pd.DataFrame, *, every: int = 1) -> View:
    """A logit lens as a grid: a row per layer, the last on top, a column per token of the text.

    In each cell stands the token that comes next by that layer; the darker, the more probable.

    Parameters
    ----------
    lens : pd.DataFrame
        The Table that `llmviz.logit_lens` returns.
    every : int
        Show only the last layer and each so-many-th below it.

    Returns
    -------
    View
        What a notebook shows.

    Raises
    ------
    TypeError, ValueError
        For another table, or one with holes.
    """
    every = arguments.whole("every", every)
    layers, read = _by_layer(lens)
    cell = "padding:2px 6px;border:1px solid #ffffff;text-align:left;white-space:pre"
    head = f"{cell};color:#6b7280;font-weight:normal"
    rows, lines = [], ["layer  " + " ".join(read)]
    for layer in range(max(layers), -1, -every):
        if layer not in layers:
            continue
        boxes = [f'<th style="{head};text-align:right">{layer}</th>']
        for token, (prediction, probability) in zip(read, layers[layer], strict=True):
            fill, ink = _shade(probability)
            hover = quoted(
                f"{prediction}  p = {probability:.3f}, behind layer {layer}, after {token}"
            )
            boxes.append(
                f'<td title="{hover}" style="{cell};background:{fill};color:{ink}">'
                f"{escaped(clipped(prediction, 12))}</td>"
            )
        rows.append(f'<tr style="background:#ffffff">{"".join(boxes)}</tr>')
        lines.append(f"{layer:>5}  " + " ".join(prediction for prediction, _ in layers[layer]))
    names = "".join(f'<th style="{head}"><b>{escaped(clipped(t, 12))}</b></th>' for t in read)
    rows.append(
        f'<tr style="background:#ffffff"><th style="{head};text-align:right">reads</th>{names}</tr>'
    )
    table = f'<table style="{_STRIP};font-size:12px;line-height:1.3;max-width:none">'
    return _view(f"{table}{''.join(rows)}</table>", lines, style="overflow-x:auto")


def _by_layer(lens) -> tuple[dict[int, list[tuple[str, float]]], list[str]]:
    """By layer, the first prediction and its probability at each token; and the tokens."""
    from pandas import DataFrame

    columns = ("layer", "position", "token", "rank", "prediction", "probability")
    if not isinstance(lens, DataFrame):
        raise TypeError(f"lens={arguments.shown(lens)}: it must be what lv.logit_lens returns")
    if missing := [column for column in columns if column not in lens]:
        raise ValueError(f"lens has no column {missing[0]!r}: pass what lv.logit_lens returns")
    top = lens[lens["rank"] == 1].drop_duplicates(["layer", "position"])  # of equals the first
    if top.empty:
        raise ValueError("lens has no row of rank 1: pass what lv.logit_lens returns")
    layers, places = {}, {}
    for layer, position, token, _, *predicted in zip(*(top[c] for c in columns), strict=True):
        layer = arguments.whole("lens's layer", layer, 0)
        layers.setdefault(layer, []).append(
            (
                arguments.labels("lens's prediction", predicted[:1])[0],
                arguments.number("lens's probability", predicted[1], 0.0, 1.001),
            )
        )
        places.setdefault(layer, []).append((position, token))
    found = next(iter(places.values()))
    if any(place != found for place in places.values()) or len(set(found)) < len(found):
        raise ValueError("lens does not hold every token once per layer: pass all of the table")
    return layers, arguments.labels("lens's token", [token for _, token in found])


def _view(content: str, lines: list[str], *, tag: str = "div", style: str = _STRIP) -> View:
    return View(f'<{tag} class="{VERBATIM}" style="{style}">{content}</{tag}>', "\n".join(lines))


def _shade(share: float) -> tuple[str, str]:
    """The fill for a share from 0 to 1, as in the figures, and an ink that is read on it."""
    half = min(share, 0.5) * 2
    fill = _mix((255, 255, 255), (156, 203, 232), half)
    if share > 0.5:
        fill = _mix((156, 203, 232), (0, 90, 143), 2 * share - 1)
    return fill, "#ffffff" if share > 0.7 else "#222222"


def _figures(step: Step, label: str) -> str:
    p, bits = math.exp(step.log_prob), fixed(step.entropy)
    return f"{label}  p = {p:.3f}, rank {step.rank}, entropy {bits} bits"


def _token(step: Step, label: str) -> str:
    p, share = math.exp(step.log_prob), min(step.entropy / _MOST_BITS, 1)
    style = (
        f"{_TOKEN};background:{_mix((255, 255, 255), (86, 160, 211), p)};"
        f"border-bottom:{1 + round(4 * share)}px solid {_mix((229, 231, 235), (213, 94, 0), share)}"
    )
    hover = quoted(_figures(step, label))
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
    share = min(round(share * 20) / 20, 1)
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True)
    )
