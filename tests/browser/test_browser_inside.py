"""Attention and the lens in a real browser."""

import pytest

from tests.browser.lab import HOSTILE_SETUP, SETUP

INSIDE = "lv.Inside(model, tokenizer, 'The capital of France is', layer=10, head=3)"


@pytest.fixture(scope="module")
def notebook(lab):
    with lab.notebook(lab.write(SETUP, INSIDE)) as notebook:
        notebook.run_all()
        yield notebook


def test_a_drag_picks_another_layer(notebook):
    explorer = notebook.explorer()
    explorer.wait_for("layer 10, head 3")
    explorer.drag("layer", 70)
    explorer.picture.get_by_text("layer 10, head 3").wait_for(state="detached")
    layer = int(explorer.value("layer"))
    explorer.wait_for(f"layer {layer}, head 3")
    explorer.wait_for(f"▸ {layer + 1}")
    explorer.screenshot("inside")


def test_the_keyboard_picks_a_token(notebook):
    explorer = notebook.explorer()
    explorer.handle("token").focus()
    notebook.page.keyboard.press("ArrowLeft")
    explorer.wait_for("where token 3")
    notebook.page.keyboard.press("ArrowRight")
    explorer.wait_for("where token 4")
    explorer.handle("layer").focus()
    notebook.page.keyboard.press("End")
    explorer.wait_for("layer 29, head 3")
    explorer.wait_for("␣Paris")


def test_another_text_an_error_and_on(notebook):
    explorer = notebook.explorer()
    explorer.type("text", "")
    explorer.message.get_by_text("no tokens").wait_for()
    explorer.type("text", "A dog saw a dog")
    explorer.wait_for("where token 4, ␣dog")
    explorer.message.get_by_text("Not possible").wait_for(state="detached")
    explorer.type("text", "The capital of France is")
    explorer.wait_for("where token 4, ␣is")


def test_dark(notebook):
    notebook.theme("JupyterLab Dark")
    notebook.explorer().screenshot("inside-dark")
    notebook.theme("JupyterLab Light")


def test_hostile_tokens_stay_text(lab):
    cell = "lv.Inside(model, tokenizer, prompt)"
    with lab.notebook(lab.write(HOSTILE_SETUP, cell)) as notebook:
        notebook.run_all()
        explorer = notebook.explorer()
        explorer.drag("layer", 70)
        explorer.drag("token", -70)
        notebook.page.wait_for_timeout(500)
        assert not notebook.hacked()


def test_untrusted_and_without_a_kernel_it_is_still_there(lab):
    with lab.notebook(lab.executed(SETUP, INSIDE), kernel=False) as notebook:
        picture = notebook.page.locator(".jp-OutputArea-output img").first
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 800
        text = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "layer 10, head 3" in text
        notebook.screenshot("inside-saved")
