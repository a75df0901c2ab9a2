"""Every exercise: its stub counts as not attempted, and its folded solution is right.

An exercise is a code cell tagged `exercise`, one tagged `check`, and markdown with folded blocks,
of which the last holds the solution. A solution may use what the set-up cell made (tagged `setup`),
what the lesson imports, and nothing else.
"""

import ast
import re
from functools import lru_cache
from pathlib import Path

import nbformat
import nbformat.v4 as nb
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def tagged(cell, tag: str) -> bool:
    return cell.cell_type == "code" and tag in cell.metadata.get("tags", [])


def exercises(cells: list) -> list[tuple[str, str, str]]:
    """The stub, check and solution of each exercise."""
    found = []
    for i, cell in enumerate(cells):
        if not tagged(cell, "exercise"):
            continue
        after = cells[i + 1 :]
        assert after and tagged(after[0], "check"), f"{cell.id}: no check follows"
        folded = []
        for other in after[1:]:
            if other.cell_type != "markdown":
                break
            folded += DETAILS.findall(other.source)
        assert folded, f"{cell.id}: no folded hint or solution follows"
        fences = FENCE.findall(folded[-1])
        assert len(fences) == 1, f"{cell.id}: the last folded block must hold one python fence"
        found.append((cell.source, after[0].source, fences[0]))
    return found


@lru_cache
def read(path: Path):
    return nbformat.read(path, as_version=4)


@lru_cache(maxsize=1)
def prepared(path: Path) -> dict:
    """The names that the set-up cell and the lesson's imports make."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    names = {}
    for cell in cells:
        if tagged(cell, "setup"):
            exec(cell.source, names)
    for cell in cells:
        if re.search(r"^(import|from) ", cell.source, re.MULTILINE):
            imports = [
                node
                for node in ast.parse(cell.source).body
                if isinstance(node, (ast.Import, ast.ImportFrom))
            ]
            exec(compile(ast.Module(imports, []), path.name, "exec"), names)
    return names


CASES = [
    pytest.param(path, *exercise, id=f"{path.stem}-{number}")
    for path in NOTEBOOKS
    for number, exercise in enumerate(exercises(read(path).cells), start=1)
]


@pytest.mark.parametrize(("path", "stub", "check", "solution"), CASES)
def test_exercise(path, stub, check, solution, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(path.parent)
    names = dict(prepared(path))
    capsys.readouterr()
    exec(stub, names)
    exec(check, names)
    assert "not attempted yet" in capsys.readouterr().out
    exec(solution, names)
    exec(check, names)
    printed = capsys.readouterr().out
    assert re.search("^✓", printed, re.MULTILINE), printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_has_exercises(path):
    assert path.name.startswith("00") or 2 <= len(exercises(read(path).cells)) <= 3


def test_an_exercise_is_taken_apart():
    hint = nb.new_markdown_cell("<details><summary>Hint</summary>\n```python\nx\n```\n</details>")
    solution = nb.new_markdown_cell("<details>\n\n```python\nx = 1\n```\n\n</details>")
    cells = [
        nb.new_code_cell("x = ...", metadata={"tags": ["exercise"]}),
        nb.new_code_cell("check(x)", metadata={"tags": ["check"]}),
        hint,
        solution,
    ]
    assert exercises(cells) == [("x = ...", "check(x)", "x = 1\n")]
    with pytest.raises(AssertionError, match="no folded"):
        exercises(cells[:2])
