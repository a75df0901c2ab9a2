"""The text so far and its cache: what a model may make of it, and what can be taken back."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import llmviz as lv
from llmviz.decoding.prefix import can_take_back
from tests import tiny

PROMPTS = ["hello there", "hi"]


class OfTuples(LlamaForCausalLM):
    """As code from the hub that was written before transformers had caches: it knows tuples."""

    def forward(self, input_ids, attention_mask=None, past_key_values=None, **kwargs):
        cache = DynamicCache(config=self.config)
        for layer, (keys, values) in enumerate(past_key_values or ()):
            assert past_key_values[0][0].shape[-2] > 0
            cache.update(keys, values, layer)
        output = super().forward(
            input_ids, attention_mask=attention_mask, past_key_values=cache, **kwargs
        )
        output.past_key_values = tuple((layer.keys, layer.values) for layer in cache.layers)
        return output


@pytest.fixture(scope="module")
def of_tuples():
    model = OfTuples(tiny.model("llama").config).eval()
    model.load_state_dict(tiny.model("llama").state_dict())
    model.generation_config = tiny.model("llama").generation_config
    return model


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_sample": True, "seed": 1}, {"num_beams": 3}, {"penalty_alpha": 0.6, "top_k": 3},
     {"dola_layers": [0, 1]}],
    ids=lambda settings: next(iter(settings), "greedy"),
)  # fmt: skip
def test_a_cache_of_tuples_gives_the_same_tokens(of_tuples, settings):
    runs = [
        lv.generate(model, tiny.tokenizer(), PROMPTS, max_new_tokens=8, **settings)
        for model in (of_tuples, tiny.model("llama"))
    ]
    assert runs[0].sequences.equal(runs[1].sequences)


@pytest.mark.parametrize(
    "settings", [{"prompt_lookup_num_tokens": 3}, {"cache_implementation": "static"}], ids=str
)
def test_where_a_cache_of_tuples_will_not_do_it_is_named(of_tuples, settings):
    with pytest.raises(TypeError, match="model is a OfTuples, whose own code failed with .*Cache"):
        lv.generate(of_tuples, tiny.tokenizer(), "hello", max_new_tokens=4, **settings)


def test_a_cache_of_tuples_has_no_layers_to_show(of_tuples):
    with pytest.raises(ValueError, match="OfTuples, whose past_key_values is a tuple, not a"):
        lv.kv_cache(of_tuples, tiny.tokenizer(), "hello")
    lens, wanted = (
        lv.logit_lens(model, tiny.tokenizer(), "hello")
        for model in (of_tuples, tiny.model("llama"))
    )
    assert lens.equals(wanted)


def made(architecture, **config):
    config = CONFIG_MAPPING[architecture](**{**tiny.GROUPED, **config})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_what_can_be_taken_back():
    can = {architecture: can_take_back(tiny.model(architecture)) for architecture in tiny.CONFIGS}
    assert [name for name, yes in can.items() if not yes] == ["mamba"]
    minimax = made("minimax", head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    assert not can_take_back(minimax)
    with pytest.raises(ValueError, match="model is a MiniMaxForCausalLM, whose running state"):
        lv.generate(minimax, tiny.tokenizer(), "hello", prompt_lookup_num_tokens=2)
    lfm2 = made("lfm2")
    assert can_take_back(lfm2)
    looked_up, wanted = (
        lv.generate(lfm2, tiny.tokenizer(), "ababab", max_new_tokens=8, **settings)
        for settings in ({"prompt_lookup_num_tokens": 3}, {})
    )
    assert looked_up.sequences.equal(wanted.sequences)
