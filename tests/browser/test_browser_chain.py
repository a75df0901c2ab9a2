"""The processors in a row in a real browser: in JupyterLab, as a saved picture, and as a page."""

import re

import pytest
from playwright.sync_api import expect

import llmviz as lv
from tests import hostile as hostile_tokens
from tests import tiny
from tests.browser.lab import SCREENSHOTS
from tests.browser.test_browser_sampler import (
    assert_every_input_has_a_name_of_its_own,
    dragged,
    python,
    slider,
)

SETTINGS = "repetition_penalty=1.2, temperature=0.7, top_k=50, top_p=0.9, typical_p=0.9"
CHAIN = (
    "chain = lv.ProcessorChain(model, tokenizer, 'I enjoy walking with my cute dog', "
    f"{SETTINGS})\nchain"
)


@pytest.fixture(scope="module")
def notebook(real):
    real.show(CHAIN)
    return real


@pytest.fixture
def chain(notebook):
    return notebook.explorer().root


def typed(root, name, text):
    root.get_by_label(name).fill(text)
    root.get_by_label(name).press("Enter")


def test_mouse_and_typing(chain, notebook):
    expect(chain).to_contain_text("“␣and” falls out at typical_p=0.9")
    notebook.screenshot("chain", ".llmviz")
    dragged(notebook.page, slider(chain, "top_p"), 0.5)
    expect(chain).to_contain_text("“␣and” falls out at top_p")
    notebook.page.mouse.up()
    dragged(notebook.page, slider(chain, "token"), 0)
    notebook.page.mouse.up()
    expect(chain).to_contain_text("“,” stays")
    assert "“,” stays" in python(notebook, "print(chain.verdict)")
    typed(chain, "or type one", "␣umbrella")
    expect(chain).to_contain_text("“␣umbrella” falls out at top_k=50")
    assert "“␣umbrella” falls out at top_k=50" in python(notebook, "print(chain)")
    for line in python(notebook, "print(chain)").splitlines()[2:]:
        expect(chain).to_contain_text(line.rpartition("; ")[2])


def test_errors_and_recovery(chain):
    typed(chain, "or type one", "two words")
    expect(chain.get_by_role("alert")).to_contain_text("is 2 tokens (two ␣words)")
    typed(chain, "or type one", "␣cat")
    expect(chain).to_contain_text("“␣cat”")
    expect(chain.get_by_role("alert")).to_have_count(0)
    typed(chain, "prompt", "")
    expect(chain.get_by_role("alert")).to_contain_text("no tokens")
    typed(chain, "prompt", "My cute")
    expect(chain).to_contain_text("My cute …")
    expect(chain.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_alone(chain, notebook):
    key, cells = notebook.page.keyboard, len(notebook.cells())
    slider(chain, "token").focus()
    for press in ("Home", "ArrowRight", "ArrowUp"):
        key.press(press)
    assert slider(chain, "token").input_value() == "3"
    said = slider(chain, "token").get_attribute("aria-valuetext")
    assert re.match(r"3\. \S+ [\d.]+%", said)
    key.press("Tab")
    key.press("Tab")
    key.type("␣house")
    key.press("Enter")
    expect(chain).to_contain_text("“␣house”")
    assert len(notebook.cells()) == cells
    assert_every_input_has_a_name_of_its_own(chain)


def test_hostile_tokens_run_nothing(hostile):
    hostile.show("lv.ProcessorChain(model, tokenizer, prompt, temperature=2.0, top_k=9)")
    root, key = hostile.explorer().root, hostile.page.keyboard
    slider(root, "token").focus()
    for press in ("Home", *["ArrowRight"] * 12):
        key.press(press)
    typed(root, "or type one", "<img/src=x/onerror=window.__hacked=1>")
    expect(root).to_contain_text("__hacked")
    hostile.page.wait_for_timeout(300)
    assert not hostile.hacked()
    assert root.locator("img, script, svg, mjx-container").count() == 0


def test_a_saved_notebook_keeps_its_picture(lab):
    chain = lv.ProcessorChain(tiny.model("llama"), tiny.tokenizer(), "hello", top_k=3)
    with lab.notebook(lab.saved(chain), kernel=False) as notebook:
        shown = notebook.page.locator(".jp-OutputArea-output").last
        shown.get_by_text("falls out at top_k=3").first.wait_for()
        bar = shown.locator("td div div").first
        assert bar.evaluate("b => getComputedStyle(b).backgroundColor") == "rgb(0, 114, 178)"


ALL = {
    "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    "no_repeat_ngram_size": 2, "bad_words_ids": [[70]], "min_new_tokens": 20,
    "sequence_bias": [[[71], 2.0], [[72], -float("inf")]], "top_h": 0.9,
    "exponential_decay_length_penalty": (1, 1.2), "suppress_tokens": [71], "temperature": 1.7,
    "top_k": 60, "top_p": 0.97, "min_p": 0.005, "typical_p": 0.97, "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.002, "guidance_scale": 1.1,
}  # fmt: skip


def test_a_page_says_of_every_token_what_python_says(opened):
    """Scores, probabilities, ranks and the words, after every processor."""
    chain = lv.ProcessorChain(
        tiny.model("llama"), tiny.tokenizer(), "hello hello", continuation=" hey hey", **ALL
    )
    page = opened(chain)
    root = page.locator(".llmviz")
    for token in ("h", "e", "F", "G", "H", "y", "z", "␣", "<eos>"):
        typed(root, "or type one", token)
        chain.chosen = {**chain.chosen, "token": chain.labels.index(token)}
        rows = root.get_by_role("row").all_inner_texts()[1:]
        assert len(rows) == len(chain.stages) == len(ALL) + 1
        for stage, row in zip(chain.stages, rows, strict=True):
            cells = row.split("\n")
            assert cells[0] == stage.name
            assert cells[-1].removeprefix("✗ out: ") == stage.words, token
            assert f"{stage.left:,}" in cells and (stage.rank is None) == ("−∞" in cells)
        assert chain.verdict in root.inner_text()


def test_hostile_tokens_run_nothing_on_a_page(opened):
    chain = lv.ProcessorChain(
        hostile_tokens.model(), hostile_tokens.tokenizer(), hostile_tokens.PROMPT, top_k=9
    )
    page = opened(chain)
    root = page.locator(".llmviz")
    slider(root, "token").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    typed(root, "or type one", "no such <b>token")
    expect(root.get_by_role("alert")).to_contain_text("no␣such␣<b>token is not one token")
    assert page.evaluate("() => window.__hacked === undefined")
    assert page.locator("img, svg, a, b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it(opened, scheme):
    chain = lv.ProcessorChain(tiny.model("llama"), tiny.tokenizer(), "hello", top_k=3, top_p=0.5)
    page = opened(chain, scheme, 390)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"chain-phone-{scheme}.png", full_page=True)
    page.set_viewport_size({"width": 960, "height": 700})
    page.screenshot(path=SCREENSHOTS / f"chain-page-{scheme}.png", full_page=True)
