"""A DataFrame that prints itself short. Knows pandas, and nothing of ours."""

from __future__ import annotations

from html import escape

import pandas as pd

_MOST_ROWS = 60


class Table(pd.DataFrame):
    """A DataFrame that holds numbers, and prints them short.

    A probability is printed as a percentage, another float with three digits behind the point:
    as many as are the same on every machine. Token text is escaped, and never read as mathematics.
    Selections of a Table are Tables; `pd.DataFrame(table)` prints all digits.
    """

    @property
    def _constructor(self):
        return Table

    def _written(self) -> pd.DataFrame:
        """Every cell as the text that is shown; what is missing stays blank."""
        # A numbering says nothing; an index of names, such as that of `describe()`, does.
        table = self if pd.api.types.is_integer_dtype(self.index) else self.reset_index()
        columns = {}
        for name, column in table.items():
            write = str
            if pd.api.types.is_float_dtype(column):
                write = ("{:.1%}" if _is_probability(name) else "{:.3f}").format
            columns[name] = [
                "" if missing else write(v)
                for v, missing in zip(column, column.isna(), strict=True)
            ]
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return self._written().to_string(index=False, max_rows=_MOST_ROWS)

    def _repr_html_(self) -> str:
        # pandas' own HTML wraps long texts and can align no column by itself without a <style>,
        # which an untrusted notebook loses.
        columns = []
        for name, texts in self._written().items():
            numeric = name in self and pd.api.types.is_numeric_dtype(self[name])
            side = "right" if numeric else "left"
            style = f' style="text-align:{side};white-space:pre"'
            cells = [f"<td{style}>{escape(text)}</td>" for text in texts]
            columns.append([f"<th{style}>{escape(str(name))}</th>", *cells])
        if not columns:
            return "an empty table"
        head, *rows = ("<tr>" + "".join(cells) + "</tr>" for cells in zip(*columns, strict=True))
        if len(rows) > _MOST_ROWS:
            half = _MOST_ROWS // 2
            rows[half:-half] = [f"<tr><td>… {len(rows):,} rows</td></tr>"]
        # The class names keep Jupyter's look, and its typesetter of mathematics away.
        return (
            '<table class="dataframe tex2jax_ignore mathjax_ignore">'
            f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
        )


def _is_probability(name) -> bool:
    return str(name).endswith(("probability", "_Prob", "mass"))
