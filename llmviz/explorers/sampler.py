"""The sampler bench: what the settings make of one position's scores, live and exact."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import arguments
from ..colours import BLUE, FAINT, MUTED, ORANGE
from ..decoding.brought import off
from ..decoding.search import draw, seeded
from ..formats import fixed
from ..html import escaped
from ..models import context_size
from ..recorder import Recorder
from ..tokens import clipped
from ..trace import Step, Trace
from ..widgets.base import bar, card, percent, table, token
from ..widgets.controls import Name, in_code, inputs_line, written
from .position import PENALTIES, SAMPLING, Position, PositionExplorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from ..settings import Settings

_ROWS = 15  # the most likely tokens before the processors; …
_RISEN = 5  # … and at most so many that the processors lifted to the front
_DRAWS = 1000
_MOST = 2**53 - 1  # whole numbers in a browser


class SamplerBench(PositionExplorer):
    """The next token's probabilities before and after the processors, with a slider for each.

    prompt: what the model reads, once. continuation: text after it that counts as generated;
        the presence and frequency penalties look at nothing else.
    seed: of the draws. The first draw is that of `lv.generate(…, do_sample=True, seed=seed)`.
    add_special_tokens: whether the tokenizer may put a bos token in front; False for a prompt that
        a chat template wrote.
    settings: those of `processors.DEFAULTS` to begin with; one that has no slider stays.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    kind, columns = "sampler", (SAMPLING, PENALTIES)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        *,
        continuation: str = "",
        seed: int = 0,
        add_special_tokens: bool = True,
        **settings: Unpack[Settings],
    ):
        seed = arguments.whole("seed", seed, low=0, high=_MOST)
        super().__init__(
            model, tokenizer, prompt, continuation, settings, add_special_tokens, seed=seed
        )

    def begin(self, position: Position, scores: Tensor, chosen: dict) -> dict:
        return {"seed": arguments.whole("seed", chosen.get("seed"), low=0, high=_MOST)}

    # Draws: they begin anew whenever something else is chosen

    def draw(self, times: int = 1) -> None:
        """Draw a token with torch's generator, or count 1,000 draws from the seed on.

        Each call for one token draws another one; 1,000 are drawn from the seed on every time.
        """
        times = arguments.choice("times", times, [1, _DRAWS])
        p, generator = self.scores.softmax(-1), seeded(self.chosen["seed"])
        if times > 1:
            drawn = torch.multinomial(p[0], times, replacement=True, generator=generator)
            counts = drawn.bincount(minlength=p.shape[-1])
            found = [[i, counts[i].item()] for i in counts.nonzero().flatten().tolist()]
            self.answer = {**self.answer, "counts": found}
            return
        draws = self.draws
        for _ in draws:  # the generator goes on from where it was
            draw(p, generator)
        self.answer = {**self.answer, "draws": [*draws, draw(p, generator).item()]}

    def on_draw(self, content: dict) -> None:
        self.draw(content.get("times"))

    @property
    def draws(self) -> list[int]:
        """The tokens drawn one by one."""
        return self.answer.get("draws", [])

    @property
    def counts(self) -> Tensor | None:
        """How often each token came in 1,000 draws, shape (vocabulary,); None before them."""
        if "counts" not in self.answer:
            return None
        counts = torch.zeros(self.scores.shape[-1], dtype=torch.long)
        for token_id, times in self.answer["counts"]:
            counts[token_id] = times
        return counts

    @property
    def step(self) -> Step:
        """The rows to show, with the token that was drawn last as the chosen one, and the exact
        figures over the whole vocabulary."""
        recorder, scores = Recorder(_ROWS), self.scores
        chosen = torch.tensor(self.draws[-1:]) if self.draws else scores.argmax(-1)
        recorder.record(self.position.logits, scores, chosen)
        step = recorder.steps([1])[0][0]
        drawn = self.draws[-1] if self.draws else -1
        risen = sorted((c for c in step.candidates if c.rank > _ROWS), key=lambda c: -c.score)
        kept_out = {c.token_id for c in risen[_RISEN:]} - {drawn}
        shown = [c for c in step.candidates if c.token_id not in kept_out]
        return replace(step, candidates=shown, token_id=drawn)

    @property
    def entropy_after(self) -> float:
        """In bits, after the processors."""
        p = self.scores[0].softmax(-1)
        return max(-(p * p.log2()).nansum().item(), 0.0)

    # The call

    @property
    def call(self) -> str:
        """The call that samples with these settings."""
        return sampling_call(
            self.model, self.tokenizer, self.position, self.chosen["seed"], self.settings,
            add_special_tokens=self._add_special_tokens,
        )  # fmt: skip

    def more(self) -> dict:
        """What the browser puts the same call together from."""
        at, model = self._position, self.model
        most, more = _limits(model, at, self._add_special_tokens)
        generated = at.input_ids.shape[1] - at.prompt_length
        own = self._fixed.get("logits_processor") or []
        own = own if isinstance(own, (list, tuple)) else [own]
        text = at.prompt + at.continuation
        call = {
            "theirs": model.device.type == "cpu" and not own,
            "off": _texts(off(model, do_sample=True)),
            "fixed": _texts(_after(self._fixed, generated)),
            "inputs": inputs_line(model, self.tokenizer, text, self._add_special_tokens),
            "most": most, "more": _texts(more), "generated": generated,
            "text": repr(text), "own": [repr(in_code(function)) for function in own],
        }  # fmt: skip
        return {"call": call}

    # Its views

    def rows(self) -> list[dict]:
        """What is drawn, a row a token and one for all others: label, before, after (None where
        it was cut), count of the draws (None before them), chosen."""
        step, counts = self.step, self.counts
        rows = [
            {
                "label": self.labels[c.token_id],
                "before": math.exp(c.log_prob),
                "after": None if c.score == -math.inf else c.processed_probability,
                "count": None if counts is None else counts[c.token_id].item(),
                "chosen": c.token_id == step.token_id,
            }
            for c in step.candidates
        ]
        kept = sum(row["after"] is not None for row in rows)
        others, others_kept = self.scores.shape[-1] - len(rows), step.kept - kept
        rest = {
            "label": f"all {others:,} others, {others_kept:,} kept",
            "before": max(1 - math.fsum(row["before"] for row in rows), 0.0),
            "after": max(1 - math.fsum(row["after"] or 0.0 for row in rows), 0.0),
            "count": None if counts is None else _DRAWS - sum(row["count"] for row in rows),
            "chosen": False,
        }
        return [*rows, rest if others_kept else rest | {"after": None}]

    def _figures(self) -> list[tuple[str, str]]:
        s = self.step
        return [
            ("kept", f"{s.kept:,} of {self.scores.shape[-1]:,} tokens"),
            ("mass", f"{s.mass:.1%}"),
            ("entropy", f"{fixed(s.entropy)} → {fixed(self.entropy_after)} bits"),
        ]

    def _notes(self) -> list[str]:
        notes = []
        idle = [n for n in PENALTIES[1:] if n in self.settings]
        if idle and not self.position.continuation:
            verb = "looks" if len(idle) == 1 else "look"
            notes.append(
                f"{' and '.join(idle)} {verb} at generated tokens only, and there are none yet: "
                "type a continuation."
            )
        if self.draws:
            labels = [self.labels[i] for i in self.draws]
            earlier = f"{len(labels) - 12} more, " if len(labels) > 12 else ""
            notes.append(
                f"drawn with seed {self.chosen['seed']}: {earlier}"
                + "".join(f"{label} " for label in labels[-12:-1])
                + f"▸ {labels[-1]}"
            )
        if self.counts is not None:
            rows = [r for r in self.rows() if r["after"] is not None]
            near = sum(_deviation(r) <= 2 for r in rows)
            notes.append(
                f"{_DRAWS:,} draws with seed {self.chosen['seed']}: {near} of {len(rows)} counts "
                "lie within 2 standard deviations of what is expected"
            )
        return notes

    @property
    def title(self) -> str:
        return f"SamplerBench of {self.position}"

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

    def as_text(self) -> str:
        settings = written(self.settings) or "everything off"
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

        at, step = self.position, self.step
        labels = dict(enumerate(self.labels))
        run = Trace([at.prompt], [], at.input_ids, at.prompt_length, [[step]], labels)
        ax = plots.plot_sampler(run, top_k=len(step.candidates), ax=ax)
        if self.counts is not None:
            shares = [row["count"] / _DRAWS for row in self.rows()]
            at = [y + 0.2 for y in range(len(shares))]
            ax.plot(shares, at, "|", color=plots.INK, markersize=11, label=f"{_DRAWS:,} draws")
        return ax


def sampling_call(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    at: Position,
    seed: int,
    settings: dict,
    *,
    add_special_tokens: bool = True,
) -> str:
    """Code that continues the text with these settings, and with what it must switch off."""
    text = at.prompt + at.continuation
    most, more = _limits(model, at, add_special_tokens)
    generated = at.input_ids.shape[1] - at.prompt_length
    settings = _after(settings, generated)
    ours = [name for name in PENALTIES[1:] if name in settings]
    # A model on a GPU draws there, and gets other numbers from the same seed.
    if not ours and "logits_processor" not in settings and model.device.type == "cpu":
        settings = {"top_k": 0, **off(model, do_sample=True, **settings), **settings}
        return (
            f"torch.manual_seed({seed})\n"
            f"{inputs_line(model, tokenizer, text, add_special_tokens)}\n"
            f"model.generate(**inputs, max_new_tokens={most}, do_sample=True,\n"
            f"               {written(settings)})"
        )
    before, names = "", " and ".join(ours)
    names += f" {'is' if len(ours) == 1 else 'are'} not in transformers, and count"
    names += "s" if len(ours) == 1 else ""
    if ours:
        before = f"# {names} the tokens that\n# are generated: the first one meets none.\n"
    if ours and generated:
        before = f"# {names} what follows the prompt.\n"
        before += _penalties_code(settings, ours, at.prompt_length)
        own = settings.get("logits_processor") or []
        own = [Name("penalties"), *(own if isinstance(own, (list, tuple)) else [own])]
        settings = {n: v for n, v in settings.items() if n not in ours} | {"logits_processor": own}
    return (
        f"{before}lv.generate(model, tokenizer, {text!r},\n"
        f"            {written({'do_sample': True, 'seed': seed, **more, **settings})})"
    )


def _limits(model, at: Position, add_special_tokens: bool) -> tuple[int, dict]:
    """How many tokens the call may generate, and what it must say besides its settings."""
    context = context_size(model)
    most = 40 if context is None else min(40, context - at.input_ids.shape[1] + 1)
    more = {"max_new_tokens": most} if most < 40 else {}
    return most, more | ({} if add_special_tokens else {"add_special_tokens": False})


def _texts(settings: dict) -> dict[str, str]:
    return {name: repr(in_code(value)) for name, value in settings.items()}


def _after(settings: dict, generated: int) -> dict:
    """The settings for a call that takes so many generated tokens for a part of the prompt."""
    settings = dict(settings)
    if "min_new_tokens" in settings:
        settings["min_new_tokens"] = max(settings["min_new_tokens"] - generated, 0)
    if generated:
        settings.pop("begin_suppress_tokens", None)
    if "exponential_decay_length_penalty" in settings:
        start, factor = settings["exponential_decay_length_penalty"]
        settings["exponential_decay_length_penalty"] = (start - generated, factor)
    return settings


def _penalties_code(settings: dict, names: list[str], prompt_length: int) -> str:
    """A logits processor that penalises what follows so many tokens, as the reader may write it."""
    scores = "scores"
    for name in names:
        scores = (
            f"lv.processors.{name}({scores}, {settings[name]!r}, input_ids[:, {prompt_length}:])"
        )
    return f"def penalties(input_ids, scores):\n    return {scores}\n\n\n"


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
