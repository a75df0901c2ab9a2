"""Each lesson in a real JupyterLab, as nbval has just run it (`--executed`): every output is shown,
without trust and without a kernel. And the lessons' explorers, live."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from tests.browser.lab import EXPLORER, ROOT

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXPLORERS = {"Stepper", "Comparison", "BeamExplorer", "ProcessorChain", "Inside", "SamplerBench"}
MATHEMATICS = "mjx-container, .MathJax, .katex"
# Elements that stand out from a white page: marked tokens, bars, cells of a grid.
COLOURED = """all => all.filter(
  e => !["rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"].includes(getComputedStyle(e).backgroundColor)
).length"""


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_what_was_run_is_shown(lab, executed, lesson):
    path = executed(lesson.name)
    ran = nbformat.read(path, as_version=4)
    with lab.notebook(lab.add(path), kernel=False) as notebook:
        assert not any(cell["metadata"].get("trusted") for cell in notebook.cells())
        page = notebook.page
        for cell, shown in zip(ran.cells, notebook.every_cell(), strict=True):
            if cell.cell_type == "code":
                check_outputs(cell, shown)
            elif re.search(r"\$[^$]+\$", cell.source):
                shown.locator(MATHEMATICS).first.wait_for()
                assert shown.locator("mjx-merror").count() == 0
        # The typesetter may come late.
        assert page.locator(f".jp-OutputArea-output :is({MATHEMATICS})").count() == 0
        for broken in ("Error displaying widget", "Error creating widget", "Loading widget..."):
            assert page.get_by_text(broken).count() == 0, broken
        notebook.screenshot(f"lesson-{lesson.stem}")


def check_outputs(cell, shown) -> None:
    """Whether each output of a cell is drawn as what it is."""
    meant = "raises-exception" in cell.metadata.get("tags", [])
    assert meant == any(o.output_type == "error" for o in cell.outputs), cell.source
    areas = shown.locator(".jp-OutputArea-output")
    for number, output in enumerate(cell.outputs):
        area, data = areas.nth(number), output.get("data", {})
        area.wait_for()
        box = area.bounding_box()
        assert box["width"] > 20 and box["height"] > 5, output
        # Nothing that the model wrote is set as mathematics.
        assert area.locator(f":is({MATHEMATICS})").count() == 0
        if "image/png" in data:
            area.locator("img").wait_for()
        elif "text/html" in data:
            assert not data["text/plain"].strip() or area.inner_text().strip()
            if "background:#" in data["text/html"].replace("background:#ffffff", ""):
                assert area.locator("[style*=background]").evaluate_all(COLOURED) > 0
        elif output.output_type == "stream":
            assert area.inner_text().split() == output.text.split()
        # A picture that is broken is refused here.
        area.locator("img").evaluate_all("all => Promise.all(all.map(i => i.decode()))")
    assert areas.count() == len(cell.outputs)


def explorers_of(path: Path) -> list[str]:
    """The calls in a lesson that show an explorer, and need nothing that the lesson made before."""
    sources = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and any(f"lv.{name}(" in cell.source for name in EXPLORERS):
            last = ast.parse(cell.source).body[-1]
            names = {node.id for node in ast.walk(last) if isinstance(node, ast.Name)}
            if isinstance(last, ast.Expr) and names == {"lv", "model", "tokenizer"}:
                sources.append(ast.unparse(last))
    return sources


def test_explorers_of_the_lessons_are_drawn_live(real):
    sources = [source for path in LESSONS for source in explorers_of(path)]
    assert len(sources) >= 6
    real.show(*sources)
    for cell, shown in zip(real.cells()[1:], list(real.every_cell())[1:], strict=True):
        assert not [o for o in cell["outputs"] if o["output_type"] != "execute_result"]
        explorer = shown.locator(EXPLORER).first
        explorer.wait_for()
        # Its controls, and its picture: there are words in it, and it is not flat.
        assert explorer.locator("input, select, button, [role=slider]").count() > 2
        assert explorer.bounding_box()["height"] > 150 and len(explorer.inner_text()) > 100
    for broken in ("Error displaying widget", "Error creating widget", "Loading widget..."):
        assert real.page.get_by_text(broken).count() == 0, broken
    real.screenshot("lessons-live")
