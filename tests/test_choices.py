"""`score_choices` gives each answer what a pass of its own over prompt and answer gives."""

import copy
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import llmviz as lv
from tests import tiny
from tests.toy import Bigrams

PROMPT = "is cabbage goods or life? "
CHOICES = ["goods", "life", "l", "neither of the two", "ö"]


def separately(model, tokenizer, prompt, choices, start):
    """The log-probability of each token after the first `start`, by a pass for each choice."""
    found = []
    for choice in choices:
        ids = tokenizer(prompt + choice, return_tensors="pt").input_ids
        with torch.no_grad():
            log_probs = model(ids, use_cache=False).logits[0].log_softmax(-1)
        said = log_probs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        found.append(said[start - 1 :].tolist())
    return found


@pytest.mark.parametrize("batch_size", [64, 2])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_one_pass_over_the_prompt_equals_separate_passes(architecture, batch_size):
    model, tokenizer = tiny.model(architecture), tiny.tokenizer()
    table = lv.score_choices(model, tokenizer, PROMPT, CHOICES, batch_size=batch_size)
    wanted = separately(model, tokenizer, PROMPT, CHOICES, len(PROMPT))
    assert table.choice.tolist() == CHOICES
    for found, own in zip(table.token_log_probs, wanted, strict=True):
        assert found == pytest.approx(own, abs=1e-4)
    assert table.log_prob.tolist() == pytest.approx([sum(own) for own in wanted], abs=1e-3)


def test_the_numbers_by_hand():
    # Token 0 begins the text "a"; what follows a token depends on it alone.
    model = Bigrams([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    tokenizer = _letters("abc")
    table = lv.score_choices(model, tokenizer, "a", ["b", "bb", "cab"])
    sums = [0.6, 0.6 * 0.25, 0.3 * 0.2 * 0.6]
    assert table.tokens.tolist() == [["b"], ["b", "b"], ["c", "a", "b"]]
    assert table.token_log_probs[2] == pytest.approx([math.log(p) for p in (0.3, 0.2, 0.6)])
    assert table.log_prob.tolist() == pytest.approx([math.log(p) for p in sums])
    assert table.probability.tolist() == pytest.approx([p / sum(sums) for p in sums])
    means = [p ** (1 / n) for n, p in enumerate(sums, start=1)]
    assert table.mean_log_prob.tolist() == pytest.approx([math.log(p) for p in means])
    assert table.mean_probability.tolist() == pytest.approx([p / sum(means) for p in means])


def _letters(letters: str, merges=()) -> PreTrainedTokenizerFast:
    """A token a letter, and one for each of `merges`, pairs of tokens."""
    pieces = [*letters, *(a + b for a, b in merges)]
    core = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges)))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_where_a_choice_melts_into_the_prompt_all_scores_begin_before_it():
    # "ab" and "c" are read as "a", "bc"; "ab" and "a" as "a", "b", "a".
    tokenizer = _letters("abc", [("b", "c")])
    model = Bigrams(
        [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.2, 0.1], [0.2, 0.2, 0.5, 0.1], [0.1, 0.1, 0.1, 0.7]]
    )
    table = lv.score_choices(model, tokenizer, "ab", ["c", "a"])
    assert table.tokens.tolist() == [["bc"], ["b", "a"]]
    assert table.log_prob.map(math.exp).tolist() == pytest.approx([0.4, 0.2 * 0.5])
    # Alone, the second one begins where the prompt ends.
    alone = lv.score_choices(model, tokenizer, "ab", ["a"])
    assert alone.tokens[0] == ["a"] and math.exp(alone.log_prob[0]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="prompt has no token that stays one"):
        lv.score_choices(model, tokenizer, "b", ["c", "a"])


def test_a_real_tokenizer_and_model(default_model):
    model, tokenizer = default_model
    # The space at the prompt's end belongs to the answer's first token.
    prompt, choices = "The price of cabbage belongs to ", ["goods", "life", "4 people"]
    pieces = [tokenizer.tokenize(prompt + choice) for choice in choices]
    start = len(tokenizer.tokenize(prompt)) - 1
    table = lv.score_choices(model, tokenizer, prompt, choices)
    assert table.tokens.tolist() == [["␣goods"], ["␣life"], ["␣", "4", "␣people"]]
    assert [len(p) - start for p in pieces] == [1, 1, 3]
    for found, own in zip(
        table.token_log_probs,
        separately(model, tokenizer, prompt, choices, start),
        strict=True,
    ):
        assert found == pytest.approx(own, abs=1e-3)


def test_the_prompt_is_read_once_and_the_answers_together():
    model, seen = tiny.model("llama"), []
    hook = model.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    try:
        lv.score_choices(model, tiny.tokenizer(), PROMPT, ["goods", "life"])
        lv.score_choices(model, tiny.tokenizer(), PROMPT, ["g", "l"])
    finally:
        hook.remove()
    assert seen == [(1, len(PROMPT)), (2, 4), (1, len(PROMPT))]


def test_a_table_prints_all_of_its_numbers_short():
    table = lv.score_choices(tiny.model("llama"), tiny.tokenizer(), PROMPT, CHOICES)
    assert max(len(n.split(".")[1]) for n in str(table.token_log_probs[3])[1:-1].split(", ")) == 3
    assert str(table.token_log_probs[3]) in str(table)
    assert table.probability.sum() == pytest.approx(1) == table.mean_probability.sum()


def test_special_tokens_of_a_rendered_template_are_not_doubled():
    begins = copy.deepcopy(tiny.tokenizer())
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tiny.BOS)]
    )
    model = tiny.model("llama")
    written = lv.score_choices(model, tiny.tokenizer(), "<bos>hi ", ["a", "b"])
    own = lv.score_choices(model, begins, "hi ", ["a", "b"])
    assert own.log_prob.tolist() == written.log_prob.tolist()
    again = lv.score_choices(model, begins, "<bos>hi ", ["a", "b"], add_special_tokens=False)
    assert again.log_prob.tolist() == written.log_prob.tolist()
    # And a single special token is enough for an answer to follow.
    assert len(lv.score_choices(model, begins, "", ["a", "b"])) == 2


@pytest.mark.parametrize(
    ("bad", "error", "named"),
    [
        ({"prompt": 5}, TypeError, "prompt must be a string"),
        ({"prompt": ["a"]}, TypeError, "prompt must be a string"),
        ({"prompt": ""}, ValueError, "prompt has no token"),
        ({"choices": "goods"}, TypeError, "choices must be a list of strings"),
        ({"choices": ["a", 5]}, TypeError, "choices must be a list of strings"),
        ({"choices": []}, ValueError, "choices is an empty list"),
        ({"choices": ["a", ""]}, ValueError, r"choices\[1\] is ''"),
        ({"choices": ["a", "b", "a"]}, ValueError, "choices holds 'a' twice"),
        ({"choices": ["a", "x" * 128]}, ValueError, "context holds 128"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"batch_size": True}, ValueError, "batch_size=True"),
        ({"add_special_tokens": "no"}, ValueError, "add_special_tokens='no'"),
        ({"prompt": "a\ud83d"}, ValueError, "prompt holds half a surrogate"),
        ({"choices": ["a", "\ud83d"]}, ValueError, r"choices\[1\] holds half a surrogate"),
        ({"choices": None}, TypeError, "choices must be a list of strings, not NoneType"),
        ({"choices": 5}, TypeError, "choices must be a list of strings, not int"),
        ({"choices": np.array([1, 2])}, TypeError, "choices must be a list of strings"),
        ({"choices": np.array("a")}, TypeError, "choices must be a list of strings"),
        ({"choices": iter(())}, ValueError, "choices is an empty list"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(bad, error, named):
    model = tiny.model("llama")
    hook = model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        with pytest.raises(error, match=named):
            arguments = {"prompt": "hi", "choices": ["a", "b"]} | bad
            lv.score_choices(model, tiny.tokenizer(), **arguments)
    finally:
        hook.remove()


def test_the_longest_text_that_fits_does():
    # The last token is not read.
    table = lv.score_choices(tiny.model("gpt2"), tiny.tokenizer(), "hi", ["a", "x" * 127])
    assert len(table.tokens[1]) == 127


def test_the_choices_may_be_any_iterable():
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    wanted = lv.score_choices(model, tokenizer, PROMPT, CHOICES)
    for choices in (tuple(CHOICES), iter(CHOICES), np.array(CHOICES), dict.fromkeys(CHOICES),
                    wanted.choice):  # fmt: skip
        table = lv.score_choices(model, tokenizer, PROMPT, choices, batch_size=np.int64(2))
        assert table.choice.tolist() == CHOICES
        assert table.log_prob.tolist() == pytest.approx(wanted.log_prob.tolist(), abs=1e-4)


def test_tokens_without_an_embedding_are_refused():
    longer = copy.deepcopy(tiny.tokenizer())
    longer.add_tokens(["<extra>"])
    for texts, named in (
        ({"prompt": "hello <extra> "}, "prompt holds the token <extra>, id 259"),
        ({"choices": ["a", "b<extra>"]}, r"choices\[1\] holds the token <extra>"),
    ):
        with pytest.raises(ValueError, match=named):
            lv.score_choices(
                tiny.model("llama"), longer, **({"prompt": "hi ", "choices": ["a", "b"]} | texts)
            )


def test_what_makes_no_probabilities_is_told_as_it_is():
    nan, inf = math.nan, math.inf
    for first, said in [
        ([nan, 0.5, 0.5], "NaN"),
        ([0.5, inf, 0.5], r"\+inf"),
        ([0.0, 0.0, 0.0], "−inf throughout"),
        ([1.0, 0.0, 0.0], "choices: .*each of them the probability 0"),
    ]:
        model = Bigrams([first, [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
        for choices in (["b", "c"], ["ba", "cab"]):
            with pytest.raises(ValueError, match=said) as error:
                lv.score_choices(model, _letters("abc"), "a", choices)
            assert ("NaN" in str(error.value)) == (first[0] != 1.0)
    # A single one that the model rules out has no share, and the others have all.
    model = Bigrams([[0.5, 0.5, 0.0], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    table = lv.score_choices(model, _letters("abc"), "a", ["a", "b", "c"])
    assert table.probability.tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_scores_that_are_no_numbers_are_refused():
    model = Bigrams([[math.nan, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="NaN"):
        lv.score_choices(model, _letters("ab"), "a", ["a", "b"])
