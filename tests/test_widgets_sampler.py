"""The sampler bench: exact over the whole vocabulary, and the same draws as generate."""

import math
import re
import threading

import matplotlib.pyplot as plt
import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

import llmviz as lv
from llmviz.widgets.position import _one_core
from llmviz.widgets.sampler import SamplerBench
from tests import hostile, tiny
from tests.views import assert_harmless, assert_leaves_a_picture

PROMPT = "hello hello"
MOVES = {
    "temperature": 0.5,
    "top_k": 9,
    "top_p": 0.6,
    "min_p": 0.1,
    "typical_p": 0.7,
    "repetition_penalty": 1.5,
    "presence_penalty": 1.0,
    "frequency_penalty": 0.6,
}


def bench(prompt=PROMPT, architecture="llama", **settings):
    return lv.SamplerBench(tiny.model(architecture), tiny.tokenizer(), prompt, **settings)


def passes(model, monkeypatch):
    """Counts the model's forward passes from here on."""
    count, forward = [], model.forward

    def counted(*args, **kwargs):
        count.append(1)
        return forward(*args, **kwargs)

    counted.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(model, "forward", counted)
    return count


@pytest.mark.parametrize("name", MOVES)
def test_each_slider_does_what_its_processor_does_without_a_pass(name, monkeypatch):
    explorer = bench(continuation=" hey")
    before, count = explorer.view.value, passes(explorer.model, monkeypatch)
    explorer.settings.sliders[name].value = MOVES[name]
    at = explorer.position
    expected = lv.processors.process(
        at.logits, at.input_ids, prompt_length=len(PROMPT), **{name: MOVES[name]}
    )
    assert torch.equal(explorer.scores, expected)
    assert not torch.equal(expected, at.logits)
    assert explorer.view.value != before and not count
    assert f"{name}={MOVES[name]}" in repr(explorer)


def test_it_is_exact_over_the_whole_vocabulary():
    """Against transformers' own classes."""
    settings = {"temperature": 0.8, "top_k": 60, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95,
                "repetition_penalty": 1.3}  # fmt: skip
    explorer = bench(**settings)
    model, ids = tiny.model("llama"), tiny.tokenizer()(PROMPT, return_tensors="pt").input_ids
    logits = model(ids).logits[:, -1]
    classes = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(60),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.01),
            TypicalLogitsWarper(0.95),
        ]
    )
    scores = classes(ids, logits.clone())
    torch.testing.assert_close(explorer.scores, scores)
    raw, p, kept = logits[0].softmax(-1), scores[0].softmax(-1), scores[0] > -math.inf
    assert 1 < kept.sum() < 60
    assert explorer.step.kept == kept.sum()
    assert explorer.step.mass == pytest.approx(raw[kept].sum().item(), abs=1e-6)
    assert explorer.step.entropy == pytest.approx(-(raw * raw.log2()).sum().item(), abs=1e-5)
    left = p[kept]
    assert explorer.entropy_after == pytest.approx(-(left * left.log2()).sum().item(), abs=1e-5)
    *rows, others = explorer.rows()
    for row, candidate in zip(rows, explorer.step.candidates, strict=True):
        i = candidate.token_id
        assert row["before"] == pytest.approx(raw[i].item(), abs=1e-6)
        assert (row["after"] is None) == (not kept[i])
        assert (row["after"] or 0.0) == pytest.approx(p[i].item(), abs=1e-6)
    shown = [c.token_id for c in explorer.step.candidates]
    assert shown[:15] == logits[0].topk(15).indices.tolist()
    rest = [i for i in range(len(raw)) if i not in shown]
    assert others["before"] == pytest.approx(raw[rest].sum().item(), abs=1e-5)
    assert (others["after"] or 0) == pytest.approx(p[rest].sum().item(), abs=1e-5)
    assert f"all {len(rest)} others, {int(kept[rest].sum())} kept" == others["label"]


def test_cut_tokens_stay_visible_and_say_so():
    explorer = bench(top_k=2)
    assert explorer.view.value.count("<s>") == 13 + 1  # and the legend
    assert explorer.view.value.count(">cut<") == 13 + 1  # and all others
    assert repr(explorer).count("→ cut") == 14


def test_risen_tokens_join_the_rows():
    lifted = 200
    explorer = bench(logits_processor=lambda ids, s: s.index_fill(-1, torch.tensor([lifted]), 50.0))
    assert lifted in [c.token_id for c in explorer.step.candidates]
    assert len(explorer.step.candidates) <= 15 + 5


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_the_call_draws_the_same_token(architecture):
    explorer = bench(architecture=architecture, temperature=2.0, top_p=0.95, seed=3)
    explorer.draw_button.click()
    names = {"torch": torch, "model": explorer.model, "tokenizer": explorer.tokenizer, "lv": lv}
    *first, last = explorer.call.split("\n", 2)
    exec("\n".join(first), names)
    output = eval(last.replace("max_new_tokens=40", "max_new_tokens=1"), names)
    assert output[0, -1] == explorer.draws[0]
    run = lv.generate(
        explorer.model, explorer.tokenizer, PROMPT, max_new_tokens=1, do_sample=True,
        temperature=2.0, top_p=0.95, seed=3,
    )  # fmt: skip
    assert run.sequences[0, -1] == explorer.draws[0]


def test_the_call_switches_off_what_transformers_or_the_model_would_add(monkeypatch):
    explorer = bench()
    assert "top_k=0)" in explorer.call
    monkeypatch.setattr(explorer.model.generation_config, "repetition_penalty", 1.3)
    assert "repetition_penalty=1.0" in explorer.call
    explorer.settings.sliders["top_k"].value = 7
    assert "top_k=7" in explorer.call and "top_k=0" not in explorer.call
    assert explorer.call_box.value == explorer.call


def test_penalties_that_transformers_has_not_give_our_call():
    explorer = bench(presence_penalty=0.5)
    assert "not in transformers" in explorer.call
    assert "none yet" in repr(explorer)
    code = explorer.call[explorer.call.index("lv.generate") :]
    run = eval(code, {"lv": lv, "model": explorer.model, "tokenizer": explorer.tokenizer})
    assert run.settings["presence_penalty"] == 0.5
    explorer.continuation_box.value = " hey"
    explorer.wait(30)
    assert "none yet" not in repr(explorer)


def test_draws_follow_the_seed_and_start_anew_with_a_change():
    one, two = bench(temperature=3.0), bench(temperature=3.0)
    for explorer in (one, two):
        for _ in range(4):
            explorer.draw_button.click()
    assert one.draws == two.draws and len(set(one.draws)) > 1
    assert one.step.token_id == one.draws[-1]
    assert "▸" in one.view.value and "drawn with seed 0" in repr(one)
    two.seed_box.value = 1
    assert two.draws == []
    for _ in range(4):
        two.draw_button.click()
    assert one.draws != two.draws
    one.settings.sliders["top_k"].value = 1
    assert one.draws == [] and one.counts is None


def test_a_thousand_draws_stand_beside_what_is_expected():
    explorer = bench(top_k=4, temperature=2.0)
    explorer.draw_many_button.click()
    p = explorer.scores[0].softmax(-1)
    assert explorer.counts.sum() == 1000
    assert set(explorer.counts.nonzero().flatten().tolist()) <= set(p.nonzero().flatten().tolist())
    sigma = (1000 * p * (1 - p)).sqrt()
    assert ((explorer.counts - 1000 * p).abs() <= 5 * sigma + 0.5).all()
    rows = [r for r in explorer.rows() if r["after"] is not None]
    assert sum(r["count"] for r in explorer.rows()) == 1000
    expected = f"{1000 * rows[0]['after']:.1f} ±"
    assert expected in explorer.view.value and "expected of 1,000" in explorer.view.value
    near = re.search(r"(\d+) of (\d+) counts", repr(explorer))
    assert int(near[2]) == len(rows) == 4


def test_a_new_prompt_is_read_once(monkeypatch):
    explorer = bench()
    count = passes(explorer.model, monkeypatch)
    explorer.prompt_box.value = "another one"
    explorer.wait(30)
    assert len(count) == 1
    ids = tiny.tokenizer()("another one", return_tensors="pt").input_ids
    torch.testing.assert_close(explorer.position.logits, explorer.model(ids).logits[:, -1])
    assert "another one" in explorer.view.value and "'another one'" in repr(explorer)


@pytest.mark.parametrize("prompt, words", [("", "no tokens"), ("x" * 500, "context of 128")])
def test_a_bad_prompt_is_refused_in_words_and_the_next_one_works(prompt, words):
    explorer = bench()
    before = explorer.view.value
    explorer.prompt_box.value = prompt
    explorer.wait(30)
    assert words in explorer.message.value and explorer.view.value == before
    explorer.prompt_box.value = "good"
    explorer.wait(30)
    assert explorer.message.value == "" and "good" in explorer.view.value


def test_at_the_start_bad_arguments_raise():
    for arguments, error in (
        ({"prompt": ""}, "prompt is ''"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 3.0}, "top_p"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=error):
            bench(**arguments)
    with pytest.raises(TypeError, match="no setting"):
        bench(topk=3)


def test_a_value_beyond_the_sliders_is_kept():
    explorer = bench(temperature=9.0, top_k=250)
    assert explorer.settings.on == {"temperature": 9.0, "top_k": 250}


def test_all_off_is_one_change():
    explorer = bench(temperature=0.5, top_k=3, repetition_penalty=1.2)
    drawn = []
    explorer.view.observe(drawn.append, "value")
    explorer.settings.reset()
    assert explorer.settings.on == {} and len(drawn) == 1
    assert explorer.scores is explorer.position.logits


def test_a_prompts_own_tokens_are_not_generated_ones():
    explorer = bench(continuation="hello", frequency_penalty=0.5)
    change = explorer.position.logits - explorer.scores
    letter = tiny.tokenizer().convert_tokens_to_ids
    assert change[0, letter("l")] == pytest.approx(1.0)
    assert change[0, letter("h")] == pytest.approx(0.5)
    assert change.count_nonzero() == 4


def test_hostile_tokens_and_prompts_stay_text():
    explorer = lv.SamplerBench(hostile.model(), hostile.tokenizer(), hostile.PROMPT, top_k=9)
    explorer.draw_button.click()
    explorer.draw_many_button.click()
    assert any(text in repr(explorer) for text in hostile.TEXTS)
    assert_leaves_a_picture(explorer)
    explorer.prompt_box.value = "hello </textarea><script>alert(1)</script> $x$ world"
    explorer.wait(30)
    assert "&lt;/textarea&gt;" in explorer.view.value
    assert_leaves_a_picture(explorer)
    assert_harmless(explorer.message.value)
    explorer.figure().figure.canvas.draw()
    plt.close("all")


def test_it_leaves_a_picture_with_the_call():
    explorer = bench(top_p=0.8)
    assert_leaves_a_picture(explorer)
    assert "top_k=0, top_p=0.8" in explorer._repr_mimebundle_()["text/html"]


def test_the_figure_shows_the_same_numbers():
    explorer = bench(top_k=5)
    explorer.draw_many_button.click()
    ax = explorer.figure()
    rows = explorer.rows()
    widths = [bar.get_width() for bar in ax.patches]
    assert widths[: len(rows)] == pytest.approx([r["before"] for r in rows], abs=1e-6)
    assert widths[len(rows) : 2 * len(rows)] == pytest.approx(
        [r["after"] or 0.0 for r in rows], abs=1e-6
    )
    assert ax.lines[0].get_xdata() == pytest.approx([r["count"] / 1000 for r in rows])
    plt.close("all")


def test_on_the_default_model(default_model):
    explorer = lv.SamplerBench(*default_model, "The capital of France is", top_p=0.9)
    assert repr(explorer).splitlines()[2].startswith("␣Paris  77.")
    assert "of 49,152 tokens" in explorer.view.value


def test_a_rounding_error_from_the_browser_is_no_change():
    explorer = bench()
    explorer.draw_many_button.click()
    counts = explorer.counts
    explorer.settings.sliders["temperature"].value = 1.0000000000000002
    assert explorer.counts is counts
    explorer.settings.sliders["temperature"].value = 1.05
    assert explorer.counts is None


def test_a_drag_takes_one_core_and_no_other_thread_loses_its_own(monkeypatch):
    explorer, seen, begin = bench(), [], SamplerBench.begin
    before = torch.get_num_threads()

    def begins(self, *args):
        seen.append(torch.get_num_threads())
        return begin(self, *args)

    def in_a_new_thread():
        threads = []
        thread = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return threads

    _one_core.cache_clear()
    torch.set_num_threads(2)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(SamplerBench, "begin", begins)
            explorer.settings.sliders["top_k"].value = 5
            explorer.settings.sliders["top_k"].value = 6
        assert seen == [1, 1] and "top_k=6" in repr(explorer)
        assert torch.get_num_threads() == 2 and in_a_new_thread() == [2]
    finally:
        torch.set_num_threads(before)


def test_no_negative_zero():
    explorer = bench(top_k=1)
    assert "→ 0.00 bits" in repr(explorer) and "-0.00" not in repr(explorer) + explorer.view.value


def test_settings_are_shown_as_given():
    explorer = bench(temperature=0.123456789, top_p=0.98765432198)
    assert "temperature=0.123456789, top_p=0.98765432198" in repr(explorer)
    assert "temperature=0.123456789" in explorer.call


def test_after_an_error_the_sliders_are_where_the_picture_is(monkeypatch):
    explorer = bench(temperature=0.7, seed=3)
    explorer.draw_button.click()
    draws = explorer.draws

    def fails(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(explorer, "process", fails)
        explorer.settings.sliders["temperature"].value = 2.0
        assert "RuntimeError: no memory" in explorer.message.value
        assert explorer.settings.sliders["temperature"].value == 0.7
        explorer.seed_box.value = 9
        assert explorer.seed_box.value == 3 and explorer.draws == draws
    explorer.settings.sliders["temperature"].value = 2.0
    assert "temperature=2.0" in repr(explorer) and explorer.message.value == ""
