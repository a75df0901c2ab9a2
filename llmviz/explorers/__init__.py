"""Explorers that need no kernel once they have been read: one JavaScript module draws them all.

    lv.SamplerBench(model, tokenizer, "I enjoy walking with my cute dog", temperature=0.7)

The model reads a text once; from then on the browser does the work, exactly, over the whole
vocabulary. Each leaves a picture of its state in the saved notebook, draws the same with
matplotlib, `.figure()`, and goes into a file that needs neither network nor kernel, `.to_html()`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
