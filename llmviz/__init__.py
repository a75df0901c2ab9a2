"""How a language model chooses its next token: the helper package of the course.

`import llmviz as lv` costs next to nothing; torch, transformers, pandas and matplotlib are
imported by the first function that needs them.
"""

from importlib import import_module

# Another package with the import name `llmviz` exists; the lessons check this attribute.
__distribution__ = "llmviz-course"

_HOME = {
    "load": "models",
    "setup_line": "models",
    "readable": "tokens",
    "token_labels": "tokens",
    "token_table": "tokens",
    "generate": "decoding",
    "greedy_search": "decoding",
    "sample": "decoding",
    "beam_search": "decoding",
    "contrastive_search": "decoding",
    "dola": "decoding",
    "assisted_search": "decoding",
    "trace_of": "decoding",
    "Trace": "trace",
    "attentions": "internals",
    "hidden_states": "internals",
    "kv_cache": "internals",
    "logit_lens": "internals",
    "score_choices": "choices",
    "ChatCache": "conversation",
    "chat": "conversation",
    "print_stream": "conversation",
    "remove_invalid_values": "conversation",
    "stream_chat": "conversation",
    "logits_to_frame": "frames",
    "predict_next_tokens": "frames",
    "plot_attention": "plots",
    "plot_attention_overview": "plots",
    "plot_beam_tree": "plots",
    "plot_norms": "plots",
    "plot_probabilities": "plots",
    "plot_rank_curve": "plots",
    "plot_ranks": "plots",
    "plot_sampler": "plots",
    "plot_similarity": "plots",
    "plot_steps": "plots",
    "plot_surprisal": "plots",
    "plot_temperature": "plots",
    "plot_tokens": "plots",
    "show": "plots",
    "attention_strip": "html",
    "lens_grid": "html",
    "side_by_side": "html",
    "token_strip": "html",
    "BeamExplorer": "widgets",
    "Comparison": "widgets",
    "ProcessorChain": "explorers",
    "SamplerBench": "explorers",
    "Inside": "widgets",
    "Stepper": "widgets",
}
_ROOMS = {
    "models", "tokens", "processors", "decoding", "trace", "internals", "frames", "plots", "html",
    "choices", "conversation", "checks", "explorers", "widgets",
}  # fmt: skip

__all__ = sorted({*_HOME, *_ROOMS})


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
