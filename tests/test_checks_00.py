"""Lesson 00's self-checks know the right answers, and name the usual wrong ones."""

import pytest

from llmviz.checks import lesson_00

RIGHT = {
    "winner": lambda table: table.sort_values("probability").token.iloc[-1],
    "left_out": lambda table: 1 - sum(table.probability.tolist()),
}
WRONG = [
    ("winner", lambda t: t.iloc[0].token, "the token of the first row"),
    ("winner", lambda t: float(max(t.probability)), "the highest probability"),
    ("winner", lambda t: int(t.sort_values("probability").index[-1]), "the label of the row"),
    ("winner", lambda t: t.sort_values("probability").token.iloc[0], "the least likely token"),
    ("left_out", lambda t: sum(t.probability.tolist()), "what the table holds"),
    ("left_out", lambda t: 100 - 100 * sum(t.probability.tolist()), "a percentage"),
    ("left_out", lambda t: 1 - max(t.probability.tolist()), "Only the likeliest token"),
    ("left_out", lambda t: 1 - len(t) / 49152, "Tokens were counted"),
]


def verdict(name, attempt):
    return getattr(lesson_00, name).verdict(attempt)


@pytest.mark.parametrize("name", RIGHT)
def test_right_and_unattempted(name):
    assert verdict(name, RIGHT[name]).startswith("✓")
    assert verdict(name, lambda table: None) == "… not attempted yet"
    assert verdict(name, lambda table: ...) == "… not attempted yet"


@pytest.mark.parametrize(("name", "attempt", "named"), WRONG)
def test_each_mistake_is_named(name, attempt, named):
    said = verdict(name, attempt)
    assert said.startswith("✗") and named in said
    mistakes = getattr(lesson_00, name).mistakes
    assert sum(said == f"✗ {sentence}" for sentence in mistakes) == 1


def test_every_mistake_is_tried():
    for name in RIGHT:
        tried = sum(wrong[0] == name for wrong in WRONG)
        assert tried == len(getattr(lesson_00, name).mistakes)


def test_anything_else_shows_what_was_wanted_and_an_error_is_reported():
    assert "should be '␣Paris', and is 'Rome'" in verdict("winner", lambda t: "Rome")
    assert "raised KeyError" in verdict("winner", lambda t: t["tokens"])
    assert verdict("left_out", lambda t: 0.5).startswith("✗ For the first case")
