"""Every argument of every public function, given what it is not meant for.

A call is right but for one argument. It may go through; where it is refused, that is a ValueError
or TypeError (an OSError too, where files are read) that names the argument, and the model has not
run yet. An argument that is added is tried without a change here, and a public name that is missing
from the table below fails a test.

A value that is taken is followed until the model begins to read, as a rule, and every eighth to the
end; LLMVIZ_FUZZ=60 follows all, and adds 60 values that hypothesis makes up for each argument (some
ten minutes).
"""

import copy
import inspect
import math
import os
import tempfile
from types import SimpleNamespace

import hypothesis.strategies as st
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import llmviz as lv
from llmviz import processors
from tests import tiny

IDS = torch.tensor([[72, 101, 108, 108, 111]])
PROMPT = "hello there"


class Hostile:
    """What cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no text for you")


ODD = [
    None, True, False, 0, 1, -1, 3, 2**70, -(2**70), 0.0, 0.5, 1.0, 1.5, -0.5, 1e-320, 1e308,
    math.nan, math.inf, -math.inf, "", "x", "\ud800", "\x1b[31m", "never", "static", b"x", 1j,
    [], [1], [[1]], [[]], [-1], [2**70], ["a"], [None], [True], [math.nan], {}, {"a": 1}, {1: "a"},
    (), (1, 2), set(), range(3), range(0), object(), Hostile(), [Hostile()], int, len,
    lambda *a: None, lambda *a, **k: [], Ellipsis, pd.DataFrame(), pd.DataFrame({"rank": ["x"]}),
    np.int64(2), np.float32(0.5), np.float64(math.nan), np.bool_(True), np.str_("x"),
    np.array([1.0, math.nan]), np.zeros((0,)), np.zeros((2, 2)), np.array(["a"]),
    torch.tensor(2), torch.tensor(0.5), torch.tensor(math.nan), torch.tensor(True), torch.empty(0),
    torch.zeros(3), torch.zeros(2, 2), torch.zeros(1, 5), torch.full((4, 4), math.nan),
    torch.ones(1, 5, dtype=torch.long), torch.full((1, 5), 10**6), torch.full((1, 5), -1),
    torch.zeros(1, 0, dtype=torch.long), torch.zeros(2, 2, 2, 2), SimpleNamespace(), "x" * 5000,
]  # fmt: skip
ODD_VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.recursive(
        st.one_of(st.none(), st.integers(-3, 300), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        max_leaves=5,
    ),
)


def stubs():
    """What right calls are made of: a tiny model, its tokenizer, and what they gave."""
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    run = lv.generate(model, tokenizer, PROMPT, max_new_tokens=4)
    beams = lv.generate(model, tokenizer, PROMPT, max_new_tokens=4, num_beams=2)
    return model, tokenizer, run, beams


def chat_tokenizer():
    chat = copy.deepcopy(tiny.tokenizer())
    chat.chat_template = (
        "{% for m in messages %}<bos>{{ m['role'] }}:{{ m['content'] }}<eos>{% endfor %}"
    )
    return chat


MODEL, TOKENIZER, RUN, BEAMS = stubs()
CHAT = chat_tokenizer()
WEIGHTS, LABELS = lv.attentions(MODEL, TOKENIZER, PROMPT)
STATES = lv.hidden_states(MODEL, TOKENIZER, PROMPT).tensor
LENS = lv.logit_lens(MODEL, TOKENIZER, PROMPT)
OUTPUT = MODEL.generate(
    IDS, max_new_tokens=3, return_dict_in_generate=True, output_scores=True, output_logits=True
)
FOLDER = tempfile.TemporaryDirectory()
MODEL.save_pretrained(FOLDER.name)
TOKENIZER.save_pretrained(FOLDER.name)
BOTH = {"model": MODEL, "tokenizer": TOKENIZER}
DIRECT = {"model": MODEL, "input_ids": IDS, "max_new_tokens": 3}
SCORES = torch.randn(2, tiny.VOCABULARY, generator=torch.Generator().manual_seed(0))
TWO = {"greedy": {}, "warm": {"do_sample": True, "seed": 0, "temperature": 1.5}}

# A right call of each public function; what it leaves out has a default.
CALLS = {
    "load": {"name": FOLDER.name},
    "setup_line": {"model": MODEL},
    "readable": {"text": "a b"},
    "token_labels": {"tokenizer": TOKENIZER, "token_ids": [72, 101]},
    "token_table": {"tokenizer": TOKENIZER, "text": PROMPT},
    "generate": {**BOTH, "prompt": PROMPT, "max_new_tokens": 3},
    "greedy_search": DIRECT,
    "sample": DIRECT,
    "beam_search": {**DIRECT, "num_beams": 2},
    "contrastive_search": DIRECT,
    "dola": DIRECT,
    "assisted_search": {**DIRECT, "prompt_lookup_num_tokens": 2},
    "trace_of": {"output": OUTPUT, "tokenizer": TOKENIZER, "prompt": "Hello"},
    "attentions": {**BOTH, "text": PROMPT},
    "hidden_states": {**BOTH, "text": PROMPT},
    "kv_cache": {**BOTH, "text": PROMPT},
    "logit_lens": {**BOTH, "text": PROMPT},
    "score_choices": {**BOTH, "prompt": PROMPT, "choices": [" a", " b"]},
    "chat": {"model": MODEL, "tokenizer": CHAT, "query": "hi", "max_new_tokens": 3},
    "stream_chat": {"model": MODEL, "tokenizer": CHAT, "query": "hi", "max_new_tokens": 3},
    "print_stream": {"stream": [("a", []), ("ab", [])]},
    "remove_invalid_values": {"input_ids": IDS, "scores": SCORES[:1]},
    "logits_to_frame": {"logits": SCORES[0], "tokenizer": TOKENIZER},
    "predict_next_tokens": {**BOTH, "sentence": PROMPT, "num_steps": 3},
    "plot_attention": {"weights": WEIGHTS[0, 0], "labels": LABELS},
    "plot_attention_overview": {"weights": WEIGHTS, "labels": LABELS},
    "plot_beam_tree": {"run": BEAMS},
    "plot_norms": {"hidden": STATES, "labels": LABELS},
    "plot_probabilities": {"probabilities": [0.5, 0.2], "labels": ["a", "b"]},
    "plot_rank_curve": {"logits": SCORES[0]},
    "plot_ranks": {"ranks": {"a": [1, 5, 2]}},
    "plot_sampler": {"run": RUN},
    "plot_similarity": {"hidden": STATES},
    "plot_steps": {"run": RUN},
    "plot_surprisal": {"surprisals": {"a": [1.0, 2.0]}, "labels": ["x", "y"]},
    "plot_temperature": {"logits": [1.0, 2.0], "labels": ["x", "y"]},
    "plot_tokens": {"labels": ["a", "b"]},
    "show": {"ax": None, "alt": "two bars", "title": "Two"},
    "attention_strip": {"weights": WEIGHTS[0, 0], "labels": LABELS},
    "lens_grid": {"lens": LENS},
    "side_by_side": {"runs": {"a": RUN, "b": RUN}},
    "token_strip": {"run": RUN},
    "BeamExplorer": {**BOTH, "prompt": PROMPT, "max_new_tokens": 3},
    "Comparison": {**BOTH, "prompt": PROMPT, "strategies": TWO, "max_new_tokens": 3},
    "ProcessorChain": {**BOTH, "prompt": PROMPT},
    "SamplerBench": {**BOTH, "prompt": PROMPT},
    "Inside": {**BOTH, "text": PROMPT},
    "Stepper": {**BOTH, "prompt": PROMPT, "max_new_tokens": 3},
}

# What a value that is refused may be called in the message, where it is not the argument's name.
ALSO_CALLED = {
    "continuation": ("prompt",),  # one text with the prompt
    "logits": ("top_k",),  # fewer than are to be listed
    "name": ("model",),
    "penalty_alpha": ("top_k",),  # asks for contrastive search, which needs it
}


def names_of(function) -> list[str]:
    """The arguments of a function; for **settings, the processors' settings."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if function is not lv.load and any(p.kind is p.VAR_KEYWORD for p in parameters):
        names += [name for name in processors.DEFAULTS if name not in names]
    return names


def call(name: str, arguments: dict):
    """Call a public function, and let it do all its work."""
    if name == "show":
        arguments = {**arguments, "ax": plt.subplots()[1]} | arguments
        if arguments["ax"] is None:
            arguments["ax"] = plt.subplots()[1]
    found = getattr(lv, name)(**arguments)
    if name == "stream_chat":
        return list(found)
    if isinstance(found, ipywidgets.Widget):
        found.close()
    return found


PAIRS = [(name, argument) for name in CALLS for argument in names_of(getattr(lv, name))]


def test_no_public_function_is_left_out():
    functions = {name for name in lv.__all__ if callable(getattr(lv, name))}
    data = {"ChatCache", "Table", "Trace"}  # made by functions
    assert functions - data == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_right_calls_go_through(name):
    call(name, CALLS[name])
    plt.close("all")


class Enough(BaseException):
    """The model begins to read, so the value has been taken."""


def made_up(examples: int) -> list:
    """Values that hypothesis makes up, the same each time."""
    found = []

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(ODD_VALUES)
    def collect(value):
        found.append(value)

    collect()
    return found


LONG = int(os.environ.get("LLMVIZ_FUZZ", 0))
MADE_UP = made_up(LONG or 50)


@pytest.mark.parametrize(("name", "argument"), PAIRS, ids=[f"{n}-{a}" for n, a in PAIRS])
def test_what_does_not_fit_is_refused_by_name(name, argument):
    passes, whole = 0, True

    def count(*_):
        nonlocal passes
        passes += 1
        if not whole:
            raise Enough

    def attempt(value):
        nonlocal passes
        passes, figures = 0, len(plt.get_fignums())
        try:
            call(name, {**CALLS[name], argument: value})
        except Enough:
            pass
        except (ValueError, TypeError, OSError) as error:
            assert name == "load" or not isinstance(error, OSError), error
            said = str(error)
            if not callable(value):  # what a function of the caller's raises or returns comes late
                allowed = (argument, *ALSO_CALLED.get(argument, ()))
                assert any(word in said for word in allowed), f"{argument} is not named: {said!r}"
                assert passes == 0, f"refused after {passes} passes: {said!r}"
            assert said.isprintable() or "\n" in said
            assert name == "show" or len(plt.get_fignums()) == figures, "a figure is left open"
        finally:
            plt.close("all")

    start = PAIRS.index((name, argument))
    values = ODD + (MADE_UP if LONG else MADE_UP[start % len(MADE_UP) :][:3])
    hook = MODEL.register_forward_pre_hook(count)
    try:
        for number, value in enumerate(values):
            whole = LONG or (start + number) % 8 == 0
            attempt(value)
    finally:
        hook.remove()
