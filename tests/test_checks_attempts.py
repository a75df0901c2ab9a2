"""Attempts of other kinds: right ones by other ways, and wrong ones that are nearly right."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import DynamicCache, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import llmviz as lv
from llmviz.checks import lesson_04, lesson_12, lesson_15, lesson_16, lesson_17
from llmviz.tokens import encode
from tests import tiny
from tests.checks import EXERCISES, context_of, the_same_draws, verdict  # noqa: F401


def newest(model, ids):
    return model(ids).logits[:, -1].argmax(-1)[:, None]


def looped(model, ids, steps, eos=(), read=None, before=False):
    """Greedy search by a cache where nothing is cropped; `before` looks too early for an eos."""
    cache, unread = DynamicCache(), ids
    for _ in range(steps):
        if before and ids[0, -1] in eos:
            break
        if read:
            token = newest(model, ids[:, -read:])
        else:
            token = newest_with(model, unread, cache)
        ids, unread = torch.cat([ids, token], dim=1), token
        if not before and token.item() in eos:
            break
    return ids


def newest_with(model, unread, cache):
    return model(input_ids=unread, past_key_values=cache, use_cache=True)[0][:, -1:].argmax(-1)


def counted_once(tensors):
    return sum(
        x.numel() for x in {x.untyped_storage().data_ptr(): x for x in tensors.values()}.values()
    )


def head_by_value(tensors):
    """Takes a head that equals the embedding for a tied one."""
    head = tensors.get("lm_head.weight")
    others = [x for name, x in tensors.items() if name != "lm_head.weight"]
    equal = head is not None and any(x.shape == head.shape and x.equal(head) for x in others)
    return counted_once(tensors) - (
        head.numel() if equal and others[0].data_ptr() != head.data_ptr() else 0
    )


def by_bytes(tokenizer, text, most):
    """Drops what is no character, without knowing how decode shows it."""
    decoded = tokenizer.decode(tokenizer(text)["input_ids"][:most])
    while not text.startswith(decoded):
        decoded = decoded[:-1]
    return decoded


def softmax_in_python(logits):
    rows = [[math.exp(x - max(row)) for x in row] for row in logits.tolist()]
    return torch.tensor([[p / sum(row) for p in row] for row in rows])


def softmax_by_one(take_away):
    def attempt(logits):
        powers = (logits - take_away(logits)).exp()
        return powers / powers.sum(-1, keepdim=True)

    return attempt


def nucleus_size(logits, mass, strictly=False):
    sums = [*itertools.accumulate(sorted(logits.softmax(-1).tolist(), reverse=True))]
    return 1 + sum(s <= mass if strictly else s < mass for s in sums)


def period(piece):
    def attempt(ids):
        fits = (
            p for p in range(1, len(ids) // 2 + 1) if piece(ids[-p:]) == piece(ids[-2 * p : -p])
        )
        return next(fits, 0)

    return attempt


def distinct(piece):
    def attempt(ids, n):
        ngrams = [piece(x) for x in zip(*(ids[i:] for i in range(n)), strict=False)]
        return np.float64(len({*ngrams}) / len(ngrams))

    return attempt


def glued(ids):
    return "".join(map(str, ids))


def until(text_of, change=str):
    def attempt(tokenizer, ids, stop):
        ends = range(1, len(ids) + 1)
        return next((n for n in ends if change(stop) in text_of(tokenizer, ids[:n])), len(ids))

    return attempt


def one_by_one(tokenizer, ids):
    return "".join(tokenizer.decode([i]) for i in ids)


def all_pairs(totals, log_probs, num_beams):
    pairs = [
        (t + x, r, c)
        for r, t in enumerate(totals.tolist())
        for c, x in enumerate(log_probs[r].tolist())
    ]
    return [
        torch.tensor(column)
        for column in zip(*sorted(pairs, reverse=True)[:num_beams], strict=True)
    ]


def penalised(scores, ids, penalty):
    for i in set(ids):
        scores[i] = scores[i] / penalty if scores[i] > 0 else scores[i] * penalty
    return scores


def counted(scores, generated, presence, frequency):
    for i, count in Counter(generated).items():
        scores[i] -= presence + count * frequency
    return scores


def banned(piece):
    def attempt(ids, n):
        begun = piece(ids[len(ids) - n + 1 :]) if len(ids) >= n else None
        starts = range(len(ids) - n + 1)
        return frozenset(ids[i + n - 1] for i in starts if piece(ids[i : i + n - 1]) == begun)

    return attempt


def drawn(right):
    return lambda p, u: np.searchsorted(
        np.cumsum(p.numpy()), np.float32(u), "right" if right else "left"
    )


def by_mask(keeps):
    return lambda logits, setting: torch.where(keeps(logits, setting), logits, -torch.inf)


def wolf(logits, p):
    """The gist of 2019 from which most of today's top-p descends."""
    for row in logits:
        ordered, order = row.sort(descending=True)
        goes = ordered.softmax(-1).cumsum(-1) > p
        goes[1:] = goes[:-1].clone()
        goes[0] = False
        row[order[goes]] = -torch.inf
    return logits


def answer_from(start):
    def attempt(logits, prompt_ids, whole_ids):
        first = start(prompt_ids, whole_ids)
        chosen = logits.log_softmax(-1)[range(first - 1, len(whole_ids) - 1), whole_ids[first:]]
        return chosen.double().sum()

    return attempt


def shared(prompt, whole):
    return next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), len(prompt))  # noqa: B905


def binned(right):
    """`right` is which end of a bin belongs to it."""

    def attempt(confidence, correct, edges):
        bins = torch.bucketize(confidence, torch.tensor(edges), right=right)
        gaps = [
            (confidence[bins == b] - correct[bins == b].float()).sum().abs() for b in bins.unique()
        ]
        return sum(gaps) / len(confidence)

    return attempt


def streamed(printable):
    def attempt(tokenizer, ids):
        found, shown = [], ""
        for n in range(1, len(ids) + 1):
            text = printable(tokenizer.decode(ids[:n], skip_special_tokens=True), shown)
            found.append(text[len(shown) :])
            shown = text
        return found

    return attempt


def room_in_place(tokenizer, messages, most):
    def size():
        return len(
            tokenizer(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ).input_ids
        )

    while len(messages) > 2 and size() > most:
        del messages[1:3]
    return messages


def padded_in_place(rows, pad_id):
    width = max(map(len, rows))
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    for row in rows:
        row[:0] = [pad_id] * (width - len(row))
    return torch.tensor(rows), torch.tensor(mask).bool()


def layers(last):
    def attempt(model, states, layer):
        state = states[layer][:, -1:]
        done = layer == (last or len(states) - 1)
        return model.lm_head(state if done else model.model.norm(state)).squeeze().detach().numpy()

    return attempt


def rank_1(logits, token_id):
    places = (logits.argmax(1) == token_id).nonzero().flatten()
    return places[0] if len(places) else -1


def row_by_row(q, k):
    weights = torch.zeros(len(q), len(k))
    for row in range(len(q)):
        seen = len(k) - len(q) + row + 1
        weights[row, :seen] = (k[:seen] @ q[row] / math.sqrt(q.shape[-1])).softmax(-1)
    return weights


def by_matrices(weights, ids):
    ids = torch.tensor(ids)
    earlier = (ids[:, None] == ids).tril(-1)
    return (weights * earlier.roll(1, dims=1)).sum(-1)[earlier.any(-1)].mean()


def bisected(logits, bits, steps=60):
    low, high = 0.01, 100.0
    for _ in range(steps):
        middle = (low + high) / 2
        entropy = torch.distributions.Categorical(logits=logits / middle).entropy() / math.log(2)
        low, high = (low, middle) if entropy > bits else (middle, high)
    return low


def unbeaten(points):
    left = set(points)
    for name, (likely, alike) in points.items():
        if any(
            a >= likely and b <= alike and (a > likely or b < alike) for a, b in points.values()
        ):
            left.discard(name)
    return tuple(sorted(left))


def batches(n, size):
    return [n[i : i + size] for i in range(0, len(n), size)]


RIGHT = [
    ("00.winner", lambda t: t.loc[t["rank"].idxmin(), "token"]),
    ("00.winner", lambda t: t[t["rank"] == 1].token.item()),
    ("00.winner", lambda t: t.sort_values("log_prob").token.iloc[-1]),
    ("00.winner", lambda t: t.nlargest(1, "logit").iloc[0].token),
    ("00.left_out", lambda t: 1 - np.exp(t.log_prob).sum()),
    ("00.left_out", lambda t: torch.tensor(1 - sum(t.probability.tolist()))),
    ("01.head", lambda h, w: torch.einsum("btw,vw->btv", h, w)),
    ("01.head", torch.nn.functional.linear),
    ("01.count_parameters", counted_once),
    (
        "01.cache_bytes_per_token",
        lambda c, b: 2.0 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * b,
    ),
    ("02.cut", by_bytes),
    ("02.likeliest", lambda t, z, k: t.batch_decode(z.numpy().argsort()[::-1][:k].reshape(-1, 1))),
    (
        "02.gpt2_input",
        lambda i, wte, wpe: torch.nn.functional.embedding(i, wte) + wpe[None, range(i.shape[1])],
    ),
    ("03.softmax", softmax_in_python),
    ("03.softmax", lambda z: (z - z.logsumexp(-1, keepdim=True)).exp()),
    (
        "03.text_log_prob",
        lambda z, i: -torch.nn.functional.cross_entropy(z[0, :-1], i[0, 1:], reduction="sum"),
    ),
    (
        "03.text_log_prob",
        lambda z, i: z[:, :-1].log_softmax(-1).gather(2, i[:, 1:, None]).sum((1, 2)),
    ),
    ("03.tokens_for_mass", nucleus_size),
    ("04.greedy", looped),
    ("04.greedy_until", looped),
    ("04.greedy_window", lambda model, ids, n, size: looped(model, ids, n, read=size)),
    ("05.find_period", period(tuple)),
    ("05.distinct_n", distinct(tuple)),
    ("05.tokens_until", until(lambda tokenizer, ids: tokenizer.decode(ids))),
    ("06.beam_step", all_pairs),
    ("06.final_score", lambda total, length, penalty: total * length ** (-penalty)),
    ("07.repetition_penalty", penalised),
    ("07.presence_frequency", counted),
    ("07.banned_tokens", banned(tuple)),
    ("08.draw", drawn(right=True)),
    ("08.draw", lambda p, u: (p.cumsum(-1) > u).int().argmax()),
    ("08.with_temperature", lambda p, t: (p.log() / t).softmax(-1).tolist()),
    ("09.top_k_filter", lambda z, k: TopKLogitsWarper(k)(None, z)),
    ("09.top_p_filter", lambda z, p: TopPLogitsWarper(p)(None, z)),
    ("09.top_p_filter", wolf),
    ("09.min_p_filter", lambda z, p: MinPLogitsWarper(p)(None, z)),
    (
        "09.min_p_filter",
        by_mask(lambda z, p: z.softmax(-1) >= p * z.softmax(-1).max(1, True).values),
    ),
    (
        "10.judge",
        lambda p, q: [torch.minimum(p / q, p * 0 + 1), (p - q).relu() / (p - q).relu().sum()],
    ),
    (
        "10.allowed_tokens",
        lambda a, w, eos: np.unique([[*x, eos][len(w)] for x in a if x[: len(w)] == w]),
    ),
    ("11.layer_logits", layers(None)),
    ("11.first_on_top", rank_1),
    (
        "11.settled",
        lambda top: max([n for n in range(1, len(top)) if top[n] != top[n - 1]], default=0),
    ),
    ("12.causal_weights", row_by_row),
    ("12.induction_score", by_matrices),
    ("13.smallest_k", nucleus_size),
    ("13.smallest_k", lambda z, mass: lv.processors.top_p(z[None], mass).isfinite().sum()),
    ("13.temperature_for", bisected),
    ("14.answer_log_prob", answer_from(shared)),
    ("14.calibrate", lambda x, free: (y := x.exp() / free.softmax(1).mean(0)) / y.sum(1, True)),
    ("14.calibration_error", binned(right=True)),
    ("15.pieces", streamed(lambda text, shown: text.rstrip("\ufffd"))),
    ("15.pieces", streamed(lambda text, shown: shown if text.endswith("\ufffd") else text)),
    ("15.make_room", room_in_place),
    ("16.left_pad", padded_in_place),
    (
        "16.last_logits",
        lambda z, mask: [rows[m.bool()][-1] for rows, m in zip(z, mask, strict=True)],
    ),
    (
        "16.wasted_share",
        lambda n, size: (s := sum(len(b) * max(b) for b in batches(n, size))) and (s - sum(n)) / s,
    ),
    (
        "17.cache_bytes",
        lambda c, t, b, i: (
            np.int64(2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim) * t * b * i
        ),
    ),
    (
        "17.largest_batch",
        lambda memory, weights, one, tokens: np.floor(max((memory - weights) / (one * tokens), 0)),
    ),
    (
        "17.speed",
        lambda b, o, w, c, k, m: min(
            m["flops"] / o, b * m["bandwidth"] / (w + b * c), b / k / m["launch"]
        ),
    ),
    ("18.at_least_once", lambda p, n: sum(1 - math.prod([1 - x] * n) for x in p.tolist()) / len(p)),
    ("18.frontier", unbeaten),
]

WRONG = [
    ("00.winner", lambda t: t.token[0], None),  # no mistake in a table as it comes
    ("01.head", lambda h, w: (h[0] @ w.T)[None].expand(len(h), -1, -1), "should be"),
    ("01.count_parameters", head_by_value, "it should be"),
    (
        "01.count_parameters",
        lambda t: sum(x.numel() for x in {id(x): x for x in t.values()}.values()),
        "both of its",
    ),
    (
        "01.cache_bytes_per_token",
        lambda c, b: 2 * c.num_hidden_layers * c.num_key_value_heads * 64 * b,
        "it should be",
    ),
    (
        "02.cut",
        lambda t, text, n: t.decode(t(text).input_ids[:n]).replace("\ufffd", ""),
        "not a � cat",
    ),
    (
        "02.cut",
        lambda t, text, n: t.decode(t(text).input_ids[:n]).rstrip("\ufffd").strip(),
        "it should be",
    ),
    ("02.likeliest", lambda t, z, k: t.batch_decode(z.topk(k).indices), "into one string"),
    ("03.softmax", lambda z: torch.softmax(z, -1), "torch's softmax, and right"),
    ("03.softmax", lambda z: torch.nn.Softmax(dim=-1)(z), "torch's softmax, and right"),
    ("03.softmax", lambda z: z.log_softmax(-1).exp(), "torch's softmax, and right"),
    ("03.softmax", softmax_by_one(lambda z: z.max()), "e^1000"),
    ("03.softmax", softmax_by_one(lambda z: 900.0), "should be"),
    (
        "03.tokens_for_mass",
        lambda z, mass: nucleus_size(z, mass, strictly=True),
        "mass=0.5, it should be 2, and is 3",
    ),
    ("04.greedy_until", lambda *case: looped(*case, before=True), "Nothing was written"),
    (
        "04.greedy",
        lambda model, ids, n: model.generate(ids, max_new_tokens=n),
        "write the loop yourself",
    ),
    ("05.find_period", period(sorted), "For ids=[1, 2, 2, 1], it should be 0, and is 2"),
    ("05.find_period", period(sum), "it should be 0"),
    ("05.find_period", period(set), "it should be 0"),
    ("05.find_period", period(glued), "[1, 11, 11, 1]"),
    ("05.distinct_n", distinct(glued), "[1, 11, 11, 1]"),
    ("05.distinct_n", distinct(lambda x: tuple(sorted(x))), "it should be 0.8, and is 0.6"),
    ("05.tokens_until", until(one_by_one), "it should be"),
    ("05.tokens_until", until(lambda t, ids: t.decode(ids[-3:])), "it should be"),
    ("05.tokens_until", until(lambda t, ids: t.decode(ids[-6:])), "it should be"),
    (
        "05.tokens_until",
        until(lambda t, ids: t.decode(ids), str.strip),
        "stop=' dog', it should be",
    ),
    ("06.beam_step", lambda t, x, n: all_pairs(t, x, n)[::-1], "should be"),
    ("07.repetition_penalty", lambda s, ids, p: penalised(s, ids, p) + 5e-5, "it should be"),
    ("07.banned_tokens", banned(glued), "should be"),
    ("07.banned_tokens", banned(sorted), "should be"),
    ("07.presence_frequency", lambda s, ids, p, f: counted(s, ids[-5:], p, f), "should be"),
    ("08.draw", drawn(right=False), "Mind < and ≤"),
    (
        "09.top_k_filter",
        lambda z, k: torch.full_like(z, -torch.inf).scatter(1, z.topk(k).indices, z.topk(k).values),
        "tie",
    ),
    (
        "09.min_p_filter",
        by_mask(lambda z, p: z > z.max(1, True).values + math.log(p)),
        "it should be",
    ),
    (
        "10.allowed_tokens",
        lambda a, w, eos: sorted(
            {[*x, eos][len(w)] for x in a if len(x) >= len(w) and glued(x).startswith(glued(w))}
        ),
        None,
    ),
    ("11.layer_logits", layers(30), "normed a second time"),
    (
        "12.causal_weights",
        lambda q, k: (
            (q @ k.T / q.shape[1] ** 0.5).softmax(-1) if len(q) == 1 else row_by_row(k, k)[: len(q)]
        ),
        None,
    ),
    (
        "13.smallest_k",
        lambda z, mass: nucleus_size(z, mass, strictly=True),
        "it should be 2, and is 3",
    ),
    ("13.temperature_for", lambda z, bits: bisected(z, bits, 12), "it should be"),
    ("14.answer_log_prob", answer_from(lambda p, w: sum(map(int.__eq__, p, w))), "it should be"),
    ("14.answer_log_prob", answer_from(lambda p, w: len({*p} & {*w})), "it should be"),
    ("14.answer_log_prob", answer_from(lambda p, w: sum(t in w for t in p)), "it should be"),
    ("14.calibration_error", binned(right=False), "it should be"),
    ("15.pieces", streamed(lambda text, shown: text.replace("\ufffd", "")), "it should be"),
    ("15.pieces", streamed(lambda text, shown: text[: text.rfind(" ") + 1]), "it should be"),
    (
        "15.pieces",
        lambda t, ids: [t.decode(ids, skip_special_tokens=True)] + [""] * (len(ids) - 1),
        "it should be",
    ),
    (
        "16.left_pad",
        lambda rows, pad: (torch.tensor(rows), torch.ones(len(rows), len(rows[0]))),
        "raised ValueError",
    ),
    (
        "16.last_logits",
        lambda z, mask: z[:, -1] if mask[:, -1].all() else z[range(len(z)), mask.sum(1) - 1],
        None,
    ),
    (
        "17.largest_batch",
        lambda memory, weights, one, tokens: max(round((memory - weights) / (one * tokens)), 0),
        None,
    ),
    (
        "18.frontier",
        lambda points: sorted({points[name]: name for name in unbeaten(points)}.values()),
        "'x', 'y'",
    ),
]


def ids_of(attempts):
    return [f"{name}-{i}" for i, (name, *_) in enumerate(attempts)]


def test_every_exercise_has_another_right_way():
    assert {name for name, _ in RIGHT} == set(EXERCISES)


@pytest.mark.parametrize(("name", "attempt"), RIGHT, ids=ids_of(RIGHT))
def test_right(name, attempt):
    assert verdict(name, attempt) == f"✓ {EXERCISES[name].praise}"


@pytest.mark.parametrize(("name", "attempt", "part"), WRONG, ids=ids_of(WRONG))
def test_wrong(name, attempt, part):
    said = verdict(name, attempt)
    assert said.startswith("✗ ") and (part or "") in said


def test_an_attempt_that_was_in_place_teaches_no_wrong_one():
    check = lesson_16.left_pad.verdict
    assert check(padded_in_place).startswith("✓")
    assert "raised" in check(lambda rows, pad: (torch.tensor(rows), torch.ones(3, 3)))


# The references themselves, and what the praise says of them.


def test_the_toy_is_causal_and_its_cache_changes_nothing():
    toy, ids = lesson_04.Toy(), torch.tensor([[3, 1, 4, 1, 5]])
    whole, start = toy(ids), toy(ids[:, :3])
    assert torch.equal(whole.logits[:, :3], start.logits)
    rest = toy(ids[:, 3:], past_key_values=start.past_key_values)
    assert torch.equal(whole.logits[:, 3:], rest.logits)


def test_the_counts_are_those_of_a_real_model_and_its_cache():
    model, text = tiny.model("llama"), "the cat"
    count = EXERCISES["01.count_parameters"].right
    assert count(model.state_dict()) == model.num_parameters()
    table = lv.kv_cache(model, tiny.tokenizer(), text)
    tokens = len(lv.token_table(tiny.tokenizer(), text))
    assert lesson_17.cache_bytes.right(model.config, tokens, 1, 4) == table["bytes"].sum()
    per_token = EXERCISES["01.cache_bytes_per_token"].right(model.config, 4)
    assert per_token * tokens == table["bytes"].sum()


def test_the_step_gives_the_last_rows_of_the_whole():
    q, k = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    whole = lesson_12.causal_weights.right(q, k)
    assert torch.allclose(lesson_12.causal_weights.right(q[4:], k), whole[4:])
    attention = torch.nn.functional.scaled_dot_product_attention
    theirs = attention(q[None], k[None], torch.eye(6)[None], is_causal=True)
    assert torch.allclose(whole, theirs[0], atol=1e-6)


def test_pieces_join_to_the_text_and_never_hold_a_half():
    [tokenizer] = context_of("15.pieces")
    text = "naïve 🧑‍🚀 猫 and ❤️"
    ids = tokenizer(text).input_ids
    found = lesson_15.pieces.right(tokenizer, ids)
    assert "".join(found) == text and len(found) == len(ids)
    assert not any("\ufffd" in piece for piece in found)


def test_padding_agrees_with_the_package():
    tokenizer, texts = tiny.tokenizer(), ["abc", "a", "ca"]
    [pad] = tokenizer("a").input_ids  # which stands in the texts as well
    ours = lesson_16.left_pad.right([tokenizer(text).input_ids for text in texts], pad)
    for mine, theirs in zip(ours, encode(tokenizer, texts, pad_token_id=pad), strict=True):
        assert torch.equal(mine, theirs)


def test_the_praise_is_true():
    share, lengths = lesson_16.wasted_share.right, [5, 40, 7, 38, 6, 45, 8, 42]
    assert share(lengths, 4) == pytest.approx(149 / 340)
    assert share(sorted(lengths), 4) == pytest.approx(21 / 212)
    cache, speed = lesson_17.cache_bytes, lesson_17.speed
    assert f"{cache.right(*cache.cases[-1]) / 1e9:.1f} GB" in cache.praise
    one, many = speed.cases[0], speed.cases[-1]
    assert many == (64, *one[1:]) and speed.right(*many) == pytest.approx(64 * speed.right(*one))
