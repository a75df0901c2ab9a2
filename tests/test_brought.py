"""What a model's generation_config brings: known, switched off, passed on, and told of once."""

import copy
import inspect
import warnings

import pytest
import torch
from transformers import GenerationConfig, WatermarkingConfig

import llmviz as lv
from llmviz.decoding.brought import brought, off
from tests import tiny

PROMPT = "hello hello"
KNOWN = inspect.signature(lv.generate).parameters
BRINGS = [
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[100], [65, 66]]},
    {"suppress_tokens": list(range(100, 140))},
    {"min_length": 15},
    {"min_new_tokens": 9, "eos_token_id": list(range(250))},
    {"guidance_scale": 1.7},
    {"sequence_bias": [[[101], 3.0], [[101, 102], -4.0]]},
    {"exponential_decay_length_penalty": [3, 1.5]},
    {"forced_eos_token_id": tiny.EOS},
    {"forced_eos_token_id": 0},
    {"begin_suppress_tokens": list(range(100, 200))},
    {"encoder_repetition_penalty": 1.5},
    {"encoder_no_repeat_ngram_size": 1},
    {"remove_invalid_values": True, "suppress_tokens": [100]},
    {"watermarking_config": WatermarkingConfig(bias=5.0)},
    {"num_beams": 4},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "do_sample": True, "temperature": 3.0, "renormalize_logits": True},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
    {"do_sample": True, "num_return_sequences": 3, "min_p": 0.05, "typical_p": 0.9},
    {"do_sample": True, "top_h": 0.5, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01},
    {"prompt_lookup_num_tokens": 3},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "high"},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    {"force_words_ids": [[5]], "num_beams": 2},
    {"max_time": 0.0},
    {"max_new_tokens": 3},
]


def with_config(settings):
    model = copy.copy(tiny.model("llama"))
    special = {"eos_token_id": tiny.EOS, "pad_token_id": tiny.PAD} | settings
    model.generation_config = GenerationConfig(**special)
    return model


def ids():
    return lv.tokens.encode(tiny.tokenizer(), PROMPT)[0]


def theirs(model, **settings):
    torch.manual_seed(3)
    found = model.generate(ids(), max_new_tokens=12, **settings)
    return found.tolist()


def ours(model, **settings):
    if settings.get("do_sample"):
        settings["seed"] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = lv.generate(model, tiny.tokenizer(), PROMPT, max_new_tokens=12, **settings)
    return run.sequences.tolist()


@pytest.mark.parametrize("settings", BRINGS, ids=lambda s: "-".join(s))
def test_switched_off_generate_gives_what_ours_gives(settings):
    model = with_config(settings)
    assert theirs(model, **off(model)) == ours(model)
    drawn = {"do_sample": True}
    assert theirs(model, **drawn, **off(model, **drawn)) == ours(model, **drawn)
    beams = {"num_beams": 3, "length_penalty": 0.5}
    assert theirs(model, **beams, **off(model, **beams)) == ours(model, **beams)


@pytest.mark.parametrize("settings", BRINGS, ids=lambda s: "-".join(s))
def test_what_is_brought_is_named_and_nothing_else(settings):
    plain = {k: v for k, v in settings.items() if k not in ("max_new_tokens", "eos_token_id")}
    assert brought(with_config(settings)) == plain


GONE_FROM_THEIRS = ("penalty_alpha", "dola_layers", "num_beam_groups", "force_words_ids")


@pytest.mark.parametrize(
    "settings",
    [
        s
        for s in BRINGS
        if {*s} <= KNOWN.keys() | {"eos_token_id"} and not {*s} & {*GONE_FROM_THEIRS}
    ],
    ids=lambda s: "-".join(s),
)
def test_passed_on_ours_gives_what_generate_gives(settings):
    model = with_config(settings)
    top_k = {"top_k": 0} if settings.get("do_sample") and "top_k" not in settings else {}
    assert ours(model, **brought(model)) == theirs(model, **top_k)


def test_settings_that_would_do_nothing_are_not_brought():
    sampling = {"temperature": 0.5, "top_k": 5, "top_p": 0.9, "typical_p": 0.5}
    model = with_config({**sampling, "length_penalty": 2.0, "early_stopping": True})
    assert brought(model) == off(model) == {}
    assert brought(model, do_sample=True) == sampling
    assert brought(model, do_sample=True, top_k=3, temperature=1.0) == {
        "top_p": 0.9,
        "typical_p": 0.5,
    }
    assert brought(model, num_beams=2) == {"length_penalty": 2.0, "early_stopping": True}
    nothing = {
        "repetition_penalty": 1.0, "min_new_tokens": 0, "suppress_tokens": [], "do_sample": False,
        "guidance_scale": 1, "min_length": 0, "num_beams": 1, "temperature": 1.0, "top_k": 0,
    }  # fmt: skip
    assert brought(with_config(nothing), do_sample=True, num_beams=2) == {}
    assert off(with_config(nothing), do_sample=True) == {"top_k": 0}
    assert off(with_config({"do_sample": True}), do_sample=True, top_k=50) == {}


def test_token_0_is_a_token():
    assert brought(with_config({"forced_bos_token_id": 0})) == {"forced_bos_token_id": 0}


def told(model, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lv.generate(model, tiny.tokenizer(), PROMPT, max_new_tokens=2, **settings)
    return [str(w.message) for w in caught]


def test_a_warning_tells_once_per_model_what_is_brought_and_how_to_pass_it_on():
    config = {"repetition_penalty": 1.1, "suppress_tokens": [5], "min_length": 3}
    model = with_config(config)
    (text,) = told(model)
    assert text == (
        "LlamaForCausalLM brings repetition_penalty, min_length, suppress_tokens in its "
        "generation_config: model.generate applies that, lv.generate does not. To pass it on: "
        "lv.generate(…, **{'repetition_penalty': 1.1, 'suppress_tokens': [5]}); lv.generate does "
        "not know min_length"
    )
    assert told(model) == []
    model.generation_config.no_repeat_ngram_size = 2
    assert "brings" in told(model)[0]
    assert len(told(with_config(config))) == 1  # another model


def test_what_the_caller_says_is_no_news():
    model = with_config({"repetition_penalty": 1.1, "do_sample": True, "temperature": 0.6})
    assert told(model, **brought(model)) == []
    assert told(model, repetition_penalty=1.3, do_sample=True, temperature=0.9) == []
    assert "'repetition_penalty': 1.1})" in told(model, do_sample=True, temperature=0.9)[0]


def test_a_long_list_is_named_by_its_place():
    model = with_config({"suppress_tokens": list(range(200))})
    (text,) = told(model)
    code = text.split("**")[1].removesuffix(")")
    assert eval(code, {"model": model}) == {"suppress_tokens": list(range(200))}
    assert len(text) < 400


def test_a_warning_holds_no_path_and_no_process():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lv.generate(with_config({"repetition_penalty": 2.0}), tiny.tokenizer(), PROMPT)
    assert (caught[0].filename, caught[0].category) == ("llmviz", UserWarning)


def test_the_default_model_brings_nothing(default_model):
    model, _ = default_model
    assert brought(model, do_sample=True, num_beams=2) == off(model) == {}


def test_every_value_of_the_configuration_that_changes_tokens_is_known():
    """A new setting of transformers must be looked at: listed as brought, or here as harmless."""
    from llmviz.decoding import brought as module

    harmless = """max_length max_new_tokens use_cache cache_implementation cache_config
        max_cache_len output_attentions output_hidden_states output_scores output_logits
        return_dict_in_generate pad_token_id bos_token_id eos_token_id decoder_start_token_id
        is_assistant num_assistant_tokens num_assistant_tokens_schedule speculation_type
        assistant_confidence_threshold max_matching_ngram_size assistant_lookbehind
        target_lookbehind assistant_ensemble_weight compile_config disable_compile
        continuous_batching_config low_memory prefill_chunk_size transformers_version"""
    names = {n for n in vars(GenerationConfig()) if not n.startswith("_")}
    assert names == module._OFF.keys() | {*harmless.split()}
