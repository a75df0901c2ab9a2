"""The processors in a row: each stage is exact, and the words say what happened."""

import math
import re
import threading

import matplotlib.pyplot as plt
import pytest
import torch

import llmviz as lv
from llmviz.tokens import token_id_of
from tests import hostile, tiny
from tests.test_widgets_sampler import asked, moved, passes, retyped
from tests.views import assert_harmless, assert_leaves_a_picture

PROMPT = "hello hello"
ALL = {
    "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5,
    "no_repeat_ngram_size": 2, "bad_words_ids": [[70]], "min_new_tokens": 20,
    "suppress_tokens": [71], "temperature": 1.7, "top_k": 60, "top_p": 0.97, "min_p": 0.005,
    "typical_p": 0.97, "epsilon_cutoff": 0.001, "eta_cutoff": 0.002,
}  # fmt: skip


def chain(prompt=PROMPT, **settings):
    return lv.ProcessorChain(tiny.model("llama"), tiny.tokenizer(), prompt, **settings)


def picked(explorer, token_id):
    explorer.set_state({"chosen": {**explorer.chosen, "token": token_id}})


@pytest.mark.parametrize("token_id", [0, 70, 71, 75, 100, tiny.EOS])
def test_every_stage_is_exact(token_id):
    explorer = chain(continuation=" hey", token=token_id, **ALL)
    at = explorer.position
    expected = [("logits", at.logits)] + list(
        lv.processors.stages(
            at.logits, at.input_ids, prompt_length=len(PROMPT), eos_token_ids=[tiny.EOS], **ALL
        )
    )
    names = [stage.name.partition("=")[0] for stage in explorer.stages]
    assert names == [name for name, _ in expected] == ["logits", *ALL]
    for stage, (_, scores) in zip(explorer.stages, expected, strict=True):
        assert stage.score == scores[0, token_id]
        assert stage.probability == pytest.approx(scores[0].softmax(-1)[token_id].item(), abs=1e-7)
        assert stage.left == (scores > -math.inf).sum()
        if stage.rank is None:
            assert stage.score == -math.inf
        else:
            assert stage.rank == 1 + (scores[0] > stage.score).sum()


def test_the_words_of_the_cut_offs_are_true_for_every_token():
    """The inequality in the words holds in numbers, and its sign says whether the token fell."""
    explorer = chain(temperature=2.0, top_k=50, top_p=0.9, min_p=0.02, epsilon_cutoff=0.01,
                     eta_cutoff=0.02)  # fmt: skip
    seen = set()
    for token_id in range(0, tiny.VOCABULARY, 3):
        picked(explorer, token_id)
        for before, stage in zip(explorer.stages, explorer.stages[1:], strict=False):
            name, fell = stage.name.partition("=")[0], stage.rank is None
            if before.rank is None:
                assert fell and stage.words == "out already"
            elif name == "top_k":
                assert ("beyond" in stage.words) == fell
                assert f"rank {before.rank} is" in stage.words
            elif name == "top_p":
                mass, sign = re.search(r"([\d.]+)% ([<≥]) 90%", stage.words).groups()
                assert (sign == "≥") == fell
                assert float(mass) >= 89.9 if fell else float(mass) <= 90.1
            elif name in ("min_p", "epsilon_cutoff", "eta_cutoff"):
                p, sign = re.match(r"([\d.]+)% ([<≥])", stage.words).groups()
                assert float(p) == pytest.approx(100 * before.probability, abs=0.006)
                assert (sign == "<") == fell
            seen.add((name, fell))
    both = {"top_k", "top_p", "min_p", "epsilon_cutoff"}
    assert {(name, fell) for name in both for fell in (True, False)} <= seen


def test_the_penalties_count_what_they_should():
    explorer = chain(
        continuation=" hello", token="l", repetition_penalty=1.5, presence_penalty=0.5,
        frequency_penalty=0.25,
    )  # fmt: skip
    words = {s.name: s.words for s in explorer.stages}
    assert words["repetition_penalty=1.5"].startswith("in the text: ")
    assert words["presence_penalty=0.5"] == "generated: − 0.5"
    assert words["frequency_penalty=0.25"] == "generated 2×: − 2 · 0.25"
    asked(explorer, type="type", text="z")
    words = [s.words for s in explorer.stages[1:]]
    assert words == ["not in the text", "not generated so far", "not generated so far"]


def test_a_repeated_ngram_falls_out():
    explorer = chain(prompt="abcab", token="c", no_repeat_ngram_size=3)
    assert explorer.verdict == (
        "“c” falls out at no_repeat_ngram_size=3: would repeat 3 tokens of the text."
    )


def test_by_default_it_follows_the_likeliest_that_falls_out():
    explorer = chain(top_k=5)
    fifth = explorer.position.logits[0].topk(6).indices[-1]
    assert explorer.token_id == fifth
    assert "rank 6 is beyond 5" in explorer.verdict
    assert "✗ out" in explorer.picture() and "−∞" in explorer.picture()
    nothing = chain()
    assert nothing.token_id == nothing.position.logits.argmax()
    assert " stays: " in nothing.verdict and len(nothing.stages) == 1


def test_a_token_can_be_picked_or_typed_without_a_pass(monkeypatch):
    explorer = chain(temperature=0.7, top_k=9)
    count = passes(explorer.model, monkeypatch)
    third = explorer.position.logits[0].topk(3).indices[2].item()
    picked(explorer, third)
    assert explorer.token_id == third
    asked(explorer, type="type", text="␣")
    space = tiny.tokenizer()(" ")["input_ids"][0]
    assert explorer.token_id == space and "“␣”" in explorer.picture()
    moved(explorer, top_k=3)
    assert explorer.token_id == space and not count


def test_a_text_of_several_tokens_is_refused_in_words():
    explorer = chain()
    before = explorer.picture()
    asked(explorer, type="type", text="zz")
    assert "is 2 tokens (z z)" in explorer.message and explorer.picture() == before
    asked(explorer, type="type", text="z")
    assert explorer.message == "" and "“z”" in explorer.picture()
    for token, words in (("zz", "2 tokens"), ("", "0 tokens"), (999, "below 259"), (1.5, "1.5")):
        with pytest.raises(ValueError, match=words):
            chain(token=token)


def test_visible_white_space_is_typed_as_it_is_shown():
    assert token_id_of(tiny.tokenizer(), "↵", 259) == tiny.tokenizer()("\n")["input_ids"][0]
    assert token_id_of(tiny.tokenizer(), "<eos>", 259) == tiny.EOS


def test_a_setting_that_leaves_nothing_is_refused_in_words():
    explorer = chain(logits_processor=lambda ids, scores: scores + explorer_bias[0])
    explorer_bias[0] = -math.inf
    moved(explorer, top_k=3)
    assert "−inf for every token" in explorer.message
    explorer_bias[0] = 0.0
    moved(explorer, top_k=4)
    assert explorer.message == "" and "top_k=4" in explorer.picture()


explorer_bias = [0.0]


def test_a_new_prompt_keeps_the_token(monkeypatch):
    explorer = chain(token="z", temperature=0.7)
    count = passes(explorer.model, monkeypatch)
    retyped(explorer, "other words")
    assert len(count) == 1 and "“z”" in explorer.picture()
    torch.testing.assert_close(explorer.scores * 0.7, explorer.position.logits)
    retyped(explorer, "")
    assert "no tokens" in explorer.message and "other words" in explorer.picture()


def test_hostile_tokens_and_prompts_stay_text():
    explorer = lv.ProcessorChain(
        hostile.model(), hostile.tokenizer(), hostile.PROMPT, top_k=9, logits_processor=own
    )
    for token_id in range(30):
        picked(explorer, token_id)
        assert_harmless(explorer.picture())
    assert_leaves_a_picture(explorer)
    explorer.figure().figure.canvas.draw()
    plt.close("all")


def own(ids, scores):
    return scores


own.__name__ = "<img src=x onerror=alert(1)>"


def test_it_leaves_a_picture():
    assert_leaves_a_picture(chain(temperature=0.7, top_k=3))


def test_the_figure_shows_the_same_numbers():
    explorer = chain(temperature=0.7, top_k=3)
    ax = explorer.figure()
    assert [bar.get_width() for bar in ax.patches] == [s.probability for s in explorer.stages]
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "logits"
    plt.close("all")


def test_token_sliders_and_texts_may_move_at_once():
    """From several threads, as a kernel answers them: no error, and one picture of one state."""
    explorer, errors = chain(temperature=0.7, top_k=9), []

    def moves(function):
        def run():
            try:
                for n in range(30):
                    function(n)
                    repr(explorer)
                    assert "−inf" not in explorer.message
            except BaseException as error:
                errors.append(repr(error))

        return threading.Thread(target=run)

    threads = [
        moves(lambda n: moved(explorer, top_k=n % 7, top_p=0.5 + (n % 2) / 2)),
        moves(lambda n: moved(explorer, temperature=1 + n % 2, repetition_penalty=1 + n % 3 / 4)),
        moves(lambda n: picked(explorer, n % 9)),
        moves(lambda n: retyped(explorer, f"hello {n % 5}")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    explorer.wait(10)
    assert not errors
    assert [s.name.partition("=")[0] for s in explorer.stages[1:]] == list(explorer.settings)
    assert explorer.chosen == explorer.take(explorer.chosen)
    assert explorer.state["prompt"] == explorer.position.prompt


def test_settings_are_shown_as_given():
    explorer = chain(
        token="l", temperature=0.123456789, top_p=0.07, epsilon_cutoff=0.0003, top_k=9,
        repetition_penalty=1.0000001,
    )  # fmt: skip
    names = [s.name for s in explorer.stages]
    assert "temperature=0.123456789" in names and "repetition_penalty=1.0000001" in names
    chosen = chain(token=int(explorer.position.logits.argmax()), **explorer.settings)
    words = "\n".join(s.words for s in chosen.stages)
    assert "÷ 0.123456789" in words and "< 7%" in words and "≥ 0.03%" in words


def test_what_needs_more_than_a_position_is_refused():
    with pytest.raises(TypeError, match="forced_eos_token_id"):
        chain(forced_eos_token_id=3)
