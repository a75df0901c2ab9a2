"""Assisted (speculative) decoding: guess several tokens cheaply, let the model judge them at once.

A pass over five tokens costs the model hardly more time than a pass over one. What comes out is
what it would have written alone: its greedy text, or draws from its own distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .. import arguments
from ..models import check_length, check_model
from ..trace import Draft, Trace
from .guidance import unconditional
from .prefix import Prefix, can_take_back
from .search import Generation, check_draws, check_inputs, draw, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Unpack

    from ..settings import Settings


def assisted_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    assistant_model: PreTrainedModel | None = None,
    prompt_lookup_num_tokens: int | None = None,
    num_assistant_tokens: int = 5,
    max_new_tokens: int = 40,
    do_sample: bool = False,
    seed: int | None = None,
    top_logprobs: int = 20,
    stop: Callable[[Tensor], Tensor] | None = None,
    **settings: Unpack[Settings],
) -> Trace:
    """Greedy search or sampling, with tokens proposed by a draft and judged by the model.

    Each round proposes some tokens, shows them to the model in one pass, keeps them up to the first
    that it refuses, and puts the model's own token after them: a round gives at least one token.
    `Trace.drafts` tells, for each round, what was proposed, accepted and put in its place.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    input_ids : Tensor
        The prompt, shape (1, tokens).
    attention_mask : Tensor | None
        Of the same shape: 0 where `input_ids` is padding, else 1; all 1 unless given.
    assistant_model : PreTrainedModel | None
        A smaller model with the same vocabulary, which proposes the tokens.
    prompt_lookup_num_tokens : int | None
        Propose up to so many tokens by looking up how the text went on where its last two tokens,
        or its last one, stood before (Saxena, 2023).
    num_assistant_tokens : int
        How many tokens the draft model proposes per round.
    max_new_tokens : int
        How many tokens to generate at most.
    do_sample : bool
        Whether to draw, with proposals drawn from the draft model. The tokens follow the
        distribution that `sample` draws from, but are not its very tokens for the same seed.
    seed : int | None
        Of the draws, as in `sample`.
    top_logprobs : int
        How many of the most likely tokens to record at each step.
    stop : Callable[[Tensor], Tensor] | None
        From the text so far, shape (rows, tokens), to a bool tensor (rows,): which rows are to end.
    **settings : Settings
        For `processors.process`.

    Returns
    -------
    Trace
        The record of the run, without texts.

    Raises
    ------
    TypeError, ValueError
        Before any pass, for an argument that is out of bounds, more than one row, a draft model
        with another vocabulary or too short a context, and a model whose cache cannot take tokens
        back.

    Notes
    -----
    The processors work on the scores of both models. Leviathan et al., 2023, "Fast Inference from
    Transformers via Speculative Decoding". transformers: AssistedCandidateGenerator, with a
    constant number of tokens per round, and PromptLookupCandidateGenerator. One difference is
    meant: `stop` ends the text at the very token, as in `greedy_search`; transformers looks for
    stop strings once per round, and keeps what the round accepted after them. Greedy search
    compares what is proposed with the most likely token, and draws nothing.
    """
    sources = _check(
        model, input_ids, assistant_model, prompt_lookup_num_tokens, num_assistant_tokens
    )
    do_sample, seed = check_draws(do_sample, seed)
    run = Generation(
        model, input_ids, attention_mask, max_new_tokens, top_logprobs, stop, settings, do_sample,
        takes_back=True,
    )  # fmt: skip
    _with_rollback(run.prefix)
    choose = _Choice(do_sample, seeded(seed))
    draft = None if assistant_model is None else _Draft(run, assistant_model, choose)
    drafts = []
    while run.goes_on:
        # The round ends with a token of the model's own, for which there must be room.
        room = run.left - 1
        if draft is None:
            count = min(sources["prompt_lookup_num_tokens"], room)
            proposal = _Proposal(look_up(run.prefix.input_ids[0], count))
        else:
            proposal = draft.propose(min(sources["num_assistant_tokens"], room))
        drafts.append(_judge(run, proposal, choose))
        _roll_back([run.prefix] if draft is None else [run.prefix, draft.prefix], drafts[-1])
    trace = run.trace(**sources, assistant_model=assistant_model, seed=seed)
    trace.drafts = drafts
    return trace


class _Proposal(NamedTuple):
    """What is to be judged. Tokens that were looked up were proposed for certain."""

    tokens: list[int]
    chances: list[Tensor | None] | None = None  # what each was drawn from, shape (vocabulary,)
    probabilities: list[float] | None = None


class _Choice:
    """How a token is chosen from scores, shape (1, vocabulary): the highest one, or a draw."""

    def __init__(self, do_sample: bool, generator: torch.Generator | None):
        self.do_sample, self.generator = do_sample, generator

    def propose(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """A token, shape (1,), and what it was drawn from."""
        if not self.do_sample:
            return scores.argmax(-1).cpu(), None
        q = scores[0].softmax(-1).cpu()
        return draw(q[None], self.generator), q

    def judge(self, scores: Tensor, guess: int | None, q: Tensor | None) -> Tensor:
        """The model's token, shape (1,): `guess` where it may stay. Without one, its own."""
        if not self.do_sample:
            return scores.argmax(-1).cpu()
        p = scores[0].softmax(-1).cpu()
        if guess is None:
            return draw(p[None], self.generator)
        q = one_hot(torch.tensor(guess), len(p)) if q is None else q
        return accept_or_replace(guess, p, q, self.generator)


class _Draft:
    """The smaller model, which writes ahead."""

    def __init__(self, run: Generation, model, choose: _Choice):
        length = int(run.prompt_mask.sum())
        check_length(model, length, run.max_new_tokens, name="assistant_model")
        self.prefix = _with_rollback(Prefix(model, run.prefix.input_ids, run.prompt_mask))
        self.guide = unconditional(model, run.settings, run.num_prompt_tokens, takes_back=True)
        self.run, self.choose = run, choose

    def propose(self, count: int) -> _Proposal:
        """Up to `count` tokens, no further than an eos token."""
        tokens, chances, probabilities = [], [], []
        while len(tokens) < count and not (tokens and tokens[-1] in self.run.eos):
            logits = self.prefix.next_logits()
            try:
                scores = self.run.process(logits, self.prefix.input_ids, self.guide)
            except ValueError as error:
                raise ValueError(f"assistant_model: {error}") from error
            token, q = self.choose.propose(scores)
            self.prefix.append(token)
            tokens.append(token.item())
            chances.append(q)
            probabilities.append(scores[0].softmax(-1)[tokens[-1]].item())
        return _Proposal(tokens, chances, probabilities)


def _judge(run: Generation, proposal: _Proposal, choose: _Choice) -> Draft:
    """Show the model what is proposed, in one pass, and let it choose token by token."""
    text, count = run.prefix, len(proposal.tokens)
    length = text.input_ids.shape[1]
    for guess in proposal.tokens:
        text.append(torch.tensor([guess]))
    logits = text.read(logits_to_keep=count + 1).logits[:, -count - 1 :].float()
    accepted, probabilities = 0, []
    for i, guess in enumerate([*proposal.tokens, None]):
        so_far = text.input_ids[:, : length + i]
        scores = run.process(logits[:, i], so_far)
        q = proposal.chances[i] if proposal.chances and guess is not None else None
        token = choose.judge(scores, guess, q)
        if guess is not None:
            probabilities.append(scores[0].softmax(-1)[guess].item())
        run.recorder.record(logits[:, i], scores, token)
        run.judge(token, torch.cat([so_far, token[None].to(so_far.device)], dim=-1))
        accepted += token.item() == guess
        if token.item() != guess or not run.goes_on:
            break
    own = None if token.item() == guess else token.item()
    return Draft(proposal.tokens, accepted, own, proposal.probabilities, probabilities)


def _roll_back(prefixes: list[Prefix], draft: Draft) -> None:
    """Have both models forget what was refused, and go on after the model's own token."""
    for prefix in prefixes:
        prefix.crop(len(draft.proposed) - draft.accepted)
        if draft.replacement is not None:
            prefix.append(torch.tensor([draft.replacement]))


def accept_or_replace(
    token: int, p: Tensor, q: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """A token that follows p, made of one that was drawn from q: the same one, if it may stay.

    It stays with the probability p/q, or 1 where p is larger. A token that is refused is replaced
    by a draw from what p has over q. `p` and `q` have the shape (vocabulary,) and add up to 1; the
    result has the shape (1,). Leviathan et al., 2023, algorithm 1.
    """
    if torch.rand((), generator=generator) * q[token] < p[token]:
        return torch.tensor([token])
    over = (p - q).clamp(min=0)
    # Where p and q are all but equal, rounding can leave nothing.
    return draw((over if over.any() else p)[None], generator)


def look_up(text: Tensor, count: int) -> list[int]:
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


def _check(
    model, input_ids, assistant_model, prompt_lookup_num_tokens, num_assistant_tokens
) -> dict:
    """The numbers of tokens to propose, as plain ints."""
    check_model(model)
    if (assistant_model is None) == (prompt_lookup_num_tokens is None):
        raise ValueError(
            "assisted decoding needs a source of proposals, and only one: pass either "
            "assistant_model or prompt_lookup_num_tokens"
        )
    count = arguments.whole("num_assistant_tokens", num_assistant_tokens)
    looked_up = prompt_lookup_num_tokens
    if assistant_model is None:
        looked_up = arguments.whole("prompt_lookup_num_tokens", looked_up)
    else:
        check_model(assistant_model, name="assistant_model")
        sizes = [m.config.get_text_config().vocab_size for m in (model, assistant_model)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"assistant_model has a vocabulary of {sizes[1]} tokens, model one of {sizes[0]}: "
                "it must propose in the model's own tokens; take a smaller model of the same family"
            )
    input_ids, _ = check_inputs(model, input_ids, None)
    if len(input_ids) != 1:
        raise ValueError(
            f"input_ids has {len(input_ids)} rows: assisted decoding takes one prompt at a time, "
            "since of each row another number of tokens would be accepted"
        )
    for name, judged in (("model", model), ("assistant_model", assistant_model)):
        if judged is not None and not can_take_back(judged):
            raise ValueError(
                f"{name} is a {type(judged).__name__}, whose running state cannot be taken back to "
                "an earlier token, as a cache of keys and values can: assisted decoding needs that"
            )
    return {"num_assistant_tokens": count, "prompt_lookup_num_tokens": looked_up}
