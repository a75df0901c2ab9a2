"""The sampler bench in a real browser: in JupyterLab, as a saved picture, and as a page."""

import re

import pytest
from playwright.sync_api import expect

import llmviz as lv
from tests import hostile as hostile_tokens
from tests import tiny
from tests.browser.lab import SCREENSHOTS

BENCH = "bench = lv.SamplerBench(model, tokenizer, 'I enjoy walking with my cute dog', {})\nbench"
KEYS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
        "presence_penalty", "frequency_penalty")  # fmt: skip


@pytest.fixture(scope="module")
def notebook(real):
    real.show(BENCH.format("temperature=0.7, top_p=0.9"))
    return real


@pytest.fixture
def bench(notebook):
    root = notebook.explorer().root
    root.get_by_role("button", name="All off").click()
    expect(root).to_contain_text("49,152 of 49,152 tokens")
    return root


def slider(root, name):
    return root.get_by_role("slider", name=name, exact=True)


def dragged(page, handle, share):
    """With the mouse, to a share of the slider's width; the button stays down."""
    box = handle.bounding_box()
    middle = box["y"] + box["height"] / 2
    now = handle.evaluate("s => (s.value - s.min) / (s.max - s.min)")
    page.mouse.move(box["x"] + 8 + now * (box["width"] - 16), middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + share * (box["width"] - 16), middle, steps=8)


def python(notebook, code):
    """What a cell of the same kernel prints."""
    return notebook.page.evaluate(_ASK, code)


_ASK = """async code => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  let printed = "";
  const future = kernel.requestExecute({ code, store_history: false });
  future.onIOPub = ({ content }) => {
    printed += content.text ?? content.traceback?.join("") ?? "";
  };
  await future.done;
  return printed.trim();
}"""


def test_a_drag_draws_at_once_and_python_follows_when_it_is_let_go(bench, notebook):
    dragged(notebook.page, slider(bench, "top_p"), 0.5)
    expect(bench.get_by_text("cut", exact=True).first).to_be_visible()
    assert python(notebook, "print(bench.settings)") == "{}"
    notebook.page.mouse.up()
    value = float(slider(bench, "top_p").input_value())
    assert 0.4 < value < 0.6
    expect(bench.locator("pre")).to_contain_text(f"top_p={value:g})")
    assert python(notebook, "print(bench.settings)") == f"{{'top_p': {value:g}}}"
    shown = bench.locator("pre").inner_text()
    assert python(notebook, "print(bench.call)") == shown
    kept = re.search(r"kept (\d+) of", bench.inner_text())[1]
    assert f"kept {kept} of" in python(notebook, "print(bench)")


def test_a_click_draws_with_torchs_seed(bench, notebook):
    bench.get_by_role("button", name="Draw", exact=True).click()
    expect(bench).to_contain_text("drawn with seed 0: ▸")
    bench.get_by_role("button", name="Draw 1,000").click()
    expect(bench).to_contain_text("1,000 draws with seed 0")
    told = python(notebook, "print(repr(bench).splitlines()[-1])")
    assert told in bench.inner_text() and "browser" not in told
    notebook.screenshot("sampler-draws", ".llmviz")
    bench.get_by_label("seed").fill("4")
    bench.get_by_label("seed").press("Enter")
    expect(bench).not_to_contain_text("drawn with seed")
    bench.get_by_role("button", name="Draw", exact=True).click()
    expect(bench).to_contain_text("drawn with seed 4: ▸")
    bench.get_by_label("seed").fill("0")
    bench.get_by_label("seed").press("Enter")


def test_what_is_typed_and_what_python_sets_counts(bench, notebook):
    number = bench.get_by_label("top_k, as a number")
    number.fill("7")
    number.press("Enter")
    expect(bench).to_contain_text("7 of 49,152 tokens")
    python(notebook, "bench.chosen = {**bench.chosen, 'settings': {'top_k': 9}}")
    expect(bench).to_contain_text("9 of 49,152 tokens")
    assert slider(bench, "top_k").input_value() == "9"
    field = bench.get_by_label("prompt")
    field.fill("The capital of France is")
    field.press("Enter")
    expect(bench).to_contain_text("␣Paris")
    field.fill("")
    field.press("Enter")
    expect(bench.get_by_role("alert")).to_contain_text("no tokens")
    assert "␣Paris" in bench.inner_text() and field.input_value() == ""
    field.fill("I enjoy walking with my cute dog")
    field.press("Enter")
    expect(bench).to_contain_text("␣Bella")
    expect(bench.get_by_role("alert")).to_have_count(0)
    outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] in ("error", "stream")]


def test_the_keyboard_alone_reaches_and_moves_all(small):
    small.show(BENCH.format("seed=1"))
    root, key = small.explorer().root, small.page.keyboard
    cells = len(small.cells())
    root.get_by_label("prompt").focus()
    key.press("Control+A")
    key.type("hello")
    key.press("Enter")
    expect(root).to_contain_text("hello …")
    reached = []
    for _ in range(22):
        key.press("Tab")
        reached.append(small.page.evaluate(_FOCUSED))
    names = ["continuation"]
    for name in KEYS:
        names += [name, f"{name}, as a number"]
    assert reached[:18] == [*names, "All off"]
    assert {"seed", "Draw", "Draw 1,000"} <= set(reached)
    for name, presses, value in (
        ("top_k", ["ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowUp"], "2"),
        ("top_k", ["End", "Home", "PageUp", "Escape", "ArrowDown"], None),
        (
            "top_k, as a number",
            ["Home", "ArrowUp", "ArrowUp", "ArrowDown", "Enter", "Escape"],
            None,
        ),
    ):
        field = root.get_by_label(name, exact=True)
        before = field.input_value()
        field.focus()
        for press in presses:
            key.press(press)
            assert field.evaluate("f => f === document.activeElement"), (name, press)
        assert value in (None, field.input_value())
        assert value or field.input_value() != before, name
    for press in ("Enter", "Space", "a", "b", "d", "d", "x", "m", "y", "0", "0"):
        root.get_by_role("button", name="Draw", exact=True).focus()
        key.press(press)
    expect(root).to_contain_text("drawn with seed 1:")
    assert len(small.cells()) == cells  # no shortcut of JupyterLab's struck


_FOCUSED = """() => {
  const active = document.activeElement;
  return active.getAttribute("aria-label") || active.labels?.[0]?.innerText || active.innerText;
}"""


def assert_every_input_has_a_name_of_its_own(root):
    inputs = root.locator("input, select, textarea, button:visible").all()
    names = [field.evaluate(
        "f => f.getAttribute('aria-label') || f.labels?.[0]?.innerText || f.innerText"
    ) for field in inputs]  # fmt: skip
    assert all(names) and len(set(names)) == len(names), names


def test_every_input_has_a_name_of_its_own(bench):
    assert_every_input_has_a_name_of_its_own(bench)


def test_it_wears_the_theme_of_the_notebook(bench, notebook):
    paper = "r => getComputedStyle(r).backgroundColor"
    assert bench.evaluate(paper) == "rgb(255, 255, 255)"
    notebook.theme("JupyterLab Dark")
    try:
        expect(bench).to_have_class(re.compile(r"\bdark\b"))
        assert bench.evaluate(paper) == "rgb(20, 24, 29)"
        notebook.screenshot("sampler-dark", ".llmviz")
    finally:
        notebook.theme("JupyterLab Light")
    assert bench.evaluate(paper) == "rgb(255, 255, 255)"


def test_hostile_tokens_run_nothing(hostile):
    hostile.show("lv.SamplerBench(model, tokenizer, prompt, temperature=2.0, top_k=9)")
    root = hostile.explorer().root
    root.get_by_role("button", name="Draw", exact=True).click()
    root.get_by_role("button", name="Draw 1,000").click()
    expect(root).to_contain_text("1,000 draws")
    for name in ("prompt", "continuation"):
        root.get_by_label(name).fill("hello <img/src=x/onerror=window.__hacked=1> $x$ hello")
        root.get_by_label(name).press("Enter")
    expect(root.locator(".text .new")).to_contain_text("onerror=window.__hacked")
    hostile.page.wait_for_timeout(300)
    assert not hostile.hacked()
    assert root.locator("img, script, svg, mjx-container, a").count() == 0


def test_a_saved_notebook_keeps_picture_and_colours(lab):
    """Untrusted, without a kernel."""
    bench = lv.SamplerBench(tiny.model("llama"), tiny.tokenizer(), "hello", top_p=0.9)
    with lab.notebook(lab.saved(bench), kernel=False) as notebook:
        bars = notebook.page.locator(".jp-OutputArea-output td div div")
        bars.first.wait_for()
        colours = {bar.evaluate("b => getComputedStyle(b).backgroundColor") for bar in bars.all()}
        assert {"rgb(0, 114, 178)", "rgb(209, 213, 219)"} <= colours
        shown = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "of 259 tokens" in shown and "top_k=0, top_p=0.9" in shown
        assert "labels" not in str(notebook.cells())  # the state is not stored


# The page without a kernel


def test_the_page_does_what_the_notebook_does_and_draws_by_itself(opened):
    bench = lv.SamplerBench(tiny.model("llama"), tiny.tokenizer(), "hello", temperature=2.0, seed=3)
    page = opened(bench)
    root = page.locator(".llmviz")
    assert "SamplerBench of 'hello'" in page.title()
    dragged(page, slider(root, "top_k"), 0.1)
    page.mouse.up()
    k = int(slider(root, "top_k").input_value())
    expect(root).to_contain_text(f"{k} of 259 tokens")
    bench.chosen = {"seed": 3, "settings": {"temperature": 2.0, "top_k": k}}
    assert root.locator("pre").inner_text() == bench.call
    for line in repr(bench).splitlines()[2:]:
        label, _, after = re.match(r"(.*?)  (\S+) → (\S+)$", line).groups()
        name = page.get_by_role("cell", name=label, exact=True)
        assert after in root.get_by_role("row").filter(has=name).first.inner_text(), line
    root.get_by_role("button", name="Draw", exact=True).click()
    root.get_by_role("button", name="Draw 1,000").click()
    expect(root).to_contain_text("1,000 draws with seed 3, by the browser's own generator")
    found = re.search(r"(\d+) of (\d+) counts", root.inner_text())
    assert int(found[1]) >= 0.7 * int(found[2])
    first = root.locator(".note").inner_text()
    root.get_by_role("button", name="All off").click()
    page.get_by_label("top_k, as a number").fill(str(k))
    page.get_by_label("temperature, as a number").fill("2")
    page.get_by_label("temperature, as a number").press("Enter")
    root.get_by_role("button", name="Draw", exact=True).click()
    root.get_by_role("button", name="Draw 1,000").click()
    assert root.locator(".note").inner_text() == first  # the same seed, the same draws
    assert_every_input_has_a_name_of_its_own(root)


def test_hostile_tokens_and_state_run_nothing_on_a_page(opened):
    bench = lv.SamplerBench(
        hostile_tokens.model(), hostile_tokens.tokenizer(), hostile_tokens.PROMPT,
        logits_processor=hostile_processor, top_k=9,
    )  # fmt: skip
    bench.draw()
    page = opened(bench)
    root = page.locator(".llmviz")
    slider(root, "temperature").focus()
    page.keyboard.press("ArrowRight")
    expect(root).to_contain_text("cut")
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.__hacked === undefined")
    assert page.locator("img, svg, a, iframe, body > :not(script, div, noscript)").count() == 0
    page.evaluate(_INJECTED)  # even if something were to get in, the policy would not let it run
    assert page.evaluate("() => window.__hacked === undefined")
    assert any("Content Security Policy" in text for text in page.heard)
    page.heard.clear()


_INJECTED = """() => {
  const script = document.createElement("script");
  script.textContent = "window.__hacked = 1";
  document.body.append(script);
}"""


def hostile_processor(ids, scores):
    return scores


hostile_processor.__name__ = "</script><img src=x onerror=window.__hacked=1>"


def test_what_only_python_computes_is_said_on_a_page(opened):
    bench = lv.SamplerBench(
        tiny.model("llama"), tiny.tokenizer(), "hello", top_k=5, repetition_penalty=1.2,
        logits_processor=lambda ids, scores: scores.flip(-1),
    )  # fmt: skip
    page = opened(bench)
    root = page.locator(".llmviz")
    after = re.findall(r"→ ([\d.]+)%", repr(bench))
    shown = root.get_by_role("table").inner_text()
    assert after and all(f"{share}%" in shown for share in after)
    expect(root.locator(".message [role]")).to_have_text("")
    slider(root, "repetition_penalty").focus()
    page.keyboard.press("ArrowRight")
    expect(root.locator(".message")).to_contain_text("logits_processor runs in Python")
    page.keyboard.press("ArrowLeft")
    expect(root.locator(".message [role]")).to_have_text("")


@pytest.mark.parametrize(("scheme", "paper"), [("light", 255), ("dark", 20)])
def test_both_themes_on_a_phone_and_at_200_percent(opened, scheme, paper):
    bench = lv.SamplerBench(tiny.model("llama"), tiny.tokenizer(), "hello", top_k=7)
    bench.draw(1000)
    page = opened(bench, scheme, 390)
    root = page.locator(".llmviz")
    background = root.evaluate("r => getComputedStyle(r).backgroundColor")
    assert background.startswith(f"rgb({paper},")
    for width in (390, 480, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), width
        for name in KEYS:
            label = root.locator("label", has_text=re.compile(f"^{name}$"))
            inner = label.evaluate("l => l.scrollWidth <= l.clientWidth + 1")
            assert inner and slider(root, name).bounding_box()["width"] > 100
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"sampler-phone-{scheme}.png", full_page=True)
