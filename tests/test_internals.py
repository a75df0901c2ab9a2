"""Hidden states, attention, the lens and the cache, on every architecture."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import llmviz as lv
from llmviz import internals
from llmviz.internals import final_norm, unembed
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


def test_the_attention_is_put_back_when_the_call_raises(monkeypatch):
    model = tiny.model("llama")
    assert model.config._attn_implementation == "sdpa"

    def raises(*_, **__):
        assert model.config._attn_implementation == "eager"
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "forward", raises)
    with pytest.raises(KeyboardInterrupt):
        lv.attentions(model, tiny.tokenizer(), TEXT)
    assert model.config._attn_implementation == "sdpa"


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

    def watched(model, hidden):
        sizes.append(hidden.shape[0] * tiny.VOCABULARY)
        return unembed(model, hidden)

    monkeypatch.setattr(internals, "unembed", watched)
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
    with pytest.raises(TypeError, match="no language head"):
        function(model.model, tokenizer, "a")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 260}, "vocabulary's 259"),
        ({"top_k": True}, "top_k=True"),
        ({"position": TOKENS}, f"position={TOKENS}: the text has tokens 0 to {TOKENS - 1}"),
        ({"position": "last"}, "position='last'"),
        ({"target": "ab"}, "target='ab' is 2 tokens \\(a b\\)"),
        ({"target": ""}, "target='' is 0 tokens"),
        ({"target": 259}, "target=259"),
    ],
)
def test_bad_arguments_of_the_lens_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        lv.logit_lens(tiny.model("llama"), tiny.tokenizer(), TEXT, **arguments)


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
