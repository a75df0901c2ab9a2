"""Live explorers: one line to start, for any model and prompt, as the last line of a cell.

    lv.SamplerBench(model, tokenizer, "I enjoy walking with my cute dog", temperature=0.7)

A prompt goes through the model once; a drag re-runs only the processors, exactly, over the whole
vocabulary. Each leaves a picture of its state in the saved notebook, and draws the same with
matplotlib: `.figure()`.
"""

from importlib import import_module

_HOME = {
    "Stepper": "stepper",
    "BeamExplorer": "beams",
    "Comparison": "compare",
    "Inside": "inside",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
