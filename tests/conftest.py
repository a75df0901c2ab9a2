"""What several test files share, and their order."""

import pytest

pytest.register_assert_rewrite("tests.checks")  # so that a failure there shows what was said


@pytest.fixture(scope="session")
def default_model():
    """The course's own model and tokenizer, on the CPU, where stored outputs were made."""
    import llmviz

    return llmviz.load(llmviz.models.default_model_folder(), device="cpu")


# Begun first, while the default model is fetched beside them: none of these needs it.
WITHOUT_MODEL = ("test_devices.py", "test_processors.py", "test_beams.py", "test_widgets_all.py")


def pytest_collection_modifyitems(items):
    """The lessons come before the browser, which shows them as they ran; and long files come early,
    so that no worker is left alone with one."""

    def place(item) -> int:
        if item.path.suffix == ".ipynb":
            return 1
        if item.path.parent.name == "browser":
            return 3 if "lessons" in item.path.name else 4
        return 0 if item.path.name in WITHOUT_MODEL else 2

    items.sort(key=place)
