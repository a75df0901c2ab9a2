"""Explorers that need no kernel once they have been read: one JavaScript module draws them all.

    lv.SamplerBench(model, tokenizer, "I enjoy walking with my cute dog", temperature=0.7)

The model reads a text once; from then on the browser does the work, exactly, over the whole
vocabulary. Each leaves a picture of its state in the saved notebook, draws the same with
matplotlib, `.figure()`, and goes into a file that needs neither network nor kernel, `.to_html()`.
"""

from importlib import import_module

_HOME = {
    "SamplerBench": "sampler",
    "ProcessorChain": "chain",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
