"""Token strips are whole without scripts, style sheets or a network, whatever the tokens hold."""

import math
import re

import pytest

import llmviz as lv
from llmviz.trace import Candidate, Step, Trace
from tests import tiny

HOSTILE = ["</span><img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "$x$", "&lt;"]


def hand_made(labels, prompt="<script>alert(1)</script>", probability=0.5):
    import torch

    def step(i):
        candidate = Candidate(i, 1, 0.0, math.log(probability), 0.0, probability)
        return Step(i, 1, math.log(probability), 1.0, 2, 1.0, [candidate])

    return Trace(
        prompts=[prompt],
        texts=["".join(labels)],
        sequences=torch.zeros(1, len(labels), dtype=torch.long),
        num_prompt_tokens=0,
        steps=[[step(i) for i in range(len(labels))]],
        labels=dict(enumerate(labels)),
    )


def tags(html):
    return set(re.findall(r"<([a-zA-Z]+)", html))


def test_hostile_tokens_stay_text_in_every_view():
    run = hand_made(HOSTILE)
    views = [lv.token_strip(run), lv.side_by_side({HOSTILE[0]: run, "b": hand_made(HOSTILE[::-1])})]
    for view in views:
        html = view._repr_html_()
        assert tags(html) <= {"div", "span", "table", "tr", "td", "th", "b", "wbr"}
        # An attribute can only be one of ours, and never a handler.
        attributes = set(re.findall(r"\s([a-z]+)=\"", re.sub(r"&quot;", "", html)))
        assert attributes <= {"style", "title"}
        assert "$x$" not in html  # a notebook would typeset it


def test_colours_are_plain_and_nothing_is_fetched():
    html = lv.token_strip(hand_made(["a", "b"]))._repr_html_()
    assert not re.search(r"var\(|hsl|class=|<style|<script|http|url\(", html)


def test_the_strip_fills_by_probability_and_underlines_by_entropy():
    unlikely = lv.token_strip(hand_made(["a"], probability=0.001))._repr_html_()
    likely = lv.token_strip(hand_made(["a"], probability=0.999))._repr_html_()
    fill = [
        re.search(r'title="[^"]*" style="[^"]*background:(#\w+)', h)[1] for h in (unlikely, likely)
    ]
    assert fill == ["#ffffff", "#56a0d3"]
    assert "p = 0.001, rank 1, entropy 1.00 bits" in unlikely
    assert "p = 0.001" in repr(lv.token_strip(hand_made(["a"], probability=0.001)))


def test_side_by_side_marks_the_first_divergence_only():
    first, second = hand_made(["a", "b", "c"]), hand_made(["a", "b", "c"])
    second.steps[0][1].token_id = 2
    view = lv.side_by_side({"one": first, "two": second})
    assert view._repr_html_().count("#fde3b0") == 1
    assert "two: acc  log-probability -2.08 (differs from token 2 on)" in repr(view)
    assert "the same" in repr(lv.side_by_side({"one": first, "two": first}))


def test_side_by_side_refuses():
    run = hand_made(["a"])
    with pytest.raises(ValueError, match="two or more"):
        lv.side_by_side({"one": run})
    with pytest.raises(ValueError, match="different prompts"):
        lv.side_by_side({"one": run, "two": hand_made(["a"], prompt="other")})


def test_a_batch_shows_each_sequence_behind_its_own_prompt():
    run = lv.generate(tiny.model("llama"), tiny.tokenizer(), ["hello", "bye"], max_new_tokens=2)
    assert "bye" in repr(lv.token_strip(run, sequence=1)).splitlines()[0]
