"""A model small enough to work out by hand: the next token depends on the last one alone."""

import torch
from torch import nn
from transformers import GenerationConfig, GPT2Config
from transformers.modeling_outputs import CausalLMOutput


class Bigrams(nn.Module):
    """Row t of `probabilities` says what follows token t; row t of `hidden` is its hidden state.

    It has no cache, so each pass reads the whole text.
    """

    def __init__(self, probabilities, hidden=None, eos_token_id=None):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()
        self.hidden = torch.eye(len(self.logits)) if hidden is None else torch.tensor(hidden)
        self.config = GPT2Config(
            vocab_size=len(self.logits), n_layer=1, bos_token_id=None, eos_token_id=None
        )
        self.generation_config = GenerationConfig(eos_token_id=eos_token_id, pad_token_id=0)
        self.device = torch.device("cpu")
        self.passes = 0

    def can_generate(self):
        return True

    def get_input_embeddings(self):
        raise NotImplementedError

    def forward(self, input_ids, output_hidden_states=False):
        self.passes += 1
        hidden_states = (self.hidden[input_ids],) if output_hidden_states else None
        return CausalLMOutput(logits=self.logits[input_ids], hidden_states=hidden_states)
