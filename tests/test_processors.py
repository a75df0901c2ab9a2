"""Processors: equal to transformers' classes bit for bit, in their order, with their properties."""

import inspect
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation import logits_process as theirs

from llmviz import processors
from llmviz.decoding import greedy_search, sample
from tests import tiny

INF = math.inf
CUT_OFFS = {
    "top_k": (theirs.TopKLogitsWarper, (1, 2, 5, 50, 1000)),
    "top_p": (theirs.TopPLogitsWarper, (1e-6, 0.3, 0.5, 0.9, 0.999, 1.0)),
    "min_p": (theirs.MinPLogitsWarper, (0.0, 0.05, 0.5, 1.0)),
    "typical_p": (theirs.TypicalLogitsWarper, (1e-6, 0.2, 0.5, 0.9, 0.999)),
    "epsilon_cutoff": (theirs.EpsilonLogitsWarper, (1e-4, 3e-2, 0.5, 0.999)),
    "eta_cutoff": (theirs.EtaLogitsWarper, (1e-4, 3e-2, 0.5, 0.999)),
}


def assert_same_bits(found, wanted):
    assert found.dtype == wanted.dtype == torch.float32
    assert torch.equal(found.view(torch.int32), wanted.view(torch.int32))


def batches(vocabulary=40):
    """Scores of four rows: peaked, flat, tied, partly ruled out, log-probabilities, −0."""
    torch.manual_seed(0)
    normal = torch.randn(4, vocabulary)
    ruled_out = (8 * normal).masked_fill(torch.rand(4, vocabulary) < 0.6, -INF)
    ruled_out[0] = torch.full((vocabulary,), -INF).index_fill(0, torch.tensor([3]), 1.5)
    return {
        "normal": normal,
        "peaked": 8 * normal,
        "flat": torch.zeros(4, vocabulary),
        "tied": normal.round(),
        "ruled out": ruled_out,
        "ruled out and tied": ruled_out.round(),
        "log-probabilities": (3 * normal).log_softmax(-1),
        "minus zero": torch.where(normal > 0, normal, -0.0),
    }


BATCHES = batches()


def text(vocabulary=40, tokens=25):
    """Token ids with many repeats, padded on the left: (input_ids, attention_mask)."""
    torch.manual_seed(1)
    input_ids = torch.randint(0, vocabulary // 5, (4, tokens))
    attention_mask = (torch.arange(tokens) >= torch.tensor([[0], [1], [7], [0]])).long()
    return input_ids, attention_mask


# Bit for bit


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CUT_OFFS)
def test_cut_offs_equal_transformers(name, batch):
    Theirs, values = CUT_OFFS[name]
    scores = BATCHES[batch]
    before = scores.clone()
    for value in values:
        for keep in (1, 2, 3, 99):
            wanted = Theirs(value, min_tokens_to_keep=keep)(None, scores)
            found = getattr(processors, name)(scores, value, keep)
            assert_same_bits(found, wanted)
            one_by_one = [getattr(processors, name)(row[None], value, keep) for row in scores]
            assert_same_bits(torch.cat(one_by_one), wanted)
    assert_same_bits(scores, before)


@pytest.mark.parametrize("name", CUT_OFFS)
def test_cut_offs_equal_transformers_on_a_real_vocabulary(name):
    Theirs, values = CUT_OFFS[name]
    torch.manual_seed(0)
    scores = 3 * torch.randn(2, 49_152)
    for value in values:
        assert_same_bits(getattr(processors, name)(scores, value), Theirs(value)(None, scores))


def test_cut_offs_equal_transformers_where_the_mass_is_exactly_p():
    scores = BATCHES["normal"][:1]
    entropy = torch.special.entr(scores.softmax(-1)).sum()
    surprisal = -scores.log_softmax(-1)
    typical = scores.gather(-1, (surprisal - entropy).abs().argsort()).softmax(-1).cumsum(-1)
    likely = scores.sort().values.softmax(-1).cumsum(-1)
    for p in typical[0, :30].tolist():
        wanted = theirs.TypicalLogitsWarper(p)(None, scores)
        assert_same_bits(processors.typical_p(scores, p), wanted)
    for p in (1 - likely[0, 10:-1]).tolist():
        assert_same_bits(processors.top_p(scores, p), theirs.TopPLogitsWarper(p)(None, scores))


@pytest.mark.parametrize("batch", BATCHES)
def test_temperature_equals_transformers(batch):
    for value in (1e-3, 0.7, 1.0, 2.0, 100.0):
        wanted = theirs.TemperatureLogitsWarper(value)(None, BATCHES[batch])
        assert_same_bits(processors.temperature(BATCHES[batch], value), wanted)
    assert_same_bits(
        processors.temperature(BATCHES[batch], 2), processors.temperature(BATCHES[batch], 2.0)
    )


@pytest.mark.parametrize("pad", [0, 7, 39, 40, 1000], ids=lambda pad: f"pad {pad}")
@pytest.mark.parametrize("batch", BATCHES)
def test_penalties_on_the_text_equal_transformers(batch, pad):
    scores, (input_ids, attention_mask) = BATCHES[batch], text()
    input_ids = torch.where(attention_mask.bool(), input_ids, pad)
    padding = (attention_mask == 0).sum(-1)
    for value in (0.5, 1.0, 1.3, 5.0):
        wanted = theirs.RepetitionPenaltyLogitsProcessor(value, padding)(input_ids, scores.clone())
        found = processors.repetition_penalty(scores, value, input_ids, attention_mask)
        assert_same_bits(found, wanted)
        wanted = theirs.RepetitionPenaltyLogitsProcessor(value)(input_ids, scores.clone())
        assert_same_bits(processors.repetition_penalty(scores, value, input_ids), wanted)
    for n in (1, 2, 3, 4, 25, 26):
        wanted = theirs.NoRepeatNGramLogitsProcessor(n)(input_ids, scores)
        assert_same_bits(processors.no_repeat_ngram_size(scores, n, input_ids), wanted)


BAD_WORDS = [
    [[3]],
    [[3], [7, 8], [9]],
    [[7, 8], [7, 8], [8]],
    [[1, 2], [0, 5], [5, 5, 6], [0, 1, 2, 3]],
    [list(range(8)) * 5, [2, 11], [2, 12], [4, 2, 13]],
    [[a, 30 + a] for a in range(8)] + [[a, b, 20] for a in range(8) for b in range(8)],
]


@pytest.mark.parametrize("words", BAD_WORDS, ids=str)
@pytest.mark.parametrize("eos", [[], [3], [9, 3]], ids=str)
def test_bad_words_equal_transformers(words, eos):
    input_ids, _ = text()
    # A lone eos that is a bad word is let go; with no other word, transformers raises.
    if any(word not in [[e] for e in eos] for word in words):
        for scores in BATCHES.values():
            for ids in (input_ids, input_ids[:, :2]):
                wanted = theirs.NoBadWordsLogitsProcessor(words, eos or None)(ids, scores)
                assert_same_bits(processors.bad_words_ids(scores, words, ids, eos), wanted)
    else:
        scores = BATCHES["normal"]
        assert_same_bits(processors.bad_words_ids(scores, words, input_ids, eos), scores)


@pytest.mark.parametrize("batch", BATCHES)
def test_suppressed_tokens_and_min_new_tokens_equal_transformers(batch):
    scores, (input_ids, _) = BATCHES[batch], text()
    for ids in ([0], [3, 3, 39], list(range(40))):
        wanted = theirs.SuppressTokensLogitsProcessor(ids)(input_ids, scores)
        assert_same_bits(processors.suppress_tokens(scores, ids), wanted)
    for eos in ([5], [5, 0, 39]):
        for minimum in (0, 4, 5, 6, 100):
            wanted = theirs.MinNewTokensLengthLogitsProcessor(20, minimum, eos)(input_ids, scores)
            found = processors.min_new_tokens(scores, minimum, input_ids[:, 20:], eos)
            assert_same_bits(found, wanted)


@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize("batch", BATCHES)
def test_prefix_allowed_tokens_fn_equals_transformers(batch, num_beams):
    scores, (input_ids, _) = BATCHES[batch], text()
    calls = []

    def allowed(prompt, ids):
        calls.append((prompt, ids.tolist()))
        # Row 0 of "ruled out" has one possible token, 3: others are then to be forced.
        return [4 + prompt, 5 + int(ids[-1]), 6]

    wanted = theirs.PrefixConstrainedLogitsProcessor(allowed, num_beams)(input_ids, scores)
    their_calls = list(calls)
    calls.clear()
    found = processors.prefix_allowed_tokens_fn(scores, allowed, input_ids, num_beams)
    assert_same_bits(found, wanted)
    assert calls == their_calls
    for as_other in (torch.tensor, tuple):
        found = processors.prefix_allowed_tokens_fn(
            scores, lambda p, ids, kind=as_other: kind(allowed(p, ids)), input_ids, num_beams
        )
        assert_same_bits(found, wanted)


def test_what_a_constraint_allows_is_forced_only_when_all_beams_are_stuck():
    scores = torch.full((4, 3), -INF)
    scores[:, 0] = 1.0
    scores[3, 2] = -5.0
    ids = torch.zeros(4, 1, dtype=torch.long)
    found = processors.prefix_allowed_tokens_fn(scores, lambda p, ids: [2], ids, num_beams=2)
    wanted = torch.full((4, 3), -INF)
    wanted[0, 2] = wanted[1, 2] = 0.0
    wanted[3, 2] = -5.0
    assert_same_bits(found, wanted)


BIASES = [
    {(3,): 1.5},
    {(3,): 1.5, (7, 8): -2.0, (1, 8): 0.1, (2, 8): 0.2, (9,): -INF},
    {(7, 8): 1.0, (1, 2, 3): 0.3, (3,): 0.7, (0, 3): 0.01, (1, 0, 3): 4.0},
    {tuple(range(30)): 1.0, (2, 12): -INF, (4, 2, 13): 5.0},
    {(a, 5): 0.1 * a + 0.03 for a in range(8)}
    | {(a, b, 5): 0.7 for a in range(8) for b in range(8)},
]


@pytest.mark.parametrize("biases", BIASES, ids=lambda b: f"{len(b)} sequences")
@pytest.mark.parametrize("batch", BATCHES)
def test_sequence_bias_equals_transformers(batch, biases):
    scores, (input_ids, _) = BATCHES[batch], text()
    as_list = [[list(ids), bias] for ids, bias in biases.items()]
    for form in (biases, as_list):
        for ids in (input_ids, input_ids[:, :2]):
            wanted = theirs.SequenceBiasLogitsProcessor(form)(ids, scores)
            assert_same_bits(processors.sequence_bias(scores, form, ids), wanted)
    plain = processors.check(sequence_bias=biases)["sequence_bias"]
    assert plain == as_list
    in_numpy = {tuple(map(np.int64, ids)): np.float64(bias) for ids, bias in biases.items()}
    assert processors.check(sequence_bias=in_numpy)["sequence_bias"] == as_list


@pytest.mark.parametrize("batch", BATCHES)
def test_what_works_at_the_ends_of_a_text_equals_transformers(batch):
    scores, (input_ids, _) = BATCHES[batch], text()
    for eos in ([5], [5, 0, 39]):
        for prompt in (0, 20, 24, 25):
            new_tokens = input_ids[:, prompt:]
            for start, factor in ((0, 1.5), (0, 0.9), (3, 2), (4, 1.01), (5, 3.0), (30, 2.0)):
                wanted = theirs.ExponentialDecayLengthPenalty((start, factor), eos, prompt)
                found = processors.exponential_decay_length_penalty(
                    scores, (start, factor), new_tokens, eos
                )
                assert_same_bits(found, wanted(input_ids, scores))
            for limit in (1, 2, 5, 6, 7, 26):
                wanted = theirs.ForcedEOSTokenLogitsProcessor(prompt + limit, eos)
                found = processors.forced_eos_token_id(scores, eos, new_tokens, limit)
                assert_same_bits(found, wanted(input_ids, scores))
                wanted = theirs.ForcedEOSTokenLogitsProcessor(prompt + limit, eos[0])
                found = processors.forced_eos_token_id(scores, eos[0], new_tokens, limit)
                assert_same_bits(found, wanted(input_ids, scores))
            wanted = theirs.SuppressTokensAtBeginLogitsProcessor(eos, prompt)(input_ids, scores)
            found = processors.begin_suppress_tokens(scores, eos, new_tokens)
            assert_same_bits(found, wanted)


@pytest.mark.parametrize("batch", BATCHES)
def test_guidance_equals_transformers(batch, monkeypatch):
    Theirs = theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor
    for scale in (0.0, 0.5, 1.5, 3, -1.0):
        monkeypatch.setattr(
            Theirs, "get_unconditional_logits", lambda self, ids: BATCHES["peaked"][:, None]
        )
        wanted = Theirs(scale, None)(None, BATCHES[batch])
        found = processors.guidance_scale(BATCHES[batch], scale, BATCHES["peaked"])
        assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0))


@pytest.mark.parametrize("vocabulary", [2, 40, 100, 101, 3000])
def test_top_h_equals_transformers(vocabulary):
    scores = torch.cat(list(batches(vocabulary).values())) if vocabulary > 3 else torch.randn(3, 2)
    for value in (1e-6, 0.1, 0.5, 0.9, 0.999, 1.0):
        wanted = theirs.TopHLogitsWarper(value)(None, scores)
        assert_same_bits(processors.top_h(scores, value), wanted)
    assert kept(processors.top_h(scores, 1.0)).sum(-1).max() <= 100


# The order, against the list that transformers builds


NAMES = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "MinNewTokensLengthLogitsProcessor": "min_new_tokens",
    "PrefixConstrainedLogitsProcessor": "prefix_allowed_tokens_fn",
    "ForcedEOSTokenLogitsProcessor": "forced_eos_token_id",
    "ExponentialDecayLengthPenalty": "exponential_decay_length_penalty",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "SuppressTokensAtBeginLogitsProcessor": "begin_suppress_tokens",
    "Own": "logits_processor",
    "TemperatureLogitsWarper": "temperature",
    "TopHLogitsWarper": "top_h",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "MinPLogitsWarper": "min_p",
    "TypicalLogitsWarper": "typical_p",
    "EpsilonLogitsWarper": "epsilon_cutoff",
    "EtaLogitsWarper": "eta_cutoff",
}


class Own(theirs.LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores + input_ids[:, -1:] / 10


ALL = {
    "guidance_scale": 1.5,
    "sequence_bias": [[[6], 2.0], [[1, 6], -1.5], [[7, 8], 0.5], [[0, 6], 1.0], [[2, 3, 6], -3.0]],
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[1], [2, 3], [39]],
    "min_new_tokens": 9,
    "prefix_allowed_tokens_fn": lambda prompt, ids: list(range(prompt, 38)),
    "forced_eos_token_id": [9, 11],
    "exponential_decay_length_penalty": (3, 1.2),
    "suppress_tokens": [4, 5],
    "begin_suppress_tokens": [6, 10],
    "logits_processor": [Own()],
    "temperature": 0.7,
    "top_h": 0.95,
    "top_k": 25,
    "top_p": 0.95,
    "min_p": 0.02,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.02,
}


WITHOUT_PROMPT = 2 * torch.randn(4, 40, generator=torch.Generator().manual_seed(5))


def their_processors(asked, input_ids_seq_length, attention_mask, num_beams, do_sample, eos):
    asked = dict(asked)
    arguments = {k: asked.pop(k, None) for k in ("prefix_allowed_tokens_fn", "logits_processor")}
    config = GenerationConfig(num_beams=num_beams, do_sample=do_sample, **asked)
    config._eos_token_tensor = torch.tensor(eos) if eos else None
    config.max_length = input_ids_seq_length + 8
    return tiny.model("gpt2")._get_logits_processor(
        config,
        input_ids_seq_length=input_ids_seq_length,
        model_kwargs={"attention_mask": attention_mask[:, :input_ids_seq_length]},
        device="cpu",
        **arguments,
    )


@pytest.mark.parametrize("eos", [[], [7], [7, 3]], ids=str)
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("batch", ["normal", "peaked", "tied", "log-probabilities"])
@pytest.mark.parametrize("prompt", [18, 21, 25], ids="prompt {}".format)
def test_stages_are_those_of_transformers(batch, do_sample, num_beams, eos, prompt, monkeypatch):
    """By the prompt's length, the next token is the last, one in the middle, or the first."""
    monkeypatch.setattr(
        theirs.UnbatchedClassifierFreeGuidanceLogitsProcessor,
        "get_unconditional_logits",
        lambda self, input_ids: WITHOUT_PROMPT[:, None],
    )
    input_ids, attention_mask = text()
    chosen = [set(ALL), *({name} for name in ALL), set(ALL) - {"temperature", "top_k"}]
    if prompt > 18:
        chosen = [set(ALL), set(ALL) - {"begin_suppress_tokens"}, {"forced_eos_token_id"}]
        chosen += [{"exponential_decay_length_penalty"}, {"begin_suppress_tokens"}]
    for names in chosen:
        asked = {k: v for k, v in ALL.items() if k in names}
        if not eos:
            asked.pop("min_new_tokens", None)  # there is nothing that it could hold back
            asked.pop("exponential_decay_length_penalty", None)  # theirs raises
        wanted = scores = BATCHES[batch]
        found = list(
            processors.stages(
                scores,
                input_ids,
                attention_mask=attention_mask,
                prompt_length=prompt,
                max_new_tokens=8,
                eos_token_ids=eos,
                num_beams=num_beams,
                unconditional_logits=WITHOUT_PROMPT,
                do_sample=do_sample,
                **dict(reversed(asked.items())),  # the order of the arguments does not matter
            )
        )
        chain = their_processors(asked, prompt, attention_mask, num_beams, do_sample, eos)
        assert [name for name, _ in found] == [NAMES[type(p).__name__] for p in chain]
        for (_, scores), processor in zip(found, chain, strict=True):
            wanted = processor(input_ids, wanted)
            assert_same_bits(scores, wanted)


def test_presence_and_frequency_follow_the_repetition_penalty():
    input_ids, _ = text()
    asked = dict(ALL, presence_penalty=0.5, frequency_penalty=0.5)
    context = {"unconditional_logits": WITHOUT_PROMPT, "max_new_tokens": 40}
    stages = processors.stages(BATCHES["normal"], input_ids, **context, **asked)
    order = [name for name, _ in stages]
    assert order == list(processors.DEFAULTS)
    assert order[2:6] == [
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "no_repeat_ngram_size",
    ]


def test_the_caller_can_say_how_many_tokens_to_keep():
    scores = BATCHES["peaked"]
    for keep in (1, 4):
        found = processors.process(scores, top_p=1e-6, min_tokens_to_keep=keep)
        assert (found > -INF).sum(-1).tolist() == [keep] * 4


def test_what_is_off_does_nothing():
    scores, (input_ids, _) = BATCHES["normal"], text()
    assert processors.process(scores, input_ids, **processors.DEFAULTS) is scores
    assert processors.process(scores) is scores
    assert processors.process(scores, do_sample=False, top_k=2, temperature=3.0) is scores


# Properties

logits = st.integers(1, 3).flatmap(
    lambda rows: st.integers(2, 12).flatmap(
        lambda columns: st.lists(
            # On a grid, so that adding a whole number is exact.
            st.lists(st.integers(-96, 96).map(lambda n: n / 8), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        ).map(torch.tensor)
    )
)
shares = st.floats(0.01, 0.99)
cut_off = st.one_of(
    st.tuples(st.just(processors.top_k), st.integers(1, 14)),
    *(
        st.tuples(st.just(getattr(processors, name)), shares)
        for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    ),
)
texts = st.integers(0, 14).flatmap(
    lambda tokens: st.lists(st.lists(st.integers(0, 4), min_size=tokens, max_size=tokens),
                            min_size=1, max_size=3)
).map(lambda rows: torch.tensor(rows, dtype=torch.long))  # fmt: skip


def prop(test):
    return settings(max_examples=60, deadline=None, derandomize=True)(test)


def kept(scores):
    return scores > -INF


@given(logits, cut_off)
@prop
def test_a_cut_off_only_rules_out_and_leaves_one(scores, cut):
    function, value = cut
    found = function(scores, value)
    assert torch.equal(found[kept(found)], scores[kept(found)])
    assert kept(found).any(-1).all()


@given(logits, cut_off)
@prop
def test_all_but_typical_keep_the_likeliest(scores, cut):
    function, value = cut
    assume(function is not processors.typical_p)
    found = function(scores, value)
    cut_away = scores.masked_fill(kept(found), -INF)
    assert (cut_away.amax(-1) <= found.masked_fill(~kept(found), INF).amin(-1)).all()


def test_typical_can_drop_the_likeliest():
    scores = torch.tensor([[0.2] + [0.008] * 100]).log()
    assert not kept(processors.typical_p(scores, 0.5))[0, 0]


@given(logits, st.integers(1, 14), shares)
@prop
def test_top_k_min_p_and_epsilon_cut_once(scores, k, share):
    for function, value in (
        (processors.top_k, k),
        (processors.min_p, share),
        (processors.epsilon_cutoff, share),
    ):
        once = function(scores, value)
        assert torch.equal(function(once, value), once)


def test_top_p_cuts_again():
    """What is left is renormalised, so a second pass may find the nucleus too large."""
    scores = torch.tensor([[0.5, 0.3, 0.2]]).log()
    once = processors.top_p(scores, 0.6)
    assert kept(once).tolist() == [[True, True, False]]
    assert kept(processors.top_p(once, 0.6)).tolist() == [[True, False, False]]


@given(logits, st.integers(1, 14), st.integers(1, 14), shares, shares)
@prop
def test_a_wider_cut_off_keeps_what_a_narrower_one_keeps(scores, k, more, low, high):
    low, high = sorted((low, high))
    for function, narrow, wide in (
        (processors.top_k, k, k + more),
        (processors.top_p, low, high),
        (processors.typical_p, low, high),
        (processors.min_p, high, low),
        (processors.epsilon_cutoff, high, low),
        (processors.eta_cutoff, high, low),
    ):
        assert (kept(function(scores, narrow)) <= kept(function(scores, wide))).all()
    assert (
        kept(processors.epsilon_cutoff(scores, low)) <= kept(processors.eta_cutoff(scores, low))
    ).all()


@given(logits, st.integers(1, 14))
@prop
def test_top_k_keeps_k_and_ties(scores, k):
    for row, keeps in zip(scores.tolist(), kept(processors.top_k(scores, k)), strict=True):
        kth = sorted(row)[-min(k, len(row))]
        assert keeps.tolist() == [score >= kth for score in row]


@given(logits, st.floats(0.01, 1.0))
@prop
def test_the_nucleus_holds_p_and_no_token_too_many(scores, p):
    found = processors.top_p(scores, p)
    probabilities = scores.double().softmax(-1)
    mass = (probabilities * kept(found)).sum(-1)
    least = probabilities.masked_fill(~kept(found), INF).amin(-1)
    assert (mass >= p - 1e-6).all()
    assert ((mass - least < p + 1e-6) | (kept(found).sum(-1) == 1)).all()


@given(logits, shares)
@prop
def test_the_typical_set_holds_p_and_no_distance_too_many(scores, p):
    found = processors.typical_p(scores, p)
    log_probs = scores.double().log_softmax(-1)
    entropy = -(log_probs * log_probs.exp()).sum(-1, keepdim=True)
    distance = (-log_probs - entropy).abs()
    mass = (log_probs.exp() * kept(found)).sum(-1)
    farthest = distance.masked_fill(~kept(found), -INF).amax(-1, keepdim=True)
    nearer = (log_probs.exp() * (distance < farthest - 1e-4)).sum(-1)
    assert (mass >= p - 1e-5).all()
    assert (nearer < p + 1e-5).all()
    # None that was left out is nearer than one that was kept.
    assert (kept(found) | (distance > farthest - 1e-4)).all()


@given(logits, shares)
@prop
def test_min_p_epsilon_and_eta_follow_their_formulas(scores, share):
    p = scores.double().softmax(-1)
    entropy = torch.special.entr(p).sum(-1, keepdim=True)
    best = scores == scores.amax(-1, keepdim=True)
    eta = (share**0.5 * (-entropy).exp()).clamp(max=share)
    for function, threshold in (
        (processors.min_p, share * p.amax(-1, keepdim=True)),
        (processors.epsilon_cutoff, torch.tensor(share)),
        (processors.eta_cutoff, eta),
    ):
        assume(((p - threshold).abs() > 1e-6).all())
        assert torch.equal(kept(function(scores, share)), (p >= threshold) | best)


@given(logits, st.floats(0.1, 10.0))
@prop
def test_temperature_keeps_the_ranks(scores, temperature):
    found = processors.temperature(scores, temperature)
    assert torch.equal(found.argsort(stable=True), scores.argsort(stable=True))
    top, was = found.softmax(-1).amax(-1), scores.softmax(-1).amax(-1)
    assert ((top >= was - 1e-6) if temperature <= 1 else (top <= was + 1e-6)).all()


@given(logits, cut_off, st.integers(-50, 50))
@prop
def test_adding_a_constant_changes_no_cut_off(scores, cut, shift):
    function, value = cut
    assert torch.equal(kept(function(scores + shift, value)), kept(function(scores, value)))


def test_adding_a_constant_changes_the_repetition_penalty():
    scores, ids = torch.tensor([[2.0, 1.0]]), torch.tensor([[0]])
    a = processors.repetition_penalty(scores, 2.0, ids).softmax(-1)
    b = processors.repetition_penalty(scores - 9, 2.0, ids).softmax(-1)
    assert (a - b).abs().max() > 0.2


@given(logits, shares, st.floats(0.2, 5.0))
@prop
def test_min_p_after_a_temperature_is_its_power_before(scores, share, temperature):
    """p ∝ exp(s/T): p ≥ m · p_max where s ≥ s_max + T · ln m, which is min-p of m ** T."""
    margin = (scores - scores.amax(-1, keepdim=True) - temperature * math.log(share)).abs()
    assume((margin > 1e-3).all())
    after = processors.min_p(processors.temperature(scores, temperature), share)
    assert torch.equal(kept(after), kept(processors.min_p(scores, share**temperature)))


@given(texts, st.integers(1, 4))
@prop
def test_exactly_the_tokens_that_repeat_an_n_gram_are_ruled_out(input_ids, n):
    found = processors.no_repeat_ngram_size(torch.zeros(len(input_ids), 6), n, input_ids)
    for row, keeps in zip(input_ids.tolist(), kept(found).tolist(), strict=True):
        seen = [row[i : i + n] for i in range(len(row) - n + 1)]
        for token, is_kept in enumerate(keeps):
            repeats = len(row) + 1 >= n and [*row[len(row) - n + 1 :], token] in seen
            assert is_kept == (not repeats)


@given(st.integers(0, 10_000), st.integers(1, 4))
@prop
def test_no_n_gram_turns_up_twice(seed, n):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, 4, (1, 1), generator=generator)
    for _ in range(30):
        scores = torch.randn(1, 4, generator=generator)
        scores = processors.no_repeat_ngram_size(scores, n, input_ids)
        if not kept(scores).any():
            break
        input_ids = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], dim=-1)
    row = input_ids[0].tolist()
    ngrams = Counter(tuple(row[i : i + n]) for i in range(len(row) - n + 1))
    assert max(ngrams.values(), default=1) == 1


@given(texts, st.integers(0, 14), st.floats(-2, 2), st.floats(-2, 2))
@prop
def test_presence_and_frequency_count_what_was_generated(input_ids, prompt, presence, frequency):
    scores = torch.linspace(-3, 3, 6).repeat(len(input_ids), 1)
    found = processors.process(
        scores,
        input_ids,
        prompt_length=prompt,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    for row, (before, after) in zip(
        input_ids.tolist(), zip(scores.tolist(), found.tolist(), strict=True), strict=True
    ):
        count = Counter(row[prompt:])
        for token in range(6):
            # The OpenAI API: mu[j] − c[j] · frequency − (c[j] > 0) · presence
            penalty = count[token] * frequency + (count[token] > 0) * presence
            assert after[token] == pytest.approx(before[token] - penalty, abs=1e-5)


@given(logits, texts, st.floats(1.0, 5.0))
@prop
def test_a_repetition_penalty_lowers_what_was_said_and_nothing_else(scores, input_ids, penalty):
    assume(len(scores) == len(input_ids))
    assume(scores.shape[1] > 4)
    found = processors.repetition_penalty(scores, penalty, input_ids)
    said = torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, input_ids, True)
    assert torch.equal(found[~said], scores[~said])
    assert (found[said] <= scores[said]).all()
    assert ((found[said] < scores[said]) | (scores[said] == 0) | (penalty - 1 < 1e-6)).all()


# The caller's own processor


def test_own_processors_run_in_turn_and_may_work_in_place():
    scores, (input_ids, _) = BATCHES["normal"], text()
    before = scores.clone()

    def in_place(ids, s):
        s[:, ids[0, 0]] = -INF
        return s

    found = processors.process(scores, input_ids, logits_processor=[in_place, Own()])
    assert_same_bits(found, Own()(input_ids, in_place(input_ids, before.clone())))
    assert_same_bits(scores, before)
    as_list = theirs.LogitsProcessorList([in_place, Own()])
    assert_same_bits(processors.process(scores, input_ids, logits_processor=as_list), found)
    alone = processors.process(scores, input_ids, logits_processor=in_place)
    assert_same_bits(alone, in_place(input_ids, before.clone()))


@pytest.mark.parametrize("returned", [None, 1.0, torch.zeros(3)], ids=["None", "number", "shape"])
def test_an_own_processor_has_to_return_scores(returned):
    with pytest.raises(ValueError, match=r"logits_processor: .* returned .* \(4, 40\)"):
        processors.process(
            BATCHES["normal"], text()[0], logits_processor=lambda ids, scores: returned
        )


# Bad input

BAD = {
    "guidance_scale": (INF, -INF, None, "1", True, [1.0], 10**400),
    "sequence_bias": ([], {}, 3, "a", [[3]], [[[3], "1"]], [[[], 1.0]], [[[-1], 1.0]], {3: 1.0},
                      [[[259], 1.0]], {(1, 300): 1.0}, {(1,): INF}, {(1,): math.nan},
                      {(1,): True}, {(1.0,): 1.0}, {"ab": 1.0}),
    "repetition_penalty": (0, 0.0, -1.5, INF, None, "1.2", True, [1.2]),
    "presence_penalty": (2.1, -2.001, INF, None, "0", True),
    "frequency_penalty": (2.1, -2.001, -INF, None, "0", True),
    "no_repeat_ngram_size": (-1, 2.0, None, True, "2"),
    "bad_words_ids": ([], [[]], [3], 3, "a", [[3], []], [[-1]], [[1.0]], [["a"]], [[259]],
                      [[300, 1]], {}),
    "min_new_tokens": (-1, 2.5, None, True),
    "prefix_allowed_tokens_fn": (3, [1, 2], "f", dict),
    "forced_eos_token_id": ([], "2", 1.0, -1, 259, [259], [[1]], True, [None]),
    "exponential_decay_length_penalty": (3, (3,), (-1, 1.5), (3, 0.0), (3, -1.0), (3, INF),
                                         (1.5, 2.0), ("a", 2.0), (3, "b"), (1, 2, 3), (True, 2.0)),
    "suppress_tokens": (3, [[3]], [-1], [1.0], "12", [True], [259]),
    "begin_suppress_tokens": (3, [[3]], [-1], [1.0], "12", [True], [259]),
    "logits_processor": (3, "f", [3], [lambda ids, scores: scores, None],
                         theirs.TopKLogitsWarper, [theirs.TopKLogitsWarper]),
    "temperature": (0, 0.0, -1.0, INF, None, "1", True),
    "top_h": (0, 0.0, -0.1, 1.01, INF, "1", True),
    "top_k": (-1, 2.0, None, True),
    "top_p": (0, 0.0, -0.1, 1.01, None, "1"),
    "min_p": (-0.01, 1.01, None),
    "typical_p": (0, 0.0, 1.01, None),
    "epsilon_cutoff": (-0.01, 1, 1.0, None),
    "eta_cutoff": (-0.01, 1, 1.0, None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_named_before_the_model_runs(name, monkeypatch):
    model = tiny.model("llama")
    monkeypatch.setattr(model, "forward", _never(model.forward))
    input_ids, numeric = torch.tensor([[1, 2, 3]]), isinstance(processors.DEFAULTS[name], float)
    for value in (*BAD[name], *([math.nan] if numeric else [])):
        for search in (greedy_search, sample):
            with pytest.raises(ValueError, match=rf"^{name}\b.*must be"):
                search(model, input_ids, **{name: value})
        with pytest.raises(ValueError, match=rf"^{name}\b.*must be"):
            processors.check(vocab_size=259, **{name: value})
        if value is not True and value is not None:
            scores = torch.zeros(1, 259)
            with pytest.raises(ValueError, match=rf"^{name}\b.*must be"):
                list(processors.stages(scores, input_ids, **{name: value}))


NUMBERS = {
    "top_k": (np.int64(5), torch.tensor(5), np.uint8(5)),
    "no_repeat_ngram_size": (np.int32(2), torch.tensor(2)),
    "min_new_tokens": (np.int64(3), torch.tensor(3, dtype=torch.int16)),
    "temperature": (np.float64(0.5), np.float32(0.5), torch.tensor(0.5), np.int64(2)),
    "top_p": (np.float64(0.5), torch.tensor(0.5, dtype=torch.float64)),
    "suppress_tokens": ([np.int64(3)], np.array([3, 4]), torch.tensor([3]), range(3)),
    "bad_words_ids": ([np.array([3, 4])], [[np.int64(3)], (4,)]),
    "forced_eos_token_id": (np.int64(3), torch.tensor(3), np.array([3])),
    "exponential_decay_length_penalty": ((np.int64(3), np.float32(1.5)),),
    "guidance_scale": (np.float64(1.5), 2),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_and_torch_are_numbers(name):
    """And become plain data, which is what a trace's settings hold."""
    for value in NUMBERS[name]:
        plain = processors.check(**{name: value})[name]
        assert json.loads(json.dumps(plain)) == plain
        flat = np.array(plain).flatten().tolist()
        listed = isinstance(value, (list, tuple))
        wanted = [np.array(v).tolist() for v in value] if listed else value
        assert flat == np.array(wanted).flatten().tolist()


@pytest.mark.parametrize("enters", [
    {"scores": [[1.0, 2.0]]}, {"scores": None}, {"scores": torch.zeros(4)},
    {"scores": torch.zeros(1, 4, dtype=torch.long)}, {"scores": torch.zeros(0, 4)},
    {"input_ids": [[1, 2]]}, {"input_ids": "text"}, {"input_ids": torch.tensor([1, 2])},
    {"input_ids": torch.zeros(1, 2)}, {"input_ids": torch.tensor([[-1, 2]])},
    {"input_ids": torch.tensor([[1], [2]])}, {"num_beams": 0}, {"num_beams": 2},
    {"num_beams": 1.0}, {"prompt_length": -1}, {"do_sample": "no"}, {"do_sample": 1},
    {"min_tokens_to_keep": 0}, {"attention_mask": [[1, 1]]}, {"max_new_tokens": 0},
    {"attention_mask": torch.zeros(2, 2)},
], ids=str)  # fmt: skip
def test_what_enters_the_processors_is_checked(enters):
    given = {"scores": torch.zeros(1, 4), "input_ids": torch.tensor([[1, 2]])} | enters
    asked = {"repetition_penalty": 1.5, "top_k": 2, "forced_eos_token_id": 1}
    (name,) = enters
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        processors.process(**{"max_new_tokens": 9} | given | asked)


def test_a_processor_called_by_itself_checks_too():
    scores, ids = torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.long)
    for call, name in (
        (lambda: processors.top_k(scores, True), "top_k"),
        (lambda: processors.top_k("x", 3), "scores"),
        (lambda: processors.top_p(scores, 0.5, 0), "min_tokens_to_keep"),
        (lambda: processors.no_repeat_ngram_size(scores, 2, None), "input_ids"),
        (lambda: processors.presence_penalty(scores, 0.5, ids[:1]), "new_tokens"),
        (lambda: processors.forced_eos_token_id(scores, 9, ids, 4), "forced_eos_token_id"),
        (lambda: processors.guidance_scale(scores, 2.0, None), "unconditional_logits"),
        (lambda: processors.guidance_scale(scores, 2.0, scores[:1]), "unconditional_logits"),
        (lambda: processors.bad_words_ids(scores, [[1]], ids, ["a"]), "eos_token_ids"),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            call()
    assert torch.equal(processors.top_k(scores=scores, top_k=np.int64(2)), scores)
    context = {"input_ids": ids, "new_tokens": ids, "max_new_tokens": 4, "eos_token_ids": [1]}
    for name in (name for name, off in processors.DEFAULTS.items() if off is None):
        function = getattr(processors, name)
        known = inspect.signature(function).parameters.keys() & context.keys()
        assert function(scores, None, **{k: context[k] for k in known}) is scores


def test_an_exponential_penalty_beyond_all_numbers_is_named():
    scores, new_tokens = torch.ones(1, 4), torch.zeros(1, 500, dtype=torch.long)
    with pytest.raises(ValueError, match="holds .inf.*processors in use"):
        processors.process(
            scores, new_tokens, exponential_decay_length_penalty=(0, 1e9), eos_token_ids=[2]
        )


def _never(forward):
    def never(*args, **kwargs):
        raise AssertionError("the model ran")

    never.__signature__ = inspect.signature(forward)
    return never


def test_every_setting_has_bad_values_here():
    assert list(BAD) == list(processors.DEFAULTS)


@pytest.mark.parametrize("value", [0, 0.0])
def test_a_temperature_of_0_points_to_greedy_search(value):
    with pytest.raises(ValueError, match="do_sample=False"):
        processors.check(temperature=value)


def test_an_unknown_setting_is_named():
    for call in (
        lambda: processors.check(topk=3),
        lambda: list(processors.stages(BATCHES["normal"], topk=3)),
        lambda: greedy_search(tiny.model("llama"), torch.tensor([[1]]), topk=3),
    ):
        with pytest.raises(TypeError, match="topk .* top_k"):
            call()


@pytest.mark.parametrize("allowed", [[], [259], [-1], None, [1.0], "a", torch.tensor([]), {3}],
                         ids=str)  # fmt: skip
def test_a_constraint_that_allows_nothing_names_the_row(allowed):
    def fn(prompt, input_ids):
        return allowed if prompt == 1 else [5]

    model, input_ids = tiny.model("llama"), torch.tensor([[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="prefix_allowed_tokens_fn .* row 1"):
        greedy_search(model, input_ids, prefix_allowed_tokens_fn=fn)


@pytest.mark.parametrize("name", ["sequence_bias", "forced_eos_token_id", "begin_suppress_tokens",
                                  "exponential_decay_length_penalty",
                                  "repetition_penalty", "presence_penalty", "frequency_penalty",
                                  "no_repeat_ngram_size", "bad_words_ids", "min_new_tokens",
                                  "prefix_allowed_tokens_fn", "logits_processor"])  # fmt: skip
def test_what_looks_at_the_text_says_so(name):
    with pytest.raises(ValueError, match=f"^{name}.*input_ids"):
        processors.process(BATCHES["normal"], **{name: ALL.get(name, 1.0)})


@pytest.mark.parametrize("bad, found", [(math.nan, "NaN"), (INF, r"\+inf")])
def test_scores_that_allow_no_choice_are_named(bad, found):
    scores = torch.zeros(3, 5)
    scores[1, 2] = bad
    for asked in ({}, {"top_p": 0.9}, {"suppress_tokens": [2]}):
        with pytest.raises(ValueError, match=f"scores: row 1 holds {found}.*weights"):
            processors.process(scores, **asked)


def test_processors_that_rule_out_everything_are_named():
    with pytest.raises(ValueError, match="scores: row 0 is −inf for every token.*processors"):
        processors.process(torch.zeros(1, 3), suppress_tokens=[0, 1, 2])
    # One beam may be stuck, all beams of a prompt may not.
    scores, ids = torch.zeros(4, 2), torch.tensor([[0, 1], [1, 1], [0, 1], [0, 1]])
    stuck = {"no_repeat_ngram_size": 1, "num_beams": 2}
    assert kept(processors.process(scores[:2], ids[:2], **stuck)).tolist() == [[0, 0], [1, 0]]
    with pytest.raises(ValueError, match="row 2 "):
        processors.process(scores, ids, **stuck)


# In the loops


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("names", [
    ("repetition_penalty", "top_k"),
    ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
    ("min_new_tokens", "temperature", "top_p", "min_p"),
    ("prefix_allowed_tokens_fn", "logits_processor", "typical_p", "epsilon_cutoff"),
    tuple(ALL),
], ids=" ".join)  # fmt: skip
def test_loops_process_as_generate_does(architecture, names):
    model = tiny.model(architecture)
    torch.manual_seed(3)
    attention_mask = (torch.arange(9) >= torch.tensor([[0], [4], [1]])).long()
    input_ids = torch.where(attention_mask.bool(), torch.randint(0, 30, (3, 9)), tiny.PAD)
    asked = {k: v for k, v in ALL.items() if k in names}
    cut_offs = {k for k in asked if k in CUT_OFFS or k == "temperature"}
    greedy = {k: v for k, v in asked.items() if k not in cut_offs}
    shared = {"attention_mask": attention_mask, "max_new_tokens": 16}
    wanted = model.generate(input_ids, do_sample=False, **greedy, **shared)
    assert torch.equal(greedy_search(model, input_ids, **greedy, **shared).sequences, wanted)
    torch.manual_seed(5)
    wanted = model.generate(input_ids, do_sample=True, **{"top_k": 0, **asked}, **shared)
    assert torch.equal(sample(model, input_ids, seed=5, **asked, **shared).sequences, wanted)
