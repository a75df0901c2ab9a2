"""A checkpoint's files: what is there, what may be read, and what is wrong with it.

A folder or a repository of the hub is somebody else's word. Here it is looked at before anything
of it is loaded: code, pickles and files outside the folder are refused, and damage is named.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from . import arguments

CONFIG, ADAPTER, WEIGHTS = "config.json", "adapter_config.json", "model.safetensors"
SMALL_JSON = {
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
}  # fmt: skip
LFS_POINTER = b"version https://git-lfs"


class Refused(OSError):
    """A model that cannot be had; the message says what was tried and what to do."""


class NotCausal(ValueError):
    """A model of a kind that the package does not cover."""


def refusal(said: str, what: str, todo: str) -> Refused:
    return Refused(f"no model {said}: {what}. To do: {todo}")


@contextmanager
def explained(said: str, name: str, asked: dict):
    """Turn whatever transformers raises into an OSError, or ValueError, that says what to do.

    The libraries below raise errors of all kinds for files that are not as they should be
    (tokenizers a bare Exception), so all kinds are caught. `asked`: the arguments that may be to
    blame instead.
    """
    try:
        yield
    except (Refused, NotCausal):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
        reason = reason if len(reason) < 700 else f"{reason[:700]} …"
        if asked and not isinstance(error, OSError):
            given = ", ".join(f"{key}={arguments.shown(value)}" for key, value in asked.items())
            kind = TypeError if isinstance(error, TypeError) else ValueError
            message = f"{said} cannot be loaded with {given}. transformers says:\n{reason}"
            raise kind(message) from error
        if os.path.isdir(name):
            torn = _few([path.name for path in Path(name).glob("*.json") if not _parses(path)])
            tried = f"the folder {name}" + (f", where {torn} cannot be read" if torn else "")
            todo = "download or save it again if it is damaged"
        else:
            tried = f"a folder of that name in {Path.cwd().name}/, the hub's cache, and the hub"
            without = "LLMVIZ_MODEL" if said.startswith("LLMVIZ_MODEL") else "a name"
            todo = (
                "check the spelling and the network, log in with `hf auth login` if the model is "
                "gated, or download it elsewhere and pass the folder; llmviz.load() without "
                f"{without} takes the default model, which needs PyPI only"
            )
        raise Refused(f"no model {said}. Tried: {tried}. To do: {todo}.\n{reason}") from error


def _parses(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return True


def read_config(said: str, name: str, options: dict) -> dict | None:
    """The checkpoint's config.json, after a look at all that would be read along with it.

    options: load's keyword arguments. Returns None where a GGUF file is asked for instead. Raises
    Refused for what has no model, or must not be read.
    """
    folder = Path(name)
    if folder.is_dir():
        folder = folder / options.get("subfolder", "")
        _check_entries(said, folder)
        if "gguf_file" in options:
            return None
        path = folder / CONFIG
        if not path.exists():
            raise refusal(said, *_without_config(folder))
    elif folder.exists():
        raise refusal(said, *_file(folder))
    elif name.startswith(("/", "./", "../", "~")) or "\\" in name:
        raise refusal(said, "there is no such folder", "check the path, or pass a hub id")
    elif "gguf_file" in options:
        return None
    else:
        path = _from_hub(said, name, CONFIG, options)
    config = _json(said, path)
    if folder.is_dir():
        _check_weights(said, folder, config, options)
    else:
        _check_hub_weights(said, name, config, options)
    return config


def check_code(said: str, config: dict, options: dict) -> None:
    """Refuse what needs code of its own, unless the caller trusts it."""
    from transformers import CONFIG_MAPPING

    if options["trust_remote_code"]:
        return
    kernels = [wanted for wanted in _implementations(config) if "/" in wanted]
    if kernels:
        raise refusal(
            said,
            f"{CONFIG} asks for code of the hub, {arguments.shown(kernels[0])}, which was not run",
            "remove that line, or pass trust_remote_code=True if you trust that code",
        )
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return
    if "auto_map" in config:
        raise refusal(
            said,
            f"its model_type {kind!r} is none of transformers' own: it brings code, which was not "
            "run",
            "read that code, and pass trust_remote_code=True if you trust it",
        )
    raise refusal(
        said,
        f"{CONFIG} says model_type={kind!r}, which transformers does not know",
        "check the file, or update transformers",
    )


def _implementations(config: dict) -> list[str]:
    """The names of attention and expert code that a config.json asks for, at any depth."""
    found = []
    for key, value in config.items():
        inner = value if isinstance(value, dict) else {}
        if key.strip("_") in ("attn_implementation", "experts_implementation"):
            found += [f for f in (value, *inner.values()) if isinstance(f, str)]
        else:
            found += _implementations(inner)
    return found


# A folder.


def _check_entries(said: str, folder: Path) -> None:
    """Refuse a folder with links that leave it, Git LFS pointers, or an adapter."""
    if not folder.is_dir():
        raise refusal(said, f"it has no folder {folder.name!r}", "check subfolder=")
    entries = sorted(folder.iterdir())
    for path in entries:
        if path.is_symlink() and not _inside(path, folder):
            raise refusal(
                said,
                f"{path.name} is a link that leads out of the folder, to {os.readlink(path)}",
                "put the file itself there, or pass the folder that it leads to",
            )
        if path.is_file() and path.stat().st_size < 1024 and _is_pointer(path):
            raise refusal(
                said,
                f"{path.name} is a Git LFS pointer: the file itself was not downloaded",
                "run `git lfs pull` there, or download the model with `hf download`",
            )
    names = {path.name for path in entries}
    if ADAPTER in names:
        raise refusal(said, *_adapter(_json(said, folder / ADAPTER)))
    for file in names & SMALL_JSON:  # some of them transformers passes over where they are torn
        _json(said, folder / file)
    if ".metadata" in names:
        raise refusal(
            said,
            "it is a checkpoint of torch.distributed, whose .metadata is a pickle and may run code",
            "save the model with save_pretrained, as safetensors",
        )


def _without_config(folder: Path) -> tuple[str, str]:
    what = f"the folder {folder} has no {CONFIG}"
    for name in sorted(path.name for path in folder.iterdir()):
        if name.lower().endswith(".gguf"):
            return f"{what}, but {name}", f"llmviz.load({str(folder)!r}, gguf_file={name!r})"
    return what, "pass the folder that save_pretrained or `hf download` wrote, or a hub id"


def _inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in the folder, all links followed.

    The hub's own cache keeps each file in `models--…/blobs`, and in `models--…/snapshots/…` links
    to them: these count as inside.
    """
    real, home = path.resolve(), folder.resolve()
    for parent in home.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return real.is_relative_to(home) or real.is_relative_to(parent.parent / "blobs")
    return real.is_relative_to(home)


def _is_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _json(said: str, path: Path) -> dict:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise refusal(
            said, f"{path.name} is damaged: {type(error).__name__}: {error}", "download it again"
        ) from error
    if not isinstance(found, dict):
        raise refusal(said, f"{path.name} is no JSON object", "download it again")
    return found


def _file(path: Path) -> tuple[str, str]:
    """What is wrong with a file in a folder's place, and what to do."""
    if path.suffix.lower() == ".gguf":
        folder = str(path.parent)
        return "it is a GGUF file", f"llmviz.load({folder!r}, gguf_file={path.name!r})"
    return "it is a file", f"pass the folder it lies in, {str(path.parent)!r}"


def _adapter(config: dict) -> tuple[str, str]:
    base = arguments.shown(config.get("base_model_name_or_path"))
    return (
        f"it is an adapter for the model {base}, not a model",
        f"load {base}, or merge the two once with peft (merge_and_unload, then save_pretrained)",
    )


def _weights_name(said: str, config: dict, options: dict) -> str:
    """The file that holds the weights, or the index of several."""
    explicit = config.get("transformers_weights")
    if explicit is None:
        variant = options.get("variant")
        return WEIGHTS if variant is None else f"model.{variant}.safetensors"
    if not str(explicit).endswith((".safetensors", ".safetensors.index.json")):
        raise refusal(
            said,
            f"{CONFIG} says transformers_weights={arguments.shown(explicit)}, no safetensors file",
            "save the model with save_pretrained",
        )
    return explicit


def _check_weights(said: str, folder: Path, config: dict, options: dict) -> None:
    name = _weights_name(said, config, options)
    if options["use_safetensors"] is False:
        name = "pytorch_model.bin"
    index = name if name.endswith(".index.json") else f"{name}.index.json"
    if (folder / name).is_file() and name != index:
        shards = [name]
    elif (folder / index).is_file():
        shards = _shards(said, index, _json(said, folder / index), options)
    elif options["use_safetensors"]:
        raise refusal(said, *_without(name, folder))
    else:
        return  # transformers looks for what else there may be
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise refusal(
            said,
            f"{index} names {len(shards)} files, of which {_few(missing)} are missing",
            "download the missing files",
        )
    for shard in shards:
        if not _inside(folder / shard, folder):
            raise refusal(said, f"{shard} lies outside of the folder", "put the file itself there")
    if all(shard.endswith(".safetensors") for shard in shards):
        tensors = sum(_tensors(said, folder / shard) for shard in shards)
        _check_layers(said, config, tensors)


def _check_layers(said: str, config: dict, tensors: int) -> None:
    """Refuse more layers than there are weights, which would take hours or all memory to make."""
    for part in (config, config.get("text_config")):
        for key in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"):
            layers = part.get(key) if isinstance(part, dict) else None
            if arguments.is_number(layers) and layers > tensors:
                raise refusal(
                    said,
                    f"{CONFIG} says {key}={layers}, and there are {tensors} weights in all",
                    f"check that {CONFIG} is of the same model",
                )


def _tensors(said: str, path: Path) -> int:
    """How many weights a safetensors file holds; Refused where its header cannot be."""
    from safetensors import SafetensorError, safe_open

    try:
        if _is_pointer(path):
            raise refusal(said, f"{path.name} is a Git LFS pointer", "run `git lfs pull` there")
        with safe_open(path, "pt") as file:
            return len(file.keys())
    except SafetensorError as error:
        raise refusal(
            said,
            f"{path.name} ({path.stat().st_size} bytes) is damaged or not whole: {error}",
            "download or save it again",
        ) from error


def _shards(said: str, index: str, content: dict, options: dict) -> list[str]:
    """The weight files that an index names; each must be a safetensors file inside the folder."""
    mapping = content.get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(f, str) for f in mapping.values()):
        raise refusal(said, f"{index} has no weight_map of names and files", "download it again")
    shards = sorted(set(mapping.values()))
    for shard in shards:
        posix, windows = PurePosixPath(shard), PureWindowsPath(shard)
        if ".." in {*posix.parts, *windows.parts} or posix.is_absolute() or windows.anchor:
            raise refusal(
                said,
                f"{index} names a file outside of the folder, {arguments.shown(shard)}",
                "do not use this model unless you know why",
            )
        if options["use_safetensors"] and not shard.endswith(".safetensors"):
            raise refusal(
                said,
                f"{index} names {arguments.shown(shard)}, which is no safetensors file and may "
                "hold code",
                "save the model with save_pretrained, where you trust it",
            )
    return shards


def _without(name: str, folder: Path) -> tuple[str, str]:
    """That the weights' file is not there, and what to do with what is."""
    there = sorted(path.name for path in folder.iterdir())
    what = f"the folder {folder} has no {name}"
    for there_name in there:
        if there_name.startswith("pytorch_model") and ".bin" in there_name:
            return (
                f"{what}, but {there_name}, a pickle, which can hold code",
                "pass use_safetensors=False if you trust where it comes from",
            )
    for there_name in there:
        if there_name.lower().endswith(".gguf"):
            return f"{what}, but {there_name}", f"pass gguf_file={there_name!r}"
    found = [f for f in there if f.endswith(".safetensors")]
    return what + (f", but {_few(found)}" if found else ""), "download the weights' files"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(arguments.shown, names[:3])) + more


# What was read.


def lacks_tokenizer(name: str, options: dict) -> bool:
    """Whether a folder has no file that a tokenizer could be made from."""
    folder = Path(name) / options.get("subfolder", "")
    if not folder.is_dir() or "gguf_file" in options:
        return False
    names = {path.name for path in folder.iterdir()} - {"tokenizer_config.json"}
    return not any(re.search("token|vocab|merges|piece|tekken|bpe", name) for name in names)


def check_weights(said: str, info: dict, options: dict) -> None:
    """Refuse weights that do not fit, by what `from_pretrained` found out while it read them."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise refusal(
            said,
            f"the weights of {len(missing)} of its parts are missing, and would be drawn at "
            f"random: {_few(missing)}",
            f"download or save it again, and check that {CONFIG} is of the same model",
        )
    for part, found, wanted in info["mismatched_keys"]:
        if options.get("ignore_mismatched_sizes"):
            break
        raise refusal(
            said,
            f"the shape of {part} is {tuple(found)} in the weights and {tuple(wanted)} by {CONFIG}",
            f"check that {CONFIG} is of the same model (vocab_size, hidden_size, …)",
        )
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        warnings.warn(
            f"{said}: {CONFIG} has no place for {len(unexpected)} of the weights, so the model "
            f"computes without them: {_few(unexpected)}",
            stacklevel=4,
        )


# The hub.

_WHERE = ("revision", "token", "local_files_only", "cache_dir")


def _from_hub(said: str, name: str, file: str, options: dict) -> Path:
    """The hub's file in its cache here, fetched where it must be.

    Asked first whether there is one: without this the hub's client tries again and again for a
    minute where there is no network.
    """
    from transformers.utils import cached_file

    if not has(name, file, options):
        if file == CONFIG and has(name, ADAPTER, options):
            raise refusal(said, *_adapter(_json(said, _from_hub(said, name, ADAPTER, options))))
        raise OSError(
            f"The hub's cache has no {file} for it, and the hub was not reached or has none."
        )
    where = {key: options[key] for key in (*_WHERE, "subfolder") if key in options}
    return Path(cached_file(name, file, **where))


def has(name: str, file: str, options: dict) -> bool:
    from transformers.utils import has_file

    path = "/".join(filter(None, (options.get("subfolder"), file)))
    try:
        return has_file(name, path, **{key: options[key] for key in _WHERE if key in options})
    except ValueError as error:
        raise OSError(f"It is not a folder, nor can it be a hub id: {error}") from error


def _check_hub_weights(said: str, name: str, config: dict, options: dict) -> None:
    from transformers.utils import is_peft_available

    if is_peft_available() and has(name, ADAPTER, options):
        raise refusal(said, *_adapter(_json(said, _from_hub(said, name, ADAPTER, options))))
    file = _weights_name(said, config, options)
    index = file if file.endswith(".index.json") else f"{file}.index.json"
    if options["use_safetensors"] is False:
        return
    if not has(name, file, options) and has(name, index, options):
        _shards(said, index, _json(said, _from_hub(said, name, index, options)), options)
