"""Tokens a second, several ways, beside what the memory's bandwidth allows.

    python -m benchmarks.gpu --output FILE.json     all of it, on a GPU
    python -m benchmarks.gpu --quick                a minute, on a CPU too

To write one token the model reads all of its weights once, so at batch 1 no way can be faster
than bandwidth / bytes of weights; a batch's bound is as many times that, and leaves the caches out,
which it has to read too. The bandwidth is measured, by copying a large tensor.

Ways: "naive" reads the whole text again for every token; "KV cache" is `lv.generate`; "generate"
is `model.generate`; "static" and "generate, static" are these two with
`cache_implementation="static"`, on a GPU compiled to CUDA graphs. The ways take turns, and the
median of the rounds counts; what comes before (compilation, capture) is not timed. A round's time
includes reading the prompt, and what `lv.generate` records of each step. The naive way takes
minutes for larger batches than 16, and is left out there.

Two models: the default one in float32, and a Llama of 7 billion random weights in bfloat16
(14 GB), which is left out on a CPU unless `--models` names it.
"""

import argparse
import json
import statistics
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

import llmviz as lv
from llmviz.decoding.prefix import static_length

PROMPT = "I enjoy walking with my cute dog"
SEVEN_B = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}


def naive(model, tokenizer, prompts, steps):
    ids = tokenizer(prompts, return_tensors="pt").input_ids.to(model.device)
    for _ in range(steps):
        with torch.no_grad():
            scores = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=-1)
    return ids


def kv_cache(model, tokenizer, prompts, steps, **settings):
    run = lv.generate(model, tokenizer, prompts, max_new_tokens=steps, **settings)
    return run.sequences


def generate(model, tokenizer, prompts, steps, **settings):
    inputs = tokenizer(prompts, return_tensors="pt").to(model.device)
    return model.generate(**inputs, max_new_tokens=steps, do_sample=False, **settings)


def static(*arguments):
    return kv_cache(*arguments, cache_implementation="static")


def generate_static(model, tokenizer, prompts, steps):
    # As long as lv.generate's cache: once torch has compiled a step for one length, it compiles the
    # next one for lengths of all kinds, which is slower.
    tokens = len(tokenizer(prompts[0]).input_ids) + steps
    settings = {"cache_implementation": "static", "max_cache_len": static_length(tokens)}
    return generate(model, tokenizer, prompts, steps, **settings)


WAYS = {
    "naive": naive,
    "KV cache": kv_cache,
    "generate": generate,
    "static": static,
    "generate, static": generate_static,
}


def main() -> None:
    options = parsed()
    device = torch.device(options.device)
    models = options.models or (["default"] if device.type == "cpu" else ["default", "7b"])
    bandwidth = measured_bandwidth(device, 2**26 if options.quick else 2**30)
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": name_of(device),
        "versions": {p: version(p) for p in ("llmviz-course", "torch", "transformers")},
        "cuda": torch.version.cuda,
        "bandwidth_GB_per_s": round(bandwidth / 1e9, 1),
        "steps": options.steps,
        "rounds": options.rounds,
        "rows": [],
    }
    print(f"{report['device']}: {bandwidth / 1e9:,.0f} GB/s by copying")
    for which in models:
        model, tokenizer = loaded(which, device)
        weights = sum(p.nbytes for p in model.parameters())
        print(f"\n{lv.setup_line(model)}: {weights / 1e9:.2f} GB of weights, so at batch 1 at most")
        print(f"{bandwidth / weights:,.0f} tokens a second. Medians of {options.rounds} rounds:\n")
        print("batch  way               tokens/s  times generate  of the bound  same tokens")
        for batch in options.batches:
            try:
                rows = timed(model, tokenizer, batch, options)
            except torch.OutOfMemoryError:
                print(f"{batch:5}  does not fit into the memory")
                break
            for row in rows:
                row = {"model": which, "dtype": str(model.dtype)[6:], "batch": batch, **row}
                row["bound_tokens_per_s"] = round(batch * bandwidth / weights, 1)
                report["rows"].append(row)
                share = row["tokens_per_s"] / row["bound_tokens_per_s"]
                print(
                    f"{batch:5}  {row['way']:16} {row['tokens_per_s']:9,.1f} "
                    f"{row['times_generate']:15.2f} {share:13.1%}  "
                    f"{'yes' if row['same_tokens'] else 'no'}",
                    flush=True,
                )
        del model
    if options.output:
        Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=["default", "7b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="a JSON file to write")
    parser.add_argument("--quick", action="store_true", help="batches of 1 and 4, 8 tokens each")
    options = parser.parse_args()
    if options.quick:
        options.batches, options.steps, options.rounds = [1, 4], 8, 2
    return options


def loaded(which: str, device):
    if which == "default":
        model, tokenizer = lv.load(lv.models.default_model_folder(), device=device)
    else:
        from transformers import AutoModelForCausalLM, LlamaConfig

        _, tokenizer = lv.load(lv.models.default_model_folder(), device="cpu")
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(LlamaConfig(**SEVEN_B), dtype=torch.bfloat16)
        model.eval().requires_grad_(False)
        model.generation_config.pad_token_id = 0
    # The text must be as long for every way, so nothing may end it.
    model.generation_config.eos_token_id = None
    return model, tokenizer


def timed(model, tokenizer, batch: int, options) -> list[dict]:
    """A row a way, with the median tokens a second of a batch."""
    prompts = [PROMPT] * batch
    # A new batch size is a new compilation; torch gives up after eight of them.
    torch.compiler.reset()
    ways = {name: way for name, way in WAYS.items() if batch <= 16 or way is not naive}
    texts = {}
    for name, way in ways.items():
        for _ in range(1 if model.device.type == "cpu" else 2):
            texts[name] = way(model, tokenizer, prompts, options.steps).cpu()
    seconds = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            synchronize(model.device)
            start = time.perf_counter()
            way(model, tokenizer, prompts, options.steps)
            synchronize(model.device)
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "way": name,
            "tokens_per_s": round(batch * options.steps / median[name], 1),
            "times_generate": round(median["generate"] / median[name], 3),
            "same_tokens": torch.equal(texts[name], texts["generate"]),
            "seconds": [round(s, 4) for s in seconds[name]],
        }
        for name in ways
    ]


def measured_bandwidth(device, size: int) -> float:
    """Bytes a second that the memory moves: a copy of `size` bytes reads them and writes them."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(12):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size / statistics.median(seconds[2:])


def synchronize(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
