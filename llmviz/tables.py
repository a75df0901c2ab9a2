"""A DataFrame that prints itself short, and safely."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import numpy as np
import pandas as pd

from .arguments import is_number
from .tokens import readable

_MOST_ROWS = 60


class Table(pd.DataFrame):
    """A DataFrame that holds numbers, and prints them short.

    A probability is printed as a percentage, another float with three digits after the point: as
    many as are the same on every machine. Text is printed on one line, with control characters by
    their code points, escaped in HTML, and never read as mathematics. Selections of a Table are
    Tables; `pd.DataFrame(table)` prints all digits.

    A number that is None or missing from a row stays missing, and blank in print: its column is
    of pandas' type Float64, where NaN is another thing, printed as NaN.
    """

    def __init__(self, data=None, *args, **kwargs):
        rows = data = list(data) if isinstance(data, Iterator) else data
        if isinstance(data, dict):
            data = {name: _floats(v) if _has_gaps(v) else v for name, v in data.items()}
        super().__init__(data, *args, **kwargs)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            for name in self.columns:
                values = [row.get(name) for row in rows]
                if _has_gaps(values):
                    self[name] = _floats(values)

    @property
    def _constructor(self):
        return Table

    def describe(self, *args, **kwargs) -> Table:
        return Table(super().describe(*args, **kwargs))  # pandas would make a plain DataFrame

    def _columns(self) -> list[tuple[str, bool, list[str]]]:
        """Of each column the name, whether it holds numbers, and the cells, all as they are shown;
        of a long table only the rows that are shown, and one between them."""
        table, half = self, _MOST_ROWS // 2
        if len(self) > _MOST_ROWS:
            table = self.iloc[[*range(half + 1), *range(len(self) - half, len(self))]]
        # A numbering says nothing; an index of names, such as that of `describe()`, does.
        named = not pd.api.types.is_integer_dtype(self.index)
        levels = table.index.nlevels if named else 0
        if named:
            table = table.reset_index(allow_duplicates=True)
        columns = []
        for i, (name, column) in enumerate(table.items()):
            numeric = i >= levels and pd.api.types.is_numeric_dtype(column)
            columns.append((_line(str(name)), numeric, _cells(name, column)))
        return columns

    def __repr__(self) -> str:
        columns = self._columns()
        table = pd.DataFrame({i: cells for i, (*_, cells) in enumerate(columns)})
        table.columns = [name for name, *_ in columns]
        return table.to_string(index=False, max_rows=_MOST_ROWS)

    def _repr_html_(self) -> str:
        # pandas' own HTML wraps long texts and can align no column by itself without a <style>,
        # which an untrusted notebook loses.
        columns = []
        for name, numeric, texts in self._columns():
            style = f' style="text-align:{"right" if numeric else "left"};white-space:pre"'
            cells = [f"<td{style}>{escape(text)}</td>" for text in texts]
            columns.append([f"<th{style}>{escape(name)}</th>", *cells])
        if not columns:
            return "an empty table"
        head, *rows = ("<tr>" + "".join(cells) + "</tr>" for cells in zip(*columns, strict=True))
        if len(rows) > _MOST_ROWS:
            rows[_MOST_ROWS // 2] = f"<tr><td>… {len(self):,} rows</td></tr>"
        # The class names keep Jupyter's look, and its typesetter of mathematics away.
        return (
            '<table class="dataframe tex2jax_ignore mathjax_ignore">'
            f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
        )


def _has_gaps(values) -> bool:
    """Whether `values` are numbers and Nones, some of each."""
    if not isinstance(values, (list, tuple)) or not any(v is None for v in values):
        return False
    numbers = [v for v in values if v is not None]
    return bool(numbers) and all(map(is_number, numbers))


def _floats(values) -> pd.arrays.FloatingArray:
    """Numbers, where None is missing and NaN is not."""
    missing = np.array([v is None for v in values], dtype=bool)
    return pd.arrays.FloatingArray(
        np.array([0.0 if v is None else float(v) for v in values]), missing
    )


def _cells(name, column: pd.Series) -> list[str]:
    """A column's cells as they are shown; what is missing stays blank."""
    if not pd.api.types.is_float_dtype(column):
        gaps = column.isna()
        return ["" if gap else _line(str(v)) for v, gap in zip(column, gaps, strict=True)]
    form = "{:.1%}" if _is_probability(name) else "{:.3f}"
    return ["" if v is pd.NA else _written(float(v), form) for v in column]


def _written(number: float, form: str) -> str:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return f"{number}"
    text = form.format(number)
    return text if text.strip("-0.%") else text.lstrip("-")  # no −0.000


def _line(text: str) -> str:
    """`text` on one line, without a character that a terminal or a page would obey."""
    return "".join(c if c == " " or c.isprintable() else readable(c) for c in text)


def _is_probability(name) -> bool:
    return str(name).endswith(("probability", "_Prob", "mass"))
