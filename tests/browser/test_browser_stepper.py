"""The stepper in a real browser: mouse, keyboard, play, errors, dark theme, hostile tokens."""

import pytest

import llmviz as lv
from tests import tiny

STEPPER = "lv.Stepper(model, tokenizer, {}, max_new_tokens={})"
DOG = "'I enjoy walking with my cute dog'"


@pytest.fixture(scope="module")
def notebook(real):
    real.show(STEPPER.format(DOG, 12))
    return real


@pytest.fixture
def stepper(notebook):
    """At the start of a new tree."""
    explorer = notebook.explorer()
    explorer.type("prompt", "Once upon a time")
    explorer.wait_for("␣there")
    explorer.type("prompt", "I enjoy walking with my cute dog")
    explorer.wait_for("after 0 new tokens")
    explorer.wait_for("␣Bella")
    return explorer


def test_forward_back_and_another_token_instead(stepper):
    stepper.button("Forward").click()
    stepper.wait_for("after 1 new token")
    stepper.button("Forward").click()
    stepper.wait_for("after 2 new tokens")
    stepper.button("Back").click()
    stepper.wait_for("after 1 new token")
    stepper.button("␣Luna").click()
    stepper.wait_for("after 2 new tokens")
    stepper.button("Forward").click()
    stepper.wait_for("after 3 new tokens")
    assert "└─ ␣Luna" in stepper.picture.inner_text()
    stepper.screenshot("stepper")
    branches = stepper.control("branch").locator("select")
    branches.select_option(index=0)
    stepper.wait_for("after 2 new tokens")
    assert "▸␣Max" in stepper.picture.inner_text()


def test_play_and_pause(stepper):
    play = stepper.root.locator(".widget-play button")
    play.first.click()
    stepper.wait_for("after 3 new tokens")
    play.first.click()
    stepper.page.wait_for_timeout(1500)
    where = stepper.picture.get_by_text("new tokens").inner_text()
    stepper.page.wait_for_timeout(1500)
    assert stepper.picture.get_by_text("new tokens").inner_text() == where
    stepper.screenshot("stepper-play")
    play.nth(1).click()
    stepper.wait_for("after 0 new tokens")
    play.first.click()
    stepper.wait_for("The text ends here, at max_new_tokens=12", timeout=60)
    stepper.page.wait_for_timeout(1500)
    assert "after 12 new tokens" in stepper.picture.inner_text()


def test_an_error_stands_in_the_explorer_and_the_next_input_works(stepper, notebook):
    stepper.type("prompt", "")
    stepper.message.get_by_text("no tokens").wait_for()
    assert "cute dog" in stepper.picture.inner_text()
    stepper.button("Forward").click()
    stepper.wait_for("after 1 new token")
    stepper.message.get_by_text("Not possible").wait_for(state="detached")
    outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] in ("error", "stream")]


def test_it_works_with_the_keyboard_alone(small):
    stepper, key = small.show(STEPPER.format("'hello'", 6)), small.page.keyboard
    stepper.control("prompt").locator("input").focus()
    key.press("Control+A")
    key.type("how are you")
    key.press("Enter")
    stepper.wait_for("how are you")
    key.press("Tab")  # Back is disabled at the start
    for n in (1, 2):
        key.press("Enter")
        stepper.wait_for(f"after {n} new token")
    key.press("Shift+Tab")
    key.press("Space")
    stepper.wait_for("after 1 new token")
    reached = []
    for _ in range(16):
        key.press("Tab")
        reached.append(small.page.evaluate("() => document.activeElement.innerText"))
    assert len([text for text in reached if text]) > 11
    stepper.root.locator("button:visible").last.focus()
    key.press("Enter")  # the least likely of the candidates
    stepper.wait_for("├─")
    stepper.button("Next branch").focus()
    key.press("Enter")
    stepper.wait_for("after 2 new tokens")
    stepper.root.locator(".widget-play button").first.focus()
    key.press("Enter")
    stepper.wait_for("The text ends here")
    assert len(small.cells()) == 2  # no shortcut of JupyterLab's struck


def test_the_dark_theme_is_readable(stepper, notebook):
    stepper.button("Forward").click()
    stepper.wait_for("after 1 new token")
    notebook.theme("JupyterLab Dark")
    try:
        stepper.screenshot("stepper-dark")
        row = stepper.picture.locator("tr").first
        assert row.evaluate("r => getComputedStyle(r).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        notebook.theme("JupyterLab Light")


def test_hostile_tokens_run_nothing(hostile):
    stepper = hostile.show(STEPPER.format("prompt", 9))
    for n in (1, 2, 3):
        stepper.button("Forward").click()
        stepper.wait_for(f"after {n} new token")
    stepper.button("Back").click()
    stepper.wait_for("after 2 new tokens")
    stepper.root.locator("button:visible").last.click()
    stepper.wait_for("├─")
    stepper.root.locator("button:visible").last.hover()
    hostile.page.wait_for_timeout(500)
    stepper.screenshot("stepper-hostile")
    assert "onerror=window.__hacked" in stepper.picture.inner_text()
    assert not hostile.hacked()
    assert stepper.root.locator("img, script, svg").count() == 0


def test_a_saved_notebook_keeps_picture_and_colours(lab):
    """Untrusted, without a kernel."""
    stepper = lv.Stepper(tiny.model("llama"), tiny.tokenizer(), "hello", max_new_tokens=12)
    stepper.forward()
    with lab.notebook(lab.saved(stepper), kernel=False) as notebook:
        bars = notebook.page.locator(".jp-OutputArea-output td div div")
        bars.first.wait_for()
        colours = {bar.evaluate("b => getComputedStyle(b).backgroundColor") for bar in bars.all()}
        assert {"rgb(0, 114, 178)", "rgb(230, 159, 0)"} <= colours
        shown = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "after 1 new token" in shown and "all branches" in shown
        notebook.screenshot("stepper-untrusted")
