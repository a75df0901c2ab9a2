"""Live explorers: one line to start, for any model and prompt, as the last line of a cell.

    lv.SamplerBench(model, tokenizer, "I enjoy walking with my cute dog", temperature=0.7)

A prompt goes through the model once; a drag re-runs only the processors, exactly, over the whole
vocabulary. Each leaves a picture of its state in the saved notebook, and draws the same with
matplotlib: `.figure()`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
