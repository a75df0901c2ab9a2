"""A model whose next token is told by the text so far: for cases made up, or drawn, by hand."""

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class Scripted(PreTrainedModel, GenerationMixin):
    """`next_logits` gives the logits that follow a text, a list of token ids.

    It has no cache, so each pass reads the whole text; after 200 passes it takes the caller to be
    lost in a loop.
    """

    config_class = PreTrainedConfig

    def __init__(
        self, next_logits: Callable, vocab_size: int, eos_token_id=None, pad_token_id=None
    ):
        super().__init__(PreTrainedConfig(vocab_size=vocab_size))
        self.generation_config = GenerationConfig(
            eos_token_id=eos_token_id, pad_token_id=pad_token_id, use_cache=False
        )
        self.weight = nn.Parameter(torch.zeros(()))  # tells the device
        self.next_logits, self.passes = next_logits, 0

    def forward(self, input_ids, attention_mask=None, **kwargs):
        self.passes += 1
        assert self.passes < 200, "this search does not end"
        logits = torch.stack([self.next_logits(text) for text in input_ids.tolist()])
        return CausalLMOutput(logits=logits[:, None])


def table(
    probabilities: dict[tuple, Sequence[float]], otherwise: Sequence[float]
) -> Callable[[list[int]], torch.Tensor]:
    """The logits of `probabilities`, by the text so far; `otherwise` follows any other text.

    Each text adds a constant of its own to the logits, which a softmax does not see.
    """

    def next_logits(text: list[int]) -> torch.Tensor:
        row = torch.tensor(probabilities.get(tuple(text), otherwise), dtype=torch.float)
        return row.log() + sum(text) + len(text)

    return next_logits


def drawn(seed: int, vocab_size: int, spread: float) -> Callable[[list[int]], torch.Tensor]:
    """Logits drawn afresh for each text, the same ones each time."""

    def next_logits(text: list[int]) -> torch.Tensor:
        chance = random.Random(str((seed, text)))
        return torch.tensor([chance.gauss(0, spread) for _ in range(vocab_size)])

    return next_logits


def log_sum(*probabilities: float) -> float:
    """The log-probability of a text with these tokens."""
    return math.fsum(map(math.log, probabilities))
