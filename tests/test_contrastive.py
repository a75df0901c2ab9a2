"""Contrastive search against its formula, worked without a cache and by hand."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import StopStringCriteria

import llmviz as lv
from llmviz.decoding.contrastive import contrastive_search, degeneration_penalty
from llmviz.decoding.search import greedy_search
from tests import tiny
from tests.toy import Bigrams

PROMPT = torch.tensor([[104, 101, 108, 108, 111, 32, 116]])


def from_the_formula(model, text: list[int], alpha, k, steps) -> list[int]:
    """Su et al., 2022, equation 5, with a pass over the whole text for each candidate."""
    for _ in range(steps):
        with torch.no_grad():
            logits = model(torch.tensor([text]), use_cache=False).logits[0, -1]
        values = {}
        for v in logits.topk(k).indices.tolist():
            with torch.no_grad():
                output = model(
                    torch.tensor([[*text, v]]), use_cache=False, output_hidden_states=True
                )
            *before, candidate = output.hidden_states[-1][0].double()
            highest = max(cosine_similarity(candidate, h, dim=0).item() for h in before)
            values[v] = (1 - alpha) * logits.double().softmax(-1)[v].item() - alpha * highest
        text = [*text, max(values, key=values.get)]
        if text[-1] == tiny.EOS:
            break
    return text


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_tokens_are_those_of_the_formula(architecture):
    model = tiny.model(architecture)
    expected = from_the_formula(model, PROMPT[0].tolist(), alpha=0.5, k=3, steps=8)
    run = contrastive_search(model, PROMPT, penalty_alpha=0.5, top_k=3, max_new_tokens=8)
    assert run.sequences[0].tolist() == expected


def test_by_hand():
    """Three tokens. After 0: candidates with probability .6, .3, .1; the text holds token 0 alone,
    whose hidden state is (1, 0), so the similarities are 1, 0.6 and 0."""
    hidden = [[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]]
    model = Bigrams([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], hidden)
    # α = 0.2: .8·.6 − .2·1 = .28; .8·.3 − .2·.6 = .12; .8·.1 − 0 = .08
    # α = 0.5: .5·.6 − .5·1 = −.2; .5·.3 − .5·.6 = −.15; .5·.1 − 0 = .05
    # and with two candidates only, token 1 is the better one
    for alpha, k, chosen, scores in [
        (0.2, 3, 0, [0.28, 0.12, 0.08]),
        (0.5, 3, 2, [-0.2, -0.15, 0.05]),
        (0.5, 2, 1, [-0.2, -0.15, -math.inf]),
    ]:
        run = contrastive_search(
            model, torch.tensor([[0]]), penalty_alpha=alpha, top_k=k, max_new_tokens=1
        )
        assert run.sequences.tolist() == [[0, chosen]]
        (step,) = run.steps[0]
        found = {c.token_id: c.score for c in step.candidates}
        assert [found[i] for i in range(3)] == pytest.approx(scores)
        assert step.kept == k and step.mass == pytest.approx(sum([0.6, 0.3, 0.1][:k]))
    # After 0, 2 with α = 0.5: .5·.3 − .5·1 = −.35 for token 0, .5·.3 − .5·.6 = −.15 for token 1
    # (its similarity with token 2 is −.8), .5·.4 − .5·1 = −.3 for token 2.
    run = contrastive_search(
        model, torch.tensor([[0]]), penalty_alpha=0.5, top_k=3, max_new_tokens=2
    )
    assert run.sequences.tolist() == [[0, 2, 1]]
    found = {c.token_id: c.score for c in run.steps[0][1].candidates}
    assert [found[i] for i in range(3)] == pytest.approx([-0.35, -0.15, -0.3])


def test_padding_is_no_context():
    hidden = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    context = torch.tensor([[[2.0, 0.0], [3.0, 4.0]]])
    both, second = torch.tensor([[1, 1]]), torch.tensor([[0, 1]])
    assert degeneration_penalty(hidden, context, both).tolist() == [[1.0, pytest.approx(0.8)]]
    assert degeneration_penalty(hidden, context, second)[0].tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("architecture", ["falcon", "gemma3_text", "gpt2", "llama", "mamba"])
def test_without_a_penalty_or_a_choice_it_is_greedy_search(architecture):
    model = tiny.model(architecture)
    greedy = greedy_search(model, PROMPT, max_new_tokens=12).sequences
    for setting in ({"penalty_alpha": 0.0, "top_k": 4}, {"penalty_alpha": 0.6, "top_k": 1}):
        run = contrastive_search(model, PROMPT, max_new_tokens=12, **setting)
        assert run.sequences.tolist() == greedy.tolist()
    other = contrastive_search(model, PROMPT, max_new_tokens=12, penalty_alpha=0.9)
    assert other.sequences.tolist() != greedy.tolist()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3_text", "bloom", "mistral"])
def test_a_padded_batch_gives_what_each_row_gives_alone(architecture):
    model = tiny.model(architecture)
    short = PROMPT[:, 3:]
    padded = torch.cat([torch.full((1, 3), tiny.PAD), short], dim=-1)
    mask = (torch.cat([PROMPT, padded]) != tiny.PAD).long()
    run = contrastive_search(
        model, torch.cat([PROMPT, padded]), mask, penalty_alpha=0.5, max_new_tokens=8
    )
    for row, prompt in enumerate([PROMPT, short]):
        alone = contrastive_search(model, prompt, penalty_alpha=0.5, max_new_tokens=8)
        new = alone.sequences[0, prompt.shape[1] :].tolist()
        assert run.sequences[row, 7 : 7 + len(new)].tolist() == new
        assert set(run.sequences[row, 7 + len(new) :].tolist()) <= {tiny.PAD}
        assert [s.token_id for s in run.steps[row]] == new
        for ours, theirs in zip(run.steps[row], alone.steps[0], strict=True):
            assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-4)


def test_a_row_ends_with_any_eos_token_or_where_it_is_told_to():
    ring = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    model = Bigrams(ring, eos_token_id=[3, 2])
    prompts = torch.tensor([[0], [2]])
    run = contrastive_search(model, prompts, top_k=2, max_new_tokens=5)
    assert run.sequences.tolist() == [[0, 1, 2], [2, 3, 0]]  # 0 is the pad token
    assert [len(steps) for steps in run.steps] == [2, 1]
    run = contrastive_search(
        model, prompts, top_k=2, max_new_tokens=5, stop=lambda ids: ids[:, -1] == 1
    )
    assert run.sequences.tolist() == [[0, 1], [2, 3]]


def test_stop_strings():
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    settings = {"max_new_tokens": 10, "suppress_tokens": [*range(94, 256)]}  # only ASCII is left
    free = contrastive_search(model, PROMPT, **settings).sequences[0, 7:].tolist()
    criteria = StopStringCriteria(tokenizer, [tokenizer.decode(free[2:4])])
    run = contrastive_search(model, PROMPT, stop=lambda ids: criteria(ids, None), **settings)
    assert run.sequences[0, 7:].tolist() == free[:4]


def test_a_token_that_a_processor_ruled_out_is_no_candidate():
    """With α = 1 only the similarity counts, and the least similar tokens are forbidden."""
    model = tiny.model("gpt2")
    run = contrastive_search(
        model,
        PROMPT,
        penalty_alpha=1.0,
        top_k=4,
        max_new_tokens=6,
        prefix_allowed_tokens_fn=lambda row, text: [65, 66],
    )
    assert set(run.sequences[0, 7:].tolist()) <= {65, 66}
    assert [s.kept for s in run.steps[0]] == [2] * 6


def test_round_trip():
    run = contrastive_search(tiny.model("gpt2"), PROMPT, max_new_tokens=3, top_k=2)
    assert run.settings["penalty_alpha"] == 0.6 and run.settings["top_k"] == 2
    assert lv.Trace.from_json(run.to_json()).steps == run.steps


@pytest.mark.parametrize(
    ("argument", "value"),
    [("penalty_alpha", -0.1), ("penalty_alpha", 1.1), ("penalty_alpha", "0.5"),
     ("penalty_alpha", math.nan), ("penalty_alpha", True), ("top_k", 0), ("top_k", 2.0),
     ("max_new_tokens", 0)],
)  # fmt: skip
def test_bad_input_is_refused_before_the_model_runs(argument, value):
    model = Bigrams([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match=f"{argument}={value!r}"):
        contrastive_search(model, torch.tensor([[0]]), **{argument: value})
    assert model.passes == 0


def test_the_look_ahead_must_fit_into_the_context():
    model = tiny.model("gpt2")
    prompt = torch.full((1, 120), 65)
    assert contrastive_search(model, prompt, max_new_tokens=8).sequences.shape == (1, 128)
    with pytest.raises(ValueError, match="at most 8 tokens"):
        contrastive_search(model, prompt, max_new_tokens=9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hidden_states_that_are_no_numbers_are_named(bad):
    hidden = [[1.0, 0.0], [bad, 1.0], [0.0, 1.0]]
    model = Bigrams([[0.2, 0.5, 0.3]] * 3, hidden=hidden)
    with pytest.raises(ValueError, match="hidden states hold NaN or an infinite number"):
        contrastive_search(model, torch.tensor([[0, 2]]), top_k=2, max_new_tokens=3)


@pytest.mark.parametrize("top_k", [0, 1025, 10**9, True, 2.0, "4"])
def test_top_k_is_a_number_of_rows(top_k):
    model = Bigrams([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="top_k=.*from 1 to 1024"):
        contrastive_search(model, torch.tensor([[0]]), top_k=top_k)
    assert model.passes == 0
