"""What a trace costs: 100 greedy steps with the 20 likeliest tokens of each, several ways; and
100 sampled steps, traced, against a `generate` that keeps nothing.

Prints ratios of one run, since machines differ and are noisy: the ways take turns, and the median
of each counts. `python benchmarks/tracing.py [--steps 100] [--rounds 7] [--device cpu]`
"""

import argparse
import statistics
import time

import torch

import llmviz as lv

PROMPT = "I enjoy walking with my cute dog"


def generate_then_topk(model, tokenizer, steps):
    inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
    output = model.generate(
        **inputs,
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for scores in output.scores:
        top = scores[0].softmax(-1).topk(20)
        top.values.tolist(), top.indices.tolist()
    return output.sequences


def traced(model, tokenizer, steps):
    run = lv.generate(model, tokenizer, PROMPT, max_new_tokens=steps)
    return run.sequences


def encode_again(model, tokenizer, steps):
    """The usual tutorial: the whole text goes through the model for every token."""
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids.to(model.device)
    for _ in range(steps):
        with torch.no_grad():
            scores = model(ids).logits[0, -1]
        top = scores.softmax(-1).topk(20)
        top.values.tolist(), top.indices.tolist()
        ids = torch.cat([ids, scores.argmax().view(1, 1)], dim=-1)
    return ids


SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95}


def sampled(model, tokenizer, steps):
    return lv.generate(model, tokenizer, PROMPT, max_new_tokens=steps, seed=0, **SAMPLED).sequences


def generate_sampled(model, tokenizer, steps):
    torch.manual_seed(0)
    inputs = tokenizer(PROMPT, return_tensors="pt").to(model.device)
    return model.generate(**inputs, max_new_tokens=steps, min_new_tokens=steps, **SAMPLED)


def compare(model, tokenizer, ours, theirs, options) -> None:
    ways = [ours, *theirs]
    if str(model.device) == "cpu" or ours is traced:  # on a GPU, generate draws there
        texts = [way(model, tokenizer, 8).tolist() for way in ways]  # this warms up, too
        assert all(text == texts[0] for text in texts), "the ways disagree"
    seconds = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            start = time.perf_counter()
            way(model, tokenizer, options.steps)
            seconds[way].append(time.perf_counter() - start)
    median = {way: statistics.median(times) for way, times in seconds.items()}
    for way in theirs:
        print(f"{ours.__name__} / {way.__name__:20} {median[ours] / median[way]:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    model, tokenizer = lv.load(device=options.device)
    # The text must be as long for every way, so nothing may end it.
    model.generation_config.eos_token_id = None
    for ours, *theirs in (traced, generate_then_topk, encode_again), (sampled, generate_sampled):
        compare(model, tokenizer, ours, theirs, options)
    run = lv.generate(model, tokenizer, PROMPT, max_new_tokens=options.steps)
    kept = len(run.to_json())
    scores = options.steps * model.config.vocab_size * 4
    print(f"a trace as JSON: {kept / 1e3:.0f} KB; output_scores: {scores / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
