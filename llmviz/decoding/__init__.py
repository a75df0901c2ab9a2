"""Decoding: plain loops over a model with a KV cache, each of which fills a trace.

Every loop reads aloud as: look at the scores of the next token, process them, choose, append.
The strategies take token ids; `generate` takes text and picks the strategy.
"""

from __future__ import annotations

from .. import processors
from ..tokens import encode, token_labels
from ..trace import Recorder, Trace
from .beams import beam_search
from .prefix import as_list, check_count, check_length, check_model, lengths_of, pad_token_id
from .search import greedy_search, sample

__all__ = ["beam_search", "generate", "greedy_search", "sample", "trace_of"]


def generate(
    model,
    tokenizer,
    prompt: str | list[str],
    *,
    max_new_tokens: int = 40,
    do_sample: bool = False,
    seed: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    num_return_sequences: int = 1,
    top_logprobs: int = 20,
) -> Trace:
    """Continue `prompt`, and record every step.

    The tokens are those of `model.generate` for the same arguments, with one difference that is
    meant: nothing is cut off unless it is asked for, where transformers applies `top_k=50`
    whenever `do_sample=True`, and the sampling defaults that a model brings along.

    prompt: a text, or a list of texts, which are run as one batch padded on the left.
    do_sample: False takes the likeliest token (greedy search), True draws one.
    seed: draws come from a CPU generator with this seed, and equal those of
        `torch.manual_seed(seed); model.generate(do_sample=True, …)` on the CPU; None draws from
        torch's global CPU generator.
    temperature, top_k, top_p, min_p: see `llmviz.processors`; they need `do_sample=True`.
    num_return_sequences: continuations for each prompt; more than one needs `do_sample=True`.
    top_logprobs: how many of the likeliest tokens to record at each step.

    Raises TypeError or ValueError, before the model runs, for an argument that is out of bounds
    or a prompt that with `max_new_tokens` would not fit into the model's context.
    """
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    processors.check(**settings)
    check_count("num_return_sequences", num_return_sequences)
    check_count("top_logprobs", top_logprobs)
    check_model(model)
    if num_return_sequences > 1 and not do_sample:
        raise ValueError(
            f"num_return_sequences={num_return_sequences} with greedy search, which has only one "
            "answer: pass do_sample=True"
        )
    input_ids, attention_mask = encode(tokenizer, prompt, pad_token_id=pad_token_id(model))
    check_length(model, attention_mask.sum(-1).max().item(), max_new_tokens)
    input_ids = input_ids.repeat_interleave(num_return_sequences, dim=0)
    attention_mask = attention_mask.repeat_interleave(num_return_sequences, dim=0)
    settings |= {"max_new_tokens": max_new_tokens, "top_logprobs": top_logprobs}
    if do_sample:
        run = sample(model, input_ids, attention_mask, seed=seed, **settings)
    else:
        run = greedy_search(model, input_ids, attention_mask, **settings)
    run.prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    run.settings |= {"num_return_sequences": num_return_sequences}
    return _with_text(run, tokenizer)


def trace_of(
    output,
    tokenizer,
    prompt: str | list[str],
    *,
    eos_token_id: int | list[int] | None = None,
    top_logprobs: int = 20,
) -> Trace:
    """The record that `generate` makes, from the output of transformers' own `generate`.

    output: of `model.generate(…, return_dict_in_generate=True, output_scores=True,
        output_logits=True)`, with greedy search or sampling.
    prompt: the text, or list of texts, that was continued.
    eos_token_id: what ended a text; the tokenizer's own unless given. Needed for a batch whose
        model has several (`model.generation_config.eos_token_id`).
    Raises ValueError where `output` lacks one of the three.
    """
    for name in ("sequences", "scores", "logits"):
        if getattr(output, name, None) is None:
            raise ValueError(
                f"output has no {name}: call model.generate with return_dict_in_generate=True, "
                "output_scores=True, output_logits=True"
            )
    sequences = output.sequences.cpu()
    num_prompt_tokens = sequences.shape[1] - len(output.logits)
    recorder = Recorder(top_logprobs)
    for t, (logits, scores) in enumerate(zip(output.logits, output.scores, strict=True)):
        recorder.record(logits, scores, output.sequences[:, num_prompt_tokens + t])
    eos = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
    lengths = lengths_of(sequences[:, num_prompt_tokens:], as_list(eos))
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    steps = recorder.steps(lengths)
    return _with_text(Trace(prompts, [], sequences, num_prompt_tokens, steps), tokenizer)


def _with_text(run: Trace, tokenizer) -> Trace:
    """Fill in what needs a tokenizer."""
    run.texts = tokenizer.batch_decode(run.sequences, skip_special_tokens=True)
    ids = sorted(run.mentioned())
    run.labels = dict(zip(ids, token_labels(tokenizer, ids), strict=True))
    return run
