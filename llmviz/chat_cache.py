"""What a model has read of a conversation, to be handed on to its next turn."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from os.path import commonprefix

from torch import Tensor

from .decoding.prefix import Prefix


@dataclass(eq=False)
class ChatCache:
    """What a model remembers of a conversation: the tokens it has read, and its KV cache of them.

    While a stream runs on, so does its cache. `known` is None while a pass runs, and otherwise a
    tuple of its own of the tokens, shape (1, tokens), their cache, and a reference to the model.
    """

    known: tuple | None = None

    def __repr__(self) -> str:
        has_read = self.known is not None and self.known[1] is not None
        return f"ChatCache({self.known[0].shape[1] if has_read else 0} tokens)"

    def __getstate__(self) -> dict:
        return {"known": None}  # what one process has read is of no use in another

    def begin(self, prefix: Prefix) -> None:
        """Spare `prefix`, which has read nothing yet, the tokens that both begin with.

        A template may write earlier turns in another way than it did (without their thinking, for
        one), and a text's tokens need not be those that the model chose: what differs, and all
        after it, is taken back, or else everything is read again.
        """
        known = self.known
        # A running state, such as Mamba's, cannot go back, and goes on one token at a time only.
        if known is None or known[1] is None or getattr(prefix.model, "_is_stateful", False):
            return
        tokens, cache, model = known
        if model() is not prefix.model:
            return
        cache = copy.deepcopy(cache)
        # The stream that it belongs to went on meanwhile, in this thread or another, so parts of
        # the copy may be newer than others.
        if self.known is not known:
            return
        tokens, wanted = tokens[0].tolist(), prefix.input_ids[0].tolist()
        # One token at least must be read, for the scores after it.
        shared = min(len(commonprefix([tokens, wanted])), len(wanted) - 1)
        if shared < len(tokens):
            if not _can_go_back(cache):
                return
            cache.crop(shared - len(tokens))
        prefix.cache, prefix.unread = cache, len(wanted) - shared

    def follow(self, prefix: Prefix) -> Tensor:
        """Let `prefix` read on, and return its next logits, shape (1, vocabulary)."""
        # Interrupted, some layers would have read more than others: nothing is known meanwhile.
        self.known = None
        logits = prefix.next_logits()
        self.known = prefix.input_ids, prefix.cache, weakref.ref(prefix.model)
        return logits


def _can_go_back(cache) -> bool:
    """Whether each layer of a transformers cache still has what a shorter text needs."""

    def can(layer) -> bool:
        if not getattr(layer, "is_croppable", False):
            return False
        # These let go of what their window or convolution has passed, unless told to record it.
        if getattr(layer, "record_past", True):
            return True
        window = getattr(layer, "sliding_window", None)
        return window is not None and layer.get_seq_length() < window

    return all(map(can, getattr(cache, "layers", [None])))
