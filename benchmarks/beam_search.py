"""The cost of llmviz's `beam_search`, which keeps the whole history, against transformers' own.

Prints the ratio of the medians of runs that take turns in one process. On a CPU it counts the
seconds of one thread's work, not those of the wall clock, which measure the machine's other users
too: `python benchmarks/beam_search.py [rounds]`.
"""

import statistics
import sys
import time

import torch

import llmviz as lv

PROMPT = "The best thing about a rainy day is"
SETTINGS = {"num_beams": 5, "max_new_tokens": 40}


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    model, tokenizer = lv.load()
    print(lv.setup_line(model))
    inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
    on_cpu = model.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    ways = {
        "transformers": lambda: model.generate(**inputs, **SETTINGS),
        "llmviz": lambda: lv.beam_search(model, **inputs, **SETTINGS).sequences,
    }
    seconds = {name: [] for name in ways}
    for round_ in range(rounds + 1):  # the first one warms up
        results = set()
        for name, way in ways.items():
            start = clock()
            results.add(str(way().tolist()))
            if round_:
                seconds[name].append(clock() - start)
        assert len(results) == 1, "the tokens differ"
    theirs, ours = (statistics.median(seconds[name]) for name in ways)
    print(f"{SETTINGS}, {rounds} rounds, seconds of {'one core' if on_cpu else 'the clock'}:")
    print(f"transformers {theirs:.2f}, llmviz {ours:.2f}, ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
