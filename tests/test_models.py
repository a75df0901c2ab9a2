"""Loading models from folders and the hub: what is passed on, checked, and set.

What is refused of a folder's files is in test_checkpoint, the default model in test_default_model.
"""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

import llmviz
from llmviz import __main__ as terminal
from llmviz import devices
from llmviz import models as room
from tests import tiny


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


def test_environment_variable_set_to_nothing_is_not_set(tiny_folder, monkeypatch):
    monkeypatch.setattr(room, "default_model_folder", lambda: tiny_folder)
    monkeypatch.setenv("LLMVIZ_MODEL", "")
    assert llmviz.load(device="cpu")[0].config.vocab_size == 5


@pytest.mark.parametrize("kind", ["empty", "missing", "relative/missing/folder", " "])
def test_environment_variable_is_named(tmp_path, monkeypatch, kind):
    (tmp_path / "empty").mkdir()
    value = str(tmp_path / kind) if kind in ("empty", "missing") else kind
    monkeypatch.setenv("LLMVIZ_MODEL", value)
    with pytest.raises((OSError, ValueError), match=f"LLMVIZ_MODEL={value!r}"):
        llmviz.load()


def test_home_is_understood(tiny_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    monkeypatch.setenv("USERPROFILE", str(tiny_folder.parent))
    assert llmviz.load(f"~/{tiny_folder.name}", device="cpu")[0].config.vocab_size == 5


@pytest.mark.parametrize("pad", [-1, 5, 500])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_padding_id_that_is_none(tiny_folder, tmp_path, pad, file):
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    settings = json.loads((folder / file).read_text()) | {"pad_token_id": pad}
    (folder / file).write_text(json.dumps(settings))
    model, tokenizer = llmviz.load(folder, device="cpu")
    assert model.generation_config.pad_token_id == 0
    run = llmviz.generate(model, tokenizer, ["a cat sat", "cat"], max_new_tokens=2)
    assert run.sequences.max() < 5


def test_a_padding_token_beyond_the_embedding(tiny_folder, tmp_path):
    """Padding is by the eos token, and the other tokens that the model lacks are told of."""
    folder = tmp_path / "folder"
    shutil.copytree(tiny_folder, folder)
    tokenizer = FastTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match="6 tokens and the model an embedding for 5"):
        _, tokenizer = llmviz.load(folder, device="cpu")
    assert tokenizer.pad_token == "<eos>"


def test_nothing_is_said_of_a_sound_model(tiny_folder, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llmviz.load(tiny_folder, device="cpu")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture(architecture, tmp_path):
    """No sound checkpoint is taken for one that lacks weights."""
    tiny.model(architecture).save_pretrained(tmp_path, max_shard_size="40KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    model, _ = llmviz.load(tmp_path, device="cpu")
    wanted = tiny.model(architecture).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


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


WRONG_DEVICES = [
    "cuda:77",
    "mps:9",
    "xpu:9",
    "vulkan",
    "hpu",
    "meta",
    "toaster",
    "",
    3.5,
    True,
    [],
    -1,
]


@pytest.mark.parametrize("device", WRONG_DEVICES, ids=repr)
def test_wrong_device(monkeypatch, device):
    """Refused before anything is loaded: there is not even a folder."""
    with pytest.raises(ValueError, match="device=") as caught:
        llmviz.load("no/such/folder", device=device)
    assert f"device={device!r}" in str(caught.value) and "\n" not in str(caught.value)


class TestProducts:
    """The comparison of a device with the CPU, as on a Mac's "mps"."""

    @pytest.fixture(autouse=True)
    def anew(self):
        devices.check_products.cache_clear()
        yield
        devices.check_products.cache_clear()

    def test_a_right_one_is_asked_once(self, monkeypatch):
        asked = []
        plain = devices._product
        monkeypatch.setattr(devices, "_product", lambda *a: asked.append(1) or plain(*a))
        for _ in range(2):
            devices.check_products(torch.device("cpu"))
        assert len(asked) == 2

    def test_wrong_sums_over_the_vocabulary_warn(self, monkeypatch):
        """What torch 2.13 does: terms beyond 32,768 are lost."""
        monkeypatch.setattr(
            devices, "_product", lambda left, right, device: left[:, :32_768] @ right[:32_768]
        )
        with pytest.warns(UserWarning, match="262,144 terms.*vocabulary.*device='cpu'"):
            devices.check_products(torch.device("cpu"))

    def test_wrong_logits_are_refused(self, monkeypatch):
        monkeypatch.setattr(devices, "_product", lambda left, right, device: left @ right * 1.01)
        with pytest.raises(ValueError, match="device='cpu' multiplies wrongly.*256 terms"):
            devices.check_products(torch.device("cpu"))

    def test_not_a_number_is_wrong(self, monkeypatch):
        monkeypatch.setattr(
            devices, "_product", lambda left, right, device: left @ right * torch.nan
        )
        with pytest.raises(ValueError, match="multiplies wrongly"):
            devices.check_products(torch.device("cpu"))


@pytest.mark.parametrize(
    "dtype",
    ["fp16", "half", "float8_e4m3fn", "torch.float16", "", torch.int8, torch.complex64, 16, True,
     {}, [], b"float16", torch, torch.tensor([1.0, 2.0])],
    ids=lambda dtype: str(dtype)[:12],
)  # fmt: skip
def test_wrong_dtype(dtype):
    with pytest.raises(ValueError, match="dtype=.*'float16'.*'auto'"):
        llmviz.load("no/such/folder", dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"trust_remote_code": "yes"}, ValueError),
        ({"local_files_only": 1}, ValueError),
        ({"use_safetensors": "no"}, ValueError),
        ({"revision": 5}, TypeError),
        ({"subfolder": 5}, TypeError),
        ({"torch_dtype": "auto"}, ValueError),
        ({"output_loading_info": True}, ValueError),
        ({"attn_implementation": "nonsense"}, ValueError),
        ({"attn_implementation": "flash_attention_2"}, ValueError),
        ({"nonsense": 1}, TypeError),
        ({"quantization_config": {"load_in_4bit": True}}, ValueError),
    ],
)
def test_an_argument_that_cannot_be(tiny_folder, arguments, error):
    if "flash_attention_2" in arguments.values() and torch.cuda.is_available():
        pytest.skip("it may be installed")
    with pytest.raises(error, match=next(iter(arguments))):
        llmviz.load(tiny_folder, device="cpu", **arguments)


@pytest.mark.parametrize(
    ("name", "error"),
    [("", ValueError), ("  ", ValueError), ("a\0b", ValueError), ("\ud800", ValueError),
     (5, TypeError), (b"gpt2", TypeError), ([], TypeError)],
)  # fmt: skip
def test_a_name_that_is_none(name, error):
    with pytest.raises(error, match="name"):
        llmviz.load(name)


def test_a_device_that_is_too_small(tiny_folder, monkeypatch):
    def to(model, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(LlamaForCausalLM, "to", to)
    with pytest.raises(ValueError, match="device='cpu' does not take.*out of memory.*device_map"):
        llmviz.load(tiny_folder, device="cpu")


def test_device_and_device_map(tiny_folder):
    with pytest.raises(ValueError, match="device and device_map"):
        llmviz.load(tiny_folder, device="cpu", device_map="auto")


def test_keyword_arguments_go_on(tiny_folder):
    model, _ = llmviz.load(tiny_folder, device="cpu", attn_implementation="eager")
    assert model.config._attn_implementation == "eager"


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


@pytest.mark.parametrize("name", ["no/such/folder", "./missing", "/missing", "~/missing/x"])
def test_a_name_that_is_neither_folder_nor_id(name):
    with pytest.raises(OSError, match=f"no model '{name}'"):
        llmviz.load(name)


@pytest.mark.parametrize(
    "arguments",
    [
        ["hi", "--model", "/missing\x1b[31m"],
        ["hi", "\x1b[31m"],
        ["hi", "--num-steps", "\x1b[31m"],
        ["hi", "--num-steps", "0"],
        ["hi", "--model", ""],
        ["\udc80"],
        [],
    ],
    ids=repr,
)
def test_an_error_in_a_terminal_is_one_plain_line(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llmviz", *arguments])
    with pytest.raises(SystemExit) as caught:
        terminal.main()
    said = capsys.readouterr()
    assert caught.value.code == 2 and said.out == ""
    assert said.err.startswith("python -m llmviz: error: ") and said.err.endswith("\n")
    assert said.err[:-1].isprintable()


@pytest.mark.parametrize("sentence", ["", "a \x1b[31m cat\r\x07"])
def test_a_sentence_in_a_terminal(sentence, monkeypatch, capsys, tmp_path):
    tiny.model("llama").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llmviz", sentence, "--model", str(tmp_path)])
    capsys.readouterr()
    try:
        terminal.main()
    except SystemExit:
        assert sentence == ""
    said = "".join(capsys.readouterr())
    assert ("sentence" in said) and said.replace("\n", "").isprintable()
