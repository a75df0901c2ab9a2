"""A trace is plain data: it goes to JSON and to DataFrames and comes back whole."""

import json
import math

import pytest
import torch

import llmviz as lv
from llmviz.recorder import Recorder
from tests import tiny

CUT = {"do_sample": True, "seed": 1, "top_k": 5, "temperature": 0.8, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def run():
    return lv.generate(tiny.model("llama"), tiny.tokenizer(), ["hello", "a"], **CUT)


def test_json_round_trip_loses_nothing(run):
    text = run.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = lv.Trace.from_json(text)
    assert again.to_json() == text
    assert torch.equal(again.sequences, run.sequences)
    assert again.frame.equals(run.frame)
    assert again.steps == run.steps
    assert again.labels == run.labels


@pytest.mark.parametrize("text", ["{}", "[]", '{"sequences": [[1]]}', "not json"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError):
        lv.Trace.from_json(text)


def test_frame_holds_every_candidate_and_marks_one_a_step(run):
    frame = run.frame
    assert frame.groupby(["sequence", "step"]).chosen.sum().eq(1).all()
    assert frame.probability.between(0, 1).all()
    cut = frame[frame.score == -math.inf]
    assert len(cut) and (cut.processed_probability == 0).all()


def test_sum_logprobs_are_the_models_own(run):
    model = tiny.model("llama")
    single = lv.generate(model, tiny.tokenizer(), "hello", **CUT)
    log_probs = model(single.sequences).logits[0, :-1].log_softmax(-1)
    chosen = log_probs.gather(-1, single.sequences[0, 1:, None])[-len(single.steps[0]) :]
    assert single.sum_logprobs == pytest.approx([chosen.sum().item()], abs=1e-4)


def test_summary_is_a_row_a_step(run):
    summary = run.summary
    assert len(summary) == sum(map(len, run.steps))
    assert (summary.kept == 5).all()
    first = run.steps[0][0]
    assert summary.surprisal[0] == pytest.approx(-first.log_prob / math.log(2))
    assert run.tokens[0][0] == summary.token[0]


def test_hand_worked_step():
    """Four tokens with probabilities 1/2, 1/4, 1/8, 1/8: 1.75 bits; the top two hold 3/4."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    scores = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]])
    recorder = Recorder(top_logprobs=1)
    recorder.record(logits, scores, torch.tensor([2]))
    (step,) = recorder.steps([1])[0]
    assert (step.token_id, step.rank, step.kept) == (2, 3, 2)
    assert step.entropy == pytest.approx(1.75)
    assert step.surprisal == pytest.approx(3)
    assert step.mass == pytest.approx(0.375)
    assert [c.token_id for c in step.candidates] == [0, 1, 2]
    assert [c.processed_probability for c in step.candidates] == pytest.approx([0, 0.5, 0.5])


def test_a_trace_keeps_candidates_not_the_vocabulary(run):
    most = max(len(step.candidates) for steps in run.steps for step in steps)
    assert most <= 41  # 20 before, 20 after, and the chosen one
