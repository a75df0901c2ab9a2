"""The stepper: Forward is what generate does, and no text is ever read twice."""

import copy
import functools
import math
import re
import threading
import time

import matplotlib.pyplot as plt
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import llmviz as lv
from llmviz.widgets.stepper import branch_lines
from tests import hostile, tiny
from tests.scripted import Scripted, drawn
from tests.views import assert_harmless, assert_leaves_a_picture

PROMPT = "hello there"


def stepper(prompt=PROMPT, architecture="llama", **settings):
    return lv.Stepper(tiny.model(architecture), tiny.tokenizer(), prompt, **settings)


class Passes:
    """Counts what the model reads: tokens, pass by pass."""

    def __init__(self, model):
        self.tokens = []
        self.hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.tokens.append(args[0].shape[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba", "gemma3_text"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
        {"do_sample": True, "seed": 4, "temperature": 1.5, "top_p": 0.9},
    ],
)
def test_forward_is_what_generate_does(architecture, settings):
    found = stepper(architecture=architecture, max_new_tokens=9, **settings)
    wanted = lv.generate(
        found.model, found.tokenizer, PROMPT, max_new_tokens=9, top_logprobs=10, **settings
    )
    while not found.forward_button.disabled:
        found.forward_button.click()
    run = found.trace
    assert run.sequences.tolist() == wanted.sequences.tolist() and run.text == wanted.text
    assert run.steps == wanted.steps
    assert run.prompts == [PROMPT] and run.sum_logprobs == wanted.sum_logprobs


def test_one_pass_a_token_and_none_for_a_visited_node():
    with Passes(tiny.model("llama")) as passes:
        found = stepper()
        assert passes.tokens == [len(PROMPT)]
        for _ in range(3):
            found.forward_button.click()
        assert passes.tokens == [len(PROMPT), 1, 1, 1]
        for _ in range(3):
            found.back_button.click()
        for _ in range(3):
            found.forward_button.click()
        assert len(passes.tokens) == 4
        found.back_button.click()
        found.candidate_buttons[4].click()  # another branch
        found.forward_button.click()
        assert passes.tokens[4:] == [len(PROMPT) + 3, 1]
        for found.branch_list.index in (0, 1):
            assert "▸" in found.view.value
        assert len(passes.tokens) == 6


@pytest.mark.parametrize("architecture", ["llama", "mamba", "gemma3_text"])
def test_another_branch_is_exact(architecture):
    """What stands there is what the model says of that text, read afresh."""
    found = stepper(architecture=architecture)
    for _ in range(3):
        found.forward()
    found.back()
    found.candidate_buttons[3].click()
    found.forward()
    found.redraw()
    ids = found.trace.sequences
    assert ids[0, -2] == found.node.parent.token_id != found.root.latest.latest.step.token_id
    logits = found.model(ids).logits[0, -1].float()
    for c in found.node.step.candidates:
        assert c.log_prob == pytest.approx(logits.log_softmax(-1)[c.token_id].item(), abs=1e-4)
        assert c.rank == 1 + (logits > logits[c.token_id]).sum()
    shown = [c.token_id for c in found.node.step.candidates[:10]]
    assert shown == logits.topk(10).indices.tolist()
    total = math.fsum(s.log_prob for s in found.trace.steps[0])
    assert found.node.log_prob == total
    assert f"log-probability {total:.2f}" in repr(found)


def test_the_tree_keeps_all_branches_and_the_list_leads_to_them():
    found = stepper()
    for _ in range(2):
        found.forward_button.click()
    first = found.node
    found.back_button.click()
    found.candidate_buttons[1].click()
    found.forward_button.click()
    second = found.node
    found.play.value = 0
    assert found.node is found.root
    found.candidate_buttons[2].click()
    third = found.node
    leaves = [leaf for _, leaf in found.branch_list.options]
    assert leaves == [first, second, third] and found.branch_list.value is third
    prefixes = [prefix for prefix, _ in branch_lines(found.root)]
    assert prefixes == ["", "├─ ", "│  ├─ ", "│  └─ ", "└─ "]
    found.branch_list.value = first
    assert found.node is first
    found.back_button.click()
    found.back_button.click()
    assert found.branch_list.value is first, "it is still the branch that one is on"
    found.forward_button.click()
    found.forward_button.click()
    assert found.node is first, "forward goes back to where one came from"
    found.branch_button.click()
    assert found.node is second and found.branch_list.value is second
    found.branch_button.click()
    found.branch_button.click()
    assert found.node is first
    assert found.view.value.count("▸") == 3  # the sentence, the next token, the place in the tree


def test_steps_taken_in_code_are_shown_with_it():
    found = stepper()
    found.forward()
    found._repr_mimebundle_()  # as a cell does that ends with it
    assert "after 1 new token" in found.view.value and not found.back_button.disabled
    shown = [button.description for button in found.candidate_buttons]
    labels = found.trace.labels
    assert shown[0] == labels[found.node.step.candidates[0].token_id]


def test_play_goes_on_and_back_to_the_start():
    found = stepper(max_new_tokens=4)
    for value in (1, 2, 3, 4):
        found.play.value = value
        assert len(found.node.path) == found.play.value == value
    assert found.forward_button.disabled and "max_new_tokens=4" in found.view.value
    found.play.value = 0
    assert found.node is found.root and found.back_button.disabled
    found.play.value = 3  # a slow kernel gets fewer messages
    assert len(found.node.path) == 3
    found.back_button.click()
    assert found.play.value == 2


def test_an_eos_ends_the_text(monkeypatch):
    found = stepper(suppress_tokens=[i for i in range(tiny.VOCABULARY) if i != tiny.EOS])
    found.play.playing = True
    found.forward_button.click()
    assert "The text ends here, with the token &lt;eos&gt;" in found.view.value
    assert found.forward_button.disabled and not found.play.playing
    assert all(b.layout.display == "none" for b in found.candidate_buttons)
    with pytest.raises(ValueError, match="the text ends here"):
        found.forward()
    assert len(found.trace.steps[0]) == 1
    found.back_button.click()
    assert "cut" in repr(found) and "<s>" in found.view.value
    found.candidate_buttons[0].click()  # even a token that is cut can be taken
    assert len(found.root.children) == 2


def test_draws_follow_the_place_in_the_text_not_the_way_to_it():
    settings = {"do_sample": True, "seed": 7, "temperature": 3.0}
    straight, crooked = stepper(**settings), stepper(**settings)
    crooked.candidate_buttons[5].click()
    crooked.forward_button.click()
    crooked.play.value = 0
    crooked.take(crooked.root.step.token_id)
    for _ in range(3):
        straight.forward()
        crooked.forward()
    assert straight.trace.tokens[0] == crooked.trace.tokens[0][:3]
    other = stepper(**(settings | {"seed": 8}))
    for _ in range(3):
        other.forward()
    assert other.trace.tokens != straight.trace.tokens


def test_a_token_that_was_drawn_from_far_below_is_shown():
    found = stepper(do_sample=True, seed=1, temperature=30.0)
    outside = 0
    for _ in range(12):
        step = found.node.step
        outside += step.rank > 10
        assert step.token_id in [c.token_id for c in found._shown()]
        found.forward()
    assert outside > 6


def test_processors_show_as_a_second_bar():
    assert ">before<" not in stepper().view.value
    found = stepper(do_sample=True, top_k=3)
    assert ">before<" in found.view.value and found.view.value.count(">cut<") == 7


def test_take_refuses_what_is_no_candidate():
    found = stepper()
    missing = next(
        i for i in range(259) if i not in {c.token_id for c in found.node.step.candidates}
    )
    with pytest.raises(ValueError, match=f"token_id={missing}"):
        found.take(missing)
    with pytest.raises(ValueError, match="no step to go back"):
        found.back()


def test_a_new_prompt_starts_a_new_tree():
    found = stepper()
    found.forward_button.click()
    found.prompt_box.value = "how are you?"
    found.wait(30)
    assert found.node is found.root and not found.root.children
    assert found.play.value == 0 and "how are you?" in found.view.value
    assert len(found.branch_list.options) == 1


@pytest.mark.parametrize("prompt, words", [("", "no tokens"), ("x" * 500, "context of 128")])
def test_a_bad_prompt_is_refused_in_words_and_the_next_one_works(prompt, words):
    found = stepper()
    found.forward_button.click()
    before = found.view.value
    found.prompt_box.value = prompt
    found.wait(30)
    assert words in found.message.value and found.view.value == before
    found.forward_button.click()
    assert len(found.node.path) == 2 and found.message.value == ""
    found.prompt_box.value = "good"
    found.wait(30)
    assert found.message.value == "" and "good" in found.view.value


@pytest.mark.parametrize(
    "bad, named",
    [
        ({"prompt": ""}, "prompt is ''"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 500}, "context of 128"),
        ({"do_sample": "yes"}, "do_sample='yes'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": None}, "seed=None"),
        ({"top_p": 3.0}, "top_p=3.0"),
    ],
)
def test_at_the_start_bad_arguments_raise(bad, named):
    with pytest.raises(ValueError, match=named):
        stepper(**bad)
    with pytest.raises(TypeError, match="no setting"):
        stepper(topk=3)


def test_hostile_tokens_and_prompts_stay_text():
    found = lv.Stepper(hostile.model(), hostile.tokenizer(), hostile.PROMPT)
    for _ in range(3):
        found.forward_button.click()
    found.back_button.click()
    found.candidate_buttons[6].click()
    assert any(text in repr(found) for text in hostile.TEXTS)
    assert_leaves_a_picture(found)
    found.prompt_box.value = "hello </textarea><script>alert(1)</script> $x$ world"
    found.wait(30)
    assert "&lt;/textarea&gt;" in found.view.value
    assert_leaves_a_picture(found)
    assert_harmless(found.message.value)
    found.figure().figure.canvas.draw()
    plt.close("all")


def test_the_figure_is_the_board_of_the_branch():
    found = stepper(max_new_tokens=3)
    assert len(found.figure().get_xticks()) == 1
    for _ in range(3):
        found.forward_button.click()
    assert len(found.figure().get_xticks()) == 3
    plt.close("all")


def test_a_long_branch_is_shortened_around_where_one_is():
    found = stepper(max_new_tokens=40)
    found.play.value = 30
    found.play.value = 15
    tree = found.view.value[found.view.value.index("all branches") :]
    assert tree.count(" … ") == 2 and "▸" in tree[20:]
    assert tree.count("<span") < 30


def test_the_state_is_told_the_same_on_every_machine():
    found = stepper(do_sample=True, seed=torch.tensor(3).item(), temperature=1.3)
    found.forward_button.click()
    assert_leaves_a_picture(found)
    assert "by sampling with seed 3, temperature=1.3" in repr(found)


def test_on_the_default_model(default_model):
    found = lv.Stepper(*default_model, "The capital of France is", max_new_tokens=5)
    assert repr(found).splitlines()[2].startswith("▸ ␣Paris  77.")


class Gated(type(tiny.model("llama"))):
    """A model whose passes wait for `gate`, but for those of the prompt."""

    @functools.wraps(type(tiny.model("llama")).forward)
    def forward(self, input_ids, **kwargs):
        if input_ids.shape[1] == 1:
            assert self.gate.wait(30)
        return super().forward(input_ids, **kwargs)


def gated():
    model = copy.copy(tiny.model("llama"))
    model.__class__, model.gate = Gated, threading.Event()
    return model


def test_a_slow_model_does_not_hold_up_the_kernel():
    model = gated()
    found = lv.Stepper(model, tiny.tokenizer(), PROMPT)
    before = found.view.value
    begun = time.monotonic()
    found.forward_button.click()
    found.forward_button.click()  # while the first one is read: not heard
    assert time.monotonic() - begun < 5 and found.working
    assert "Reading" in found.message.value and found.view.value == before
    assert found.back_button.disabled and not found.forward_button.disabled
    found._stop.click()
    assert found.node is found.root and "Stopped" in found.message.value
    model.gate.set()
    found.forward()
    wanted = lv.generate(tiny.model("llama"), tiny.tokenizer(), PROMPT, max_new_tokens=3)
    for _ in range(2):
        found.forward_button.click()
        found.wait(30)
    assert found.trace.sequences.tolist() == wanted.sequences.tolist()
    assert not found.back_button.disabled and found.message.value == ""


def test_code_and_buttons_at_once_leave_a_tree_that_is_right():
    """A pass that was given up may still run: nothing reads on from what it had read."""
    model = gated()
    found = lv.Stepper(model, tiny.tokenizer(), PROMPT, max_new_tokens=12)
    found.forward_button.click()
    thread = found._thread
    model.gate.set()
    for _ in range(12):
        found.forward()
    thread.join(30)
    wanted = lv.generate(tiny.model("llama"), tiny.tokenizer(), PROMPT, max_new_tokens=12)
    assert found.trace.sequences.tolist() == wanted.sequences.tolist()


def test_a_tree_of_hundreds_of_branches_stays_a_page():
    model = Scripted(drawn(1, 12, 1.0), 12)
    model.passes = -10_000
    found = lv.Stepper(model, letters(12), "a b", max_new_tokens=120)
    for depth in range(100):
        found.take(found.node.step.candidates[1].token_id)
        found.back()
        found.forward() if depth % 2 else found.take(found.node.step.candidates[0].token_id)
    found.redraw()
    assert found.message.value == "" and "lines 62 to 101 of 101" in found.view.value
    assert "⋯ stands for more forks above" in found.view.value
    rows = re.findall(r"<div><span style=.color:#6b7280.>([^<]*)</span>", found.view.value)
    assert len(rows) == 40 and max(map(len, rows)) <= 36
    assert "▸" in found.view.value[found.view.value.index("all branches (") + 30 :]


def letters(size):
    core = Tokenizer(WordLevel({c: i for i, c in enumerate("abcdefghijkl"[:size])}, unk_token="a"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.mark.parametrize(
    "settings",
    [{"guidance_scale": 1.7}, {"forced_eos_token_id": 70}, {"sequence_bias": [[[80], 3.0]]}],
)
def test_settings_that_look_further(settings):
    found = stepper(max_new_tokens=5, **settings)
    for _ in range(5):
        found.forward()
    wanted = lv.generate(found.model, found.tokenizer, PROMPT, max_new_tokens=5, **settings)
    assert found.trace.sequences.tolist() == wanted.sequences.tolist()
