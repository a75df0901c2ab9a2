"""Figures show the numbers they are given, and no token text can break them."""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import llmviz as lv
from llmviz import plots
from llmviz.trace import BeamStep, Candidate, Step, Trace
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


# Whatever is passed: an error names the argument, and leaves no figure behind.

JUNK = [
    None, True, -1, 10**9, 10**400, 1.5, math.nan, -math.inf, "", "hello", "\ud800", b"x", [], {},
    [None], [0.5], ["a"], [math.nan, 1], [math.inf, 1], [[1, 2], [3]], [10**400, 1], {"a": [1]},
    {"a": [math.nan]}, {"a": "x"}, {1: [1]}, {"a": []}, {"a", "b"}, object(), len, np.zeros(0),
    np.full((2, 2), math.nan), np.array("ab"), np.array(1.5), np.array(["a"]), torch.tensor([]),
    torch.tensor([[1j, 2]]), torch.ones(2, 2, dtype=torch.bool), torch.empty(2, 2, device="meta"),
    torch.zeros(0, 2, 2), torch.full((3, 2, 4), math.nan), torch.full((1, 1, 2, 2), 1.5),
    pd.DataFrame(), pd.Series([None, None]), plt.Figure(),
]  # fmt: skip


def calls():
    """By name, arguments that are right."""
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    run = lv.generate(model, tokenizer, "hello", max_new_tokens=3)
    beams = lv.generate(model, tokenizer, "hello", max_new_tokens=3, num_beams=3)
    weights, two = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), ["a", "b"]
    hidden = torch.rand(3, 2, 4)
    lens = lv.logit_lens(model, tokenizer, "abc")
    return {
        "plot_probabilities": {
            "probabilities": [0.5, 0.5], "labels": two, "chosen": 1, "rest": True,
        },
        "plot_temperature": {"logits": [1.0, 2.0], "labels": two, "temperatures": [1.0]},
        "plot_tokens": {"labels": two, "token_ids": [1, 2]},
        "plot_surprisal": {"surprisals": {"a": [1, 2]}, "labels": two},
        "plot_steps": {"run": run, "sequence": 0, "top_k": 5},
        "plot_sampler": {"run": run, "step": 1, "sequence": 0, "top_k": 5},
        "plot_rank_curve": {
            "logits": [1.0, 2.0], "top_k": 1, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.5,
        },
        "plot_beam_tree": {"run": beams, "prompt": 0, "max_steps": 2},
        "plot_attention_overview": {
            "weights": weights[None, None], "labels": two, "layer": 0, "head": 0,
        },
        "plot_attention": {"weights": weights, "labels": two},
        "plot_ranks": {"ranks": {"a": [1, 2]}},
        "plot_similarity": {"hidden": hidden},
        "plot_norms": {"hidden": hidden, "labels": two},
        "token_strip": {"run": run, "sequence": 0},
        "side_by_side": {"runs": {"a": run, "b": run}},
        "attention_strip": {"weights": weights, "labels": two, "query": 1},
        "lens_grid": {"lens": lens, "every": 1},
    }  # fmt: skip


CALLS = calls()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, right in CALLS.items() for argument in right]
)
def test_an_argument_is_drawn_or_refused_by_its_name(name, argument):
    right = CALLS[name]
    getattr(lv, name)(**right)
    refused = 0
    for wrong in JUNK:
        plt.close("all")
        try:
            getattr(lv, name)(**right | {argument: wrong})
        except (ValueError, TypeError) as error:
            refused += 1
            assert argument in str(error) and len(str(error)) < 400
            assert not plt.get_fignums()
    assert refused > len(JUNK) / 2


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("plot_")])
def test_axes_are_axes(name):
    for wrong in (plt.Figure(), "ax", [1], object()):
        with pytest.raises(TypeError, match="ax="):
            getattr(lv, name)(**CALLS[name], ax=wrong)
    assert not plt.get_fignums()


def damaged(**changes):
    run = CALLS["plot_steps"]["run"]
    steps = [replace(step, **changes) for step in run.steps[0]]
    return replace(run, steps=[steps])


@pytest.mark.parametrize("view", ["plot_steps", "plot_sampler", "token_strip"])
@pytest.mark.parametrize(
    "changes",
    [
        {"log_prob": math.nan}, {"log_prob": "x"}, {"log_prob": 1.0}, {"entropy": math.nan},
        {"entropy": math.inf}, {"rank": "1"}, {"rank": None}, {"token_id": "a"},
        {"candidates": None}, {"candidates": [None]},
        {"candidates": [Candidate(1, 1, math.nan, math.nan, 0.0, 0.5)]},
        {"candidates": [Candidate(1, 1, 0.0, -1.0, 0.0, math.nan)]},
    ],
)  # fmt: skip
def test_a_record_that_holds_no_numbers_is_refused(view, changes):
    with pytest.raises((ValueError, TypeError), match="run holds, in step 1 of sequence 0"):
        getattr(lv, view)(damaged(**changes))
    assert not plt.get_fignums()


def test_a_record_without_labels_or_steps_is_refused():
    run = CALLS["plot_steps"]["run"]
    for view in (lv.plot_steps, lv.plot_sampler, lv.token_strip):
        with pytest.raises(ValueError, match="run has no label"):
            view(replace(run, labels={}))
    for view in (lv.plot_steps, lv.plot_sampler):
        with pytest.raises(ValueError, match="run has no new tokens"):
            view(replace(run, steps=[[]]))
    with pytest.raises(ValueError, match="no text of its prompt"):
        lv.token_strip(replace(run, prompts=[]))
    with pytest.raises(ValueError, match="step 2, the token that was chosen"):
        steps = run.steps[0]
        lv.plot_steps(replace(run, steps=[[steps[0], replace(steps[1], candidates=[])]]))


def test_the_beam_tree_refuses_sums_that_are_no_numbers(beams):
    steps = [
        BeamStep([replace(c, sum_score=math.nan) for c in s.candidates]) for s in beams.beams[0]
    ]
    with pytest.raises(ValueError, match="run holds, in step 1 of prompt 0"):
        lv.plot_beam_tree(replace(beams, beams=[steps]))


def tied(ranks, chosen):
    """A step of equally likely and other tokens: `ranks` by token, from the first on."""
    candidates = [Candidate(i, r, 0.0, -float(r), 0.0, 0.1) for i, r in enumerate(ranks)]
    step = Step(chosen, ranks[chosen], -float(ranks[chosen]), 1.0, 9, 1.0, candidates)
    labels = {i: str(i) for i in range(len(ranks))}
    return Trace(["x"], ["x"], torch.zeros(1, 1, dtype=torch.long), 0, [[step]], labels)


@pytest.mark.parametrize("chosen", range(4))
def test_of_equally_likely_tokens_the_chosen_one_stands_first(chosen):
    run = tied([1, 2, 2, 2], chosen)
    ax = lv.plot_steps(run, top_k=3)
    (framed,) = [p for p in ax.patches if p.get_linewidth() > 2]
    assert framed.get_y() + 0.44 == pytest.approx(run.steps[0][0].rank - 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "3"], "nothing is below"


def test_a_candidate_never_stands_in_a_row_that_is_not_its_rank():
    # The likeliest two were recorded, and what the processors lifted: ranks 9 and 30.
    ax = lv.plot_steps(tied([1, 2, 9, 30], 3), top_k=5)
    assert sorted(round(p.get_y() + 0.44) for p in ax.patches) == [0, 1, 5]


def test_no_name_is_read_as_mathematics_or_left_out():
    names = ["$x^", "_hidden", "\\frac{", "猫\x1b"]
    for ax in (
        lv.plot_surprisal({name: [1.0, 2.0] for name in names}, ["$a$", "\\"]),
        lv.plot_ranks({name: [1, 2] for name in names}),
    ):
        ax.figure.canvas.draw()
        texts = ax.get_legend().get_texts()
        assert [t.get_text() for t in texts] == [*names[:3], "⟨U+732B⟩⟨U+001B⟩"]
        assert not any(t.get_parse_math() for t in texts)


def test_drawable_writes_what_the_font_lacks_and_what_no_page_may_hold():
    assert plots.drawable("é🐈\ud800\u202e\0") == "é⟨U+1F408⟩⟨U+D800⟩⟨U+202E⟩⟨U+0000⟩"
    assert plots.drawable("abcdef", 4) == "abc…"
    with plt.rc_context({"font.family": ["DejaVu Sans", "DejaVu Sans Mono"]}):
        assert plots.drawable("é") == "é"


LONG = 400  # steps


def long_run():
    step = CALLS["plot_steps"]["run"].steps[0][0]
    return replace(CALLS["plot_steps"]["run"], steps=[[step] * LONG])


def long_beams():
    beams = CALLS["plot_beam_tree"]["run"]
    return replace(beams, beams=[beams.beams[0][:1] * LONG])


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: lv.plot_steps(long_run()), "the last 280 steps are left out"),
        (lambda: lv.plot_beam_tree(long_beams()), "the last 340 steps are not drawn"),
        (
            lambda: lv.plot_surprisal({"a": [1.0] * LONG}, ["tok"] * LONG),
            "one label in 25 is shown",
        ),
        (lambda: lv.plot_tokens(["token"] * LONG, range(LONG)), ""),
        (lambda: lv.plot_tokens(["token"] * 10 * LONG), "… 3,600 more tokens"),
        (lambda: lv.plot_attention_overview(torch.zeros(1, 128, 2, 2), ["a", "b"]), ""),
    ],
)
def test_what_is_long_stays_a_page_wide_and_says_what_is_left_out(draw, says):
    ax = draw()
    width, height = ax.figure.get_size_inches()
    assert width <= 21 and height <= 45
    texts = [ax.get_xlabel(), *(t.get_text() for t in ax.texts)]
    assert any(says in text for text in texts)


def test_a_folded_board_has_all_steps():
    run = long_run()
    run.steps[0] = run.steps[0][:30]
    ax = lv.plot_steps(run, top_k=5)
    assert sum(p.get_linewidth() > 2 for p in ax.patches) == 30
    assert {str(t) for t in range(1, 31)} <= {t.get_text() for t in ax.texts}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "3", "4", "5"] * 3
    assert ax.figure.get_size_inches()[0] < 14


def test_too_many_bars_are_refused():
    with pytest.raises(ValueError, match="probabilities has 101 entries"):
        lv.plot_probabilities([0.001] * 101, ["a"] * 101)
    with pytest.raises(ValueError, match="logits has 101 entries"):
        lv.plot_temperature([0.001] * 101, ["a"] * 101)
    assert not plt.get_fignums()


def test_settings_stand_as_they_were_given():
    ax = lv.plot_temperature([1.0, 2.0], ["a", "b"], [0.12345678, 2])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["T = 0.12345678", "T = 2"]
    ax = lv.plot_rank_curve(torch.arange(9.0), top_k=1234567, top_p=0.98765432)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == ["top_k = 1234567 keeps 9", "top_p = 0.98765432 keeps 5"]


def test_a_score_of_nothing_has_no_sign(beams):
    steps = [BeamStep([replace(c, sum_score=-1e-9) for c in s.candidates]) for s in beams.beams[0]]
    ax = lv.plot_beam_tree(replace(beams, beams=[steps]))
    assert not any("-0.00" in t.get_text() for t in ax.texts)


def test_numpy_pandas_and_torch_are_numbers_and_lists():
    ax = lv.plot_probabilities(
        pd.Series([0.5, 0.25], index=[7, 9]), pd.Series(["a", "b"]), chosen=np.int64(1)
    )
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.25, 0.25]
    lv.plot_probabilities(np.array([0.5, 0.25]), np.array(["a", "b"]), chosen=torch.tensor(0))
    lv.plot_temperature(torch.ones(2, dtype=torch.bfloat16), ("a", "b"), np.array([0.5, 1.0]))
    lv.plot_rank_curve([1.0, -math.inf, 0.5])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"alt": None}, "alt"),
        ({"alt": " "}, "alt"),
        ({"alt": "\ud800"}, "alt"),
        ({"title": 3}, "title"),
    ],
)
def test_show_refuses_what_would_make_an_invalid_notebook(monkeypatch, wrong, named):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append(a))
    with pytest.raises((ValueError, TypeError), match=named):
        lv.show(plt.subplots()[1], **{"alt": "a", **wrong})
    with pytest.raises(TypeError, match="ax="):
        lv.show(None, alt="a")
    assert not shown and not plt.get_fignums()
