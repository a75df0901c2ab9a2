"""Beam search step by step, and what length penalty and early stopping make of it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import arguments, processors
from ..decoding import with_text
from ..decoding.beams import BeamSearch, check_beams, filler
from ..decoding.brought import off
from ..models import check_model
from ..tokens import token_labels
from ..trace import Trace
from ..widgets.base import result_of, tokens_of
from ..widgets.controls import Name, inputs_line, plain_settings, written
from .base import Explorer
from .beam_picture import Grown, grown, picture
from .replays import STOPPINGS, Replay, all_replays, penalties, told

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from ..settings import Settings

_SAYS = {
    "unknown": "not yet compared with generate for these settings",
    "same": "✓ generate gives the same tokens and the same score",
    "other": "✗ generate gives something else",
    "never": "presence_penalty and frequency_penalty are not in transformers",
}
_LETTERS = "\ue000", "\ue001"  # stand in the call where the two sliders' values come


@dataclass(frozen=True, eq=False)
class Searched:
    """A prompt's search, recorded to its end, and its replays for all places of the sliders."""

    prompt: str
    search: BeamSearch
    labels: dict[int, str]
    penalties: list[float]
    replays: list[Replay]
    places: list[list[int]]  # for each of STOPPINGS, the number of the replay at each penalty

    def length(self, length_penalty: float, early_stopping: bool | str) -> int:
        """How many steps the search has."""
        row, column = self.place(length_penalty, early_stopping)
        return len(self.replays[self.places[row][column]].cells)

    def place(self, length_penalty: float, early_stopping: bool | str) -> tuple[int, int]:
        return STOPPINGS.index(early_stopping), self.penalties.index(length_penalty)


class BeamExplorer(Explorer):
    """The tree of a beam search as it grows, and what length penalty and early stopping make of it.

    A step's candidates depend on neither of the two, so the model searches once, for as long as it
    can, and the bookkeeping of `lv.beam_search` is done beforehand for every place of the two
    sliders. That `model.generate` gives the same is not taken for granted: it is called, and
    compared; for other places than the first one on a button.

    add_special_tokens: whether the tokenizer may put a bos token in front; False for a prompt that
        a chat template wrote.
    settings: those of `processors.DEFAULTS` that work under beams.
    `chosen` has length_penalty, early_stopping and step.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        *,
        num_beams: int = 3,
        max_new_tokens: int = 12,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        add_special_tokens: bool = True,
        **settings: Unpack[Settings],
    ):
        check_model(model)
        self._settings = plain_settings(settings, model.config.get_text_config().vocab_size)
        self._add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
        self.model, self.tokenizer = model, tokenizer
        key = (length_penalty, early_stopping)
        steps = self._search(prompt, num_beams, max_new_tokens, *key)
        self._searched, length_penalty, early_stopping = result_of(steps)
        chosen = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        super().__init__(chosen=self.take(chosen), state=self._state())
        if self._in_transformers:
            found = self._compared(self._replay(), self.arguments, threading.Event())
            self.answer = {self._place(): found}

    # The search, and its bookkeeping

    def _search(
        self, prompt, num_beams, max_new_tokens, length_penalty, early_stopping
    ) -> Generator[tuple[int, int], None, tuple[Searched, float, bool | str]]:
        """The search with its replays, and the last two arguments as plain Python."""
        asked = check_beams(
            num_beams=num_beams,
            num_return_sequences=1,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            do_sample=False,
            num_beam_groups=1,
            diversity_penalty=0.0,
            max_new_tokens=max_new_tokens,
        )
        if asked["num_beams"] == 1:
            raise ValueError("num_beams=1: with one beam it is greedy search; pass 2 or more")
        model, length = self.model, asked["max_new_tokens"]
        more = {"add_special_tokens": self._add_special_tokens}
        input_ids = tokens_of(model, self.tokenizer, prompt, length, **more)
        size = {"num_beams": asked["num_beams"], "max_new_tokens": length}
        search = BeamSearch(model, input_ids, **size, **self._settings)
        for done in search.record():
            yield done, length
        ids = sorted({i for (c,) in search.steps for i in c.tokens.flatten().tolist()})
        labels = dict(zip(ids, token_labels(self.tokenizer, ids), strict=True))
        key = asked["length_penalty"], asked["early_stopping"]
        places = penalties(key[0])
        searched = Searched(prompt, search, labels, places, *all_replays(search, places))
        return searched, *key

    def _state(self) -> dict:
        """What the browser needs."""
        found = self._searched
        return {
            "kind": "beams",
            "prompt": found.prompt,
            "num_beams": found.search.num_beams,
            "max_new_tokens": found.search.max_new_tokens,
            "penalties": found.penalties,
            "places": found.places,
            "labels": {str(number): label for number, label in found.labels.items()},
            **told(found.search, found.replays),
            "comparable": self._in_transformers,
            "says": _SAYS,
            "call": self._call_in_parts(),
        }

    def take(self, chosen: dict) -> dict:
        found = self._searched
        early_stopping = arguments.choice("early_stopping", chosen.get("early_stopping"), STOPPINGS)
        given = arguments.number("length_penalty", chosen.get("length_penalty"))
        length_penalty = min(found.penalties, key=lambda place: abs(place - given))
        length = found.length(length_penalty, early_stopping)
        step = arguments.whole("step", chosen.get("step", length))
        return {
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
            "step": min(step, length),
        }

    @property
    def _key(self) -> tuple[float, bool | str]:
        return self.chosen["length_penalty"], self.chosen["early_stopping"]

    def on_read(self, content: dict) -> None:
        """Search again, for another prompt or size."""
        names = ("prompt", "num_beams", "max_new_tokens")
        wanted = (content.get(name) for name in names)

        def then(found: tuple[Searched, float, bool | str]) -> None:
            key = dict(zip(("length_penalty", "early_stopping"), self._key, strict=True))
            self._searched, *_ = found
            with self.hold_sync():
                self.state, self.answer = self._state(), {}
                self.chosen = self.take(key)

        self.work("Searching", self._search(*wanted, *self._key), then)

    @property
    def search(self) -> BeamSearch:
        """The recorded search."""
        self.check_open()
        return self._searched.search

    @property
    def prompt(self) -> str:
        self.check_open()
        return self._searched.prompt

    @property
    def run(self) -> Trace:
        """What `lv.generate` returns for the present settings."""
        return with_text(replace(self._replay(), prompts=[self.prompt]), self.tokenizer)

    def _replay(self) -> Trace:
        length_penalty, early_stopping = self._key
        return self.search.replay(length_penalty=length_penalty, early_stopping=early_stopping)

    # What `generate` says

    @property
    def arguments(self) -> dict:
        """What to call `generate` with for the same search."""
        return self._arguments(*self._key)

    def _arguments(self, length_penalty, early_stopping) -> dict:
        on = {k: v for k, v in self._settings.items() if v != processors.DEFAULTS[k]}
        return {
            "num_beams": self.search.num_beams,
            "max_new_tokens": self.search.max_new_tokens,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
            "do_sample": False,
            **on,
        }

    @property
    def _in_transformers(self) -> bool:
        ours = ("presence_penalty", "frequency_penalty")
        return not any(self._settings.get(name) for name in ours)

    @property
    def call(self) -> str:
        """Code that gives the best hypothesis."""
        return self._call(*self._key)

    def _call(self, length_penalty, early_stopping) -> str:
        prompt, arguments = self.prompt, self._arguments(length_penalty, early_stopping)
        if self._in_transformers and "logits_processor" not in arguments:
            arguments |= off(self.model, **arguments)
            return (
                f"{inputs_line(self.model, self.tokenizer, prompt, self._add_special_tokens)}\n"
                f"model.generate(**inputs, {written(arguments)})"
            )
        more = {} if self._add_special_tokens else {"add_special_tokens": False}
        return f"lv.generate(model, tokenizer, {prompt!r}, {written(arguments | more)})"

    def _call_in_parts(self) -> list[str]:
        """The call, cut where the values of the two sliders stand."""
        before, rest = self._call(*map(Name, _LETTERS)).split(_LETTERS[0])
        return [before, *rest.split(_LETTERS[1])]

    @property
    def comparison(self) -> str:
        """Whether `generate` was found to give the same, in words."""
        if not self._in_transformers:
            return _SAYS["never"]
        return _SAYS[self.answer.get(self._place(), "unknown")]

    def _place(self) -> str:
        return ",".join(map(str, self._searched.place(*self._key)))

    def on_compare(self, _) -> None:
        """Call `model.generate` for the present settings."""
        place, run, told = self._place(), self._replay(), self.arguments

        def steps() -> Generator:
            stopped = self._stopped
            yield 0, 1
            return self._compared(run, told, stopped)

        def then(found: str) -> None:
            self.answer = {**self.answer, place: found}

        self.work("Calling model.generate", steps(), then)

    def _compared(self, run: Trace, told: dict, stopped: threading.Event) -> str:
        """Whether the tokens and the score of `model.generate` are those of `run`, for _SAYS."""
        input_ids, told = self.search.input_ids, dict(told)
        own = told.pop("logits_processor", [])

        def enough(texts: Tensor, scores, **kwargs) -> Tensor:
            return torch.full((len(texts),), stopped.is_set(), device=texts.device)

        output = self.model.generate(
            input_ids.to(self.model.device),
            attention_mask=torch.ones_like(input_ids).to(self.model.device),
            pad_token_id=filler(self.model) if self.search.eos else None,
            logits_processor=own if isinstance(own, (list, tuple)) else [own],
            stopping_criteria=[enough],
            return_dict_in_generate=True,
            output_scores=True,
            **told,
            **off(self.model, **told),
        )
        (score,), (theirs,) = run.sequences_scores, output.sequences_scores.tolist()
        near = abs(theirs - score) <= 1e-5 * max(abs(score), 1)
        return "same" if near and output.sequences.tolist() == run.sequences.tolist() else "other"

    # Its views

    @property
    def now(self) -> Grown:
        """The tree at the present step, as it was known then."""
        self.check_open()
        found, (length_penalty, early_stopping) = self._searched, self._key
        return grown(
            found.prompt,
            found.search,
            found.labels,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            length=found.length(length_penalty, early_stopping),
            step=self.chosen["step"],
        )

    @property
    def title(self) -> str:
        return f"BeamExplorer of {self.prompt!r}"

    def picture(self) -> str:
        return picture(self.now, self._searched.length(*self._key), self.comparison, self.call)

    def as_text(self) -> str:
        now = self.now
        first = f"{self.title}: {written(self.arguments)}"
        return "\n".join([first, now.verdict, *now.lines(), self.comparison])

    def figure(self, ax=None):
        """The tree up to the present step, with matplotlib."""
        from .. import plots

        return plots.plot_beam_tree(self.now.present, ax=ax)

    def close(self) -> None:
        super().close()
        self._searched = None
