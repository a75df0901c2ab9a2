"""The comparison: the runs are generate's, the figures are counted by hand, the text is no code."""

import threading

import matplotlib.pyplot as plt
import pytest

import llmviz as lv
from llmviz.widgets import compare
from llmviz.widgets.compare import distinct, measures, parse_arguments
from tests import hostile, tiny
from tests.test_html import hand_made
from tests.views import assert_harmless, assert_leaves_a_picture

PROMPT = "hello there"
STRATEGIES = {
    "greedy": {},
    "beams": {"num_beams": 3, "length_penalty": 0.5},
    "top-p": {"do_sample": True, "top_p": 0.9, "seed": 0},
}


def comparison(prompt=PROMPT, strategies=None, **more):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    return lv.Comparison(
        model, tokenizer, prompt, strategies or STRATEGIES, **({"max_new_tokens": 8} | more)
    )


def press_run(found):
    found.run_button.click()
    found.wait(60)


@pytest.fixture
def generated(monkeypatch):
    """The settings of every run from here on."""
    calls = []

    def counted(*args, **kwargs):
        calls.append({k: v for k, v in kwargs.items() if k != "logits_processor"})
        return lv.generate(*args, **kwargs)

    monkeypatch.setattr(compare, "generate", counted)
    return calls


def test_each_row_is_what_generate_does():
    found = comparison(strategies=STRATEGIES | {"short": {"max_new_tokens": 3}})
    for name, settings in (STRATEGIES | {"short": {"max_new_tokens": 3}}).items():
        wanted = lv.generate(
            tiny.model("llama"), tiny.tokenizer(), PROMPT, **({"max_new_tokens": 8} | settings)
        )
        run = found.runs[name]
        assert run.sequences.tolist() == wanted.sequences.tolist() and run.texts == wanted.texts
        assert run.steps == wanted.steps
        assert f"{wanted.sum_logprobs[0]:.2f}" in found.view.value


def test_run_generates_what_was_edited_and_nothing_else(generated):
    found = comparison()
    assert len(generated) == 3
    before = found.view.value
    found.settings_boxes[0].value = "no_repeat_ngram_size=2"
    assert "Run takes it over" in found.message.value and found.view.value == before
    press_run(found)
    assert generated[3:] == [{"max_new_tokens": 8, "no_repeat_ngram_size": 2}]
    assert found.message.value == ""
    found.name_boxes[3].value = "fourth"
    press_run(found)  # plain greedy, which is known from before
    assert len(generated) == 4 and list(found.runs)[-1] == "fourth"
    found.name_boxes[1].value = ""
    press_run(found)
    assert list(found.runs) == ["greedy", "top-p", "fourth"] and len(generated) == 4
    found.prompt_box.value = "how are you?"
    press_run(found)
    assert found.prompt == "how are you?" and len(generated) == 7


def test_drawing_without_a_seed_is_done_each_time(generated):
    found = comparison(strategies={"a": {"do_sample": True}, "b": {}})
    press_run(found)
    assert len(generated) == 3


def test_stop_ends_a_generation_and_leaves_everything_as_it_was():
    found = comparison()
    runs, reading, go_on = found.runs, threading.Event(), threading.Event()
    passes = []

    def wait(*_):
        passes.append(1)
        reading.set()
        assert go_on.wait(30)

    hook = found.model.register_forward_pre_hook(wait)
    try:
        found.settings_boxes[0].value = "max_new_tokens=90"
        found.run_button.click()
        assert reading.wait(30)
        thread = found._thread
        found.stop()
        go_on.set()
        thread.join(30)
        assert len(passes) == 1, "the generation itself should stop"
    finally:
        hook.remove()
    assert found.runs is runs and "Stopped" in found.message.value
    press_run(found)
    assert len(found.runs["greedy"].steps[0]) > 8


@pytest.mark.parametrize(
    "text, words",
    [
        ("temperature=0.0, do_sample=True", "temperature=0.0"),
        ("do_sampel=True", "do_sampel"),
        ("do_sample", "write arguments"),
        ("num_return_sequences=2, do_sample=True", "num_return_sequences"),
        ("max_new_tokens=900", "context of 128"),
    ],
)
def test_a_mistake_is_named_with_its_strategy_and_the_next_run_works(text, words, generated):
    found = comparison()
    before = found.view.value
    found.settings_boxes[2].value = text
    press_run(found)
    assert words in found.message.value and 'role="alert"' in found.message.value
    assert "top-p" in found.message.value
    assert found.view.value == before
    found.settings_boxes[2].value = "num_beams=2"
    press_run(found)
    assert found.message.value == "" and "num_beams" not in before


def test_other_mistakes_are_named():
    found = comparison()
    found.name_boxes[1].value = "greedy"
    press_run(found)
    assert "same name" in found.message.value
    for box in found.name_boxes[1:]:
        box.value = ""
    press_run(found)
    assert "two or more" in found.message.value
    found.name_boxes[1].value = "b"
    found.prompt_box.value = ""
    press_run(found)
    assert "no tokens" in found.message.value
    found.prompt_box.value = "x"
    press_run(found)
    assert found.message.value == ""


def test_at_the_start_bad_arguments_raise():
    for strategies in ({"a": {}}, {str(i): {} for i in range(5)}):
        with pytest.raises(ValueError, match="two to 4"):
            comparison(strategies=strategies)
    with pytest.raises(ValueError, match="prompt is ''"):
        comparison("")
    with pytest.raises(ValueError, match="b: temperature=0.0"):
        comparison(strategies={"a": {}, "b": {"do_sample": True, "temperature": 0.0}})
    with pytest.raises(ValueError, match="write arguments"):
        comparison(strategies={"a": {}, "b": {"logits_processor": lambda ids, scores: scores}})


def test_arguments_are_plain_values_and_nothing_runs():
    wanted = {"do_sample": True, "top_p": 0.9, "bad_words_ids": [[1, 2]], "early_stopping": "never"}
    text = 'do_sample=True, top_p=0.9, bad_words_ids=[[1, 2]], early_stopping="never",'
    assert parse_arguments(text) == wanted
    assert parse_arguments("") == parse_arguments("  ") == {}
    assert parse_arguments("length_penalty=-1.5") == {"length_penalty": -1.5}
    for text in (
        "top_p=print(1)", "top_p=__import__('os')", "0.9", "**{}", "*[]", "top_p=", "top_p=0.9)",
        "top_p=0.9) + f(", "a=1, a=2", "top_p=x", "top p=1", "\x00", "(" * 500, "a=[" * 300,
        "top_p=0.9).g(x=1",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="write arguments"):
            parse_arguments(text)


def test_figures_counted_by_hand():
    first, run = hand_made(["a"] * 8), hand_made(["a"] * 8)
    ids = [1, 2, 1, 2, 1, 2, 3, 4]
    for step, token_id in zip(run.steps[0], ids, strict=True):
        step.token_id = token_id
    for step, token_id in zip(first.steps[0], [1, 2, 1, 4, 1, 2, 3, 4], strict=True):
        step.token_id = token_id
    found = measures(run, first)
    assert found["differs from"] == 4 and found["tokens"] == 8
    assert found["distinct-1"] == 4 / 8
    assert found["distinct-2"] == 4 / 7  # 12 21 23 34
    assert found["distinct-3"] == 4 / 6  # 121 212 123 234
    assert found["repeated 4-grams"] == pytest.approx(1 - 4 / 5)  # 1212 2121 1212 2123 1234
    assert found["per token"] == found["log-probability"] / 8
    assert measures(run, run)["differs from"] is None
    assert distinct([1, 2], 3) is None
    short = measures(hand_made(["a"]), first)
    assert short["repeated 4-grams"] is None and short["distinct-2"] is None


def test_the_first_difference_is_marked_and_told():
    found = comparison()
    first, second = (found.runs[n].tokens[0] for n in ("greedy", "beams"))
    where = next(i for i, (a, b) in enumerate(zip(first, second, strict=False), 1) if a != b)
    assert found.view.value.count("#fde3b0") == 2
    assert f"token {where}" in found.view.value and f"from token {where} on" in repr(found)
    frame = found.frame
    assert list(frame.strategy) == list(found.runs) and frame["differs from"][1] == where


def test_hostile_tokens_names_and_prompts_stay_text():
    strategies = {hostile.TEXTS[0]: {}, hostile.TEXTS[2]: {"do_sample": True, "seed": 1}}
    found = lv.Comparison(
        hostile.model(), hostile.tokenizer(), hostile.PROMPT, strategies, max_new_tokens=8
    )
    assert any(text in repr(found) for text in hostile.TEXTS)
    assert_leaves_a_picture(found)
    found.settings_boxes[0].value = "<img src=x onerror=alert(1)>"
    press_run(found)
    assert "&lt;img" in found.message.value
    assert_harmless(found.message.value)
    found.figure().figure.canvas.draw()
    plt.close("all")


def test_the_figure_frames_the_first_difference():
    found = comparison()
    ax = found.figure()
    framed = [t.get_text() for t in ax.texts if t.get_bbox_patch() is not None]
    places = [row["differs from"] for row in found._measures().values()]
    wanted = [
        run.tokens[0][place - 1]
        for run, place in zip(found.runs.values(), places, strict=True)
        if place
    ]
    assert framed == wanted and len(wanted) == 2
    plt.close("all")


def test_on_the_default_model(default_model):
    found = lv.Comparison(
        *default_model, "The capital of France is", {"a": {}, "b": {"num_beams": 2}},
        max_new_tokens=3,
    )  # fmt: skip
    assert "␣Paris" in repr(found)


def test_it_remembers_a_few_runs_only():
    found = comparison(max_new_tokens=2)
    for n in range(12):
        found.prompt_box.value = f"hello {n}"
        press_run(found)
    assert len(found._known) <= 16


def test_no_strategy_runs_before_all_are_checked(generated):
    with pytest.raises(ValueError, match="b: .*top_p"):
        comparison(strategies={"a": {}, "b": {"do_sample": True, "top_p": 7}})
    assert not generated
    found = comparison(strategies={"a": {}, "b": {"num_beams": 2}})
    found.settings_boxes[0].value = "no_repeat_ngram_size=2"
    found.settings_boxes[1].value = "num_beams=0"
    press_run(found)
    assert "num_beams=0" in found.message.value and len(generated) == 2
    assert "those of the last run" in found.message.value


def test_the_figure_of_a_long_run_is_cut_and_says_so():
    found = comparison(max_new_tokens=118, prompt="x")
    for run in found.runs.values():
        run.labels.update(dict.fromkeys(run.labels, "abcdefghijkl" * 9))
    ax = found.figure()
    width, height = ax.figure.get_size_inches()
    assert width == 11 and height < 20
    assert any("more tokens" in t.get_text() for t in ax.texts)
    plt.close("all")
