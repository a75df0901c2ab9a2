"""Token strips are whole without scripts, style sheets or a network, whatever the tokens hold."""

import math
import re
from dataclasses import fields
from html import unescape

import pytest

import llmviz as lv
from llmviz.html import VERBATIM, escaped, quoted
from llmviz.tokens import printable
from llmviz.trace import Candidate, Step, Trace
from tests import tiny
from tests.views import assert_harmless

HOSTILE = [
    "</span><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "$x$",
    r"\(\href{https://example.org}{x}\)",
    r"$$\begin{matrix}x\end{matrix}$$",
    r"\[x",
    r"\]",
    "&lt;",
    "\x1b[31m\0\a\r\u202e\ud800",
]


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


def shown(html):
    """The text that a browser shows of it."""
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_hostile_tokens_prompts_and_names_stay_text_in_every_view():
    run, other = (hand_made(labels, "".join(HOSTILE)) for labels in (HOSTILE, HOSTILE[::-1]))
    views = [lv.token_strip(run), lv.side_by_side(dict.fromkeys(HOSTILE, run) | {"b": other})]
    for view in views:
        assert_harmless(view._repr_html_())
        assert all(printable(text) in shown(view._repr_html_()) for text in HOSTILE)
        assert printable(repr(view)) == repr(view)
        assert "⟨U+001B⟩[31m" in repr(view)


@pytest.mark.parametrize("field", [f.name for f in fields(Step)])
def test_every_value_is_escaped_where_it_is_written_numbers_too(field):
    run = hand_made(["a"])
    setattr(run.steps[0][0], field, '"><img src=x onerror=alert(1)>')
    for view in (lv.token_strip, lambda run: lv.side_by_side({"a": run, "b": run})):
        try:
            html = view(run)._repr_html_()
        except (ValueError, TypeError) as error:
            assert "run" in str(error)
            continue
        assert_harmless(html)


def test_what_is_escaped_reads_as_it_was():
    assert shown(escaped("a $5 \\( <b> &lt;\n\tx")) == "a $5 \\( <b> &lt;\n\tx"
    assert printable("a\r\x1b\u202e\ud800é猫🐈 \n") == "a␍⟨U+001B⟩⟨U+202E⟩⟨U+D800⟩é猫🐈 \n"
    assert quoted("\"$x$'") == "&quot;$x$&#x27;"


def test_colours_are_plain_and_nothing_is_fetched():
    html = lv.token_strip(hand_made(["a", "b"]))._repr_html_()
    assert not re.search(r"var\(|hsl|<style|<script|http|url\(", html)


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


def test_a_tables_own_description_is_a_table_too():
    run = lv.generate(tiny.model("llama"), tiny.tokenizer(), "a", max_new_tokens=2)
    described = run.frame.assign(token="$x$").describe(include="all")
    assert described.loc["top", "token"] == "$x$"
    assert described._repr_html_().startswith(f'<table class="dataframe {VERBATIM}">')
