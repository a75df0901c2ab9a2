"""What every function that runs a model gives, as lists: to compare one placing of it with another.

Run by torchrun, each process writes what it found for a folder's model, split between them:

    python -m torch.distributed.run --nproc-per-node 2 -m tests.everything FOLDER OUTPUT
"""

import math
import os
import sys

import torch

import llmviz as lv

PROMPTS = ["hello there", "hi", "how are you?"]
STRATEGIES = {
    "greedy": {},
    "sample": {"do_sample": True, "seed": 1},
    "static": {"cache_implementation": "static"},
    "static sample": {"cache_implementation": "static", "do_sample": True, "seed": 1},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam sample": {"num_beams": 3, "do_sample": True, "seed": 2},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "dola": {"dola_layers": "high"},
    "cut-offs": {
        "do_sample": True,
        "seed": 3,
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.95,
        "min_p": 0.01,
        "typical_p": 0.95,
        "epsilon_cutoff": 1e-4,
        "eta_cutoff": 1e-4,
    },
    "penalties": {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[100], [101, 102]],
        "suppress_tokens": [5],
        "min_new_tokens": 3,
        "stop_strings": "e",
    },
}


def everything(model, tokenizer, strategies=STRATEGIES) -> dict[str, tuple]:
    """From a name to (what must be equal, numbers that may differ by rounding)."""
    found = {}
    for name, settings in strategies.items():
        run = lv.generate(model, tokenizer, PROMPTS, max_new_tokens=10, **settings)
        found[name] = run.sequences.tolist(), run.sum_logprobs
    for name, draft in (("assistant", {"assistant_model": model}),
                        ("lookup", {"prompt_lookup_num_tokens": 3})):  # fmt: skip
        run = lv.generate(model, tokenizer, "abababab", max_new_tokens=10, **draft)
        found[name] = run.sequences.tolist(), run.sum_logprobs
    text = PROMPTS[0]
    for function in (lv.hidden_states, lv.attentions):
        tensor, labels = function(model, tokenizer, text)
        assert tensor.device.type == "cpu"
        found[function.__name__] = (list(tensor.shape), labels), tensor.flatten().tolist()
    for name, table in {
        "logit_lens": lv.logit_lens(model, tokenizer, text, top_k=2, target="e"),
        "predict_next_tokens": lv.predict_next_tokens(model, tokenizer, text),
    }.items():
        numbers = table.select_dtypes("float")
        same = table.drop(columns=numbers.columns)
        found[name] = same.to_numpy().tolist(), numbers.to_numpy().flatten().tolist()
    return found


def assert_same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name, (exact, numbers) in wanted.items():
        assert found[name][0] == exact, name
        for a, b in zip(found[name][1], numbers, strict=True):
            assert math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-3), (name, a, b)


def main(folder: str, output: str) -> None:
    from transformers.distributed import DistributedConfig

    model, tokenizer = lv.load(folder, distributed_config=DistributedConfig(tp_plan="auto"))
    assert model.tp_size == 2 and "2 processes" in lv.setup_line(model)
    torch.save(everything(model, tokenizer), f"{output}/{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
