"""`generate` gives transformers' tokens and scores, on every architecture; bad input is refused."""

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

import llmviz as lv
from llmviz.decoding.prefix import Prefix
from llmviz.tokens import encode
from tests import tiny

PROMPTS = ["hello there", "hi", "how are you?"]
SETTINGS = [
    {"do_sample": False},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    {"do_sample": True, "temperature": 1.5, "num_return_sequences": 3},
]


def theirs(model, prompt, seed=3, max_new_tokens=20, **settings):
    input_ids, attention_mask = encode(tiny.tokenizer(), prompt, pad_token_id=tiny.PAD)
    torch.manual_seed(seed)
    return model.generate(
        input_ids,
        attention_mask=attention_mask,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **({"top_k": 0} | settings),
    )


def ours(model, prompt, seed=3, max_new_tokens=20, **settings):
    return lv.generate(
        model, tiny.tokenizer(), prompt, seed=seed, max_new_tokens=max_new_tokens, **settings
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s)))
@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS], ids=["one", "batch"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_same_tokens_and_scores_as_transformers(architecture, prompt, settings):
    model = tiny.model(architecture)
    output, run = theirs(model, prompt, **settings), ours(model, prompt, **settings)
    assert run.sequences.tolist() == output.sequences.tolist()
    for row, steps in enumerate(run.steps):
        for step, logits, scores in zip(steps, output.logits, output.scores, strict=False):
            log_probs, processed = logits[row].log_softmax(-1), scores[row].softmax(-1)
            for c in step.candidates:
                assert c.logit == logits[row, c.token_id]
                assert c.score == scores[row, c.token_id]
                assert c.log_prob == pytest.approx(log_probs[c.token_id].item(), abs=1e-5)
                expected = processed[c.token_id].item()
                assert c.processed_probability == pytest.approx(expected, abs=1e-6)
                assert c.rank == 1 + (logits[row] > logits[row, c.token_id]).sum()
            assert step.kept == (scores[row] > -math.inf).sum()
            kept = scores[row] > -math.inf
            assert step.mass == pytest.approx(log_probs.exp()[kept].sum().item(), abs=1e-4)
            bits = -(log_probs.exp() * log_probs).sum().item() / math.log(2)
            assert step.entropy == pytest.approx(bits, abs=1e-4)


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=["greedy", "sample", "cut"])
def test_trace_of_their_output_equals_our_trace(settings):
    model = tiny.model("llama")
    run = ours(model, PROMPTS, **settings)
    other = lv.trace_of(
        theirs(model, PROMPTS, **settings), tiny.tokenizer(), PROMPTS, eos_token_id=tiny.EOS
    )
    assert other.texts == run.texts
    assert other.frame.equals(run.frame)
    assert other.sum_logprobs == run.sum_logprobs


def test_twenty_seeds_on_the_default_model(default_model):
    model, tokenizer = default_model
    prompt = "I enjoy walking with my cute dog"
    inputs = tokenizer(prompt, return_tensors="pt")
    for seed in range(20):
        torch.manual_seed(seed)
        wanted = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=4)
        run = lv.generate(model, tokenizer, prompt, do_sample=True, max_new_tokens=4, seed=seed)
        assert run.sequences.tolist() == wanted.tolist()


def test_rows_of_a_batch_end_at_their_own_eos():
    model = tiny.model("llama", seed=5)
    ends = _model_that_ends(model)
    run = ours(ends, PROMPTS, max_new_tokens=30, do_sample=True, temperature=3.0)
    output = theirs(ends, PROMPTS, max_new_tokens=30, do_sample=True, temperature=3.0)
    assert run.sequences.tolist() == output.sequences.tolist()
    lengths = [len(steps) for steps in run.steps]
    assert len(set(lengths)) > 1, "the case should have rows that end at different steps"
    for row, steps in zip(
        run.sequences[:, run.num_prompt_tokens :].tolist(), run.steps, strict=True
    ):
        assert [s.token_id for s in steps] == row[: len(steps)]
        assert all(t == tiny.PAD for t in row[len(steps) :])


def _model_that_ends(model):
    """Many tokens end the text: several eos ids are common in chat models."""
    import copy

    model = copy.deepcopy(model)
    model.generation_config.eos_token_id = [tiny.EOS, *range(0, 256, 16)]
    return model


def test_several_eos_ids_stop_like_transformers():
    ends = _model_that_ends(tiny.model("qwen3"))
    for seed in range(5):
        output = theirs(ends, "hello", seed=seed, do_sample=True)
        assert ours(ends, "hello", seed=seed, do_sample=True).sequences.tolist() == (
            output.sequences.tolist()
        )


def test_a_batch_equals_its_prompts_one_at_a_time():
    model = tiny.model("gpt2")
    batch = ours(model, PROMPTS)
    for prompt, text in zip(PROMPTS, batch.texts, strict=True):
        assert ours(model, prompt).text == text


def test_seed_leaves_the_global_generator_alone_and_none_uses_it():
    model = tiny.model("llama")
    torch.manual_seed(11)
    state = torch.get_rng_state()
    seeded = ours(model, "hello", do_sample=True, seed=11)
    assert torch.equal(torch.get_rng_state(), state)
    assert ours(model, "hello", do_sample=True, seed=None).text == seeded.text
    assert not torch.equal(torch.get_rng_state(), state)


def test_each_token_is_shown_to_the_model_once():
    model = tiny.model("llama")
    seen = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].shape[1]), with_kwargs=True
    )
    ours(model, "hello", max_new_tokens=4)
    hook.remove()
    assert seen == [5, 1, 1, 1]


def test_prefix_without_a_mask_takes_all_tokens_for_real():
    model, ids = tiny.model("gpt2"), torch.tensor([[1, 2, 3]])
    logits = model(ids).logits[:, -1]
    assert torch.allclose(Prefix(model, ids).next_logits(), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "error", "named"),
    [
        ({"prompt": ""}, ValueError, "prompt"),
        ({"prompt": []}, ValueError, "prompt"),
        ({"prompt": ["a", ""]}, ValueError, r"prompt\[1\]"),
        ({"prompt": 5}, TypeError, "prompt"),
        ({"prompt": None}, TypeError, "prompt"),
        ({"prompt": ["a", 3]}, TypeError, "prompt"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        ({"max_new_tokens": 2.5}, ValueError, "max_new_tokens"),
        ({"max_new_tokens": True}, ValueError, "max_new_tokens"),
        ({"max_new_tokens": 126}, ValueError, "context of 128 tokens"),
        ({"prompt": "x" * 129}, ValueError, "context of 128 tokens"),
        ({"temperature": 0.0}, ValueError, "do_sample=False"),
        ({"temperature": -1.0}, ValueError, "temperature=-1.0"),
        ({"temperature": math.nan}, ValueError, "temperature"),
        ({"temperature": math.inf}, ValueError, "temperature"),
        ({"temperature": "hot"}, ValueError, "temperature"),
        ({"top_k": -1}, ValueError, "top_k=-1"),
        ({"top_k": 2.0}, ValueError, "top_k"),
        ({"top_p": 0.0}, ValueError, "top_p"),
        ({"top_p": 1.01}, ValueError, "top_p"),
        ({"min_p": -0.1}, ValueError, "min_p"),
        ({"min_p": 1.1}, ValueError, "min_p"),
        ({"num_return_sequences": 0}, ValueError, "num_return_sequences"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences=2 with greedy search"),
        ({"top_logprobs": 0}, ValueError, "top_logprobs"),
        ({"model": None}, TypeError, "^model must be a language model"),
        ({"tokenizer": None}, TypeError, "^tokenizer"),
        ({"tokenizer": "gpt2"}, TypeError, "^tokenizer"),
        ({"tokenizer": {"a": 1}}, TypeError, "^tokenizer"),
        ({"do_sample": "no"}, ValueError, "^do_sample='no': it must be True or False"),
        ({"seed": True}, ValueError, "^seed=True"),
        ({"num_beams": 5000}, ValueError, "^num_beams=5000: .* from 1 to 1024"),
        ({"do_sample": True, "num_return_sequences": 5000}, ValueError, "^num_return_sequences="),
        ({"num_beams": np.bool_(True)}, ValueError, "^num_beams="),
        ({"early_stopping": 1}, ValueError, "^early_stopping=1"),
        ({"early_stopping": np.array([1, 2])}, ValueError, "^early_stopping="),
        ({"length_penalty": 10**400}, ValueError, "^length_penalty="),
        ({"num_assistant_tokens": 0}, ValueError, "^num_assistant_tokens=0"),
        ({"add_special_tokens": "no"}, ValueError, "^add_special_tokens='no'"),
        ({"cache_implementation": "dynamic"}, ValueError, "^cache_implementation='dynamic'"),
        ({"penalty_alpha": 0.6}, ValueError, "^penalty_alpha=0.6 with top_k=0.*pass top_k=4"),
        ({"penalty_alpha": True, "top_k": 4}, ValueError, "^penalty_alpha=True"),
        ({"dola_layers": "middle"}, ValueError, "^dola_layers='middle'"),
        ({"dola_layers": [True]}, ValueError, r"^dola_layers=\[True\]"),
        ({"dola_layers": "high", "guidance_scale": 0}, ValueError, "^guidance_scale=0.0 with dola"),
        ({"assistant_model": "gpt2"}, TypeError, "^assistant_model must be"),
        ({"stop_strings": 3}, ValueError, "^stop_strings=3"),
        ({"stop_strings": [""]}, ValueError, r"^stop_strings=\[''\]"),
        ({"stop_strings": ["a", "\ud83d"]}, ValueError, "^stop_strings holds half a surrogate"),
        ({"sequence_bias": {(1, 300): 2.0}}, ValueError, "^sequence_bias holds the token id 300"),
        ({"forced_eos_token_id": "</s>"}, ValueError, "^forced_eos_token_id='</s>'"),
        ({"logits_processor": 3}, ValueError, "^logits_processor=3"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_the_model_runs(bad, error, named):
    model = tiny.model("llama")
    hook = model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(error, match=named):
            lv.generate(
                **({"model": model, "tokenizer": tiny.tokenizer(), "prompt": "hello"} | bad)
            )
    finally:
        hook.remove()


def test_the_longest_prompt_and_text_that_fit_do():
    model = tiny.model("gpt2")
    assert len(ours(model, "x" * 128, max_new_tokens=1).steps[0]) == 1
    run = ours(model, "x" * 119, max_new_tokens=10)
    assert run.sequences.shape[1] <= 129


def test_a_model_without_a_language_head_is_refused():
    bare = GPT2Model(GPT2Config(vocab_size=259, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(TypeError, match="GPT2Model, which has no language head"):
        lv.generate(bare, tiny.tokenizer(), "hello")


def test_scores_without_a_distribution_are_refused():
    import copy

    model = copy.deepcopy(tiny.model("llama"))
    model.get_output_embeddings().weight.data[7] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        lv.generate(model, tiny.tokenizer(), "hello")


def test_trace_of_says_what_the_output_lacks():
    model = tiny.model("llama")
    ids, _ = encode(tiny.tokenizer(), "hello")
    output = model.generate(ids, max_new_tokens=2, return_dict_in_generate=True, output_scores=True)
    with pytest.raises(ValueError, match="output has no logits"):
        lv.trace_of(output, tiny.tokenizer(), "hello")


def test_no_stop_strings_stop_nothing():
    model = tiny.model("llama")
    run = ours(model, "hello", stop_strings=[])
    assert run.sequences.tolist() == ours(model, "hello").sequences.tolist()


def test_stop_strings_that_the_vocabulary_cannot_spell_are_named():
    core = Tokenizer(WordLevel({"abc": 0, "d": 1, "<eos>": 2, "<pad>": 3}, unk_token="d"))
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    for strings in ("漢", ["漢", "字"]):
        with pytest.raises(ValueError, match="^stop_strings=.*this tokenizer's texts"):
            lv.generate(tiny.model("llama"), words, "abc", stop_strings=strings)


def test_the_settings_of_a_trace_are_plain_and_as_given():
    given = {
        "temperature": np.float64(0.123456789012),
        "top_k": np.int64(7),
        "do_sample": np.bool_(True),
        "seed": torch.tensor(3),
        "suppress_tokens": np.array([5, 6]),
        "sequence_bias": {(3, 4): np.float64(0.5)},
        "num_return_sequences": np.uint8(2),
        "max_new_tokens": np.int16(3),
        "stop_strings": ("q", "z"),
    }
    run = lv.generate(tiny.model("llama"), tiny.tokenizer(), "hello", **given)
    wanted = {
        "temperature": 0.123456789012,
        "top_k": 7,
        "do_sample": True,
        "seed": 3,
        "suppress_tokens": [5, 6],
        "sequence_bias": [[[3, 4], 0.5]],
        "num_return_sequences": 2,
        "max_new_tokens": 3,
        "stop_strings": ["q", "z"],
    }
    assert {name: run.settings[name] for name in given} == wanted
    assert lv.Trace.from_json(run.to_json()).settings == run.settings
    assert len(run.sequences) == 2


NEW = {
    "guidance_scale": 1.7,
    "sequence_bias": {(101,): 2.0, (104, 101): -3.0, (32,): float("-inf")},
    "exponential_decay_length_penalty": (2, 1.3),
    "begin_suppress_tokens": [*range(0, 200, 2)],
    "forced_eos_token_id": [tiny.EOS, 7],
}


@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": True, "top_h": 0.7}], ids=["greedy", "draw"]
)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_rarer_processors_give_the_tokens_of_transformers(architecture, settings):
    model = tiny.model(architecture)
    for names in ([*NEW], *([name] for name in NEW)):
        asked = settings | {name: NEW[name] for name in names}
        output, run = theirs(model, PROMPTS, 3, 7, **asked), ours(model, PROMPTS, 3, 7, **asked)
        assert run.sequences.tolist() == output.sequences.tolist()
