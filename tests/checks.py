"""The tests that all lessons' self-checks share, so that none is tested less strictly."""

import pytest

from llmviz.checks import Exercise


def shared_tests(lesson, right, wrong, wild, *, also_right=(), context=None):
    """Five test functions for the exercises of a lesson's module of checks.

    right: exercise → a right solution.
    wrong: (exercise, attempt, part of the one sentence that names this mistake).
    wild: (exercise, attempt, part of what is said), for attempts that make no usual mistake.
    also_right: (exercise, attempt), for other ways to solve it.
    context: exercise → the names of the fixtures that its check is given behind the attempt.
    """
    exercises = {name: x for name, x in vars(lesson).items() if isinstance(x, Exercise)}
    solutions = [*right.items(), *also_right]

    def verdict(request, name, attempt):
        fixtures = (context or {}).get(name, ())
        return exercises[name].verdict(attempt, *map(request.getfixturevalue, fixtures))

    def sentence_with(name, part):
        [sentence] = [s for s in exercises[name].mistakes if part in s]
        return sentence

    @pytest.mark.parametrize(
        ("name", "attempt"), [pytest.param(n, a, id=f"{n}-{a.__name__}") for n, a in solutions]
    )
    def test_right(name, attempt, request):
        said = verdict(request, name, attempt)
        assert said == f"✓ {exercises[name].praise}"
        assert said.startswith("✓ Right")

    @pytest.mark.parametrize("nothing", [None, ...], ids=str)
    @pytest.mark.parametrize("name", exercises)
    def test_stub(name, nothing, request):
        assert verdict(request, name, lambda *_: nothing) == "… not attempted yet"

    @pytest.mark.parametrize(
        ("name", "attempt", "part"),
        [pytest.param(n, a, part, id=f"{n}-{part}") for n, a, part in wrong],
    )
    def test_mistake(name, attempt, part, request):
        sentence = sentence_with(name, part)
        assert verdict(request, name, attempt) == f"✗ {sentence}"
        # The check's own version of the mistake is told from the other mistakes too.
        assert verdict(request, name, exercises[name].mistakes[sentence]) == f"✗ {sentence}"

    @pytest.mark.parametrize("name", exercises)
    def test_all_tried(name):
        """No exercise and none of its mistakes is left out of the tests."""
        assert name in right
        assert name in [n for n, *_ in wild]
        tried = {sentence_with(n, part) for n, _, part in wrong if n == name}
        assert tried == set(exercises[name].mistakes)

    @pytest.mark.parametrize(
        ("name", "attempt", "useful"),
        [pytest.param(n, a, useful, id=f"{n}-{useful}") for n, a, useful in wild],
    )
    def test_wild(name, attempt, useful, request):
        said = verdict(request, name, attempt)
        assert said.startswith("✗ ") and useful in said
        assert said[2:] not in exercises[name].mistakes

    return test_right, test_stub, test_mistake, test_all_tried, test_wild
