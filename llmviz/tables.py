"""A DataFrame that prints itself short. Knows pandas, and nothing of ours."""

from __future__ import annotations

import pandas as pd


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
        return self.to_string(formatters=self._formatters(), index=False)

    def _repr_html_(self) -> str:
        return self.to_html(
            formatters=self._formatters(),
            index=False,
            border=0,
            classes="dataframe tex2jax_ignore mathjax_ignore",
        )


def _is_probability(name) -> bool:
    return str(name).endswith(("probability", "_Prob", "mass"))
