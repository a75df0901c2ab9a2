"""What must hold for every explorer that the browser draws: refusals, errors, the end, the page."""

import copy
import gc
import json
import re
import threading
import weakref

import ipywidgets
import matplotlib.pyplot as plt
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import llmviz as lv
from tests import hostile, tiny
from tests.test_widgets_base import wait_until
from tests.views import assert_harmless

MAKERS = {
    "SamplerBench": {},
    "ProcessorChain": {},
    "BeamExplorer": {"max_new_tokens": 3},
    "Inside": {},
}


def made(name, prompt="hello", model=None, tokenizer=None, **arguments):
    model, tokenizer = model or tiny.model("llama"), tokenizer or tiny.tokenizer()
    return getattr(lv, name)(model, tokenizer, prompt, **(MAKERS[name] | arguments))


def text_of(explorer):
    return explorer.state["text" if "text" in explorer.state else "prompt"]


def typed(explorer, text):
    """What the browser sends when a reader types a text, and the wait for its end."""
    content = {"type": "read", "text": text, "prompt": text, "continuation": ""}
    sizes = {n: explorer.state[n] for n in ("num_beams", "max_new_tokens") if n in explorer.state}
    explorer._on_message(explorer, content | sizes, [])
    explorer.wait(60)


@pytest.mark.parametrize("name", MAKERS)
def test_a_token_beyond_the_embedding_is_named_where_it_is_typed(name):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(["<extra>"])
    explorer = made(name, tokenizer=tokenizer)
    before = explorer.picture(), explorer.state
    typed(explorer, "hello <extra>")
    assert "<extra>" in explorer.message and "259" in explorer.message
    assert (explorer.picture(), explorer.state) == before
    typed(explorer, "good")
    assert explorer.message == "" and text_of(explorer) == "good"


ERRORS = [
    RuntimeError("lost"), torch.OutOfMemoryError("lost"), OSError("lost"), MemoryError("lost"),
    KeyboardInterrupt("lost"), SystemExit("lost"), ValueError("lost"),
]  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_any_error_while_a_text_is_read_is_shown_and_undone(name, error, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: pytest.fail("it left the thread"))
    explorer = made(name)
    before = explorer.picture(), repr(explorer), explorer.state, explorer.chosen

    def raises(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(type(explorer.model), "forward", raises)
        typed(explorer, "good day")
    assert "lost" in explorer.message and not explorer.working
    assert (explorer.picture(), repr(explorer), explorer.state, explorer.chosen) == before
    typed(explorer, "good")
    assert explorer.message == "" and text_of(explorer) == "good"


@pytest.mark.parametrize("name", MAKERS)
def test_stopped_work_changes_nothing(name, monkeypatch):
    explorer = made(name)
    before, going, goes_on = explorer.state, threading.Event(), threading.Event()
    forward = type(explorer.model).forward

    def slow(*args, **kwargs):
        going.set()
        assert goes_on.wait(60)
        return forward(*args, **kwargs)

    monkeypatch.setattr(type(explorer.model), "forward", slow)
    content = {"type": "read", "text": "good", "prompt": "good", "continuation": ""}
    sizes = {"num_beams": 2, "max_new_tokens": 3}
    explorer._on_message(explorer, content | sizes, [])
    worker = explorer._worker
    assert going.wait(60)
    explorer._on_message(explorer, {"type": "stop"}, [])
    goes_on.set()
    worker.join(60)
    assert explorer.state == before and not explorer.working and "Stopped" in explorer.message


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "content", [{}, {"type": "nothing"}, {"type": "read"}, {"type": 5}, {"type": "read", "text": 3}]
)
def test_no_message_of_the_browsers_does_harm(name, content):
    explorer = made(name)
    before = explorer.state, explorer.chosen
    explorer._on_message(explorer, content, [])
    explorer.wait(60)
    assert (explorer.state, explorer.chosen) == before


def registered():
    return len(ipywidgets.widgets.widget._instances)


@pytest.mark.parametrize("name", MAKERS)
def test_close_frees_what_it_made(name):
    gc.collect()
    before = registered()
    model = copy.copy(tiny.model("llama"))
    explorers = [made(name, model=model) for _ in range(3)]
    assert registered() > before
    for explorer in explorers:
        explorer._repr_mimebundle_()
        typed(explorer, "good")
    for explorer in explorers:
        explorer.close()
        assert repr(explorer) == f"{name}, closed"
        with pytest.raises(ValueError, match=f"this {name} is closed"):
            explorer.figure()
    assert registered() == before
    gone = [weakref.ref(model), *map(weakref.ref, explorers)]
    del explorer, explorers, model
    # A timer may still be ending.
    wait_until(lambda: gc.collect() is not None and not any(one() is not None for one in gone))


@pytest.mark.parametrize("name", MAKERS)
def test_special_tokens_can_be_left_out(name):
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
        elif name == "BeamExplorer":
            ids = explorer.run.sequences[0].tolist()
        else:
            ids = explorer.position.input_ids[0].tolist()
        found[flag] = ids[0]
        if hasattr(explorer, "call"):
            assert ("add_special_tokens=False" in explorer.call) != flag
    assert found[True] == tiny.BOS != found[False]


@pytest.mark.parametrize("name", MAKERS)
def test_a_hostile_prompt_stays_text_live_saved_and_on_a_page(name, tmp_path):
    prompt = "a $5 b \\(x\\) \x1b[31m \u202e c $10 <b> </script><script>alert(1)</script>"
    for explorer in (made(name, prompt), made(name, hostile.PROMPT, hostile.model(),
                                              hostile.tokenizer())):  # fmt: skip
        assert_harmless(explorer._repr_mimebundle_()[0]["text/html"])
        assert all(c.isprintable() or c == "\n" for c in repr(explorer))
        page = explorer.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
        data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1]
        assert "<" not in data and json.loads(data)["state"] == json.loads(
            json.dumps(explorer.state)
        )
        assert len(re.findall("<script", page)) == 2


@pytest.mark.parametrize("name", MAKERS)
def test_the_page_needs_no_other_file(name, tmp_path):
    page = made(name).to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/)|\bimport\b.*from|url\(", page)


@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.parametrize("name", ["BeamExplorer", "Inside"])
def test_figures_draw_any_character(name):
    explorer = made(name)
    if name == "Inside":
        explorer.reading.labels[:] = ["猫🐈$x^$"] * len(explorer.reading.labels)
    else:
        labels = explorer._searched.labels
        labels.update(dict.fromkeys(labels, "猫🐈$x^$\u202e"))
    explorer.figure().figure.canvas.draw()
    plt.close("all")
