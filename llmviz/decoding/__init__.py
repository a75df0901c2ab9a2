"""Decoding: plain loops over a model with a KV cache, each of which fills a trace.

Every loop reads aloud as: look at the scores of the next token, process them, choose, append.
The strategies take token ids; `generate` takes text and picks the strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from .. import arguments, processors
from ..models import check_length, check_model, vocab_size
from ..tokens import encode
from ..trace import Trace
from .assisted import assisted_search
from .beams import beam_search, check_beams
from .brought import warn_of_brought
from .contrastive import check_alpha, contrastive_search
from .early_layers import candidate_layers, dola
from .prefix import check_cache, pad_token_id
from .search import MOST_ROWS, check_draws, greedy_search, sample
from .text import trace_of, with_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "assisted_search",
    "beam_search",
    "contrastive_search",
    "dola",
    "generate",
    "greedy_search",
    "sample",
    "trace_of",
]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[str],
    *,
    max_new_tokens: int = 40,
    do_sample: bool = False,
    num_beams: int = 1,
    seed: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    epsilon_cutoff: float = 0.0,
    eta_cutoff: float = 0.0,
    top_h: float | None = None,
    guidance_scale: float = 1.0,
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    no_repeat_ngram_size: int = 0,
    bad_words_ids: Sequence[Sequence[int]] | None = None,
    suppress_tokens: Sequence[int] | None = None,
    begin_suppress_tokens: Sequence[int] | None = None,
    forced_eos_token_id: int | Sequence[int] | None = None,
    exponential_decay_length_penalty: tuple[int, float] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    logits_processor: Callable | Sequence[Callable] | None = None,
    min_new_tokens: int = 0,
    stop_strings: str | Sequence[str] | None = None,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    num_beam_groups: int = 1,
    diversity_penalty: float = 0.0,
    penalty_alpha: float | None = None,
    dola_layers: str | Sequence[int] | None = None,
    assistant_model: PreTrainedModel | None = None,
    prompt_lookup_num_tokens: int | None = None,
    num_assistant_tokens: int = 5,
    num_return_sequences: int = 1,
    cache_implementation: str | None = None,
    top_logprobs: int = 20,
    add_special_tokens: bool = True,
) -> Trace:
    """Continue `prompt`, and record every step.

    The tokens are those of `model.generate` for the same arguments, with one difference that is
    meant: nothing is applied unless it is asked for. transformers cuts at `top_k=50` whenever
    `do_sample=True`, and takes from the model's generation_config all that the call does not say:
    penalties, forced and suppressed tokens, beams, the settings of sampling. A warning, once per
    model, names what a model brings and how to pass it on (`decoding.brought`).

    One strategy runs: the one that an argument below names, or else `sample` where `do_sample`, or
    else `greedy_search`. The processors (`llmviz.processors`) work in every strategy; temperature
    and the cut-offs, from top_k to top_h, need `do_sample=True`.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model of transformers, as `load` returns it.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    prompt : str | Sequence[str]
        A text, or a list of texts, which are run as one batch padded on the left.
    max_new_tokens : int
        How many tokens to generate at most.
    do_sample : bool
        Whether to draw each token, as `sample` does.
    num_beams : int
        Above 1, `beam_search` runs, to which `length_penalty`, `early_stopping`, `num_beam_groups`
        and `diversity_penalty` belong.
    seed : int | None
        Draws come from a CPU generator with this seed, and equal those of `torch.manual_seed(seed);
        model.generate(do_sample=True, …)` on the CPU; None draws from torch's global CPU generator.
    temperature : float
        Divides the scores; below 1 sharpens the distribution.
    top_k : int
        Keeps the k most likely tokens; 0 is off.
    top_p : float
        Keeps the fewest most likely tokens that have this probability together; 1 is off.
    min_p : float
        Keeps tokens of at least this share of the highest probability; 0 is off.
    typical_p : float
        Keeps the most typical tokens that have this probability together; 1 is off.
    epsilon_cutoff : float
        Keeps tokens of at least this probability; 0 is off.
    eta_cutoff : float
        The same, lowered where the entropy is high; 0 is off.
    top_h : float | None
        Keeps the most likely tokens that have this share of the entropy.
    guidance_scale : float
        Above 1 the prompt counts for more; the text without it costs a second pass per step
        (`decoding.guidance`).
    sequence_bias : Mapping[tuple[int, ...], float] | Sequence | None
        What to add to the score of a token that completes a sequence.
    repetition_penalty : float
        Divides the scores of tokens that the text holds; 1 is off.
    presence_penalty : float
        What a generated token loses once.
    frequency_penalty : float
        What a generated token loses each time.
    no_repeat_ngram_size : int
        The length of the n-grams that may stand in the text only once; 0 is off.
    bad_words_ids : Sequence[Sequence[int]] | None
        Words, as lists of ids, that never appear.
    suppress_tokens : Sequence[int] | None
        Ids that never appear.
    begin_suppress_tokens : Sequence[int] | None
        Ids that do not come first.
    forced_eos_token_id : int | Sequence[int] | None
        An id, or several, for the last of `max_new_tokens`.
    exponential_decay_length_penalty : tuple[int, float] | None
        (start, factor): eos becomes more likely from so many new tokens on.
    prefix_allowed_tokens_fn : Callable[[int, Tensor], Sequence[int]] | None
        From the prompt's number and the text so far to the ids that may follow.
    logits_processor : Callable | Sequence[Callable] | None
        Functions from (input_ids, scores) to scores, such as those of transformers.
    min_new_tokens : int
        No text ends before it has so many new tokens.
    stop_strings : str | Sequence[str] | None
        Texts end where one of these has appeared; an empty list stands for none.
    length_penalty : float
        The power of the length by which a hypothesis's sum is divided.
    early_stopping : bool | str
        True, False or "never": when a beam search has seen enough.
    num_beam_groups : int
        How many groups the beams form.
    diversity_penalty : float
        What a token loses for each beam of an earlier group that chose it.
    penalty_alpha : float | None
        With a number, `contrastive_search` among the `top_k` most likely runs.
    dola_layers : str | Sequence[int] | None
        With "high", "low" or a list of layers, `dola` runs.
    assistant_model : PreTrainedModel | None
        With a smaller model, `assisted_search` runs, and that model proposes tokens.
    prompt_lookup_num_tokens : int | None
        With a number, `assisted_search` runs, and proposes so many tokens that stood in the text
        before.
    num_assistant_tokens : int
        How many tokens `assistant_model` proposes at a time.
    num_return_sequences : int
        Continuations for each prompt; more than one needs `do_sample=True`, or as many beams.
    cache_implementation : str | None
        "static" is the fast way on a GPU: a KV cache of a fixed length, for which the model is
        compiled to one CUDA graph (`prefix.StaticPrefix`). The first run of a batch size takes a
        minute longer. For greedy search and sampling; the tokens are the same, up to the rounding
        of kernels that compute in another order.
    top_logprobs : int
        How many of the most likely tokens to record at each step.
    add_special_tokens : bool
        Whether the tokenizer may put a bos token in front; False for a prompt that a chat template
        wrote, which begins with its own.

    Returns
    -------
    Trace
        The record of the run, with its texts.

    Raises
    ------
    TypeError, ValueError
        Before the model runs, for an argument that is out of bounds, for two that contradict each
        other, or for a prompt that with `max_new_tokens` would not fit into the model's context.
    """
    given = {k: v for k, v in locals().items() if k not in ("model", "tokenizer", "prompt")}
    return planned(model, tokenizer, prompt, **given)()


def planned(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[str], **given
) -> Callable[[], Trace]:
    """Check all arguments of `generate`, by name, and return what runs it; no pass is made so far.

    Raises TypeError for an unknown name, and whatever `generate` raises.
    """
    for name in given.keys() - _UNTOLD.keys():
        raise TypeError(f"{name} is not an argument of lv.generate")
    given = _UNTOLD | given
    check_model(model)
    size = model.config.get_text_config().vocab_size
    settings = processors.check(
        vocab_size=size, **{name: given[name] for name in processors.DEFAULTS}
    )
    given |= settings | _checked(model, **given)
    strategy = _strategy(**given)
    input_ids, attention_mask = encode(
        tokenizer,
        prompt,
        pad_token_id=pad_token_id(model),
        add_special_tokens=given["add_special_tokens"],
        vocab_size=vocab_size(model),
    )
    check_length(model, attention_mask.sum(-1).max().item(), given["max_new_tokens"])
    stop = _stop(given["stop_strings"], tokenizer)
    told = {k: v for k, v in given.items() if type(v) is not type(_UNTOLD[k]) or v != _UNTOLD[k]}
    warn_of_brought(model, told, known=_UNTOLD, call="lv.generate")
    if strategy is assisted_search and len(input_ids) > 1:
        raise ValueError(f"prompt is {len(input_ids)} texts: assisted decoding takes one at a time")
    if strategy is not beam_search:
        input_ids = input_ids.repeat_interleave(given["num_return_sequences"], dim=0)
        attention_mask = attention_mask.repeat_interleave(given["num_return_sequences"], dim=0)
    own = {name: given[name] for name in (*_OF_ALL, *_ARGUMENTS_OF[strategy])}
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)

    def run() -> Trace:
        found = strategy(model, input_ids, attention_mask, stop=stop, **settings, **own)
        return with_text(replace(found, prompts=prompts, settings=given), tokenizer)

    return run


_UNTOLD = generate.__kwdefaults__  # each argument's value where the caller says nothing
_OF_ALL = ("max_new_tokens", "top_logprobs")
_BEAM_ARGUMENTS = (
    "num_beams", "length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty",
)  # fmt: skip
_ARGUMENTS_OF = {
    greedy_search: ("cache_implementation",),
    sample: ("seed", "cache_implementation"),
    beam_search: (*_BEAM_ARGUMENTS, "num_return_sequences", "do_sample", "seed"),
    contrastive_search: ("penalty_alpha",),
    dola: ("dola_layers", "do_sample", "seed"),
    assisted_search: (
        "assistant_model", "prompt_lookup_num_tokens", "num_assistant_tokens", "do_sample", "seed",
    ),
}  # fmt: skip


def _checked(model, **given) -> dict:
    """The arguments of `generate` that are no processors, as plain Python data."""
    do_sample, seed = check_draws(given["do_sample"], given["seed"])
    plain = {"do_sample": do_sample, "seed": seed}
    plain["top_logprobs"] = arguments.whole("top_logprobs", given["top_logprobs"])
    plain["num_return_sequences"] = arguments.whole(
        "num_return_sequences", given["num_return_sequences"], high=MOST_ROWS
    )
    one = arguments.whole("num_beams", given["num_beams"], high=MOST_ROWS) == 1
    plain |= check_beams(
        **{name: given[name] for name in (*_BEAM_ARGUMENTS, "max_new_tokens")},
        do_sample=do_sample,
        num_return_sequences=1 if one else plain["num_return_sequences"],
    ) | {"num_return_sequences": plain["num_return_sequences"]}
    plain["num_assistant_tokens"] = arguments.whole(
        "num_assistant_tokens", given["num_assistant_tokens"]
    )
    if given["prompt_lookup_num_tokens"] is not None:
        plain["prompt_lookup_num_tokens"] = arguments.whole(
            "prompt_lookup_num_tokens", given["prompt_lookup_num_tokens"]
        )
    if given["penalty_alpha"] is not None:
        plain["penalty_alpha"] = check_alpha(given["penalty_alpha"])
    if given["dola_layers"] is not None:
        layers = candidate_layers(model, given["dola_layers"])
        plain["dola_layers"] = (
            given["dola_layers"] if isinstance(given["dola_layers"], str) else layers
        )
    plain["stop_strings"] = _stop_strings(given["stop_strings"])
    check_cache(given["cache_implementation"])
    plain["add_special_tokens"] = arguments.flag("add_special_tokens", given["add_special_tokens"])
    return plain


def _strategy(*, do_sample: bool, num_beams: int, num_return_sequences: int, **given) -> Callable:
    """The strategy that the arguments of `generate` ask for; a ValueError where they clash."""
    asked = {"num_beams": beam_search} if num_beams > 1 else {}
    for name, strategy in (
        ("penalty_alpha", contrastive_search),
        ("dola_layers", dola),
        ("assistant_model", assisted_search),
        ("prompt_lookup_num_tokens", assisted_search),
    ):
        if given[name] is not None:
            asked[name] = strategy
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} ask for different strategies: pass only one")
    strategy = next(iter(asked.values()), sample if do_sample else greedy_search)
    if strategy is contrastive_search and do_sample:
        raise ValueError("penalty_alpha with do_sample=True: contrastive search does not draw")
    if strategy is contrastive_search and given["top_k"] == 0:
        raise ValueError(
            f"penalty_alpha={given['penalty_alpha']} with top_k=0: contrastive search compares the "
            "top_k most likely tokens; pass top_k=4, for one"
        )
    if given["cache_implementation"] and strategy not in (greedy_search, sample):
        raise ValueError(
            f'cache_implementation="static" with {strategy.__name__.replace("_", " ")}, which '
            "needs a cache that grows: pass None, or greedy search or sampling"
        )
    one_answer = strategy is assisted_search or not (do_sample or strategy is beam_search)
    if num_return_sequences > 1 and one_answer:
        raise ValueError(
            f"num_return_sequences={num_return_sequences} with "
            f"{strategy.__name__.replace('_', ' ')}, which has only one answer: pass "
            f"do_sample=True, or num_beams={num_return_sequences} or more"
        )
    return strategy


def _stop_strings(stop_strings: str | list[str] | None) -> str | list[str] | None:
    """`stop_strings`; an error where a text could not end with them."""
    strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
    if strings is None:
        return None
    if not isinstance(strings, (list, tuple)) or not all(isinstance(s, str) and s for s in strings):
        raise ValueError(
            f"stop_strings={arguments.shown(stop_strings)}: it must be a string or a list of "
            "strings, none of them empty"
        )
    strings = [arguments.text("stop_strings", string) for string in strings]
    return stop_strings if isinstance(stop_strings, str) else strings


def _stop(stop_strings: str | list[str] | None, tokenizer) -> Callable | None:
    """From input_ids (rows, tokens) to a bool tensor (rows,): whose text has a stop string."""
    if not stop_strings:
        return None
    from transformers import StopStringCriteria

    try:
        criteria = StopStringCriteria(tokenizer=tokenizer, stop_strings=stop_strings)
    except ValueError as error:
        raise ValueError(
            f"stop_strings={arguments.shown(stop_strings)}: it cannot be found in this tokenizer's "
            "texts; leave out what its vocabulary cannot spell, or pass a `stop` function to one "
            f"of the strategies ({error})"
        ) from error
    return lambda input_ids: criteria(input_ids, None)
