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

    def _formatters(self) -> dict:
        return {
            name: "{:.1%}".format if _is_probability(name) else "{:.3f}".format
            for name, column in self.items()
            if pd.api.types.is_float_dtype(column)
        }

    def __repr__(self) -> str:
        return self.to_string(formatters=self._formatters(), index=False, max_rows=_MOST_ROWS)

    def _repr_html_(self) -> str:
        # pandas' own HTML wraps long texts and can align no column by itself without a <style>,
        # which an untrusted notebook loses.
        table, formatters = self, self._formatters()
        if len(self) > _MOST_ROWS:
            table = pd.concat([self.head(_MOST_ROWS // 2), self.tail(_MOST_ROWS // 2)])
        columns = []
        for name, column in table.items():
            side = "right" if pd.api.types.is_numeric_dtype(column) else "left"
            style = f' style="text-align:{side};white-space:pre"'
            texts = [escape(formatters.get(name, str)(value)) for value in column]
            columns.append([f"<td{style}>{text}</td>" for text in texts])
            columns[-1].insert(0, f"<th{style}>{escape(str(name))}</th>")
        rows = ["<tr>" + "".join(cells) + "</tr>" for cells in zip(*columns, strict=True)]
        if len(self) > _MOST_ROWS:
            rows.insert(1 + _MOST_ROWS // 2, f"<tr><td>… {len(self):,} rows</td></tr>")
        # The class names keep Jupyter's look, and its typesetter of mathematics away.
        return (
            '<table class="dataframe tex2jax_ignore mathjax_ignore">'
            f"<thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>"
        )


def _is_probability(name) -> bool:
    return str(name).endswith(("probability", "_Prob", "mass"))
