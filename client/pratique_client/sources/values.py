"""From a driver's Python values to Arrow columns that read like a file's."""

import datetime
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

_INT64 = range(-(2**63), 2**63)


def arrow_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return rows as a table.

    Whole numbers, floats and texts keep their type if a column holds nothing else; all other cells
    become the text that a CSV export would hold. A date or time with a zone is what the clock shows
    in that zone. Cells without such a text (lists, bytes) become a list: they are refused as a
    column of a file would be.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    # From arrays: a query may give a name twice, and is told so.
    return pa.Table.from_arrays([_column(cells) for cells in columns], names=list(names))


def _column(cells: Sequence[Any]) -> pa.Array:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {float}:
        return pa.array(cells, pa.float64())
    if kinds == {int} and all(cell is None or cell in _INT64 for cell in cells):
        return pa.array(cells, pa.int64())
    texts = [_text(cell) for cell in cells]
    if any(text is ... for text in texts):
        return pa.nulls(len(cells), pa.list_(pa.null()))
    return pa.array(texts, pa.string())


def _text(cell: Any) -> Any:
    """Return a cell's text, None of none, and an ellipsis where there is no such text."""
    match cell:
        case None | str():
            return cell
        case bool():
            return "true" if cell else "false"
        case int() | Decimal() | uuid.UUID():
            return str(cell)
        case float():
            return repr(cell)
        case datetime.datetime() | datetime.time():
            return cell.replace(tzinfo=None).isoformat()
        case datetime.date():
            return cell.isoformat()
    return ...
