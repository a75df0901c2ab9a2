"""Every token can be read: spaces, control characters, special tokens, parts of characters."""

import copy
import hashlib
import random

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import llmviz as lv
from llmviz.tokens import GrowingText, decoded, encode, printable, token_id_of
from tests import decoders, tiny


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
        ("\x1b[2J\x07", "⟨U+001B⟩[2J⟨U+0007⟩"),
        ("a\u202eb\u2066", "a⟨U+202E⟩b⟨U+2066⟩"),
        ("\u00a0\u3000\u200d\u2028", "⟨U+00A0⟩⟨U+3000⟩⟨U+200D⟩⟨U+2028⟩"),
        ("\ud83d", "⟨U+D83D⟩"),
        ("</script>", "</script>"),  # escaping is the view's business
    ],
)
def test_readable(text, shown):
    assert lv.readable(text) == shown


def test_printable_keeps_words_and_shows_what_steers_a_terminal():
    for plain in ("a b\n\tc", "Bonjour\u00a0!", "👩‍👩‍👧", "می‌خواهم", "你好　", "❤️", "\U0001faf7"):
        assert printable(plain) == plain
    controls = [chr(c) for c in [*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F)]]
    controls += [*"\u2066\u2067\u2068\u2069\u200b\ufeff\u2028\u2029\ud800\U000e0041"]
    for control in {*controls} - {*"\n\t"}:
        shown = printable(f"a{control}b")
        assert control not in shown and shown in (f"a⟨U+{ord(control):04X}⟩b", "a␍b")


# Labels


LABELS = {
    "byte level": {"Ġ": "␣", "ĠĠ": "␣␣", "Ġdog": "␣dog", "Ċ": "↵", "ð": "⟨F0⟩"},
    "byte fallback, as Gemma's": {"▁": "␣", "▁▁": "␣␣", "▁dog": "␣dog", "<0xE2>": "⟨E2⟩"},
    "byte fallback, as Llama 2's": {"▁": "␣", "▁▁": "␣␣", "▁dog": "␣dog", "dog": "dog"},
    "metaspace": {"▁": "␣", "▁▁": "␣␣", "▁dog": "␣dog", "s": "s", "\u00a0": "⟨U+00A0⟩"},
    "word piece": {"ing": "␣ing", "##ing": "ing", "a": "␣a", "##a": "a", "<eos>": "<eos>"},
    "suffix": {"ab": "ab", "ab</w>": "ab␣", "a": "a", "b": "b"},
    "ctc": {"a": "a", "b": "b", "|": "␣"},
    "none": {"a": "a", "好": "好"},
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_show_what_a_token_adds(kind):
    ours = decoders.tokenizer(kind)
    for piece, label in LABELS[kind].items():
        assert lv.token_labels(ours, [ours.convert_tokens_to_ids(piece)]) == [label], piece


@pytest.mark.parametrize("kind", decoders.KINDS)
def test_tokens_of_spaces_do_not_look_the_same(kind):
    ours = decoders.tokenizer(kind)
    labels = lv.token_labels(ours, range(len(ours)))
    assert all(label and label.isprintable() and " " not in label for label in labels)
    blank = [label for label in labels if not label.strip("␣↵⇥␍") or "⟨" in label]
    assert len({*blank}) == len(blank)
    assert labels[-1].endswith("<mark>") and "<eos>" in labels


def test_labels_are_what_they_were(default_model):
    """Stored notebooks hold them: all of the default vocabulary, by their SHA-256."""
    _, tokenizer = default_model
    labels = "\n".join(lv.token_labels(tokenizer, range(len(tokenizer) + 5)))
    assert (
        hashlib.sha256(labels.encode()).hexdigest()
        == "551314adb318fdc8370c5a1b291ebb1f70e3a9105b9086f05fa0e4139be0db9c"
    )


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


def test_an_id_may_be_any_whole_number():
    ours = tiny.tokenizer()
    wanted = lv.token_labels(ours, [0, 5])
    for ids in (np.array([0, 5]), torch.tensor([[0], [5]]), (np.int64(0), torch.tensor(5))):
        assert lv.token_labels(ours, ids) == wanted
    assert lv.token_labels(ours, [-1, 2**40]) == ["⟨-1⟩", f"⟨{2**40}⟩"]


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


def test_an_empty_prompt_has_the_bos_token_that_the_tokenizer_puts_in_front():
    begins = copy.deepcopy(tiny.tokenizer())
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tiny.BOS)]
    )
    assert encode(begins, "")[0].tolist() == [[tiny.BOS]]
    assert lv.generate(tiny.model("llama"), begins, "", max_new_tokens=2).num_prompt_tokens == 1
    with pytest.raises(ValueError, match="prompt is '', which has no tokens"):
        encode(begins, "", add_special_tokens=False)
    with pytest.raises(ValueError, match="prompt holds half a surrogate pair"):
        encode(begins, "a\ud83d")


def test_a_token_by_its_text_or_id():
    ours = tiny.tokenizer()
    a = ours("a").input_ids[0]
    for token in ("a", a, np.int64(a), np.int32(a), torch.tensor(a)):
        found = token_id_of(ours, token, tiny.VOCABULARY)
        assert found == a and type(found) is int
    assert token_id_of(ours, "␣", tiny.VOCABULARY) == ours(" ").input_ids[0]
    longer = copy.deepcopy(ours)
    longer.add_tokens(["<extra>"])
    for bad, said in [
        ("<extra>", "target holds the token <extra>, id 259.*below 259"),
        (259, "target=259.*below 259"),
        (np.int64(-1), "target="),
        (True, "target=True"),
        (2.0, "target=2.0"),
        (None, "target=None"),
        ("", "target='' is 0 tokens"),
        ("ab", r"target='ab' is 2 tokens \(a b\)"),
        ("\ud83d", "target holds half a surrogate"),
    ]:
        with pytest.raises(ValueError, match=said):
            token_id_of(longer, bad, tiny.VOCABULARY, "target")


# A text that grows


def ends_whole(text):
    return not text.endswith("\ufffd")


@pytest.mark.parametrize("kind", decoders.KINDS)
def test_the_text_only_grows_and_ends_in_the_decoding_of_the_whole(kind):
    ours, chance = decoders.tokenizer(kind), random.Random(0)
    tokens = range(len(ours))
    for _ in range(150):
        ids = chance.choices(tokens, k=chance.choice([1, 3, 8, 40]))
        growing, shown = GrowingText(ours), ""
        for i in ids:
            before, shown = shown, growing.add(i)
            assert shown.startswith(before)
        final, whole = growing.end(), decoded(ours, ids)
        assert final.startswith(shown) and ends_whole(final)
        if ends_whole(whole):
            assert final == whole
        else:  # that of as many tokens as make characters
            counts = range(len(ids) + 1)
            candidates = [decoded(ours, ids[:n]).rstrip("\ufffd") for n in counts]
            assert final in candidates and final.startswith(whole.rstrip("\ufffd"))


SAID = ["a你好", "你", "日本語 ok", "👩‍👩‍👧é", " b", "好\n好", "a b  s"]


@pytest.mark.parametrize("kind", [kind for kind in decoders.KINDS if "byte" in kind])
@pytest.mark.parametrize("text", SAID)
def test_what_was_whole_is_not_lost_when_the_answer_is_cut(kind, text):
    ours = decoders.tokenizer(kind)
    if "byte level" in kind:
        ids = ours.convert_tokens_to_ids(decoders.bytes_as_stand_ins(text))
    else:
        ids = ours.convert_tokens_to_ids([f"<0x{b:02X}>" for b in text.encode()])
    for count in range(len(ids) + 1):
        growing = GrowingText(ours)
        shown = [growing.add(i) for i in ids[:count]]
        assert all(text.startswith(one) for one in shown)
        whole = text.encode()[:count].decode(errors="ignore")
        assert growing.end() == decoded(ours, ids[: len(whole.encode())])
        assert growing.end().strip() == whole.strip()


@pytest.mark.parametrize("wrong", [None, 5, "gpt2", [], type(tiny.tokenizer())], ids=str)
def test_what_is_no_tokenizer_is_told(wrong):
    model = tiny.model("llama")
    for ask in (
        lambda: encode(wrong, "a"),
        lambda: lv.token_table(wrong, "a"),
        lambda: lv.token_labels(wrong, [1]),
        lambda: token_id_of(wrong, "a", 5),
        lambda: lv.chat(model, wrong, "hi"),
        lambda: lv.score_choices(model, wrong, "hi", ["a"]),
        lambda: lv.generate(model, wrong, "hi"),
    ):
        with pytest.raises(TypeError, match="tokenizer must be a tokenizer"):
            ask()


@pytest.mark.parametrize("wrong", [None, 5, "a", ["a"], [1.5], [True], [None]], ids=str)
def test_ids_are_whole_numbers(wrong):
    with pytest.raises(TypeError, match="token_ids must be"):
        lv.token_labels(tiny.tokenizer(), wrong)
    with pytest.raises(TypeError, match="text must be a string"):
        lv.readable(wrong if wrong != "a" else b"a")
