"""Every exercise of the lessons, with what its check takes after the attempt."""

import inspect
import random
from functools import cache
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

import llmviz.checks
from llmviz.checks import Exercise
from llmviz.models import default_model_folder
from tests import tiny

_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
EXERCISES = {
    f"{lesson:02d}.{name}": value
    for lesson in range(19)
    for name, value in vars(getattr(llmviz.checks, f"lesson_{lesson:02d}")).items()
    if isinstance(value, Exercise)
}


@pytest.fixture(autouse=True)
def the_same_draws(monkeypatch):
    """So that a test fails always or never."""
    monkeypatch.setattr(llmviz.checks, "random", SimpleNamespace(Random=lambda: random.Random(20)))


def context_of(name: str) -> list:
    """A tiny model where the check takes one; else the course's own tokenizer."""
    exercise = EXERCISES[name]
    if not callable(exercise.cases):
        return []
    takes = [*inspect.signature(exercise.cases).parameters]
    if "model" not in takes:
        return [_tokenizer() for _ in takes]
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = _TEMPLATE
    return [{"model": tiny.model("llama"), "tokenizer": tokenizer}[x] for x in takes]


@cache
def _tokenizer():
    return AutoTokenizer.from_pretrained(default_model_folder())


def verdict(name: str, attempt) -> str:
    return EXERCISES[name].verdict(attempt, *context_of(name))
