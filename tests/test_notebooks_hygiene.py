"""What a saved lesson must look like, seen without a kernel.

nbval compares nothing in a notebook whose outputs were cleared, ignores pictures, and passes a cell
that should have raised; so these tests look for that.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import nbformat.v4 as nb
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

MARKER = re.compile(r"^\s*#\s*(NBVAL_IGNORE_OUTPUT|NBVAL_SKIP)\s*$", re.MULTILINE)
MARKER_TAGS = {"nbval-ignore-output", "nbval-skip"}
# "/" alone is common (a/b, </td>), so a path is known by its first folder, or by its drive.
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/<])/(?:home|Users|root|tmp|work|opt|usr|var|private|mnt|content)/|\b[A-Z]:\\\\?\w"
)
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
WARNING = re.compile(r"\b\w*Warning: ")


def code_cells(notebook) -> list:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def is_marked(cell) -> bool:
    return bool(MARKER.search(cell.source) or MARKER_TAGS & set(tags(cell)))


def texts(value) -> Iterator[str]:
    """Every string in an output, whatever holds it, but for pictures."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.startswith("image/"):
                yield from texts(item)


# Each check yields what is wrong.


def is_valid(notebook):
    """Valid nbformat 4.5, every cell with an id of its own."""
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield "older than nbformat 4.5, which gave cells their ids"
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        yield "a cell has no id, or two have the same"
        return
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"not valid: {error}"


def is_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}: run `make notebooks`"
    if counts and not any(cell.outputs for cell in code_cells(notebook)):
        yield "no cell has an output: they were cleared"


def raises_where_it_says(notebook):
    for cell in code_cells(notebook):
        raised = any(output.output_type == "error" for output in cell.outputs)
        meant = "raises-exception" in tags(cell) or "NBVAL_RAISES_EXCEPTION" in cell.source
        if raised != meant:
            yield f"{cell.id}: an error is {'stored' if raised else 'missing'}"


def has_no_widget_state(notebook):
    if "widgets" in notebook.metadata:
        yield "metadata.widgets is stored"


def has_clean_outputs(notebook):
    for cell in code_cells(notebook):
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"{cell.id}: stderr is stored"
        for text in texts(cell.outputs):
            for pattern in (ABSOLUTE_PATH, ADDRESS, WARNING):
                if found := pattern.search(text):
                    yield f"{cell.id}: {found[0]!r} in an output"


def has_no_paths_in_sources(notebook):
    for cell in notebook.cells:
        if found := ABSOLUTE_PATH.search(cell.source):
            yield f"{cell.id}: {found[0]!r}"


def is_readable(notebook):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        if lines[-1].rstrip().endswith(";"):
            yield f"{cell.id}: ends in a semicolon; end a figure's cell with plt.show()"
        if len(lines) > 30:
            yield f"{cell.id}: {len(lines)} lines; a cell holds one idea"
        for line in lines:
            if len(line) > 88:
                yield f"{cell.id}: a line of {len(line)} characters: {line[:40]}…"
    long = [cell.id for cell in code_cells(notebook) if len(cell.source.splitlines()) >= 20]
    if len(long) > len(code_cells(notebook)) / 10:
        yield f"more than a tenth of the cells have 20 lines or more: {long}"


def describes_its_figures(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            text = data.get("text/plain", "")
            if "image/png" in data and (not text.strip() or text.startswith("<Figure size")):
                yield f"{cell.id}: a figure without alt text; show it with lv.show"


def gives_reasons_for_not_comparing(notebook):
    for cell in filter(is_marked, code_cells(notebook)):
        if not any(
            line.lstrip().startswith("#") and not MARKER.match(line) and len(line.strip()) > 10
            for line in cell.source.splitlines()[:4]
        ):
            yield f"{cell.id}: is not compared, and its first lines have no comment that says why"


CHECKS = [
    is_valid,
    is_executed_in_order,
    raises_where_it_says,
    has_no_widget_state,
    has_clean_outputs,
    has_no_paths_in_sources,
    is_readable,
    describes_its_figures,
    gives_reasons_for_not_comparing,
]


def read(path: Path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson(path, check):
    problems = list(check(read(path)))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_size(path):
    assert path.stat().st_size < 500_000


def test_lessons_have_one_set_up_cell():
    first = {path.name: code_cells(read(path))[0] for path in NOTEBOOKS}
    assert len({cell.source for cell in first.values()}) <= 1
    assert all("setup" in tags(cell) for cell in first.values())


def test_nearly_all_cells_are_compared():
    cells = [cell for path in NOTEBOOKS for cell in code_cells(read(path))]
    assert sum(map(is_marked, cells)) <= 0.02 * len(cells)


# The checks themselves: a lesson that is all right, and one fault at a time.


def lesson(source="1 + 1", output="2", count=1, **metadata):
    outputs = [nb.new_output("execute_result", {"text/plain": output}, execution_count=count)]
    return nb.new_notebook(
        cells=[
            nb.new_markdown_cell("A sum, a/b, and a [link](01_next.ipynb)."),
            nb.new_code_cell(source, outputs=outputs, execution_count=count, metadata=metadata),
        ]
    )


def faults(notebook) -> list[str]:
    return [check.__name__ for check in CHECKS if list(check(notebook))]


def test_a_good_lesson_passes():
    assert faults(lesson()) == []
    assert faults(lesson("# NBVAL_IGNORE_OUTPUT\n# since it prints the time of day\n1")) == []


@pytest.mark.parametrize(
    ("notebook", "check"),
    [
        (lesson(count=2), is_executed_in_order),
        (lesson(count=None), is_executed_in_order),
        (lesson(tags=["raises-exception"]), raises_where_it_says),
        (lesson(output="<object at 0x7f12345678ab>"), has_clean_outputs),
        (lesson(output="'" + "/".join(["", "home", "me", "x.py"]) + "'"), has_clean_outputs),
        (lesson(output="UserWarning: mind the gap"), has_clean_outputs),
        (lesson("f = '" + "/".join(["", "tmp", "x"]) + "'"), has_no_paths_in_sources),
        (lesson("plt.plot(x);"), is_readable),
        (lesson("x = 1\n" * 31), is_readable),
        (lesson("x = '" + "y" * 88 + "'"), is_readable),
        (lesson("# NBVAL_SKIP\nx = 1"), gives_reasons_for_not_comparing),
    ],
)
def test_a_fault_is_found(notebook, check):
    assert faults(notebook) == [check.__name__]


def test_other_faults_are_found():
    cleared = lesson()
    cleared.cells[1].outputs = []
    assert faults(cleared) == ["is_executed_in_order"]
    failed = lesson()
    failed.cells[1].outputs = [nb.new_output("error", ename="E", evalue="", traceback=[])]
    assert faults(failed) == ["raises_where_it_says"]
    warned = lesson()
    warned.cells[1].outputs.append(nb.new_output("stream", name="stderr", text="oh"))
    assert faults(warned) == ["has_clean_outputs"]
    figure = lesson(output="<Figure size 640x480 with 1 Axes>")
    figure.cells[1].outputs[0].data["image/png"] = "iVBORw0KGgo="
    assert faults(figure) == ["describes_its_figures"]
    twins = lesson()
    twins.cells[0].id = twins.cells[1].id
    assert faults(twins) == ["is_valid"]
    stateful = lesson()
    stateful.metadata["widgets"] = {}
    assert "has_no_widget_state" in faults(stateful)
