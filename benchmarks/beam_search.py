"""Time of llmviz's `beam_search`, which keeps the whole history, against transformers' `generate`.

Prints the ratio of the medians of runs that take turns in one process, so that a busy machine slows
both; `python benchmarks/beam_search.py [rounds]`.
"""

import statistics
import sys
import time

import torch

import llmviz as lv

PROMPT = "The best thing about a rainy day is"
SETTINGS = {"num_beams": 5, "max_new_tokens": 40, "num_return_sequences": 1}


def main(rounds: int) -> None:
    model, tokenizer = lv.load()
    print(lv.setup_line(model))
    inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
    ways = {
        "transformers.generate": lambda: model.generate(**inputs, **SETTINGS),
        "llmviz.beam_search": lambda: lv.beam_search(model, **inputs, **SETTINGS).sequences,
    }
    seconds = {name: [] for name in ways}
    for round_ in range(rounds + 1):  # the first one warms up
        results = {}
        for name, way in ways.items():
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            results[name] = way().tolist()
            if round_:
                seconds[name].append(time.perf_counter() - start)
        assert len({str(tokens) for tokens in results.values()}) == 1, "the tokens differ"
    theirs, ours = (statistics.median(seconds[name]) for name in ways)
    print(f"{SETTINGS}, {rounds} rounds")
    print(f"transformers {theirs:.3f} s, llmviz {ours:.3f} s: ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
