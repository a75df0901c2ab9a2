"""The beam explorer in a real browser: on a page without a kernel, and in JupyterLab."""

import json
import random

import pytest

import llmviz as lv
from llmviz.explorers.replays import STOPPINGS
from llmviz.formats import fixed, given
from llmviz.tokens import clipped
from tests import hostile as bad
from tests import tiny
from tests.browser.pages import MOVE, milliseconds, move, opened, overflow, unnamed
from tests.scripted import Scripted, drawn
from tests.test_explorers_beams import ending, letters

BEAMS = "lv.BeamExplorer(model, tokenizer, {}, max_new_tokens={})"


def explorer(seed=2, **arguments):
    size = {"max_new_tokens": 8, "num_beams": 3} | arguments
    return lv.BeamExplorer(ending(seed=seed, every=40), tiny.tokenizer(), "hello there", **size)


# What a page shows for one place of the sliders.
_SHOWN = """places => places.map(([penalty, stopping, step]) => {
  const root = document.querySelector(".llmviz"), move = MOVE;
  move(root, "early_stopping", stopping);
  move(root, "length_penalty", penalty);
  move(root, "step", step);
  const [candidates, finished] = [...root.querySelectorAll("[role=table]")].map(table =>
    [...table.children].map(row => [...row.children].map(cell => cell.textContent)));
  const nodes = [...root.querySelectorAll("svg[role=img] .node")].map(n => n.getAttribute("class"));
  return {
    verdict: root.querySelector(".verdict").textContent,
    steps: +root.querySelector("input[type=range]").max,
    candidates: candidates.slice(1),
    finished: root.querySelectorAll("[role=table]")[1].hidden ? [] : finished.slice(1),
    power: finished[0].at(-1),
    alt: root.querySelector("svg[role=img]").getAttribute("aria-label"),
    fates: nodes.map(name => name.split(" ")[1]),
    best: nodes.filter(name => name.includes("best")).length,
    scores: [...root.querySelectorAll("svg[role=img] .small")].map(t => t.textContent)
      .filter(t => !t.startsWith("step")),
    call: root.querySelector("pre").textContent,
  };
})""".replace("MOVE", MOVE)


def spelled(labels, most):
    cut = "…" if len(labels) > most else ""
    return cut + "".join(clipped(label, 16) for label in labels[-most:])


def wanted(found):
    """The same from Python, out of the code of `lv.beam_search`."""
    now, fates = found.now, {"running": "goes on"}
    steps = now.present.beams[0]
    every = [c for step in steps for c in step.candidates]
    best = "".join(
        now.present.labels[step.candidates[i].token_id]
        for step, i in zip(steps, now.present.beam_paths[0], strict=False)
    )
    return {
        "verdict": now.verdict,
        "candidates": [
            [str(c.rank + 1), spelled(now.hypothesis(c), 4), fixed(c.score), fixed(c.sum_score),
             fates.get(c.fate, c.fate), c.reason]
            for c in now.candidates
        ],
        "finished": [
            ["▸" * (i == 0), spelled(now.labels(path), 20), fixed(path[-1].sum_score),
             str(len(path)), fixed(score, 3)]
            for i, (score, path) in enumerate(now.finished)
        ],
        "power": f"score = sum / length ** {given(now.length_penalty)}",
        "alt": f"Tree of a beam search over {len(steps)} steps; its best hypothesis is {best}",
        "fates": [c.fate for c in every],
        "best": len(now.present.beam_paths[0]),
        "scores": [fixed(c.sum_score if c.final_score is None else c.final_score) for c in every],
        "call": found.call,
    }  # fmt: skip


MODELS = {
    "many ends": (lambda: explorer(0, num_beams=4), 70),
    "few ends": (lambda: explorer(5, length_penalty=0.77, max_new_tokens=10), 70),
    "penalties": (lambda: explorer(3, num_beams=2, repetition_penalty=1.3), 60),
    "five letters": (
        lambda: lv.BeamExplorer(
            Scripted(drawn(3, 5, 0.8), 5, eos_token_id=4, pad_token_id=4), letters(5), "a b",
            num_beams=4, max_new_tokens=6,
        ),
        70,
    ),
    "hostile": (
        lambda: lv.BeamExplorer(
            bad.model(), bad.tokenizer(), bad.PROMPT, max_new_tokens=5, presence_penalty=0.5
        ),
        40,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_page_shows_what_python_says_at_random_places(lab, tmp_path, name):
    make, count = MODELS[name]
    found, draw = make(), random.Random(name)
    penalties, places = found.state["penalties"], []
    for _ in range(count):
        row, column = draw.randrange(3), draw.randrange(len(penalties))
        last = found.state["replays"][found.state["places"][row][column]]["steps"]
        places.append((row, column, draw.choice([last, draw.randint(1, last)])))
    written = ["False", "True", "'never'"]
    with opened(lab, tmp_path / "beams.html", found, size=(1400, 900)) as page:
        shown = page.evaluate(
            _SHOWN, [[column, written[row], step] for row, column, step in places]
        )
        assert not page.evaluate("() => window.__hacked")
    for (row, column, step), there in zip(places, shown, strict=True):
        found.chosen = {
            "length_penalty": penalties[column], "early_stopping": STOPPINGS[row], "step": step,
        }  # fmt: skip
        last = there.pop("steps")
        assert step <= last and (step == last) == found.now.is_over
        assert there == wanted(found)


def test_a_page_alone_light_dark_and_on_a_phone(lab, tmp_path):
    found, path = explorer(5, max_new_tokens=12), tmp_path / "beams.html"
    with opened(lab, path, found) as page:
        assert not unnamed(page) and overflow(page) <= 0
        assert page.get_by_text("✓ generate gives the same").is_visible()
        assert page.get_by_role("button").count() == 0, "there is no kernel to ask"
        move(page, "length_penalty", 0)
        assert page.get_by_text("not yet compared with generate").is_visible()
        light = page.locator(".llmviz").evaluate("e => getComputedStyle(e).backgroundColor")
    with opened(lab, path, dark=True) as page:
        dark = page.locator(".llmviz").evaluate("e => getComputedStyle(e).backgroundColor")
        assert light == "rgb(255, 255, 255)" and sum(map(int, dark[4:-1].split(","))) < 150
    with opened(lab, path, size=(360, 800)) as page:
        assert overflow(page) <= 0
        tree = page.get_by_role("region", name="the tree")
        assert tree.evaluate("t => t.scrollWidth > t.clientWidth && t.scrollLeft > 0")


def test_a_tree_of_hundreds_of_steps_is_drawn_where_it_is_seen(lab, tmp_path):
    model = tiny.model("llama", max_position_embeddings=256)
    found = lv.BeamExplorer(model, tiny.tokenizer(), "a b", num_beams=3, max_new_tokens=200)
    with opened(lab, tmp_path / "beams.html", found) as page:
        assert overflow(page) <= 0
        tree = page.get_by_role("region", name="the tree")
        assert tree.get_by_text("step 200").is_visible()
        assert tree.locator(".node").count() < 100
        tree.evaluate("t => { t.scrollLeft = 0 }")
        tree.get_by_text("start").wait_for()
        tree.get_by_text("step 1", exact=True).wait_for()
        assert not tree.get_by_text("step 200").count()
        times = milliseconds(page, "length_penalty")
        assert times[len(times) // 2] < 50, times


def test_the_keyboard_moves_every_input(lab, tmp_path):
    with opened(lab, tmp_path / "beams.html", explorer()) as page:
        key, verdict = page.keyboard, page.locator(".verdict")
        page.get_by_label("step", exact=True).focus()
        key.press("Home")
        assert verdict.inner_text().startswith("step 1 of")
        key.press("ArrowRight")
        assert verdict.inner_text().startswith("step 2 of")
        key.press("Tab")
        key.press("Tab")
        key.press("ArrowRight")
        assert "length_penalty=1.1" in page.locator("pre").inner_text()
        key.press("Tab")
        key.press("Control+A")
        key.type("2.04")
        key.press("Enter")
        assert "length_penalty=2.0," in page.locator("pre").inner_text()
        key.press("Tab")
        key.press("ArrowDown")
        assert "early_stopping=True" in page.locator("pre").inner_text()


def test_hostile_tokens_and_hostile_state_run_nothing(lab, tmp_path):
    found = lv.BeamExplorer(bad.model(), bad.tokenizer(), bad.PROMPT, max_new_tokens=4)
    state = json.loads(json.dumps(found.state))
    hostile = iter(bad.TEXTS * 100)
    state["labels"] = {number: next(hostile) for number in state["labels"]}
    state["reasons"] = [next(hostile) for _ in state["reasons"]]
    state["call"] = [next(hostile) for _ in state["call"]]
    state["says"] = {name: next(hostile) for name in state["says"]}
    state["lost"] = state["prompt"] = "".join(bad.TEXTS)
    for replay in state["replays"]:
        replay["over"] = next(hostile)
    found.state = state
    with opened(lab, tmp_path / "beams.html", found) as page:
        for step in (1, 2, 4):
            move(page, "step", step)
        assert not page.evaluate("() => window.__hacked")
        root = page.locator(".llmviz")
        assert root.locator("img, script, style, a, iframe").count() == 0
        assert bad.TEXTS[0] in root.inner_text()


def test_wide_labels_stay_in_their_column(lab, tmp_path):
    found = explorer()
    labels = dict.fromkeys(found.state["labels"], "漢字漢字漢字👩‍👩‍👧👩‍👩‍👧👩‍👩‍👧")
    found.state = found.state | {"labels": labels}
    with opened(lab, tmp_path / "beams.html", found) as page:
        label = page.locator("svg .label").first
        assert label.text_content().endswith("…")
        steps = page.locator("svg text", has_text="step")
        first, second = (float(steps.nth(i).get_attribute("x")) for i in (0, 1))
        assert label.evaluate("t => t.getBBox().width") < second - first - 10


# In JupyterLab, with a kernel


def test_in_lab_it_reads_compares_and_takes_every_key(small):
    root, key = small.drawn(BEAMS.format("'hello'", 6)), small.page.keyboard
    cells = len(small.cells())
    root.get_by_label("prompt").fill("how are you")
    key.press("Enter")
    root.get_by_text("how are you …").wait_for()
    key.press("Tab")
    key.press("ArrowUp")
    key.press("Enter")
    root.get_by_text("num_beams=4").wait_for()
    root.get_by_label("step", exact=True).focus()
    key.press("Home")
    root.get_by_text("step 1 of").wait_for()
    root.get_by_label("length_penalty", exact=True).focus()
    key.press("ArrowRight")
    root.get_by_text("length_penalty=1.1").wait_for()
    root.get_by_label("early_stopping").focus()
    key.press("ArrowDown")
    root.get_by_text("early_stopping=True").wait_for()
    root.get_by_text("not yet compared").wait_for()
    root.get_by_role("button", name="Compare with generate").focus()
    key.press("Enter")
    root.get_by_text("✓ generate").wait_for()  # of this place: the kernel has heard of it
    root.get_by_label("prompt").fill("")
    key.press("Enter")
    root.get_by_text("no tokens").wait_for()
    assert "how are you …" in root.inner_text()
    root.get_by_label("prompt").fill("bye")
    key.press("Enter")
    root.get_by_text("bye …").wait_for()
    root.get_by_text("no tokens").wait_for(state="detached")
    assert len(small.cells()) == cells, "a shortcut of JupyterLab's struck"
    outputs = [o for cell in small.cells() for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] in ("error", "stream")]


def test_in_lab_it_follows_the_theme(small):
    root = small.drawn(BEAMS.format("'hello'", 1))
    root.get_by_text("step 1: over").wait_for()
    small.theme("JupyterLab Dark")
    try:
        assert "dark" in root.get_attribute("class")
    finally:
        small.theme("JupyterLab Light")
    assert "dark" not in root.get_attribute("class")


def test_in_lab_hostile_tokens_run_nothing(hostile):
    root = hostile.drawn(BEAMS.format("prompt", 4))
    root.get_by_label("prompt").fill("hello <img/src=x/onerror=window.__hacked=1> hello")
    hostile.page.keyboard.press("Enter")
    root.get_by_text("hello <img/src=x/onerror=window.__hacked=1> hello …").wait_for()
    root.get_by_label("step", exact=True).focus()
    hostile.page.keyboard.press("Home")
    root.get_by_text("step 1 of").wait_for()
    assert not hostile.hacked() and root.locator("img, script").count() == 0


def test_a_saved_notebook_keeps_picture_and_colours(lab, default_model):
    """Untrusted, without a kernel."""
    text = "I enjoy walking with my cute dog"
    beams = lv.BeamExplorer(*default_model, text, max_new_tokens=10)
    with lab.notebook(lab.saved(beams), kernel=False) as notebook:
        tree = notebook.page.locator(".jp-OutputArea-output img").last
        tree.wait_for()
        assert tree.evaluate("i => i.naturalWidth > 500")
        shown = notebook.page.locator(".jp-OutputArea-output").last.inner_text()
        assert "✓ generate" in shown and "score = sum" in shown
