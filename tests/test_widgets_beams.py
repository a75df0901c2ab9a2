"""The beam explorer: every slider's state is a real search, and no slider asks the model."""

import copy
import html
import itertools
import re
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import llmviz as lv
from llmviz.widgets.beams import tree_svg
from tests import hostile, tiny
from tests.code import result_of_code
from tests.scripted import Scripted, drawn
from tests.views import assert_harmless, assert_leaves_a_picture

PROMPT = "hello there"
PENALTIES, STOPPING = (-2.0, -0.5, 0.0, 1.0, 2.5), (False, True, "never")


def explorer(model=None, prompt=PROMPT, **settings):
    return lv.BeamExplorer(
        model or ending(), tiny.tokenizer(), prompt, **({"max_new_tokens": 7} | settings)
    )


def ending(architecture="llama", seed=0):
    """A model whose texts end often, so that length penalty and early stopping matter."""
    model = copy.copy(tiny.model(architecture, seed))
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = [tiny.EOS, *range(0, 256, 12)]
    return model


def at_each_setting(found):
    for penalty, stopping in itertools.product(PENALTIES, STOPPING):
        found.penalty_slider.value, found.stopping_slider.value = penalty, stopping
        yield penalty, stopping


def at_each_step(found):
    for step in range(1, found.step_slider.max + 1):
        found.step_slider.value = step
        yield step


def theirs(model, settings):
    inputs = tiny.tokenizer()(PROMPT, return_tensors="pt")
    return model.generate(**inputs, **settings, return_dict_in_generate=True, output_scores=True)


@pytest.mark.parametrize("num_beams, seed", [(2, 0), (3, 3), (4, 1), (5, 3)])
def test_every_setting_is_what_generate_gives(num_beams, seed):
    model = ending(seed=seed)
    found = explorer(model, num_beams=num_beams, repetition_penalty=1.2)
    texts = set()
    for _ in at_each_setting(found):
        output = theirs(model, found.arguments)
        run = found.run
        assert run.sequences.tolist() == output.sequences.tolist()
        torch.testing.assert_close(torch.tensor(run.sequences_scores), output.sequences_scores)
        found.step_slider.value = found.step_slider.max
        assert found.is_over
        score, path = found.finished[0]
        assert [c.token_id for c in path] == [s.token_id for s in run.steps[0]]
        assert score == run.sequences_scores[0]
        texts.add(run.text)
    assert len(texts) > 1, "the settings should matter"


def test_no_slider_asks_the_model():
    found = explorer()
    found.search.prefix.model = None
    hook = found.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        views = set()
        for _ in at_each_setting(found):
            for _ in at_each_step(found):
                views.add(found.view.value)
        assert len(views) > 20 and found.message.value == ""
    finally:
        hook.remove()


def test_the_tree_grows_and_tells_what_was_known_then():
    found = explorer(early_stopping="never", length_penalty=2.5)
    last, later = found.step_slider.max, set()
    assert found.step_slider.value == last
    for _ in at_each_step(found):
        steps = found.present.beams[0]
        assert len(steps) == found.step_slider.value
        assert tree_svg(found.present, 7).count("step ") == len(steps)
        assert found.is_over == (len(steps) == last)
        fates = {(t, c.rank): c.fate for t, s in enumerate(steps) for c in s.candidates}
        later |= {k for k, fate in fates.items() if fate == "finished"}
    pushed_out = {k for k in later if fates[k] == "discarded"}
    assert pushed_out, "one that had finished should be pushed out by a better one"
    wanted = lv.generate(found.model, tiny.tokenizer(), PROMPT, **found.arguments)
    assert found.present.beams == wanted.beams
    assert found.present.beam_paths == wanted.beam_paths


def test_the_slider_stays_at_the_end_or_where_it_was():
    found = explorer(max_new_tokens=7)
    lengths = {}
    for _ in at_each_setting(found):
        lengths[found._key] = found.step_slider.max
        assert found.step_slider.value == found.step_slider.max
    assert len(set(lengths.values())) > 1
    found.step_slider.value = 1
    found.penalty_slider.value = 0.3
    assert found.step_slider.value == 1


def test_hypotheses_are_spelled_from_their_first_token():
    found = explorer(num_beams=4)
    for _ in at_each_step(found):
        before = found.search.books(*found._key, found.step_slider.value - 1)
        for c in found.present.beams[0][-1].candidates:
            path = [x for x, _ in before.running_paths[0][c.beam]] + [c]
            assert found._hypothesis(c) == [found._labels[x.token_id] for x in path]


def test_it_says_whether_generate_gives_the_same(monkeypatch):
    found = explorer()
    assert "✓ generate" in found.view.value and "✓" in repr(found)
    found.penalty_slider.value = 2.0
    assert "✓" not in repr(found) and "not yet compared" in found.view.value
    found.compare_button.click()
    found.wait(60)
    assert "✓" in repr(found)
    found.penalty_slider.value = 1.0
    assert "✓" in repr(found), "it has been compared before"
    found.stopping_slider.value = "never"
    generate = found.model.generate

    def other(*args, **kwargs):
        output = generate(*args, **kwargs)
        output.sequences[0, -1] += 1
        return output

    monkeypatch.setattr(found.model, "generate", other, raising=False)
    found.compare_button.click()
    found.wait(60)
    assert "✗ generate gives something else" in found.view.value


def test_the_call_shown_is_the_call():
    found = explorer(num_beams=2, length_penalty=0.5, early_stopping="never", top_k=0)
    assert result_of_code(found).tolist() == found.run.sequences.tolist()
    assert found.call in html.unescape(found.view.value)
    ours = explorer(presence_penalty=0.5)
    assert ours.call.startswith("lv.generate") and ours.compare_button.disabled
    assert "not in transformers" in repr(ours)


@pytest.mark.parametrize("architecture", ["gpt2", "mamba", "gemma3_text"])
def test_other_architectures(architecture):
    assert "✓" in repr(explorer(ending(architecture)))


def test_a_new_prompt_or_size_searches_again():
    found = explorer()
    found.prompt_box.value = "how are you?"
    found.wait(60)
    assert found.prompt == "how are you?" and "how are you?" in found.view.value
    found.beams_box.value = 4
    found.wait(60)
    assert len(found.present.beams[0][-1].candidates) % 4 == 0
    found.length_box.value = 3
    found.wait(60)
    assert found.step_slider.max <= 3
    wanted = lv.generate(found.model, tiny.tokenizer(), "how are you?", **found.arguments)
    assert found.run.to_json() and found.run.sequences.tolist() == wanted.sequences.tolist()


@pytest.mark.parametrize("prompt, words", [("", "no tokens"), ("x" * 500, "context of 128")])
def test_a_bad_prompt_is_refused_in_words_and_the_next_one_works(prompt, words):
    found = explorer()
    before = found.view.value
    found.prompt_box.value = prompt
    found.wait(60)
    assert words in found.message.value and found.view.value == before
    found.step_slider.value = 1  # the former search still works
    assert "step 1 of" in found.view.value
    found.prompt_box.value = "good"
    found.wait(60)
    assert found.message.value == "" and "good" in found.view.value


@pytest.mark.parametrize(
    "bad, named",
    [
        ({"prompt": ""}, "prompt is ''"),
        ({"num_beams": 1}, "num_beams=1"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"early_stopping": "maybe"}, "early_stopping='maybe'"),
        ({"length_penalty": float("nan")}, "length_penalty=nan"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
    ],
)
def test_at_the_start_bad_arguments_raise(bad, named):
    with pytest.raises(ValueError, match=named):
        explorer(**bad)
    with pytest.raises(TypeError, match="no setting"):
        explorer(numbeams=3)


def test_hostile_tokens_and_prompts_stay_text():
    found = lv.BeamExplorer(hostile.model(), hostile.tokenizer(), hostile.PROMPT, max_new_tokens=4)
    for _ in at_each_step(found):
        assert any(text[:4] in repr(found) for text in hostile.TEXTS)
        assert_leaves_a_picture(found)
        svg = unquote(re.search(r'charset=utf-8,([^"]*)"', found.view.value)[1])
        tags = set(re.findall(r"<([a-zA-Z]+)", svg))
        assert tags == {"svg", "rect", "path", "circle", "text"} or tags == {
            "svg", "rect", "path", "text",
        }  # fmt: skip
        ElementTree.fromstring(svg)
    found.prompt_box.value = "hello </textarea><script>alert(1)</script> $x$ world"
    found.wait(60)
    assert "&lt;/textarea&gt;" in found.view.value
    assert_leaves_a_picture(found)
    assert_harmless(found.message.value)
    found.figure().figure.canvas.draw()
    plt.close("all")


def test_what_xml_forbids_does_not_break_the_tree():
    found = explorer()
    found._labels.update(dict.fromkeys(found._labels, "\x00\x1b\ud800\ufffe<&>"))
    svg = unquote(re.search(r"charset=utf-8,([^\"]*)\"", tree_svg(found.present, 7))[1])
    ElementTree.fromstring(svg)


def test_the_figure_is_the_tree_at_the_present_step():
    found = explorer()
    found.step_slider.value = 2
    ax = found.figure()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["step 1", "step 2"]
    plt.close("all")


def test_on_the_default_model(default_model):
    found = lv.BeamExplorer(*default_model, "I enjoy walking with my cute dog", max_new_tokens=5)
    assert "✓" in repr(found)


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_what_continues_no_hypothesis_is_shown_nowhere(size, seed):
    """A step has more candidates than a small vocabulary has continuations."""
    model = Scripted(drawn(seed, size, 1.0), size, eos_token_id=size - 1, pad_token_id=size - 1)
    found = lv.BeamExplorer(model, letters(size), "a b", num_beams=4, max_new_tokens=3)
    assert "✓" in repr(found)
    for _ in at_each_step(found):
        steps = found.present.beams[0]
        assert all(c.sum_score > -1e6 for step in steps for c in step.candidates)
        assert all(score > -1e6 for score, _ in found.finished)
        shown = unquote(found.view.value) + repr(found) + found.present.beam_frame.to_string()
        assert "00000" not in shown and found.message.value == ""
        ax = found.figure()
        assert not [t for t in ax.texts if "00000" in t.get_text()]
        plt.close("all")


def letters(size):
    core = Tokenizer(WordLevel({c: i for i, c in enumerate("abcde"[:size])}, unk_token="a"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_a_long_search_stays_a_page_wide_and_says_what_is_left_out():
    model = Scripted(drawn(3, 5, 0.3), 5)
    found = lv.BeamExplorer(model, letters(5), "a b", num_beams=2, max_new_tokens=60)
    width = int(re.search(r"width:(\d+)px;max-width:none", found.view.value)[1])
    assert width <= 876 and "… 48" in unquote(found.view.value)
    assert "of which the first 48 are left out" in found.view.value
    found.step_slider.value = 12
    assert "left out" not in found.view.value
    plt.close("all")


def test_a_length_penalty_is_shown_as_it_was_given():
    found = explorer(length_penalty=0.12345678)
    assert "length_penalty=0.12345678" in repr(found)
    assert "length ** 0.12345678" in found.view.value and "0.12345678" in found.call
    found.penalty_slider.value = 0.1 + 0.2
    assert "length_penalty=0.3," in repr(found)
