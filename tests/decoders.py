"""A small tokenizer for every kind of decoder that `tokenizers` has, to decode and to label."""

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BYTES = [f"<0x{b:02X}>" for b in range(256)]
SPACED = [
    "▁",
    "▁▁",
    "▁dog",
    "▁a",
    "s",
    "dog",
    "好",
    "b",
    ",",
    "'",
    "t",
    "▁n",
    "\u00a0",
    "\u3000",
    "\u200d",
]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def bytes_as_stand_ins(text: str) -> list[str]:
    """The bytes of a text as byte-level BPE spells them, one by one."""
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((spelled, _),) = pre_tokenizer.pre_tokenize_str(text)
    return [*spelled]


# Kind: the pieces of its vocabulary, and its decoder.
KINDS = {
    "byte level": ([*ALPHABET, "Ġdog", "ĠĠ"], decoders.ByteLevel()),
    "byte fallback, as Gemma's": (
        [*SPACED, *BYTES],
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    ),
    "byte fallback, as Llama 2's": (
        [*SPACED, *BYTES],
        decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
    ),
    "metaspace": (SPACED, decoders.Metaspace()),
    "metaspace with byte fallback": (
        [*SPACED, *BYTES],
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    ),
    "word piece": (
        ["ing", "##ing", "do", "##s", "n", "'", "t", ".", "##.", "##好", "n't", "a", "b", "##a"],
        decoders.WordPiece(),
    ),
    "word piece, not cleaned": (
        ["ing", "##ing", "do", "##s", "n", "'", "t", ".", "##好"],
        decoders.WordPiece(cleanup=False),
    ),
    "suffix": (["ab", "ab</w>", "c", "c</w>", ".", ".</w>", "a", "b"], decoders.BPEDecoder()),
    "ctc": (["a", "b", "c", "|", "'", "s"], decoders.CTC(pad_token="<pad>")),
    "replaced": (
        ["a", "b", "c", "d"],
        decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("c+"), "x")]),
    ),
    "none": (["a", "b", "好", "."], None),
}


@cache
def tokenizer(kind: str, **settings) -> PreTrainedTokenizerFast:
    """Its last tokens are <eos>, <pad> and <bos>, special ones, and <mark>, which takes spaces."""
    pieces, decoder = KINDS[kind]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<unk>"])}
    core = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback="<0x00>" in pieces)
    )
    if decoder is not None:
        core.decoder = decoder
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>", **settings
    )
    made.add_tokens([AddedToken("<mark>", lstrip=True, rstrip=True)])
    return made
