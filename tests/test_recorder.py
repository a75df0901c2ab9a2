"""Ranks and ties, exact figures, and records of what transformers itself generated."""

import copy
import math
import random

import pytest
import torch

import llmviz as lv
from llmviz.decoding import greedy_search
from llmviz.decoding.prefix import pad_token_id
from llmviz.recorder import Recorder, top_tokens
from llmviz.tokens import encode
from tests import tiny

HALF = [torch.bfloat16, torch.float16]


def step_of(logits, scores=None, token=0, top_logprobs=20):
    logits = torch.as_tensor(logits)[None]
    recorder = Recorder(top_logprobs)
    scores = logits if scores is None else torch.as_tensor(scores)[None]
    recorder.record(logits, scores, torch.tensor([token]))
    return recorder.steps([1])[0][0]


def test_equal_scores_share_a_rank_and_the_chosen_one_stands_first():
    step = step_of([2.0, 3.0, 2.0, 2.0, 1.0], token=3)
    assert [(c.token_id, c.rank) for c in step.candidates] == [
        (1, 1),
        (3, 2),
        (0, 2),
        (2, 2),
        (4, 5),
    ]
    assert step.rank == 2
    flat = step_of([0.0] * 50, token=40, top_logprobs=3)
    assert {c.rank for c in flat.candidates} == {1} and flat.candidates[0].token_id == 40


def test_what_the_processors_ruled_out_is_not_listed_for_a_shared_rank():
    scores = [-math.inf] * 50
    scores[7] = 0.0
    step = step_of([0.0] * 50, scores, token=7, top_logprobs=3)
    assert len(step.candidates) <= 4


@pytest.mark.parametrize("dtype", HALF)
def test_ranks_in_half_precision_are_one_more_than_the_higher_ones(dtype):
    torch.manual_seed(0)
    logits = torch.randn(4, 259).to(dtype)
    tokens, ties = logits.argmax(-1), 0
    scores = logits.clone()
    scores[:, ::3] = -math.inf
    recorder = Recorder(10)
    recorder.record(logits, scores, tokens)
    for row, (step,) in enumerate(recorder.steps([1] * 4)):
        for c in step.candidates:
            assert c.rank == 1 + (logits[row] > logits[row, c.token_id]).sum()
        ties += len({c.rank for c in step.candidates}) < len(step.candidates)
        assert step.rank == step.candidates[0].rank == 1
        assert step.candidates[0].token_id == step.token_id
    assert ties


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_half_precision_model_says_one_rank_everywhere(architecture, dtype):
    model = copy.deepcopy(tiny.model(architecture)).to(dtype)
    # Pairs of tokens with the same embedding have the same logit.
    head = model.get_output_embeddings().weight.data
    head[1::2] = head[0:-1:2]
    frame = lv.predict_next_tokens(model, tiny.tokenizer(), "hello", num_steps=8, top_k=3)
    run = lv.generate(model, tiny.tokenizer(), "hello", max_new_tokens=8)
    for t, step in enumerate(run.steps[0]):
        mine = next(c for c in step.candidates if c.token_id == step.token_id)
        assert mine.rank == step.rank == 1 and step.candidates[0] is mine
        assert frame.Top1_Token[t] == run.tokens[0][t]
        logits = model(run.sequences[:, : 5 + t]).logits[0, -1]
        top = lv.logits_to_frame(logits, tiny.tokenizer(), top_k=4)
        assert top["rank"].tolist()[:2] == [1, 1] and top.token_id[0] == logits.argmax()


def test_top_tokens_come_by_score_and_then_by_id():
    for seed in range(20):
        torch.manual_seed(seed)
        scores = torch.randint(0, 6, (3, 40)).float()
        scores[scores == 0] = -math.inf
        for k in (1, 5, 40):
            ids, ranks = top_tokens(scores, k)
            for row in range(3):
                order = sorted(range(40), key=lambda i: (-scores[row, i].item(), i))[:k]
                assert ids[row].tolist() == order
                higher = [(scores[row] > scores[row, i]).sum().item() for i in order]
                assert ranks[row].tolist() == [1 + n for n in higher]


def test_what_is_no_number_ranks_last_and_makes_no_figures():
    logits = torch.tensor([1.0, math.nan, 3.0, -math.inf])
    step = step_of(logits, torch.tensor([1.0, 0.0, 3.0, -math.inf]), token=2, top_logprobs=2)
    assert step.rank == 1 and [c.token_id for c in step.candidates] == [2, 0]
    assert math.isnan(step.entropy) and math.isnan(step.log_prob)


def test_a_certain_choice_has_no_surprisal_below_zero():
    step = step_of([0.0, -math.inf, -math.inf])
    assert str(step.entropy) == str(step.surprisal) == "0.0"


def test_the_default_models_ranks_stay_1_to_k(default_model):
    for run in (
        lv.generate(*default_model, "I enjoy walking with my cute dog", max_new_tokens=4),
        lv.generate(*default_model, "One two", max_new_tokens=4, do_sample=True, seed=1, top_p=0.9),
    ):
        for step in run.steps[0]:
            assert [c.rank for c in step.candidates[:20]] == list(range(1, 21))


# Records of transformers' own output


def both(model, prompts, told=None, seed=0, stop_strings=None, new=6, **settings):
    """A run of `generate`, and the record of the same by transformers."""
    tokenizer = tiny.tokenizer()
    run = lv.generate(
        model, tokenizer, prompts, max_new_tokens=new, seed=seed, stop_strings=stop_strings,
        **settings,
    )  # fmt: skip
    ids, mask = encode(tokenizer, prompts, pad_token_id=pad_token_id(model))
    torch.manual_seed(seed)
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=new, stop_strings=stop_strings,
        tokenizer=tokenizer, return_dict_in_generate=True, output_scores=True, output_logits=True,
        **({"do_sample": False} | ({"top_k": 0} if settings.get("do_sample") else {}) | settings),
    )  # fmt: skip
    eos = model.generation_config.eos_token_id
    return run, lv.trace_of(output, tokenizer, prompts, eos_token_id=eos, **(told or {}))


def check_same(run, back):
    assert back.sequences.tolist() == run.sequences.tolist()
    assert back.tokens == run.tokens
    assert back.texts == run.texts
    assert back.sum_logprobs == run.sum_logprobs
    assert back.summary.equals(run.summary)
    assert back.prompt_lengths == run.prompt_lengths


def test_a_record_ends_where_a_stop_string_did():
    run, back = both(tiny.model("llama", seed=3), ["hello there", "good day"], stop_strings=" ")
    assert len({len(steps) for steps in run.steps}) > 1
    check_same(run, back)


KINDS = [{}, {"do_sample": True}, {"do_sample": True, "top_k": 5}, {"num_beams": 3}]


@pytest.mark.parametrize("pad", ["eos", tiny.PAD, 7])
@pytest.mark.parametrize("kind", KINDS, ids=["greedy", "sample", "top_k", "beams"])
def test_records_end_where_ours_do(kind, pad):
    chance, stopped = random.Random(f"{kind}{pad}"), 0
    texts = ["hello there", "good day", "hi", "how are you?", "the cat sat"]
    for case in range(8):
        model = copy.deepcopy(tiny.model("llama", seed=case % 4))
        eos = chance.choice([tiny.EOS, [tiny.EOS, *range(0, 256, 20)], 65])
        model.generation_config.eos_token_id = eos
        first = eos if isinstance(eos, int) else eos[0]
        model.generation_config.pad_token_id = first if pad == "eos" else pad
        stop_strings = chance.choice([None, " ", ["a", "e", "\n"]])
        # What can't be known from the output is told.
        told = {"stop_strings": stop_strings} if kind.get("do_sample") else {}
        prompts, seed = chance.sample(texts, 3), chance.randrange(99)
        run, back = both(model, prompts, told, seed, stop_strings, new=8, **kind)
        check_same(run, back)
        stopped += stop_strings is not None and len({len(steps) for steps in run.steps}) > 1
    assert stopped or kind == {"num_beams": 3}


def test_any_criterion_can_be_asked_again():
    from transformers import StoppingCriteria

    class After(StoppingCriteria):
        """Each row ends after its own number of tokens, the first one at once."""

        def __call__(self, input_ids, scores, **kwargs):
            return torch.arange(len(input_ids)) < input_ids.shape[1] - 5

    model, tokenizer = tiny.model("gpt2"), tiny.tokenizer()
    ids = encode(tokenizer, ["hello", "there"])[0]
    output = model.generate(
        ids, max_new_tokens=4, do_sample=True, top_k=0, stopping_criteria=[After()],
        return_dict_in_generate=True, output_scores=True, output_logits=True,
    )  # fmt: skip
    back = lv.trace_of(output, tokenizer, ["hello", "there"], stopping_criteria=After())
    assert [len(steps) for steps in back.steps] == [1, 2]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "\ud83d"}, "prompt"),
        ({"tokenizer": None}, "tokenizer"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"pad_token_id": 1.5}, "pad_token_id"),
        ({"top_logprobs": 0}, "top_logprobs"),
        ({"stop_strings": []}, "stop_strings"),
        ({"stop_strings": 3}, "stop_strings"),
        ({"stopping_criteria": 3}, "stopping_criteria"),
        ({"attention_mask": torch.ones(1, 2)}, "attention_mask"),
        ({"attention_mask": "x"}, "attention_mask"),
        ({"sequences": torch.zeros(2, 3)}, "sequences"),
        ({"sequences": torch.full((1, 9), 999)}, "sequences"),
        ({"scores": None}, "scores"),
        ({"scores": (torch.zeros(1, 3),)}, "scores"),
        ({"logits": (1, 2)}, "logits"),
        ({"logits": 7}, "logits"),
    ],
)
def test_trace_of_refuses_by_name(bad, named):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    output = model.generate(
        encode(tokenizer, "hello")[0], max_new_tokens=2, do_sample=False,
        return_dict_in_generate=True, output_scores=True, output_logits=True,
    )  # fmt: skip
    for name in ("sequences", "scores", "logits"):
        setattr(output, name, bad.get(name, getattr(output, name)))
    arguments = {"tokenizer": tokenizer, "prompt": "hello"} | {
        k: v for k, v in bad.items() if k not in ("sequences", "scores", "logits")
    }
    with pytest.raises((TypeError, ValueError), match=named):
        lv.trace_of(output, **arguments)


# Padding


@pytest.mark.parametrize("kind", KINDS, ids=["greedy", "sample", "top_k", "beams"])
def test_texts_do_not_show_padding(kind):
    """The pad token is a token of text, `!`, and nothing tells it apart but its place."""
    model = copy.deepcopy(tiny.model("llama"))
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = [tiny.EOS, *range(0, 256, 9)]
    run, back = both(model, ["hello there", "hi", "!!a"], {"stop_strings": "zzz"}, new=8, **kind)
    alone = ["hello there", "hi", "!!a"]
    for text, prompt, tokens in zip(run.texts, alone, run.tokens, strict=True):
        assert text.startswith(prompt) and len(text) <= len(prompt) + len(tokens)
    assert back.texts == run.texts
    assert run.prompt_lengths == [11, 2, 3]
    assert [len(row) for row in run.token_ids] == [
        n + len(steps) for n, steps in zip(run.prompt_lengths, run.steps, strict=True)
    ]


def test_a_model_and_tokenizer_without_special_tokens_pad_unseen():
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(tiny.tokenizer().backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    model = copy.deepcopy(tiny.model("llama"))
    config = model.generation_config
    config.eos_token_id = config.pad_token_id = config.bos_token_id = None
    run = lv.generate(model, tokenizer, ["hello there", "hi"], max_new_tokens=2)
    assert run.texts[1].startswith("hi") and run.text.startswith("hello there")


def test_a_strategys_own_trace_can_be_looked_at():
    ids = encode(tiny.tokenizer(), "hello")[0]
    run = greedy_search(tiny.model("llama"), ids, max_new_tokens=3)
    assert run.tokens == [[f"⟨{i}⟩" for i in run.sequences[0, 5:].tolist()]]
    assert run.summary.token.tolist() == run.tokens[0]
    assert len(run.frame) and "Trace(1 sequence(s), 3 steps" in repr(run)
    assert run.texts == [] and run.prompt_lengths == [5]
    with pytest.raises(ValueError, match="no texts.*lv.generate"):
        _ = run.text
    beams = lv.decoding.beam_search(tiny.model("llama"), ids, num_beams=2, max_new_tokens=3)
    assert beams.beam_frame.token.str.fullmatch(r"⟨\d+⟩").all()
    for own in (run, beams):
        again = lv.Trace.from_json(own.to_json())
        assert again.to_json() == own.to_json() and again.tokens == own.tokens
