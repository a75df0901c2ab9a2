"""What the README says is there, is there; what it shows, the package draws."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def links(markdown: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)]+)\)", markdown) if "://" not in link]


def prose(notebook: Path) -> str:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def test_its_links_lead_somewhere():
    for link in links(README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("notebook", LESSONS, ids=lambda path: path.stem)
def test_the_links_of_the_lessons_lead_somewhere(notebook):
    for link in links(prose(notebook)):
        assert (notebook.parent / link).exists(), link


def test_every_lesson_is_on_both_maps():
    start = prose(ROOT / "notebooks" / "00_start_here.ipynb")
    for lesson in LESSONS:
        assert f"notebooks/{lesson.name}" in links(README)
        assert lesson.name in links(start) or lesson.stem.startswith("00")


def test_its_code_draws_its_picture(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(code, {})
    drawn = matplotlib.image.imread(tmp_path / "board.png")
    shown = matplotlib.image.imread(ROOT / ".github" / "board.png")
    assert drawn.shape == shown.shape
    # A letter that moves by a pixel is no other picture; a bar, a token or a colour is.
    assert (abs(drawn - shown).max(axis=-1) > 0.2).mean() < 0.002
