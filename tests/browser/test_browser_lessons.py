"""Each lesson in a real JupyterLab: all cells run, and what is stored is whole without a kernel."""

import pytest

from tests.browser.lab import ROOT

LESSONS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


# Before the lessons run, since JupyterLab saves what has run, and then trusts it.
@pytest.mark.parametrize("lesson", LESSONS)
def test_stored_outputs_are_whole_without_trust_and_kernel(lab, lesson):
    with lab.notebook(lesson, kernel=False) as notebook:
        cells = notebook.cells()
        assert not any(cell["metadata"].get("trusted") for cell in cells)
        stored = [o for cell in cells for o in cell.get("outputs", [])]
        notebook.page.locator(".jp-OutputArea-output").first.wait_for()
        html = [o["data"]["text/html"] for o in stored if "text/html" in o.get("data", {})]
        coloured = [h for h in map("".join, html) if "background:#" in h]
        assert notebook.page.get_by_text("Error displaying widget").count() == 0
        assert notebook.page.get_by_text("Loading widget...").count() == 0
        pictures = notebook.page.locator(".jp-OutputArea-output img")
        broken = "images => images.filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
        assert pictures.evaluate_all(broken) == []
        if coloured:
            kept = notebook.page.locator(".jp-RenderedHTMLCommon [style*=background]")
            kept.first.wait_for()
        notebook.screenshot(f"lesson-{lesson.partition('.')[0]}")


@pytest.mark.parametrize("lesson", LESSONS)
def test_all_cells_run(lab, lesson):
    with lab.notebook(lesson) as notebook:
        notebook.run_all(timeout=400)
        for number, cell in enumerate(notebook.cells()):
            meant = "raises-exception" in cell["metadata"].get("tags", [])
            failed = [o for o in cell.get("outputs", []) if o["output_type"] == "error"]
            assert meant == bool(failed), f"cell {number}: {failed or 'no error was raised'}"
        widgets = [
            output
            for cell in notebook.cells()
            for output in cell.get("outputs", [])
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
        ]
        page = notebook.page
        for broken in ("Error displaying widget", "Error creating widget", "Loading widget..."):
            assert page.get_by_text(broken).count() == 0, broken
        # Each is drawn: its controls, and its picture.
        cards = page.locator(".jp-OutputArea-output .llmviz-explorer > .widget-html")
        for number in range(len(widgets)):
            cards.nth(2 * number + 1).locator("div, table").first.wait_for(state="attached")
        assert page.locator(".jp-OutputArea-output .llmviz-explorer").count() == len(widgets)
