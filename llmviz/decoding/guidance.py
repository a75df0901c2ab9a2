"""What the model would say without the prompt, for classifier-free guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

from ..twin import is_changed_by_a_pass, twin


class Unconditional:
    """The model's logits after the prompt's last token and the continuation alone.

    Each step costs a second pass, with a cache of its own. Followed to the letter is transformers'
    UnbatchedClassifierFreeGuidanceLogitsProcessor, also where that is crude: its cache stays in
    place when beams change theirs, so with beams a hypothesis is compared with what another one
    has in that row.

    takes_back: whether the text may lose tokens again, as in assisted decoding: then all of it is
        read at every step, without a cache.
    """

    def __init__(self, model: PreTrainedModel, prompt_length: int, takes_back: bool = False):
        from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor as Theirs

        self.model = twin(model) if is_changed_by_a_pass(model) else model  # as in `Prefix`
        self.prompt_length, self.takes_back = prompt_length, takes_back
        use_cache = getattr(model.generation_config, "use_cache", True) is not False
        self._theirs = Theirs(1.0, self.model, use_cache=use_cache)
        self._length, self._logits = 0, None

    @torch.no_grad()
    def logits(self, input_ids: Tensor) -> Tensor:
        """What comes after `input_ids` (rows, tokens), shape (rows, vocabulary)."""
        if self.takes_back:
            text = input_ids[:, self.prompt_length - 1 :]
            return self.model(text, attention_mask=torch.ones_like(text)).logits[:, -1]
        if input_ids.shape[1] != self._length:  # a strategy may ask twice for one step
            self._length = input_ids.shape[1]
            self._logits = self._theirs.get_unconditional_logits(input_ids)[:, -1]
        return self._logits


def unconditional(
    model: PreTrainedModel, settings: dict, prompt_length: int, takes_back: bool = False
) -> Unconditional | None:
    """What `settings` need for their guidance, if anything."""
    if settings.get("guidance_scale", 1.0) == 1.0:
        return None
    return Unconditional(model, prompt_length, takes_back)
