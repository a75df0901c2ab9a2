"""Beam search step by step, re-scored at once."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from html import escape

import ipywidgets
import torch
from torch import BoolTensor, LongTensor

from .. import arguments, processors
from ..colours import BLUE, FAINT, GREEN, INK, MUTED, ORANGE
from ..decoding import with_text
from ..decoding.beams import BeamSearch, check_beams, filler
from ..decoding.brought import off
from ..formats import fixed, given
from ..html import escaped, quoted
from ..models import check_model
from ..tokens import clipped, token_labels
from ..trace import BeamCandidate, BeamStep, Trace
from .base import Explorer, card, of_state, result_of, table, token, tokens_of
from .controls import inputs_line, plain_settings, slid, text_box, written

_FATES = {
    "running": "goes on",
    "finished": "finished",
    "pruned": "pruned",
    "discarded": "discarded",
}
_TAIL = 4  # of a hypothesis, so many last tokens are shown


@dataclass(frozen=True, eq=False)
class _Grown:
    """A search, and its tree at one step for one length penalty and early stopping."""

    prompt: str
    search: BeamSearch
    labels: dict[int, str]
    key: tuple[float, bool | str]  # length_penalty and early_stopping
    step: int
    length: int  # how many steps the search has
    present: Trace  # with the fates as they were known at this step
    finished: list[tuple[float, list[BeamCandidate]]]  # (score, path), the best first
    is_over: bool
    same: dict[tuple, bool]  # whether `generate` was found to give the same, by the key


class BeamExplorer(Explorer):
    """The tree of a beam search as it grows, and what length penalty and early stopping make of it.

    A step's candidates depend on neither of the two, so the model searches once, for as long as it
    can; a slider only does the bookkeeping again, with the code of `lv.beam_search`. That
    `model.generate` gives the same is not taken for granted: it is called, and compared.

    add_special_tokens: whether the tokenizer may put a bos token in front; False for a prompt that
        a chat template wrote.
    settings: those of `processors.DEFAULTS` that work under beams.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    prompt, search, present = of_state("prompt"), of_state("search"), of_state("present")
    finished, is_over = of_state("finished"), of_state("is_over")

    def __init__(
        self,
        model,
        tokenizer,
        prompt: str,
        *,
        num_beams: int = 3,
        max_new_tokens: int = 12,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        add_special_tokens: bool = True,
        **settings,
    ):
        check_model(model)
        self._settings = plain_settings(settings, model.config.get_text_config().vocab_size)
        self._add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
        num_beams, max_new_tokens, length_penalty, early_stopping = map(
            arguments.plain, (num_beams, max_new_tokens, length_penalty, early_stopping)
        )
        check_beams(
            num_beams=num_beams,
            num_return_sequences=1,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            do_sample=False,
            num_beam_groups=1,
            diversity_penalty=0.0,
            max_new_tokens=max_new_tokens,
        )
        if num_beams == 1:
            raise ValueError("num_beams=1: with one beam it is greedy search; pass 2 or more")
        self.model, self.tokenizer = model, tokenizer
        found = result_of(self._search(prompt, num_beams, max_new_tokens))
        self._state = self._grown(*found, (length_penalty, early_stopping))
        self._make_controls(num_beams, max_new_tokens, length_penalty, early_stopping)
        if self._in_transformers:
            key, same = self.state.key, self._equals_generate(self.state, threading.Event())
            self._state = replace(self.state, same={key: same})
        wrap = {"flex_flow": "row wrap"}
        super().__init__(
            self.prompt_box,
            ipywidgets.HBox([self.beams_box, self.length_box, self.compare_button], layout=wrap),
            ipywidgets.HBox(
                [
                    self.step_slider,
                    ipywidgets.VBox([self.penalty_slider, self.stopping_slider]),
                ],
                layout=wrap,
            ),
        )

    def _make_controls(self, num_beams, max_new_tokens, length_penalty, early_stopping) -> None:
        wide = {"style": {"description_width": "150px"}, "layout": {"width": "400px"}}
        narrow = {"style": {"description_width": "150px"}, "layout": {"width": "240px"}}
        self.prompt_box = text_box(
            "prompt", self.prompt, "What the model reads; Enter takes it over"
        )
        self.beams_box = ipywidgets.BoundedIntText(
            value=num_beams, min=2, max=max(10, num_beams), description="num_beams",
            tooltip="How many hypotheses run side by side; searches again", **narrow,
        )  # fmt: skip
        self.length_box = ipywidgets.BoundedIntText(
            value=max_new_tokens, min=1, max=max(60, max_new_tokens), description="max_new_tokens",
            tooltip="How long a hypothesis may get; searches again", **narrow,
        )  # fmt: skip
        self.step_slider = ipywidgets.IntSlider(
            value=self.state.length, min=1, max=self.state.length, description="step",
            tooltip="How far the tree has grown", **wide,
        )  # fmt: skip
        self.penalty_slider = ipywidgets.FloatSlider(
            value=length_penalty, min=min(-2.0, length_penalty), max=max(4.0, length_penalty),
            step=0.1, description="length_penalty",
            tooltip="A finished hypothesis scores sum / length ** length_penalty; higher favours "
            "long ones", **wide,
        )  # fmt: skip
        # Not a Dropdown: JupyterLab keeps the arrow keys up and down for itself.
        self.stopping_slider = ipywidgets.SelectionSlider(
            options=[("False", False), ("True", True), ("'never'", "never")], value=early_stopping,
            description="early_stopping", tooltip="When it is enough", **wide,
        )  # fmt: skip
        self.compare_button = ipywidgets.Button(
            description="Compare with generate", layout={"width": "auto"},
            tooltip="Call model.generate with these arguments, and compare tokens and score",
            disabled=not self._in_transformers,
        )  # fmt: skip
        for box in (self.prompt_box, self.beams_box, self.length_box):
            box.observe(self.reacts(partial(self._on_search, box)), "value")
        self.step_slider.observe(self.reacts(self._on_step), "value")
        for control in (self.penalty_slider, self.stopping_slider):
            control.observe(self.reacts(self._on_key), "value")
        self.compare_button.on_click(self.reacts(self._on_compare))

    # The search, and its bookkeeping

    def _search(self, prompt: str, num_beams: int, max_new_tokens: int) -> Generator:
        input_ids = tokens_of(
            self.model,
            self.tokenizer,
            prompt,
            max_new_tokens,
            add_special_tokens=self._add_special_tokens,
        )
        search = BeamSearch(
            self.model,
            input_ids,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            **self._settings,
        )
        for done in search.record():
            yield done, max_new_tokens
        tokens = {i for (c,) in search.steps for i in c.tokens.flatten().tolist()}
        ids = sorted(tokens)
        return prompt, search, dict(zip(ids, token_labels(self.tokenizer, ids), strict=True))

    def _grown(
        self,
        prompt: str,
        search: BeamSearch,
        labels: dict[int, str],
        key: tuple[float, bool | str],
        step: int | None = None,
        same: dict[tuple, bool] | None = None,
    ) -> _Grown:
        """How things stand at `step`, or at the end: with the fates as they were known then."""
        # A small vocabulary fills places with what continues no hypothesis: that is not shown.
        books = search.books(*key)
        length = len(books.history[0])
        if step is not None and step < length:
            books = search.books(*key, step)
        finished = [
            (score, [c for c, _ in path])
            for score, path, counts in zip(
                books.finished[0].tolist(),
                books.finished_paths[0],
                books.is_finished[0].tolist(),
                strict=True,
            )
            if counts and len(_numbers(books.history[0], [c for c, _ in path])) == len(path)
        ]
        best = finished[0][1] if finished else [c for c, _ in books.running_paths[0][0]]
        history = books.history[0]
        present = Trace(
            [prompt],
            [],
            search.input_ids,
            search.start,
            [],
            labels,
            beams=[[BeamStep(candidates) for candidates in history]],
            beam_paths=[_numbers(history, best)],
        )
        is_over, step = not books.open.any(), len(history)
        return _Grown(
            prompt, search, labels, key, step, length, present, finished, is_over, same or {}
        )

    @property
    def _labels(self) -> dict[int, str]:
        return self.state.labels

    @property
    def length_penalty(self) -> float:
        return self.state.key[0]

    @property
    def early_stopping(self) -> bool | str:
        return self.state.key[1]

    @property
    def _key(self) -> tuple:
        return self.state.key

    @property
    def run(self) -> Trace:
        """What `lv.generate` returns for the present settings."""
        run = _replay(self.state)
        return with_text(replace(run, prompts=[self.prompt]), self.tokenizer)

    # Its controls

    def _on_step(self) -> None:
        now = self.state
        found = now.prompt, now.search, now.labels, now.key
        self._state = self._grown(*found, self.step_slider.value, now.same)

    def _on_key(self) -> None:
        now = self.state
        key = slid(self.penalty_slider, now.key[0]), self.stopping_slider.value
        step = None if now.step == now.length else now.step
        found = now.prompt, now.search, now.labels, key
        self._state = self._grown(*found, step, now.same)
        self._place()

    def _place(self) -> None:
        """The slider of the steps, which follows the length of the search."""
        slider = self.step_slider
        with self._quietly(), slider.hold_trait_notifications():
            slider.max, slider.value = self.state.length, self.state.step

    def settle(self) -> None:
        now = self.state
        self.beams_box.value = now.search.num_beams
        self.length_box.value = now.search.max_new_tokens
        self.penalty_slider.value, self.stopping_slider.value = now.key
        self._place()

    def texts(self) -> list:
        return [(self.prompt_box, self.prompt)]

    def _on_search(self, box) -> None:
        def then(found: tuple[str, BeamSearch, dict[int, str]]) -> None:
            key = slid(self.penalty_slider, self.state.key[0]), self.stopping_slider.value
            self._state = self._grown(*found, key)
            self._place()

        wanted = self.prompt_box.value, self.beams_box.value, self.length_box.value
        self.work("Searching", self._search(*wanted), then, by=box)

    def _on_compare(self) -> None:
        def steps(now: _Grown, stopped: threading.Event) -> Generator:
            yield 0, 1
            return now, self._equals_generate(now, stopped)

        def then(found: tuple[_Grown, bool]) -> None:
            compared, same = found
            self._state = replace(self.state, same={**self.state.same, compared.key: same})

        stopped = threading.Event()
        work = steps(self.state, stopped)
        self.work("Calling model.generate", work, then, by=self.compare_button, stopped=stopped)

    @property
    def arguments(self) -> dict:
        """What to call `generate` with for the same search."""
        return self._arguments(self.state)

    def _arguments(self, now: _Grown) -> dict:
        on = {k: v for k, v in self._settings.items() if v != processors.DEFAULTS[k]}
        return {
            "num_beams": now.search.num_beams,
            "max_new_tokens": now.search.max_new_tokens,
            "length_penalty": now.key[0],
            "early_stopping": now.key[1],
            "do_sample": False,
            **on,
        }

    @property
    def _in_transformers(self) -> bool:
        return not {"presence_penalty", "frequency_penalty"} & self.arguments.keys()

    @property
    def call(self) -> str:
        """Code that gives the best hypothesis."""
        prompt, arguments = self.state.prompt, self.arguments
        if self._in_transformers and "logits_processor" not in arguments:
            arguments |= off(self.model, **arguments)
            return (
                f"{inputs_line(self.model, self.tokenizer, prompt, self._add_special_tokens)}\n"
                f"model.generate(**inputs, {written(arguments)})"
            )
        more = {} if self._add_special_tokens else {"add_special_tokens": False}
        return f"lv.generate(model, tokenizer, {prompt!r}, {written(arguments | more)})"

    def _equals_generate(self, now: _Grown, stopped: threading.Event) -> bool:
        """Call `model.generate`, and say whether its tokens and score are those shown."""
        input_ids, run, arguments = now.search.input_ids, _replay(now), self._arguments(now)
        own = arguments.pop("logits_processor", [])

        def enough(texts: LongTensor, scores, **kwargs) -> BoolTensor:
            return torch.full((len(texts),), stopped.is_set(), device=texts.device)

        output = self.model.generate(
            input_ids.to(self.model.device),
            attention_mask=torch.ones_like(input_ids).to(self.model.device),
            pad_token_id=filler(self.model) if now.search.eos else None,
            logits_processor=own if isinstance(own, (list, tuple)) else [own],
            stopping_criteria=[enough],
            return_dict_in_generate=True,
            output_scores=True,
            **arguments,
            **off(self.model, **arguments),
        )
        (score,), (theirs,) = run.sequences_scores, output.sequences_scores.tolist()
        near = abs(theirs - score) <= 1e-5 * max(abs(score), 1)
        return near and output.sequences.tolist() == run.sequences.tolist()

    # Its views

    def _verdict(self) -> str:
        """How the search stands, in a sentence."""
        step = self.state.step
        if not self.is_over:
            return f"step {step} of {self.state.length}: the search goes on"
        if step == self.search.max_new_tokens:
            return f"step {step}: over, at max_new_tokens"
        reasons = {c.reason for c in self.present.beams[0][-1].candidates if c.fate == "running"}
        why = next((r.partition(": ")[2] for r in reasons), "nothing is left to go on with")
        return f"step {step}: over, since {why}"

    def _comparison(self) -> str:
        if not self._in_transformers:
            return "presence_penalty and frequency_penalty are not in transformers"
        same = self.state.same.get(self.state.key)
        if same is None:
            return "not yet compared with generate for these settings"
        if same:
            return "✓ generate gives the same tokens and the same score"
        return "✗ generate gives something else"

    def _hypothesis(self, candidate: BeamCandidate) -> list[str]:
        """The labels of its tokens, from the first one on."""
        path = [candidate]
        for step in self.present.beams[0][-2::-1]:
            path.append(next(c for c in step.candidates if c.next_beam == path[-1].beam))
        return [self._labels[c.token_id] for c in reversed(path)]

    def picture(self) -> str:
        tree = tree_svg(self.present, self.state.length)
        candidates = self.present.beams[0][-1].candidates
        rows = [
            [
                str(c.rank + 1),
                _hypothesis_html(self._hypothesis(c), c.fate),
                fixed(c.score),
                fixed(c.sum_score),
                f"<b>{_FATES[c.fate]}</b>" if c.fate in ("running", "finished") else _FATES[c.fate],
                f'<div style="color:{MUTED};white-space:normal;font-size:12px;max-width:420px">'
                f"{escaped(c.reason)}</div>",
            ]
            for c in candidates
        ]
        head = ["", f"candidates of step {self.state.step}", "log-prob.", "sum", "", "why"]
        finished = [
            [
                "▸" if place == 0 else "",
                _hypothesis_html([self._labels[c.token_id] for c in path], "finished", 20),
                fixed(path[-1].sum_score),
                str(len(path)),
                f"<b>{fixed(score, 3)}</b>",
            ]
            for place, (score, path) in enumerate(self.finished)
        ]
        power = f"score = sum / length ** {given(self.length_penalty)}"
        done = (
            table(["", "finished so far", "sum", "length", power], finished, "llrrr")
            if finished
            else f'<div style="color:{MUTED};margin:4px 0">none has finished yet</div>'
        )
        text = escaped(self.prompt[-300:])
        return card(
            f'<div style="color:{MUTED};white-space:pre-wrap">{text} …</div>',
            f'<div style="margin:4px 0"><b>{escaped(self._verdict())}</b></div>',
            # From right to left, so that of a tree that is too wide the newest steps are seen.
            '<div style="width:0;min-width:100%;overflow-x:auto;direction:rtl">' + tree + "</div>",
            _legend(),
            table(head, rows, "llrrll"),
            done,
            f'<div style="margin-top:4px">{escaped(self._comparison())}</div>'
            f'<div style="font-family:monospace;font-size:12px;color:{MUTED};white-space:pre-wrap">'
            f"{escaped(self.call)}</div>",
        )

    def as_text(self) -> str:
        lines = [f"BeamExplorer of {self.prompt!r}: {written(self.arguments)}", self._verdict()]
        for c in self.present.beams[0][-1].candidates:
            text = "".join(self._hypothesis(c)[-_TAIL:])
            lines.append(f"{c.rank + 1}. {text}  {fixed(c.sum_score)}  {c.fate}: {c.reason}")
        for score, path in self.finished:
            text = "".join(self._labels[c.token_id] for c in path)
            lines.append(f"finished: {text}  {fixed(path[-1].sum_score)} → {fixed(score, 3)}")
        return "\n".join([*lines, self._comparison()])

    def figure(self, ax=None):
        """The tree up to the present step, with matplotlib."""
        from .. import plots

        return plots.plot_beam_tree(self.present, ax=ax)


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


def _replay(now: _Grown) -> Trace:
    length_penalty, early_stopping = now.key
    return now.search.replay(length_penalty=length_penalty, early_stopping=early_stopping)


def _numbers(history: list[list[BeamCandidate]], path: list[BeamCandidate]) -> list[int]:
    """The place of each candidate of `path` among those of its step, as far as it is there."""
    numbers = []
    for step, wanted in zip(history, path, strict=False):
        place = next((i for i, c in enumerate(step) if c is wanted), None)
        if place is None:
            break
        numbers.append(place)
    return numbers


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
