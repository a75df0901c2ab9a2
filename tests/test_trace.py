"""A trace is plain data: it goes to JSON and to DataFrames and comes back whole."""

import copy
import json
import math

import numpy as np
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


def test_json_says_its_format(run):
    data = json.loads(run.to_json())
    assert (data["name"], data["format"]) == ("llmviz.Trace", 2)


def first_edition(run) -> dict:
    """The JSON that the first edition wrote: without a format's number, and prompt_lengths."""
    data = json.loads(run.to_json())
    for name in ("name", "format", "prompt_lengths"):
        del data[name]
    return data


def test_json_of_the_first_edition_is_read(run):
    again = lv.Trace.from_json(json.dumps(first_edition(run)))
    assert again.frame.equals(run.frame) and again.prompt_lengths is None


def test_json_keeps_numbers_that_it_lacks(run):
    odd = copy.deepcopy(run)
    odd.settings = {
        "bound": -math.inf, "listed": [math.nan, np.float32(0.5), torch.tensor(3)],
        "by": {"number": math.inf}, "said": "NaN", "on": np.bool_(True), "half": "\ud83d",
    }  # fmt: skip
    step = odd.steps[0][0]
    step.log_prob = step.entropy = step.mass = math.nan
    step.candidates[0].logit, step.candidates[1].logit = math.inf, -math.inf
    step.candidates[0].score = np.float32(2.5)
    odd.sequences_scores = [-math.inf] * len(odd.sequences)
    text = odd.to_json()
    text.encode()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = lv.Trace.from_json(text)
    assert again.to_json() == text
    kept = again.steps[0][0]
    assert math.isnan(kept.log_prob) and math.isnan(kept.mass)
    assert [c.logit for c in kept.candidates[:2]] == [math.inf, -math.inf]
    assert kept.candidates[0].score == 2.5 and again.sequences_scores[0] == -math.inf
    assert again.settings["bound"] == -math.inf and again.settings["by"] == {"number": math.inf}
    assert math.isnan(again.settings["listed"][0]) and again.settings["listed"][1:] == [0.5, 3]
    assert again.settings["said"] == "NaN" and again.settings["on"] is True
    for trace in (odd, again):
        assert "NaN" in repr(trace.summary) and "inf" in repr(trace.frame)


def test_json_keeps_a_final_score_that_is_not_finite():
    run = lv.generate(tiny.model("llama"), tiny.tokenizer(), "a", num_beams=2, max_new_tokens=2)
    for score in (math.nan, -math.inf, math.inf):
        run.beams[0][0].candidates[0].final_score = score
        again = lv.Trace.from_json(run.to_json())
        assert repr(again.beams) == repr(run.beams)


def test_raw_logits_that_are_no_numbers_are_recorded_and_written():
    from transformers import InfNanRemoveLogitsProcessor

    model = copy.deepcopy(tiny.model("llama"))
    model.get_output_embeddings().weight.data[65] = math.nan
    ids = torch.tensor([[1, 2, 3]])
    output = model.generate(
        ids, max_new_tokens=2, do_sample=False, return_dict_in_generate=True,
        logits_processor=[InfNanRemoveLogitsProcessor()], output_scores=True, output_logits=True,
    )  # fmt: skip
    run = lv.trace_of(output, tiny.tokenizer(), "abc")
    again = lv.Trace.from_json(run.to_json())
    assert again.to_json() == run.to_json()
    assert "NaN" in repr(run.frame) and "NaN" in run.frame._repr_html_()


def test_settings_are_plain_data():
    run = lv.Trace([], [], torch.ones(1, 1), 1, [[]], settings={"k": np.int64(5), "f": math.sqrt})
    assert type(run.settings["k"]) is int and run.settings["f"] == "sqrt"
    loop = {}
    loop["loop"] = loop
    with pytest.raises(ValueError, match="settings"):
        lv.Trace([], [], torch.ones(1, 1), 1, [[]], settings=loop)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{}", "no prompts"),
        ("[]", "object"),
        ("null", "object"),
        ('{"sequences": [[1]]}', "no prompts"),
        ("not json", "Expecting value"),
        ("", "Expecting value"),
        ("[" * 100_000, "nested"),
        ('{"a": NaN}', "NaN"),
        ('{"format": 2}', "name"),
        ('{"name": "llmviz.Trace", "format": 99}', "format is 99"),
        ('{"name": "another", "format": 2}', "name is 'another'"),
        ("9" * 5000, "limit"),
    ],
)
def test_other_json_is_refused(text, wrong):
    with pytest.raises(ValueError, match=f"(?s)text is not a trace.*{wrong}"):
        lv.Trace.from_json(text)


def test_what_is_no_text_is_refused():
    for text in (None, 5, b"{}", ["{}"]):
        with pytest.raises(TypeError, match="text"):
            lv.Trace.from_json(text)


HOSTILE = '"><img src=x onerror=alert(1)>'
DAMAGE = [
    (["steps", 0, 2, "rank"], HOSTILE),
    (["steps", 0, 2, "rank"], 0),
    (["steps", 0, 2, "rank"], 1.5),
    (["steps", 0, 2, "rank"], True),
    (["steps", 0, 2, "rank"], None),
    (["steps", 0, 2, "log_prob"], 3.0),
    (["steps", 0, 2, "log_prob"], "0"),
    (["steps", 0, 2, "log_prob"], [0]),
    (["steps", 0, 2, "entropy"], None),
    (["steps", 0, 2, "mass"], 1.5),
    (["steps", 0, 2, "kept"], -1),
    (["steps", 0, 2, "token_id"], 10**30),
    (["steps", 0, 2, "token_id"], 7),
    (["steps", 0, 2, "candidates"], []),
    (["steps", 0, 2, "candidates", 1], {}),
    (["steps", 0, 2, "candidates", 1, "logit"], 10**400),
    (["steps", 0, 2, "candidates", 1, "logit"], "nan"),
    (["steps", 0, 2, "candidates", 1, "processed_probability"], -0.5),
    (["steps", 0, 2], None),
    (["steps", 0], {}),
    (["steps"], []),
    (["steps"], "x"),
    (["sequences"], []),
    (["sequences"], [[]]),
    (["sequences", 0, 0], 2**70),
    (["sequences", 0, 0], -5),
    (["sequences", 0, 0], 0.5),
    (["sequences", 0], [1]),
    (["num_prompt_tokens"], 999),
    (["num_prompt_tokens"], "5"),
    (["prompt_lengths"], [1]),
    (["prompt_lengths"], [99, 99]),
    (["prompts"], ["a", "b", "c"]),
    (["prompts"], "ab"),
    (["prompts", 0], 5),
    (["texts"], ["a"]),
    (["labels"], {}),
    (["labels"], []),
    (["labels", "x"], "a"),
    (["labels", "5"], 5),
    (["settings"], []),
    (["sequences_scores"], [0.5]),
    (["sequences_scores"], ["a", "b"]),
    (["beam_paths"], [[0], [0]]),
    (["drafts"], [{}]),
    (["drafts"], [{"proposed": [1], "accepted": 2, "replacement": None,
                   "draft_probabilities": None, "model_probabilities": None}]),
    (["premature_layers"], [[1]]),
    (["premature_layers"], [[1], [1]]),
    (["unknown"], 1),
]  # fmt: skip
BEAM_DAMAGE = [
    (["beams", 0, 1, "candidates", 0, "beam"], 7),
    (["beams", 0, 1, "candidates", 0, "beam"], -1),
    (["beams", 0, 0, "candidates", 0, "next_beam"], 9),
    (["beams", 0, 1, "candidates", 0, "fate"], HOSTILE),
    (["beams", 0, 1, "candidates", 0, "reason"], None),
    (["beams", 0, 1, "candidates", 0, "final_score"], "x"),
    (["beams", 0, 1, "candidates", 0, "rank"], HOSTILE),
    (["beams", 0, 1], {}),
    (["beams"], []),
    (["beams"], None),
    (["beam_paths", 0, 1], 99),
    (["beam_paths", 0], []),
    (["beam_paths"], None),
]


def refused(run, path, value):
    data = json.loads(run.to_json())
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(ValueError, match="text is not a trace that to_json wrote: ") as error:
        lv.Trace.from_json(json.dumps(data))
    assert len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize(("path", "value"), DAMAGE, ids=str)
def test_damaged_json_is_refused_by_its_place(run, path, value):
    message = refused(run, path, value)
    assert str(path[0]) in message


@pytest.mark.parametrize(("path", "value"), BEAM_DAMAGE, ids=str)
def test_damaged_beams_are_refused_by_their_place(path, value):
    beams = lv.generate(tiny.model("llama"), tiny.tokenizer(), "a", num_beams=2, max_new_tokens=3)
    assert "beam" in refused(beams, path, value)


def test_the_place_is_told_to_the_field(run):
    assert "steps[0][2].rank is" in refused(run, ["steps", 0, 2, "rank"], HOSTILE)
    assert "steps[0][2] has no rank" in refused_without(run, ["steps", 0, 2], "rank")
    data = json.loads(run.to_json())
    data["labels"].pop(str(run.steps[0][0].token_id))
    with pytest.raises(ValueError, match="labels have none for the token"):
        lv.Trace.from_json(json.dumps(data))


def refused_without(run, path, name):
    data = json.loads(run.to_json())
    place = data
    for part in path:
        place = place[part]
    return refused(run, path, {k: v for k, v in place.items() if k != name})


def test_every_strategys_trace_is_read_again():
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    for settings in (
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 3, "do_sample": True, "seed": 1},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "low"},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": tiny.model("llama", seed=1), "do_sample": True, "seed": 2},
        {"do_sample": True, "seed": 1, "num_return_sequences": 3, "stop_strings": "a"},
    ):
        one = "prompt_lookup_num_tokens" in settings or "assistant_model" in settings
        run = lv.generate(
            model, tokenizer, "abab" if one else ["abab", "c"], max_new_tokens=6, **settings
        )
        assert lv.Trace.from_json(run.to_json()).to_json() == run.to_json()


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
