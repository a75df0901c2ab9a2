"""What every decoding loop shares: the text so far with its KV cache, and the model's limits."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import arguments
from ..models import input_device
from ..twin import is_changed_by_a_pass, twin

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Prefix:
    """The text so far as a model sees it: tokens, which of them are padding, and the KV cache.

    Each token is shown to the model once; the cache remembers what it made of it. A pass that
    leaves something behind in a model (a look at its hidden states, offloaded weights) is run on a
    private twin of it, so that other threads may use the model meanwhile.
    Raises ValueError for a model whose cache is of a kind that no other has.
    """

    def __init__(
        self, model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None
    ):
        self.model = model
        device = input_device(model)
        self.input_ids = input_ids.to(device)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self.attention_mask = attention_mask.to(device)
        self.padded = not bool(self.attention_mask.all())
        self.cache = None
        self.unread = input_ids.shape[1]
        self.accepts = set(inspect.signature(model.forward).parameters)
        if "past_buckets_states" in self.accepts:
            raise ValueError(
                f"model is a {type(model).__name__}, whose cache holds hashed buckets instead of "
                "keys and values: llmviz cannot generate with it; take a model with another kind "
                "of attention"
            )
        self._runs = twin(model) if is_changed_by_a_pass(model) else model
        # Mamba's state is not a cache of keys and values, and has another name.
        state_space = "cache_params" in self.accepts
        self.cache_name = "cache_params" if state_space else "past_key_values"

    def next_logits(self) -> Tensor:
        """The logits of the next token, float32, shape (rows, vocabulary)."""
        return self.read().logits[:, -1].float()

    @cached_property
    def _looks(self):
        """The twin to look into; a pass that asks for hidden states hangs hooks into a model."""
        return twin(self.model) if self._runs is self.model else self._runs

    @torch.no_grad()
    def read(self, logits_to_keep: int = 1, **wanted):
        """Show the model what it has not read yet, and return its output.

        logits_to_keep: how many positions' logits are needed, from the end; a model that does
            not know the argument gives all of them.
        wanted: such as output_hidden_states=True.
        """
        inputs = {"use_cache": True, self.cache_name: self.cache, "logits_to_keep": logits_to_keep}
        inputs["position_ids"] = self.position_ids()[:, -self.unread :]
        inputs = {k: v for k, v in inputs.items() if k in self.accepts}
        # A state-space model needs no mask once it has read past the padding.
        if self.padded and not (self.cache_name == "cache_params" and self.cache is not None):
            inputs["attention_mask"] = self.attention_mask
        model = self._looks if wanted else self._runs
        with _naming_the_cache(self.model, self.cache):
            output = model(self.input_ids[:, -self.unread :], **inputs, **wanted)
        cache = output.get(self.cache_name)
        # A model without a cache reads the whole text again for every token, and so does one whose
        # own code keeps a tuple of tensors: how to reorder and crop it only that code knows.
        self.cache = None if isinstance(cache, (tuple, list)) else cache
        self.unread = 0 if self.cache is not None else self.input_ids.shape[1]
        return output

    def position_ids(self) -> Tensor:
        """The number of each token in its text, shape (rows, tokens)."""
        # Padding does not count as a position; it gets number 0, which the mask hides.
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)

    def append(self, tokens: Tensor) -> None:
        """Put one token, shape (rows,), at the end of each row."""
        tokens = tokens[:, None].to(self.input_ids.device)
        self.input_ids = torch.cat([self.input_ids, tokens], dim=-1)
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(tokens)], dim=-1)
        self.unread += 1

    def crop(self, tokens: int) -> None:
        """Take back the last tokens, `tokens` of them, and what the cache remembers of them."""
        length = self.input_ids.shape[1] - tokens
        self.input_ids = self.input_ids[:, :length]
        self.attention_mask = self.attention_mask[:, :length]
        if self.cache is None:
            self.unread = length
        else:
            # Even 0 has an effect: layers with a sliding window let go of what has left it.
            self.cache.crop(-max(tokens - self.unread, 0))
            self.unread = max(self.unread - tokens, 0)

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows, shape (rows,): a row may be named twice, or not at all."""
        rows = rows.to(self.input_ids.device)
        self.input_ids = self.input_ids[rows]
        self.attention_mask = self.attention_mask[rows]
        if self.cache is None:
            return
        if hasattr(self.model, "_reorder_cache"):
            self.cache = self.model._reorder_cache(self.cache, rows)
        else:
            self.cache.reorder_cache(rows)


class StaticPrefix(Prefix):
    """A `Prefix` whose cache has its full length from the start.

    So all steps after the prompt have the same shapes, and the model can be compiled for them: on
    a GPU that is done, as `generate(cache_implementation="static")` does it, and a step is then one
    CUDA graph, where hundreds of kernels would be started one by one. On the CPU, or where layers
    are offloaded, the model runs as it is; a `model.generation_config.compile_config` has it
    compiled on the CPU too, `disable_compile=True` nowhere.

    transformers: StaticCache, CompileConfig. The text goes on only at its end: nothing can be
    taken back or reordered. Raises ValueError for a model that cannot keep such a cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int,
    ):
        super().__init__(model, input_ids, attention_mask)
        self.cache = _static_cache(model, self.cache_name, input_ids.shape[1] + max_new_tokens)
        step = _compiled(model)
        self.step = self._runs if step is model else step

    def next_logits(self) -> Tensor:
        # The next step of a CUDA graph writes over what this one returned, in any thread.
        with _ONE_STEP_AT_A_TIME if self.step is not self._runs else nullcontext():
            return super().next_logits().clone()

    @torch.no_grad()
    def read(self, logits_to_keep: int = 1, **wanted):
        is_prompt = self.unread == self.input_ids.shape[1]
        inputs = {"position_ids": self.position_ids(), "logits_to_keep": logits_to_keep}
        inputs = {k: v for k, v in inputs.items() if k in self.accepts}
        # It makes the mask as long as the cache, and all strides the same at every step.
        inputs = self.model.prepare_inputs_for_generation(
            self.input_ids,
            next_sequence_length=self.unread,
            attention_mask=self.attention_mask,
            is_first_iteration=is_prompt,
            use_cache=True,
            **{self.cache_name: self.cache},
            **inputs,
        )
        self.unread = 0
        with _naming_the_cache(self.model, self.cache):
            return (self._runs if is_prompt else self.step)(**inputs, **wanted)

    def crop(self, tokens: int) -> None:
        raise NotImplementedError("a static cache cannot take tokens back")

    def reorder(self, rows: Tensor) -> None:
        raise NotImplementedError("a static cache keeps its rows in place")


_ONE_STEP_AT_A_TIME = threading.Lock()


@contextmanager
def _naming_the_cache(model, cache) -> Iterator[None]:
    """Say so where a model's own code cannot read the `cache` that it is given."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        if cache is None or type(model).__module__.startswith("transformers."):
            raise
        raise TypeError(
            f"model is a {type(model).__name__}, whose own code failed with a transformers "
            f"{type(cache).__name__} ({type(error).__name__}: {error}): it may know tuples only, "
            "which greedy search, sampling and beams without a static cache can do with"
        ) from error


def can_take_back(model: PreTrainedModel) -> bool:
    """Whether what the model's cache remembers of the last tokens can be taken back.

    A running state, such as Mamba's or MiniMax's, cannot go back to an earlier token.
    """
    from transformers import DynamicCache

    own_cache = not getattr(model, "_supports_default_dynamic_cache", lambda: True)()
    if getattr(model, "_is_stateful", False) or own_cache:
        return False
    layers = DynamicCache(config=model.config).layers
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(layers)
    # A layer that keeps a convolution's inputs says that they can be taken back only once used.
    pairs = zip(layers, kinds, strict=False)
    return all(layer.is_croppable or kind == "conv" for layer, kind in pairs)


def check_cache(cache_implementation: str | None) -> None:
    static = isinstance(cache_implementation, str) and cache_implementation == "static"
    if cache_implementation is not None and not static:
        raise ValueError(
            f"cache_implementation={arguments.shown(cache_implementation)}: it must be "
            '"static", or None for a cache that grows'
        )


def static_length(tokens: int) -> int:
    """The length of a static cache for so many tokens: runs of like length share a compilation."""
    return max(64, 1 << (tokens - 1).bit_length())


def _static_cache(model, cache_name: str, tokens: int):
    """An empty cache for so many tokens, or some more."""
    from transformers import StaticCache

    length = static_length(tokens)
    takes_one = cache_name in inspect.signature(model.forward).parameters
    try:
        cache = StaticCache(config=model.config, max_cache_len=length) if takes_one else None
    except KeyError:  # a kind of layer that has no static form
        cache = None
    if cache is None or not cache.is_compileable:
        raise ValueError(
            f'cache_implementation="static": model is a {type(model).__name__}, whose layers have '
            "no cache of a fixed length; pass None"
        )
    return cache


def _compiled(model) -> Callable:
    """What runs a step: the model, or its compiled form where there is something to gain.

    The conditions are those of transformers' `generate`, and so is the compiled form, which the
    model keeps for the next call.
    """
    config, places = model.generation_config, {*getattr(model, "hf_device_map", {}).values()}
    offloaded = "disk" in places or ("cpu" in places and len(places) > 1)
    quantizer = getattr(model, "hf_quantizer", None)
    if config.disable_compile or offloaded or not getattr(quantizer, "is_compileable", True):
        return model
    if model.device.type != "cuda" and config.compile_config is None:
        return model
    return model.get_compiled_call(config.compile_config)


def lengths_of(new_tokens: Tensor, eos_token_ids: list[int]) -> list[int]:
    """How many tokens each row has up to its first eos, which counts."""
    is_eos = torch.isin(new_tokens, torch.tensor(eos_token_ids))
    before = (is_eos.cumsum(-1) - is_eos.long()) == 0
    return before.sum(-1).tolist()


def as_list(eos_token_id: int | list[int] | None) -> list[int]:
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


def eos_token_ids(model: PreTrainedModel) -> list[int]:
    return as_list(model.generation_config.eos_token_id)


def pad_token_id(model: PreTrainedModel) -> int:
    """What fills a row that is done: as in `generate`, the pad token, or else the first eos."""
    pad = model.generation_config.pad_token_id
    return pad if pad is not None else (eos_token_ids(model) or [0])[0]
