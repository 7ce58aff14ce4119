"""Tables as CSV, which people open in spreadsheets."""

from __future__ import annotations

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t")


def csv_text(table: pd.DataFrame) -> str:
    """Write a table as CSV, without its index; numbers with all their digits.

    A text that a spreadsheet would compute, such as a token `=HYPERLINK(...)` or a model's name `@SUM(A1)`, gets an
    apostrophe in front, which shows it as text there. Parquet and JSON hold it as it is.

    >>> print(csv_text(pd.DataFrame({"token": ["=1+1", "-", "a"], "score": [-0.5, 1.0, 2.0]})), end="")
    token,score
    '=1+1,-0.5
    -,1.0
    a,2.0
    """
    shown = table.copy(deep=False)
    shown.columns = [_text(name) for name in table.columns]
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_datetime64_any_dtype(kind):
            shown.isetitem(place, table.iloc[:, place].map(_text))
    return shown.to_csv(index=False)


def _text(value: object) -> object:
    """Put an apostrophe before text that begins as a formula does; a sign alone and a number stay.

    A carriage return becomes a line feed: pandas leaves it unquoted, and what follows would begin a row.
    """
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if len(value.strip()) < 2 or not value.lstrip(" \n").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
