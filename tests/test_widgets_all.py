"""What must hold for every explorer alike: refusals, errors, the end, and the code it shows."""

import copy
import gc
import threading
import weakref

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import llmviz as lv
from tests import tiny
from tests.code import result_of_code
from tests.test_widgets_base import wait_until
from tests.views import assert_harmless

STRATEGIES = {"greedy": {}, "drawn": {"do_sample": True, "seed": 1}}
MAKERS = {
    "SamplerBench": {},
    "ProcessorChain": {},
    "Stepper": {"max_new_tokens": 4},
    "BeamExplorer": {"max_new_tokens": 3},
    "Comparison": {"strategies": STRATEGIES, "max_new_tokens": 3},
    "Inside": {},
}


LIVE = ("Stepper", "Comparison")  # those that the browser draws: test_explorers_all.py


def made(name, prompt="hello", model=None, tokenizer=None, **arguments):
    model, tokenizer = model or tiny.model("llama"), tokenizer or tiny.tokenizer()
    return getattr(lv, name)(model, tokenizer, prompt, **(MAKERS[name] | arguments))


def box_of(explorer):
    return explorer.text_box if hasattr(explorer, "text_box") else explorer.prompt_box


def text_of(explorer):
    if hasattr(explorer, "reading"):
        return explorer.reading.text
    return explorer.position.prompt if hasattr(explorer, "position") else explorer.prompt


def typed(explorer, text):
    """What a reader does who types a text, and waits."""
    box_of(explorer).value = text
    if hasattr(explorer, "run_button"):
        explorer.run_button.click()
    explorer.wait(60)


def bringing(**settings):
    """A model with settings of its own in its generation_config."""
    model = copy.copy(tiny.model("llama"))
    model.generation_config = copy.deepcopy(model.generation_config)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.fixture
def no_pass(monkeypatch):
    def runs(*_, **__):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(tiny.model("llama")), "forward", runs)


ANY = [
    ("prompt", 5), ("prompt", None), ("prompt", b"hello"), ("prompt", ["hello", "you"]),
    ("prompt", ""), ("prompt", "\ud800"), ("prompt", "x" * 500), ("add_special_tokens", "yes"),
    ("add_special_tokens", 1), ("add_special_tokens", None),
]  # fmt: skip
COUNTS = [0, -1, 2.5, "3", True, None, np.nan, [3]]
OWN = {
    "SamplerBench": [("seed", bad) for bad in (-1, 2.0, True, None, "0")]
    + [("continuation", 5), ("continuation", None), ("temperature", "hot"), ("top_k", -1)],
    "ProcessorChain": [("token", bad) for bad in (259, -1, 1.5, True, "zz", "", [3], np.int64(999))]
    + [("continuation", 5), ("top_p", 7.0)],
    "Stepper": [("max_new_tokens", bad) for bad in (*COUNTS, 900)]
    + [("seed", None), ("seed", "0"), ("do_sample", "no"), ("top_p", 0.0)],
    "BeamExplorer": [("max_new_tokens", bad) for bad in (*COUNTS, 900)]
    + [("num_beams", bad) for bad in (1, *COUNTS)]
    + [("length_penalty", bad) for bad in ("1", np.nan, True, None)]
    + [("early_stopping", bad) for bad in ("no", 1, None)],
    "Comparison": [("max_new_tokens", bad) for bad in (*COUNTS, 900)]
    + [
        ("strategies", bad)
        for bad in (
            None, [], {}, {"a": {}}, {"a": {}, 5: {}}, {"a": {}, "b": 5}, {"a": {}, "b": {3: 4}},
            {"a": {}, " ": {}}, {"a": {}, "b": {"logits_processor": print}},
            {"a": {}, "b": {"temperature": 0.0, "do_sample": True}}, {"a": {}, "b": {"topk": 3}},
            {"a": {}, "b": {"num_beams": 0}}, {"a": {}, "b": {"prompt": "x"}},
            {"a": {}, "b": {"max_new_tokens": 900}}, {"a": {}, "b": {"logits_processor": 5}},
            {"a": {}, "b": {"num_beams": 2, "penalty_alpha": 0.6}}, {"a": {}, "\ud800": {}},
            {"a": {}, "b": {"num_return_sequences": 2, "do_sample": True}},
        )
    ],
    "Inside": [("layer", bad) for bad in (3, -1, 1.0, True, None, "0", np.int64(3))]
    + [("head", bad) for bad in (4, -1, None)]
    + [("token", bad) for bad in (5, -6, True, 0.5)],
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("argument", "value"), ANY, ids=repr)
def test_a_text_is_refused_before_a_pass(name, argument, value, no_pass):
    with pytest.raises((ValueError, TypeError)) as caught:
        made(name, **{argument: value})
    word = "text" if name == "Inside" and argument == "prompt" else argument
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "argument", "value"), [(n, a, v) for n, bad in OWN.items() for a, v in bad], ids=repr
)
def test_an_argument_is_refused_by_name_before_a_pass(name, argument, value, no_pass):
    with pytest.raises((ValueError, TypeError)) as caught:
        made(name, **{argument: value})
    named = argument
    if argument == "strategies" and isinstance(value, dict) and isinstance(value.get("b"), dict):
        named = next(iter(value["b"]))
    assert str(named) in str(caught.value)


def test_numbers_of_numpy_and_torch_are_numbers():
    settings = {"temperature": np.float64(0.7), "top_k": np.int64(9)}
    bench = made("SamplerBench", seed=torch.tensor(3), **settings)
    assert "temperature=0.7, top_k=9" in repr(bench) and "manual_seed(3)" in bench.call
    assert made("ProcessorChain", token=np.int64(70)).token_id == 70
    assert list(made("Inside", layer=np.int64(1), token=torch.tensor(2)).chosen.values()) == [
        1,
        0,
        2,
    ]
    draws = {"do_sample": np.bool_(True), "seed": np.int64(2)}
    stepper = made("Stepper", max_new_tokens=np.int64(3), **draws)
    assert "seed 2" in repr(stepper)
    beams = made("BeamExplorer", num_beams=np.int64(2), length_penalty=np.float64(0.5))
    assert "num_beams=2, max_new_tokens=3, length_penalty=0.5" in repr(beams)
    strategies = {"a": {}, "b": {"do_sample": np.bool_(True), "top_p": np.float64(0.9), "seed": 0}}
    found = made("Comparison", strategies=strategies, max_new_tokens=np.int64(3))
    assert found.settings_boxes[1].value == "do_sample=True, top_p=0.9, seed=0"


@pytest.mark.parametrize("name", LIVE)
def test_a_token_beyond_the_embedding_is_named_also_where_it_is_typed(name, no_pass, monkeypatch):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(["<extra>"])
    with pytest.raises(ValueError, match=r"<extra>.*259"):
        made(name, "hello <extra>", tokenizer=tokenizer)
    monkeypatch.undo()
    explorer = made(name, tokenizer=tokenizer)
    before = explorer.view.value
    typed(explorer, "hello <extra>")
    assert "&lt;extra&gt;" in explorer.message.value and "259" in explorer.message.value
    assert explorer.view.value == before
    typed(explorer, "good")
    assert explorer.message.value == "" and text_of(explorer) == "good"


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_no_number_is_told(name):
    class Broken(type(tiny.model("llama"))):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * float("nan")
            return output

    model = copy.copy(tiny.model("llama"))
    model.__class__ = Broken
    with pytest.raises(ValueError, match="NaN.*float16 overflows"):
        made(name, model=model)


ERRORS = [
    RuntimeError("lost"), torch.OutOfMemoryError("lost"), OSError("lost"), MemoryError("lost"),
    KeyboardInterrupt("lost"), SystemExit("lost"), ValueError("lost"),
]  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_any_error_while_a_text_is_read_is_shown_and_undone(name, error, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: pytest.fail("it left the thread"))
    explorer = made(name)
    view, text = explorer.view.value, repr(explorer)
    hook = explorer.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error))

    def raises(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(explorer.model), "forward", raises)
        hook.remove()
        typed(explorer, "good day")
    assert "lost" in explorer.message.value and 'role="alert"' in explorer.message.value
    assert_harmless(explorer.message.value)
    assert explorer.view.value == view and repr(explorer) == text and not explorer.working
    assert explorer._busy.layout.display == "none" and not box_of(explorer).disabled
    assert box_of(explorer).value == "good day", "it should be there, to be mended"
    told = [
        f"still shows {box_of(explorer).description} &#x27;hello&#x27;",
        "those of the last run",
    ]
    assert any(words in explorer.message.value for words in told)
    typed(explorer, "good")
    assert explorer.message.value == "" and text_of(explorer) == "good"


def registered():
    return len(ipywidgets.widgets.widget._instances)


@pytest.mark.parametrize("name", LIVE)
def test_close_frees_what_it_made(name):
    gc.collect()
    before = registered()
    explorers = [made(name) for _ in range(3)]
    assert registered() > before
    for explorer in explorers:
        explorer._repr_mimebundle_()
        typed(explorer, "good")
    state = weakref.ref(explorers[0].state)
    for explorer in explorers:
        explorer.close()
        assert repr(explorer) == f"{name}, closed"
        with pytest.raises(ValueError, match=f"this {name} is closed"):
            explorer.figure()
    assert registered() == before
    wait_until(lambda: gc.collect() is not None and state() is None)  # what was read is gone
    gone = weakref.ref(explorers[0])
    del explorer, explorers
    wait_until(lambda: gc.collect() is not None and gone() is None)  # a timer may still be ending


@pytest.mark.parametrize("name", MAKERS)
def test_a_refusal_leaves_no_widgets(name):
    gc.collect()
    before = registered()
    with pytest.raises(ValueError):
        made(name, "")
    gc.collect()
    assert registered() <= before


def test_a_closed_explorer_lets_go_of_the_model():
    model = copy.copy(tiny.model("llama"))
    gone, explorers = weakref.ref(model), [made(name, model=model) for name in MAKERS]
    for explorer in explorers:
        explorer.close()
    del model
    wait_until(lambda: gc.collect() is not None and gone() is None)


@pytest.mark.parametrize("name", LIVE)
def test_special_tokens_can_be_left_out(name):
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tiny.BOS)]
    )
    found = {}
    for flag in (True, False):
        explorer = made(name, "hello", tokenizer=tokenizer, add_special_tokens=flag)
        typed(explorer, "hello you")
        if name == "Inside":
            ids = tokenizer.convert_tokens_to_ids(explorer.reading.labels[:1])
        elif name == "Comparison":
            ids = explorer.runs["greedy"].sequences[0].tolist()
        elif name == "BeamExplorer":
            ids = explorer.run.sequences[0].tolist()
        elif name == "Stepper":
            ids = explorer.trace.sequences[0].tolist()
        else:
            ids = explorer.position.input_ids[0].tolist()
            assert explorer.position.prompt_length == len(ids)
        found[flag] = ids[0]
        if hasattr(explorer, "call"):
            assert ("add_special_tokens=False" in explorer.call) != flag
    assert found[True] == tiny.BOS != found[False]


BROUGHT = [
    {},
    {"repetition_penalty": 1.5},
    {"suppress_tokens": list(range(100, 140))},
    {"begin_suppress_tokens": list(range(0, 250, 2))},
    {"num_return_sequences": 2, "num_beams": 4},
    {"num_return_sequences": 3, "do_sample": True, "temperature": 0.3, "top_p": 0.5, "top_k": 3},
    {"forced_eos_token_id": 70, "no_repeat_ngram_size": 1},
    {"length_penalty": -3.0, "early_stopping": True, "num_beams": 2},
    {"min_new_tokens": 3, "bad_words_ids": [[70], [71, 72]]},
    {"exponential_decay_length_penalty": (1, 1.9), "min_p": 0.4, "typical_p": 0.3},
    {"forced_bos_token_id": 80, "renormalize_logits": True, "sequence_bias": [[[80], 9.0]]},
]  # fmt: skip


@pytest.mark.parametrize("brought", BROUGHT, ids=repr)
def test_the_code_shown_gives_what_is_shown_whatever_a_model_brings(brought):
    model = bringing(**brought)
    beams = made("BeamExplorer", "hello hello", model=model, max_new_tokens=6, length_penalty=0.5)
    assert "✓" in repr(beams), beams.call
    assert result_of_code(beams).tolist() == beams.run.sequences.tolist()
    bench = made("SamplerBench", "hello hello", model=model, temperature=2.0, seed=5)
    bench.draw_button.click()
    output = result_of_code(bench)
    assert len(output) == 1 and output[0, len("hello hello")] == bench.draws[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.5, "presence_penalty": -1.0, "repetition_penalty": 1.3},
        {"frequency_penalty": 2.0, "temperature": 1.5, "top_k": 20},
        {"min_new_tokens": 4, "top_p": 0.9},
        {"suppress_tokens": [70, 71], "min_p": 0.01},
    ],
)
@pytest.mark.parametrize("continuation", ["", " hello, hello"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_benchs_code_draws_what_is_drawn(settings, continuation, seed):
    bench = made("SamplerBench", continuation=continuation, seed=seed, **settings)
    bench.draw_button.click()
    output = result_of_code(bench)
    ids = output if isinstance(output, torch.Tensor) else output.sequences
    assert ids[0, len("hello" + continuation)] == bench.draws[0]


def test_the_code_shown_does_not_lead_out_of_the_context():
    bench = made("SamplerBench", "x" * 120)
    bench.draw_button.click()
    assert result_of_code(bench)[0, 120] == bench.draws[0]


@pytest.mark.parametrize("name", LIVE)
def test_a_hostile_prompt_stays_text_live_and_saved(name):
    prompt = "a $5 b \\(x\\) \x1b[31m \u202e c $10 <b>"
    explorer = made(name, prompt)
    for html in explorer._repr_mimebundle_()["text/html"], explorer.view.value:
        assert_harmless(html)
    text = repr(explorer)
    assert all(c.isprintable() or c == "\n" for c in text)
    explorer.say(prompt, alert=True)
    assert_harmless(explorer.message.value)


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("name", MAKERS)
def test_figures_draw_any_character(name):
    explorer = made(name, "hello")
    for labels in filter(None, [getattr(explorer.state, "labels", None)]):
        labels.update(dict.fromkeys(labels, "猫🐈$x^$\u202e"))
    if name == "Comparison":
        for run in explorer.runs.values():
            run.labels.update(dict.fromkeys(run.labels, "猫🐈$x^$\u202e"))
    if name == "Inside":
        explorer.reading.labels[:] = ["猫🐈$x^$"] * len(explorer.reading.labels)
    explorer.figure().figure.canvas.draw()
    plt.close("all")


@pytest.mark.parametrize("name", ["Stepper"])
def test_a_refused_text_goes_when_something_else_is_changed(name):
    explorer = made(name)
    typed(explorer, "")
    assert "no tokens" in explorer.message.value and box_of(explorer).value == ""
    assert "still shows" in explorer.message.value
    explorer.reacts(lambda: None)()  # as any other control does
    assert box_of(explorer).value == "hello" and explorer.message.value == ""
    typed(explorer, "")
    typed(explorer, "hello")  # the same text as before
    assert explorer.message.value == ""
