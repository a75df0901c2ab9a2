"""The beam explorer in a real browser: mouse, keyboard, errors, dark theme, hostile tokens."""

import pytest

from tests.browser.lab import HOSTILE_SETUP, SETUP, TINY_SETUP

BEAMS = "lv.BeamExplorer(model, tokenizer, {}, max_new_tokens={})"
DOG = "'I enjoy walking with my cute dog'"


@pytest.fixture(scope="module")
def notebook(lab):
    with lab.notebook(lab.write(SETUP, BEAMS.format(DOG, 10))) as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def beams(notebook):
    explorer = notebook.explorer()
    explorer.wait_for("score = sum")
    return explorer


def test_it_says_that_generate_gives_the_same(beams):
    beams.wait_for("✓ generate gives the same tokens and the same score")
    tree = beams.picture.locator("img")
    assert tree.evaluate("i => i.complete && i.naturalWidth > 500")
    assert "best hypothesis is" in tree.get_attribute("alt")
    beams.screenshot("beams")


def test_a_drag_lets_the_tree_shrink_and_grow(beams):
    beams.drag("step", -120)
    beams.wait_for(f"step {beams.value('step')} of")
    beams.wait_for("the search goes on")
    width = beams.picture.locator("img").bounding_box()["width"]
    beams.screenshot("beams-step")
    beams.drag("step", 300)
    beams.wait_for("step 10: over, at max_new_tokens")
    assert beams.picture.locator("img").bounding_box()["width"] > width


def test_a_drag_of_the_penalty_scores_again_and_compare_compares(beams):
    beams.drag("length_penalty", -30)
    beams.wait_for("not yet compared")
    penalty = float(beams.value("length_penalty").replace("−", "-"))
    assert penalty < 1
    beams.wait_for(f"length_penalty={penalty:g}")
    beams.button("Compare with generate").click()
    beams.wait_for("✓ generate")
    beams.screenshot("beams-penalty")


def test_an_error_stands_in_the_explorer_and_the_next_input_works(beams, notebook):
    beams.type("prompt", "")
    beams.message.get_by_text("no tokens").wait_for()
    assert "cute dog" in beams.picture.inner_text()
    beams.type("prompt", "The capital of France is")
    beams.wait_for("␣Paris")
    beams.message.get_by_text("Not possible").wait_for(state="detached")
    beams.type("num_beams", "2")
    beams.wait_for("num_beams=2")
    beams.type("num_beams", "3")
    beams.wait_for("num_beams=3")
    beams.type("prompt", "I enjoy walking with my cute dog")
    beams.wait_for("my cute dog …")
    outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] in ("error", "stream")]


def test_a_long_search_can_be_stopped(beams):
    before = beams.picture.inner_text()
    beams.type("max_new_tokens", "60")
    beams.root.get_by_text("Stop", exact=True).click()
    beams.message.get_by_text("Stopped").wait_for()
    assert beams.picture.inner_text() == before
    beams.type("max_new_tokens", "10")


def test_it_works_with_the_keyboard_alone(lab):
    with lab.notebook(lab.write(TINY_SETUP, BEAMS.format("'hello'", 6))) as notebook:
        notebook.run_all()
        beams, key = notebook.explorer(), notebook.page.keyboard
        beams.control("prompt").locator("input").focus()
        key.press("Control+A")
        key.type("how are you")
        key.press("Enter")
        beams.wait_for("how are you …")
        key.press("Tab")
        key.press("ArrowUp")
        key.press("Enter")
        beams.wait_for("num_beams=4")
        beams.handle("step").focus()
        key.press("Home")
        beams.wait_for("step 1 of")
        key.press("ArrowRight")
        beams.wait_for("step 2 of")
        beams.handle("length_penalty").focus()
        key.press("ArrowRight")
        beams.wait_for("length_penalty=1.1")
        beams.handle("early_stopping").focus()
        key.press("ArrowRight")
        beams.wait_for("early_stopping=True")
        beams.button("Compare with generate").focus()
        key.press("Enter")
        beams.wait_for("✓ generate")
        assert len(notebook.cells()) == 2  # no shortcut of JupyterLab's struck


def test_one_step_is_enough(lab):
    with lab.notebook(lab.write(TINY_SETUP, BEAMS.format("'hello'", 1))) as notebook:
        notebook.run_all()
        notebook.explorer().wait_for("step 1: over")
        assert notebook.explorer().control("step").is_visible()


def test_the_dark_theme_is_readable(beams, notebook):
    notebook.theme("JupyterLab Dark")
    try:
        beams.screenshot("beams-dark")
        row = beams.picture.locator("tr").first
        assert row.evaluate("r => getComputedStyle(r).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        notebook.theme("JupyterLab Light")


def test_hostile_tokens_run_nothing(lab):
    with lab.notebook(lab.write(HOSTILE_SETUP, BEAMS.format("prompt", 4))) as notebook:
        notebook.run_all()
        beams = notebook.explorer()
        beams.type("prompt", "hello <img/src=x/onerror=window.__hacked=1> hello")
        beams.wait_for("hello <img/src=x/onerror=window.__hacked=1> hello …")
        beams.handle("step").focus()
        notebook.page.keyboard.press("Home")
        beams.wait_for("step 1")
        notebook.page.wait_for_timeout(500)
        beams.screenshot("beams-hostile")
        assert not notebook.hacked()
        assert beams.root.locator("script, svg").count() == 0
        assert beams.root.locator("img").count() == 1  # the tree, which shows
        assert beams.root.locator("img").evaluate("i => i.naturalWidth > 0")


def test_a_saved_notebook_keeps_picture_and_colours(lab):
    """Untrusted, without a kernel."""
    name = lab.executed(SETUP, BEAMS.format(DOG, 10))
    with lab.notebook(name, kernel=False) as notebook:
        tree = notebook.page.locator(".jp-OutputArea-output img").last
        tree.wait_for()
        assert tree.evaluate("i => i.naturalWidth > 500")
        shown = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "✓ generate" in shown and "score = sum" in shown
        notebook.screenshot("beams-untrusted")
