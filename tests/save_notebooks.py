"""Run the lessons and save them with what they print, so that a diff can be reviewed.

    python -m tests.save_notebooks [notebooks/00_start_here.ipynb …]

All lessons, or those named. On one machine the same lesson gives the same bytes each time.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.nbval_tolerance import without_progress_bars

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def main(names: list[str]) -> int:
    paths = [Path(name).resolve() for name in names] or sorted(NOTEBOOKS.glob("*.ipynb"))
    without_progress_bars()
    failed = 0
    for path in paths:
        start = time.time()
        try:
            save(path, normalised(executed(path)))
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: left as it was, since a cell failed.\n{error}", flush=True)
        else:
            print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    return failed


def executed(path: Path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    return client.execute()


def normalised(notebook):
    """The notebook without what differs between runs, editors and machines."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"
            },
            "language_info": {"name": "python"},
        }
    )  # fmt: skip
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {k: cell.metadata[k] for k in ("slideshow", "tags") if k in cell.metadata}
        )
        for output in cell.get("outputs", []):
            # A stored view shows nothing without its kernel; what stands beside it does.
            output.get("data", {}).pop(WIDGET_VIEW, None)
    return notebook


def save(path: Path, notebook) -> None:
    """Write the file whole or not at all."""
    nbformat.validate(notebook)
    partial = path.with_suffix(".partial")
    partial.write_text(nbformat.writes(notebook).rstrip() + "\n", encoding="utf-8", newline="\n")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
