"""A pytest plugin: nbval compares numbers with a tolerance, and all other text exactly.

The last digit of a printed number can differ between processors, so a decimal number may be off
by one in its last printed digit, or by 1 part in 10,000. Whole numbers must be the same.

With `--executed=FOLDER` it keeps each notebook there as it was run and compared, so that it can be
looked at in a browser without running it again.
"""

import copy
import os
import re
from pathlib import Path

import pytest

# The line that llmviz.setup_line prints: versions and devices differ between machines.
SETUP_LINE = re.compile(r"^llmviz \d.*$", re.MULTILINE)
# A decimal point or an exponent makes a number decimal; digits inside a word are text.
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])(?!\.\d)")
RELATIVE_TOLERANCE = 1e-4


class Output(str):
    """An output's text that equals another if only numbers differ, and those within tolerance."""

    def __eq__(self, other) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        ours, theirs = (SETUP_LINE.sub("llmviz …", text) for text in (str(self), str(other)))
        if ours == theirs:
            return True
        pieces, numbers = _apart(ours)
        other_pieces, other_numbers = _apart(theirs)
        return (
            pieces == other_pieces
            and len(numbers) == len(other_numbers)
            and all(map(agree, numbers, other_numbers))
        )

    def __ne__(self, other) -> bool:
        return not self == other

    __hash__ = None


def agree(a: str, b: str) -> bool:
    """Whether two numbers, as printed, are the same within the tolerance."""
    if a == b:
        return True
    if not (_is_decimal(a) and _is_decimal(b)):
        return False
    x, y = (float(n.replace("−", "-")) for n in (a, b))
    # A hair wider than one unit, since 0.3 - 0.2 > 0.1 in binary.
    unit = max(_unit(a), _unit(b)) * (1 + 1e-6)
    return abs(x - y) <= max(unit, RELATIVE_TOLERANCE * max(abs(x), abs(y)))


def _apart(text: str) -> tuple[list[str], list[str]]:
    """The text between the numbers, and the numbers."""
    return NUMBER.split(text), NUMBER.findall(text)


def _is_decimal(number: str) -> bool:
    return not number.lstrip("+-−").isdigit()


def _unit(number: str) -> float:
    """One unit in the last printed digit."""
    digits, _, exponent = number.lower().partition("e")
    decimals = len(digits.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals)


def without_progress_bars() -> None:
    """For the kernels started from here: bars show times, which differ from run to run."""
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def pytest_addoption(parser):
    parser.addoption(
        "--executed",
        type=Path,
        metavar="FOLDER",
        help="where the notebooks are kept that nbval ran",
    )


def pytest_configure(config):
    from nbval.plugin import IPyNbCell, IPyNbFile

    exact, setup, teardown = IPyNbCell.sanitize, IPyNbFile.setup, IPyNbFile.teardown

    def sanitize(self, text):
        text = exact(self, text)
        return Output(text) if isinstance(text, str) else text

    def setup_with_model(self):
        from llmviz.default_model import default_model_folder

        default_model_folder()  # may take a while, of which a lesson would tell
        setup(self)

    def keep_and_teardown(self):
        if config.option.executed:
            _keep(self, config.option.executed)
        teardown(self)

    IPyNbCell.sanitize = sanitize
    IPyNbFile.setup, IPyNbFile.teardown = setup_with_model, keep_and_teardown
    without_progress_bars()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    finally:
        if hasattr(item, "test_outputs"):  # one of nbval's
            vars(item.parent).setdefault("ran", {})[item.cell_num] = item.test_outputs or []


def _keep(file, folder: Path) -> None:
    """Write the notebook with the outputs of this run, if all its cells were run."""
    from tests.save_notebooks import normalised, save

    notebook, ran = copy.deepcopy(file.nb), getattr(file, "ran", {})
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if len(ran) == len(cells):
        for number, cell in enumerate(cells):
            cell.outputs, cell.execution_count = copy.deepcopy(ran[number]), number + 1
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / file.path.name, normalised(notebook))
