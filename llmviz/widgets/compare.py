"""Strategies face to face: the same prompt, two to four ways to continue it."""

from __future__ import annotations

import ast
import itertools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING

import ipywidgets
from torch import Tensor

from .. import arguments
from ..colours import MUTED
from ..decoding import generate, planned
from ..formats import fixed
from ..html import escaped, side_by_side
from ..models import check_model
from ..tokens import printable
from ..trace import Trace
from .base import Explorer, card, of_state, result_of, table
from .controls import text_box, written

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MOST = 4
_OURS = "logits_processor"  # a look at each token goes there
_KNOWN = 16  # runs that are remembered, so that what was not edited is not done again
_N = 4  # repetition is counted in n-grams of this length
_WIDTH = 64  # letters in a line of the figure
_LINES = 16  # of a strategy, as many are drawn


@dataclass(frozen=True, eq=False)
class _Runs:
    """A prompt, and its continuations by the strategies' names."""

    prompt: str
    runs: dict[str, Trace]


class Comparison(Explorer):
    """Two to four strategies on one prompt, each written as the arguments of `lv.generate`.

    strategies: by name, such as {"greedy": {}, "top-p": {"do_sample": True, "top_p": 0.9}}; plain
        values only, as they stand in a line of text that can be edited.
    max_new_tokens, add_special_tokens: for those that do not say themselves.
    Run generates what has been edited. Drawing without a seed, a strategy runs each time.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    prompt, runs = of_state("prompt"), of_state("runs")

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        strategies: dict[str, dict],
        *,
        max_new_tokens: int = 40,
        add_special_tokens: bool = True,
    ):
        check_model(model)
        arguments.text("prompt", prompt)
        wanted = _in_words(strategies)
        self.model, self.tokenizer = model, tokenizer
        self._defaults = {"max_new_tokens": arguments.whole("max_new_tokens", max_new_tokens)}
        if not arguments.flag("add_special_tokens", add_special_tokens):
            self._defaults["add_special_tokens"] = False
        self._known: dict[tuple[str, str], Trace] = {}  # by prompt and settings, the latest last
        self._knowing = threading.Lock()
        self._state = result_of(self._generate(prompt, wanted))

        self.prompt_box = text_box("prompt", prompt, "What all of them continue")
        rows = [*wanted.items(), *[("", "")] * (_MOST - len(wanted))]
        self.name_boxes = [
            text_box(f"name {n}", name, "empty: left out", width="300px")
            for n, (name, _) in enumerate(rows, start=1)
        ]
        self.settings_boxes = [
            text_box(
                f"settings {n}", settings, "do_sample=True, top_p=0.9, seed=0",
                label_width="70px", width="490px",
            )
            for n, (_, settings) in enumerate(rows, start=1)
        ]  # fmt: skip
        self.run_button = ipywidgets.Button(
            description="Run",
            tooltip="Generate what has been edited",
            layout={"margin": "2px 2px 2px 156px"},
        )
        for box in (self.prompt_box, *self.name_boxes, *self.settings_boxes):
            box.observe(lambda _: self.say("Edited: Run takes it over."), "value")
        self.run_button.on_click(self.reacts(self._on_run))
        wrap = {"flex_flow": "row wrap"}
        super().__init__(
            self.prompt_box,
            *(
                ipywidgets.HBox(pair, layout=wrap)
                for pair in zip(self.name_boxes, self.settings_boxes, strict=True)
            ),
            self.run_button,
        )

    def complain(self, words: str) -> None:
        super().complain(f"{words} (The rows below are those of the last run.)")

    def _on_run(self) -> None:
        names = [box.value.strip() for box in self.name_boxes]
        boxes = zip(names, self.settings_boxes, strict=True)
        wanted = {name: box.value for name, box in boxes if name}
        if len(wanted) < len([name for name in names if name]):
            raise ValueError("two strategies have the same name")
        if len(wanted) < 2:
            raise ValueError("two or more can be compared: give a second one a name")
        stopped = threading.Event()
        steps = self._generate(self.prompt_box.value, wanted, stopped)
        self.work("Generating", steps, self._take_over, by=self.run_button, stopped=stopped)

    def _generate(
        self, prompt: str, wanted: dict[str, str], stopped: threading.Event | None = None
    ) -> Generator:
        """Continue the prompt in all these ways; what is known already is not done again."""
        # Read all of them first: a mistake in the last one should not cost the others' time.
        settings = {}
        for name, text in wanted.items():
            with _naming(name):
                settings[name] = parse_arguments(text)
                self._check(prompt, settings[name])
        runs = {}
        for done, (name, given) in enumerate(settings.items()):
            yield done, len(settings)

            def watch(share: float, done: int = done) -> None:
                if stopped is not None:
                    with self._lock:
                        if stopped.is_set():
                            raise _Stopped
                        self._progress.value = (done + share) / len(settings)

            key = prompt, repr(sorted(given.items()))
            try:
                run = self._recalled(key) or self._run_one(name, prompt, given, watch)
            except _Stopped:
                return None
            if not given.get("do_sample") or given.get("seed") is not None:
                self._remember(key, run)
            runs[name] = run
        return _Runs(prompt, runs)

    def _check(self, prompt: str, given: dict) -> None:
        """Raise TypeError or ValueError for what `generate` would refuse; no pass is made."""
        arguments.text("prompt", prompt)
        if _OURS in given:
            raise TypeError(f"{_OURS} is a function, which cannot be written here")
        planned(self.model, self.tokenizer, prompt, **{**self._defaults, **given})

    def _recalled(self, key: tuple[str, str]) -> Trace | None:
        with self._knowing:
            return self._known.get(key)

    def _remember(self, key: tuple[str, str], run: Trace) -> None:
        with self._knowing:
            self._known.pop(key, None)
            self._known[key] = run
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]

    def _run_one(
        self, name: str, prompt: str, given: dict, watch: Callable[[float], None]
    ) -> Trace:
        """`generate`, with a look at each token at how far it is, and whether it is wanted."""
        given = {**self._defaults, **given}
        steps = itertools.count(1)

        def look_up(input_ids: Tensor, scores: Tensor) -> Tensor:
            watch(min(next(steps) / given["max_new_tokens"], 1.0))
            return scores

        with _naming(name):
            return generate(self.model, self.tokenizer, prompt, logits_processor=look_up, **given)

    def _take_over(self, found: _Runs) -> None:
        self._state = found

    def close(self) -> None:
        super().close()
        self._known = {}

    # Its views

    @property
    def frame(self):
        """A Table with a row a strategy: see `measures`."""
        from ..tables import Table

        return Table({"strategy": name, **figures} for name, figures in self._measures().items())

    def _measures(self) -> dict[str, dict]:
        runs = self.runs
        first = next(iter(runs.values()))
        return {name: measures(run, first) for name, run in runs.items()}

    def picture(self) -> str:
        found = self._measures()
        head = ["", *(escaped(column) for column in next(iter(found.values())))]
        rows = [
            [f"<b>{escaped(name)}</b>", *(_written(k, v) for k, v in figures.items())]
            for name, figures in found.items()
        ]
        text = escaped(self.prompt[-300:])
        return card(
            f'<div style="color:{MUTED};white-space:pre-wrap">{text} …</div>',
            side_by_side(self.runs)._repr_html_(),
            table(head, rows, "l" + "r" * (len(head) - 1)),
            f'<div style="font-size:11px;color:{MUTED}">marked: the first token that differs from '
            f"the first row · repeated {_N}-grams: the share that stood in the continuation "
            "before · distinct-n: different n-grams / all n-grams</div>",
        )

    def as_text(self) -> str:
        lines = ["Comparison of " + repr(side_by_side(self.runs))]
        for name, figures in self._measures().items():
            told = ", ".join(f"{k} {_written(k, v)}" for k, v in figures.items())
            lines.append(f"{printable(name)}: {told}")
        return "\n".join(lines)

    def figure(self, ax=None):
        """The same rows with matplotlib; the first token that differs has a frame."""
        from .. import plots

        lines = []  # (name, [(column, label, the token's number)]), the name in its first line
        for name, run in self.runs.items():
            labels = [plots.drawable(label, 24, family="monospace") for label in run.tokens[0]]
            lines += _folded(name, labels)
        differs = {name: row["differs from"] for name, row in self._measures().items()}
        ax = plots.new_axes(ax, width=11, height=0.5 + 0.34 * len(lines))
        inches = ax.get_position().width * ax.figure.get_figwidth() / (_WIDTH + 16)
        size = min(72 * inches / 0.61, 13)  # a letter of the type is 0.6 of its size wide
        here = None
        for y, (name, line) in enumerate(lines):
            here = name or here
            style = {"va": "center", "parse_math": False}
            ax.text(-1, y, plots.drawable(name, 18), ha="right", color=plots.MUTED, **style)
            for column, label, number in line:
                same = differs[here] is not None and number < differs[here]
                frame = {"facecolor": "#fde3b0", "edgecolor": plots.ORANGE, "pad": 1.5}
                ax.text(
                    column,
                    y,
                    label,
                    family="monospace",
                    fontsize=size,
                    color=plots.MUTED if same else plots.INK,
                    bbox=frame if number == differs[here] else None,
                    **style,
                )
        ax.set_xlim(-14, _WIDTH + 2)
        ax.set_ylim(len(lines) - 0.4, -0.6)
        ax.axis("off")
        return ax


def _folded(name: str, labels: list[str]) -> list[tuple[str, list[tuple[int, str, int]]]]:
    """A continuation in lines that fit: (name, in the first of them; the tokens, each with the
    column where it begins, and its number). A very long one says how much is left out."""
    lines, line, column = [], [], 0
    for number, label in enumerate(labels, start=1):
        if column and column + len(label) > _WIDTH:
            lines.append(line)
            line, column = [], 0
        line.append((column, label, number))
        column += len(label)
    lines.append(line)
    if len(lines) > _LINES:
        left_out = sum(map(len, lines[_LINES - 1 :]))
        lines[_LINES - 1 :] = [[(0, f"… {left_out:,} more tokens", 0)]]
    return [("" if n else name, line) for n, line in enumerate(lines)]


def _in_words(strategies: dict[str, dict]) -> dict[str, str]:
    """Strategies as they stand in the boxes. Raises TypeError or ValueError for what cannot."""
    if not isinstance(strategies, dict):
        kind = type(strategies).__name__
        raise TypeError(
            f"strategies must be a dict, from names to dicts of settings, not {kind}: "
            f"{arguments.shown(strategies)}"
        )
    if not 2 <= len(strategies) <= _MOST:
        raise ValueError(f"strategies has {len(strategies)} entries: pass two to {_MOST}")
    wanted = {}
    for name, settings in strategies.items():
        if not arguments.text("a name in strategies", name).strip():
            raise ValueError(f"strategies has the name {name!r}: write something that can be seen")
        if not isinstance(settings, dict) or not all(isinstance(k, str) for k in settings):
            raise TypeError(
                f"strategies[{name!r}]={arguments.shown(settings)}: it must be a dict of the "
                "arguments of lv.generate, such as {'do_sample': True, 'top_p': 0.9}"
            )
        wanted[name] = written({k: arguments.plain(v) for k, v in settings.items()})
        with _naming(name):
            parse_arguments(wanted[name])
    return wanted


class _Stopped(Exception):
    """The reader wants no more of it."""


@contextmanager
def _naming(strategy: str):
    """An error says in which strategy it is."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{strategy}: {error}") from error


def parse_arguments(text: str) -> dict:
    """Keyword arguments as written in a call, such as "do_sample=True, top_p=0.9", as a dict.

    Nothing is evaluated but plain values. Raises ValueError, naming the text, for anything else.
    """
    mistake = ValueError(
        f"settings {text!r}: write arguments of lv.generate, such as do_sample=True, top_p=0.9"
    )
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise mistake
        given = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise mistake from error
    if None in given or len(given) < len(call.keywords):
        raise mistake
    if given.get("num_return_sequences", 1) != 1:
        raise ValueError("num_return_sequences: a strategy is shown by its first sequence only")
    return given


def measures(run: Trace, first: Trace) -> dict[str, int | float | None]:
    """What can be counted in a run's first continuation.

    differs from: the number of the first token in which it differs from `first`; None for the same.
    repeated 4-grams: the share of 4-grams that occurred before (Welleck et al., 2019, "seq-rep-4").
    distinct-n: the number of different n-grams divided by that of all (Li et al., 2016).
    None stands where a continuation is too short for an n-gram.
    """
    ids, others = ([step.token_id for step in r.steps[0]] for r in (run, first))
    share = {n: distinct(ids, n) for n in (1, 2, 3, _N)}
    total = run.sum_logprobs[0]
    return {
        "differs from": None if ids == others else len(commonprefix([ids, others])) + 1,
        "tokens": len(ids),
        "log-probability": total,
        "per token": total / len(ids),
        f"repeated {_N}-grams": None if share[_N] is None else 1 - share[_N],
        **{f"distinct-{n}": share[n] for n in (1, 2, 3)},
    }


def distinct(ids: list[int], n: int) -> float | None:
    """The share of different n-grams among all; None where there are none."""
    ngrams = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _written(name: str, value: int | float | None) -> str:
    if value is None:
        return "–"
    if name == "differs from":
        return f"token {value}"
    if isinstance(value, int):
        return str(value)
    return fixed(value) if name in ("log-probability", "per token") else f"{value:.1%}"
