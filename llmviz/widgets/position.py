"""One position of a text, read once, and the explorers that work on its scores."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from os.path import commonprefix

import torch
from torch import LongTensor, Tensor

from .. import processors
from ..decoding.prefix import eos_token_ids
from ..html import escaped
from .base import MUTED, Explorer, read
from .controls import Settings, text_box


@dataclass(frozen=True)
class Position:
    """A prompt, what was generated behind it, and the next token's logits."""

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


def read_position(model, tokenizer, prompt: str, continuation: str = "") -> Position:
    """One pass over both. Raises TypeError or ValueError for a text that is empty or too long."""
    input_ids, logits = read(model, tokenizer, prompt + continuation)
    alone = tokenizer(prompt)["input_ids"] if prompt else []
    same = len(commonprefix([alone, input_ids[0].tolist()]))
    return Position(prompt, continuation, input_ids, same, logits)


class PositionExplorer(Explorer):
    """Has a prompt, a continuation and sliders; a subclass says what follows from them.

    `restart()` is called after every change of these; it reads `position` and `settings.on`.
    """

    def __init__(self, model, tokenizer, prompt: str, continuation: str, columns, settings: dict):
        # First of all, since it raises for a model, a prompt or a setting that will not do.
        self.settings = Settings(columns, settings, model.config.get_text_config().vocab_size)
        self.model, self.tokenizer = model, tokenizer
        self.position = read_position(model, tokenizer, prompt, continuation)
        self.prompt_box = text_box("prompt", prompt, "What the model reads; Enter takes it over")
        self.continuation_box = text_box(
            "continuation", continuation, "Text behind the prompt that counts as generated"
        )
        for box in (self.prompt_box, self.continuation_box):
            box.observe(self._on_text, "value")
        self.settings.observe(self.reacts(self._on_settings))
        self.restart()

    def start(self, *controls, **below) -> None:
        """Put the explorer together, with these controls under the sliders."""
        super().__init__(
            self.prompt_box, self.continuation_box, self.settings.box, *controls, **below
        )

    def restart(self) -> None:
        raise NotImplementedError

    @property
    def arguments(self) -> dict:
        """What `processors.process` needs besides the scores."""
        return {
            "input_ids": self.position.input_ids,
            "prompt_length": self.position.prompt_length,
            "eos_token_ids": eos_token_ids(self.model),
            **self.settings.on,
        }

    def process(self) -> Tensor:
        return processors.process(self.position.logits, **self.arguments)

    def _on_settings(self) -> None:
        # A second thread gains nothing on one row of scores, and takes its core from the browser.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.restart()
        finally:
            torch.set_num_threads(threads)

    def _on_text(self, change) -> None:
        def steps(prompt: str, continuation: str) -> Generator:
            yield 0, 1
            return read_position(self.model, self.tokenizer, prompt, continuation)

        def then(position: Position) -> None:
            before, self.position = self.position, position
            try:
                self.restart()
            except (ValueError, TypeError):
                self.position = before
                raise

        texts = self.prompt_box.value, self.continuation_box.value
        self.work("Reading the text", steps(*texts), then, by=change.owner)
