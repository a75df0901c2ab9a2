"""The sampler bench in a real browser: mouse, keyboard, errors, dark theme."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.lab import HOSTILE_SETUP, SETUP, TINY_SETUP

BENCH = "lv.SamplerBench(model, tokenizer, 'I enjoy walking with my cute dog', {})"


@pytest.fixture(scope="module")
def notebook(lab):
    with lab.notebook(lab.write(SETUP, BENCH.format("temperature=0.7, top_p=0.9"))) as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def bench(notebook):
    explorer = notebook.explorer()
    explorer.button("All off").click()
    explorer.wait_for("49,152 of 49,152 tokens")
    return explorer


def test_a_drag_changes_the_picture(bench, notebook):
    assert bench.value("top_p") == "1.00"
    bench.drag("top_p", -60)
    bench.picture.get_by_text("cut", exact=True).first.wait_for()
    assert float(bench.value("top_p")) < 0.8
    call = bench.control("the same call").locator("textarea")
    expect(call).to_have_value(re.compile(rf"top_p={float(bench.value('top_p')):g}\)"))
    bench.screenshot("sampler-drag")


def test_a_click_draws(bench):
    bench.button("Draw").click()
    bench.wait_for("drawn with seed 0: ▸")
    bench.button("Draw 1,000").click()
    bench.wait_for("1,000 draws with seed 0")
    bench.screenshot("sampler-draws")


def test_a_typed_value_and_a_typed_prompt_count(bench):
    readout = bench.control("top_k").locator(".widget-readout")
    readout.fill("7")
    readout.press("Enter")
    bench.wait_for("7 of 49,152 tokens")
    bench.type("prompt", "The capital of France is")
    bench.wait_for("␣Paris")
    bench.type("prompt", "I enjoy walking with my cute dog")
    bench.wait_for("␣Bella")


def test_an_error_stands_in_the_explorer_and_the_next_input_works(bench, notebook):
    bench.type("prompt", "")
    bench.message.get_by_text("no tokens").wait_for()
    bench.screenshot("sampler-error")
    bench.type("prompt", "word " * 9000)
    bench.message.get_by_text("context of 8192 tokens").wait_for(timeout=60_000)
    assert "cute dog" in bench.picture.inner_text()
    bench.type("prompt", "I enjoy walking with my cute dog")
    bench.wait_for_silence()
    assert not errors(notebook)


def errors(notebook):
    outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
    return [o for o in outputs if o["output_type"] in ("error", "stream")]


def test_it_works_with_the_keyboard_alone(lab):
    with lab.notebook(lab.write(TINY_SETUP, BENCH.format("seed=1"))) as notebook:
        notebook.run_all()
        bench, key = notebook.explorer(), notebook.page.keyboard
        bench.control("prompt").locator("input").focus()
        key.press("Control+A")
        key.type("hello")
        key.press("Enter")
        bench.wait_for("hello …")
        for _ in range(4):  # continuation, temperature and its number, top_k
            key.press("Tab")
        for _ in range(3):
            key.press("ArrowRight")
        bench.wait_for("3 of 259 tokens")
        assert bench.value("top_k") == "3"
        key.press("ArrowUp")
        bench.wait_for("4 of 259 tokens")
        reached = []
        for _ in range(18):
            key.press("Tab")
            reached.append(notebook.page.evaluate(_FOCUSED))
        for name in ("top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
                     "frequency_penalty", "All off", "seed", "Draw", "Draw 1,000",
                     "the same call"):  # fmt: skip
            assert name in reached, name
        bench.button("Draw").focus()
        key.press("Enter")
        bench.wait_for("drawn with seed 1: ▸")
        key.press("Space")
        bench.wait_for("▸")
        assert len(notebook.cells()) == 2  # no shortcut of JupyterLab's struck


_FOCUSED = """() => {
  const active = document.activeElement;
  return active.closest(".widget-inline-hbox")?.querySelector("label")?.innerText
    || active.innerText;
}"""


def test_every_control_has_a_label_and_says_what_it_does(bench):
    controls = bench.root.locator("input, textarea, select, button:visible, [role=slider]")
    for control in controls.all():
        named = control.evaluate(
            "c => c.tagName === 'BUTTON' ? [c.innerText, c.title]"
            " : [c.closest('.widget-inline-hbox').querySelector('label').innerText,"
            "    c.closest('.widget-inline-hbox').querySelector('label').title || c.placeholder]"
        )
        assert all(named), named


def test_the_dark_theme_is_readable(bench, notebook):
    bench.button("Draw").click()
    notebook.theme("JupyterLab Dark")
    try:
        notebook.screenshot("sampler-dark")
        card = bench.picture.locator(".widget-html-content > div").first
        colours = card.evaluate("c => [getComputedStyle(c).color, getComputedStyle(c).background]")
        assert colours[0] == "rgb(34, 34, 34)" and "rgb(255, 255, 255)" in colours[1]
        for row in card.locator("tr").all()[:4]:
            background = row.evaluate("r => getComputedStyle(r).backgroundColor")
            assert background == "rgb(255, 255, 255)"
    finally:
        notebook.theme("JupyterLab Light")


def test_hostile_tokens_run_nothing(lab):
    bench = "lv.SamplerBench(model, tokenizer, prompt, temperature=2.0, top_k=9)"
    with lab.notebook(lab.write(HOSTILE_SETUP, bench)) as notebook:
        notebook.run_all()
        explorer = notebook.explorer()
        explorer.button("Draw").click()
        explorer.button("Draw 1,000").click()
        explorer.wait_for("1,000 draws")
        explorer.type("prompt", "hello <img/src=x/onerror=window.__hacked=1> hello")
        explorer.type("continuation", " <img/src=x/onerror=window.__hacked=1>")
        explorer.wait_for_silence()
        notebook.page.wait_for_timeout(500)
        explorer.screenshot("sampler-hostile")
        assert "onerror=window.__hacked" in explorer.picture.inner_text()
        assert not notebook.hacked()
        assert explorer.root.locator("img, script, svg").count() == 0


def test_a_saved_notebook_keeps_picture_and_colours(lab):
    """Untrusted, without a kernel."""
    name = lab.executed(SETUP, BENCH.format("temperature=0.7, top_p=0.9"))
    with lab.notebook(name, kernel=False) as notebook:
        bars = notebook.page.locator(".jp-OutputArea-output td div div")
        bars.first.wait_for()
        colours = {bar.evaluate("b => getComputedStyle(b).backgroundColor") for bar in bars.all()}
        assert {"rgb(0, 114, 178)", "rgb(209, 213, 219)"} <= colours
        widths = {bar.bounding_box()["width"] for bar in bars.all()}
        assert max(widths) > 100
        shown = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "kept 4 of 49,152 tokens" in shown and "top_k=0, temperature=0.7" in shown
        notebook.screenshot("sampler-untrusted")
        notebook.theme("JupyterLab Dark")
        notebook.screenshot("sampler-untrusted-dark")
        notebook.theme("JupyterLab Light")
