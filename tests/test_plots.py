"""Figures show the numbers they are given, and no token text can break them."""

import matplotlib.pyplot as plt
import pytest
import torch

import llmviz as lv
from tests import tiny

NINE = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
LOGITS = [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]
HOSTILE = ["$_$", "</script>", "same", "same", "\\frac{"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_plot_temperature_draws_the_softmax_at_each_temperature():
    ax = lv.plot_temperature(LOGITS, NINE)
    heights = [[bar.get_height() for bar in group] for group in ax.containers]
    for temperature, group in zip((0.1, 1.0, 5.0), heights, strict=True):
        expected = (torch.tensor(LOGITS) / temperature).softmax(-1)
        assert group == pytest.approx(expected.tolist(), abs=1e-6)
    assert [t.get_text() for t in ax.get_xticklabels()] == NINE
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["T = 0.1", "T = 1", "T = 5"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((LOGITS, NINE[:3]), "labels"),
        (([LOGITS], NINE), "shape"),
        ((LOGITS, NINE, (1.0, 0.0)), "temperature"),
        ((LOGITS, NINE, ()), "temperatures"),
    ],
)
def test_plot_temperature_refuses(arguments, named):
    with pytest.raises(ValueError, match=named):
        lv.plot_temperature(*arguments)


def test_plot_probabilities_adds_the_rest_and_keeps_equal_labels_apart():
    ax = lv.plot_probabilities([0.4, 0.2, 0.1, 0.1, 0.05], HOSTILE)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.05, 0.15])
    assert [t.get_text() for t in ax.get_yticklabels()] == [*HOSTILE, "all others"]
    ax.figure.canvas.draw()  # a label read as mathematics would raise here
    with pytest.raises(ValueError, match="labels"):
        lv.plot_probabilities([0.5], ["a", "b"])


def test_every_function_draws_on_the_axes_it_is_given():
    run = lv.generate(tiny.model("gpt2"), tiny.tokenizer(), "hello", max_new_tokens=3)
    _, axes = plt.subplots(1, 4)
    assert lv.plot_temperature(LOGITS, NINE, ax=axes[0]) is axes[0]
    assert lv.plot_probabilities([0.5], ["a"], ax=axes[1]) is axes[1]
    assert lv.plot_steps(run, ax=axes[2]) is axes[2]
    assert lv.plot_surprisal({"a": [1.0, 2.0]}, ["x", "y"], ax=axes[3]) is axes[3]


def test_plot_steps_frames_the_chosen_token_and_shows_one_from_below():
    run = lv.generate(
        tiny.model("llama"), tiny.tokenizer(), "hello", max_new_tokens=5, do_sample=True,
        temperature=5.0, seed=0,
    )  # fmt: skip
    ax = lv.plot_steps(run, top_k=2)
    framed = [p for p in ax.patches if p.get_linewidth() > 2]
    assert len(framed) == len(run.steps[0])
    below = [s for s in run.steps[0] if s.rank > 2]
    assert below, "the case should draw a token of rank 3 or more"
    assert sum(p.get_y() > 1 for p in framed) == len(below)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "below"]


def test_plot_tokens_is_a_box_a_token_with_its_id():
    ax = lv.plot_tokens(HOSTILE, [1, 2, 3, 4, 5])
    assert [p.get_width() for p in ax.patches] == [len(label) + 2 for label in HOSTILE]
    assert [t.get_text() for t in ax.texts][::2] == HOSTILE
    assert [t.get_text() for t in ax.texts][1::2] == list("12345")
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match="token_ids"):
        lv.plot_tokens(["a"], [1, 2])


def test_plot_surprisal_refuses_more_values_than_labels():
    with pytest.raises(ValueError, match="labels"):
        lv.plot_surprisal({"a": [1.0, 2.0]}, ["x"])


@pytest.fixture(scope="module")
def beams():
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    return lv.generate(model, tokenizer, "hello", max_new_tokens=4, num_beams=3)


def test_the_beam_tree_has_a_node_a_candidate_and_one_winning_path(beams):
    ax = lv.plot_beam_tree(beams)
    nodes = {tuple(place) for c in ax.collections for place in c.get_offsets().tolist()}
    candidates = [c for step in beams.beams[0] for c in step.candidates]
    placed = {(x, y) for x, y in nodes if (x, y) != (0.0, 0.0)}
    assert len(placed) == len(candidates)
    edges, thick = [], []
    for lines in ax.collections:
        if hasattr(lines, "get_segments") and lines.get_segments():
            edges += lines.get_segments()
            thick += lines.get_segments() if lines.get_linewidths()[0] > 2 else []
    assert len(edges) == len(candidates)
    ends = {(round(x + 0.08), round(y)) for _, (x, y) in thick}
    assert ends == set(enumerate(beams.beam_paths[0], start=1))
    labels = [t.get_text() for t in ax.texts]
    finished = next(c for c in candidates if c.final_score is not None)
    assert any(label.endswith(f"\n{finished.final_score:.2f}") for label in labels)


def test_the_beam_tree_of_groups_of_beams_and_of_a_second_prompt():
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    run = lv.generate(
        model, tokenizer, ["hello", "abc"], max_new_tokens=4, num_beams=4, num_beam_groups=2,
        diversity_penalty=1.0,
    )  # fmt: skip
    ax = lv.plot_beam_tree(run, prompt=1)
    assert sum(len(c.get_offsets()) for c in ax.collections) >= len(run.beams[1]) * 4


def test_the_beam_tree_refuses_a_trace_without_beams():
    run = lv.generate(tiny.model("gpt2"), tiny.tokenizer(), "hello", max_new_tokens=2)
    with pytest.raises(ValueError, match="num_beams"):
        lv.plot_beam_tree(run)


def test_plot_sampler_shows_cut_tokens_and_each_side_adds_up_to_one():
    run = lv.generate(
        tiny.model("llama"), tiny.tokenizer(), "hello", max_new_tokens=2, do_sample=True, top_k=3,
        seed=0,
    )  # fmt: skip
    ax = lv.plot_sampler(run, step=2, top_k=6)
    before, after = ([bar.get_width() for bar in group] for group in ax.containers)
    assert sum(before) == pytest.approx(1) and sum(after) == pytest.approx(1)
    assert after[3:6] == [0, 0, 0] and min(before[:6]) > 0
    assert [t.get_text() for t in ax.texts].count(" cut") == 3
    with pytest.raises(ValueError, match="step=3.* from 1 to 2"):
        lv.plot_sampler(run, step=3)


def test_plot_rank_curve_draws_each_cut_off_where_it_cuts():
    probabilities = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1])
    ax = lv.plot_rank_curve(probabilities.log(), top_k=2, top_p=0.8, min_p=0.2, typical_p=0.5)
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.4, 0.3, 0.15, 0.1, 0.05])
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels[:3] == ["top_k = 2 keeps 2", "top_p = 0.8 keeps 3", "min_p = 0.2 keeps 4"]
    assert [line.get_xdata()[0] for line in ax.lines[1:4]] == [2.5, 3.5, 4.5]
    assert len(lv.plot_rank_curve(probabilities.log()).lines) == 1


def test_show_stores_a_picture_and_its_description(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    lv.show(lv.plot_probabilities([0.5], ["a"]), alt="one bar", title="a $ sign")
    ((bundle,), options) = shown[0]
    assert bundle["text/plain"] == "one bar"
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert options["raw"] and options["metadata"]["image/png"]["width"] > 100
    assert not plt.get_fignums()
