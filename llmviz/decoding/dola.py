"""DoLa: what the last layer says, as against what an earlier layer would have said."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import LongTensor, Tensor

from .. import arguments
from ..head import Head
from ..models import check_model
from ..trace import Trace
from .search import Generation, check_draws, draw, seeded


def dola(
    model,
    input_ids: LongTensor,
    attention_mask: LongTensor | None = None,
    *,
    dola_layers: str | list[int] = "high",
    max_new_tokens: int = 40,
    do_sample: bool = False,
    seed: int | None = None,
    top_logprobs: int = 20,
    stop: Callable[[LongTensor], Tensor] | None = None,
    **settings,
) -> Trace:
    """Take the token whose log-probability rose most from an early layer to the last.

    Each step, the early layer is the one of `dola_layers` whose prediction is furthest from the
    last layer's (`contrast`); the trace's `premature_layers` name it.

    dola_layers: "high" or "low", every second layer of the upper or lower half of the model (of
        its last or first 20, where it has more than 40), or a list of layers' numbers: 0 is the
        embedding, n the output of the n-th layer; the last layer is no candidate. With tied
        embeddings, where layer 0 predicts little but the token it was given, "low" begins at 2.
    do_sample, seed: draw from the contrasted scores, as `sample` does.

    `input_ids`, `attention_mask`, `stop` and `settings` as in `greedy_search`; the processors work
    on the contrasted scores. The paper advises repetition_penalty=1.2.
    Chuang et al., 2023, "DoLa: Decoding by Contrasting Layers Improves Factuality in Large
    Language Models". Candidates are chosen as in transformers, which had it until version 4. Two
    things follow the paper, not that code: each row of a batch has its own early layer, and the
    divergence is Jensen and Shannon's (the code had the arguments of both halves swapped). One
    follows the logit lens: early layers pass the final norm before the head, as the last one does.
    Raises ValueError for `dola_layers` that name no layer, or one that the model does not have, and
    for a model that does not end in layers, norm and head.
    """
    check_model(model)
    head = Head(model)
    layers = candidate_layers(model, dola_layers)
    do_sample, seed = check_draws(do_sample, seed)
    generator = seeded(seed)
    run = Generation(
        model, input_ids, attention_mask, max_new_tokens, top_logprobs, stop, settings, do_sample
    )
    if run.settings.get("guidance_scale", 1.0) < 1e-30:
        raise ValueError(
            f"guidance_scale={run.settings['guidance_scale']} with dola_layers: it must be above "
            "0, since what DoLa has ruled out would become certain"
        )
    premature = []
    while run.goes_on:
        output = run.prefix.read(output_hidden_states=True)
        logits = output.logits[:, -1].float()
        hidden = [output.hidden_states[i][:, -1].to(logits.device) for i in layers]
        early_logits = head.unembed(head.norm(torch.stack(hidden, dim=1))).float()
        allowed = run.process(logits) > -math.inf
        contrasted, layer = contrast(logits, early_logits, allowed)
        premature.append([layers[i] for i in layer.tolist()])
        scores = run.process(contrasted)
        tokens = draw(scores.softmax(-1), generator) if do_sample else scores.argmax(-1)
        run.append(tokens, logits, scores)
    named = dola_layers if isinstance(dola_layers, str) else layers
    trace = run.trace(dola_layers=named, seed=seed)
    by_row = zip(*premature, strict=True)
    trace.premature_layers = [
        list(chosen[: len(steps)]) for chosen, steps in zip(by_row, trace.steps, strict=True)
    ]
    return trace


def contrast(
    logits: Tensor,
    early_logits: Tensor,
    allowed: Tensor | None = None,
    relative_top: float = 0.1,
) -> tuple[Tensor, LongTensor]:
    """Log-probabilities minus those of the early layer that differs most.

    logits: the last layer's, shape (rows, vocabulary).
    early_logits: the candidates', shape (rows, layers, vocabulary).
    allowed: which tokens no rule forbids, of the shape of `logits`; all of them unless given.
    relative_top: tokens whose probability is below this share of the most likely allowed one's are
        ruled out: what an early layer thinks nothing of would win for no other reason.

    Returns the scores, shape (rows, vocabulary), and which of the candidates was taken, shape
    (rows,): the one with the largest Jensen–Shannon divergence from the last layer.
    """
    final, early = logits.log_softmax(-1), early_logits.log_softmax(-1)
    layer = jensen_shannon(final[:, None], early).argmax(-1)
    gain = final - early[torch.arange(len(early), device=early.device), layer]
    possible = final if allowed is None else final.masked_fill(~allowed, -math.inf)
    plausible = final >= possible.amax(-1, keepdim=True) + math.log(relative_top)
    return gain.masked_fill(~plausible, -math.inf), layer


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The divergence of two distributions, given as log-probabilities along the last dimension.

    Half of KL(p ‖ m) + KL(q ‖ m), with m midway between p and q: from 0 to log 2, in nats.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1)) / 2


def candidate_layers(model, dola_layers: str | list[int]) -> list[int]:
    """The numbers of the layers that `dola_layers` stands for."""
    count = model.config.get_text_config().num_hidden_layers
    named = dola_layers if isinstance(dola_layers, str) else None
    if named == "high":
        return list(range(max(count // 2, count - 20), count, 2))
    if named == "low":
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        start = min(2, count - 1) if tied else 0
        return list(range(start, min(count // 2, 20), 2)) or [start]
    dola_layers = list(dola_layers) if isinstance(dola_layers, (tuple, range)) else dola_layers
    whole = isinstance(dola_layers, list) and all(map(arguments.is_whole, dola_layers))
    if not whole or not dola_layers or not all(0 <= i < count for i in dola_layers):
        raise ValueError(
            f'dola_layers={arguments.shown(dola_layers)}: it must be "low", "high", or a list of '
            f"one or more layers' numbers from 0 (the embedding) to {count - 1}"
        )
    return [int(i) for i in dola_layers]
