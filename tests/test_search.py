"""What greedy search and sampling share with the other loops: how rows end. Parity of the tokens
with transformers' over architectures and settings stands in test_decoding."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from transformers import StopStringCriteria

import llmviz as lv
from llmviz.decoding.search import greedy_search, sample
from tests import tiny
from tests.toy import Bigrams

ASCII = [*range(94, 256)]  # suppressed, so that all tokens are characters
PROMPTS = torch.tensor([[72, 69, 76, 76, 79, 12], [tiny.PAD, tiny.PAD, 72, 73, 0, 5]])
MASK = (PROMPTS != tiny.PAD).long()


def theirs(model, do_sample, **settings):
    torch.manual_seed(5)
    return model.generate(
        PROMPTS, attention_mask=MASK, max_new_tokens=14, do_sample=do_sample, top_k=0, **settings
    )


def ours(model, do_sample, **settings):
    loop, seed = (sample, {"seed": 5}) if do_sample else (greedy_search, {})
    return loop(model, PROMPTS, MASK, max_new_tokens=14, **seed, **settings)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mamba"])
def test_stop_strings_as_in_generate(architecture, do_sample):
    model, tokenizer = tiny.model(architecture), tiny.tokenizer()
    free = ours(model, do_sample, suppress_tokens=ASCII).sequences
    strings = [tokenizer.decode(free[0, 9:11]), tokenizer.decode(free[1, 12:13])]
    criteria = StopStringCriteria(tokenizer, strings)
    run = ours(model, do_sample, suppress_tokens=ASCII, stop=lambda ids: criteria(ids, None))
    output = theirs(
        model, do_sample, suppress_tokens=ASCII, stop_strings=strings, tokenizer=tokenizer
    )
    assert run.sequences.tolist() == output.tolist()
    for row, steps in enumerate(run.steps):
        text = tokenizer.decode([step.token_id for step in steps])
        assert any(string in text for string in strings)
        # Behind the end there are only pad tokens, and they are no steps.
        assert set(run.sequences[row, 6 + len(steps) :].tolist()) <= {tiny.PAD}


@pytest.mark.parametrize("do_sample", [False, True])
def test_several_eos_tokens_as_in_generate(do_sample, monkeypatch):
    model = tiny.model("llama")
    free = ours(model, do_sample).sequences
    eos = [free[0, 8].item(), free[1, 10].item()]
    monkeypatch.setattr(model.generation_config, "eos_token_id", eos)
    run, output = ours(model, do_sample), theirs(model, do_sample)
    assert run.sequences.tolist() == output.tolist()
    for steps in run.steps:
        ids = [step.token_id for step in steps]
        assert ids[-1] in eos and not {*ids[:-1]} & {*eos}
    assert run.sequences.shape[1] < free.shape[1]
    longer = ours(model, do_sample, min_new_tokens=9)
    assert longer.sequences.tolist() == theirs(model, do_sample, min_new_tokens=9).tolist()
    assert min(map(len, longer.steps)) >= 9 > min(map(len, run.steps))


def test_without_an_eos_token_stopped_rows_run_on_as_in_generate(monkeypatch):
    model = tiny.model("llama")
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    free = ours(model, False).sequences
    run = ours(model, False, stop=lambda ids: ids[:, -1] == free[0, 8].item())
    assert run.sequences.tolist() == free[:, : run.sequences.shape[1]].tolist()
    ended = free[0, 6:].tolist().index(free[0, 8].item()) + 1
    assert len(run.steps[0]) == ended < len(run.steps[1])


@pytest.mark.parametrize("loop", [greedy_search, sample])
@pytest.mark.parametrize(
    "setting", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"suppress_tokens": [2]}], ids=str
)
def test_bad_input_is_refused_before_the_model_runs(loop, setting):
    model = Bigrams([[0.5, 0.5], [0.5, 0.5]])
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        loop(model, torch.tensor([[0]]), **setting)
    assert model.passes == 0


# What every strategy checks before its first pass

STRATEGIES = {
    "greedy_search": {},
    "sample": {"seed": 1},
    "beam_search": {"num_beams": 3},
    "contrastive_search": {"top_k": 3},
    "dola": {},
    "assisted_search": {"prompt_lookup_num_tokens": 2},
}
IDS = torch.tensor([[72, 69, 76, 76, 79]])
BAD = [
    {"model": None}, {"model": "llama"}, {"model": 3}, {"model": torch.nn.Linear(2, 2)},
    {"input_ids": None}, {"input_ids": "hello"}, {"input_ids": [[1, 2]]}, {"input_ids": 3},
    {"input_ids": {"input_ids": IDS}}, {"input_ids": IDS[0]}, {"input_ids": IDS[:, :0]},
    {"input_ids": IDS[:0]}, {"input_ids": IDS.float()}, {"input_ids": IDS.bool()},
    {"input_ids": IDS + 200}, {"input_ids": -IDS}, {"input_ids": IDS[None]},
    {"attention_mask": [[1, 1, 1, 1, 1]]}, {"attention_mask": True},
    {"attention_mask": torch.ones(1, 4)}, {"attention_mask": torch.zeros(1, 5)},
    {"attention_mask": torch.tensor([[1, 1, 1, 1, 0]])},
    {"attention_mask": torch.tensor([[1, 0, 1, 1, 1]])},
    {"attention_mask": torch.tensor([[0, 2, 1, 1, 1]])},
    {"attention_mask": torch.tensor([[0, 0.5, 1, 1, 1]])},
    {"attention_mask": torch.tensor([[math.nan, 1, 1, 1, 1]])},
    {"max_new_tokens": 0}, {"max_new_tokens": True}, {"max_new_tokens": 2.0},
    {"max_new_tokens": 125}, {"max_new_tokens": 10**30}, {"max_new_tokens": None},
    {"top_logprobs": 0}, {"top_logprobs": None}, {"top_logprobs": 2.5}, {"top_logprobs": True},
    {"stop": "x"}, {"stop": 3}, {"stop": int}, {"stop": ["x"]},
    {"top_p": 0.0}, {"suppress_tokens": [300]}, {"repetition_penalty": np.float64("nan")},
]  # fmt: skip
DRAWS = [
    {"seed": -1}, {"seed": 2**64}, {"seed": 1.0}, {"seed": "1"}, {"seed": True},
    {"do_sample": "no"}, {"do_sample": 1}, {"do_sample": None},
]  # fmt: skip


def _named(bad):
    ((name, value),) = bad.items()
    return f"{name}={str(value):.24}".replace("\n", " ")


@pytest.fixture
def never_runs():
    model = tiny.model("llama")
    hook = model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    yield model
    hook.remove()


def _doors():
    """Each strategy with each bad value of an argument that it has."""
    for name, bad in itertools.product(STRATEGIES, [*BAD, *DRAWS]):
        if (
            not {*bad} & {"seed", "do_sample"}
            or {*bad} <= inspect.signature(getattr(lv, name)).parameters.keys()
        ):
            yield pytest.param(name, bad, id=f"{name} {_named(bad)}")


@pytest.mark.parametrize("name, bad", _doors())
def test_each_argument_is_checked_before_any_pass(name, bad, never_runs):
    strategy, (argument,) = getattr(lv, name), bad
    given = {"model": never_runs, "input_ids": IDS} | STRATEGIES[name] | bad
    message = "context of 128" if bad.get("max_new_tokens") in (125, 10**30) else rf"^{argument}\b"
    with pytest.raises((TypeError, ValueError), match=message):
        strategy(**given)


@pytest.mark.parametrize("returned", [
    None, True, [True], torch.tensor(True), torch.tensor([1]), torch.tensor([True, False]),
    np.array([True]),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", [n for n in STRATEGIES if n != "beam_search"])
def test_stop_has_to_return_a_bool_for_each_row(name, returned):
    with pytest.raises(ValueError, match="^stop returned .* bool tensor of shape .1,."):
        getattr(lv, name)(tiny.model("llama"), IDS, stop=lambda ids: returned, **STRATEGIES[name])


def test_stop_has_to_return_a_bool_for_each_candidate_of_the_beams():
    with pytest.raises(ValueError, match="^stop returned .* shape .6,."):
        lv.beam_search(tiny.model("llama"), IDS, num_beams=3, stop=lambda ids: ids[:1, 0] == 1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_numbers_of_numpy_and_torch_become_plain_settings(name):
    model, strategy = tiny.model("llama"), getattr(lv, name)
    given = {"max_new_tokens": 4, "repetition_penalty": 1.5} | STRATEGIES[name]
    plain = strategy(model, IDS, **given)
    for kind in (np.asarray, torch.tensor):
        odd = {k: kind(v) for k, v in given.items()}
        odd |= {"max_new_tokens": np.int32(4)} if kind is np.asarray else {}
        run = strategy(model, IDS.int(), torch.ones(1, 5, dtype=torch.bool), **odd)
        assert run.sequences.tolist() == plain.sequences.tolist()
        assert run.settings == plain.settings
        assert {type(v) for v in run.settings.values()} <= {int, float, bool, str, type(None)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_longest_text_that_fits_is_the_models_context(name):
    model, reads_last = tiny.model("llama"), name == "contrastive_search"
    prompt = IDS.repeat(1, 24)
    longest = 8 + (not reads_last)
    run = getattr(lv, name)(model, prompt, max_new_tokens=longest, **STRATEGIES[name])
    assert run.sequences.shape[1] <= 129
    with pytest.raises(ValueError, match=f"at most {longest} tokens"):
        getattr(lv, name)(model, prompt, max_new_tokens=longest + 1, **STRATEGIES[name])
    # Padding is no part of the text.
    mask = torch.ones_like(prompt)
    mask[:, :2] = 0
    getattr(lv, name)(model, prompt, mask, max_new_tokens=longest + 2, **STRATEGIES[name])


@pytest.mark.parametrize("name", STRATEGIES)
def test_guidance_reaches_every_strategy(name):
    model, given = tiny.model("llama"), {"max_new_tokens": 8} | STRATEGIES[name]
    free = getattr(lv, name)(model, IDS, **given)
    guided = getattr(lv, name)(model, IDS, guidance_scale=3.0, **given)
    assert guided.sequences.tolist() != free.sequences.tolist()
    off = getattr(lv, name)(model, IDS, guidance_scale=1.0, **given)
    assert off.sequences.tolist() == free.sequences.tolist()
