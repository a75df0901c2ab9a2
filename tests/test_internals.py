"""The way from a hidden state to logits, on every architecture."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llmviz.internals import final_norm, unembed
from tests import tiny

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
