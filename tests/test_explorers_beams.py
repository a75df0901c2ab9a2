"""The beam explorer: every place of its sliders is a real search, made beforehand."""

import copy
import html
import itertools
import random
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
from llmviz.explorers.beam_picture import tree_svg
from llmviz.explorers.replays import FATES, STOPPINGS, penalties
from tests import hostile, tiny
from tests.code import result_of_code
from tests.scripted import Scripted, drawn
from tests.views import assert_leaves_a_picture

PROMPT = "hello there"
PENALTIES = (-2.0, -0.5, 0.0, 1.0, 2.5)


def explorer(model=None, prompt=PROMPT, **settings):
    return lv.BeamExplorer(
        model or ending(), tiny.tokenizer(), prompt, **({"max_new_tokens": 7} | settings)
    )


def ending(architecture="llama", seed=0, every=12):
    """A model whose texts end often, so that length penalty and early stopping matter."""
    model = copy.copy(tiny.model(architecture, seed))
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = [tiny.EOS, *range(0, 256, every)]
    return model


def at_each_setting(found):
    for penalty, stopping in itertools.product(PENALTIES, STOPPINGS):
        found.chosen = {"length_penalty": penalty, "early_stopping": stopping}
        yield penalty, stopping


def at_each_step(found):
    last = length(found)
    for step in range(1, last + 1):
        found.chosen = {**found.chosen, "step": step}
        yield step


def length(found):
    """How many steps the search has for what is chosen."""
    row = STOPPINGS.index(found.chosen["early_stopping"])
    column = found.state["penalties"].index(found.chosen["length_penalty"])
    return found.state["replays"][found.state["places"][row][column]]["steps"]


def asked(found, **content):
    """What the browser sends."""
    found._on_message(found, content, [])
    found.wait(60)


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
        assert found.now.is_over
        score, path = found.now.finished[0]
        assert [c.token_id for c in path] == [s.token_id for s in run.steps[0]]
        assert score == run.sequences_scores[0]
        texts.add(run.text)
    assert len(texts) > 1, "the settings should matter"


def told(state, stopping, penalty, step):
    """What the state says of a place and a step, as the browser reads it."""
    replay = state["replays"][state["places"][stopping][penalty]]
    cells = [[list(c[-3:]) for c in candidates] for candidates in state["steps"]]
    for t, i, *cell in replay["changes"]:
        cells[t][i] = cell
    finished, known = None, []
    for now in replay["finished"][:step]:
        known = known if now is None else now
    finished = [tuple(place) for place in known]
    fates = []
    for t, candidates in enumerate(cells[:step]):
        for i, (fate, reason, beam) in enumerate(candidates):
            fate, reason = FATES[fate], state["reasons"][reason]
            if fate == "finished" and (t, i) not in finished:
                fate, reason = "discarded", state["lost"]
            fates.append((t, i, fate, reason, beam))
    return replay, finished, fates


@pytest.mark.parametrize("num_beams, seed, every", [(2, 0, 12), (3, 3, 40), (4, 1, 12), (3, 5, 5)])
def test_the_state_has_every_place_as_it_was_known_then(num_beams, seed, every):
    found = explorer(
        ending(seed=seed, every=every), num_beams=num_beams, max_new_tokens=9, length_penalty=0.77
    )
    state, draw = found.state, random.Random(seed)
    lost = 0
    for _ in range(25):
        row, column = draw.randrange(3), draw.randrange(len(state["penalties"]))
        key = state["penalties"][column], STOPPINGS[row]
        whole = found.search.books(*key)
        last = len(whole.history[0])
        step = draw.choice([last, draw.randint(1, last)])
        replay, finished, fates = told(state, row, column, step)
        assert replay["steps"] == last
        history = found.search.books(*key, step).history[0]
        assert fates == [
            (t, i, c.fate, c.reason, c.next_beam)
            for t, candidates in enumerate(history)
            for i, c in enumerate(candidates)
        ]
        for candidates, sent in zip(history, state["steps"], strict=False):
            for c, (rank, beam, token, score, total, ends, *_) in zip(
                candidates, sent, strict=True
            ):
                assert (rank, beam, token) == (c.rank, c.beam, c.token_id)
                assert torch.tensor([score, total]).equal(torch.tensor([c.score, c.sum_score]))
                assert ends == (c.final_score is not None)
        found.chosen = {"length_penalty": key[0], "early_stopping": key[1], "step": step}
        now = found.now
        paths = [history[t][i] for t, i in finished]
        assert [path[-1].token_id for _, path in now.finished] == [c.token_id for c in paths]
        assert [score for score, _ in now.finished] == [c.final_score for c in paths]
        if step == last:
            assert now.verdict == replay["over"]
        lost += sum(fate[3] == state["lost"] for fate in fates)
    assert lost or not state["lost"]


def test_no_slider_asks_the_model():
    found = explorer()
    found.search.prefix.model = None
    hook = found.model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        views = set()
        for _ in at_each_setting(found):
            for _ in at_each_step(found):
                views.add(found.picture())
        assert len(views) > 20 and found.message == ""
    finally:
        hook.remove()


def test_the_tree_grows_and_tells_what_was_known_then():
    found = explorer(early_stopping="never", length_penalty=2.5)
    last, later = length(found), set()
    assert found.chosen["step"] == last
    for _ in at_each_step(found):
        now = found.now
        steps = now.present.beams[0]
        assert len(steps) == found.chosen["step"]
        assert tree_svg(now.present, 7).count("step ") == len(steps)
        assert now.is_over == (len(steps) == last)
        fates = {(t, c.rank): c.fate for t, s in enumerate(steps) for c in s.candidates}
        later |= {k for k, fate in fates.items() if fate == "finished"}
    pushed_out = {k for k in later if fates[k] == "discarded"}
    assert pushed_out, "one that had finished should be pushed out by a better one"
    wanted = lv.generate(found.model, tiny.tokenizer(), PROMPT, **found.arguments)
    assert found.now.present.beams == wanted.beams
    assert found.now.present.beam_paths == wanted.beam_paths


def test_a_step_beyond_the_end_is_the_end_and_none_is_it_too():
    found = explorer()
    lengths = set()
    for _ in at_each_setting(found):
        lengths.add(length(found))
        assert found.chosen["step"] == length(found)
        found.chosen = {**found.chosen, "step": 1000}
        assert found.chosen["step"] == length(found)
    assert len(lengths) > 1


def test_hypotheses_are_spelled_from_their_first_token():
    found = explorer(num_beams=4)
    for step in at_each_step(found):
        now, key = found.now, list(found.chosen.values())[:2]
        before = found.search.books(*key, step - 1)
        for c in now.candidates:
            path = [x for x, _ in before.running_paths[0][c.beam]] + [c]
            assert now.hypothesis(c) == now.labels(path)


def test_it_says_whether_generate_gives_the_same(monkeypatch):
    found = explorer()
    assert "✓ generate" in found.picture() and "✓" in repr(found)
    found.chosen = {**found.chosen, "length_penalty": 2.0}
    assert "✓" not in repr(found) and "not yet compared" in found.picture()
    asked(found, type="compare", chosen=found.chosen)
    assert "✓" in repr(found) and len(found.answer) == 2
    found.chosen = {**found.chosen, "length_penalty": 1.0}
    assert "✓" in repr(found), "it has been compared before"
    generate = found.model.generate

    def other(*args, **kwargs):
        output = generate(*args, **kwargs)
        output.sequences[0, -1] += 1
        return output

    monkeypatch.setattr(found.model, "generate", other, raising=False)
    asked(found, type="compare", chosen={**found.chosen, "early_stopping": "never"})
    assert "✗ generate gives something else" in found.picture()


def test_a_penalty_between_two_places_is_the_nearest():
    found = explorer(length_penalty=0.77)
    assert found.chosen["length_penalty"] == 0.77 and "length_penalty=0.77" in found.call
    found.chosen = {**found.chosen, "length_penalty": 0.72}
    assert found.chosen["length_penalty"] == 0.7
    far = explorer(length_penalty=-9.5, max_new_tokens=2)
    assert far.chosen["length_penalty"] == -9.5 and "✓" in repr(far)
    assert penalties(1.0) == [number / 10 for number in range(-20, 41)]


def test_the_call_shown_is_the_call():
    found = explorer(num_beams=2, length_penalty=0.5, early_stopping="never", top_k=0)
    assert result_of_code(found).tolist() == found.run.sequences.tolist()
    assert found.call in html.unescape(found.picture())
    before, between, after = found.state["call"]
    assert f"{before}0.5{between}'never'{after}" == found.call
    ours = explorer(presence_penalty=0.5)
    assert ours.call.startswith("lv.generate") and not ours.state["comparable"]
    assert "not in transformers" in repr(ours) and not ours.answer
    with_signs = explorer(prompt="{0} \ue000 %s \ue001")
    assert len(with_signs.state["call"]) == 3


@pytest.mark.parametrize("architecture", ["gpt2", "mamba", "gemma3_text"])
def test_other_architectures(architecture):
    assert "✓" in repr(explorer(ending(architecture)))


def test_a_new_prompt_or_size_searches_again():
    found = explorer(length_penalty=2.0)
    asked(found, type="read", prompt="how are you?", num_beams=4, max_new_tokens=3)
    assert found.prompt == "how are you?" == found.state["prompt"]
    assert "how are you?" in found.picture() and found.message == ""
    assert found.chosen == {"length_penalty": 2.0, "early_stopping": False, "step": length(found)}
    assert len(found.now.candidates) % 4 == 0 and length(found) <= 3
    assert "not yet compared" in repr(found)
    wanted = lv.generate(found.model, tiny.tokenizer(), "how are you?", **found.arguments)
    assert found.run.to_json() and found.run.sequences.tolist() == wanted.sequences.tolist()


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"prompt": ""}, "no tokens"),
        ({"prompt": "x" * 500}, "context of 128"),
        ({"num_beams": 1}, "num_beams=1"),
        ({"num_beams": None}, "num_beams=None"),
        ({"max_new_tokens": "many"}, "max_new_tokens='many'"),
    ],
)
def test_what_is_typed_wrong_is_refused_in_words_and_the_next_one_works(bad, words):
    found = explorer()
    before, size = found.picture(), {"num_beams": 3, "max_new_tokens": 7}
    asked(found, type="read", **({"prompt": "good"} | size | bad))
    assert words in found.message and found.picture() == before
    asked(found, type="read", prompt="good", **size)
    assert found.message == "" and "good" in found.picture()


@pytest.mark.parametrize(
    "bad",
    [{"length_penalty": "high"}, {"length_penalty": None}, {"early_stopping": 1}, {"step": 0},
     {"early_stopping": "x"}, {"step": 1.5}, {"step": None}],
)  # fmt: skip
def test_what_the_browser_may_not_choose(bad):
    found = explorer()
    before, (name,) = found.chosen, bad
    found.set_state({"chosen": {**before, **bad}})
    assert found.chosen == before and name in found.message


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
        svg = unquote(re.search(r'charset=utf-8,([^"]*)"', found.picture())[1])
        tags = set(re.findall(r"<([a-zA-Z]+)", svg))
        assert tags == {"svg", "rect", "path", "circle", "text"} or tags == {
            "svg", "rect", "path", "text",
        }  # fmt: skip
        ElementTree.fromstring(svg)
    prompt = "hello </textarea><script>alert(1)</script> $x$ world"
    asked(found, type="read", prompt=prompt, num_beams=3, max_new_tokens=4)
    assert "&lt;/textarea&gt;" in found.picture()
    assert_leaves_a_picture(found)
    found.figure().figure.canvas.draw()
    plt.close("all")


def test_what_xml_forbids_does_not_break_the_tree():
    now = explorer().now
    now.present.labels.update(dict.fromkeys(now.present.labels, "\x00\x1b\ud800\ufffe<&>"))
    svg = unquote(re.search(r"charset=utf-8,([^\"]*)\"", tree_svg(now.present, 7))[1])
    ElementTree.fromstring(svg)


def test_the_figure_is_the_tree_at_the_present_step():
    found = explorer()
    found.chosen = {**found.chosen, "step": 2}
    ax = found.figure()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["step 1", "step 2"]
    plt.close("all")


def test_closed_it_says_so():
    found = explorer()
    found.close()
    assert repr(found) == "BeamExplorer, closed"
    with pytest.raises(ValueError, match="closed"):
        found.picture()


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
    assert all(c[4] > -1e6 for step in found.state["steps"] for c in step)
    for _ in at_each_step(found):
        now = found.now
        assert all(score > -1e6 for score, _ in now.finished)
        shown = unquote(found.picture()) + repr(found) + now.present.beam_frame.to_string()
        assert "00000" not in shown and found.message == ""
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
    picture = found.picture()
    width = int(re.search(r"width:(\d+)px;max-width:none", picture)[1])
    assert width <= 876 and "… 48" in unquote(picture)
    assert "of which the first 48 are left out" in picture
    found.chosen = {**found.chosen, "step": 12}
    assert "left out" not in found.picture()


def test_a_length_penalty_is_shown_as_it_was_given():
    found = explorer(length_penalty=0.12345678)
    assert "length_penalty=0.12345678" in repr(found)
    assert "length ** 0.12345678" in found.picture() and "0.12345678" in found.call
    found.chosen = {**found.chosen, "length_penalty": 0.1 + 0.2}
    assert "length_penalty=0.3," in repr(found)
