"""Hidden states, attention, the lens and the cache, on every architecture."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import llmviz as lv
from llmviz import internals
from llmviz.head import Head, final_norm, unembed
from tests import tiny

ROOT = Path(__file__).parent.parent

SPECIAL = {"eos_token_id": tiny.EOS, "pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS}
# Their logits are not just the head's output.
SCALED = {
    "gemma2": {**tiny.GROUPED, "head_dim": 8, "final_logit_softcapping": 3.0},
    "granite": {**tiny.GROUPED, "logits_scaling": 8.0},
    "cohere": {**tiny.GROUPED, "logit_scale": 0.25},
    "falcon_h1": {**tiny.GROUPED, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8,
                  "mamba_d_state": 8, "lm_head_multiplier": 0.5},
}  # fmt: skip


def made(architecture, **config):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**config, **SPECIAL)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def forward(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8], [9, 5, 200, 3]]), output_hidden_states=True)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_unembedding_the_last_hidden_state_gives_the_logits(architecture):
    model = tiny.model(architecture)
    output = forward(model)
    assert torch.equal(unembed(model, output.hidden_states[-1]), output.logits)
    assert torch.equal(model.get_output_embeddings()(output.hidden_states[-1]), output.logits)
    one = unembed(model, output.hidden_states[-1][1, -1])
    assert one.shape == (tiny.VOCABULARY,)
    assert torch.allclose(one, output.logits[1, -1], atol=1e-4)
    assert "forward" not in vars(model.get_decoder())  # left as it was
    assert torch.equal(forward(model).logits, output.logits)


@pytest.mark.parametrize("architecture", SCALED)
def test_scaled_and_capped_logits_come_out_as_the_models_own(architecture):
    model = made(architecture, **SCALED[architecture])
    output = forward(model)
    plain = model.get_output_embeddings()(output.hidden_states[-1])
    assert not torch.allclose(plain, output.logits)
    assert torch.equal(unembed(model, output.hidden_states[-1]), output.logits)
    assert isinstance(final_norm(model), nn.Module)


NORMS = {"bloom": "ln_f", "falcon": "ln_f", "gpt2": "ln_f", "gpt_neox": "final_layer_norm",
         "mamba": "norm_f", "opt": "final_layer_norm", "phi": "final_layernorm"}  # fmt: skip


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_final_norm_is_found(architecture):
    model = tiny.model(architecture)
    forward(model)  # transformers hangs in hooks of its own
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    name = NORMS.get(architecture, "norm")
    assert final_norm(model) is getattr(model.get_decoder(), name)
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert after == hooks


def test_a_model_that_projects_or_norms_otherwise():
    # OPT-350m's kind: norms within the layers, a projection before the head.
    shape = {**tiny.SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 16}
    model = made("opt", **shape, do_layer_norm_before=False)
    assert final_norm(model) is model.get_decoder().project_out
    # GPT-1's kind: nothing at all.
    model = made("openai-gpt", vocab_size=tiny.VOCABULARY, n_embd=32, n_layer=2, n_head=4)
    hidden = torch.randn(3, 32)
    assert torch.equal(final_norm(model)(hidden), hidden)


def test_a_way_that_is_not_known_is_refused():
    model = made("llama", **tiny.GROUPED)
    model.model.norm.register_forward_hook(lambda module, args, output: 2 * output)
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        final_norm(model)


# What the public functions say, on the whole matrix

TEXT = "the way\tof a ✓"
TOKENS = len(tiny.tokenizer()(TEXT)["input_ids"])
WITH_ATTENTION = [a for a in tiny.ARCHITECTURES if a != "mamba"]


def direct(model, **wanted):
    with torch.no_grad():
        return model(tiny.tokenizer()(TEXT, return_tensors="pt")["input_ids"], **wanted)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_hidden_states(architecture):
    model = tiny.model(architecture)
    states, labels = lv.hidden_states(model, tiny.tokenizer(), TEXT)
    assert states.shape == (4, TOKENS, 32) and len(labels) == TOKENS
    assert labels[:5] == ["t", "h", "e", "␣", "w"] and labels[-1] == "⟨93⟩"
    last = model.get_decoder()(tiny.tokenizer()(TEXT, return_tensors="pt")["input_ids"])[0]
    assert torch.equal(states[-1], last[0])
    with torch.no_grad():
        logits = unembed(model, states[-1])
    assert torch.allclose(logits, direct(model).logits[0], atol=1e-4)


@pytest.mark.parametrize("architecture", WITH_ATTENTION)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_is_causal_and_adds_up_to_one(architecture, implementation):
    if architecture == "bloom" and implementation == "sdpa":
        implementation = "eager"  # it knows no other
    model = tiny.model(architecture, attn_implementation=implementation)
    before = direct(model).logits
    weights, labels = lv.attentions(model, tiny.tokenizer(), TEXT)
    assert weights.shape == (3, 4, TOKENS, TOKENS) and len(labels) == TOKENS
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, TOKENS), atol=1e-5)
    assert (weights.triu(1) == 0).all() and (weights >= 0).all()
    assert model.config._attn_implementation == implementation
    assert torch.equal(direct(model).logits, before)
    # The weights are those of the model itself, where it was loaded to give them.
    eager = tiny.model(architecture, attn_implementation="eager")
    own = torch.cat(direct(eager, output_attentions=True, use_cache=False).attentions)
    assert torch.allclose(weights, own, atol=1e-6)


def test_the_models_own_attention_is_never_switched(monkeypatch):
    model, seen = tiny.model("llama"), []
    attend = type(model.model.layers[0].self_attn).forward

    def watched(self, *args, **kwargs):
        seen.append((self.config._attn_implementation, model.config._attn_implementation))
        return attend(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model.layers[0].self_attn), "forward", watched)
    lv.attentions(model, tiny.tokenizer(), TEXT)
    assert set(seen) == {("eager", "sdpa")}


# Their sinks take a part of each query's attention, and are no tokens.
WITH_SINKS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}


def test_a_sink_has_what_a_querys_weights_lack():
    model = made("gpt_oss", **tiny.GROUPED, **WITH_SINKS)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.fill_(1.0)
    weights = lv.attentions(model, tiny.tokenizer(), TEXT).tensor
    assert (weights.sum(-1)[:, :, 0] < 1 - 1e-3).any() and (weights.triu(1) == 0).all()
    assert "sink" in lv.attentions.__doc__


def test_a_running_state_is_no_attention():
    # As wide as the text has tokens: its shape is that of a map.
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = {**tiny.GROUPED, "head_dim": TOKENS, "layer_types": kinds, **experts}
    weights = lv.attentions(made("minimax", **config), tiny.tokenizer(), TEXT).tensor
    assert weights.shape == (1, 4, TOKENS, TOKENS)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 4, TOKENS), atol=1e-5)
    rwkv = made("rwkv", vocab_size=tiny.VOCABULARY, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(ValueError, match="no attention"):
        lv.attentions(rwkv, tiny.tokenizer(), TEXT)


def test_a_hybrid_gives_the_attention_that_it_has():
    model = made("falcon_h1", **SCALED["falcon_h1"])
    assert lv.attentions(model, tiny.tokenizer(), TEXT).tensor.shape == (3, 4, TOKENS, TOKENS)


def test_no_attention_is_an_error():
    with pytest.raises(ValueError, match="MambaForCausalLM.*no attention"):
        lv.attentions(tiny.model("mamba"), tiny.tokenizer(), TEXT)


@pytest.mark.parametrize("architecture", [*tiny.ARCHITECTURES, *SCALED])
def test_the_lens_ends_in_the_models_own_prediction(architecture):
    model = made(architecture, **SCALED[architecture]) if architecture in SCALED else (
        tiny.model(architecture)
    )  # fmt: skip
    lens = lv.logit_lens(model, tiny.tokenizer(), TEXT, top_k=3, target="a")
    assert len(lens) == 4 * TOKENS * 3
    logits = direct(model).logits[0]
    top = logits.topk(3)
    last = lens[lens.layer == 3]
    assert last.token_id.tolist() == top.indices.flatten().tolist()
    assert last["rank"].tolist() == [1, 2, 3] * TOKENS
    close = {"atol": 1e-4, "rtol": 1e-4}
    assert torch.allclose(torch.tensor(last.logit.values).float(), top.values.flatten(), **close)
    probabilities = logits.softmax(-1)
    shown = torch.tensor(last.probability.values).float()
    assert torch.allclose(shown, probabilities.gather(-1, top.indices).flatten(), **close)
    bits = -(probabilities * logits.log_softmax(-1)).sum(-1) / math.log(2)
    assert torch.allclose(torch.tensor(last.entropy.values[::3]).float(), bits, **close)
    a = tiny.tokenizer()("a")["input_ids"][0]
    assert last.target_rank.tolist()[::3] == (1 + (logits > logits[:, a, None]).sum(-1)).tolist()
    rest = torch.tensor(last.target_probability.values[::3]).float()
    assert torch.allclose(rest, probabilities[:, a], **close)


def test_the_lens_of_an_early_layer_is_its_norm_and_head():
    model = tiny.model("llama")
    hidden = direct(model, output_hidden_states=True).hidden_states[1]
    by_hand = model.lm_head(model.model.norm(hidden))[0]
    lens = lv.logit_lens(model, tiny.tokenizer(), TEXT)
    assert lens[lens.layer == 1].token_id.tolist() == by_hand.argmax(-1).tolist()
    found = torch.tensor(lens[lens.layer == 1].logit.values).float()
    assert torch.allclose(found, by_hand.amax(-1), atol=1e-4)
    # Without the norm it would be another.
    assert not torch.allclose(model.lm_head(hidden)[0].amax(-1), found, atol=0.1)


def test_one_position_is_a_part_of_all():
    model = tiny.model("gpt2")
    everything = lv.logit_lens(model, tiny.tokenizer(), TEXT, top_k=2)
    for position in (-1, 0, 3):
        one = lv.logit_lens(model, tiny.tokenizer(), TEXT, top_k=2, position=position)
        part = everything[everything.position == position % TOKENS]
        assert one.token_id.tolist() == part.token_id.tolist()
        assert one.layer.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert one.token.tolist() == ["␣"] * 8


def test_the_lens_makes_few_scores_at_a_time(monkeypatch):
    model, sizes = tiny.model("llama"), []
    whole = lv.logit_lens(model, tiny.tokenizer(), TEXT)
    unembed = Head.unembed

    def watched(self, hidden):
        sizes.append(hidden.shape[0] * tiny.VOCABULARY)
        return unembed(self, hidden)

    monkeypatch.setattr(Head, "unembed", watched)
    monkeypatch.setattr(internals, "_MOST_SCORES", 5 * tiny.VOCABULARY + 1)
    parts = lv.logit_lens(model, tiny.tokenizer(), TEXT)
    assert max(sizes) == 5 * tiny.VOCABULARY and sum(sizes) == 4 * TOKENS * tiny.VOCABULARY
    assert parts.token_id.tolist() == whole.token_id.tolist()


def test_the_lens_of_a_thousand_tokens_stays_small():
    # Together the scores would be 2 GB. In a process of its own, whose memory has not been larger.
    code = """
import threading, time, psutil, llmviz as lv
from tests import tiny
shape = {"num_hidden_layers": 10, "vocab_size": 49152, "max_position_embeddings": 1024}
model, tokenizer = tiny.model("llama", **shape), tiny.tokenizer()
used = psutil.Process().memory_info
before, most, done = used().rss, 0, threading.Event()
def watch():
    global most
    while not done.wait(0.005):
        most = max(most, used().rss - before)
watcher = threading.Thread(target=watch)
watcher.start()
lens = lv.logit_lens(model, tokenizer, "a" * 1000)
done.set()
watcher.join()
assert len(lens) == 11_000
print(most)
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert said.returncode == 0, said.stderr
    assert 30e6 < int(said.stdout.split()[-1]) < 400e6


def test_the_default_models_lens(default_model):
    lens = lv.logit_lens(*default_model, "The capital of France is", position=-1, target=" Paris")
    assert lens.prediction.tolist()[-1] == "␣Paris"
    ranks = lens.target_rank.tolist()
    assert ranks[-1] == 1 and min(ranks[:-1]) > 1 and ranks[0] > 1000


KEPT = {"mistral": 6, "gemma3_text": 6}  # a window of so many tokens


@pytest.mark.parametrize("architecture", WITH_ATTENTION)
def test_the_cache(architecture):
    model = tiny.model(architecture)
    table = lv.kv_cache(model, tiny.tokenizer(), TEXT)
    config = model.config
    heads = 1 if architecture == "falcon" else getattr(config, "num_key_value_heads", 4)
    assert len(table) == 3 and table.layer.tolist() == [0, 1, 2]
    for row in table.itertuples():
        windowed = "Sliding" in row.kind
        kept = tiny.CONFIGS[architecture]["sliding_window"] - 1 if windowed else TOKENS
        assert row.keys == row.values == str((1, heads, kept, 8))
        assert row.bytes == 2 * heads * kept * 8 * 4
        assert row.bytes_per_token == (0 if windowed else 2 * heads * 8 * 4)


def test_the_cache_of_a_state_space_model_does_not_grow():
    table = lv.kv_cache(tiny.model("mamba"), tiny.tokenizer(), TEXT)
    assert {"conv_states", "recurrent_states"} <= set(table.columns)
    assert (table.bytes > 0).all() and (table.bytes_per_token == 0).all()


def test_no_cache_is_an_error():
    model = made("openai-gpt", vocab_size=tiny.VOCABULARY, n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(ValueError, match="no cache"):
        lv.kv_cache(model, tiny.tokenizer(), TEXT)


FUNCTIONS = [lv.hidden_states, lv.attentions, lv.logit_lens, lv.kv_cache]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_bad_texts_and_models_are_named(function):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    with pytest.raises(TypeError, match="text must be a string, not list"):
        function(model, tokenizer, ["a"])
    with pytest.raises(ValueError, match="text is ''"):
        function(model, tokenizer, "")
    with pytest.raises(ValueError, match="text has 129 tokens.*shorten"):
        function(model, tokenizer, "a" * 129)
    with pytest.raises(TypeError, match="tokenizer"):
        function(model, None, "a")
    with pytest.raises(ValueError, match="half a surrogate"):
        function(model, tokenizer, "a\ud800")
    with pytest.raises(TypeError, match="model must be a language model.*not str: 'gpt2'"):
        function("gpt2", tokenizer, "a")
    config = {**tiny.GROUPED, "vocab_size": 100}
    small = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**config)).eval()
    with pytest.raises(ValueError, match="text holds the token .*, id .* below 100"):
        function(small, tokenizer, TEXT)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_bos_token_in_front_can_be_had_or_not(function):
    class WithBos:
        def __call__(self, text, add_special_tokens=True):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [tiny.BOS] * add_special_tokens + ids}

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    without = function(model, WithBos(), "abc", add_special_tokens=False)
    wanted, found = function(model, tokenizer, "abc"), function(model, WithBos(), "abc")
    if isinstance(wanted, internals.Labelled):
        assert torch.equal(without.tensor, wanted.tensor) and without.labels == wanted.labels
        assert len(found.labels) == 4
    else:
        assert without.equals(wanted) and not found.equals(wanted)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "opt", "mamba"])
def test_a_body_needs_no_head(architecture):
    model, tokenizer = tiny.model(architecture), tiny.tokenizer()
    body = model.base_model
    assert torch.equal(
        lv.hidden_states(body, tokenizer, TEXT).tensor,
        lv.hidden_states(model, tokenizer, TEXT).tensor,
    )
    if architecture != "mamba":
        assert torch.equal(
            lv.attentions(body, tokenizer, TEXT).tensor,
            lv.attentions(model, tokenizer, TEXT).tensor,
        )
    assert lv.kv_cache(body, tokenizer, TEXT).equals(lv.kv_cache(model, tokenizer, TEXT))
    with pytest.raises(TypeError, match=f"{type(body).__name__}, which has no language head"):
        lv.logit_lens(body, tokenizer, TEXT)


# Not causal, or an encoder-decoder

SMALL = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4}  # fmt: skip
SHORT = {"vocab_size": tiny.VOCABULARY, "emb_dim": 32, "n_layers": 2, "n_heads": 4}
BART = {"vocab_size": tiny.VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_ffn_dim": 32,
        "encoder_ffn_dim": 32, "max_position_embeddings": 64}  # fmt: skip
T5 = {"vocab_size": tiny.VOCABULARY, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4}
XLNET = {"vocab_size": tiny.VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
REFORMER = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "num_attention_heads": 4,
            "attention_head_size": 8, "feed_forward_size": 64, "axial_pos_embds": False,
            "max_position_embeddings": 64, "attn_layers": ["local", "local"],
            "local_attn_chunk_length": 8}  # fmt: skip
AUTO = {
    "lm": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM, "masked": AutoModelForMaskedLM,
    "body": AutoModel,
}  # fmt: skip
LATER = "which is not causal: its tokens look at later ones too"
REFUSED = [
    ("seq2seq", "t5", T5, "T5ForConditionalGeneration, an encoder-decoder"),
    ("body", "t5", T5, "T5Model, an encoder-decoder"),
    ("seq2seq", "bart", BART, "BartForConditionalGeneration, an encoder-decoder"),
    ("lm", "bert", SMALL, f"BertLMHeadModel, {LATER}.*is_decoder=True"),
    ("masked", "bert", SMALL, f"BertForMaskedLM, {LATER}.*is_decoder=True"),
    ("body", "bert", SMALL, f"BertModel, {LATER}"),
    ("lm", "roberta", SMALL, f"RobertaForCausalLM, {LATER}"),
    ("lm", "electra", SMALL, f"ElectraForCausalLM, {LATER}"),
    ("lm", "roformer", SMALL, f"RoFormerForCausalLM, {LATER}"),
    ("lm", "bert-generation", SMALL, f"BertGenerationDecoder, {LATER}"),
    ("body", "distilbert", {"vocab_size": 259, "dim": 32, "n_heads": 4, "n_layers": 2},
     f"DistilBertModel, {LATER}"),
    ("masked", "modernbert", {**SMALL, "pad_token_id": 0}, f"ModernBertForMaskedLM, {LATER}"),
    ("lm", "xlnet", XLNET, f"XLNetLMHeadModel, {LATER}"),
    ("body", "xlnet", XLNET, f"XLNetModel, {LATER}"),
    ("lm", "xlm", SHORT, "XLMWithLMHeadModel, which is not causal: it predicts .* mask"),
    ("lm", "xlm", {**SHORT, "causal": True}, "XLMWithLMHeadModel, which is not causal"),
    ("masked", "flaubert", SHORT, "FlaubertWithLMHeadModel, which is not causal"),
    ("masked", "reformer", {**REFORMER, "is_decoder": False}, f"ReformerForMaskedLM, {LATER}"),
    ("lm", "gemma", {**tiny.GROUPED, "head_dim": 8, "use_bidirectional_attention": True},
     f"GemmaForCausalLM, {LATER}"),
    ("lm", "llama", {**tiny.GROUPED, "is_causal": False}, f"LlamaForCausalLM, {LATER}"),
]  # fmt: skip
DOORS = [*FUNCTIONS, lv.generate]


@pytest.mark.parametrize(("auto", "architecture", "config", "match"), REFUSED)
def test_a_model_that_cannot_continue_a_text_is_refused(
    auto, architecture, config, match, monkeypatch
):
    model = AUTO[auto].from_config(CONFIG_MAPPING[architecture](**config)).eval()
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("it ran"))
    for door in DOORS:
        with pytest.raises(TypeError, match=f"model is a {match}"):
            door(model, tiny.tokenizer(), "abc")


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("bert", {**SMALL, "is_decoder": True}), ("roberta", {**SMALL, "is_decoder": True}),
     ("bart", {**BART, "forced_eos_token_id": None}), ("gpt_neox_japanese", SMALL),
     ("rwkv", {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2})],
)  # fmt: skip
def test_causal_models_of_these_families_are_taken(architecture, config):
    model = made(architecture, **config)
    run = lv.generate(model, tiny.tokenizer(), "hello", max_new_tokens=6)
    ids = tiny.tokenizer()("hello", return_tensors="pt")["input_ids"]
    wanted = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert run.sequences.tolist() == wanted.tolist()
    assert lv.hidden_states(model, tiny.tokenizer(), "hello").tensor.shape == (3, 5, 32)


def test_reformers_cache_is_refused():
    model = made("reformer", **REFORMER, is_decoder=True)
    with pytest.raises(ValueError, match="model is a ReformerModelWithLMHead, whose cache"):
        lv.generate(model, tiny.tokenizer(), "hello")
    assert lv.hidden_states(model, tiny.tokenizer(), "hello").tensor.shape[:2] == (3, 5)


@pytest.mark.parametrize("size", [-1, 0])
def test_a_context_that_is_no_number_of_tokens_is_no_bound(size):
    model = made("llama", **{**tiny.GROUPED, "max_position_embeddings": 64})
    model.config.max_position_embeddings = size
    assert lv.generate(model, tiny.tokenizer(), "hi", max_new_tokens=2).sequences.shape == (1, 4)
    assert len(lv.hidden_states(model, tiny.tokenizer(), "hi").labels) == 2


# NaN and infinities


def broken(where: str, value: float):
    model = copy.deepcopy(tiny.model("llama"))
    with torch.no_grad():
        model.get_parameter(where)[65] = value
    return model


def test_what_is_not_finite_is_named():
    tokenizer = tiny.tokenizer()
    in_the_head = broken("lm_head.weight", math.nan)
    with pytest.raises(ValueError, match="NaN or an infinity: logits after layer 0, at token h"):
        lv.logit_lens(in_the_head, tokenizer, "hi", target="a")
    in_the_embedding = broken("model.embed_tokens.weight", math.nan)
    b = tokenizer.convert_tokens_to_ids("b")
    with torch.no_grad():
        in_the_embedding.model.embed_tokens.weight[65] = 0.0
        in_the_embedding.model.embed_tokens.weight[b] = math.inf
    for function in (lv.hidden_states, lv.attentions, lv.logit_lens):
        with pytest.raises(
            ValueError, match="model gives NaN or an infinity: .* layer 0, at token"
        ):
            function(in_the_embedding, tokenizer, "aab")
        function(in_the_embedding, tokenizer, "aaa")
    with pytest.raises(ValueError, match="hidden state after layer 0, at token b;"):
        lv.hidden_states(in_the_embedding, tokenizer, "aab")


def test_a_certain_prediction_has_no_entropy_and_minus_infinity_is_a_logit():
    model = copy.deepcopy(tiny.model("opt"))  # its head has no bias; give it one
    model.lm_head.bias = nn.Parameter(torch.full((tiny.VOCABULARY,), -math.inf))
    with torch.no_grad():
        model.lm_head.bias[70] = 0.0
    lens = lv.logit_lens(model, tiny.tokenizer(), "hi")
    assert set(lens.token_id) == {70} and set(lens.probability) == {1.0}
    assert all(str(bits) == "0.0" for bits in lens.entropy)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 260}, "top_k=260: .* from 1 to 259"),
        ({"top_k": True}, "top_k=True"),
        ({"position": TOKENS}, f"position={TOKENS}: .* from -{TOKENS} to {TOKENS - 1}"),
        ({"position": True}, "position=True"),
        ({"position": 1.0}, "position=1.0"),
        ({"target": True}, "target=True"),
        ({"add_special_tokens": 1}, "add_special_tokens=1"),
        ({"position": "last"}, "position='last'"),
        ({"target": "ab"}, "target='ab' is 2 tokens \\(a b\\)"),
        ({"target": ""}, "target='' is 0 tokens"),
        ({"target": 259}, "target=259"),
    ],
)
def test_bad_arguments_of_the_lens_are_named(arguments, match, monkeypatch):
    model = tiny.model("llama")
    monkeypatch.setattr(type(model), "forward", None)  # before it runs
    with pytest.raises(ValueError, match=match):
        lv.logit_lens(model, tiny.tokenizer(), TEXT, **arguments)


def test_numpy_and_torch_numbers_are_numbers():
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    one = lv.logit_lens(model, tokenizer, TEXT, np.int64(2), position=np.int32(-1), target=97)
    two = lv.logit_lens(
        model, tokenizer, TEXT, torch.tensor(2), position=torch.tensor(-1), target=np.int64(97)
    )
    assert one.equals(two) and len(one) == 4 * 2


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_model_is_left_as_it_was(function):
    model = tiny.model("gemma3_text")
    function(model, tiny.tokenizer(), TEXT)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    before = direct(model).logits
    function(model, tiny.tokenizer(), TEXT)
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert after == hooks and torch.equal(direct(model).logits, before)
    assert model.config._attn_implementation == "sdpa" and "forward" not in vars(model)


def test_equal_logits_share_a_rank_in_the_lens():
    """In half precision ties are frequent: a rank is one more than the number of higher logits."""
    model = copy.deepcopy(tiny.model("llama")).to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight[100:110] = model.lm_head.weight[100]
    lens = lv.logit_lens(model, tiny.tokenizer(), "hello there", top_k=tiny.VOCABULARY)
    shared = 0
    for _, rows in lens.groupby(["layer", "position"]):
        higher = [(rows.logit > logit).sum() for logit in rows.logit]
        assert rows["rank"].tolist() == [1 + n for n in higher]
        shared += rows["rank"].duplicated().sum()
        for _, equals in rows.groupby("logit"):
            assert equals.token_id.is_monotonic_increasing
    assert shared > 100
    assert len(repr(lv.lens_grid(lens)).splitlines()) == 5  # the text, and a line per layer
