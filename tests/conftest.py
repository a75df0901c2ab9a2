"""What several test files share."""

import pytest

pytest.register_assert_rewrite("tests.checks")  # so that a failure there shows what was said


@pytest.fixture(scope="session")
def default_model():
    """The course's own model and tokenizer, on the CPU, where stored outputs were made."""
    import llmviz

    return llmviz.load(llmviz.models.default_model_folder(), device="cpu")
