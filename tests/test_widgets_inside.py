"""Inside a model: the numbers of `attentions` and `logit_lens`, for whatever is picked."""

import base64
import re
from io import BytesIO

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

import llmviz as lv
from tests import hostile, tiny
from tests.views import assert_leaves_a_picture

TEXT = "hello you"


def inside(text=TEXT, architecture="llama", **chosen):
    return lv.Inside(tiny.model(architecture), tiny.tokenizer(), text, **chosen)


def pictures(explorer) -> list[torch.Tensor]:
    data = re.findall(r'src="data:image/png;base64,([^"]*)"', explorer.view.value)
    images = [Image.open(BytesIO(base64.b64decode(d))) for d in data]
    return [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).view(i.height, i.width, 3)
            for i in images]  # fmt: skip


@pytest.mark.parametrize("chosen", [(0, 0, 8), (2, 3, 4), (1, 2, 0)])
def test_it_says_what_the_package_says(chosen):
    explorer = inside()
    explorer.layer_slider.value, explorer.head_slider.value, explorer.token_slider.value = chosen
    layer, head, query = chosen
    weights, labels = lv.attentions(explorer.model, explorer.tokenizer, TEXT)
    for i, weight in explorer.looked_at(most=9):
        assert weight == pytest.approx(weights[layer, head, query, i].item(), abs=1e-6)
        assert f"{labels[i]}  {weight:.1%}" in explorer.view.value.replace("&nbsp;", "")
    assert len(explorer.looked_at(most=9)) == query + 1
    lens = lv.logit_lens(explorer.model, explorer.tokenizer, TEXT, top_k=5)
    said = lens[(lens.layer == layer + 1) & (lens.position == query)]
    assert explorer.predictions().equals(said)
    first = said.iloc[0]
    assert f"behind layer {layer + 1} the lens says {first.prediction} " in repr(explorer)
    best = lens[(lens.position == query) & (lens["rank"] == 1)].iloc[::-1]
    shown = re.findall(r">(?:<b>)?(▸ )?(\d+)(?:</b>)?</td>", explorer.view.value)
    assert [int(n) for _, n in shown] == best.layer.tolist()
    assert [int(n) for mark, n in shown if mark] == [layer + 1]


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
        explorer.layer_slider.value = layer
        orange = (pictures(explorer)[0] == torch.tensor([230, 159, 0])).all(-1).nonzero()
        frames.add(tuple(orange.amin(0).tolist()))
    assert len(frames) == 3 and {y for y, _ in frames} == {0}
    explorer.head_slider.value = 3
    assert (pictures(explorer)[0][:10] == torch.tensor([230, 159, 0])).all(-1).sum() == 0


def test_a_long_text_is_drawn_small():
    explorer = inside("ab" * 60, layer=2)
    assert [max(p.shape) <= 900 for p in pictures(explorer)] == [True, True]
    assert len(explorer.view.value) < 200_000


def test_a_drag_makes_no_pass(monkeypatch):
    explorer = inside()
    before = explorer.view.value

    def forward(*_, **__):
        raise AssertionError("the model ran")

    monkeypatch.setattr(explorer.model, "forward", forward)
    for slider in explorer._sliders:
        slider.value = 1
        assert explorer.view.value != before
        before = explorer.view.value


def test_another_text_and_an_error():
    explorer = inside()
    explorer.text_box.value = "bye"
    explorer.wait(60)
    assert explorer.reading.labels == list("bye") and explorer.chosen == (0, 0, 2)
    assert explorer.token_slider.max == 2 and "bye" in repr(explorer)
    before = explorer.view.value
    explorer.text_box.value = ""
    explorer.wait(60)
    assert "no tokens" in explorer.message.value and explorer.view.value == before
    explorer.text_box.value = "hello again"
    explorer.wait(60)
    assert explorer.message.value == "" and explorer.chosen == (0, 0, 10)


@pytest.mark.parametrize(
    ("chosen", "named"),
    [({"layer": 3}, "layer=3"), ({"head": -1}, "head"), ({"token": 9}, "token")],
)
def test_bad_arguments_raise(chosen, named):
    with pytest.raises(ValueError, match=named):
        inside(**chosen)


def test_a_model_without_attention_raises():
    with pytest.raises(ValueError, match="no attention"):
        inside(architecture="mamba")


def test_it_leaves_a_picture_and_nothing_runs():
    assert_leaves_a_picture(inside())
    assert_leaves_a_picture(lv.Inside(hostile.model(), hostile.tokenizer(), hostile.PROMPT))


def test_figure():
    ax = inside(layer=1, head=2).figure()
    assert ax.child_axes[0].get_title(loc="left") == "layer 1, head 2"
    plt.close("all")
