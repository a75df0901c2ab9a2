"""Assisted decoding: the model's own tokens, whoever proposed them."""

import copy
import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, StopStringCriteria
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import llmviz as lv
from llmviz.decoding.assisted import accept_or_replace, assisted_search, look_up
from llmviz.decoding.search import greedy_search
from tests import tiny
from tests.toy import Bigrams

WITH_CACHE = [a for a in tiny.ARCHITECTURES if a != "mamba"]
PROMPT = torch.tensor([[104, 101, 108, 108, 111, 32, 116, 104, 101]])


def disturbed(model, noise=0.03):
    """A draft that agrees with `model` now and then: its weights, and some noise."""
    draft = copy.deepcopy(model)
    torch.manual_seed(0)
    for weights in draft.parameters():
        weights.data += noise * torch.randn_like(weights)
    return draft


def new_tokens(run):
    return run.sequences[0, run.num_prompt_tokens :].tolist()


def accepted(run):
    return sum(draft.accepted for draft in run.drafts)


@pytest.mark.parametrize("architecture", WITH_CACHE)
def test_greedy_text_is_that_of_greedy_search_and_of_transformers(architecture):
    model = tiny.model(architecture)
    draft = disturbed(model)
    run = assisted_search(model, PROMPT, assistant_model=draft, max_new_tokens=20)
    alone = greedy_search(model, PROMPT, max_new_tokens=20)
    theirs = model.generate(PROMPT, assistant_model=draft, max_new_tokens=20, do_sample=False)
    assert run.sequences.tolist() == alone.sequences.tolist() == theirs.tolist()
    assert len(run.steps[0]) == len(alone.steps[0])
    for ours, theirs in zip(run.steps[0], alone.steps[0], strict=True):
        assert (ours.token_id, ours.rank) == (theirs.token_id, theirs.rank)
        assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-4)


def test_drafts_of_all_kinds_occur():
    """What the tests of parity stand on: some drafts stay whole, some in part, some not at all."""
    runs = [
        assisted_search(model, PROMPT, assistant_model=disturbed(model), max_new_tokens=20)
        for model in map(tiny.model, ["gpt2", "llama", "mistral"])
    ]
    shares = {d.accepted / len(d.proposed) for run in runs for d in run.drafts if d.proposed}
    assert 0 in shares and 1 in shares and any(0 < share < 1 for share in shares)


@pytest.mark.parametrize("architecture", WITH_CACHE)
def test_prompt_lookup_gives_the_text_of_greedy_search_and_of_transformers(architecture):
    model = tiny.model(architecture)
    run = assisted_search(model, PROMPT, prompt_lookup_num_tokens=3, max_new_tokens=20)
    alone = greedy_search(model, PROMPT, max_new_tokens=20)
    theirs = model.generate(PROMPT, prompt_lookup_num_tokens=3, max_new_tokens=20, do_sample=False)
    assert run.sequences.tolist() == alone.sequences.tolist() == theirs.tolist()
    assert run.drafts[0].proposed == [108, 108, 111]  # "he" went on with "llo"
    assert run.drafts[0].draft_probabilities is None


def test_a_model_accepts_all_of_its_own_proposals():
    model = tiny.model("llama")
    run = assisted_search(
        model, PROMPT, assistant_model=model, num_assistant_tokens=4, max_new_tokens=20
    )
    assert [(len(d.proposed), d.accepted) for d in run.drafts] == [(4, 4)] * 4
    run = assisted_search(
        model, PROMPT, assistant_model=model, do_sample=True, seed=1, max_new_tokens=10
    )
    # Up to rounding: a pass over one token and over six give slightly different numbers.
    assert accepted(run) >= 7
    for draft in run.drafts:
        assert draft.draft_probabilities == pytest.approx(draft.model_probabilities, abs=1e-3)


@pytest.mark.parametrize("source", ["draft", "lookup"])
@pytest.mark.parametrize("do_sample", [False, True])
def test_drafts_tell_the_whole_text(source, do_sample):
    model = tiny.model("gpt2")
    from_whom = {"draft": {"assistant_model": disturbed(model)},
                 "lookup": {"prompt_lookup_num_tokens": 4}}[source]  # fmt: skip
    run = assisted_search(
        model, PROMPT, max_new_tokens=16, do_sample=do_sample, seed=3, **from_whom
    )
    told = []
    for draft in run.drafts:
        told += draft.proposed[: draft.accepted]
        told += [] if draft.replacement is None else [draft.replacement]
        judged = min(draft.accepted + 1, len(draft.proposed))
        assert len(draft.model_probabilities) == judged
        if draft.accepted < len(draft.proposed):
            assert draft.replacement != draft.proposed[draft.accepted]
    assert told == new_tokens(run) == [step.token_id for step in run.steps[0]]
    again = lv.Trace.from_json(run.to_json())
    assert again.drafts == run.drafts and again.steps == run.steps
    # The cache was cropped right: each step's figures are those of a pass over the whole text.
    with torch.no_grad():
        log_probs = model(run.sequences).logits[0].log_softmax(-1)
    for t, step in enumerate(run.steps[0], start=PROMPT.shape[1]):
        assert step.log_prob == pytest.approx(log_probs[t - 1, step.token_id].item(), abs=1e-4)


@pytest.mark.parametrize("architecture", ["mistral", "gemma3_text"])
def test_a_sliding_window_is_rolled_back_right_when_sampling(architecture):
    model = tiny.model(architecture)
    draft = disturbed(model, 0.1)
    run = assisted_search(
        model, PROMPT, assistant_model=draft, do_sample=True, seed=0, max_new_tokens=16
    )
    assert 0 < accepted(run) < sum(len(draft.proposed) for draft in run.drafts)
    with torch.no_grad():
        log_probs = model(run.sequences).logits[0].log_softmax(-1)
    for t, step in enumerate(run.steps[0], start=PROMPT.shape[1]):
        assert step.log_prob == pytest.approx(log_probs[t - 1, step.token_id].item(), abs=1e-4)


def test_one_verdict_by_hand():
    """q = (.7, .2, .1) proposes, p = (.3, .5, .2) is wanted. Token 0 stays in 3 of 7 cases, the
    others always; what p has over q is (0, .3, .1), so a refused 0 becomes 1 in 3 of 4 cases."""
    q, p = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.5, 0.2])
    generator = torch.Generator().manual_seed(0)
    n = 4000
    outcomes = [accept_or_replace(0, p, q, generator).item() for _ in range(n)]
    for token, share in enumerate([3 / 7, 4 / 7 * 3 / 4, 4 / 7 * 1 / 4]):
        four_sigma = 4 * math.sqrt(share * (1 - share) / n)
        assert outcomes.count(token) / n == pytest.approx(share, abs=four_sigma)
    for token in (1, 2):
        assert {accept_or_replace(token, p, q, generator).item() for _ in range(200)} == {token}
    # A token that the model rules out never stays, one that it is sure of always does.
    sure, draft = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.25, 0.25])
    for token in range(3):
        assert {accept_or_replace(token, sure, draft, generator).item() for _ in range(50)} == {1}


P = [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.3, 0.5, 0.2]]
Q = [[0.2, 0.2, 0.6], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4]]


def chances_of_texts(p, length):
    """Of each continuation of token 0, from the table."""
    texts = list(itertools.product(range(3), repeat=length))
    return {t: math.prod(p[a][b] for a, b in zip((0, *t), t, strict=False)) for t in texts}


@pytest.mark.parametrize("source", ["draft", "lookup"])
def test_sampled_texts_follow_the_models_distribution(source):
    """χ² over the 27 texts of three tokens, against their exact probabilities."""
    model = Bigrams(P)
    from_whom = {"draft": {"assistant_model": Bigrams(Q), "num_assistant_tokens": 2},
                 "lookup": {"prompt_lookup_num_tokens": 2}}[source]  # fmt: skip
    # The look-up finds 0 → 1, 2.
    prompt = torch.tensor([[0, 1, 2, 0]])
    n, counts = 500, dict.fromkeys(chances_of_texts(P, 3), 0)
    for seed in range(n):
        run = assisted_search(
            model, prompt, do_sample=True, seed=seed, max_new_tokens=3, top_logprobs=1, **from_whom
        )
        counts[tuple(new_tokens(run))] += 1

    def chi_squared(p):
        return sum((counts[t] - n * c) ** 2 / (n * c) for t, c in chances_of_texts(p, 3).items())

    # 54.1 is the 99.9th percentile with 26 degrees of freedom. The draft's own is far off.
    assert chi_squared(P) < 54.1
    assert chi_squared(Q) > 300


def test_processors_work_on_both_models():
    model, settings = tiny.model("llama"), {"repetition_penalty": 1.5, "min_new_tokens": 8}
    run = assisted_search(
        model, PROMPT, assistant_model=disturbed(model), max_new_tokens=16, **settings
    )
    alone = greedy_search(model, PROMPT, max_new_tokens=16, **settings)
    assert run.sequences.tolist() == alone.sequences.tolist()
    # Of a draft, each token is judged with those before it: this model would repeat itself.
    repeats, settings = tiny.model("gemma3_text"), {"no_repeat_ngram_size": 1}
    run = assisted_search(repeats, PROMPT, assistant_model=repeats, max_new_tokens=16, **settings)
    alone = greedy_search(repeats, PROMPT, max_new_tokens=16, **settings)
    assert run.sequences.tolist() == alone.sequences.tolist() and accepted(run) > 8
    run = assisted_search(
        model,
        PROMPT,
        assistant_model=disturbed(model),
        max_new_tokens=16,
        do_sample=True,
        seed=2,
        top_k=5,
        suppress_tokens=[*range(100)],
    )
    assert min(t for d in run.drafts for t in d.proposed) >= 100
    assert min(new_tokens(run)) >= 100
    assert {step.kept for step in run.steps[0]} == {5}


RING = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]


def test_an_eos_token_ends_the_text_within_a_draft_too():
    model = Bigrams(RING, eos_token_id=[3, 2])
    run = assisted_search(model, torch.tensor([[0]]), assistant_model=model, max_new_tokens=9)
    assert new_tokens(run) == [1, 2]
    (draft,) = run.drafts
    assert (draft.proposed, draft.accepted, draft.replacement) == ([1, 2], 2, None)
    # 0 went on with 1, 2, 3; 2 is an eos token.
    run = assisted_search(
        model, torch.tensor([[0, 1, 2, 3, 0]]), prompt_lookup_num_tokens=4, max_new_tokens=9
    )
    assert new_tokens(run) == [1, 2]
    (draft,) = run.drafts
    assert (draft.proposed, draft.accepted, draft.replacement) == ([1, 2, 3, 0], 2, None)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5, 6, 7])
def test_no_more_tokens_than_asked_for(max_new_tokens):
    model = Bigrams(RING)
    run = assisted_search(
        model, torch.tensor([[0]]), assistant_model=model, max_new_tokens=max_new_tokens
    )
    assert new_tokens(run) == [1, 2, 3, 0, 1, 2, 3][:max_new_tokens]
    # Nor proposed: a round ends with a token of the model's own.
    assert sum(len(draft.proposed) + 1 for draft in run.drafts) == max_new_tokens


def test_stop_strings_end_the_text_within_a_draft_too():
    """transformers looks once a round, and runs over; with a draft model, it raises."""
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    settings = {"max_new_tokens": 12, "suppress_tokens": [*range(94, 256)]}  # only ASCII is left
    free = new_tokens(greedy_search(model, PROMPT, **settings))
    for end in range(2, 8):
        criteria = StopStringCriteria(tokenizer, [tokenizer.decode(free[end - 2 : end])])
        settings["stop"] = lambda ids, c=criteria: c(ids, None)
        run = assisted_search(model, PROMPT, assistant_model=model, **settings)
        assert run.sequences.tolist() == greedy_search(model, PROMPT, **settings).sequences.tolist()
        assert new_tokens(run) == free[: len(new_tokens(run))] and len(new_tokens(run)) <= end
        assert len(run.steps[0]) == len(new_tokens(run))


def test_one_padded_prompt():
    model = tiny.model("llama")
    padded = torch.cat([torch.full((1, 4), tiny.PAD), PROMPT], dim=-1)
    settings = {"assistant_model": disturbed(model), "max_new_tokens": 12}
    run = assisted_search(model, padded, (padded != tiny.PAD).long(), **settings)
    assert new_tokens(run) == new_tokens(assisted_search(model, PROMPT, **settings))


def test_looking_up():
    assert look_up(torch.tensor([1, 2, 3, 4, 1, 2]), 3) == [3, 4, 1]
    assert look_up(torch.tensor([1, 2, 9, 2, 7, 1, 2]), 1) == [9]  # both tokens, the first place
    assert look_up(torch.tensor([5, 2, 9, 7, 2]), 5) == [9, 7, 2]  # the last one alone
    assert look_up(torch.tensor([1, 2, 3]), 3) == look_up(torch.tensor([1]), 3) == []
    assert look_up(torch.tensor([1, 1]), 3) == [1]
    assert look_up(torch.tensor([1, 2, 1]), 0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass either assistant_model or prompt_lookup_num_tokens"),
        ({"assistant_model": Bigrams(P), "prompt_lookup_num_tokens": 2}, "pass either"),
        ({"assistant_model": Bigrams(RING)}, "assistant_model has a vocabulary of 4 .* one of 3"),
        ({"assistant_model": tiny.model("mamba", seed=9)}, "vocabulary of 259"),
        ({"assistant_model": Bigrams(P), "num_assistant_tokens": 0}, "num_assistant_tokens=0"),
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens=0"),
        ({"prompt_lookup_num_tokens": True}, "prompt_lookup_num_tokens=True"),
        ({"prompt_lookup_num_tokens": 2, "temperature": 0.0}, "temperature=0.0"),
        ({"prompt_lookup_num_tokens": 2, "max_new_tokens": 0}, "max_new_tokens=0"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(arguments, message):
    model = Bigrams(P)
    with pytest.raises(ValueError, match=message):
        assisted_search(model, torch.tensor([[0]]), **arguments)
    assert model.passes == 0
    if isinstance(arguments.get("assistant_model"), Bigrams):
        assert arguments["assistant_model"].passes == 0


def test_more_than_one_row_is_refused():
    with pytest.raises(ValueError, match="input_ids has 2 rows"):
        assisted_search(Bigrams(P), torch.tensor([[0], [1]]), prompt_lookup_num_tokens=2)


def test_a_state_that_cannot_be_taken_back_is_refused():
    mamba, llama = tiny.model("mamba"), tiny.model("llama")
    with pytest.raises(ValueError, match="^model is a MambaForCausalLM"):
        assisted_search(mamba, PROMPT, prompt_lookup_num_tokens=2)
    with pytest.raises(ValueError, match="^assistant_model is a MambaForCausalLM"):
        assisted_search(llama, PROMPT, assistant_model=mamba)


def test_a_draft_model_with_too_short_a_context_is_refused():
    model, draft = tiny.model("llama"), tiny.model("gpt2", n_positions=64)
    prompt = torch.full((1, 60), 65)
    with pytest.raises(ValueError, match="assistant_model's context of 64 tokens"):
        assisted_search(model, prompt, assistant_model=draft, max_new_tokens=20)


@pytest.mark.parametrize("source", ["draft", "lookup"])
def test_greedy_search_touches_no_random_generator(source, monkeypatch):
    model = tiny.model("llama")
    from_whom = {"draft": {"assistant_model": disturbed(model)},
                 "lookup": {"prompt_lookup_num_tokens": 4}}[source]  # fmt: skip
    alone = greedy_search(model, PROMPT, max_new_tokens=16)
    for draws in ("multinomial", "rand"):
        monkeypatch.setattr(torch, draws, lambda *_, **__: pytest.fail("a draw"))
    state = torch.get_rng_state()
    for seed in (None, 5):
        run = assisted_search(model, PROMPT, max_new_tokens=16, seed=seed, **from_whom)
        assert run.sequences.tolist() == alone.sequences.tolist()
    assert torch.equal(torch.get_rng_state(), state)


def made(architecture, **config):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**tiny.GROUPED | config)
    config.eos_token_id, config.pad_token_id = tiny.EOS, tiny.PAD
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_running_state_without_a_flag_is_refused_before_any_pass():
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    recurrent = made("minimax", num_local_experts=2, num_experts_per_tok=1, layer_types=kinds)
    llama = tiny.model("llama")
    for model in (recurrent, llama):
        model.register_forward_pre_hook(lambda *_: pytest.fail("a model ran"))
    try:
        with pytest.raises(ValueError, match="^model is a MiniMaxForCausalLM, whose running state"):
            assisted_search(recurrent, PROMPT, prompt_lookup_num_tokens=2)
        with pytest.raises(ValueError, match="^assistant_model is a MiniMaxForCausalLM"):
            assisted_search(llama, PROMPT, assistant_model=recurrent)
    finally:
        llama._forward_pre_hooks.clear()


def test_inputs_of_a_convolution_can_be_taken_back():
    model = made("lfm2", layer_types=["conv", "full_attention", "conv"])
    run = assisted_search(model, PROMPT, prompt_lookup_num_tokens=3, max_new_tokens=16)
    alone = greedy_search(model, PROMPT, max_new_tokens=16)
    assert run.sequences.tolist() == alone.sequences.tolist()


@pytest.mark.parametrize("source", ["draft", "lookup"])
def test_guidance_as_in_greedy_search_and_in_transformers(source):
    model = tiny.model("llama")
    from_whom = {"draft": {"assistant_model": disturbed(model)},
                 "lookup": {"prompt_lookup_num_tokens": 4}}[source]  # fmt: skip
    settings = {"guidance_scale": 1.7, "max_new_tokens": 16}
    run = assisted_search(model, PROMPT, **settings, **from_whom)
    assert run.sequences.tolist() == greedy_search(model, PROMPT, **settings).sequences.tolist()
    assert run.sequences.tolist() == model.generate(PROMPT, **settings, do_sample=False).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_draft_model_that_gives_no_numbers_is_named(bad):
    model = tiny.model("llama")
    draft = copy.deepcopy(model)
    draft.get_output_embeddings().weight.data[7] = bad
    with pytest.raises(ValueError, match="^assistant_model: scores: row 0 holds"):
        assisted_search(model, PROMPT, assistant_model=draft)


@pytest.mark.parametrize("bad", [None, 3, "llama", torch.nn.Linear(2, 2)], ids=str)
def test_what_is_no_draft_model_is_named(bad):
    with pytest.raises((TypeError, ValueError), match="assistant_model"):
        assisted_search(tiny.model("llama"), PROMPT, assistant_model=bad)
