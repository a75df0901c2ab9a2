"""DoLa against its formula, worked without a cache and by hand."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import llmviz as lv
from llmviz.decoding.early_layers import candidate_layers, contrast, dola, jensen_shannon
from llmviz.decoding.search import greedy_search
from tests import tiny
from tests.scripted import Scripted

PROMPT = torch.tensor([[104, 101, 108, 108, 111, 32, 116]])
# How each kind of model names its final norm.
NORMS = {
    "bloom": "transformer.ln_f",
    "gemma3_text": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "llama": "model.norm",
    "mamba": "backbone.norm_f",
    "opt": "model.decoder.final_layer_norm",
    "phi": "model.final_layernorm",
}


def from_the_formula(model, norm, text: list[int], layers, steps) -> tuple[list[int], list[int]]:
    """Chuang et al., 2023, section 2, in double precision, with a pass over the whole text."""
    norm, head, chosen = model.get_submodule(norm), model.lm_head, []
    for _ in range(steps):
        with torch.no_grad():
            output = model(torch.tensor([text]), use_cache=False, output_hidden_states=True)
            p = output.logits[0, -1].double().softmax(-1)
            early = [
                head(norm(output.hidden_states[i][0, -1])).double().softmax(-1) for i in layers
            ]

        def divergence(q, p=p):
            m = (p + q) / 2
            kl = [(x * (x / m).log()).nansum() for x in (p, q)]
            return (sum(kl) / 2).item()

        divergences = [divergence(q) for q in early]
        chosen.append(layers[divergences.index(max(divergences))])
        q = early[layers.index(chosen[-1])]
        ratio = {
            v: math.log(p[v] / q[v]) for v in range(len(p)) if p[v].item() >= 0.1 * p.max().item()
        }
        text = [*text, max(ratio, key=ratio.get)]
        if text[-1] == tiny.EOS:
            break
    return text, chosen


@pytest.mark.parametrize("architecture", NORMS)
def test_tokens_and_layers_are_those_of_the_formula(architecture):
    model, layers = tiny.model(architecture), [0, 1, 2]
    text, chosen = from_the_formula(model, NORMS[architecture], PROMPT[0].tolist(), layers, 8)
    run = dola(model, PROMPT, dola_layers=layers, max_new_tokens=8)
    assert run.sequences[0].tolist() == text
    assert run.premature_layers == [chosen]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_has_early_layers(architecture):
    model = tiny.model(architecture)
    run = dola(model, PROMPT, max_new_tokens=6, dola_layers="high")
    assert set(run.premature_layers[0]) == {1}  # of three layers, 1 is the only candidate
    for step in run.steps[0]:
        assert step.mass > 0 and step.rank <= step.kept
        assert all(
            math.isfinite(c.score) == (c.log_prob >= step.candidates[0].log_prob + math.log(0.1))
            for c in step.candidates
        )


def test_by_hand():
    """The last layer: .5, .4, .07, .03; what is below a tenth of .5 is out.

    The first early layer agrees, so its divergence is 0; the second, .7, .1, .1, .1, is taken.
    log .5/.7 = −.336, log .4/.1 = 1.386, log .07/.1 = −.357: the second token wins.
    """
    last = torch.tensor([[0.5, 0.4, 0.07, 0.03]]).log()
    early = torch.tensor([[[0.5, 0.4, 0.07, 0.03], [0.7, 0.1, 0.1, 0.1]]]).log()
    # Logits are log-probabilities but for a constant.
    scores, layer = contrast(last + 3, early - 2)
    assert layer.tolist() == [1]
    assert scores[0].tolist() == pytest.approx([-0.33647, 1.38629, -0.35667, -math.inf], abs=1e-4)
    scores, layer = contrast(last, early[:, :1])
    assert layer.tolist() == [0]
    assert scores[0].tolist() == pytest.approx([0, 0, 0, -math.inf], abs=1e-6)


def test_a_forbidden_token_does_not_rule_out_the_rest():
    """Where .9 is forbidden, what has .006 or more is plausible; else .09 would be needed."""
    last = torch.tensor([[0.9, 0.06, 0.03, 0.01, 0.0001]]).log()
    early = torch.tensor([[[0.9, 0.07, 0.01, 0.01, 0.0001]]]).log()
    allowed = torch.tensor([[False, True, True, True, True]])
    scores, _ = contrast(last, early, allowed)
    assert scores.isfinite().tolist() == [[True, True, True, True, False]]
    scores, _ = contrast(last, early)
    assert scores.isfinite().tolist() == [[True, False, False, False, False]]


def test_each_row_has_its_own_layer():
    last = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    early = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log().expand(2, 2, 2)
    scores, layer = contrast(last, early)
    assert layer.tolist() == [1, 0]
    assert scores[0, 0].item() == pytest.approx(math.log(0.9 / 0.2))
    assert scores[1, 1].item() == pytest.approx(math.log(0.9 / 0.1))


def test_jensen_shannon_by_hand():
    def js(p, q):
        return jensen_shannon(torch.tensor(p).log(), torch.tensor(q).log()).item()

    tiny_number = 1e-30
    assert js([1.0, tiny_number], [tiny_number, 1.0]) == pytest.approx(math.log(2))
    assert js([0.3, 0.7], [0.3, 0.7]) == pytest.approx(0, abs=1e-7)
    # m = (.75, .25): (.5 ln(.5/.75) + .5 ln(.5/.25) + ln(1/.75)) / 2
    by_hand = (0.5 * math.log(2 / 3) + 0.5 * math.log(2) + math.log(4 / 3)) / 2
    assert js([0.5, 0.5], [1.0, tiny_number]) == pytest.approx(by_hand)
    assert js([1.0, tiny_number], [0.5, 0.5]) == pytest.approx(by_hand)


def test_layers_that_add_nothing_leave_nothing_to_contrast():
    model = copy.deepcopy(tiny.model("llama"))
    for layer in model.model.layers:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    run = dola(model, PROMPT, dola_layers=[0, 1, 2], max_new_tokens=3)
    scores = [c.score for s in run.steps[0] for c in s.candidates if c.score > -math.inf]
    assert scores == pytest.approx([0.0] * len(scores), abs=1e-5)
    contrasted = dola(tiny.model("llama"), PROMPT, dola_layers=[0, 1, 2], max_new_tokens=12)
    greedy = greedy_search(tiny.model("llama"), PROMPT, max_new_tokens=12)
    assert contrasted.sequences.tolist() != greedy.sequences.tolist()


def stub(num_hidden_layers, tied):
    config = SimpleNamespace(num_hidden_layers=num_hidden_layers)
    config.get_text_config = lambda: config
    embedding, head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
    if tied:
        head.weight = embedding.weight
    return SimpleNamespace(
        config=config, get_input_embeddings=lambda: embedding, get_output_embeddings=lambda: head
    )


@pytest.mark.parametrize(
    ("count", "tied", "low", "high"),
    [
        (1, True, [0], [0]),
        (2, True, [1], [1]),
        (3, True, [2], [1]),
        (4, True, [2], [2]),
        (12, False, [0, 2, 4], [6, 8, 10]),
        (12, True, [2, 4], [6, 8, 10]),
        (30, True, [2, 4, 6, 8, 10, 12, 14], [15, 17, 19, 21, 23, 25, 27, 29]),
        (40, False, list(range(0, 20, 2)), list(range(20, 40, 2))),
        (80, False, list(range(0, 20, 2)), list(range(60, 80, 2))),
        (80, True, list(range(2, 20, 2)), list(range(60, 80, 2))),
    ],
)
def test_candidate_layers(count, tied, low, high):
    """The paper's buckets, and transformers' rule for tied embeddings."""
    assert candidate_layers(stub(count, tied), "low") == low
    assert candidate_layers(stub(count, tied), "high") == high
    assert candidate_layers(stub(count, tied), [0, count - 1]) == [0, count - 1]


@pytest.mark.parametrize(
    "layers", ["middle", [], [3], [-1], [0.5], [True], ["0"], 1, None, "0"], ids=repr
)
def test_layers_that_the_model_does_not_have_are_refused_before_it_runs(layers, monkeypatch):
    model = tiny.model("llama")
    monkeypatch.setattr(type(model), "forward", None)
    with pytest.raises(ValueError, match="dola_layers=.*from 0 .* to 2"):
        dola(model, PROMPT, dola_layers=layers)


def test_numpys_and_torchs_numbers_name_layers():
    model = tiny.model("llama")
    wanted = dola(model, PROMPT, dola_layers=[0, 2], max_new_tokens=4)
    for layers in ([np.int64(0), torch.tensor(2)], tuple(np.array([0, 2])), range(0, 3, 2)):
        run = dola(model, PROMPT, dola_layers=layers, max_new_tokens=4)
        assert run.sequences.equal(wanted.sequences)
        assert run.premature_layers == wanted.premature_layers
        assert run.settings["dola_layers"] == [0, 2]


def test_a_model_without_a_norm_before_its_head_is_refused():
    model = Scripted(lambda text: torch.zeros(tiny.VOCABULARY), tiny.VOCABULARY)
    with pytest.raises(ValueError, match="model is a Scripted, which does not end in layers"):
        dola(model, PROMPT)
    assert model.passes == 0


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3_text", "opt"])
def test_a_padded_batch_gives_what_each_row_gives_alone(architecture):
    model = tiny.model(architecture)
    short = PROMPT[:, 3:]
    padded = torch.cat([torch.full((1, 3), tiny.PAD), short], dim=-1)
    batch = torch.cat([PROMPT, padded])
    settings = {"dola_layers": [0, 1, 2], "max_new_tokens": 8}
    run = dola(model, batch, (batch != tiny.PAD).long(), **settings)
    for row, prompt in enumerate([PROMPT, short]):
        alone = dola(model, prompt, **settings)
        new = alone.sequences[0, prompt.shape[1] :].tolist()
        assert run.sequences[row, 7 : 7 + len(new)].tolist() == new
        assert run.premature_layers[row] == alone.premature_layers[0]
        assert [s.token_id for s in run.steps[row]] == new


def test_drawing_and_processors_and_round_trip():
    model = tiny.model("gpt2")
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
    runs = [dola(model, PROMPT, seed=seed, **settings) for seed in (1, 1, 2)]
    assert runs[0].sequences.tolist() == runs[1].sequences.tolist()
    assert runs[0].sequences.tolist() != runs[2].sequences.tolist()
    plain = dola(model, PROMPT, max_new_tokens=12)
    loops = plain.sequences[0, 7:].tolist()
    banned = dola(model, PROMPT, max_new_tokens=12, suppress_tokens=loops)
    assert not {*banned.sequences[0, 7:].tolist()} & {*loops}
    again = lv.Trace.from_json(plain.to_json())
    assert again.premature_layers == plain.premature_layers and again.steps == plain.steps
    stopped = dola(model, PROMPT, max_new_tokens=12, stop=lambda ids: ids[:, -1] == loops[2])
    assert stopped.sequences[0, 7:].tolist() == loops[: loops.index(loops[2]) + 1]


def test_layers_may_be_numbers_of_numpy():
    model, ids = tiny.model("llama"), torch.tensor([[104, 101]])
    run = dola(model, ids, dola_layers=[np.int64(0), 2], max_new_tokens=3)
    assert run.settings["dola_layers"] == [0, 2]
    assert type(run.settings["dola_layers"][0]) is int
    with pytest.raises(ValueError, match="dola_layers=.True"):
        dola(model, ids, dola_layers=[True])
