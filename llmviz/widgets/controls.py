"""Sliders for the processors' settings, shared by several explorers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from decimal import Decimal

import ipywidgets

from .. import arguments, processors

# Lowest, highest, step, and what it does. A value from outside, given at the start, widens it.
_SLIDERS: dict[str, tuple] = {
    "temperature": (0.05, 5.0, 0.05, "divides the scores: below 1 sharpens, above 1 flattens"),
    "top_k": (0, 200, 1, "keeps the k likeliest tokens"),
    "top_p": (0.01, 1.0, 0.01, "keeps the fewest tokens whose probabilities add up to p"),
    "min_p": (0.0, 1.0, 0.01, "keeps tokens at least this many times as likely as the likeliest"),
    "typical_p": (0.01, 1.0, 0.01, "keeps the tokens whose surprisal is closest to the entropy"),
    "repetition_penalty": (0.5, 2.0, 0.05, "divides the scores of tokens in the text so far"),
    "presence_penalty": (-2.0, 2.0, 0.1, "is subtracted once from each token generated so far"),
    "frequency_penalty": (-2.0, 2.0, 0.1, "is subtracted each time that a token was generated"),
    "no_repeat_ngram_size": (0, 6, 1, "rules out what would complete a repeated n-gram"),
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


class Settings:
    """A slider for each of `columns` (lists of names), and the `given` settings as a start.

    Settings without a slider stay as given.
    """

    def __init__(self, columns: list[tuple[str, ...]], given: dict):
        names = [name for column in columns for name in column]
        self.sliders = {name: _slider(name, given.get(name)) for name in names}
        self._fixed = {name: value for name, value in given.items() if name not in names}
        self._known = given
        self._known = self.on
        self._changed: Callable = lambda _: None
        self._resetting = False
        reset = ipywidgets.Button(description="All off", tooltip="Move every slider to off")
        reset.on_click(lambda _: self.reset())
        sides = [[self.sliders[name] for name in column] for column in columns]
        min(sides, key=len).append(reset)
        self.box = ipywidgets.HBox(
            [ipywidgets.VBox(side) for side in sides], layout={"flex_flow": "row wrap"}
        )
        for slider in self.sliders.values():
            slider.observe(self._on_slider, "value")

    @property
    def on(self) -> dict:
        """The settings that are switched on, by name, in the order in which they work."""
        moved = {name: slid(s, self._known.get(name)) for name, s in self.sliders.items()}
        return switched_on({**self._fixed, **moved})

    def observe(self, callback: Callable) -> None:
        """`callback(change)` follows every change; that of several sliders at once is one."""
        self._changed = callback

    def reset(self) -> None:
        self.put({})

    def put(self, on: dict) -> None:
        """Move every slider to what stands in `on`, or else to off."""
        self._resetting = True
        try:
            for name, slider in self.sliders.items():
                slider.value = on.get(name, processors.DEFAULTS[name])
        finally:
            self._resetting = False
        self._on_slider(None)

    def _on_slider(self, change) -> None:
        if not self._resetting and (on := self.on) != self._known:
            self._known = on
            self._changed(change)


def plain_settings(given: dict, vocab_size: int, never: tuple[str, ...] = ()) -> dict:
    """The settings of `processors.DEFAULTS`, checked, as plain Python data.

    Raises TypeError for an unknown name or one in `never`, ValueError for a value out of bounds.
    """
    for name in never:
        if name in given:
            raise TypeError(f"{name}={arguments.shown(given[name])}: this explorer cannot show it")
    return processors.check(vocab_size=vocab_size, **given)


def switched_on(given: dict) -> dict:
    """The settings that do something, in the order in which they work."""
    return {
        name: given[name]
        for name, off in processors.DEFAULTS.items()
        if name in given and given[name] != off
    }


def slid(slider: ipywidgets.Widget, known: float | None):
    """What the slider says, as it was meant.

    The browser answers a value of 1.0 with 1.0000000000000002, and steps of 0.1 add up to
    0.30000000000000004. So what is as good as `known`, the value before, is that; what is as good
    as a number of whole steps is those; and anything else stays as it is, to the last digit.
    """
    value = slider.value
    if not isinstance(value, float):
        return value
    if known is not None and math.isclose(value, known, rel_tol=1e-12, abs_tol=1e-12):
        return known
    steps = round(round(value / slider.step) * slider.step, 10)
    return steps if math.isclose(value, steps, rel_tol=1e-12, abs_tol=1e-12) else value


def _slider(name: str, value) -> ipywidgets.Widget:
    lowest, highest, step, does = _SLIDERS[name]
    off = processors.DEFAULTS[name]
    value = off if value is None else value
    kind = ipywidgets.IntSlider if isinstance(off, int) else ipywidgets.FloatSlider
    return kind(
        value=value,
        min=min(lowest, value),
        max=max(highest, value),
        step=step,
        description=name,
        tooltip=f"{name} {does}; {off:g} is off",
        style={"description_width": "150px"},
        layout={"width": "400px"},
    )


class Name(str):
    """A name as it stands in code."""

    __repr__ = str.__str__


def written(settings: dict) -> str:
    """Settings as keyword arguments, functions by their names."""
    return ", ".join(f"{name}={_in_code(value)!r}" for name, value in settings.items())


def _in_code(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(_in_code, value))
    return Name(value.__name__) if hasattr(value, "__name__") else value


def inputs_line(model, tokenizer, text: str, add_special_tokens: bool) -> str:
    """The line that makes `inputs` for `model.generate(**inputs, …)`."""
    more = "" if add_special_tokens else ", add_special_tokens=False"
    accepts = inspect.signature(model.forward).parameters
    if "token_type_ids" in tokenizer(text) and "token_type_ids" not in accepts:
        more += ", return_token_type_ids=False"
    there = "" if model.device.type == "meta" else ".to(model.device)"  # meta: it is offloaded
    return f'inputs = tokenizer({text!r}{more}, return_tensors="pt"){there}'


def as_percent(value: float) -> str:
    """A share that was given, in percent, to its last digit."""
    return f"{(100 * Decimal(repr(value))).normalize():f}%"


def text_box(
    description: str,
    value: str,
    placeholder: str,
    *,
    label_width: str = "150px",
    width: str = "800px",
) -> ipywidgets.Text:
    """A line of text that takes effect with Enter, or when it is left.

    So it is whole before a button is clicked. While typing counts, ipywidgets holds the last
    letters back until the kernel has answered the ones before, but no click.
    """
    return ipywidgets.Text(
        value=value,
        description=description,
        placeholder=placeholder,  # ipywidgets shows no tooltip here
        continuous_update=False,
        style={"description_width": label_width},
        layout={"width": width, "max_width": "98%"},
    )
