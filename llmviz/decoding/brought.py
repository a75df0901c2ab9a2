"""What a model brings along: the settings of its `generation_config`.

`model.generate` applies them without being told; `llmviz.generate` does what it is told and nothing
else. Here stands what the difference is, and how to be rid of it on either side.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..settings import SAMPLING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What changes the tokens of `model.generate`, and the value that switches it off there. What is not
# listed is either told in every call (max_new_tokens), shared by both sides (eos_token_id), or
# changes speed alone (cache_implementation).
_OFF = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    # processors
    "guidance_scale": 1.0,
    "sequence_bias": None,
    "encoder_repetition_penalty": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "watermarking_config": None,
    # while sampling
    "temperature": 1.0,
    "top_h": None,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    # with beams
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "renormalize_logits": False,
    # what ends a text, heals its last token, or asks for another strategy
    "max_time": None,
    "stop_strings": None,
    "token_healing": False,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": False,
}
_BEAMS = {
    "length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty",
    "renormalize_logits",
}  # fmt: skip

# The names that a warning has told of, by model.
_told: WeakKeyDictionary = WeakKeyDictionary()


def brought(model: PreTrainedModel, **told) -> dict:
    """What `model.generate(…, **told)` applies because the model's generation_config says so.

    From the names of settings to their values: only what changes the tokens. Settings of sampling
    count only where `told` or the model says `do_sample=True`, those of beams where there are
    several. What is told is not brought. transformers' own top_k=50 while sampling, which no model
    needs to say, is not in it.
    """
    config = model.generation_config

    def applied(name):
        return told[name] if name in told else getattr(config, name, None)

    moot, draws, beams = set(told), applied("do_sample") is True, (applied("num_beams") or 1) > 1
    contrasts = not draws and not beams and bool(applied("penalty_alpha"))
    if not draws:
        moot |= SAMPLING - {"top_k"} if contrasts else SAMPLING
    if not beams:
        moot |= _BEAMS
    if not contrasts:
        moot.add("penalty_alpha")
    found = {name: getattr(config, name, None) for name in _OFF.keys() - moot}
    return {
        name: found[name]
        for name, off in _OFF.items()
        if found.get(name) not in (None, off, [], {})
    }


def off(model: PreTrainedModel, **told) -> dict:
    """The keyword arguments that switch off in `model.generate` what the model brings.

    `model.generate(input_ids, max_new_tokens=n, **told, **off(model, **told))` gives the tokens of
    `llmviz.generate` for the same arguments: greedy search, unless `told` says otherwise. While
    sampling, top_k=0 is among them, since transformers cuts at 50 unless told.
    """
    strategy = brought(model, **told).keys() & {"do_sample", "num_beams"}
    told = {name: _OFF[name] for name in sorted(strategy)} | told
    ours = {name: told[name] for name in sorted(strategy)}
    ours |= {name: _OFF[name] for name in brought(model, **told)}
    draws = told.get("do_sample", False)
    return ours | ({"top_k": 0} if draws and "top_k" not in told else {})


def warn_of_brought(model: PreTrainedModel, told: dict, known, call: str) -> None:
    """Warn, once per model, of what it brings and `call` does not apply.

    told: the arguments that the caller gave, by name.
    known: the names that `call` takes, so that what is brought can be passed on.
    call: the function as the reader writes it, "lv.generate".
    """
    left_out = brought(model, **{name: value for name, value in told.items() if name in _OFF})
    if left_out.keys() <= _told.setdefault(model, set()):
        return
    _told[model] |= left_out.keys()
    ours = {name: value for name, value in left_out.items() if name in known}
    theirs = [name for name in left_out if name not in known]
    text = f"{type(model).__name__} brings {', '.join(left_out)} in its generation_config: "
    text += f"model.generate applies that, {call} does not."
    if ours:
        text += f" To pass it on: {call}(…, **{_written(ours)})"
    if theirs:
        text += f"{'; ' if ours else ' '}{call} does not know {', '.join(theirs)}"
    # Without the caller's file: in a notebook its name holds the number of a process.
    warnings.warn_explicit(text, UserWarning, "llmviz", 1)


def _written(settings: dict) -> str:
    text = repr(settings)
    if len(text) <= 400:
        return text
    return f"{{name: getattr(model.generation_config, name) for name in {list(settings)}}}"
