"""Attention and the lens in a real browser: on a page without a kernel, and in JupyterLab."""

import json
import random

import pytest
import torch

import llmviz as lv
from llmviz.tokens import clipped
from tests import hostile as bad
from tests import tiny
from tests.browser.pages import MOVE, milliseconds, move, opened, overflow, unnamed

INSIDE = "lv.Inside(model, tokenizer, 'The capital of France is', layer=10, head=3)"


def inside(text="hello you, there", architecture="llama", **chosen):
    return lv.Inside(tiny.model(architecture), tiny.tokenizer(), text, **chosen)


_SHOWN = """places => places.map(([layer, head, token]) => {
  const root = document.querySelector(".llmviz"), move = MOVE;
  move(root, "layer", layer);
  move(root, "head", head);
  move(root, "token", token);
  const map = root.querySelectorAll("canvas")[1], n = root.querySelectorAll(".look").length;
  const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height);
  const middle = k => Math.floor((k + 0.5) * map.width / n);
  return {
    looks: [...root.querySelectorAll(".look")].map(box => [box.title, box.ariaPressed]),
    lens: [...root.querySelector("[role=table]").children].slice(1).map(row =>
      [...row.children].map(cell => cell.textContent)),
    alts: [...root.querySelectorAll("canvas")].map(c => c.ariaLabel),
    reds: Array.from({length: n}, (_, i) => Array.from({length: n}, (_, j) =>
      pixels.data[4 * (middle(i) * map.width + middle(j))])),
  };
})""".replace("MOVE", MOVE)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_the_page_shows_the_weights_and_the_lens(lab, tmp_path, architecture):
    found, draw = inside(architecture=architecture), random.Random(architecture)
    labels, sizes = found.reading.labels, found.reading.sizes
    places = [[draw.randrange(count) for count in sizes.values()] for _ in range(40)]
    with opened(lab, tmp_path / "inside.html", found) as page:
        shown = page.evaluate(_SHOWN, places)
    lens = found.reading.lens[found.reading.lens["rank"] == 1]
    for (layer, head, token), there in zip(places, shown, strict=True):
        weights = found.reading.weights[layer, head]
        for i, (title, pressed) in enumerate(there["looks"]):
            assert pressed == str(i == token).lower()
            label, _, share = title.rpartition("  ")
            assert label == labels[i]
            if i > token:
                assert share == "it comes later"
            else:
                assert float(share[:-1]) == pytest.approx(100 * weights[token, i].item(), abs=0.052)
        rows = lens[lens.position == token].iloc[::-1]
        assert there["lens"] == [
            [f"{'▸ ' * (row.layer == layer + 1)}{row.layer}", clipped(row.prediction, 16), "",
             f"{row.probability:.0%}"]
            for row in rows.itertuples()
        ]  # fmt: skip
        # The darker, the more weight, in steps; and one shade for what comes later.
        reds, later = torch.tensor(there["reds"]), torch.ones(len(labels), len(labels)).triu(1) > 0
        assert (reds[later] == 240).all()
        order = weights[token, : token + 1].argsort(descending=True)
        assert (reds[token, : token + 1][order].diff() >= 0).all()
        assert f"layer {layer}, head {head} is framed" in there["alts"][0]
        assert f"the row of token {token} is marked" in there["alts"][1]


def test_a_click_on_a_map_or_a_token_picks_it_and_so_does_the_keyboard(lab, tmp_path):
    with opened(lab, tmp_path / "inside.html", inside()) as page:
        maps, map_ = page.locator("canvas").nth(0), page.locator("canvas").nth(1)
        strip = page.get_by_role("heading", name="where token")
        box = maps.bounding_box()
        maps.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.9})
        assert strip.inner_text().startswith("layer 1, head 3: where token 15")
        maps.hover(position={"x": 5, "y": 5})
        assert maps.get_attribute("title") == "layer 0, head 0"
        size = map_.bounding_box()["height"]
        map_.click(position={"x": 3, "y": size * 4.5 / 16})
        assert "where token 4, o," in strip.inner_text()
        assert map_.get_attribute("title").startswith("4 o looks at 0 h: ")
        page.locator(".look").nth(7).click()
        assert "where token 7, o," in strip.inner_text()
        page.get_by_label("layer", exact=True).focus()
        page.keyboard.press("End")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Home")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowLeft")
        assert strip.inner_text().startswith("layer 2, head 0: where token 6, y,")


def test_a_page_alone_light_dark_and_on_a_phone(lab, tmp_path):
    path, pixel = (
        tmp_path / "inside.html",
        "c => [...c.getContext('2d').getImageData(60, 5, 1, 1).data]",
    )
    with opened(lab, path, inside("hello " * 10)) as page:
        assert not unnamed(page) and overflow(page) <= 0
        assert page.get_by_role("textbox").count() == 0, "there is no kernel to read a text"
        assert page.locator("canvas").nth(1).evaluate(pixel) == [240, 242, 244, 255]
        page.emulate_media(color_scheme="dark")
        page.locator(".llmviz.dark").wait_for()
        page.wait_for_function(
            f"() => ({pixel})(document.querySelectorAll('canvas')[1])[0] < 60", timeout=5000
        )
    with opened(lab, path, size=(360, 800)) as page:
        assert overflow(page) <= 0


def test_a_drag_is_painted_at_once(lab, tmp_path):
    with opened(lab, tmp_path / "inside.html", inside("hello there, you " * 7)) as page:
        for name in ("layer", "head", "token"):
            times = milliseconds(page, name)
            assert times[len(times) // 2] < 40, (name, times)  # 16 on a machine of its own


def test_hostile_tokens_and_hostile_state_run_nothing(lab, tmp_path):
    found = lv.Inside(bad.model(), bad.tokenizer(), bad.PROMPT)
    state = json.loads(json.dumps(found.state))
    hostile = iter(bad.TEXTS * 100)
    state["tokens"] = [next(hostile) for _ in state["tokens"]]
    state["lens"] = [[[next(hostile), p] for _, p in layer] for layer in state["lens"]]
    found.state = state
    with opened(lab, tmp_path / "inside.html", found) as page:
        for token in range(3):
            move(page, "token", token)
        page.locator(".look").nth(1).hover()
        assert not page.evaluate("() => window.__hacked")
        root = page.locator(".llmviz")
        assert root.locator("img, script, style, a, iframe").count() == 0
        assert bad.TEXTS[0] in root.inner_text()


# In JupyterLab, with a kernel


def test_in_lab_it_reads_another_text_and_takes_every_key(small):
    root, key = small.drawn("lv.Inside(model, tokenizer, 'hello')"), small.page.keyboard
    cells = len(small.cells())
    root.get_by_label("layer", exact=True).focus()
    key.press("End")
    root.get_by_text("layer 2, head 0: where token 4").wait_for()
    root.get_by_label("text", exact=True).fill("bye")
    key.press("Enter")
    root.get_by_text("layer 2, head 0: where token 2, e").wait_for()  # the kernel has heard of it
    root.get_by_label("text", exact=True).fill("")
    key.press("Enter")
    root.get_by_text("no tokens").wait_for()
    root.get_by_label("token", exact=True).focus()
    key.press("ArrowLeft")
    root.get_by_text("where token 1, y").wait_for()
    root.get_by_text("no tokens").wait_for(state="detached")
    root.get_by_label("text", exact=True).fill("hello again")
    key.press("Enter")
    root.get_by_text("where token 10, n").wait_for()
    assert root.locator(".look").count() == 11
    assert len(small.cells()) == cells, "a shortcut of JupyterLab's struck"
    small.theme("JupyterLab Dark")
    try:
        assert "dark" in root.get_attribute("class")
    finally:
        small.theme("JupyterLab Light")


def test_in_lab_hostile_tokens_stay_text(hostile):
    root = hostile.drawn("lv.Inside(model, tokenizer, prompt)")
    for name in ("layer", "token"):
        root.get_by_label(name, exact=True).focus()
        hostile.page.keyboard.press("Home")
    root.get_by_text("layer 0, head 0: where token 0, hello").wait_for()
    assert not hostile.hacked() and root.locator("img, script").count() == 0


def test_untrusted_and_without_a_kernel_it_is_still_there(lab, default_model):
    explorer = lv.Inside(*default_model, "The capital of France is", layer=10, head=3)
    with lab.notebook(lab.saved(explorer), kernel=False) as notebook:
        picture = notebook.page.locator(".jp-OutputArea-output img").first
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 800
        text = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "layer 10, head 3" in text
