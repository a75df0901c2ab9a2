"""Tiny models of many architectures, with random weights, for parity with transformers.

Weights are drawn wide (`initializer_range`), so that the distributions are peaked enough for
greedy search to wander and for an eos token to turn up now and then.
"""

from functools import cache

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 259  # the 256 bytes and three special tokens
BOS, EOS, PAD = 256, 257, 258
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.5,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}

CONFIGS = {
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": 0.5,
    },
    "llama": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt_neox": SHAPE,
    "opt": {**SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.5},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4,
              "initializer_range": 0.5},
    "mistral": {**GROUPED, "sliding_window": 6},
    "phi": SHAPE,
    "falcon": {**SHAPE, "new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "glm": {**GROUPED, "head_dim": 8},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3,
              "state_size": 8, "initializer_range": 0.5},
}  # fmt: skip
ARCHITECTURES = sorted(CONFIGS)


@cache
def model(architecture: str, seed: int = 0, **config):
    """A random model in float32; its eos is token 257, its pad token 258."""
    torch.manual_seed(seed)
    special = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS}
    made = CONFIG_MAPPING[architecture](**(CONFIGS[architecture] | special | config))
    return AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and three special ones."""
    alphabet = sorted(ByteLevel.alphabet())
    core = Tokenizer(BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>"
    )
