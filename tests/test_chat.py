"""Chat: whole characters, text that only grows, a new history, and a cache that changes nothing."""

import copy
import math
import random
import threading
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import InfNanRemoveLogitsProcessor

import llmviz as lv
from llmviz.conversation import ChatCache
from tests import decoders, tiny
from tests.scripted import Scripted

TEMPLATE = (
    "{% for m in messages %}{{ '<bos>' + m.role + '\n' + m.content + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos>assistant\n' }}{% endif %}"
)
# As templates for reasoning do: an earlier answer is shown without what stands before the bar.
FORGETFUL = TEMPLATE.replace("m.content", "m.content.split('|')[-1]")
LETTERS = "abcdefghijklmnopqrstuvwxyz ,."
NO_LETTERS = sorted({*range(tiny.VOCABULARY)} - {*tiny.tokenizer()(LETTERS)["input_ids"]})


@cache
def tokenizer(template=TEMPLATE):
    ours = copy.deepcopy(tiny.tokenizer())
    ours.chat_template = template
    return ours


def bytes_of(text):
    return tiny.tokenizer()(text)["input_ids"]


def says(answer, eos=(tiny.EOS,), **config):
    """A model that always gives this answer, a text or token ids, and then its last eos token."""
    tokens = [*(bytes_of(answer) if isinstance(answer, str) else answer), eos[-1]]

    def next_logits(text):
        # The answer begins after the last <bos>, which is written "<bos>assistant↵".
        done = (
            len(text) - (len(text) - 1 - text[::-1].index(tiny.BOS)) - len("<bos>assistant\n") + 4
        )
        logits = torch.full((tiny.VOCABULARY,), -5.0)
        logits[tokens[min(done, len(tokens) - 1)]] = 20.0
        return logits

    return Scripted(next_logits, tiny.VOCABULARY, list(eos), tiny.PAD, **config)


def forced(answer):
    """The setting that has any model give this answer."""
    tokens = [*bytes_of(answer), tiny.EOS]
    length = len("assistant\n")

    def allowed(_, input_ids):
        text = input_ids.tolist()
        return [tokens[text[::-1].index(tiny.BOS) - length]]

    return {"prefix_allowed_tokens_fn": allowed}


def streamed(model, query="hi", ours=None, **arguments):
    return list(lv.stream_chat(model, ours or tokenizer(), query, **arguments))


# What comes back


def test_response_and_a_new_history():
    history = [{"role": "system", "content": "Be short."}]
    before = copy.deepcopy(history)
    response, after = lv.chat(says("Hello."), tokenizer(), "hi", history)
    assert response == "Hello."
    assert history == before
    assert after == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    after[0]["content"] = "Be long."
    assert history == before
    steps = streamed(says("Hello."), history=history)
    assert [h[-1]["content"] for _, h in steps] == [response for response, _ in steps]
    assert history == before
    assert lv.chat(says("Hello."), tokenizer(), "hi")[1] == after[1:]


def test_the_model_reads_what_the_template_writes():
    model, seen = tiny.model("llama"), []
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].tolist()))
    begins = copy.deepcopy(tokenizer())
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", tiny.PAD)]
    )
    assert begins("hi")["input_ids"][0] == tiny.PAD
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    try:
        lv.chat(model, begins, "c", history, "observation", system="s", max_new_tokens=1)
    finally:
        hook.remove()
    wanted = "<bos>system\ns<eos><bos>user\na<eos><bos>assistant\nb<eos><bos>observation\nc<eos>"
    assert seen == [bytes_of(wanted + "<bos>assistant\n")]


def test_a_system_prompt_stands_first_and_once():
    model, ours = says("ok"), tokenizer()
    _, history = lv.chat(model, ours, "hi", system="Be short.")
    assert [m["role"] for m in history] == ["system", "user", "assistant"]
    _, history = lv.chat(model, ours, "and now?", history, system="Be long.")
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [m["role"] for m in history] == roles
    assert history[0]["content"] == "Be long."


@pytest.mark.parametrize("settings", [
    {"do_sample": False}, {"seed": 5}, {"seed": 5, "top_k": 9, "repetition_penalty": 1.2},
    {"do_sample": False, "num_beams": 3}, {"do_sample": True, "num_beams": 2, "seed": 5},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text"])
def test_the_tokens_are_those_of_generate(architecture, settings):
    model, ours = tiny.model(architecture), tokenizer()
    response, _ = lv.chat(model, ours, "hi", max_length=50, suppress_tokens=NO_LETTERS, **settings)
    ids = torch.tensor([bytes_of("<bos>user\nhi<eos><bos>assistant\n")])
    asked = {"do_sample": True, "top_k": 0} | settings
    if asked["do_sample"]:
        asked |= {"temperature": 0.8, "top_p": 0.8}
        torch.manual_seed(asked.pop("seed"))
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_length=50, suppress_tokens=NO_LETTERS, **asked
    )
    assert response == ours.decode(output[0, ids.shape[1] :], skip_special_tokens=True) != ""


def test_max_length_counts_the_prompt():
    ours, prompt = tokenizer(), len(bytes_of("<bos>user\nhi<eos><bos>assistant\n"))
    model = says("x" * 200)
    assert lv.chat(model, ours, "hi", max_length=prompt + 7)[0] == "x" * 7
    model.passes = 0
    assert lv.chat(model, ours, "hi", max_length=prompt + 7, max_new_tokens=3)[0] == "xxx"
    with pytest.raises(ValueError, match=f"{prompt} tokens.*max_length={prompt} counts them"):
        lv.chat(model, ours, "hi", max_length=prompt)
    # The context ends the answer as well.
    llama = tiny.model("llama")
    settings = {"suppress_tokens": NO_LETTERS}
    assert len(lv.chat(llama, ours, "hi", **settings)[0]) == 128 - prompt
    with pytest.raises(ValueError, match="context holds 128.*drop the oldest"):
        lv.chat(llama, ours, "x" * 128)


# What is seen of it


TEXTS = ["Hi 😀!", "你好，世界", "a👩‍👩‍👧‍👦é́z", "🇩🇪", "", " \n x", "�", "don 't , stop ."]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_grows_by_whole_characters(text):
    steps = [response for response, _ in streamed(says(text))]
    # One step per character: no character waits for the one after it.
    wanted = [text[:i] for i in range(1, len(text) + 1)] or [""]
    assert steps == (wanted if text != "�" else [""])


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_cut_off_within_a_character_ends_before_it(text):
    for count in range(1, len(bytes_of(text))):
        steps = streamed(says(text), max_new_tokens=count)
        whole = text.encode()[:count].decode(errors="ignore")
        assert steps[-1][0] == steps[-1][1][-1]["content"] == whole.rstrip("�")
        assert all("�" not in response for response, _ in steps)


def test_a_tokenizer_that_cleans_up_spaces_takes_none_back():
    tidy = copy.deepcopy(tokenizer())
    tidy.clean_up_tokenization_spaces = True
    tidy.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert tidy.decode(bytes_of("do n't")) == "don't"
    steps = [response for response, _ in streamed(says("do n't"), ours=tidy)]
    assert steps == ["d", "do", "do ", "do n", "do n'", "do n't"]


def test_bytes_that_never_make_a_character_do_not_stop_the_growth():
    chance = random.Random(0)
    for _ in range(15):
        tokens = [chance.randrange(256) for _ in range(30)]
        steps = [response for response, _ in streamed(says(tokens))]
        for before, after in zip(steps, steps[1:], strict=False):
            assert after.startswith(before) and len(after) > len(before)
            assert not after.endswith("�")
        assert steps[-1] == tiny.tokenizer().decode(tokens).rstrip("�")


SAYS = {
    "byte fallback, as Gemma's": ["<0xE4>", "<0xBD>", "<0xA0>", "<0xE5>", "<0xA5>", "<0xBD>", "s"],
    "byte fallback, as Llama 2's": ["▁a", "▁dog", "<0xE4>", "<0xBD>", "<0xA0>", "▁", "<0xE5>"],
    "metaspace": ["▁dog", "s", "▁▁", "▁a"],
    "word piece": ["do", "##ing", "n't", ".", "ing"],
    "suffix": ["ab</w>", "c", "c</w>", ".</w>"],
    "ctc": ["a", "a", "|", "b"],
    "replaced": ["a", "c", "c", "b"],
}


@pytest.mark.parametrize("kind", SAYS)
def test_any_decoder_streams_to_the_answer_of_chat(kind, capsys):
    ours = copy.deepcopy(decoders.tokenizer(kind))
    ours.chat_template = "{{ messages[-1].content }}"
    eos = ours.eos_token_id
    says = [*ours.convert_tokens_to_ids(SAYS[kind]), eos]
    start = len(ours("dog").input_ids)

    def next_logits(text):
        return torch.full((len(ours),), -9.0).index_fill(
            0, torch.tensor(says[len(text) - start]), 9.0
        )

    model = Scripted(next_logits, len(ours), eos_token_id=eos, pad_token_id=eos)
    for most in range(1, len(says) + 1):
        settings = {"do_sample": False, "max_new_tokens": most}
        steps = streamed(model, "dog", ours, **settings)
        for (before, _), (after, history) in zip(steps, steps[1:], strict=False):
            assert after.startswith(before) and len(after) > len(before)
            assert history[-1]["content"] == after
        response, history = lv.chat(model, ours, "dog", **settings)
        assert steps[-1] == (response, history) and history[-1]["content"] == response
        assert lv.chat(model, ours, "dog", **settings, num_beams=2)[0] == response
        printed = lv.print_stream(lv.stream_chat(model, ours, "dog", **settings))[0]
        assert capsys.readouterr().out == printed + "\n" == response + "\n"
        model.passes = 0
    whole = ours.decode(says[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert response == whole.rstrip("�")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_stream_ends_in_the_answer_of_chat(architecture):
    model = tiny.model(architecture)
    steps = streamed(model, seed=2, max_new_tokens=12)
    assert steps[-1] == lv.chat(model, tokenizer(), "hi", seed=2, max_new_tokens=12)


def test_a_stream_that_is_left_stops_the_model():
    model = says("one two three")
    stream = lv.stream_chat(model, tokenizer(), "hi")
    _, history = next(answer for answer in stream if answer[0] == "one")
    assert model.passes == 3
    assert history[-1] == {"role": "assistant", "content": "one"}
    assert torch.is_grad_enabled()  # nothing of the model's pass is left switched
    stream.close()
    assert next(stream, None) is None and model.passes == 3


def test_arguments_are_checked_when_the_stream_is_made():
    with pytest.raises(ValueError, match="temperature=0.*do_sample=False"):
        lv.stream_chat(says("x"), tokenizer(), "hi", temperature=0)


@pytest.mark.parametrize(
    ("wrong", "named"), [({"seed": -1}, "seed=-1"), ({"do_sample": "no"}, "do_sample='no'")]
)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_how_it_draws_is_checked(wrong, named, num_beams):
    with pytest.raises(ValueError, match=named):
        lv.chat(says("x"), tokenizer(), "hi", num_beams=num_beams, **wrong)


def test_print_stream_prints_piece_by_piece(capsys):
    pieces = []

    def stream():
        for answer in lv.stream_chat(says("Hi 😀"), tokenizer(), "hi"):
            yield answer
            pieces.append(capsys.readouterr().out)

    response, history = lv.print_stream(stream())
    assert pieces == ["H", "i", " ", "😀"] and capsys.readouterr().out == "\n"
    assert response == history[-1]["content"] == "Hi 😀"


def test_what_would_steer_the_terminal_is_printed_as_its_code_point(capsys):
    answer = "a\x1b[2J\x07\r\n\tb\u202ec é\u00a0你"
    response, _ = lv.print_stream(lv.stream_chat(says(answer), tokenizer(), "hi"))
    assert response == answer
    shown = "a⟨U+001B⟩[2J⟨U+0007⟩␍\n\tb⟨U+202E⟩c é\u00a0你\n"
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    "bad", [5, None, "hello", ["hello"], [()], [(5, [])], {"a": 1}, np.array("a")], ids=str
)
def test_print_stream_takes_a_stream(bad):
    with pytest.raises(TypeError, match="^stream must"):
        lv.print_stream(bad)


def test_the_stop_button_keeps_what_is_there(capsys):
    model = says("one two")
    hook = model.register_forward_pre_hook(_interrupts(on_call=4))
    response, history = lv.print_stream(lv.stream_chat(model, tokenizer(), "hi"))
    assert capsys.readouterr().out == "one\n"
    assert response == history[-1]["content"] == "one"
    hook.remove()
    model.register_forward_pre_hook(_interrupts(on_call=1))
    with pytest.raises(KeyboardInterrupt):
        lv.print_stream(lv.stream_chat(model, tokenizer(), "hi"))


def _interrupts(on_call):
    calls = iter(range(1, 100))

    def hook(*_):
        if next(calls) == on_call:
            raise KeyboardInterrupt

    return hook


# Where an answer ends


@pytest.mark.parametrize("eos", [(tiny.EOS,), (tiny.EOS, tiny.PAD), (tiny.EOS, *bytes_of("!"))])
def test_several_eos_ids_end_an_answer_and_are_no_part_of_it(eos):
    for num_beams in (1, 2):
        model = says("Hi.", eos=eos)
        assert lv.chat(model, tokenizer(), "hi", num_beams=num_beams, do_sample=False)[0] == "Hi."


def test_the_tokenizers_eos_ends_an_answer_where_the_model_does_not_know_it():
    model = says("Hi.")
    model.generation_config.eos_token_id = None
    assert lv.chat(model, tokenizer(), "hi")[0] == "Hi."
    model = says("Hi. No!")
    dot = bytes_of(".")[0]
    assert lv.chat(model, tokenizer(), "hi", eos_token_id=dot)[0] == "Hi"
    assert lv.chat(model, tokenizer(), "hi", eos_token_id=[dot, tiny.EOS])[0] == "Hi"
    assert model.generation_config.eos_token_id == [tiny.EOS]


# The cache between turns


def conversation(model, template=TEMPLATE, hand_on=True, turns=("hi", "so?", "ok"), **arguments):
    """The history of some turns, and how many tokens the model read in each."""
    read, history, past = [], None, None
    hook = model.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    counts = []
    try:
        for query in turns:
            _, history, past = lv.chat(
                model, tokenizer(template), query, history, max_new_tokens=9,
                past_key_values=past if hand_on else None, return_past_key_values=True, **arguments,
            )  # fmt: skip
            counts.append(sum(read))
            read.clear()
    finally:
        hook.remove()
    return history, counts


@pytest.mark.parametrize("settings", [
    {"do_sample": False},  # random bytes, which a history cannot hold
    {"seed": 3, "suppress_tokens": NO_LETTERS},
    forced("ab|c"),
], ids=["bytes", "letters", "ended"])  # fmt: skip
@pytest.mark.parametrize("template", [TEMPLATE, FORGETFUL], ids=["plain", "forgetful"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_cache_handed_on_changes_no_token(architecture, template, settings):
    model = tiny.model(architecture)
    history, read = conversation(model, template, hand_on=True, **settings)
    again, all_read = conversation(model, template, hand_on=False, **settings)
    assert history == again
    # The first tokens of a conversation were read before, unless a model cannot go back.
    can_go_back = architecture not in ("mamba", "mistral", "gemma3_text")
    if can_go_back:
        assert read[0] == all_read[0] and read[1] < all_read[1] and read[2] < all_read[2]


def test_what_the_template_writes_as_before_is_not_read_again():
    for architecture in ("llama", "mistral"):  # a sliding window need not go back either
        model, answer = tiny.model(architecture), forced("abc")
        _, read = conversation(model, **answer)
        first = len("_user\nhi__assistant\nabc")
        assert read == [
            first,
            len("__user\nso?__assistant\nabc"),
            len("__user\nok__assistant\nabc"),
        ]


def test_a_cache_that_was_handed_on_can_be_used_again():
    model, ours = tiny.model("llama"), tokenizer()
    settings = {"suppress_tokens": NO_LETTERS, "max_new_tokens": 9, "do_sample": False}
    keep = {"return_past_key_values": True}
    _, history, past = lv.chat(model, ours, "hi", **settings, **keep)
    answers = [
        lv.chat(model, ours, query, history, past_key_values=past, **settings)[0]
        for query in ("so?", "why?", "so?")
    ]
    wanted = [lv.chat(model, ours, query, history, **settings)[0] for query in ("so?", "why?")]
    assert answers == [*wanted, wanted[0]]
    # Even for the same question, another one, or another model's template.
    for before, system in (([], None), ([], "s"), (history, "s")):
        wanted = lv.chat(model, ours, "hi", before, system=system, **settings)[0]
        arguments = {"system": system, "past_key_values": past, **settings}
        assert lv.chat(model, ours, "hi", before, **arguments)[0] == wanted
    other = tokenizer(TEMPLATE.replace("<bos>", "<pad>"))
    wanted = lv.chat(model, other, "hi", **settings)[0]
    assert lv.chat(model, other, "hi", past_key_values=past, **settings)[0] == wanted


@pytest.mark.parametrize("architecture", ["llama", "mistral", "mamba"])
def test_a_cache_out_of_the_middle_of_a_stream_is_good(architecture):
    model, ours = tiny.model(architecture), tokenizer()
    settings = {"suppress_tokens": NO_LETTERS, "max_new_tokens": 12, "do_sample": False}
    stream = lv.stream_chat(model, ours, "hi", return_past_key_values=True, **settings)
    _, history, past = next(answer for answer in stream if len(answer[0]) == 4)
    wanted = lv.chat(model, ours, "so?", history, **settings)[0]
    assert lv.chat(model, ours, "so?", history, past_key_values=past, **settings)[0] == wanted
    # The stream can go on, and what it gave stays good.
    *_, (longer, _, _) = stream
    assert longer == lv.chat(model, ours, "hi", **settings)[0]
    assert lv.chat(model, ours, "so?", history, past_key_values=past, **settings)[0] == wanted


def test_a_pass_that_was_interrupted_leaves_no_half_read_cache():
    model, ours = copy.deepcopy(tiny.model("llama")), tokenizer()
    settings = {"suppress_tokens": NO_LETTERS, "max_new_tokens": 12, "do_sample": False}
    hook = model.model.layers[1].register_forward_pre_hook(_interrupts(on_call=4))
    stream = lv.stream_chat(model, ours, "hi", return_past_key_values=True, **settings)
    response, history, past = lv.print_stream(stream)
    hook.remove()
    assert len(response) == 3
    wanted = lv.chat(model, ours, "so?", history, **settings)[0]
    assert lv.chat(model, ours, "so?", history, past_key_values=past, **settings)[0] == wanted


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_stream_that_goes_on_while_its_cache_is_taken_over_spoils_nothing(
    architecture, monkeypatch
):
    model, ours = tiny.model(architecture), tokenizer()
    settings = {"suppress_tokens": NO_LETTERS, "max_new_tokens": 12, "do_sample": False}
    first = lv.stream_chat(model, ours, "hi", return_past_key_values=True, **settings)
    for _ in range(3):
        _, history, past = next(first)
    wanted = lv.chat(model, ours, "so?", history, **settings)[0]
    deepcopy = copy.deepcopy

    def meanwhile(value, *memo):
        if isinstance(value, type(past.known[1])):
            next(first)
        return deepcopy(value, *memo)

    monkeypatch.setattr(copy, "deepcopy", meanwhile)
    second = lv.stream_chat(model, ours, "so?", history, past_key_values=past, **settings)
    monkeypatch.undo()
    assert [*second][-1][0] == wanted
    *_, (longer, _, _) = first
    assert longer == lv.chat(model, ours, "hi", **settings)[0]


def test_two_threads_may_share_a_cache():
    model, ours = tiny.model("gpt2"), tokenizer()
    settings = {"suppress_tokens": NO_LETTERS, "max_new_tokens": 20, "do_sample": False}
    first = lv.stream_chat(model, ours, "hi", return_past_key_values=True, **settings)
    _, history, past = next(first)
    wanted = lv.chat(model, ours, "so?", history, **settings)[0]
    found = []

    def ask():
        for _ in range(8):
            answer = lv.chat(model, ours, "so?", history, past_key_values=past, **settings)
            found.append(answer[0])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    *_, (longer, _, _) = first
    for thread in threads:
        thread.join()
    assert found == [wanted] * 16
    assert longer == lv.chat(model, ours, "hi", **settings)[0]


def test_the_cache_of_another_model_is_not_used():
    one, other = tiny.model("llama"), tiny.model("llama", seed=1)
    settings = {"suppress_tokens": NO_LETTERS, "max_new_tokens": 9, "do_sample": False}
    _, history, past = lv.chat(one, tokenizer(), "hi", return_past_key_values=True, **settings)
    wanted = lv.chat(other, tokenizer(), "so?", history, **settings)[0]
    found = lv.chat(other, tokenizer(), "so?", history, past_key_values=past, **settings)[0]
    assert found == wanted


def test_only_a_cache_that_cannot_go_back_is_read_again(monkeypatch):
    model, ours = tiny.model("llama"), tokenizer()
    settings = {"max_new_tokens": 3, "do_sample": False}
    *_, past = lv.chat(model, ours, "hi", return_past_key_values=True, **settings)

    def crop(self, tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(past.known[1]), "crop", crop)
    with pytest.raises(torch.OutOfMemoryError):
        lv.chat(model, ours, "so?", past_key_values=past, **settings)
    # A layer that cannot is asked before, and not tried.
    monkeypatch.setattr(type(past.known[1].layers[0]), "is_croppable", False)
    lv.chat(model, ours, "so?", past_key_values=past, **settings)


def test_a_cache_tells_its_length_and_a_model_may_have_none():
    keep = {"return_past_key_values": True, "max_new_tokens": 3, "do_sample": False}
    past = lv.chat(tiny.model("llama"), tokenizer(), "hi", **keep)[2]
    assert repr(past) == "ChatCache(22 tokens)"
    past = lv.chat(says("Hello."), tokenizer(), "hi", return_past_key_values=True)[2]
    assert repr(past) == "ChatCache(0 tokens)"
    assert lv.chat(says("Hello."), tokenizer(), "hi", past_key_values=past)[0] == "Hello."


# Scores that are no numbers


def test_remove_invalid_values():
    nan, inf = math.nan, math.inf
    scores = torch.tensor([[1.0, nan, -inf], [1.0, inf, nan], [inf, inf, 3.0], [nan, nan, nan]])
    before = scores.clone()
    found = lv.remove_invalid_values(None, scores)
    wanted = [[1.0, -inf, -inf], [-inf, 0.0, -inf], [0.0, 0.0, -inf], [nan, nan, nan]]
    assert torch.equal(found.nan_to_num(nan=7.0), torch.tensor(wanted).nan_to_num(nan=7.0))
    assert torch.equal(scores.nan_to_num(nan=7.0), before.nan_to_num(nan=7.0))
    good = torch.randn(3, 5)
    assert torch.equal(lv.remove_invalid_values(None, good), good)
    # What is meant by the difference: among negative scores 0 would be the highest.
    logits = torch.tensor([[-30.0, -20.0, nan]])
    assert InfNanRemoveLogitsProcessor()(None, logits).argmax() == 2
    assert lv.remove_invalid_values(None, logits).argmax() == 1


def _spoilt(model, value, token):
    whole = model.next_logits

    def next_logits(text):
        logits = whole(text)
        logits[token] = value
        return logits

    model.next_logits = next_logits
    return model


@pytest.mark.parametrize("do_sample", [True, False])
def test_chat_survives_scores_that_are_no_numbers(do_sample):
    ours = tokenizer()
    model = _spoilt(says("Hi."), math.nan, slice(100, 200))
    assert lv.chat(model, ours, "hi", do_sample=do_sample)[0] == "Hi."
    model = _spoilt(says("Hi."), math.inf, bytes_of("x")[0])
    assert lv.chat(model, ours, "hi", do_sample=do_sample, max_new_tokens=3)[0] == "xxx"
    # Those that a processor makes, too.
    half = tiny.VOCABULARY // 2

    def breaks(input_ids, scores):
        scores[:, half:] = math.nan
        return scores

    low = "".join(c for c in LETTERS if bytes_of(c)[0] < half)
    for own in (breaks, [breaks]):
        answer = lv.chat(says(low), ours, "hi", do_sample=False, logits_processor=own,
                         max_new_tokens=len(low))[0]  # fmt: skip
        assert answer == low
    with pytest.raises(ValueError, match="row 0 holds NaN.*weights and dtype"):
        lv.chat(_spoilt(says("Hi."), math.nan, slice(None)), ours, "hi", do_sample=do_sample)


def test_generate_lets_a_processor_mend_the_scores():
    model = _spoilt(says("Hi."), math.nan, slice(100, 200))
    prompt = "<bos>assistant\n"
    run = lv.generate(model, tokenizer(), prompt, logits_processor=lv.remove_invalid_values)
    assert run.text.endswith("Hi.")
    for own in ({}, {"logits_processor": lambda ids, scores: scores}):
        with pytest.raises(ValueError, match="holds NaN.*weights"):
            lv.generate(model, tokenizer(), prompt, **own)


# What is refused


def user(content):
    return {"role": "user", "content": content}


CIRCULAR = user("a")
CIRCULAR["self"] = CIRCULAR


@pytest.mark.parametrize(
    ("bad", "error", "named"),
    [
        ({"query": 5}, TypeError, "query must be a string"),
        ({"query": None}, TypeError, "query must be a string"),
        ({"query": "a\ud83d"}, ValueError, "query holds half a surrogate pair"),
        ({"system": "\udc00"}, ValueError, "system holds half a surrogate pair"),
        ({"role": ["user"]}, ValueError, "role="),
        ({"history": 5}, TypeError, "history must be a list of messages, not int"),
        ({"history": [None]}, TypeError, r"history\[0\] is None"),
        ({"history": [{"role": "user"}]}, TypeError, r"history\[0\] has no content"),
        ({"history": [user(None)]}, TypeError, r"history\[0\] has no content"),
        ({"history": [user("a"), user(5)]}, TypeError, r"history\[1\]\['content'\] must be"),
        ({"history": [user({"a": 1})]}, TypeError, r"history\[0\]\['content'\] must be"),
        ({"history": [user(["a"])]}, TypeError, r"history\[0\]\['content'\]\[0\] is 'a'"),
        (
            {"history": [user([{"type": "image"}])]},
            TypeError,
            r"\['content'\]\[0\].*must be a text",
        ),
        ({"history": [user("\ud83d")]}, ValueError, r"history\[0\] holds half a surrogate"),
        ({"history": [user("a") | {"x": ["\ud83d"]}]}, ValueError, r"history\[0\] holds half"),
        ({"history": [{"role": 5, "content": "b"}]}, TypeError, r"history\[0\]\['role'\] must"),
        ({"history": [{"role": "a|>b", "content": "b"}]}, ValueError, r"history\[0\]\['role'\] is"),
        ({"history": [{"role": "", "content": "b"}]}, ValueError, r"history\[0\]\['role'\] is"),
        ({"history": [CIRCULAR]}, ValueError, r"history\[0\] holds lists or dicts within them"),
        ({"eos_token_id": "</s>"}, ValueError, "eos_token_id='</s>'"),
        ({"eos_token_id": [1, None]}, ValueError, "eos_token_id=None"),
        ({"eos_token_id": tiny.VOCABULARY}, ValueError, "eos_token_id=259"),
        ({"eos_token_id": -1}, ValueError, "eos_token_id=-1"),
        ({"eos_token_id": True}, ValueError, "eos_token_id=True"),
        ({"max_length": True}, ValueError, "max_length=True"),
        ({"max_length": None}, ValueError, "max_length=None"),
        ({"num_beams": 2.0}, ValueError, "num_beams=2.0"),
        ({"num_beams": None}, ValueError, "num_beams=None"),
        ({"return_past_key_values": 1}, ValueError, "return_past_key_values=1"),
        ({"split_special_tokens": None}, ValueError, "split_special_tokens=None"),
        ({"system": 5}, TypeError, "system must be a string"),
        ({"role": "usr"}, ValueError, "role='usr': it must be one of user, system"),
        ({"history": "hello"}, TypeError, "history must be a list of messages, not str"),
        ({"history": [("a", "b")]}, TypeError, r"history\[0\] is \('a', 'b'\)"),
        ({"history": [{"content": "b"}]}, TypeError, r"history\[0\]"),
        ({"max_length": 0}, ValueError, "max_length=0"),
        ({"max_length": 12.5}, ValueError, "max_length=12.5"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        ({"num_beams": 0}, ValueError, "num_beams=0"),
        ({"temperature": -1.0}, ValueError, "temperature=-1.0"),
        ({"top_p": 0.0}, ValueError, "top_p=0.0"),
        ({"logits_processor": 5}, ValueError, "logits_processor=5"),
        ({"tempo": 5}, TypeError, "unknown setting tempo"),
        ({"past_key_values": 5}, TypeError, "past_key_values must be what chat"),
        ({"past_key_values": ChatCache(), "num_beams": 2}, ValueError, "num_beams=2"),
        ({"return_past_key_values": True, "num_beams": 2}, ValueError, "num_beams=2"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(bad, error, named):
    model = says("Hi.")
    with pytest.raises(error, match=named):
        lv.chat(model, tokenizer(), **({"query": "hi"} | bad))
    assert model.passes == 0


def test_numbers_of_numpy_and_torch_are_numbers():
    wanted = lv.chat(says("Hi. No"), tokenizer(), "hi", eos_token_id=bytes_of("N")[0])
    assert wanted[0] == "Hi. "
    for whole, ids in ((np.int64, np.array), (torch.tensor, torch.tensor)):
        for eos in (whole(bytes_of("N")[0]), ids(bytes_of("N")), [whole(bytes_of("N")[0])]):
            found = lv.chat(
                says("Hi. No"), tokenizer(), "hi", eos_token_id=eos, max_length=whole(99),
                max_new_tokens=whole(9), num_beams=whole(1), seed=whole(1),
            )  # fmt: skip
            assert found == wanted


def test_a_history_may_hold_parts_and_calls():
    call = {"type": "function", "function": {"name": "heat", "arguments": {"town": "Oslo"}}}
    history = [
        user([{"type": "text", "text": "How warm"}, {"type": "text", "text": " is it?"}]),
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    before = copy.deepcopy(history)
    ours = tokenizer(TEMPLATE.replace("m.content", "(m.content or '')"))
    response, after = lv.chat(says("ok"), ours, "23", history, "tool")
    assert response == "ok" and after[:2] == before == history
    after[1]["tool_calls"][0]["function"]["name"] = "x"
    after[0]["content"][0]["text"] = "x"
    assert history == before


def test_a_role_of_the_history_that_the_template_leaves_out_is_told():
    silent = tokenizer(TEMPLATE.replace("in messages", "in messages if m.role in ('user', 'tool')"))
    history = [user("hi"), {"role": "banana", "content": "Oslo"}]
    with pytest.raises(ValueError, match=r"history\[1\], role='banana': .* leaves out"):
        lv.chat(says("Hi."), silent, "hi", history)
    assert lv.chat(says("Hi."), tokenizer(), "hi", history)[0] == "Hi."


def test_beams_cannot_be_streamed():
    with pytest.raises(ValueError, match="num_beams=2: beams cannot be streamed; use chat"):
        lv.stream_chat(says("Hi."), tokenizer(), "hi", num_beams=2)


def test_a_model_without_a_chat_template_says_so():
    for ask in (lv.chat, lv.stream_chat):
        with pytest.raises(ValueError, match="no chat template.*-Instruct.*llmviz.generate"):
            ask(says("Hi."), tiny.tokenizer(), "hi")


def test_what_a_template_refuses_or_leaves_out_is_told():
    raises = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    with pytest.raises(ValueError, match="refuses a conversation of system, user: no system role"):
        lv.chat(says("Hi."), tokenizer(raises + TEMPLATE), "hi", system="Be short.")
    silent = TEMPLATE.replace("in messages", "in messages if m.role in ('user', 'tool')")
    for arguments, role in (({"role": "observation"}, "observation"), ({"system": "s"}, "system")):
        with pytest.raises(ValueError, match=f"role='{role}': the model's chat template leaves"):
            lv.chat(says("Hi."), tokenizer(silent), "hi", **arguments)
    assert lv.chat(says("Hi."), tokenizer(silent), "7 °C", role="tool")[0] == "Hi."


def test_the_default_model_is_asked_twice(default_model):
    model, tokenizer = default_model
    settings = {"do_sample": False, "max_new_tokens": 16}
    response, history, past = lv.chat(
        model, tokenizer, "What is the capital of France?", return_past_key_values=True, **settings
    )
    assert "Paris" in response
    inputs = tokenizer.apply_chat_template(
        history[:1], add_generation_prompt=True, return_tensors="pt"
    )
    wanted = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
    assert response == tokenizer.decode(wanted, skip_special_tokens=True)
    query = "And of Italy?"
    with_cache = lv.chat(model, tokenizer, query, history, past_key_values=past, **settings)
    assert with_cache == lv.chat(model, tokenizer, query, history, **settings)
    assert "Rome" in with_cache[0]
