"""Beam search equals transformers', rule by rule, and its history tells what happened.

The rules are numbered as in the list that the implementation was made from: see `BROKEN`.
"""

import copy
import inspect
import itertools
import json
import math
import random
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

import pytest
import torch
from transformers import StoppingCriteria
from transformers.utils import logging

import llmviz as lv
from llmviz.decoding import beams
from llmviz.decoding.beams import BeamSearch, beam_search, hamming_diversity
from tests import tiny
from tests.scripted import Scripted, drawn, log_sum, table

logging.set_verbosity_error()
PROMPTS = ["hello there", "hi", "how are you?"]


def theirs(model, input_ids, attention_mask=None, *, seed=0, stop=None, **settings):
    """What transformers' own `generate` does with the same arguments."""
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    torch.manual_seed(seed)
    return model.generate(
        input_ids,
        attention_mask=attention_mask,
        stopping_criteria=None if stop is None else [stop],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **({"top_k": 0} | settings),
    )


def same(run, output) -> bool:
    return run.sequences.tolist() == output.sequences.tolist() and torch.allclose(
        torch.tensor(run.sequences_scores), output.sequences_scores, rtol=1e-6, atol=1e-6
    )


# Parity on real architectures


MATRIX = {
    "plain": {"num_beams": 3, "num_return_sequences": 3},
    "never": {
        "num_beams": 4,
        "num_return_sequences": 2,
        "early_stopping": "never",
        "length_penalty": 2.0,
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 3,
    },
    "guided": {
        "num_beams": 3,
        "guidance_scale": 1.6,
        "sequence_bias": [[[101], 2.0], [[101, 102], -3.0], [[32], 1.0]],
        "exponential_decay_length_penalty": (2, 1.4),
        "begin_suppress_tokens": [*range(0, 256, 2)],
        "forced_eos_token_id": tiny.EOS,
    },
    "top-h": {"num_beams": 3, "do_sample": True, "top_h": 0.8},
    "early": {
        "num_beams": 2,
        "early_stopping": True,
        "length_penalty": -0.5,
        "suppress_tokens": [*range(0, 256, 3)],
    },
    "sample": {
        "num_beams": 3,
        "num_return_sequences": 2,
        "do_sample": True,
        "temperature": 1.7,
        "top_k": 50,
        "top_p": 0.95,
        "min_p": 0.001,
    },
}


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_equals_transformers(architecture, name):
    settings = MATRIX[name] | {"max_new_tokens": 8, "seed": 5}
    model = copy.copy(tiny.model(architecture))
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = [tiny.EOS, *range(0, 256, 12)]
    run = lv.generate(model, tiny.tokenizer(), PROMPTS, **settings)
    inputs = lv.tokens.encode(tiny.tokenizer(), PROMPTS, pad_token_id=tiny.PAD)
    output = theirs(model, *inputs, **settings)
    assert same(run, output)
    their_trace = lv.trace_of(output, tiny.tokenizer(), PROMPTS)
    assert their_trace.frame.equals(run.frame)
    assert their_trace.sum_logprobs == run.sum_logprobs
    assert their_trace.texts == run.texts
    rows = output.beam_indices
    for sequence, steps in enumerate(run.steps):
        assert len(steps) == (rows[sequence] >= 0).sum()
        for t, step in enumerate(steps):
            for c in step.candidates:
                assert c.logit == output.logits[t][rows[sequence, t], c.token_id]
                assert c.score == output.scores[t][rows[sequence, t], c.token_id]


def test_equals_transformers_on_the_default_model(default_model):
    model, tokenizer = default_model
    prompt, settings = "I enjoy walking with my cute dog", {"num_beams": 5, "max_new_tokens": 6}
    output = theirs(model, tokenizer(prompt, return_tensors="pt").input_ids, **settings)
    assert same(lv.generate(model, tokenizer, prompt, **settings), output)


def test_stop_strings_as_in_generate():
    model, tokenizer = tiny.model("gpt2"), tiny.tokenizer()
    settings = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12}
    settings |= {"suppress_tokens": [*range(94, 256)], "stop_strings": ["D", "e", "7"]}
    inputs = lv.tokens.encode(tokenizer, PROMPTS, pad_token_id=tiny.PAD)
    output = theirs(model, *inputs, tokenizer=tokenizer, **settings)
    run = lv.generate(model, tokenizer, PROMPTS, **settings)
    assert same(run, output)
    assert {len(steps) for steps in run.steps} - {12}, "some text should be stopped"


# Parity on random models


def random_case(seed: int) -> tuple[Scripted, torch.Tensor, dict]:
    """A random model with frequent eos tokens, and random settings."""
    chance = random.Random(seed)
    vocabulary, num_beams = chance.randint(4, 8), chance.randint(2, 5)
    eos = chance.sample(range(vocabulary), chance.randint(0, min(3, vocabulary - 2)))
    model = Scripted(
        drawn(seed, vocabulary, spread=chance.choice([0.5, 1, 3])),
        vocabulary,
        eos_token_id=eos or None,
        pad_token_id=chance.choice([None, 0, 1, vocabulary - 1]),
    )
    prompts = chance.choice([1, 1, 2, 3])
    input_ids = torch.tensor([[chance.randrange(vocabulary) for _ in "ab"] for _ in range(prompts)])
    settings = {
        "num_beams": num_beams,
        "num_return_sequences": chance.randint(1, num_beams),
        "max_new_tokens": chance.randint(1, 8),
        "length_penalty": chance.choice([-1.0, 0.0, 0.5, 1.0, 2.0, 6.0]),
        "early_stopping": chance.choice([True, False, "never"]),
        "do_sample": chance.random() < 0.3,
        "seed": seed,
    }
    return model, input_ids, settings


@pytest.mark.parametrize("first", range(0, 250, 50))
def test_random_models(first):
    for seed in range(first, first + 50):
        model, input_ids, settings = random_case(seed)
        output = theirs(model, input_ids, **settings)
        assert same(beam_search(model, input_ids, **settings), output), (seed, settings)


# Crafted cases: the rules that random models seldom come to

# Tokens: 0 and 1 start the prompts, a to d are words, e and f may be eos tokens.
A, B, C, D, E, F = range(2, 8)


def after(**shares: float) -> list[float]:
    """The next token's distribution; what is not named shares the little that is left."""
    named = {"abcdef".index(name) + 2: share for name, share in shares.items()}
    left = (1 - math.fsum(named.values())) / (8 - len(named))
    assert left > 0
    return [named.get(token, left) for token in range(8)]


class Stops(StoppingCriteria):
    """Texts of just so many tokens end, or those whose last token is the given one."""

    def __init__(self, length=None, token=None):
        self.length, self.token = length, token

    def __call__(self, input_ids, scores=None, **kwargs):
        if self.length is not None:
            return torch.full((len(input_ids),), input_ids.shape[1] == self.length)
        return input_ids[:, -1] == self.token


@dataclass
class Case:
    next_tokens: dict[tuple, list[float]]
    settings: dict
    otherwise: list[float] = field(default_factory=lambda: after(a=0.3, b=0.25, c=0.2, d=0.1))
    prompts: tuple = (0,)
    eos: list[int] | None = field(default_factory=lambda: [E])
    pad: int | None = 1

    def model(self) -> Scripted:
        return Scripted(table(self.next_tokens, self.otherwise), 8, self.eos, self.pad)

    def run(self, search=beam_search):
        return search(self.model(), torch.tensor(self.prompts)[:, None], **self.settings)

    def expected(self):
        return theirs(self.model(), torch.tensor(self.prompts)[:, None], **self.settings)


def two(**settings) -> dict:
    return {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 5, **settings}


# Two finish at once, a little ahead of one that only becomes good later.
LATE = {
    (0,): after(a=0.6, b=0.39),
    (0, A): after(e=0.55, c=0.44),
    (0, B): after(e=0.9),
    (0, A, C): after(c=0.98),
    (0, A, C, C): after(e=0.98),
}
# Two have finished, one of them badly, while a good one still runs.
OPEN = {
    (0,): after(a=0.6, e=0.3),
    (0, A): after(c=0.5, e=0.45),
    (0, A, C): after(e=0.98),
}
# Another prompt, whose search goes on to the end.
LONG = {(1,): after(a=0.5, b=0.45)}

CASES = {
    "an eos that is not among the first two is thrown away": Case(
        {(0,): after(a=0.5, b=0.3, e=0.19)}, two(length_penalty=0.0)
    ),
    "two eos tokens take four of the six candidates": Case(
        {
            (0,): after(a=0.5, b=0.45),
            (0, A): after(e=0.45, f=0.44, c=0.06),
            (0, B): after(e=0.45, f=0.44, d=0.06),
            (0, A, C): after(c=0.98),
            (0, A, C, C): after(e=0.98),
            (0, B, D): after(e=0.98),
        },
        two(length_penalty=2.0, early_stopping="never"),
        eos=[E, F],
    ),
    "without an eos, a criterion ends two of the four candidates": Case(
        {(0,): after(c=0.4, a=0.3, b=0.2), (0, A): after(c=0.5, a=0.4), (0, B): after(c=0.9)},
        two(stop=Stops(token=C), length_penalty=2.0, max_new_tokens=2),
        eos=None,
        pad=None,
    ),
    "a finished one is as good as an older one": Case(
        # The second token costs nothing, so that the tie is exact on every machine.
        {(0,): after(a=0.4, e=0.4, b=0.1), (0, A): after(e=1 - 1e-9)},
        two(length_penalty=0.0, early_stopping="never"),
    ),
    "stopped although one runs that would win": Case(LATE, two()),
    "early_stopping='never' waits for it": Case(LATE, two(early_stopping="never")),
    "a stopped prompt stays so while another one runs": Case(LATE | LONG, two(), prompts=(0, 1)),
    "not stopped as long as one is better": Case(OPEN, two()),
    "early_stopping=True does not wait for it": Case(OPEN, two(early_stopping=True)),
    "nor while another prompt runs": Case(OPEN | LONG, two(early_stopping=True), prompts=(0, 1)),
    "'never' looks at the present length where long ones are not favoured": Case(
        {
            (0,): after(a=0.55, e=0.4),
            (0, A): after(c=0.69, e=0.3),
            (0, A, C): after(e=0.98),
        },
        two(length_penalty=-1.0, early_stopping="never", max_new_tokens=6),
    ),
    "all candidates end at once": Case(
        {(0,): after(a=0.6, b=0.35)},
        two(stop=Stops(length=3), length_penalty=8.0, early_stopping="never", max_new_tokens=30),
    ),
    "nothing ends before the maximum length": Case({}, two(), eos=None),
    "a pad token of 0 is none": Case(OPEN, two(early_stopping=True), pad=0),
    "rows of different lengths without an eos": Case(
        {(0,): after(c=0.5, a=0.4), (0, A): after(c=0.9)},
        two(stop=Stops(token=C), early_stopping=True),
        eos=None,
        pad=None,
    ),
    "drawn": Case({}, two(do_sample=True, seed=1), otherwise=after(a=0.3, b=0.2, c=0.2, e=0.2)),
    "drawn, with another seed": Case(
        {}, two(do_sample=True, seed=2), otherwise=after(a=0.3, b=0.2, c=0.2, e=0.2)
    ),
    "drawn often": Case(
        {},
        two(num_beams=4, do_sample=True, seed=3, max_new_tokens=8),
        otherwise=after(a=0.3, b=0.2, c=0.2, e=0.2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_crafted_case(name):
    assert same(CASES[name].run(), CASES[name].expected())


@cache
def expected(name):
    return CASES[name].expected()


# Which rule, the line that obeys it, one that does not, and a case that shows the difference.
OPEN_CASE = "not stopped as long as one is better"
BROKEN = [
    (1, "self.running[:, 0] = 0.0", "self.running[:] = 0.0", OPEN_CASE),
    (2, "max(2, 1 + len(self.eos))", "2", "two eos tokens take four of the six candidates"),
    (2, "max(2, 1 + len(self.eos))", "(1 + len(self.eos))",
     "without an eos, a criterion ends two of the four candidates"),
    (2, "log_probs = logits.log_softmax(-1)", "log_probs = logits", OPEN_CASE),
    (2, "(totals + running[:, :, None].to(scores.device))", "totals", OPEN_CASE),
    (3, "ended = torch.isin(tokens, torch.tensor(self.eos, dtype=torch.long))",
     "ended = torch.zeros_like(tokens, dtype=torch.bool)", OPEN_CASE),
    (3, "self.length == self.max_new_tokens)\n        may",
     "self.length > self.max_new_tokens)\n        may", "nothing ends before the maximum length"),
    (3, "if self.stop is not None:", "if False:", "all candidates end at once"),
    (4, "ends & (torch.arange(self.num_candidates) < self.num_beams)", "ends",
     "an eos that is not among the first two is thrown away"),
    (5, "step.sums / self.length**", "step.sums / (self.length - 1 or 0.1) **", OPEN_CASE),
    (5, "step.sums / self.length**", "step.sums * self.length**", OPEN_CASE),
    (5, "best = contest.topk(self.num_beams).indices",
     "turned = contest.roll(self.num_candidates, 1).topk(self.num_beams).indices\n"
     "        best = (turned + self.num_beams) % contest.shape[1]",
     "a finished one is as good as an older one"),
    (6, "totals = step.sums + NEVER * step.ended", "totals = step.sums",
     "early_stopping='never' waits for it"),
    (6, "totals = step.sums + NEVER * step.ended",
     "totals = step.sums / self.length**self.length_penalty + NEVER * step.ended", OPEN_CASE),
    (7, "& (best_running > worst_finished).any(1)", "",
     "stopped although one runs that would win"),
    (7, "self.open & (best_running > worst_finished).any(1)",
     "(best_running > worst_finished).any(1)", "a stopped prompt stays so while another one runs"),
    (7, "torch.where(self.open[:, None], best, torch.arange(self.num_beams))", "best",
     "a stopped prompt stays so while another one runs"),
    (7, "self.finished.amin(1, keepdim=True)", "self.finished.amax(1, keepdim=True)",
     "'never' looks at the present length where long ones are not favoured"),
    (7, "self.running[:, :1] / length**self.length_penalty", "self.running[:, :1]",
     "early_stopping='never' waits for it"),
    (7, 'self.early_stopping == "never" and self.length_penalty > 0', "self.length_penalty > 0",
     "stopped although one runs that would win"),
    (7, 'self.early_stopping == "never" and self.length_penalty > 0',
     'self.early_stopping == "never"',
     "'never' looks at the present length where long ones are not favoured"),
    (7, 'self.early_stopping == "never" and self.length_penalty > 0', "False",
     "early_stopping='never' waits for it"),
    (8, "if self.early_stopping is True:", "if False:", "early_stopping=True does not wait for it"),
    (8, "if self.early_stopping is True:", "if self.early_stopping:",
     "early_stopping='never' waits for it"),
    (8, "~self.is_finished.all(1)", "~self.is_finished.all()", "nor while another prompt runs"),
    (8, "self.open & (not self.all_ended)", "self.open", "all candidates end at once"),
    (9, "may_finish = ends &", "may_finish = step.ended &",
     "nothing ends before the maximum length"),
    (11, "(model.generation_config.pad_token_id or eos[0])", "model.generation_config.pad_token_id",
     "a pad token of 0 is none"),
    (11, "if eos else -1", "if eos else 0", "rows of different lengths without an eos"),
    (12, "self.num_candidates, generator", "self.num_candidates, True, generator", "drawn"),
    (12, "probabilities = totals.softmax(-1)",
     "probabilities = scores.view(len(totals), -1).softmax(-1)", "drawn often"),
    (12, "beams, tokens = numbers //",
     "sums, o = sums.sort(descending=True); numbers = numbers.gather(1, o)\n"
     "        beams, tokens = numbers //", "drawn"),
]  # fmt: skip


@pytest.mark.parametrize("rule, line, broken, name", BROKEN)
def test_breaking_a_rule_shows_in_a_crafted_case(rule, line, broken, name):
    source = inspect.getsource(beams)
    assert source.count(line) == 1, f"rule {rule} is no longer obeyed by the line {line!r}"
    module = ModuleType("llmviz.decoding.broken_beams")
    module.__package__ = "llmviz.decoding"
    exec(source.replace(line, broken), module.__dict__)
    try:
        run = CASES[name].run(module.beam_search)
    except AssertionError as error:
        assert "does not end" in str(error)
    else:
        assert not same(run, expected(name))


def test_every_rule_but_that_of_ties_is_broken_once():
    assert {rule for rule, *_ in BROKEN} == {*range(1, 13)} - {10}


def test_ties_fall_as_in_transformers():
    case = Case({}, two(num_beams=3, num_return_sequences=3), otherwise=[1 / 8] * 8)
    assert same(case.run(), case.expected())


# The history


def lineage(run, sequence: int, prompt: int):
    """The candidates that a returned sequence consists of."""
    steps = run.beams[prompt]
    return [steps[t].candidates[c] for t, c in enumerate(run.beam_paths[sequence])]


@pytest.mark.parametrize("seed", range(20))
def test_history_of_random_models(seed):
    model, input_ids, settings = random_case(seed)
    run = beam_search(model, input_ids, **settings)
    returned, num_beams = settings["num_return_sequences"], settings["num_beams"]
    for prompt, steps in enumerate(run.beams):
        running = {0: 0.0}  # beam: its sum
        finished = []
        for t, step in enumerate(steps, start=1):
            assert [c.rank for c in step.candidates] == list(range(len(step.candidates)))
            for c in step.candidates:
                assert c.sum_score == pytest.approx(running[c.beam] + c.score, abs=1e-4)
                if c.final_score is not None:
                    wanted = c.sum_score / t ** settings["length_penalty"]
                    assert c.final_score == pytest.approx(wanted, rel=1e-5)
            finished += [c.final_score for c in step.candidates if c.fate == "finished"]
            running = {c.next_beam: c.sum_score for c in step.candidates if c.fate == "running"}
            if t < len(steps):  # a small vocabulary may have fewer hypotheses than beams
                assert set(running) <= set(range(num_beams))
                assert len(running) == num_beams or t < 3
        scores = run.sequences_scores[prompt * returned : (prompt + 1) * returned]
        assert [s for s in scores if s > -1e8] == sorted(finished, reverse=True)[:returned]
        assert len(finished) == num_beams or min(finished) > -1e8
    for sequence, steps in enumerate(run.steps):
        if run.sequences_scores[sequence] < -1e8:
            continue  # it is returned, as by generate, but extends no hypothesis
        path = lineage(run, sequence, sequence // returned)
        tokens = run.sequences[sequence, run.num_prompt_tokens :].tolist()
        assert [c.token_id for c in path] == [s.token_id for s in steps] == tokens[: len(path)]
        assert [c.log_prob for c in path] == [s.log_prob for s in steps]
        assert path[-1].final_score == run.sequences_scores[sequence]
        assert [c.fate for c in path] == ["running"] * (len(path) - 1) + ["finished"]


def fates(run, step: int) -> dict[tuple[int, int], tuple[str, str]]:
    """By (beam, token)."""
    return {(c.beam, c.token_id): (c.fate, c.reason) for c in run.beams[0][step - 1].candidates}


def test_fates_and_their_reasons():
    reserve = CASES["an eos that is not among the first two is thrown away"].run()
    assert fates(reserve, 1)[0, E] == (
        "discarded", "ends here, but only the first 2 candidates may finish"
    )  # fmt: skip
    assert fates(reserve, 1)[0, A] == ("running", "one of the best 2 unfinished ones")

    late = CASES["stopped although one runs that would win"].run()
    assert fates(late, 2)[0, E] == ("finished", "ends here, and is among the best 2 that finished")
    assert fates(late, 2)[0, C] == (
        "running", "still running at the end: no running one would beat the worst that finished"
    )  # fmt: skip

    patient = CASES["early_stopping='never' waits for it"].run()
    assert fates(patient, 2)[0, E] == ("discarded", "finished, but 2 better ones finished later")
    assert ("pruned", "only the best 2 unfinished ones go on") in fates(patient, 1).values()

    early = CASES["early_stopping=True does not wait for it"].run()
    assert fates(early, 2)[0, C][1] == (
        "still running at the end: 2 have finished, and early_stopping is True"
    )
    full = CASES["nothing ends before the maximum length"].run()
    found = full.beams[0][-1].candidates
    assert [c.fate for c in found] == ["finished"] * 2 + ["discarded"] * 2
    assert found[0].reason.startswith("reaches the full length")


def test_two_steps_worked_by_hand():
    """Greedy search takes a and ends at 0.5 · 0.4; two beams find b's 0.45 · 0.9."""
    toy = {(0,): after(a=0.5, b=0.45), (0, A): after(c=0.4, d=0.3), (0, B): after(d=0.9)}
    run = Case(toy, two(max_new_tokens=2), eos=None).run()
    assert run.sequences.tolist() == [[0, B, D], [0, A, C]]
    assert run.sequences_scores == pytest.approx([log_sum(0.45, 0.9) / 2, log_sum(0.5, 0.4) / 2])
    assert run.sum_logprobs == pytest.approx([log_sum(0.45, 0.9), log_sum(0.5, 0.4)])
    assert run.beam_paths == [[1, 0], [0, 1]]
    first, second = (step.candidates for step in run.beams[0])
    assert [(c.beam, c.token_id) for c in first[:2]] == [(0, A), (0, B)]
    assert [(c.beam, c.token_id) for c in second[:3]] == [(1, D), (0, C), (0, D)]
    assert [c.sum_score for c in second[:2]] == pytest.approx(run.sum_logprobs)


def test_a_prompts_history_is_the_same_in_a_batch():
    case = CASES["a stopped prompt stays so while another one runs"]
    together = case.run()
    for i, prompt in enumerate(case.prompts):
        alone = Case(case.next_tokens, case.settings, prompts=(prompt,)).run()
        assert alone.beams[0] == together.beams[i]


def test_the_history_survives_json():
    run = lv.generate(
        tiny.model("gpt2"), tiny.tokenizer(), PROMPTS[:2], num_beams=2, max_new_tokens=3
    )
    again = lv.Trace.from_json(run.to_json())
    assert (again.beams, again.beam_paths, again.steps) == (run.beams, run.beam_paths, run.steps)
    assert again.to_json() == run.to_json()
    frame = run.beam_frame
    assert len(frame) == 2 * 3 * 4
    assert frame.next_beam.dtype == "Int64" and set(frame.fate) >= {"running", "pruned", "finished"}
    with pytest.raises(ValueError, match="num_beams"):
        _ = lv.generate(tiny.model("gpt2"), tiny.tokenizer(), "a", max_new_tokens=1).beam_frame


# Diverse beam search: gone from transformers' core, so the paper's definition, by hand


def test_diverse_groups_by_hand():
    """Two groups of one beam. The second pays 0.5 for a token that the first has just taken."""
    toy = {
        (0,): after(a=0.5, b=0.4),
        (0, A): after(c=0.6, d=0.3),
        (0, B): after(c=0.5, d=0.45),
    }
    settings = {"num_beam_groups": 2, "diversity_penalty": 0.5, "length_penalty": 0.0}
    run = Case(toy, two(max_new_tokens=2, **settings), eos=None).run()
    # Step 1: a costs the second group −0.69 − 0.5, more than b's −0.92.
    # Step 2: c costs it −0.69 − 0.5, more than d's −0.80.
    assert run.sequences.tolist() == [[0, A, C], [0, B, D]]
    assert run.sequences_scores == pytest.approx([log_sum(0.5, 0.6), log_sum(0.4, 0.45)])
    a, _, b, taken = run.beams[0][0].candidates
    assert [(c.beam, c.token_id) for c in (a, b, taken)] == [(0, A), (1, B), (1, A)]
    assert taken.score == pytest.approx(math.log(0.5) - 0.5)
    assert taken.log_prob == pytest.approx(math.log(0.5))
    assert (a.next_beam, b.next_beam) == (0, 1)

    # With a penalty of 0.2 the second group follows the first into a, and has paid for it.
    close = Case(toy, two(max_new_tokens=1, **(settings | {"diversity_penalty": 0.2})), eos=None)
    run = close.run()
    assert run.sequences.tolist() == [[0, A], [0, A]]
    assert run.sequences_scores == pytest.approx([math.log(0.5), math.log(0.5) - 0.2])


def test_diversity_counts_the_beams_of_all_earlier_groups():
    scores, taken = torch.zeros(4, 3), torch.tensor([[0.0, 2, 1], [3, 0, 0]])
    wanted = [[0, -1, -0.5]] * 2 + [[-1.5, 0, 0]] * 2
    assert hamming_diversity(scores, 0.5, taken).tolist() == wanted


def test_the_first_group_is_a_beam_search_of_its_own():
    model, ids = tiny.model("llama"), torch.tensor([[72, 73, 74], [80, 81, 82]])
    alone = beam_search(model, ids, num_beams=2, max_new_tokens=6)
    for penalty, all_alike in ((1e-30, True), (1.5, False)):
        run = beam_search(
            model,
            ids,
            num_beams=6,
            num_beam_groups=3,
            diversity_penalty=penalty,
            max_new_tokens=6,
        )
        for prompt, steps in enumerate(run.beams):
            for t, step in enumerate(steps):
                groups = [step.candidates[i : i + 4] for i in range(0, 12, 4)]
                wanted = [(c.token_id, c.beam, c.fate) for c in alone.beams[prompt][t].candidates]
                found = [
                    [(c.token_id, c.beam - 2 * g, c.fate) for c in group]
                    for g, group in enumerate(groups)
                ]
                assert found[0] == wanted
                assert not all_alike or found == [wanted] * 3
        chosen = {tuple(c.token_id for c in s.candidates[::4]) for s in run.beams[0][:1]}
        assert all_alike or len(set(*chosen)) == 3


# A replay: the bookkeeping done again, on the candidates that the model gave once


def replays(search):
    for length_penalty in (-1.0, 0.0, 0.5, 1.0, 2.0, 6.0):
        for early_stopping in (True, False, "never"):
            settings = {"length_penalty": length_penalty, "early_stopping": early_stopping}
            yield settings, search.replay(**settings, num_return_sequences=2)


@pytest.mark.parametrize("seed", range(30))
def test_a_replay_is_the_search_itself(seed):
    model, input_ids, settings = random_case(seed)
    kept = {"num_beams", "max_new_tokens", "do_sample", "seed"}
    settings = {name: settings[name] for name in kept}
    search = BeamSearch(model, input_ids, **settings)
    assert list(search.record()) == [*range(1, len(search.steps) + 1)]
    search.prefix.model = None  # from here on the model is not asked
    lengths = set()
    for changed, run in replays(search):
        model.passes = 0
        wanted = beam_search(model, input_ids, **settings, **changed, num_return_sequences=2)
        assert json.loads(run.to_json()) == json.loads(wanted.to_json())
        lengths.add(len(run.beams[0]))
    assert max(lengths) <= len(search.steps)


def test_a_replay_equals_transformers_on_crafted_cases():
    """Cases where the length penalty or early stopping decides."""
    different = set()
    for next_tokens in (LATE, OPEN):
        case = Case(next_tokens, {})
        search = BeamSearch(case.model(), torch.tensor([[0]]), num_beams=2, max_new_tokens=5)
        list(search.record())
        for changed, run in replays(search):
            assert same(run, Case(next_tokens, two(**changed)).expected()), changed
            different.add(str(run.sequences.tolist()))
    assert len(different) > 3


def test_several_groups_cannot_be_replayed():
    groups = {"num_beam_groups": 2, "diversity_penalty": 0.5}
    search = BeamSearch(Case({}, {}).model(), torch.tensor([[0]]), num_beams=2, **groups)
    with pytest.raises(ValueError, match="num_beam_groups=2"):
        search.replay()


# Bad input


@pytest.mark.parametrize(
    "bad, named",
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": 2.0}, "num_beams=2.0"),
        ({"num_beams": True}, "num_beams=True"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 with num_beams=2"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 with greedy search"),
        ({"early_stopping": "maybe"}, "early_stopping='maybe'"),
        ({"early_stopping": 1}, "early_stopping=1"),
        ({"early_stopping": None}, "early_stopping=None"),
        ({"length_penalty": math.nan}, "length_penalty=nan"),
        ({"length_penalty": "1"}, "length_penalty='1'"),
        ({"num_beams": 2, "length_penalty": 900.0}, "length_penalty=900.0"),
        ({"num_beams": 3, "num_beam_groups": 2, "diversity_penalty": 1.0}, "num_beam_groups=2"),
        ({"num_beam_groups": 0}, "num_beam_groups=0"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty=0.0"),
        ({"diversity_penalty": -1.0}, "diversity_penalty=-1.0"),
        (
            {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
            "num_beam_groups=2 with do_sample=True",
        ),
        ({"num_beams": 2, "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"num_beams": 2, "repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"num_beams": 2, "temperature": math.nan, "do_sample": True}, "temperature=nan"),
        ({"num_beams": 2, "seed": 1.5}, "seed=1.5"),
        ({"num_beams": 2, "do_sample": "no"}, "do_sample='no'"),
        ({"num_beams": 2, "stop_strings": [""]}, "stop_strings"),
        ({"num_beams": 2, "stop_strings": 3}, "stop_strings=3"),
        ({"num_beams": 2, "penalty_alpha": 0.6, "top_k": 4}, "num_beams and penalty_alpha"),
        ({"num_beams": 2, "dola_layers": "high"}, "num_beams and dola_layers"),
        ({"num_beams": 2, "prompt_lookup_num_tokens": 2}, "num_beams and prompt_lookup_num_tok"),
        ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": True}, "penalty_alpha with do_sample"),
        ({"penalty_alpha": 0.6}, "top_k=0"),
        ({"prompt_lookup_num_tokens": 2, "num_return_sequences": 2}, "num_return_sequences=2"),
        ({"prompt_lookup_num_tokens": 2, "prompt": ["a", "b"]}, "prompt is 2 texts"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(bad, named):
    model = tiny.model("llama")
    hook = model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(ValueError, match=named):
            lv.generate(model, tiny.tokenizer(), **({"prompt": "hello"} | bad))
    finally:
        hook.remove()


def test_a_constraint_that_allows_nothing_names_itself():
    with pytest.raises(ValueError, match="prefix_allowed_tokens_fn"):
        lv.generate(
            tiny.model("llama"),
            tiny.tokenizer(),
            "hello",
            num_beams=2,
            prefix_allowed_tokens_fn=lambda batch_id, input_ids: [],
        )


def test_generate_takes_every_processor_at_its_default():
    parameters = inspect.signature(lv.generate).parameters
    found = {name: parameters[name].default for name in lv.processors.DEFAULTS}
    assert found == lv.processors.DEFAULTS


# Places without a hypothesis


def real(run):
    """Every candidate of a run that has one."""
    return [c for steps in run.beams for step in steps for c in step.candidates]


def few(eos=None, vocabulary=3):
    return Scripted(drawn(1, vocabulary, spread=1.0), vocabulary, eos_token_id=eos, pad_token_id=0)


def allowed(prompt, input_ids):
    """One token in the first step, two afterwards: fewer than the beams."""
    return [65] if input_ids[-1] != 65 else [65, 66]


@pytest.mark.parametrize("num_beams", [4, 5, 9])
@pytest.mark.parametrize("case, do_sample", [
    *itertools.product(["small", "ends", "constrained", "cut"], [False, True]), ("diverse", False),
])  # fmt: skip
def test_beams_that_hold_no_hypothesis_appear_nowhere(case, do_sample, num_beams):
    input_ids = torch.tensor([[1, 2], [2, 0]])
    model = few([2] if case == "ends" else None)
    settings = {"max_new_tokens": 3, "do_sample": do_sample, "seed": 1, "num_beams": num_beams}
    if case == "constrained":
        model = tiny.model("llama")
        settings["prefix_allowed_tokens_fn"] = allowed
    if case == "cut":
        model, settings["top_k"] = few(vocabulary=30), 2
    if case == "diverse":
        settings |= {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}
    settings["num_return_sequences"] = settings["num_beams"]
    run = beam_search(model, input_ids, **settings)
    if case != "diverse":
        output = theirs(model, input_ids, **settings)
        assert run.sequences.tolist() == output.sequences.tolist()
        assert run.sequences_scores == pytest.approx(output.sequences_scores.tolist(), rel=1e-5)
    assert real(run) and min(c.sum_score for c in real(run)) > -1e4
    for steps in run.beams:
        texts = {0: ()} if case != "diverse" else {0: (), 2: ()}  # each group's first beam
        for step in steps:
            assert step.candidates
            found = [(c.beam, c.token_id) for c in step.candidates]
            assert len({*found}) == len(found) and {beam for beam, _ in found} <= {*texts}
            texts = {c.next_beam: (*texts[c.beam], c.token_id) for c in step.candidates
                     if c.next_beam is not None}  # fmt: skip
    run = lv.decoding.text.with_text(run, tiny.tokenizer())
    assert run.beam_frame["sum_score"].min() > -1e4
    for score, path, steps in zip(run.sequences_scores, run.beam_paths, run.steps, strict=True):
        assert len(path) == len(steps) or score < -1e4
    assert lv.Trace.from_json(run.to_json()).beam_paths == run.beam_paths


@pytest.mark.parametrize("num_beams", [1025, 10**9])
def test_the_number_of_beams_is_bounded_before_the_model_runs(num_beams):
    model = few()
    with pytest.raises(ValueError, match=f"num_beams={num_beams}.*from 1 to 1024"):
        beam_search(model, torch.tensor([[0]]), num_beams=num_beams)
    with pytest.raises(ValueError, match="num_beams=2: model has a vocabulary of 3 tokens, of wh"):
        beam_search(few([0, 1, 2]), torch.tensor([[0]]), num_beams=2)
    assert model.passes == 0


def test_guidance_of_groups_is_that_of_their_rows():
    model, ids = tiny.model("llama"), torch.tensor([[104, 101], [105, 32]])
    settings = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}
    settings |= {"max_new_tokens": 5, "guidance_scale": 2.0}
    batch = beam_search(model, ids, **settings).sequences
    alone = [beam_search(model, row[None], **settings).sequences[0] for row in ids]
    assert batch.tolist() == [row.tolist() for row in alone]
