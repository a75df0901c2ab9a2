"""One position of a text, read once, and the explorers that work on its scores."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from os.path import commonprefix

import torch
from torch import LongTensor, Tensor

from .. import arguments, processors
from ..colours import MUTED
from ..decoding.prefix import eos_token_ids
from ..html import escaped
from ..models import check_model
from .base import Explorer, of_state, read
from .controls import Settings, plain_settings, switched_on, text_box

# These need what is not known here: a second pass, and where the text will end.
_NEVER = ("guidance_scale", "forced_eos_token_id")


@cache
def _one_core() -> ThreadPoolExecutor:
    """A thread for which torch uses one core. No other thread's number of cores changes."""
    cores, pool = torch.get_num_threads(), ThreadPoolExecutor(1, "llmviz-drag")
    pool.submit(torch.get_num_threads).result()  # a thread's own number is made when first asked
    pool.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(cores)  # for threads to come, which would begin with the last one set
    return pool


@dataclass(frozen=True)
class Position:
    """A prompt, what was generated after it, and the next token's logits."""

    prompt: str
    continuation: str
    input_ids: LongTensor  # (1, tokens), of both together
    prompt_length: int  # how many of these are the prompt's
    logits: Tensor  # (1, vocabulary), float32, on the CPU

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
    model, tokenizer, prompt: str, continuation: str = "", *, add_special_tokens: bool = True
) -> Position:
    """One pass over both. Raises TypeError or ValueError for a text that is empty or too long."""
    arguments.text("prompt", prompt)
    text = prompt + arguments.text("continuation", continuation)
    input_ids, logits = read(model, tokenizer, text, add_special_tokens=add_special_tokens)
    alone = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
    same = len(commonprefix([alone, input_ids[0].tolist()]))
    return Position(prompt, continuation, input_ids, same, logits)


class PositionExplorer(Explorer):
    """Has a prompt, a continuation and sliders; a subclass says what follows from them.

    `begin(position, on)` returns the state that a position and the settings make; it has these two
    as attributes. It is called after every change of one of them.
    """

    position = of_state("position")

    def __init__(
        self,
        model,
        tokenizer,
        prompt: str,
        continuation: str,
        columns,
        settings: dict,
        add_special_tokens: bool,
    ):
        # First of all, since it raises for a model, a prompt or a setting that will not do.
        check_model(model)
        size = model.config.get_text_config().vocab_size
        settings = plain_settings(settings, size, never=_NEVER)
        self.model, self.tokenizer = model, tokenizer
        self._add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
        self._state = self.begin(self._read(prompt, continuation), switched_on(settings))
        self.settings = Settings(columns, settings)
        self.prompt_box = text_box("prompt", prompt, "What the model reads; Enter takes it over")
        self.continuation_box = text_box(
            "continuation", continuation, "Text after the prompt that counts as generated"
        )
        for box in (self.prompt_box, self.continuation_box):
            box.observe(self.reacts(partial(self._on_text, box)), "value")
        self.settings.observe(self.reacts(self.restart))

    def start(self, *controls, **below) -> None:
        """Put the explorer together, with these controls under the sliders."""
        super().__init__(
            self.prompt_box, self.continuation_box, self.settings.box, *controls, **below
        )

    def begin(self, position: Position, on: dict):
        raise NotImplementedError

    def restart(self) -> None:
        # A second core gains nothing on one row of scores, and is taken from the browser.
        self._state = _one_core().submit(self.begin, self.position, self.settings.on).result()

    def settle(self) -> None:
        self.settings.put(self.state.on)

    def texts(self) -> list:
        at = self.state.position
        return [(self.prompt_box, at.prompt), (self.continuation_box, at.continuation)]

    def arguments(self, position: Position, on: dict) -> dict:
        """What `processors.process` needs besides the scores."""
        return {
            "input_ids": position.input_ids,
            "prompt_length": position.prompt_length,
            "eos_token_ids": eos_token_ids(self.model),
            **on,
        }

    def process(self, position: Position, on: dict) -> Tensor:
        return processors.process(position.logits, **self.arguments(position, on))

    def _read(self, prompt: str, continuation: str) -> Position:
        return read_position(
            self.model,
            self.tokenizer,
            prompt,
            continuation,
            add_special_tokens=self._add_special_tokens,
        )

    def _on_text(self, box) -> None:
        def steps(prompt: str, continuation: str) -> Generator:
            yield 0, 1
            return self._read(prompt, continuation)

        def then(position: Position) -> None:
            self._state = self.begin(position, self.settings.on)

        texts = self.prompt_box.value, self.continuation_box.value
        self.work("Reading the text", steps(*texts), then, by=box)
