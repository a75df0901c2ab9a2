"""Assisted (speculative) decoding: guess several tokens cheaply, let the model judge them at once.

A pass over five tokens costs the model hardly more time than a pass over one. What comes out is
what it would have written alone: its greedy text, or draws from its own distribution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import one_hot

from .. import arguments
from ..models import check_length, check_model
from ..trace import Draft, Trace
from .prefix import Prefix, can_take_back
from .search import Generation, draw, seeded


def assisted_search(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    assistant_model=None,
    prompt_lookup_num_tokens: int | None = None,
    num_assistant_tokens: int = 5,
    max_new_tokens: int = 40,
    do_sample: bool = False,
    seed: int | None = None,
    top_logprobs: int = 20,
    stop: Callable[[LongTensor], Tensor] | None = None,
    **settings,
) -> Trace:
    """Greedy search or sampling, with tokens proposed by a draft and judged by the model.

    Each round proposes some tokens, shows them to the model in one pass, keeps them up to the
    first that it refuses, and puts the model's own token behind them: a round gives at least one
    token. `Trace.drafts` tells, for each round, what was proposed, accepted and put in its place.

    assistant_model: a smaller model with the same vocabulary, which proposes
        `num_assistant_tokens` a round; or
    prompt_lookup_num_tokens: propose up to so many tokens by looking up how the text went on
        where its last two tokens, or its last one, stood before (Saxena, 2023).
    do_sample, seed: sample, with proposals drawn from the draft model. The tokens follow the
        distribution that `sample` draws from, but are not its very tokens for the same seed.

    `input_ids` has one row; `attention_mask`, `stop` and `settings` as in `greedy_search`; the
    processors work on the scores of both models. Leviathan et al., 2023, "Fast Inference from
    Transformers via Speculative Decoding". transformers: AssistedCandidateGenerator, with a
    constant number of tokens a round, and PromptLookupCandidateGenerator. One difference is meant:
    `stop` ends the text at the very token, as in `greedy_search`; transformers looks for stop
    strings once a round, and keeps what the round accepted behind them.
    Raises ValueError, before any pass, for more than one row, a draft model with another
    vocabulary or too short a context, and a model whose cache cannot take tokens back.
    """
    _check(model, input_ids, assistant_model, prompt_lookup_num_tokens, num_assistant_tokens)
    generator = seeded(seed)
    run = Generation(
        model, input_ids, attention_mask, max_new_tokens, top_logprobs, stop, settings, do_sample
    )
    text, draft, drafts = _with_rollback(run.prefix), None, []
    if assistant_model is not None:
        check_length(
            assistant_model, int(run.prompt_mask.sum()), max_new_tokens, name="assistant_model"
        )
        draft = _with_rollback(Prefix(assistant_model, input_ids, attention_mask))

    def chances(scores: Tensor) -> Tensor:
        """What a token is chosen with, shape (vocabulary,): greedy search is sure of its own."""
        if do_sample:
            return scores[0].softmax(-1).cpu()
        return one_hot(scores[0].argmax(), scores.shape[-1]).float().cpu()

    while run.goes_on:
        # Propose. The round ends with a token of the model's own, for which there must be room.
        room = run.left - 1
        if draft is None:
            proposed = look_up(text.input_ids[0], min(prompt_lookup_num_tokens, room))
            q, draft_probabilities = None, None
        else:
            count = min(num_assistant_tokens, room)
            proposed, q, draft_probabilities = _propose(run, draft, count, chances, generator)
        # Judge: one pass, which gives the model's scores behind every proposed token.
        length, count = text.input_ids.shape[1], len(proposed)
        for guess in proposed:
            text.append(torch.tensor([guess]))
        logits = text.read(logits_to_keep=count + 1).logits[:, -count - 1 :].float()
        accepted, model_probabilities = 0, []
        for i, guess in enumerate([*proposed, None]):
            so_far = text.input_ids[:, : length + i]
            scores = run.process(logits[:, i], so_far)
            p = chances(scores)
            if guess is None:
                token = draw(p[None], generator)
            else:
                # What was looked up was proposed for certain.
                q_i = one_hot(torch.tensor(guess), len(p)) if q is None else q[i]
                token = accept_or_replace(guess, p, q_i, generator)
                model_probabilities.append(scores[0].softmax(-1)[guess].item())
            run.recorder.record(logits[:, i], scores, token)
            run.judge(token, torch.cat([so_far, token[None].to(so_far.device)], dim=-1))
            accepted += token.item() == guess
            if token.item() != guess or not run.goes_on:
                break
        # Both models forget what was refused, and go on behind the model's own token.
        own = None if token.item() == guess else token
        for prefix in filter(None, [text, draft]):
            prefix.crop(count - accepted)
            if own is not None:
                prefix.append(own)
        own = None if own is None else own.item()
        drafts.append(Draft(proposed, accepted, own, draft_probabilities, model_probabilities))
    trace = run.trace(
        assistant_model=assistant_model,
        prompt_lookup_num_tokens=prompt_lookup_num_tokens,
        num_assistant_tokens=num_assistant_tokens,
        seed=seed,
    )
    trace.drafts = drafts
    return trace


def _propose(
    run: Generation,
    draft: Prefix,
    count: int,
    chances: Callable[[Tensor], Tensor],
    generator: torch.Generator | None,
) -> tuple[list[int], list[Tensor], list[float]]:
    """Let the draft model write up to `count` tokens, no further than an eos token.

    Returns them, what each was chosen with, and their probabilities.
    """
    proposed, q, probabilities = [], [], []
    while len(proposed) < count and not (proposed and proposed[-1] in run.eos):
        scores = run.process(draft.next_logits(), draft.input_ids)
        q.append(chances(scores))
        token = draw(q[-1][None], generator)
        draft.append(token)
        proposed.append(token.item())
        probabilities.append(scores[0].softmax(-1)[proposed[-1]].item())
    return proposed, q, probabilities


def accept_or_replace(
    token: int, p: Tensor, q: Tensor, generator: torch.Generator | None = None
) -> LongTensor:
    """A token that follows p, made of one that was drawn from q: the same one, if it may stay.

    It stays with the probability p/q, or 1 where p is larger. One that goes is replaced by a draw
    from what p has over q. `p` and `q` have the shape (vocabulary,) and add up to 1; the result has
    the shape (1,). Leviathan et al., 2023, algorithm 1.
    """
    if torch.rand((), generator=generator) * q[token] < p[token]:
        return torch.tensor([token])
    over = (p - q).clamp(min=0)
    # Where p and q are all but equal, rounding can leave nothing.
    return draw((over if over.any() else p)[None], generator)


def look_up(text: LongTensor, count: int) -> list[int]:
    """Up to `count` tokens with which `text`, shape (tokens,), went on where its last two tokens
    stood first; or else its last one; or else none."""
    tokens = text.tolist()
    for n in (2, 1):
        for start in range(len(tokens) - n):
            if tokens[start : start + n] == tokens[-n:]:
                return tokens[start + n : start + n + count]
    return []


def _with_rollback(prefix: Prefix) -> Prefix:
    """`prefix` with a cache that can take tokens back even from a sliding window."""
    from transformers import DynamicCache

    prefix.cache = DynamicCache(config=prefix.model.config)
    prefix.cache.activate_past_recording()
    return prefix


def _check(model, input_ids, assistant_model, prompt_lookup_num_tokens, num_assistant_tokens):
    if (assistant_model is None) == (prompt_lookup_num_tokens is None):
        raise ValueError(
            "assisted decoding needs a source of proposals, and only one: pass either "
            "assistant_model or prompt_lookup_num_tokens"
        )
    if len(input_ids) != 1:
        raise ValueError(
            f"input_ids has {len(input_ids)} rows: assisted decoding takes one prompt at a time, "
            "since of each row another number of tokens would be accepted"
        )
    arguments.whole("num_assistant_tokens", num_assistant_tokens)
    if assistant_model is None:
        arguments.whole("prompt_lookup_num_tokens", prompt_lookup_num_tokens)
    else:
        check_model(assistant_model)
        sizes = [m.config.get_text_config().vocab_size for m in (model, assistant_model)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"assistant_model has a vocabulary of {sizes[1]} tokens, model one of {sizes[0]}: "
                "it must propose in the model's own tokens; take a smaller model of the same family"
            )
    for name, judged in (("model", model), ("assistant_model", assistant_model)):
        if judged is not None and not can_take_back(judged):
            raise ValueError(
                f"{name} is a {type(judged).__name__}, whose running state cannot be taken back to "
                "an earlier token, as a cache of keys and values can: assisted decoding needs that"
            )
