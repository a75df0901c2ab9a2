"""What greedy search and sampling share with the other loops: how rows end. Parity of the tokens
with transformers' over architectures and settings stands in test_decoding."""

import pytest
import torch
from transformers import StopStringCriteria

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
