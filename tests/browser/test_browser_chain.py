"""The processors in a row in a real browser."""

import pytest
from playwright.sync_api import expect

from tests.browser.lab import HOSTILE_SETUP, SETUP

CHAIN = (
    "lv.ProcessorChain(model, tokenizer, 'I enjoy walking with my cute dog', "
    "repetition_penalty=1.2, temperature=0.7, top_k=50, top_p=0.9, typical_p=0.9)"
)


@pytest.fixture(scope="module")
def notebook(lab):
    with lab.notebook(lab.write(SETUP, CHAIN)) as notebook:
        notebook.run_all()
        yield notebook


def test_mouse_and_typing(notebook):
    chain = notebook.explorer()
    chain.wait_for("“␣and” falls out at typical_p=0.9")
    chain.screenshot("chain")
    chain.drag("top_p", -100)
    chain.wait_for("“␣and” falls out at top_p")
    chain.drag("token", -60)
    chain.wait_for("“,” stays")
    chain.type("or type one", "␣umbrella")
    chain.wait_for("“␣umbrella” falls out at top_k=50")
    expect(chain.control("token").locator(".widget-readout")).to_contain_text("typed: ␣umbrella")
    chain.screenshot("chain-typed")


def test_errors_and_recovery(notebook):
    chain = notebook.explorer()
    chain.type("or type one", "two words")
    chain.message.get_by_text("is 2 tokens (two ␣words)").wait_for()
    chain.type("or type one", "␣cat")
    chain.wait_for("“␣cat”")
    chain.wait_for_silence()
    chain.type("prompt", "")
    chain.message.get_by_text("no tokens").wait_for()
    chain.type("prompt", "My cute")
    chain.wait_for("My cute …")
    chain.wait_for_silence()


def test_the_keyboard_alone(notebook):
    chain, key = notebook.explorer(), notebook.page.keyboard
    chain.handle("token").focus()
    key.press("Home")
    for _ in range(2 + ("typed" in chain.value("token"))):
        key.press("ArrowRight")
    chain.page.wait_for_function(
        "readout => /^3\\./.test(readout.innerText)",
        arg=chain.control("token").locator(".widget-readout").element_handle(),
    )
    key.press("Tab")
    key.press("Tab")
    key.type("␣house")
    key.press("Enter")
    chain.wait_for("“␣house”")
    assert len(notebook.cells()) == 2


def test_the_dark_theme(notebook):
    notebook.theme("JupyterLab Dark")
    notebook.screenshot("chain-dark")
    notebook.theme("JupyterLab Light")


def test_hostile_tokens_run_nothing(lab):
    chain = "lv.ProcessorChain(model, tokenizer, prompt, temperature=2.0, top_k=9)"
    with lab.notebook(lab.write(HOSTILE_SETUP, chain)) as notebook:
        notebook.run_all()
        explorer, key = notebook.explorer(), notebook.page.keyboard
        explorer.handle("token").focus()
        for press in ("Home", *["ArrowRight"] * 12):
            key.press(press)
            notebook.page.wait_for_timeout(60)
        explorer.type("or type one", "<img/src=x/onerror=window.__hacked=1>")
        notebook.page.wait_for_timeout(500)
        explorer.screenshot("chain-hostile")
        assert "__hacked" in explorer.picture.inner_text()
        assert not notebook.hacked()
        assert explorer.root.locator("img, script, svg").count() == 0


def test_a_saved_notebook_keeps_its_picture(lab):
    with lab.notebook(lab.executed(SETUP, CHAIN), kernel=False) as notebook:
        shown = notebook.page.locator(".jp-OutputArea-output").last
        shown.get_by_text("falls out at typical_p=0.9").wait_for()
        bar = shown.locator("td div div").first
        assert bar.evaluate("b => getComputedStyle(b).backgroundColor") == "rgb(0, 114, 178)"
        notebook.screenshot("chain-untrusted")
