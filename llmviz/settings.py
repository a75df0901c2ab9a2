"""The settings of the processors: their names, what each must be, and its value when it is off."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable

from torch import Tensor

from . import arguments

_LEAST, _BELOW_1 = math.ulp(0.0), math.nextafter(1.0, 0.0)
# What scores are multiplied or divided by: no score in float32 overflows within these.
_SMALLEST, _LARGEST = 1e-30, 1e30


def _number(low: float, high: float, wanted: str) -> Callable:
    def check(name: str, value, vocab_size) -> float:
        # A float, which transformers insists on where it would take 2 for 2.0.
        return float(arguments.number(name, value, low, high, wanted=wanted))

    return check


def _count(name: str, value, vocab_size) -> int:
    return arguments.whole(name, value, low=0)


def plain_ids(value) -> list[int] | None:
    """`value` as a list of whole numbers of 0 or more; None where it is none."""
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        value = value.tolist()
    if not isinstance(value, (list, tuple, range)):
        return None
    if not set(map(type, value)) <= {int}:
        if not all(map(arguments.is_whole, value)):
            return None
        value = [int(arguments.plain(i)) for i in value]
    return list(value) if min(value, default=0) >= 0 else None


def _below(name: str, ids: list[int], vocab_size: int | None) -> None:
    if vocab_size is not None and ids and max(ids) >= vocab_size:
        raise ValueError(
            f"{name} holds the token id {max(ids)}: it must be below {vocab_size}, the "
            "size of the vocabulary"
        )


def _ids(name: str, value, vocab_size: int | None) -> list[int]:
    ids = plain_ids(value)
    if ids is None:
        raise _wrong(name, value, "a list of token ids, or None")
    _below(name, ids, vocab_size)
    return ids


def _eos(name: str, value, vocab_size: int | None) -> int | list[int]:
    one = arguments.is_whole(value)
    ids = plain_ids([value] if one else value)
    if not ids:
        raise _wrong(name, value, "a token id, a list of one or more, or None")
    _below(name, ids, vocab_size)
    return ids[0] if one else ids


def _words(name: str, value, vocab_size: int | None) -> list[list[int]]:
    listed = isinstance(value, (list, tuple))
    words = [plain_ids(word) for word in value] if listed else []
    if not words or not all(words):
        raise _wrong(name, value, "a list of words, each a list of one or more token ids, or None")
    _below(name, [i for word in words for i in word], vocab_size)
    return words


def _biases(name: str, value, vocab_size: int | None) -> list[list]:
    pairs = list(value.items()) if isinstance(value, dict) else value
    try:
        biases = {tuple(plain_ids(ids) or ()): arguments.plain(bias) for ids, bias in pairs}
    except (TypeError, ValueError):  # not pairs
        biases = {}
    fits = all(ids and (arguments.is_finite(b) or b == -math.inf) for ids, b in biases.items())
    if not biases or not fits:
        raise _wrong(
            name,
            value,
            "a list of pairs [token ids, bias], or a dict from tuples of token ids to biases, each "
            "bias a finite number or −inf, or None",
        )
    _below(name, [i for ids in biases for i in ids], vocab_size)
    return [[list(ids), float(bias)] for ids, bias in biases.items()]


def _decay(name: str, value, vocab_size) -> list:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        start, factor = value
        positive = arguments.is_finite(factor) and factor > 0
        if arguments.is_whole(start) and start >= 0 and positive:
            return [int(arguments.plain(start)), float(arguments.plain(factor))]
    raise _wrong(
        name,
        value,
        "a pair (start, factor): a whole number of new tokens, 0 or more, after which the "
        "penalty starts, and a finite number above 0, or None",
    )


def _function(name: str, value, vocab_size) -> Callable:
    if not callable(value) or isinstance(value, type):
        raise _wrong(
            name, value, "a function of (prompt's number, input_ids) to token ids, or None"
        )
    return value


def _functions(name: str, value, vocab_size):
    each = value if isinstance(value, (list, tuple)) else [value]
    if not all(callable(f) and not isinstance(f, type) for f in each):
        raise _wrong(
            name, value, "a function of (input_ids, scores) to scores, a list of them, or None"
        )
    return value


def _wrong(name: str, value, wanted: str) -> ValueError:
    return ValueError(f"{name}={arguments.shown(value)}: it must be {wanted}")


_POSITIVE = _number(_SMALLEST, _LARGEST, "a number above 0, from 1e-30 to 1e30")
_PENALTY = _number(-2, 2, "a number from −2 to 2")
_SHARE = _number(_LEAST, 1, "a number above 0 and at most 1")
_RATIO = _number(0, 1, "a number from 0 to 1")
_CUT_OFF = _number(0, _BELOW_1, "a number from 0 to below 1")
_FINITE = _number(-_LARGEST, _LARGEST, "a number from −1e30 to 1e30; 1 switches it off")

# Each setting's value when it is off, and what checks it, in the order in which they work.
_SETTINGS: dict[str, tuple] = {
    "guidance_scale": (1.0, _FINITE),
    "sequence_bias": (None, _biases),
    "repetition_penalty": (1.0, _POSITIVE),
    "presence_penalty": (0.0, _PENALTY),
    "frequency_penalty": (0.0, _PENALTY),
    "no_repeat_ngram_size": (0, _count),
    "bad_words_ids": (None, _words),
    "min_new_tokens": (0, _count),
    "prefix_allowed_tokens_fn": (None, _function),
    "forced_eos_token_id": (None, _eos),
    "exponential_decay_length_penalty": (None, _decay),
    "suppress_tokens": (None, _ids),
    "begin_suppress_tokens": (None, _ids),
    "logits_processor": (None, _functions),
    "temperature": (1.0, _POSITIVE),
    "top_h": (None, _SHARE),
    "top_k": (0, _count),
    "top_p": (1.0, _SHARE),
    "min_p": (0.0, _RATIO),
    "typical_p": (1.0, _SHARE),
    "epsilon_cutoff": (0.0, _CUT_OFF),
    "eta_cutoff": (0.0, _CUT_OFF),
}
DEFAULTS = {name: off for name, (off, _) in _SETTINGS.items()}
# Those that work only where tokens are drawn.
SAMPLING = frozenset(list(DEFAULTS)[list(DEFAULTS).index("temperature") :])


def checked(name: str, value, vocab_size: int | None = None):
    """The setting's value as plain Python data; a ValueError, saying what would do, where it is
    out of bounds."""
    if name not in _SETTINGS:
        raise TypeError(
            f"unknown setting {name} (there is no setting of that name): known are "
            f"{', '.join(_SETTINGS)}"
        )
    off, check_one = _SETTINGS[name]
    if value is None and off is None:
        return None
    if name == "temperature" and arguments.is_number(value) and value == 0:
        raise ValueError(
            f"temperature={value}: it must be a finite number above 0; for the limit of 0, greedy "
            "search, pass do_sample=False"
        )
    return check_one(name, value, vocab_size)


def check(*, vocab_size: int | None = None, **settings) -> dict:
    """The settings as plain Python data: an int for a numpy or torch integer, lists for tuples.

    Raises a ValueError for the first setting that is out of bounds, naming what would do; with
    `vocab_size`, token ids beyond it are out of bounds too. Raises TypeError for an unknown name.
    """
    return {name: checked(name, value, vocab_size) for name, value in settings.items()}


# What enters a processor


def processor(function: Callable) -> Callable:
    """Have all that enters a processor checked, each argument by its name.

    A processor's first argument is `scores`, and its second the setting of its own name.
    """
    signature, setting = inspect.signature(function), function.__name__

    @functools.wraps(function)
    def process(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        check_scores(given["scores"])
        rows, vocab_size = given["scores"].shape
        given[setting] = checked(setting, given[setting], vocab_size)
        for name in given.keys() & {"input_ids", "new_tokens", "attention_mask"}:
            check_text(name, given[name], rows)
        for name in given.keys() & {"min_tokens_to_keep", "num_beams", "max_new_tokens"}:
            given[name] = arguments.whole(name, given[name])
        if "num_beams" in given:
            check_beams(given["num_beams"], rows)
        if "eos_token_ids" in given:
            given["eos_token_ids"] = check_eos(given["eos_token_ids"])
        if "unconditional_logits" in given:
            check_unconditional(given["unconditional_logits"], given["scores"])
        return given["scores"] if given[setting] is None else function(**given)

    return process


def check_eos(eos_token_ids) -> list[int]:
    ids = plain_ids(eos_token_ids)
    if ids is None:
        raise _wrong("eos_token_ids", eos_token_ids, "a list of token ids")
    return ids


def check_unconditional(logits, scores: Tensor) -> None:
    check_scores(logits, "unconditional_logits")
    if logits.shape != scores.shape:
        raise ValueError(
            f"unconditional_logits has the shape {tuple(logits.shape)}: it must have that of the "
            f"scores, {tuple(scores.shape)}"
        )


def check_beams(num_beams: int, rows: int) -> None:
    if rows % num_beams:
        raise ValueError(
            f"num_beams={num_beams}: it must divide the number of rows, and scores has {rows}"
        )


def check_scores(scores, name: str = "scores") -> None:
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"{name} must be a tensor of shape (rows, vocabulary), not {type(scores).__name__}"
        )
    if scores.ndim != 2 or not scores.is_floating_point() or 0 in scores.shape:
        raise ValueError(
            f"{name} is a tensor of {scores.dtype} and shape {tuple(scores.shape)}: it must hold "
            "floating point numbers and have the shape (rows, vocabulary)"
        )


def check_text(name: str, tokens, rows: int) -> None:
    """Raise where `tokens` is not a tensor of whole numbers with the shape (rows, tokens)."""
    if tokens is None and name == "attention_mask":
        return
    if not isinstance(tokens, Tensor):
        raise TypeError(
            f"{name} must be a tensor of shape (rows, tokens), not {type(tokens).__name__}"
        )
    whole = not tokens.is_floating_point() and not tokens.is_complex()
    if tokens.ndim != 2 or len(tokens) != rows or not whole:
        raise ValueError(
            f"{name} is a tensor of {tokens.dtype} and shape {tuple(tokens.shape)}: it must hold "
            f"whole numbers and have the shape (rows, tokens), with {rows} rows as the scores have"
        )
    # To look into a GPU's tensor would make it wait at every step.
    if tokens.device.type == "cpu" and tokens.numel() and tokens.min() < 0:
        raise ValueError(f"{name} holds {tokens.min().item()}: it must hold numbers of 0 or more")
