"""One position of a text, read once, and the explorers that work on its scores."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import traitlets
from torch import Tensor

from .. import arguments, processors
from ..colours import MUTED
from ..decoding.guidance import unconditional
from ..decoding.prefix import eos_token_ids
from ..html import escaped
from ..models import check_model, input_device, vocab_size
from ..tokens import token_labels
from ..widgets.base import read
from ..widgets.controls import in_code, plain_settings, switched_on
from .base import Explorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Lowest, highest, step, and what it does. A value from outside, given at the start, widens it.
_SLIDERS: dict[str, tuple] = {
    "temperature": (0.05, 5.0, 0.05, "divides the scores: below 1 sharpens, above 1 flattens"),
    "top_k": (0, 200, 1, "keeps the k most likely tokens"),
    "top_p": (0.01, 1.0, 0.01, "keeps the fewest tokens whose probabilities add up to p"),
    "min_p": (0.0, 1.0, 0.01, "keeps tokens at least this many times as likely as the first"),
    "typical_p": (0.01, 1.0, 0.01, "keeps the tokens whose surprisal is closest to the entropy"),
    "repetition_penalty": (0.5, 2.0, 0.05, "divides the scores of tokens in the text so far"),
    "presence_penalty": (-2.0, 2.0, 0.1, "is subtracted once from each token generated so far"),
    "frequency_penalty": (-2.0, 2.0, 0.1, "is subtracted each time that a token was generated"),
    "no_repeat_ngram_size": (0, 6, 1, "rules out what would complete a repeated n-gram"),
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
# What the browser cannot run: Python computes the scores after each, whenever a slider is let go.
_PYTHONS = ("guidance_scale", "prefix_allowed_tokens_fn", "logits_processor")
_NEVER = ("forced_eos_token_id",)  # where the text will end is not known here


@dataclass(frozen=True, eq=False)
class Position:
    """A prompt, what was generated after it, and the next token's logits."""

    prompt: str
    continuation: str
    input_ids: Tensor  # (1, tokens), of both together
    prompt_length: int  # how many of these are the prompt's
    logits: Tensor  # (1, vocabulary), float32, on the CPU
    without_prompt: Tensor | None = None  # the same without the prompt, where guidance needs it

    @property
    def html(self) -> str:
        """The end of the text, with what counts as generated underlined."""
        prompt, continuation = self.prompt[-300:], self.continuation[-300:]
        cut = "…" if len(self.prompt) > 300 else ""
        return (
            f'<div><span style="color:{MUTED};white-space:pre-wrap">{cut}{escaped(prompt)}</span>'
            f'<span style="white-space:pre-wrap;border-bottom:1px solid {MUTED}">'
            f'{escaped(continuation)}</span> <span style="color:{MUTED}">…</span></div>'
        )

    def __str__(self) -> str:
        return f"{self.prompt!r}" + (f" + {self.continuation!r}" if self.continuation else "")


def read_position(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    continuation: str = "",
    *,
    add_special_tokens=True,
    settings=(),
) -> Position:
    """One pass over both, and a second one where `settings` hold a guidance_scale.

    Raises TypeError or ValueError for a text that is empty or too long."""
    arguments.text("prompt", prompt)
    text = prompt + arguments.text("continuation", continuation)
    input_ids, logits = read(model, tokenizer, text, add_special_tokens=add_special_tokens)
    alone = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
    same = len(commonprefix([alone, input_ids[0].tolist()]))
    guide = unconditional(model, dict(settings), same, takes_back=True)
    if guide is not None:
        guide = guide.logits(input_ids.to(input_device(model))).float().cpu()
    return Position(prompt, continuation, input_ids, same, logits, guide)


class PositionExplorer(Explorer):
    """Has a prompt, a continuation and sliders; a subclass says what follows from them.

    `chosen["settings"]` has the settings of the sliders that are switched on. A subclass has
        columns        the names of its sliders, a list per column
        begin(position, scores, chosen)  what else it chose, checked; scores: after all processors
    """

    columns: tuple[tuple[str, ...], ...] = ()
    computed = traitlets.Bytes().tag(
        sync=True
    )  # float32: what Python computes after its processors

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt,
        continuation,
        settings: dict,
        add_special_tokens,
        **chosen,
    ):
        # First of all, since it raises for a model, a prompt or a setting that will not do.
        check_model(model)
        settings = plain_settings(settings, vocab_size(model), never=_NEVER)
        self._add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
        sliders = {name for column in self.columns for name in column}
        on = switched_on(settings)
        self._fixed = {name: value for name, value in on.items() if name not in sliders}
        self._bounds = [[_slider(name, settings.get(name)) for name in c] for c in self.columns]
        self._position = read_position(
            model, tokenizer, prompt, continuation,
            add_special_tokens=self._add_special_tokens, settings=on,
        )  # fmt: skip
        self._chosen, self.model, self.tokenizer = None, model, tokenizer
        chosen = {"settings": {n: v for n, v in on.items() if n in sliders}, **chosen}
        chosen = self.take(chosen)
        traits = {"labels": all_labels(tokenizer, self._position.logits.shape[1])}
        super().__init__(chosen=chosen, **self._sent(), **traits)
        self.observe(lambda _: self._resend(), "chosen")

    @property
    def position(self) -> Position:
        """The text, its tokens, and the next one's logits."""
        self.check_open()
        return self._position

    @property
    def settings(self) -> dict:
        """The settings that are switched on, by name, in the order in which they work."""
        self.check_open()
        return self._settings(self._chosen)

    def _settings(self, chosen: dict) -> dict:
        return switched_on({**self._fixed, **chosen["settings"]})

    @property
    def scores(self) -> Tensor:
        """After all processors, shape (1, vocabulary)."""
        self.check_open()
        return self._stages[-1][1]

    def take(self, chosen: dict) -> dict:
        if chosen != self._chosen:
            self._move(self._position, chosen)
        return self._chosen

    def _move(self, position: Position, chosen: dict) -> None:
        """Compute all that follows from a position and what is chosen; nothing counts before all
        of it does."""
        given, known = chosen.get("settings"), (self._chosen or {}).get("settings", {})
        if not isinstance(given, dict):
            raise TypeError(f"settings={arguments.shown(given)}: it must be a dict of settings")
        for name in given:
            if not any(name in column for column in self.columns):
                raise TypeError(f"{name}={arguments.shown(given[name])} has no slider here")
        plain = plain_settings(given, position.logits.shape[1])
        for name, value in plain.items():  # JSON has no 2.0
            if value == known.get(name):
                plain[name] = known[name]
            elif self._chosen is not None and isinstance(processors.DEFAULTS[name], float):
                plain[name] = float(value)
        chosen = {**chosen, "settings": switched_on(plain)}
        stages = self._process(position, self._settings(chosen))
        more = self.begin(position, stages[-1][1], chosen)
        self._position, self._stages = position, stages
        self._chosen = {"settings": chosen["settings"], **more}

    def _process(self, position: Position, on: dict) -> list[tuple[str, Tensor]]:
        """The scores after each processor, the logits first. Raises ValueError where no token is
        left."""
        context = {
            "prompt_length": position.prompt_length,
            "eos_token_ids": eos_token_ids(self.model),
            "unconditional_logits": position.without_prompt,
        }
        stages = list(processors.stages(position.logits, position.input_ids, **context, **on))
        stages = [("logits", position.logits), *stages]
        if not stages[-1][1].max().isfinite():
            processors.process(position.logits, position.input_ids, **context, **on)  # says why
        return stages

    def begin(self, position: Position, scores: Tensor, chosen: dict) -> dict:
        raise NotImplementedError

    # What the browser gets

    def _sent(self) -> dict:
        """The traits of the present position."""
        at = self._position
        state = {
            "kind": self.kind, "prompt": at.prompt, "continuation": at.continuation,
            "input_ids": at.input_ids[0].tolist(), "prompt_length": at.prompt_length,
            "eos_token_ids": list(eos_token_ids(self.model)), "size": at.logits.shape[1],
            "columns": self._bounds, **self.more(),
            "fixed": {name: _as_json(name, value) for name, value in self._fixed.items()},
            "written": {name: repr(in_code(value)) for name, value in self._fixed.items()},
        }  # fmt: skip
        names, rows, before = list(self._settings(self._chosen)), [], []
        for (name, scores), place in zip(self._stages[1:], range(len(names)), strict=True):
            if name in _PYTHONS:
                rows.append(scores.numpy().astype("<f4").tobytes())
                on = {**state["fixed"], **self._chosen["settings"]}
                before.append([[earlier, on[earlier]] for earlier in names[:place]])
        computed = [name for name in names if name in _PYTHONS]
        if computed:
            state["computed"] = {"names": computed, "before": before}
        logits = at.logits.numpy().astype("<f4").tobytes()
        return {"state": state, "logits": logits, "computed": b"".join(rows)}

    def more(self) -> dict:
        """What else a subclass puts into the state."""
        return {}

    def _resend(self) -> None:
        """What Python computes follows the sliders, and answers to what was chosen before end."""
        with self.hold_sync():
            self.answer = {}
            if any(name in _PYTHONS for name in self._fixed):
                for name, value in self._sent().items():
                    setattr(self, name, value)

    def parts(self) -> dict:
        return super().parts() | ({"computed": self.computed} if self.computed else {})

    def on_read(self, content: dict) -> None:
        """Read another prompt or continuation."""
        prompt, continuation = content.get("prompt"), content.get("continuation")

        def steps() -> Generator:
            yield 0, 1
            return read_position(
                self.model, self.tokenizer, prompt, continuation,
                add_special_tokens=self._add_special_tokens, settings=self._fixed,
            )  # fmt: skip

        self.work("Reading the text", steps(), self._arrive)

    def _arrive(self, position: Position) -> None:
        self._move(position, self._chosen)
        with self.hold_sync():
            self.answer = {}
            for name, value in self._sent().items():
                setattr(self, name, value)
            self.chosen = self._chosen

    def close(self) -> None:
        super().close()
        self._position = self._stages = None


def _slider(name: str, value) -> dict:
    lowest, highest, step, does = _SLIDERS[name]
    off = processors.DEFAULTS[name]
    value = off if value is None else value
    return {
        "name": name, "min": min(lowest, value), "max": max(highest, value), "step": step,
        "off": off, "whole": isinstance(off, int), "does": f"{name} {does}",
    }  # fmt: skip


def _as_json(name: str, value):
    if name in _PYTHONS:
        return repr(in_code(value))
    if name == "sequence_bias":  # JSON has no −inf
        return [[ids, None if bias == -float("inf") else bias] for ids, bias in value]
    return value


_LABELS: WeakKeyDictionary = WeakKeyDictionary()  # of tokenizers: making them takes half a second


def all_labels(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """The labels of all tokens."""
    key = size, len(tokenizer)
    found = _LABELS.get(tokenizer)
    if found is None or found[0] != key:
        found = _LABELS[tokenizer] = key, token_labels(tokenizer, range(size))
    return found[1]
