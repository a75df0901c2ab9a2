"""What the logit lens and all attention maps cost, in units of one bare forward pass.

    python benchmarks/logit_lens.py [rounds]

Each round times all of them one after the other; the ratios are medians over the rounds.
"""

import statistics
import sys
import threading
import time
from io import BytesIO

import psutil
import torch

import llmviz as lv

TOKENS = (8, 32, 128)


def main(rounds: int) -> None:
    model, tokenizer = lv.load()
    print(lv.setup_line(model), f"· {torch.get_num_threads()} threads")
    text = "Once upon a time there was a girl who lived near the forest with her grandmother. " * 60
    ids = tokenizer(text)["input_ids"]
    ways = {
        "bare": lambda text: model(tokenizer(text, return_tensors="pt").input_ids.to(model.device)),
        "lens, last token": lambda text: lv.logit_lens(model, tokenizer, text, position=-1),
        "lens, all tokens": lambda text: lv.logit_lens(model, tokenizer, text),
        "attentions": lambda text: lv.attentions(model, tokenizer, text),
    }
    for tokens in TOKENS:
        text = tokenizer.decode(ids[:tokens])
        times = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append(seconds(way, text))
        said = []
        for name, own in times.items():
            ratio = statistics.median(t / b for t, b in zip(own, times["bare"], strict=True))
            said.append(f"{name} {ratio:.2f}")
        print(f"{tokens} tokens, times a bare forward pass: {' · '.join(said[1:])}")
    text = tokenizer.decode(ids[:256])
    weights, labels = lv.attentions(model, tokenizer, text)
    drawn = BytesIO()

    def draw(text):
        ax = lv.plot_attention_overview(weights, labels)
        ax.figure.savefig(drawn, format="png", dpi=144, bbox_inches="tight")

    took = seconds(draw, text)
    print(f"overview of {len(labels)} tokens: {took:.1f} s, {drawn.tell() / 1e6:.1f} MB")
    most = memory(lambda: lv.logit_lens(model, tokenizer, tokenizer.decode(ids[:1000])))
    print(f"lens of 1,000 tokens, memory beyond the model: {most / 1e6:.0f} MB")


def seconds(way, text: str) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        way(text)
    return time.perf_counter() - start


def memory(function) -> int:
    """By how many bytes this process grew at most while `function` ran."""
    used, done, most = psutil.Process().memory_info, threading.Event(), 0
    before = used().rss

    def watch():
        nonlocal most
        while not done.wait(0.005):
            most = max(most, used().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return most


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
