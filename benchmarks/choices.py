"""What scoring many short answers to one question costs, against a pass for each of them.

    python -m benchmarks.choices [rounds]

Both ways take turns in one process; the ratios are medians over the rounds. On a CPU it counts the
seconds of work, not those of the wall clock, which measure the machine's other users too.
"""

import statistics
import sys
import time

import torch

import llmviz as lv

QUESTION = "The following text is an article from a newspaper. Its subject is one of fifty. "
ARTICLE = (
    "The price of cabbage rose again this week, and so did the price of flour. Traders say that "
    "the rain of last month is to blame, which kept the farmers from their fields for days. "
)
SUBJECTS = (
    "sport music art film food travel health science money politics religion history nature "
    "weather fashion school crime war peace law work family love games books theatre dance "
    "gardens animals cars trains ships space energy water land trade housing farming fishing "
    "medicine language media theory toys wine tea bread shops goods"
)


def main(rounds: int) -> None:
    model, tokenizer = lv.load()
    print(lv.setup_line(model), f"· {torch.get_num_threads()} threads")
    for articles in (1, 4):
        prompt = QUESTION + ARTICLE * articles + "The subject is"
        for choice in (" {}", " {} and its price"):
            measure(model, tokenizer, prompt, list(map(choice.format, SUBJECTS.split())), rounds)


def measure(model, tokenizer, prompt: str, choices: list[str], rounds: int) -> None:
    on_cpu = model.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    ways = {"separate": separately, "llmviz": lv.score_choices}
    seconds = {name: [] for name in ways}
    for round_ in range(rounds + 1):  # the first one warms up
        results = {}
        for name, way in ways.items():
            start = clock()
            results[name] = way(model, tokenizer, prompt, choices)
            if round_:
                seconds[name].append(clock() - start)
        off = torch.tensor(results["separate"]) - torch.tensor(results["llmviz"].log_prob)
        assert off.abs().max() < 1e-2, "the scores differ"
    ratio = statistics.median(
        own / other for own, other in zip(seconds["llmviz"], seconds["separate"], strict=True)
    )
    tokens = [len(row) for row in results["llmviz"].tokens]
    print(
        f"{len(choices)} choices of {min(tokens)} to {max(tokens)} tokens behind "
        f"{len(tokenizer(prompt)['input_ids'])}: {ratio:.3f} of {len(choices)} separate passes"
    )


def separately(model, tokenizer, prompt: str, choices: list[str]) -> list[float]:
    start, found = len(tokenizer(prompt)["input_ids"]), []
    for choice in choices:
        ids = tokenizer(prompt + choice, return_tensors="pt").input_ids.to(model.device)
        with torch.no_grad():
            kept = ids.shape[1] - start + 1
            logits = model(ids, use_cache=False, logits_to_keep=kept).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(-1, ids[0, start:, None]).sum().item())
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
