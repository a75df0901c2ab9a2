"""The views of a model's inside show the numbers they are given, whatever the tokens hold."""

import math
import re
from io import BytesIO

import matplotlib.pyplot as plt
import pytest
import torch

import llmviz as lv
from llmviz import plots
from llmviz.tables import Table
from llmviz.tokens import printable
from tests import tiny
from tests.views import assert_harmless

HOSTILE = [
    "</span><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "$x$",
    r"\(x^2\)",
    "\x1b[31m\0\r\u202e\ud800",
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def causal(*shape):
    """Random attention weights: each row adds up to 1, later tokens get 0."""
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    later = torch.ones(shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1)


def image(ax):
    return torch.tensor(ax.images[0].get_array().filled(math.nan))


def lens_of(tokens, layers=2, probability=0.5):
    return Table(
        [
            {
                "layer": layer,
                "position": i,
                "token": token,
                "rank": rank,
                "prediction": token + str(rank) * (rank > 1),
                "probability": probability / rank,
            }
            for layer in range(layers + 1)
            for i, token in enumerate(tokens)
            for rank in (1, 2)
        ]
    )


def test_the_overview_holds_every_map():
    weights = causal(3, 2, 4, 4)
    ax = lv.plot_attention_overview(weights, list("abcd"), layer=2, head=1)
    mosaic = image(ax)
    assert mosaic.shape == (2 * 5, 3 * 5)  # a gap of one dot between the maps
    for layer in range(3):
        for head in range(2):
            tile = mosaic[head * 5 : head * 5 + 4, layer * 5 : layer * 5 + 4]
            assert torch.equal(tile.tril().nan_to_num(), weights[layer, head])
    (below,) = ax.child_axes
    assert torch.equal(image(below).tril().nan_to_num(), weights[2, 1])
    assert below.get_title(loc="left") == "layer 2, head 1"
    (frame,) = ax.patches
    x, y = frame.get_xy()
    assert x < 2 < x + 1 and y < 1 < y + 1


def test_the_overview_of_a_long_text_keeps_the_largest_weights():
    weights = torch.zeros(30, 2, 256, 256)
    weights[..., 0] = 1
    weights[3, 1, 200, 100] = 0.7
    dots = image(lv.plot_attention_overview(weights, ["a"] * 256)).shape[0] // 2
    mosaic = image(lv.plot_attention_overview(weights, ["a"] * 256))
    tile = mosaic[dots : 2 * dots, 3 * dots : 4 * dots].nan_to_num()
    assert (tile == 0.7).sum() >= 1 and (tile[:, 0] == 1).sum() > 30


def test_the_overview_of_256_tokens_is_small():
    weights = causal(30, 9, 256, 256)
    ax = lv.plot_attention_overview(weights, [f"token{i}" for i in range(256)], layer=4, head=2)
    png = BytesIO()
    ax.figure.savefig(png, format="png", dpi=144, bbox_inches="tight")
    assert png.tell() < 2.5e6


def test_attention_of_a_long_text_names_every_so_many_tokens():
    ax = lv.plot_attention(causal(100, 100), [str(i) for i in range(100)])
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(i) for i in range(0, 100, 3)]
    assert ax.get_xticks().tolist() == list(range(0, 100, 3))


def test_ranks_stand_with_the_first_on_top():
    ax = lv.plot_ranks({"$a$": [100, 10, 1], "b": [7, 7, 7]})
    assert [line.get_ydata().tolist() for line in ax.lines] == [[100, 10, 1], [7, 7, 7]]
    bottom, top = ax.get_ylim()
    assert bottom > 100 > 1 > top
    ax.figure.canvas.draw()


def test_similarity_is_the_mean_cosine():
    hidden = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    found = image(lv.plot_similarity(hidden))
    for i in range(4):
        for j in range(4):
            wanted = torch.cosine_similarity(hidden[i], hidden[j], dim=-1).mean()
            assert found[i, j].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_norms_single_out_the_longest():
    hidden = torch.ones(3, 2, 4)
    hidden[1, 1] *= 100
    ax = lv.plot_norms(hidden, ["a", "$b$"])
    assert [line.get_ydata().tolist() for line in ax.lines] == [[2, 2, 2], [2, 200, 2]]
    assert [line.get_color() for line in ax.lines] == [plots.FAINT, plots.ORANGE]
    assert ax.texts[0].get_text() == "$b$ (token 1)"
    ax.figure.canvas.draw()


def test_every_figure_takes_axes_and_hostile_labels():
    _, axes = plt.subplots(1, 5)
    weights, hidden = causal(2, 2, 5, 5), torch.rand(3, 5, 4)
    assert lv.plot_attention_overview(weights, HOSTILE, ax=axes[0]) is axes[0]
    assert lv.plot_attention(weights[0, 0], HOSTILE, ax=axes[1]) is axes[1]
    assert lv.plot_ranks({HOSTILE[0]: [1], HOSTILE[2]: [2]}, ax=axes[2]) is axes[2]
    assert lv.plot_similarity(hidden, ax=axes[3]) is axes[3]
    assert lv.plot_norms(hidden, HOSTILE, ax=axes[4]) is axes[4]
    axes[0].figure.canvas.draw()


def test_what_the_font_lacks_is_written_as_its_code_point(recwarn):
    ax = lv.plot_probabilities([0.5, 0.2], ["猫", "é"])
    assert [t.get_text() for t in ax.get_yticklabels()][:2] == ["⟨U+732B⟩", "é"]
    lv.plot_tokens(["猫"])
    ax.figure.canvas.draw()
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: lv.plot_attention_overview(causal(2, 4, 4), list("abcd")), "weights"),
        (lambda: lv.plot_attention_overview(causal(2, 2, 4, 4), list("abc")), "labels has 3"),
        (lambda: lv.plot_attention_overview(causal(2, 1, 4, 4), list("abcd"), layer=2), "layer=2"),
        (lambda: lv.plot_attention_overview(causal(2, 1, 4, 4), list("abcd"), head=-1), "head=-1"),
        (lambda: lv.plot_attention(causal(2, 4, 4), list("abcd")), "weights"),
        (lambda: lv.plot_similarity(torch.rand(3, 4)), "hidden"),
        (lambda: lv.plot_norms(torch.rand(3, 4), ["a"]), "hidden"),
        (lambda: lv.plot_norms(torch.rand(3, 4, 2), ["a"]), "labels"),
        (lambda: lv.attention_strip(causal(4, 4), ["a"]), "labels has 1"),
        (lambda: lv.attention_strip(causal(2, 2), ["a", "b"], query=2), "query=2"),
        (lambda: lv.lens_grid(lens_of(["a"]), every=0), "every=0"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_the_strip_shows_one_tokens_weights():
    weights = torch.tensor([[1.0, 0, 0], [0.998, 0.002, 0], [0.1, 0.2, 0.7]])
    view = lv.attention_strip(weights, ["a", "b", "c"], query=1)
    assert "1 b  0.002" in repr(view) and "c" not in repr(view)
    html = view._repr_html_()
    assert "100%" in html and "0%</span>" in html and html.count("outline:") == 1
    assert "#005a8f" in html  # full weight, as in the figures
    assert "70%" in lv.attention_strip(weights, ["a", "b", "c"])._repr_html_()


def test_the_grid_has_a_row_a_layer_and_the_last_on_top():
    view = lv.lens_grid(lens_of(["a", "b"], layers=3))
    assert repr(view).splitlines() == ["layer  a b", *(f"{n:>5}  a b" for n in (3, 2, 1, 0))]
    assert re.findall(r">(\d)</th>", view._repr_html_()) == ["3", "2", "1", "0"]
    every = lv.lens_grid(lens_of(["a", "b"], layers=3), every=2)
    assert re.findall(r">(\d)</th>", every._repr_html_()) == ["3", "1"]
    assert "p = 0.500, behind layer 3, after a" in view._repr_html_()


def test_the_grid_of_a_real_lens():
    lens = lv.logit_lens(tiny.model("llama"), tiny.tokenizer(), "abcab", top_k=2)
    grid = repr(lv.lens_grid(lens)).splitlines()
    assert grid[0].split() == ["layer", *"abcab"] and len(grid) == 5
    assert grid[1].split()[1:] == lens[(lens.layer == 3) & (lens["rank"] == 1)].prediction.tolist()


def test_hostile_tokens_stay_text():
    for view in (lv.attention_strip(causal(5, 5), HOSTILE), lv.lens_grid(lens_of(HOSTILE))):
        assert_harmless(view._repr_html_())
        assert printable(repr(view)) == repr(view)
