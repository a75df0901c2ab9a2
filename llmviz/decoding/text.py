"""From ids to text: what a trace needs a tokenizer for, and traces of transformers' own output."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import arguments
from ..recorder import Recorder
from ..tokens import token_labels
from ..trace import Labels, Trace
from .ends import Ends, asked_again


def with_text(run: Trace, tokenizer) -> Trace:
    """Fill in what needs a tokenizer."""
    run.texts = tokenizer.batch_decode(run.token_ids, skip_special_tokens=True)
    ids = sorted(run.mentioned())
    run.labels = Labels(zip(ids, token_labels(tokenizer, ids), strict=True))
    return run


def trace_of(
    output,
    tokenizer,
    prompt: str | list[str],
    *,
    eos_token_id: int | list[int] | None = None,
    pad_token_id: int | None = None,
    stop_strings: str | list[str] | None = None,
    stopping_criteria: Callable | list[Callable] | None = None,
    attention_mask: Tensor | None = None,
    top_logprobs: int = 20,
) -> Trace:
    """The record that `generate` makes, from the output of transformers' own `generate`.

    output: of `model.generate(…, return_dict_in_generate=True, output_scores=True,
        output_logits=True)`, with greedy search, sampling or beams. Of a beam search it tells the
        returned sequences, but not the candidates that lost: `Trace.beams` stays None.
    prompt: the text, or list of texts, that was continued.
    eos_token_id: what ended a text; the tokenizer's own unless given.
    pad_token_id: what filled a row of a batch after its end; unless given, what follows an eos, or
        else the tokenizer's own.
    stop_strings, stopping_criteria: what else ended a text, as `model.generate` was told.
    attention_mask: of the prompts, shape (prompts, tokens), as `model.generate` was told. Unless
        given, a prompt begins where the last columns are its tokens, and else after the pad tokens.

    A batch does not say where its rows ended. With stop strings or criteria they are asked again,
    token by token. Without, a row ends with its first eos, and pad tokens at its end that it would
    hardly have chosen are taken for padding: in greedy search those that did not have the highest
    score. That fails where a row was stopped, and the model has no eos (transformers does not pad
    then), or where an eos that pads might as well have been drawn: pass what stopped it. Not needed
    after beams.
    Raises TypeError or ValueError for an argument that does not fit the others, and where `output`
    lacks one of the three.
    """
    _check_output(output)
    arguments.tokenizer("tokenizer", tokenizer)
    top_logprobs = arguments.whole("top_logprobs", top_logprobs)
    prompts = [prompt] if isinstance(prompt, str) else prompt
    sequences, beam_rows = output.sequences.cpu(), getattr(output, "beam_indices", None)
    new = len(output.logits) if beam_rows is None else beam_rows.shape[1]
    start = sequences.shape[1] - new
    eos = _ids("eos_token_id", tokenizer.eos_token_id if eos_token_id is None else eos_token_id)
    if pad_token_id is not None:
        pad_token_id = arguments.whole("pad_token_id", pad_token_id, low=-1)
    prompt_lengths = _prompt_lengths(
        sequences[:, :start], tokenizer, prompts, attention_mask, pad_token_id
    )
    new_tokens = sequences[:, start:]
    if beam_rows is None:
        beam_rows = torch.arange(len(sequences))[:, None].expand(-1, new)
        criteria = _criteria(tokenizer, stop_strings, stopping_criteria)
        if criteria:
            lengths = asked_again(sequences, start, eos, criteria, output.scores)
        else:
            # What may pad: the tokenizer's own, or what stands in front of a shorter prompt.
            fronts = zip(sequences[:, 0].tolist(), prompt_lengths, strict=True)
            likely = {tokenizer.pad_token_id, *(i for i, length in fronts if length < start)}
            ends = Ends(output.scores, new_tokens, eos, pad_token_id, likely)
            lengths = ends.lengths({*tokenizer.all_special_ids})
    else:
        # For each token the row of the beam that it continued; −1 after the end.
        beam_rows = beam_rows.cpu()
        lengths = (beam_rows >= 0).sum(-1).tolist()
    recorder = Recorder(top_logprobs)
    for t in range(new):
        rows, tokens = beam_rows[:, t].clamp(min=0), new_tokens[:, t].clamp(min=0)
        recorder.record(output.logits[t], output.scores[t], tokens, rows)
    scores = getattr(output, "sequences_scores", None)
    run = Trace(
        list(prompts),
        [],
        sequences,
        start,
        recorder.steps(lengths),
        sequences_scores=None if scores is None else scores.tolist(),
        prompt_lengths=prompt_lengths,
    )
    return with_text(run, tokenizer)


def _check_output(output) -> None:
    for name in ("sequences", "scores", "logits"):
        if getattr(output, name, None) is None:
            raise ValueError(
                f"output has no {name}: call model.generate with return_dict_in_generate=True, "
                "output_scores=True, output_logits=True"
            )
    sequences, scores, logits = output.sequences, output.scores, output.logits
    parts = [*scores, *logits] if isinstance(scores, tuple) and isinstance(logits, tuple) else []
    shapes = {tuple(getattr(part, "shape", ())) for part in parts}
    if len(shapes) != 1 or len(scores) != len(logits) or len(min(shapes)) != 2:
        raise ValueError(
            "output.scores and output.logits must be as model.generate makes them, one tensor of "
            f"shape (rows, vocabulary) for each step, not of {arguments.shown(shapes)}"
        )
    rows, vocabulary = shapes.pop()
    beam_rows, shape = getattr(output, "beam_indices", None), getattr(sequences, "shape", ())
    new = len(logits) if beam_rows is None else beam_rows.shape[1]
    if len(shape) != 2 or shape[1] < new or (beam_rows is None and shape[0] != rows):
        raise ValueError(f"output.sequences has the shape {tuple(shape)}, for {new} new tokens")
    if sequences[:, shape[1] - new :].max() >= vocabulary:
        raise ValueError(f"output.sequences holds ids beyond the vocabulary's {vocabulary}")


def _ids(name: str, value) -> list[int]:
    """One token id, or several, as a list."""
    if value is None:
        return []
    value = value.tolist() if hasattr(value, "tolist") else value
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [arguments.whole(name, i, low=0, high=2**31) for i in listed]


def _prompt_lengths(
    columns: Tensor, tokenizer, prompts: list[str], attention_mask, pad_token_id: int | None
) -> list[int]:
    """How many tokens of each sequence's prompt, shape (sequences, columns), are no padding."""
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
        kind = type(prompts).__name__
        raise TypeError(f"prompt must be a string or a list of strings, not {kind}")
    for text in prompts:
        arguments.text("prompt", text)
    count, width = columns.shape
    if not prompts or count % len(prompts):
        raise ValueError(f"prompt is {len(prompts)} texts, and output has {count} sequences")
    if attention_mask is not None:
        mask = arguments.tensor(
            "attention_mask", attention_mask, "prompts", "tokens", low=0, high=1
        )
        if mask.shape[1] != width or len(mask) not in (len(prompts), count):
            raise ValueError(
                f"attention_mask has the shape {tuple(mask.shape)}: it must be that of the "
                f"prompts, ({len(prompts)}, {width})"
            )
        return mask.bool().sum(-1).repeat_interleave(count // len(mask)).tolist()
    pad = tokenizer.pad_token_id if pad_token_id is None else pad_token_id
    rows = columns[:: count // len(prompts)].tolist()
    lengths = [_length(r, tokenizer, p, pad) for r, p in zip(rows, prompts, strict=True)]
    return [length for length in lengths for _ in range(count // len(prompts))]


def _length(row: list[int], tokenizer, prompt: str, pad: int | None) -> int:
    for special in True, False:
        ids = tokenizer(prompt, add_special_tokens=special)["input_ids"] if prompt else []
        front = row[: len(row) - len(ids)]
        if ids and row[len(front) :] == ids and len({*front}) <= 1:
            return len(ids)
    # It was made in another way: only padding in front can be told.
    return next((len(row) - i for i, token in enumerate(row) if token != pad), len(row))


def _criteria(tokenizer, stop_strings, stopping_criteria) -> list[Callable]:
    from transformers import StopStringCriteria

    found = stopping_criteria
    if not isinstance(found, (list, tuple)):  # transformers' StoppingCriteriaList is a list
        found = [] if found is None else [found]
    if not all(map(callable, found)):
        raise TypeError(
            f"stopping_criteria={arguments.shown(stopping_criteria)}: it must be a "
            "StoppingCriteria or a list of them"
        )
    found = list(found)
    if stop_strings is not None:
        strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        strings = arguments.labels("stop_strings", strings)
        strings = [arguments.text("stop_strings", string) for string in strings]
        found.append(StopStringCriteria(tokenizer=tokenizer, stop_strings=strings))
    return found
