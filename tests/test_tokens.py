"""Every token can be read: spaces, control characters, special tokens, parts of characters."""

import pytest

import llmviz as lv
from llmviz.tokens import encode
from tests import tiny


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" dog", "␣dog"),
        ("\n\n", "↵↵"),
        ("\ta", "⇥a"),
        ("\r", "␍"),
        ("\u200b", "⟨U+200B⟩"),
        ("\x00", "⟨U+0000⟩"),
        ("é你🤗", "é你🤗"),
        ("</script>", "</script>"),  # escaping is the view's business
    ],
)
def test_readable(text, shown):
    assert lv.readable(text) == shown


def test_labels_of_the_default_tokenizer(default_model):
    _, tokenizer = default_model
    ids = tokenizer("Hi there\n🤗<|im_end|>").input_ids
    labels = lv.token_labels(tokenizer, ids)
    assert labels[:3] == ["Hi", "␣there", "↵"]
    assert labels[-1] == "<|im_end|>"
    parts = labels[3:-1]
    assert all(p.startswith("⟨") and p.endswith("⟩") for p in parts)
    spelled = bytes.fromhex("".join(p.strip("⟨⟩").replace(" ", "") for p in parts))
    assert spelled.decode() == "🤗"


def test_every_token_of_the_default_vocabulary_has_a_visible_label(default_model):
    _, tokenizer = default_model
    labels = lv.token_labels(tokenizer, range(len(tokenizer)))
    assert all(label and label.isprintable() for label in labels)
    assert not any(" " in label for label in labels if not label.startswith("⟨"))
    assert "\ufffd" not in "".join(labels)


def test_an_id_without_a_token_is_shown_by_its_number():
    assert lv.token_labels(tiny.tokenizer(), [99999]) == ["⟨99999⟩"]


def test_sentencepiece_keeps_its_leading_space():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.Unigram([("▁", -3.0), ("▁dog", -1.0), ("s", -1.0), ("<0xE2>", -9.0)]))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace()],
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert lv.token_labels(tokenizer, [1, 2]) == ["␣dog", "s"]
    assert lv.token_labels(tokenizer, [3]) == ["⟨E2⟩"]


def test_token_table(default_model):
    _, tokenizer = default_model
    table = lv.token_table(tokenizer, "a dog<|im_end|><repo_name>")
    assert table.token.tolist() == ["a", "␣dog", "<|im_end|>", "<repo_name>"]
    assert table.special.tolist() == [False, False, True, True]
    assert table.piece[1] == "Ġdog"
    with pytest.raises(TypeError, match="text"):
        lv.token_table(tokenizer, 3)


def test_encode_pads_on_the_left():
    ids, mask = encode(tiny.tokenizer(), ["abc", "a"], pad_token_id=9)
    assert ids[1].tolist()[:2] == [9, 9] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids[0, -1] == tiny.tokenizer()("c")["input_ids"][0]
