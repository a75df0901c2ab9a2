"""Settings checked, and written as code; a line of text: what several explorers share."""

from __future__ import annotations

import inspect
from decimal import Decimal

import ipywidgets

from .. import arguments, processors


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


class Name(str):
    """A name as it stands in code."""

    __repr__ = str.__str__


def written(settings: dict) -> str:
    """Settings as keyword arguments, functions by their names."""
    return ", ".join(f"{name}={in_code(value)!r}" for name, value in settings.items())


def in_code(value):
    """A value whose repr is the code for it: functions by their names."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(in_code, value))
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
