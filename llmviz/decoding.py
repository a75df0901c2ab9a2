"""Decoding: plain loops over a model with a KV cache, each of which fills a trace.

Every loop reads aloud as: look at the scores of the next token, process them, choose, append.
The strategies take token ids; `generate` takes text and picks the strategy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import torch
from torch import LongTensor, Tensor

from . import processors
from .tokens import encode, token_labels
from .trace import Recorder, Trace


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
    _check_count("num_return_sequences", num_return_sequences)
    _check_model(model)
    if num_return_sequences > 1 and not do_sample:
        raise ValueError(
            f"num_return_sequences={num_return_sequences} with greedy search, which has only one "
            "answer: pass do_sample=True"
        )
    input_ids, attention_mask = encode(tokenizer, prompt, pad_token_id=_pad_token_id(model))
    _check_length(model, attention_mask.sum(-1).max().item(), max_new_tokens)
    input_ids = input_ids.repeat_interleave(num_return_sequences, dim=0)
    attention_mask = attention_mask.repeat_interleave(num_return_sequences, dim=0)
    common = {"max_new_tokens": max_new_tokens, "top_logprobs": top_logprobs}
    if do_sample:
        run = sample(model, input_ids, attention_mask, seed=seed, **common, **settings)
    else:
        run = greedy_search(model, input_ids, attention_mask, **common)
    run.prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    run.settings |= {"num_return_sequences": num_return_sequences}
    return _with_text(run, tokenizer)


def greedy_search(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    max_new_tokens: int = 40,
    top_logprobs: int = 20,
) -> Trace:
    """Take the likeliest token, again and again.

    `input_ids` and `attention_mask` have the shape (rows, tokens), padded on the left.
    """
    prefix = Prefix(model, input_ids, attention_mask)
    recorder = Recorder(top_logprobs)
    for _ in _steps(
        prefix,
        process=lambda logits: processors.process(logits, do_sample=False),
        choose=lambda scores: scores.argmax(-1),
        recorder=recorder,
        max_new_tokens=max_new_tokens,
    ):
        pass
    return _trace(prefix, input_ids, recorder, {"do_sample": False})


def sample(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    max_new_tokens: int = 40,
    seed: int | None = None,
    top_logprobs: int = 20,
    **settings,
) -> Trace:
    """Draw each token from the distribution that `processors.process(…, **settings)` leaves.

    `input_ids` and `attention_mask` have the shape (rows, tokens), padded on the left. Draws are
    made on the CPU, so that a seed means the same on every device.
    """
    processors.check(**settings)
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def draw(scores: Tensor) -> LongTensor:
        probabilities = scores.softmax(-1).cpu()
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    prefix = Prefix(model, input_ids, attention_mask)
    recorder = Recorder(top_logprobs)
    for _ in _steps(
        prefix,
        process=lambda logits: processors.process(logits, do_sample=True, **settings),
        choose=draw,
        recorder=recorder,
        max_new_tokens=max_new_tokens,
    ):
        pass
    return _trace(prefix, input_ids, recorder, {"do_sample": True, "seed": seed, **settings})


def _steps(
    prefix: Prefix,
    process: Callable[[Tensor], Tensor],
    choose: Callable[[Tensor], LongTensor],
    recorder: Recorder,
    max_new_tokens: int,
) -> Iterator[LongTensor]:
    """Yield the tokens, shape (rows,), of each step, until every row has met an eos token."""
    _check_count("max_new_tokens", max_new_tokens)
    eos = torch.tensor(_eos_token_ids(prefix.model))
    pad = _pad_token_id(prefix.model)
    unfinished = torch.ones(len(prefix.input_ids), dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits = prefix.next_logits()
        scores = process(logits)
        tokens = choose(scores)
        recorder.record(logits, scores, tokens.to(logits.device))
        tokens = torch.where(unfinished, tokens.cpu(), pad)
        prefix.append(tokens)
        yield tokens
        unfinished &= ~torch.isin(tokens, eos)
        if not unfinished.any():
            return


class Prefix:
    """The text so far as a model sees it: tokens, which of them are padding, and the KV cache.

    Each token is shown to the model once; the cache remembers what it made of it.
    """

    def __init__(self, model, input_ids: LongTensor, attention_mask: LongTensor | None = None):
        self.model = model
        self.input_ids = input_ids.to(model.device)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self.attention_mask = attention_mask.to(model.device)
        self.padded = not bool(self.attention_mask.all())
        self.cache = None
        self.unread = input_ids.shape[1]
        self.accepts = set(inspect.signature(model.forward).parameters)
        # Mamba's state is not a cache of keys and values, and has another name.
        state_space = "cache_params" in self.accepts
        self.cache_name = "cache_params" if state_space else "past_key_values"

    @torch.no_grad()
    def next_logits(self) -> Tensor:
        """The logits of the next token, float32, shape (rows, vocabulary)."""
        inputs = {"use_cache": True, self.cache_name: self.cache, "logits_to_keep": 1}
        # Padding does not count as a position; it gets number 0, which the mask hides.
        positions = (self.attention_mask.cumsum(-1) - 1).clamp(min=0)
        inputs["position_ids"] = positions[:, -self.unread :]
        inputs = {k: v for k, v in inputs.items() if k in self.accepts}
        # A state-space model needs no mask once the padding is behind it.
        if self.padded and not (self.cache_name == "cache_params" and self.cache is not None):
            inputs["attention_mask"] = self.attention_mask
        output = self.model(self.input_ids[:, -self.unread :], **inputs)
        self.cache = output[self.cache_name]
        self.unread = 0
        return output.logits[:, -1].float()

    def append(self, tokens: LongTensor) -> None:
        """Put one token, shape (rows,), behind each row."""
        tokens = tokens[:, None].to(self.input_ids.device)
        self.input_ids = torch.cat([self.input_ids, tokens], dim=-1)
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(tokens)], dim=-1)
        self.unread += 1


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
    lengths = _lengths(sequences[:, num_prompt_tokens:], _as_list(eos))
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    steps = recorder.steps(lengths)
    return _with_text(Trace(prompts, [], sequences, num_prompt_tokens, steps), tokenizer)


def _with_text(run: Trace, tokenizer) -> Trace:
    """Fill in what needs a tokenizer."""
    run.texts = tokenizer.batch_decode(run.sequences, skip_special_tokens=True)
    mentioned = {c.token_id for steps in run.steps for step in steps for c in step.candidates}
    ids = sorted(mentioned)
    run.labels = dict(zip(ids, token_labels(tokenizer, ids), strict=True))
    return run


def _trace(prefix: Prefix, input_ids: LongTensor, recorder: Recorder, settings: dict) -> Trace:
    sequences = prefix.input_ids.cpu()
    start = input_ids.shape[1]
    lengths = _lengths(sequences[:, start:], _eos_token_ids(prefix.model))
    return Trace([], [], sequences, start, recorder.steps(lengths), settings=settings)


def _lengths(new_tokens: LongTensor, eos_token_ids: list[int]) -> list[int]:
    """How many tokens each row has up to its first eos, which counts."""
    is_eos = torch.isin(new_tokens, torch.tensor(eos_token_ids))
    before = (is_eos.cumsum(-1) - is_eos.long()) == 0
    return before.sum(-1).tolist()


def _as_list(eos_token_id: int | list[int] | None) -> list[int]:
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


def _eos_token_ids(model) -> list[int]:
    return _as_list(model.generation_config.eos_token_id)


def _pad_token_id(model) -> int:
    """What fills a row that is done: as in `generate`, the pad token, or else the first eos."""
    pad = model.generation_config.pad_token_id
    return pad if pad is not None else (_eos_token_ids(model) or [0])[0]


def _check_count(name: str, value) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: it must be a whole number of 1 or more")


def _check_model(model) -> None:
    if getattr(model, "can_generate", lambda: False)() and not model.config.is_encoder_decoder:
        return
    raise TypeError(
        f"model is a {type(model).__name__}, which has no language head over the vocabulary: "
        "load it with llmviz.load or AutoModelForCausalLM.from_pretrained"
    )


def _check_length(model, prompt_tokens: int, max_new_tokens: int) -> None:
    _check_count("max_new_tokens", max_new_tokens)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # The last new token is never read by the model.
    if context is not None and prompt_tokens + max_new_tokens - 1 > context:
        raise ValueError(
            f"the prompt's {prompt_tokens} tokens and max_new_tokens={max_new_tokens} do not fit "
            f"into the model's context of {context} tokens: shorten the prompt, or generate at "
            f"most {max(context - prompt_tokens + 1, 0)} tokens"
        )
