"""A trace's JSON: its format, and what must be so in it for every view to work."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch

from . import arguments, jsonform
from .arguments import shown
from .jsonform import list_of, optional, real, record, whole
from .trace import BeamCandidate, BeamStep, Candidate, Draft, Step, Trace, plain_data

NAME, FORMAT = "llmviz.Trace", 2  # 1, of the first edition, had neither, and no prompt_lengths


def write(run: Trace) -> str:
    data = asdict(run) | {"sequences": run.sequences.tolist()}
    settings = jsonform.wrapped(plain_data(data.pop("settings")))
    head = {"name": NAME, "format": FORMAT}
    return jsonform.dumps(head | _spelled(data) | {"settings": settings})


def read(text: str) -> Trace:
    """The trace that `write` wrote. Raises ValueError that says what is wrong, and where."""
    arguments.text("text", text)
    try:
        data = jsonform.mapping(jsonform.loads(text), "the whole")
        run = _TRACE(_current(data), "")
        _check_sizes(run)
        _check_labels(run)
        _check_beams(run)
        return run
    except RecursionError:
        error = "it is nested too deeply"
    except ValueError as found:
        error = found
    raise ValueError(f"text is not a trace that to_json wrote: {error}")


def _spelled(value):
    """Figures as JSON can hold them: see `Trace.to_json`."""
    if isinstance(value, dict):
        return {
            k: jsonform.spelled(v) if k == "final_score" and v is not None else _spelled(v)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_spelled(v) for v in value]
    value = arguments.plain(value)
    if isinstance(value, float):
        return None if value == -math.inf else jsonform.spelled(value)
    return value


def _current(data: dict) -> dict:
    """The fields of a Trace, from any format that there has been."""
    if "format" not in data and "name" not in data:
        return {"prompt_lengths": None} | data
    if data.get("name") != NAME:
        jsonform.refuse("name", data.get("name"), repr(NAME))
    if not arguments.is_whole(data.get("format")) or data["format"] != FORMAT:
        jsonform.refuse("format", data.get("format"), f"{FORMAT}, the one this version writes")
    return {k: v for k, v in data.items() if k not in ("name", "format")}


def _sequences(value, path: str) -> torch.Tensor:
    # Beam search fills up with −1 where a model has no eos token.
    rows = list_of(list_of(whole(-1)))(value, path)
    if not rows or len({*map(len, rows)}) > 1:
        raise ValueError(f"{path} must be one or more lists of the same length")
    return torch.tensor(rows, dtype=torch.long)


def _labels(value, path: str) -> dict[int, str]:
    found = {}
    for token_id, label in jsonform.mapping(value, path).items():
        if not (token_id.isascii() and token_id.isdigit() and len(token_id) < 19):
            raise ValueError(f"{path} has the key {shown(token_id)}: it must be a token's id")
        found[int(token_id)] = jsonform.text(label, f"{path}[{token_id}]")
    return found


def _settings(value, path: str) -> dict:
    return jsonform.unwrapped(jsonform.mapping(value, path))


# A little rounding is allowed for.
_ID, _COUNT, _SHARE, _LOG_PROB = whole(), whole(), real(-0.001, 1.001), real(high=0.001)
_CANDIDATE = record(
    Candidate,
    token_id=_ID,
    rank=whole(1),
    logit=real(),
    log_prob=_LOG_PROB,
    score=real(),
    processed_probability=_SHARE,
)
_STEP = record(
    Step,
    token_id=_ID,
    rank=whole(1),
    log_prob=_LOG_PROB,
    entropy=real(-0.001),
    kept=_COUNT,
    mass=_SHARE,
    candidates=list_of(_CANDIDATE),
)
_BEAM_CANDIDATE = record(
    BeamCandidate,
    beam=_COUNT,
    token_id=_ID,
    log_prob=_LOG_PROB,
    score=real(),
    sum_score=real(),
    rank=_COUNT,
    fate=jsonform.one_of("running", "pruned", "finished", "discarded"),
    reason=jsonform.text,
    next_beam=optional(_COUNT),
    final_score=optional(real()),
)
_DRAFT = record(
    Draft,
    proposed=list_of(_ID),
    accepted=_COUNT,
    replacement=optional(_ID),
    draft_probabilities=optional(list_of(_SHARE)),
    model_probabilities=optional(list_of(_SHARE)),
)
_BEAM_STEP = record(BeamStep, candidates=list_of(_BEAM_CANDIDATE))
_TEXTS, _NUMBERS = list_of(jsonform.text), list_of(_COUNT)
_TRACE = record(
    Trace,
    prompts=_TEXTS,
    texts=_TEXTS,
    sequences=_sequences,
    num_prompt_tokens=_COUNT,
    steps=list_of(list_of(_STEP)),
    labels=_labels,
    settings=_settings,
    sequences_scores=optional(list_of(real())),
    beams=optional(list_of(list_of(_BEAM_STEP))),
    beam_paths=optional(list_of(_NUMBERS)),
    drafts=optional(list_of(_DRAFT)),
    premature_layers=optional(list_of(_NUMBERS)),
    prompt_lengths=optional(list_of(whole(1))),
)


def _check_sizes(run: Trace) -> None:
    """Raise ValueError where lists that belong together differ in length, or a step from its
    token."""
    count, width = run.sequences.shape
    start = run.num_prompt_tokens
    for name in ("steps", "texts", "sequences_scores", "beam_paths", "premature_layers"):
        found = getattr(run, name)
        if found is not None and len(found) != count and (name != "texts" or found):
            raise ValueError(f"{name} has {len(found)} entries, for {count} sequences")
    lengths = run.prompt_lengths
    if start > width or (lengths and (len(lengths) != count or max(lengths) > start)):
        raise ValueError(
            f"num_prompt_tokens is {start} and prompt_lengths {shown(lengths)}, for {count} "
            f"sequences of {width} tokens"
        )
    if count % max(len(run.prompts), 1):
        raise ValueError(f"prompts has {len(run.prompts)} entries, for {count} sequences")
    for i, (steps, row) in enumerate(zip(run.steps, run.sequences.tolist(), strict=True)):
        if len(steps) > width - start:
            raise ValueError(f"steps[{i}] has {len(steps)} entries, for {width - start} new tokens")
        if run.premature_layers and len(run.premature_layers[i]) != len(steps):
            raise ValueError(f"premature_layers[{i}] is not as long as steps[{i}]")
        for t, step in enumerate(steps):
            if step.token_id != row[start + t]:
                jsonform.refuse(f"steps[{i}][{t}].token_id", step.token_id, f"{row[start + t]}")
            if step.token_id not in (c.token_id for c in step.candidates):
                raise ValueError(f"steps[{i}][{t}].candidates lack the chosen token")
    for i, draft in enumerate(run.drafts or []):
        most = len(draft.proposed)
        given, judged = draft.draft_probabilities, draft.model_probabilities
        if (
            draft.accepted > most
            or len(judged or []) > most
            or len(given or draft.proposed) != most
        ):
            raise ValueError(f"drafts[{i}] proposes {most} tokens, and tells of another number")


def _check_labels(run: Trace) -> None:
    # A strategy that was called with ids has neither texts nor labels.
    missing = run.mentioned() - run.labels.keys() if run.texts or run.labels else ()
    if missing:
        raise ValueError(f"labels have none for the token {min(missing)}")


def _stands_in(run: Trace, s: int) -> bool:
    """Whether a sequence was returned for want of others, and extends no hypothesis: see
    `beam_search`."""
    scores, penalty = run.sequences_scores, run.settings.get("length_penalty")
    if scores is None or not arguments.is_number(penalty) or not abs(penalty) < 100:
        return False
    return scores[s] * len(run.steps[s]) ** penalty < -1e8


def _check_beams(run: Trace) -> None:
    """Raise ValueError for a beam that does not run, and for a path that leads nowhere."""
    if run.beams is None:
        if run.beam_paths is not None:
            raise ValueError("beams is null, and beam_paths is not")
        return
    if run.beam_paths is None or not run.beams or len(run.sequences) % len(run.beams):
        raise ValueError(f"beams has {len(run.beams)} entries, for {len(run.sequences)} sequences")
    most = run.settings.get("num_beams")
    for p, steps in enumerate(run.beams):
        for t, step in enumerate(steps):
            for i, c in enumerate(step.candidates):
                beams = [c.beam] if c.next_beam is None else [c.beam, c.next_beam]
                if arguments.is_whole(most) and max(beams) >= most:
                    path = f"beams[{p}][{t}].candidates[{i}]"
                    raise ValueError(f"{path} names beam {max(beams)}, of {most} from 0")
    for s, (path, steps) in enumerate(zip(run.beam_paths, run.steps, strict=True)):
        beams = run.beams[s * len(run.beams) // len(run.sequences)]
        fits = len(path) <= len(steps) if _stands_in(run, s) else len(path) == len(steps)
        if not fits or len(path) > len(beams):
            raise ValueError(f"beam_paths[{s}] has {len(path)} entries, for {len(steps)} steps")
        for t, number in enumerate(path):
            candidates = beams[t].candidates
            if number >= len(candidates) or candidates[number].token_id != steps[t].token_id:
                jsonform.refuse(
                    f"beam_paths[{s}][{t}]", number, "the number of the step's chosen candidate"
                )
