"""Token strips as self-contained HTML: inline styles, no script, nothing fetched, all text escaped.

They keep their colours in a saved notebook that is neither trusted nor running.
"""

from __future__ import annotations

import math
from html import escape

from .trace import Step, Trace

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


class View:
    """HTML for a notebook, with the same content as plain text for everything else."""

    def __init__(self, html: str, text: str):
        self._html, self._text = html, text

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
    html = (
        f'<div style="{_STRIP}"><span style="color:#6b7280;white-space:pre-wrap">'
        f"{_text(prompt)}</span> {tokens}{_legend()}</div>"
    )
    lines = [f"{prompt!r} +"] + [
        f"{run.labels[s.token_id]}  p = {math.exp(s.log_prob):.3f}, rank {s.rank}, "
        f"entropy {s.entropy:.2f} bits"
        for s in steps
    ]
    return View(html, "\n".join(lines))


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
        same = 0
        while same < min(len(ids), len(first)) and ids[same] == first[same]:
            same += 1
        same = 0 if i == 0 else same
        cells = []
        for t, token_id in enumerate(ids):
            style = "color:#222222"
            if t < same:
                style = "color:#9ca3af"
            elif t == same and i:
                style = "color:#222222;background:#fde3b0;border-bottom:3px solid #e69f00"
            cells.append(f'<span style="{_TOKEN};{style}">{_text(run.labels[token_id])}</span>')
        total = run.sum_logprobs[0]
        rows.append(
            '<tr style="background:#ffffff">'
            f'<td style="{_CELL}"><b>{_text(name)}</b></td>'
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
    return View(f'<table style="{_STRIP}">{table}</table>', "\n".join(lines))


def _token(step: Step, labels: dict[int, str]) -> str:
    p, bits = math.exp(step.log_prob), step.entropy
    share = min(bits / _MOST_BITS, 1)
    style = (
        f"{_TOKEN};background:{_mix((255, 255, 255), (86, 160, 211), p)};"
        f"border-bottom:{1 + round(4 * share)}px solid {_mix((229, 231, 235), (213, 94, 0), share)}"
    )
    label = _text(labels[step.token_id])
    hover = f"{label}  p = {p:.3f}, rank {step.rank}, entropy {bits:.2f} bits"
    return f'<span title="{hover}" style="{style}">{label}</span>'


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


def _text(text: str) -> str:
    """Escaped, and safe from being read as mathematics by a notebook."""
    return escape(text).replace("$", "&#36;<wbr>") if "$" in text else escape(text)
