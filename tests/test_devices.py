"""Everything works wherever the model is, with the same tokens, and comes back to the CPU."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from transformers import CompileConfig, OpenAIGPTConfig, OpenAIGPTLMHeadModel

import llmviz as lv
from llmviz.decoding.prefix import StaticPrefix
from tests import tiny
from tests.everything import PROMPTS, assert_same, everything
from tests.far_device import MODELS

SAMPLING = {"do_sample": True, "seed": 3, "temperature": 1.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(folder):
    return everything(*lv.load(folder, device="cpu"))


def python(*arguments) -> None:
    # The children are to be on the CPU, and not to fight over its cores.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_on_another_device(tmp_path):
    python("-m", "tests.far_device", tmp_path / "found.pt")
    for architecture, found in torch.load(tmp_path / "found.pt").items():
        wanted = everything(tiny.model(architecture), tiny.tokenizer(), MODELS[architecture])
        assert_same(found, wanted)


LAYERS = ["model.embed_tokens", "model.rotary_emb", *(f"model.layers.{i}" for i in range(3)),
          "model.norm", "lm_head"]  # fmt: skip


@pytest.mark.parametrize(
    "on_disk",
    [{"model.layers.1"}, {"model.embed_tokens", "model.layers.0", "model.norm", "lm_head"}],
    ids=["a layer", "the ends"],
)
def test_a_layer_on_disk(folder, wanted, tmp_path, on_disk):
    places = {name: "disk" if name in on_disk else "cpu" for name in LAYERS}
    model, tokenizer = lv.load(folder, device_map=places, offload_folder=tmp_path)
    assert any(p.device.type == "meta" for p in model.parameters())
    line = lv.setup_line(model)
    assert "disk" in line and "cpu" in line
    assert_same(everything(model, tokenizer), wanted)


def test_device_map_auto(folder, wanted):
    assert_same(everything(*lv.load(folder, device_map="auto")), wanted)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes(folder, wanted, tmp_path):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    python(*launch, "-m", "tests.everything", folder, tmp_path)
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pt"), wanted)


def test_load_computes_in_full_float32(folder):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        lv.load(folder, device="cpu")
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


# The static cache


def generated(model, prompt, **settings):
    run = lv.generate(model, tiny.tokenizer(), prompt, max_new_tokens=40, **settings)
    return run.sequences.tolist()


@pytest.mark.parametrize("settings", [{}, SAMPLING], ids=["greedy", "sample"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_static_cache_gives_the_same_tokens(architecture, settings):
    model, static = tiny.model(architecture), {"cache_implementation": "static"}
    for prompt in (PROMPTS[0], PROMPTS):
        assert generated(model, prompt, **static, **settings) == generated(
            model, prompt, **settings
        )


def compiled(architecture, **config):
    """A model that is compiled on the CPU too, and the list of its compilations."""
    model, graphs = copy.deepcopy(tiny.model(architecture)), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    model.generation_config.compile_config = CompileConfig(backend=backend, mode=None)
    model.generation_config.update(**config)
    return model, graphs


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_compiled_once(architecture):
    model, graphs = compiled(architecture)
    counts = []
    for prompt in ("hello there", "how are you?", "hello there"):
        for settings in ({}, SAMPLING):
            found = generated(model, prompt, cache_implementation="static", **settings)
            assert found == generated(tiny.model(architecture), prompt, **settings)
            counts.append(len(graphs))
    # A sliding window is compiled twice: before it is full, and after.
    assert counts[0] in (1, 2) and len(set(counts)) == 1


def test_compilation_can_be_switched_off():
    model, graphs = compiled("llama", disable_compile=True)
    generated(model, "hello", cache_implementation="static")
    assert graphs == []


def test_a_second_graph_step_may_write_over_the_first():
    """What a CUDA graph returned is gone with its next run: nothing may still point to it."""
    model = copy.deepcopy(tiny.model("llama"))
    memory = torch.zeros(1, 1, tiny.VOCABULARY)
    step = model.__call__

    def overwriting(*args, **kwargs):
        output = step(*args, **kwargs)
        output.logits = memory.copy_(output.logits)
        return output

    model.generation_config.compile_config = CompileConfig()
    model.get_compiled_call = lambda config: overwriting
    prefix = StaticPrefix(model, torch.tensor([[1, 2, 3]]), max_new_tokens=3)
    kept = []
    for token in (4, 5, 6):
        kept.append(prefix.next_logits())
        prefix.append(torch.tensor([token]))
    wanted = tiny.model("llama")(torch.tensor([[1, 2, 3, 4, 5]])).logits[0, 2:]
    assert torch.allclose(torch.cat(kept), wanted, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 2}, {"penalty_alpha": 0.6, "top_k": 4}, {"prompt_lookup_num_tokens": 3},
     {"dola_layers": "high"}],
    ids=lambda s: next(iter(s)),
)  # fmt: skip
def test_static_cache_is_for_greedy_search_and_sampling(settings):
    with pytest.raises(ValueError, match='cache_implementation="static" with (.* search|dola)'):
        generated(tiny.model("llama"), "hello", cache_implementation="static", **settings)


@pytest.mark.parametrize("value", ["fast", True, 5])
def test_a_cache_that_there_is_not(value):
    with pytest.raises(ValueError, match=f"cache_implementation={value!r}"):
        generated(tiny.model("llama"), "hello", cache_implementation=value)


def test_a_model_without_a_cache_is_refused():
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=259, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ValueError, match="OpenAIGPTLMHeadModel, whose layers have no cache of a"):
        generated(model, "hello", cache_implementation="static")
