"""What is refused of a folder's files: damage, code, pickles, and what leads out of the folder."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import llmviz
from tests import tiny

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "folder")


def change(file, **settings) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def refused(folder, match: str, kind=OSError, **arguments) -> None:
    with pytest.raises(kind, match=f"(?s){match}") as caught:
        llmviz.load(folder, device="cpu", **arguments)
    said = str(caught.value)
    assert str(folder) in said and said.count("\n") < 8 and len(said) < 1500
    if kind is OSError:
        assert "To do: " in said


# Damage.


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "no tokenizer's files, such as tokenizer.json")
    (folder / "tokenizer_config.json").unlink()
    refused(folder, "no tokenizer's files, such as tokenizer.json")


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_text", "qwen3", "opt", "mamba", "bloom"])
def test_no_tokenizer_where_transformers_would_make_an_empty_one(tmp_path, architecture):
    tiny.model(architecture).save_pretrained(tmp_path)
    refused(tmp_path, "no tokenizer's files")


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer(folder, file):
    (folder / file).write_text(POINTER)
    refused(folder, f"{file} is a Git LFS pointer.*git lfs pull")


@pytest.mark.parametrize("keep", [0, 5, 2000, -7])
def test_torn_weights(folder, keep):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    refused(folder, f"{WEIGHTS} .*damaged or not whole")


JSON = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]


@pytest.mark.parametrize("file", JSON)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_torn_json(folder, file, content):
    (folder / file).write_bytes(content)
    refused(folder, file if file != "tokenizer.json" else "To do")


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"vocab_size": 300}, r"(lm_head|embed_tokens).weight is \(259, 32\) .*\(300, 32\)"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"intermediate_size": 65}, "weight is .*64.*65.*config.json"),
        ({"num_hidden_layers": 5}, "18 of its parts are missing.*model.layers.3"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers=10000000, and there are 30 weights"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "ZeroDivision"),
        ({"hidden_act": "nonsense"}, "nonsense"),
        ({"model_type": "nonsense"}, "model_type='nonsense'.*update transformers"),
        ({"model_type": ["llama"]}, "model_type="),
    ],
)
def test_a_config_that_does_not_fit(folder, setting, match):
    change(folder / "config.json", **setting)
    refused(folder, match)


def rewrite(folder, change) -> None:
    weights = change(load_file(folder / WEIGHTS))
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("part", ["lm_head.weight", "model.norm.weight", "model.layers.1."])
def test_missing_weights(folder, part, capsys):
    """They would be drawn at random."""
    rewrite(folder, lambda weights: {k: v for k, v in weights.items() if part not in k})
    refused(folder, f"missing.*at random: .*{part}")
    assert capsys.readouterr().err == ""  # transformers' own report


def test_tied_weights_are_not_missing(tmp_path):
    tiny.model("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    model, _ = llmviz.load(tmp_path, device="cpu")
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_weights_of_another_shape(folder):
    rewrite(folder, lambda weights: weights | {"model.norm.weight": torch.ones(7)})
    refused(folder, r"model.norm.weight is \(7,\) .*\(32,\)")
    llmviz.load(folder, device="cpu", ignore_mismatched_sizes=True)


def test_weights_without_a_place(folder, capsys):
    """Such as a config.json with fewer layers makes; sound checkpoints have some, too."""
    change(folder / "config.json", num_hidden_layers=2)
    with pytest.warns(UserWarning, match="no place for 9 of the weights.*model.layers.2"):
        llmviz.load(folder, device="cpu")
    assert capsys.readouterr().err == ""


# Other kinds of folders and models.


def test_only_pickled_weights(folder):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    refused(folder, f"no {WEIGHTS}")
    torch.save(weights, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin.*use_safetensors=False")
    model, _ = llmviz.load(folder, device="cpu", use_safetensors=False)
    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])


def test_gguf(folder):
    (folder / "m.gguf").write_bytes(b"GGUF")
    refused(folder / "m.gguf", "GGUF file.*gguf_file='m.gguf'")
    refused(folder, "To do", gguf_file="m.gguf")
    (folder / WEIGHTS).unlink()
    refused(folder, "gguf_file='m.gguf'")
    (folder / "config.json").unlink()
    refused(folder, "gguf_file='m.gguf'")


def test_a_file_in_a_folders_place(folder):
    refused(folder / "config.json", "it is a file.*pass the folder")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("arguments", [{}, {"gguf_file": "m.gguf"}])
def test_an_adapter(folder, alone, arguments):
    """transformers would fetch the base model that it names, from wherever."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    if alone:
        (folder / "config.json").unlink()
    refused(folder, "an adapter for the model 'some/base'.*merge", **arguments)


@pytest.mark.parametrize("kind", ["t5", "bart", "vit", "clip"])
def test_no_decoder(folder, kind, monkeypatch):
    """Refused by the configuration, before weights are read."""
    config = AutoConfig.for_model(kind)
    config.save_pretrained(folder)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    what = "encoder-decoder" if kind in ("t5", "bart") else "not a causal"
    refused(folder, f"model_type '{kind}'.*{what}.*decoder-only", ValueError)


# A repository of the hub, in the hub's cache.


@pytest.fixture
def hub(folder, tmp_path):
    """The folder as some/model, and load's arguments for it; a function that puts it there."""

    def put():
        home = tmp_path / "hub" / "models--some--model"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, home / "snapshots" / ("0" * 40))
        return {"device": "cpu", "local_files_only": True, "cache_dir": tmp_path / "hub"}

    return put


def test_a_repository(hub):
    assert llmviz.load("some/model", **hub())[0].config.vocab_size == tiny.VOCABULARY


def test_a_repository_whose_index_names_a_pickle(hub, folder):
    (folder / "x.bin").write_bytes(pickled())
    shard(folder, norm="x.bin")
    with pytest.raises(OSError, match="names 'x.bin', which is no safetensors file"):
        llmviz.load("some/model", **hub())


def test_a_repository_with_code(hub, folder, trap):
    (folder / "trap.py").write_text(trap)
    change(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "trap.Config"})
    with pytest.raises(OSError, match="brings code, which was not run"):
        llmviz.load("some/model", **hub())


def test_an_adapters_repository(hub, folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(OSError, match="an adapter for the model 'some/base'"):
        llmviz.load("some/model", **hub())


def test_a_torn_file_of_the_hubs_cache(hub, folder):
    (folder / WEIGHTS).write_bytes(b"x")
    with pytest.raises(OSError, match="(?s)no model 'some/model'.*To do.*SafetensorError"):
        llmviz.load("some/model", **hub())


# Code, and what leads out of the folder.


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Code that leaves a trace; nobody may be asked whether it should run."""
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a question was asked"))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError('it ran')"
    yield code
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "arguments", [{}, {"trust_remote_code": False}, {"trust_remote_code": None}]
)
@pytest.mark.parametrize("kind", ["mine", "llama"])
def test_code_of_a_folder_is_not_run(folder, trap, arguments, kind):
    (folder / "trap.py").write_text(trap)
    ways = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}
    change(folder / "config.json", model_type=kind, auto_map=ways)
    if kind == "mine":
        refused(folder, "brings code, which was not run.*trust_remote_code=True", **arguments)
    else:  # transformers has code of its own for it
        llmviz.load(folder, device="cpu", **arguments)


def test_code_of_a_tokenizer_is_not_run(folder, trap):
    (folder / "trap.py").write_text(trap)
    ways = {"AutoTokenizer": ["trap.Slow", "trap.Fast"]}
    for kind in ("PreTrainedTokenizerFast", "Mine", None):
        change(folder / "tokenizer_config.json", auto_map=ways, tokenizer_class=kind)
        try:
            llmviz.load(folder, device="cpu")
        except OSError as error:
            assert "To do" in str(error)


def test_code_for_generating_is_not_run(folder, trap):
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(trap)
    change(folder / "generation_config.json", auto_map={"generate": "trap.Generate"})
    llmviz.load(folder, device="cpu")


def test_code_runs_where_it_is_trusted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    (folder / "trusted.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'trusted'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    ways = {"AutoConfig": "trusted.Config", "AutoModelForCausalLM": "trusted.Model"}
    change(folder / "config.json", model_type="trusted", auto_map=ways)
    model, _ = llmviz.load(folder, device="cpu", trust_remote_code=True)
    assert type(model).__name__ == "Model" and type(model).__module__.endswith(".trusted")


@pytest.mark.parametrize("answer", ["", "y\n"])
def test_no_question_in_a_terminal(folder, tmp_path, answer):
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "trap.Config"})
    command = [sys.executable, "-m", "llmviz", "Hello", "--model", str(folder)]
    done = subprocess.run(command, input=answer, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("python -m llmviz: error: no model ")
    assert done.stderr.count("\n") == 1 and "y/N" not in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": {"": "evil/kernel"}},
        {"text_config": {"experts_implementation": "evil/kernel"}},
    ],
)
def test_kernels_of_the_hub_are_not_fetched(folder, setting):
    change(folder / "config.json", **setting)
    refused(folder, "asks for code of the hub, 'evil/kernel', which was not run")


class Trap:
    """A pickle that runs code when it is read."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"lm_head.weight": Trap()}, file)
    return file.getvalue()


def shard(folder, **changed) -> None:
    """Have an index name the file of each weight; `changed` names another, for the norm."""
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    names = load_file(folder / "model-1.safetensors")
    files = dict.fromkeys(names, "model-1.safetensors") | {"model.norm.weight": changed["norm"]}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_an_index(folder):
    shard(folder, norm="model-1.safetensors")
    llmviz.load(folder, device="cpu")


@pytest.mark.parametrize("file", ["x.bin", "x.safetensors.bin", "x.pt", "x"])
def test_an_index_that_names_a_pickle(folder, file):
    (folder / file).write_bytes(pickled())
    shard(folder, norm=file)
    refused(folder, f"{INDEX} names '{file}', which is no safetensors file")


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "a/../../outside.safetensors", "..\\outside.safetensors",
             "/outside.safetensors", "C:\\outside.safetensors", "{top}/outside.safetensors"],
)  # fmt: skip
def test_an_index_that_leads_out(folder, sound, file):
    shutil.copy(sound / WEIGHTS, folder.parent / "outside.safetensors")
    shard(folder, norm=file.format(top=folder.parent))
    refused(folder, "names a file outside of the folder")


@pytest.mark.parametrize("norm", [5, None, ["x"], "missing.safetensors"])
def test_an_index_that_is_none(folder, norm):
    shard(folder, norm=norm)
    match = "missing.safetensors' are missing" if norm == "missing.safetensors" else "weight_map"
    refused(folder, match)


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"weight_map": []}'])
def test_a_torn_index(folder, content):
    shard(folder, norm="model-1.safetensors")
    (folder / INDEX).write_text(content)
    refused(folder, INDEX)


@pytest.mark.parametrize("named", ["adapter_model.bin", "../outside.safetensors", 5, "x.pkl"])
def test_a_config_that_names_other_weights(folder, sound, named):
    shutil.copy(sound / WEIGHTS, folder.parent / "outside.safetensors")
    (folder / "adapter_model.bin").write_bytes(pickled())
    change(folder / "config.json", transformers_weights=named)
    refused(folder, "transformers_weights|outside of the folder")


def test_a_distributed_checkpoint(folder):
    (folder / ".metadata").write_bytes(pickled())
    refused(folder, ".metadata is a pickle")


def test_links(folder, sound):
    """Inside the folder they are followed, out of it not."""
    (folder / WEIGHTS).rename(folder / "real.safetensors")
    (folder / WEIGHTS).symlink_to("real.safetensors")
    llmviz.load(folder, device="cpu")
    for file in (WEIGHTS, "tokenizer.json", "config.json"):
        (folder / file).unlink()
        (folder / file).symlink_to(sound / file)
        refused(folder, f"{file} is a link that leads out of the folder, to ")
        (folder / file).unlink()
        shutil.copy(sound / file, folder / file)
    whole = folder.with_name("link")
    whole.symlink_to(folder)
    llmviz.load(whole, device="cpu")


def test_links_of_the_hubs_cache(sound, tmp_path):
    snapshot = tmp_path / "models--some--model" / "snapshots" / "0123"
    blobs = tmp_path / "models--some--model" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sound.iterdir()):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", str(number)))
    llmviz.load(snapshot, device="cpu")
    (tmp_path / "outside").write_text("x")
    (snapshot / "vocab.txt").symlink_to(tmp_path / "outside")
    refused(snapshot, "vocab.txt is a link that leads out")
