"""The sampler bench: what the settings make of one position's scores, live and exact."""

from __future__ import annotations

import math
from dataclasses import replace

import ipywidgets
import torch

from .. import processors
from ..decoding.search import draw, seeded
from ..html import escaped
from ..recorder import Recorder
from ..tokens import clipped, token_labels
from ..trace import Step, Trace
from .base import BLUE, FAINT, MUTED, ORANGE, bar, card, percent, table, token
from .controls import PENALTIES, SAMPLING, written
from .position import PositionExplorer

_ROWS = 15  # the likeliest tokens before the processors; …
_RISEN = 5  # … and at most so many that the processors lifted among the likeliest
_DRAWS = 1000
_MOST = 2**53 - 1  # whole numbers in a browser


class SamplerBench(PositionExplorer):
    """The next token's probabilities before and after the processors, with a slider for each.

    prompt: what the model reads, once. continuation: text behind it that counts as generated;
        the presence and frequency penalties look at nothing else.
    seed: of the draws. The first draw is that of `lv.generate(…, do_sample=True, seed=seed)`.
    settings: those of `processors.DEFAULTS` to begin with; one that has no slider stays.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    def __init__(
        self, model, tokenizer, prompt: str, *, continuation: str = "", seed: int = 0, **settings
    ):
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _MOST:
            raise ValueError(f"seed={seed!r}: it must be a whole number from 0 to 2**53 − 1")
        self.seed_box = ipywidgets.BoundedIntText(
            value=seed, min=0, max=_MOST, description="seed", tooltip="Seed of the draws",
            style={"description_width": "150px"}, layout={"width": "300px"},
        )  # fmt: skip
        self.draw_button = ipywidgets.Button(
            description="Draw", tooltip="Draw a token; each click draws another one"
        )
        self.draw_many_button = ipywidgets.Button(
            description=f"Draw {_DRAWS:,}", tooltip=f"Draw {_DRAWS:,} times, and count"
        )
        self.call_box = ipywidgets.Textarea(
            description="the same call", placeholder="Code that samples like this, to copy",
            rows=5, style={"description_width": "150px"},
            layout={"width": "800px", "max_width": "98%"},
        )  # fmt: skip
        columns = [SAMPLING, PENALTIES]
        super().__init__(model, tokenizer, prompt, continuation, columns, settings)
        self.seed_box.observe(self.reacts(self.restart), "value")
        self.draw_button.on_click(self.reacts(self._draw))
        self.draw_many_button.on_click(self.reacts(self._draw_many))
        buttons = [self.seed_box, self.draw_button, self.draw_many_button]
        self.start(
            ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"}), below=(self.call_box,)
        )

    # The state

    def restart(self) -> None:
        """The scores after the processors; the draws begin anew."""
        self.scores = self.process()
        self._generator = seeded(self.seed_box.value)
        self.draws: list[int] = []
        self.counts = None
        self._record()

    def _draw(self) -> None:
        self.draws.append(draw(self.scores.softmax(-1), self._generator).item())
        self._record()

    def _draw_many(self) -> None:
        drawn = torch.multinomial(
            self.scores[0].softmax(-1),
            _DRAWS,
            replacement=True,
            generator=seeded(self.seed_box.value),
        )
        self.counts = drawn.bincount(minlength=self.scores.shape[-1])

    def _record(self) -> None:
        """The rows to show and the exact figures, over the whole vocabulary."""
        recorder = Recorder(_ROWS)
        chosen = self.scores.argmax(-1) if not self.draws else torch.tensor(self.draws[-1:])
        recorder.record(self.position.logits, self.scores, chosen)
        step = recorder.steps([1])[0][0]
        drawn = self.draws[-1] if self.draws else -1
        risen = sorted((c for c in step.candidates if c.rank > _ROWS), key=lambda c: -c.score)
        kept_out = {c.token_id for c in risen[_RISEN:]} - {drawn}
        shown = [c for c in step.candidates if c.token_id not in kept_out]
        self.step: Step = replace(step, candidates=shown, token_id=drawn)
        ids = [c.token_id for c in shown] + self.draws
        self._labels = dict(zip(ids, token_labels(self.tokenizer, ids), strict=True))
        p = self.scores[0].softmax(-1)
        self.entropy_after = max(-(p * p.log2()).nansum().item(), 0.0)
        self.call_box.value = self.call

    @property
    def call(self) -> str:
        """The call that samples with these settings."""
        return sampling_call(
            self.model,
            self.position.prompt,
            self.position.continuation,
            self.seed_box.value,
            self.settings.on,
        )

    # Its views

    def rows(self) -> list[dict]:
        """What is drawn, a row a token and one for all others: label, before, after (None where
        it was cut), count of the draws (None before them), chosen."""
        rows = [
            {
                "label": self._labels[c.token_id],
                "before": math.exp(c.log_prob),
                "after": None if c.score == -math.inf else c.processed_probability,
                "count": None if self.counts is None else self.counts[c.token_id].item(),
                "chosen": c.token_id == self.step.token_id,
            }
            for c in self.step.candidates
        ]
        kept = sum(row["after"] is not None for row in rows)
        others, others_kept = self.scores.shape[-1] - len(rows), self.step.kept - kept
        rest = {
            "label": f"all {others:,} others, {others_kept:,} kept",
            "before": max(1 - math.fsum(row["before"] for row in rows), 0.0),
            "after": max(1 - math.fsum(row["after"] or 0.0 for row in rows), 0.0),
            "count": None if self.counts is None else _DRAWS - sum(row["count"] for row in rows),
            "chosen": False,
        }
        return [*rows, rest if others_kept else rest | {"after": None}]

    def _figures(self) -> list[tuple[str, str]]:
        s = self.step
        return [
            ("kept", f"{s.kept:,} of {self.scores.shape[-1]:,} tokens"),
            ("mass", f"{s.mass:.1%}"),
            ("entropy", f"{s.entropy:.2f} → {self.entropy_after:.2f} bits"),
        ]

    def _notes(self) -> list[str]:
        notes = []
        idle = [n for n in PENALTIES[1:] if n in self.settings.on]
        if idle and not self.position.continuation:
            verb = "looks" if len(idle) == 1 else "look"
            notes.append(
                f"{' and '.join(idle)} {verb} at generated tokens only, and there are none yet: "
                "type a continuation."
            )
        if self.draws:
            labels = [self._labels[i] for i in self.draws]
            earlier = f"{len(labels) - 12} more, " if len(labels) > 12 else ""
            notes.append(
                f"drawn with seed {self.seed_box.value}: {earlier}"
                + "".join(f"{label} " for label in labels[-12:-1])
                + f"▸ {labels[-1]}"
            )
        if self.counts is not None:
            rows = [r for r in self.rows() if r["after"] is not None]
            near = sum(_deviation(r) <= 2 for r in rows)
            notes.append(
                f"{_DRAWS:,} draws with seed {self.seed_box.value}: {near} of {len(rows)} counts "
                "lie within 2 standard deviations of what is expected"
            )
        return notes

    def picture(self) -> str:
        rows = self.rows()
        scale = _scale(max(max(r["before"], r["after"] or 0.0) for r in rows))
        figures = "".join(
            f'<span style="margin-right:22px"><span style="color:{MUTED}">{name}</span> '
            f"<b>{value}</b></span>"
            for name, value in self._figures()
        )
        return card(
            self.position.html,
            f'<div style="margin:4px 0">{figures}</div>',
            table(*_cells(rows, scale, self.counts is not None)),
            _legend(scale),
            *(f'<div style="margin-top:4px">{escaped(note)}</div>' for note in self._notes()),
        )

    def still(self) -> str:
        call = (
            f'<pre style="font-family:monospace;font-size:12px;color:{MUTED};'
            'background:#ffffff;margin:0;white-space:pre-wrap">'
            f"{escaped(self.call)}</pre>"
        )
        return self.picture() + card(call)

    def __repr__(self) -> str:
        settings = written(self.settings.on) or "everything off"
        lines = [f"SamplerBench of {self.position}: {settings}"]
        lines.append(", ".join(f"{name} {value}" for name, value in self._figures()))
        for row in self.rows():
            after = "cut" if row["after"] is None else percent(row["after"])
            counted = "" if row["count"] is None else f", drawn {row['count']}"
            mark = "▸ " if row["chosen"] else ""
            lines.append(f"{mark}{row['label']}  {percent(row['before'])} → {after}{counted}")
        return "\n".join([*lines, *self._notes()])

    def figure(self, ax=None):
        """The same pairs of bars with matplotlib; a stroke is a token's share of 1,000 draws."""
        from .. import plots

        at = self.position
        steps = [[self.step]]
        run = Trace([at.prompt], [], at.input_ids, at.prompt_length, steps, self._labels)
        ax = plots.plot_sampler(run, top_k=len(self.step.candidates), ax=ax)
        if self.counts is not None:
            shares = [row["count"] / _DRAWS for row in self.rows()]
            at = [y + 0.2 for y in range(len(shares))]
            ax.plot(shares, at, "|", color=plots.INK, markersize=11, label=f"{_DRAWS:,} draws")
        return ax


def sampling_call(model, prompt: str, continuation: str, seed: int, settings: dict) -> str:
    """Code that continues the text with these settings, and with what it must switch off."""
    ours = [name for name in PENALTIES[1:] if name in settings]
    if ours:
        verb = "is" if len(ours) == 1 else "are"
        return (
            f"# {' and '.join(ours)} {verb} not in transformers, and count the tokens that\n"
            "# are generated: the first one meets none.\n"
            f"lv.generate(model, tokenizer, {prompt!r},\n"
            f"            do_sample=True, seed={seed}, {written(settings)})"
        )
    # transformers cuts at top_k=50 unless told otherwise, and a model may bring more of its own.
    brought = {
        name: off
        for name, off in processors.DEFAULTS.items()
        if off is not None and getattr(model.generation_config, name, None) not in (None, off)
    }
    arguments = written({"top_k": 0, **brought, **settings})
    text = prompt + continuation
    return (
        f"torch.manual_seed({seed})\n"
        f'inputs = tokenizer({text!r}, return_tensors="pt").to(model.device)\n'
        "model.generate(**inputs, max_new_tokens=40, do_sample=True,\n"
        f"               {arguments})"
    )


def _cells(rows: list[dict], scale: float, counted: bool) -> tuple[list[str], list[list], str]:
    """Head, rows and sides of the table."""
    head, sides = ["", "token", "", "before", "after"], "lllrr"
    if counted:
        head, sides = [*head, f"expected of {_DRAWS:,}", "drawn"], sides + "rr"
    lines = []
    for n, row in enumerate(rows):
        cut = row["after"] is None
        others = n == len(rows) - 1
        label = escaped(row["label"]) if others else token(clipped(row["label"], 24))
        bars = bar(row["before"] / scale, FAINT, 300)
        bars += bar((row["after"] or 0.0) / scale, ORANGE if row["chosen"] else BLUE, 300)
        cells = [
            "▸" if row["chosen"] else "",
            f"<s>{label}</s>"
            if cut and not others
            else f"<b>{label}</b>"
            if row["chosen"]
            else label,
            f'<div style="width:300px">{bars}</div>',
            f'<span style="color:{MUTED}">{escaped(percent(row["before"]))}</span>',
            "cut" if cut else escaped(percent(row["after"])),
        ]
        if counted:
            expected = _DRAWS * (row["after"] or 0.0)
            cells += ["0" if cut else f"{expected:.1f} ± {_sigma(row):.1f}", str(row["count"])]
        lines.append(cells)
    return head, lines, sides


def _sigma(row: dict) -> float:
    p = row["after"] or 0.0
    return math.sqrt(_DRAWS * p * (1 - p))


def _deviation(row: dict) -> float:
    """How many standard deviations a count lies off what is expected."""
    off = abs(row["count"] - _DRAWS * row["after"])
    return off / _sigma(row) if _sigma(row) else float(off > 0.5)


def _legend(scale: float) -> str:
    def swatch(colour: str) -> str:
        return (
            '<span style="display:inline-block;width:14px;height:8px;'
            f'background:{colour};margin:0 4px 0 12px"></span>'
        )

    return (
        f'<div style="font-size:11px;color:{MUTED}">the longest bar is {scale:.0%}'
        f"{swatch(FAINT)}before{swatch(BLUE)}after the processors{swatch(ORANGE)}▸ drawn"
        " · <s>struck out</s>: cut</div>"
    )


def _scale(highest: float) -> float:
    """What the longest bar stands for: a round number, so that it seldom changes in a drag."""
    return next((s for s in (0.05, 0.1, 0.2, 0.5) if highest <= s), 1.0)
