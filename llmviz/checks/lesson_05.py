"""Checks of lesson 05: the period of a loop, distinct n-grams, stopping at a text."""

from . import Exercise


def _period(ids):
    for p in range(1, len(ids) // 2 + 1):
        if ids[-p:] == ids[-2 * p : -p]:
            return p
    return 0


def _from_the_front(ids):
    return _period(ids[::-1])


def _last_seen(ids):
    """How far back the last token stood before."""
    return next((p for p in range(1, len(ids)) if ids[-1 - p] == ids[-1]), 0)


def _largest(ids):
    fits = [p for p in range(1, len(ids) // 2 + 1) if ids[-p:] == ids[-2 * p : -p]]
    return max(fits, default=0)


def _anywhere(ids):
    """The smallest p for which some p tokens equal the p before them."""
    for p in range(1, len(ids) // 2 + 1):
        for end in range(2 * p, len(ids) + 1):
            if ids[end - p : end] == ids[end - 2 * p : end - p]:
                return p
    return 0


def _short_range(ids):
    p = _period(ids)
    return 0 if 2 * p == len(ids) else p


find_period = Exercise(
    right=_period,
    cases=[
        ([9, 4, 4, 5, 7, 3, 7, 1, 5, 7, 3, 7, 1],),
        ([8, 1, 2, 1, 2, 1, 2, 1, 2],),
        ([3, 1, 4, 3, 1, 4],),
        ([6, 6, 1, 2, 3, 6],),
        ([5, 5, 5],),
        ([5],),
        ([1, 2, 2, 1],),  # the same tokens, in another order
        ([1, 11, 11, 1],),  # the same digits
    ],
    drawn=lambda dice: (dice.choices([1, 11, 2, 3], k=dice.randint(1, 12)),),
    mistakes={
        "The distance to the last token's last appearance was returned. One token that comes again "
        "is no loop: compare whole pieces of p tokens.": _last_seen,
        "A repetition somewhere inside was found. Whether the text hangs now shows at its end: "
        "compare the last p tokens.": _anywhere,
        "The first tokens were compared, but a loop shows at the end of the text.": _from_the_front,
        "This is several rounds at once: try the small p first, and stop at the first that fits.": (
            _largest
        ),
        "A loop that fills the whole list was missed: p may be as large as half of it. (range "
        "leaves out its end.)": _short_range,
        "Where there is no loop, return 0.": lambda ids: _period(ids) or len(ids),
        "This is the repeated piece itself: its length was asked for.": (
            lambda ids: ids[-_period(ids) :] if _period(ids) else []
        ),
    },
    praise="Right: asked after each token, this tells a loop that it hangs.",
)


def _ngrams(ids, n, step=1, last=1):
    return [tuple(ids[i : i + n]) for i in range(0, len(ids) - n + last, step)]


def _share(ngrams):
    return len(set(ngrams)) / len(ngrams)


def _any_ngrams(dice):
    n = dice.randint(1, 4)
    return dice.choices([1, 11, 2, 3], k=n + dice.randint(1, 8)), n


distinct_n = Exercise(
    right=lambda ids, n: _share(_ngrams(ids, n)),
    cases=[
        ([1, 1, 4, 1, 4, 3], 2),
        ([4, 4, 7, 4, 4, 7, 9], 3),
        ([5, 6, 5, 6, 5, 7], 1),
        ([1, 2, 3, 4], 2),
        ([1, 11, 11, 1], 2),  # 1 and 11, 11 and 1: the same digits
        ([1, 2, 1, 2, 1], 2),
    ],
    drawn=_any_ngrams,
    mistakes={
        "The n-grams were counted: divide by how many there are in all.": (
            lambda ids, n: float(len(set(_ngrams(ids, n))))
        ),
        "The number of distinct n-grams was divided by the number of tokens. How many n-grams have "
        "that many tokens?": lambda ids, n: len(set(_ngrams(ids, n))) / len(ids),
        "The n-grams were laid side by side. They overlap: one begins at each token.": (
            lambda ids, n: _share(_ngrams(ids, n, step=n))
        ),
        "The last n-gram is missing. (range leaves out its end.)": (
            lambda ids, n: _share(_ngrams(ids, n, last=0))
        ),
        "The pieces at the end that are shorter than n were counted as well.": (
            lambda ids, n: _share(_ngrams(ids, n, last=n))
        ),
        "Only n-grams that occur once were counted. One that occurs three times is one distinct "
        "n-gram too.": (
            lambda ids, n: (
                sum(_ngrams(ids, n).count(g) == 1 for g in _ngrams(ids, n)) / len(_ngrams(ids, n))
            )
        ),
        "This is the share of repetition: 1 minus what was asked for.": (
            lambda ids, n: 1 - _share(_ngrams(ids, n))
        ),
        "Single tokens were counted, whatever n is.": lambda ids, n: _share(_ngrams(ids, 1)),
    },
    praise="Right: papers call it distinct-n.",
)


def _until(tokenizer, ids, stop):
    for count in range(1, len(ids) + 1):
        if stop in tokenizer.decode(ids[:count]):
            return count
    return len(ids)


def _until_token(fits):
    def count(tokenizer, ids, stop):
        pieces = [tokenizer.decode([i]) for i in ids]
        return next((t for t, p in enumerate(pieces, start=1) if fits(p, stop)), len(ids))

    return count


def _until_at_end(tokenizer, ids, stop):
    counts = range(1, len(ids) + 1)
    return next((c for c in counts if tokenizer.decode(ids[:c]).endswith(stop)), len(ids))


_TEXTS = [
    " He's ready to lend a paw.\n\nI've got a few other dogs, but I love this dog most.",
    "A hotdog, my dog 🐶 and a 猫, and no more dogs.",
]


def _until_cases(tokenizer):
    cases = [(_TEXTS[0], stop) for stop in ("dog", "lend a", ".\n\nI", "umbrella")]
    cases += [(_TEXTS[1], stop) for stop in (" dog", "dog 🐶", "🐶 and a 猫,")]
    cases += [(_TEXTS[0], " He"), (_TEXTS[0], "I've got a few other dogs")]
    return [(tokenizer, tokenizer(text)["input_ids"], stop) for text, stop in cases]


def _any_until(dice, tokenizer):
    text = dice.choice(_TEXTS)
    start = dice.randrange(len(text))
    stop = text[start : start + dice.randint(1, 12)]
    return tokenizer, tokenizer(text)["input_ids"], stop


tokens_until = Exercise(
    right=_until,
    cases=_until_cases,
    drawn=_any_until,
    mistakes={
        "The stop text was looked for within single tokens, but it may be spread over several: "
        "decode all tokens so far.": _until_token(lambda piece, stop: stop in piece),
        "Each token was compared with the stop text by itself, and had to be all of it. A stop "
        "text may spread over several tokens, or be a part of one: decode all tokens so far.": (
            _until_token(lambda piece, stop: piece == stop)
        ),
        "Right but where the stop text ends inside a token: ask whether the text contains it, not "
        "whether it ends with it.": _until_at_end,
        "One too few: the token that completes the stop text has been written, so it counts.": (
            lambda tokenizer, ids, stop: (
                _until(tokenizer, ids, stop) - (stop in tokenizer.decode(ids))
            )
        ),
        "Characters were counted: tokens were asked for.": (
            lambda tokenizer, ids, stop: tokenizer.decode(ids).find(stop)
        ),
        "Where the stop text never comes, return how many tokens there are.": (
            lambda tokenizer, ids, stop: (
                _until(tokenizer, ids, stop) if stop in tokenizer.decode(ids) else 0
            )
        ),
    },
    praise="Right: this is what stop_strings does.",
)
