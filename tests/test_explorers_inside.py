"""Inside a model: the numbers of `attentions` and `logit_lens`, for whatever is picked."""

import base64
import re
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import llmviz as lv
from llmviz.explorers import inside as module
from tests import hostile, tiny
from tests.views import assert_leaves_a_picture

TEXT = "hello you"


def inside(text=TEXT, architecture="llama", **chosen):
    return lv.Inside(tiny.model(architecture), tiny.tokenizer(), text, **chosen)


def asked(explorer, **content):
    """What the browser sends."""
    explorer._on_message(explorer, content, [])
    explorer.wait(60)


def pictures(explorer) -> list[torch.Tensor]:
    data = re.findall(r'src="data:image/png;base64,([^"]*)"', explorer.picture())
    images = [Image.open(BytesIO(base64.b64decode(d))) for d in data]
    return [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(i.height, i.width, 3)
            for i in images]  # fmt: skip


@pytest.mark.parametrize("chosen", [(0, 0, 8), (2, 3, 4), (1, 2, 0)])
def test_it_says_what_the_package_says(chosen):
    explorer = inside()
    layer, head, query = chosen
    explorer.chosen = {"layer": layer, "head": head, "token": query}
    weights, labels = lv.attentions(explorer.model, explorer.tokenizer, TEXT)
    for i, weight in explorer.looked_at(most=9):
        assert weight == pytest.approx(weights[layer, head, query, i].item(), abs=1e-6)
        assert f"{labels[i]}  {weight:.1%}" in explorer.picture().replace("&nbsp;", "")
    assert len(explorer.looked_at(most=9)) == query + 1
    lens = lv.logit_lens(explorer.model, explorer.tokenizer, TEXT, top_k=5)
    said = lens[(lens.layer == layer + 1) & (lens.position == query)]
    assert explorer.predictions().equals(said)
    first = said.iloc[0]
    assert f"after layer {layer + 1} the lens says {first.prediction} " in repr(explorer)
    best = lens[(lens.position == query) & (lens["rank"] == 1)].iloc[::-1]
    shown = re.findall(r">(?:<b>)?(▸ )?(\d+)(?:</b>)?</td>", explorer.picture())
    assert [int(n) for _, n in shown] == best.layer.tolist()
    assert [int(n) for mark, n in shown if mark] == [layer + 1]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_the_browser_gets_all_weights_and_the_lens(architecture):
    explorer = inside(architecture=architecture)
    weights, labels = lv.attentions(explorer.model, explorer.tokenizer, TEXT)
    state = explorer.state
    assert state["tokens"] == labels
    assert (state["layers"], state["heads"]) == weights.shape[:2]
    rows, columns = np.tril_indices(len(labels))
    roots = np.frombuffer(explorer.weights, "<u2").reshape(*weights.shape[:2], len(rows))
    sent = (roots / 65535.0) ** 2
    assert np.abs(sent - weights.numpy()[..., rows, columns]).max() < 2e-5
    lens = lv.logit_lens(explorer.model, explorer.tokenizer, TEXT)
    assert len(state["lens"]) == state["layers"] + 1
    for row in lens.itertuples():
        label, probability = state["lens"][row.layer][row.position]
        assert label == row.prediction and probability == pytest.approx(row.probability)


def test_the_enlarged_picture_is_that_of_the_weights():
    explorer = inside(layer=1, head=2)
    weights = explorer.reading.weights[1, 2]
    scale = 380 // 9
    centres = pictures(explorer)[1][scale // 2 :: scale, scale // 2 :: scale][:9, :9]
    # The darker, the more weight: by the red part, of which the deepest blue has none.
    assert (centres[..., 0] == 243).equal(torch.ones(9, 9, dtype=torch.bool).triu(1))
    order = weights[8].argsort(descending=True)
    assert (centres[8, order, 0].int().diff() >= 0).all()


def test_the_overview_frames_the_chosen_head():
    explorer = inside()
    frames = set()
    for layer in range(3):
        explorer.chosen = {**explorer.chosen, "layer": layer}
        orange = (pictures(explorer)[0] == torch.tensor([230, 159, 0])).all(-1).nonzero()
        frames.add(tuple(orange.amin(0).tolist()))
    assert len(frames) == 3 and {y for y, _ in frames} == {0}
    explorer.chosen = {**explorer.chosen, "head": 3}
    assert (pictures(explorer)[0][:10] == torch.tensor([230, 159, 0])).all(-1).sum() == 0


def test_a_long_text_is_drawn_small():
    explorer = inside("ab" * 60, layer=2)
    assert [max(p.shape) <= 900 for p in pictures(explorer)] == [True, True]
    assert len(explorer.picture()) < 200_000


def test_more_weights_than_a_browser_holds_are_refused_before_the_pass(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3 * 4 * 9 * 10)
    explorer = inside()
    monkeypatch.setattr(
        type(explorer.model), "forward", lambda *_, **__: pytest.fail("the model ran")
    )
    with pytest.raises(ValueError, match="text has 10 tokens: .* too many"):
        inside(TEXT + "!")
    asked(explorer, type="read", text=TEXT + "!")
    assert "too many" in explorer.message and explorer.state["text"] == TEXT


def test_another_text_and_an_error():
    explorer = inside(layer=1)
    asked(explorer, type="read", text="bye")
    assert explorer.reading.labels == list("bye") == explorer.state["tokens"]
    assert explorer.chosen == {"layer": 1, "head": 0, "token": 2} and "bye" in repr(explorer)
    assert len(explorer.weights) == 3 * 4 * 6 * 2
    before = explorer.picture(), explorer.state
    for bad in ("", None, 5, "\ud800"):
        asked(explorer, type="read", text=bad)
        assert explorer.message and (explorer.picture(), explorer.state) == before
    asked(explorer, type="read", text="hello again")
    assert explorer.message == "" and explorer.chosen["token"] == 10


@pytest.mark.parametrize("bad", [{"layer": 3}, {"head": -1}, {"token": 9}, {"token": "1"},
                                 {"layer": 1.5}, {"head": None}, {"head": True}])  # fmt: skip
def test_what_will_not_do_is_refused_by_name(bad):
    explorer = inside()
    before, (name,) = explorer.chosen, bad
    with pytest.raises(ValueError, match=name):
        explorer.chosen = {**before, **bad}
    explorer.set_state({"chosen": {**before, **bad}})  # by the browser: it is told, and goes back
    assert explorer.chosen == before and name in explorer.message
    with pytest.raises(ValueError, match=name):
        inside(**bad)


def test_a_model_without_attention_raises():
    with pytest.raises(ValueError, match="no attention"):
        inside(architecture="mamba")


def test_it_leaves_a_picture_and_nothing_runs():
    assert_leaves_a_picture(inside())
    assert_leaves_a_picture(lv.Inside(hostile.model(), hostile.tokenizer(), hostile.PROMPT))


def test_closed_it_says_so():
    explorer = inside()
    explorer.close()
    assert repr(explorer) == "Inside, closed"
    with pytest.raises(ValueError, match="closed"):
        explorer.picture()


def test_figure():
    ax = inside(layer=1, head=2).figure()
    assert ax.child_axes[0].get_title(loc="left") == "layer 1, head 2"
    plt.close("all")
