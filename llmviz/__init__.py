"""How a language model chooses its next token: the helper package of the course.

`import llmviz as lv` costs next to nothing: the names below `lv.` stand in `__init__.pyi`, where
editors read them too, and a module is imported when one of its names is first used.
"""

import lazy_loader

__version__ = "0.1.0"
# Another package with the import name `llmviz` exists; the lessons check this attribute.
__distribution__ = "llmviz-course"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
