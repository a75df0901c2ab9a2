"""The comparison in a real browser: typing, keyboard, stop, errors, dark theme, hostile tokens."""

import pytest

import llmviz as lv
from tests import tiny

COMPARISON = "lv.Comparison(model, tokenizer, {}, {}, max_new_tokens={})"
DOG = "'I enjoy walking with my cute dog'"
TWO = "{'greedy': {}, 'top-p': {'do_sample': True, 'top_p': 0.9, 'seed': 0}}"


@pytest.fixture(scope="module")
def notebook(real):
    real.show(COMPARISON.format(DOG, TWO, 12))
    return real


@pytest.fixture
def comparison(notebook):
    explorer = notebook.explorer()
    explorer.wait_for("distinct-1")
    return explorer


def test_what_is_typed_runs_with_a_click(comparison):
    comparison.type("name 3", "beams")
    comparison.message.get_by_text("Run takes it over").wait_for()
    assert comparison.picture.get_by_text("beams").count() == 0
    comparison.type("settings 3", "num_beams=3")
    comparison.button("Run").click()
    comparison.wait_for("beams")
    comparison.message.get_by_text("Run takes it over").wait_for(state="detached")
    comparison.screenshot("compare")
    comparison.type("name 3", "")
    comparison.button("Run").click()
    comparison.picture.get_by_text("beams").first.wait_for(state="detached")


def test_an_error_stands_in_the_explorer_and_the_next_input_works(comparison, notebook):
    before = comparison.picture.inner_text()
    comparison.control("settings 2").locator("input").fill("do_sample=True, top_p=7")
    comparison.button("Run").click()  # with no Enter before
    comparison.message.get_by_text("top-p: top_p=7").wait_for()
    comparison.screenshot("compare-error")
    comparison.type("prompt", "")
    comparison.type("settings 2", "do_sample=True, top_p=0.9, seed=0")
    comparison.button("Run").click()
    comparison.message.get_by_text("no tokens").wait_for()
    assert comparison.picture.inner_text() == before
    comparison.type("prompt", "I enjoy walking with my cute dog")
    comparison.button("Run").click()
    comparison.message.get_by_text("Not possible").wait_for(state="detached")
    outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] in ("error", "stream")]


def test_a_long_run_can_be_stopped(comparison):
    before = comparison.picture.inner_text()
    comparison.type("settings 1", "max_new_tokens=2000")
    comparison.button("Run").click()
    comparison.root.get_by_text("Stop", exact=True).wait_for()
    comparison.screenshot("compare-working")
    comparison.root.get_by_text("Stop", exact=True).click()
    comparison.message.get_by_text("Stopped").wait_for()
    assert comparison.picture.inner_text() == before
    comparison.type("settings 1", "num_beams=2")
    comparison.button("Run").click()
    comparison.message.get_by_text("Edited").wait_for(state="detached")
    comparison.type("settings 1", "")
    comparison.button("Run").click()
    comparison.message.get_by_text("Edited").wait_for(state="detached")


def test_it_works_with_the_keyboard_alone(small):
    comparison, key = small.show(COMPARISON.format("'hello'", TWO, 6)), small.page.keyboard
    comparison.control("prompt").locator("input").focus()
    key.press("Control+A")
    key.type("how are you")
    key.press("Tab")
    key.press("Control+A")
    key.type("two beams")
    key.press("Tab")
    key.type("num_beams=2")
    for _ in range(7):  # the other three rows, and Run
        key.press("Tab")
    key.press("Enter")
    comparison.wait_for("two beams")
    comparison.wait_for("how are you …")
    assert comparison.button("Run").evaluate("b => document.activeElement === b")
    assert len(small.cells()) == 2  # no shortcut of JupyterLab's struck


def test_the_dark_theme_is_readable(comparison, notebook):
    notebook.theme("JupyterLab Dark")
    try:
        comparison.screenshot("compare-dark")
        for row in comparison.picture.locator("tr").all():
            background = row.evaluate("r => getComputedStyle(r).backgroundColor")
            assert background == "rgb(255, 255, 255)"
    finally:
        notebook.theme("JupyterLab Light")


def test_hostile_tokens_and_names_run_nothing(hostile):
    name = "<img src=x onerror=window.__hacked=1>"
    two = f"{{{name!r}: {{}}, 'b': {{'do_sample': True, 'seed': 1}}}}"
    comparison = hostile.show(COMPARISON.format("prompt", two, 9))
    comparison.type("settings 2", name)
    comparison.button("Run").click()
    comparison.message.get_by_text("write arguments").wait_for()
    hostile.page.wait_for_timeout(500)
    comparison.screenshot("compare-hostile")
    assert "onerror=window.__hacked" in comparison.picture.inner_text()
    assert not hostile.hacked()
    assert comparison.root.locator("img, script, svg").count() == 0


def test_a_saved_notebook_keeps_picture_and_colours(lab):
    """Untrusted, without a kernel."""
    strategies = {"greedy": {}, "top-p": {"do_sample": True, "top_p": 0.9, "seed": 0}}
    comparison = lv.Comparison(
        tiny.model("llama"), tiny.tokenizer(), "hello", strategies, max_new_tokens=12
    )
    with lab.notebook(lab.saved(comparison), kernel=False) as notebook:
        marked = notebook.page.locator(".jp-OutputArea-output span[style*='fde3b0']").first
        marked.wait_for()
        colour = marked.evaluate("m => getComputedStyle(m).backgroundColor")
        assert colour == "rgb(253, 227, 176)"
        shown = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "distinct-1" in shown and "greedy" in shown
        notebook.screenshot("compare-untrusted")
