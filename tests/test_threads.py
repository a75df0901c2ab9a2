"""Several threads on one model: whatever each asks, it gets what it would get alone."""

import copy
import gc
import sys
import threading
import time
import weakref
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import llmviz as lv
from llmviz.decoding.prefix import Prefix
from llmviz.head import final_norm, unembed
from llmviz.twin import is_changed_by_a_pass, twin
from tests import tiny
from tests.test_chat import tokenizer as chat_tokenizer

TEXT = "hello there"
TOKENS = 5


def generated(model, **settings):
    run = lv.generate(model, tiny.tokenizer(), TEXT, max_new_tokens=TOKENS, **settings)
    return run.sequences.tolist(), run.sum_logprobs, run.frame.to_numpy().tolist()


def chatted(model, stream=False):
    settings = {"do_sample": False, "max_new_tokens": TOKENS}
    if stream:
        return list(lv.stream_chat(model, chat_tokenizer(), "hi", **settings))
    return lv.chat(model, chat_tokenizer(), "hi", **settings)


ASKS = {
    "greedy": generated,
    "sample": lambda m: generated(m, do_sample=True, seed=1),
    "beams": lambda m: generated(m, num_beams=3),
    "contrastive": lambda m: generated(m, penalty_alpha=0.6, top_k=3),
    "dola": lambda m: generated(m, dola_layers=[0, 1, 2]),
    "assisted": lambda m: generated(m, assistant_model=tiny.model("llama", 1)),
    "looked up": lambda m: generated(m, prompt_lookup_num_tokens=2),
    "static": lambda m: generated(m, cache_implementation="static"),
    "hidden_states": lambda m: lv.hidden_states(m, tiny.tokenizer(), TEXT).tensor.tolist(),
    "attentions": lambda m: lv.attentions(m, tiny.tokenizer(), TEXT).tensor.tolist(),
    "logit_lens": lambda m: lv.logit_lens(m, tiny.tokenizer(), TEXT, 2).to_numpy().tolist(),
    "kv_cache": lambda m: lv.kv_cache(m, tiny.tokenizer(), TEXT).to_numpy().tolist(),
    "final_norm": lambda m: m.get_submodule("model.norm") is final_norm(m),
    "score_choices": lambda m: lv.score_choices(
        m, tiny.tokenizer(), TEXT, [" you", " me"]
    ).to_numpy().tolist(),
    "chat": chatted,
    "stream_chat": lambda m: chatted(m, stream=True),
    "predict_next_tokens": lambda m: lv.predict_next_tokens(
        m, tiny.tokenizer(), TEXT, num_steps=TOKENS
    ).to_numpy().tolist(),
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads_that_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def fresh(architecture="llama"):
    """A model into which nobody has looked, so that transformers has hung no hooks into it."""
    return copy.deepcopy(tiny.model(architecture))


def side_by_side(*asks, rounds: int = 2) -> list:
    """What each ask gave, `rounds` times, while the others were at it; or what it raised."""
    barrier, found = threading.Barrier(len(asks)), [[] for _ in asks]

    def ask_again(ask, answers):
        barrier.wait()
        for _ in range(rounds):
            try:
                answers.append(ask())
            except Exception as error:  # shown by the comparison
                answers.append(error)

    threads = [
        threading.Thread(target=ask_again, args=pair) for pair in zip(asks, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture(scope="module")
def alone():
    return {name: ask(fresh()) for name, ask in ASKS.items()}


@pytest.mark.parametrize("name", ASKS)
def test_each_gets_what_it_would_get_alone(name, alone):
    """`name` beside each of the functions."""
    for other in list(ASKS)[list(ASKS).index(name) :]:
        model = fresh()
        pair = side_by_side(*(partial(ASKS[each], model) for each in (name, other)))
        assert pair == [[alone[name]] * 2, [alone[other]] * 2], other


@pytest.mark.parametrize("looks", ["logit_lens", "attentions", "hidden_states", "dola"])
def test_a_look_leaves_the_model_as_it_was(looks):
    model = fresh()

    def state():
        return {
            name: {key: _size(value) for key, value in vars(module).items()}
            for name, module in model.named_modules()
        }, copy.deepcopy(model.config.to_dict())

    before = state()
    ASKS[looks](model)
    assert state() == before


def _size(value):
    return len(value) if isinstance(value, dict) else id(value)


def test_all_of_them_at_once(alone):
    model = fresh()
    found = side_by_side(*(partial(ask, model) for ask in ASKS.values()))
    assert found == [[answer] * 2 for answer in alone.values()]


# Explorers work in the background, beside the reader's cells


def inside(model):
    explorer = lv.Inside(model, tiny.tokenizer(), "hi")
    return explorer, lambda text: explorer._handle_custom_msg({"type": "read", "text": text}, [])


def comparison(model):
    strategies = {"greedy": {}, "dola": {"dola_layers": [0, 1]}}
    explorer = lv.Comparison(model, tiny.tokenizer(), "hi", strategies, max_new_tokens=TOKENS)

    def run(text):
        explorer.prompt_box.value = text
        explorer.run_button.click()

    return explorer, run


def stepper(model):
    explorer = lv.Stepper(model, tiny.tokenizer(), "hi", max_new_tokens=TOKENS)

    def step(text):
        explorer.prompt_box.value = text
        explorer.wait(60)
        explorer.forward_button.click()

    return explorer, step


def beam_explorer(model):
    explorer = lv.BeamExplorer(model, tiny.tokenizer(), "hi", num_beams=2, max_new_tokens=TOKENS)
    asked = {"type": "read", "num_beams": 2, "max_new_tokens": TOKENS}
    return explorer, lambda text: explorer._handle_custom_msg({**asked, "prompt": text}, [])


@pytest.mark.parametrize("make", [inside, comparison, stepper, beam_explorer])
def test_an_explorer_beside_generate(make, alone):
    texts = [f"{first} {second}" for first in ("how", "are") for second in ("you", "we")]

    def shown(explorer, begin, text):
        begin(text)
        explorer.wait(60)
        return repr(explorer), getattr(explorer.message, "value", explorer.message)

    quiet = make(fresh())
    wanted = [shown(*quiet, text) for text in texts]
    model, done = fresh(), threading.Event()
    loud = make(model)

    def cells():
        generations = []
        while not done.is_set():
            generations.append(generated(model))
        return generations

    def explored():
        try:
            return [shown(*loud, text) for text in texts]
        finally:
            done.set()

    (found,), (generations,) = side_by_side(explored, cells, rounds=1)
    assert found == wanted
    assert generations and all(each == alone["greedy"] for each in generations)


# The twin


ARCHITECTURES = [*tiny.ARCHITECTURES, "gemma2", "granite", "cohere", "falcon_h1", "gpt_oss",
                 "phi3", "olmo2", "minimax", "lfm2", "llama4_text", "rwkv", "mpt"]  # fmt: skip
MORE = {
    "gemma2": {**tiny.GROUPED, "head_dim": 8, "final_logit_softcapping": 3.0},
    "granite": {**tiny.GROUPED, "logits_scaling": 8.0},
    "cohere": {**tiny.GROUPED, "logit_scale": 0.25},
    "falcon_h1": {**tiny.GROUPED, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8,
                  "mamba_d_state": 8, "lm_head_multiplier": 0.5},
    "gpt_oss": {**tiny.GROUPED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {**tiny.GROUPED, "pad_token_id": 0},
    "olmo2": tiny.GROUPED,
    "minimax": {**tiny.GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "lfm2": tiny.GROUPED,
    "llama4_text": {**tiny.GROUPED, "head_dim": 8, "num_local_experts": 2,
                    "intermediate_size_mlp": 64},
    "rwkv": {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2},
    "mpt": {"vocab_size": 259, "d_model": 32, "n_heads": 4, "n_layers": 2},
}  # fmt: skip


def made(architecture, **config):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**(MORE.get(architecture, {}) | config))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_twin_computes_the_same_with_the_same_weights(architecture):
    model = made(architecture) if architecture in MORE else tiny.model(architecture)
    ids = torch.tensor([[5, 6, 7, 8, 9, 200, 3]])
    output = model(ids, output_hidden_states=True, use_cache=False)
    copy_ = twin(model)
    theirs = copy_(ids, output_hidden_states=True, use_cache=False)
    assert torch.equal(theirs.logits, output.logits)
    assert all(map(torch.equal, theirs.hidden_states, output.hidden_states))
    assert all(a is b for a, b in zip(model.parameters(), copy_.parameters(), strict=True))
    ours = {id(module) for module in model.modules()}
    assert not any(id(module) in ours for module in copy_.modules())
    configs = {id(m.config) for m in model.modules() if hasattr(m, "config")}
    assert not any(id(m.config) in configs for m in copy_.modules() if hasattr(m, "config"))
    assert torch.equal(unembed(model, output.hidden_states[-1]), output.logits)


def test_hooks_go_along_and_new_ones_stay_apart():
    model, seen = fresh(), []
    layer = model.model.layers[0]
    layer.register_forward_hook(lambda module, args, output: seen.append(module))
    copy_ = twin(model)
    copy_.lm_head.register_forward_hook(lambda *_: pytest.fail("a hook of the twin ran"))
    model(torch.tensor([[1]]))
    assert seen == [layer]
    copy_.model(torch.tensor([[1]]))
    assert seen == [layer, copy_.model.layers[0]]


def test_a_twin_of_a_compiled_model_is_of_the_model():
    model = fresh()
    model.model.layers[0].compile(backend="eager")
    copy_ = twin(torch.compile(model, backend="eager"))
    assert type(copy_) is type(model) and copy_.model.layers[0]._compiled_call_impl is None


def test_a_twin_goes_with_its_last_user():
    model = fresh()
    gc.disable()
    try:
        copy_ = weakref.ref(twin(model))
        assert copy_() is None
        lv.logit_lens(model, tiny.tokenizer(), TEXT)
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_twin_is_made_in_milliseconds(default_model):
    model, _ = default_model
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        twin(model)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.1


# What a pass writes into the model


@pytest.mark.parametrize(
    "rope",
    [{"rope_type": "dynamic", "factor": 4.0},
     {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0,
      "original_max_position_embeddings": 16}],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
def test_frequencies_that_follow_the_text(rope):
    """Such a model's passes disturb each other, and its own next text."""
    settings = {"rope_parameters": {"rope_theta": 10000.0, **rope}}
    if rope["rope_type"] == "dynamic":
        settings["max_position_embeddings"] = 16
    model = made("llama", **{**tiny.GROUPED, **settings})
    model.config.max_position_embeddings = 128
    assert is_changed_by_a_pass(model) and not is_changed_by_a_pass(tiny.model("llama"))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def said(text):
        return Prefix(model, tiny.tokenizer()(text, return_tensors="pt")["input_ids"]).next_logits()

    def asked(text):
        return lambda: said(text).tolist()

    texts = ["a short one", "a long text, of many more tokens"]
    wanted = [asked(text)() for text in texts]
    assert wanted[0] == asked(texts[0])()
    found = side_by_side(*map(asked, texts), rounds=6)
    assert found == [[answer] * 6 for answer in wanted]
    lv.attentions(model, tiny.tokenizer(), texts[1])
    after = dict(model.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before | after)


LAYERS = ["model.embed_tokens", "model.rotary_emb", *(f"model.layers.{i}" for i in range(3)),
          "model.norm", "lm_head"]  # fmt: skip


def test_layers_that_are_fetched_for_each_pass(tmp_path):
    folder = tmp_path / "llama"
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    places = {name: "disk" if "layers" in name or name == "lm_head" else "cpu" for name in LAYERS}
    model, _ = lv.load(folder, device_map=places, offload_folder=tmp_path)
    assert is_changed_by_a_pass(model)
    pairs = [("greedy", "greedy"), ("greedy", "logit_lens"), ("dola", "attentions")]
    for pair in pairs:
        wanted = [[ASKS[name](model)] * 2 for name in pair]
        assert side_by_side(*(partial(ASKS[name], model) for name in pair)) == wanted, pair
