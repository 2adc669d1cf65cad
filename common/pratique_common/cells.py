"""From cells of a file to values of a column's domain, and from values to one form of a table.

Values are float64 with NaN as missing (numbers; dates in days since 1970-01-01; times of day in
minutes since midnight) or object arrays of levels with None as missing. Messages name file, column
and remedy and hold no value of a record.
"""

import datetime
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pratique_common.binned_columns import BinnedColumn
from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.errors import InvalidFileError
from pratique_common.rules import is_missing
from pratique_common.time_columns import DateColumn, TimeColumn

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ObjectArray = NDArray[np.object_]

_MILLISECONDS_A_MINUTE = 60_000  # Parquet knows no seconds


def check_cells(
    cells: pa.ChunkedArray, column: AnyColumn, missing_texts: Sequence[str], source: Path | str
) -> tuple[NDArray[Any], BoolArray]:
    """Return values in their domain and which rows are outside it; numbers are clamped."""
    if isinstance(column, CategoricalColumn):
        result, unreadable = _levels(cells, column, missing_texts, source)
        absent = is_missing(result) & ~unreadable
    else:
        if isinstance(column, DateColumn | TimeColumn):
            numbers, unreadable = _moments(cells, column, missing_texts, source)
        else:
            numbers, unreadable = _numbers(cells, missing_texts, source, column.name)
        if column.whole:
            unreadable |= np.isfinite(numbers) & (numbers != np.round(numbers))
        least, most = column.bin_edges()[[0, -1]]
        result = np.clip(numbers, least, most)
        absent = np.isnan(numbers) & ~unreadable
    return result, unreadable if column.can_be_missing else unreadable | absent


def arrow_cells(values: NDArray[Any], column: AnyColumn) -> pa.Array:
    """Return a column in its one type, null where missing: int64, float64, date, time or string."""
    if isinstance(column, CategoricalColumn):
        return pa.array(list(values), pa.string())
    absent = np.isnan(values)
    if not column.whole:
        return pa.array(np.where(absent, 0.0, values), pa.float64(), mask=absent)
    whole = np.where(absent, 0, values).astype(np.int64)
    if isinstance(column, DateColumn):
        return pa.array(whole.astype(np.int32), pa.date32(), mask=absent)
    if isinstance(column, TimeColumn):
        at = (whole * _MILLISECONDS_A_MINUTE).astype(np.int32)
        return pa.array(at, pa.time32("ms"), mask=absent)
    return pa.array(whole, pa.int64(), mask=absent)


def value_of(text: str, column: BinnedColumn) -> float:
    """Return the number, the day or the minute that a text tells.

    Raises:
        ValueError: it tells none.
    """
    value = _moment(text, column) if column.kind in ("date", "time") else float(text)
    if np.isnan(value):
        raise ValueError(f"no {column.kind}")
    return value


def read_texts(cells: pa.ChunkedArray, source: Path | str, name: str) -> ObjectArray:
    """Return cells as stripped texts, None where null.

    Raises:
        InvalidFileError: cells are lists, structures or bytes.
    """
    texts, place = _distinct_texts(cells, source, name)
    return texts[place]


def _distinct_texts(
    cells: pa.ChunkedArray, source: Path | str, name: str
) -> tuple[ObjectArray, NDArray[np.int64]]:
    """Return cells' distinct texts, stripped, None last, and the place of each cell among them.

    A text is looked at once, however many cells have it, and they share one object.
    """
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = cells.cast(kind.value_type)
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise _unreadable(source, name, kind)
    try:
        coded = cells.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException:
        raise _unreadable(source, name, kind) from None
    texts = [text.strip() for text in coded.dictionary.to_pylist()]
    place = pc.fill_null(coded.indices.cast(pa.int64()), len(texts)).to_numpy()
    return np.array([*texts, None], object), place


def read_order(
    cells: pa.ChunkedArray, missing_texts: Sequence[str], source: Path | str, name: str
) -> Float64Array:
    """Return what rows are ordered by: numbers, or seconds of dates and times; NaN if neither."""
    if pa.types.is_temporal(cells.type):
        cells = cells.cast(pa.string())
    numbers, unreadable = _numbers(cells, missing_texts, source, name)
    if unreadable.any():
        texts, place = _distinct_texts(cells, source, name)
        seconds = np.array([np.nan if text is None else _seconds(text) for text in texts])
        numbers[unreadable] = seconds[place[unreadable]]
    return numbers


def _seconds(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return float("nan")
    return (moment - datetime.datetime(1970, 1, 1)).total_seconds()  # in no machine's time zone


def _unreadable(source: Path | str, name: str, kind: pa.DataType) -> InvalidFileError:
    return InvalidFileError(
        source,
        field=f"column '{name}'",
        problem=f"cells of type {kind} cannot be read",
        remedy="store texts or numbers",
    )


def is_in(texts: ObjectArray, choices: Collection[str | None]) -> BoolArray:
    """Return which texts are among the choices."""
    return np.fromiter((text in choices for text in texts), bool, len(texts))


def _numbers(
    cells: pa.ChunkedArray, missing_texts: Sequence[str], source: Path | str, name: str
) -> tuple[Float64Array, BoolArray]:
    """Return numbers with NaN for missing, and which cells are no finite numbers."""
    kind = cells.type
    # Decimals and short floats as they are written: 0.1 is the same number from every source.
    if pa.types.is_integer(kind) or pa.types.is_float64(kind):
        numbers = np.asarray(
            cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64
        ).copy()
        unreadable = np.isinf(numbers)
    else:
        if pa.types.is_floating(kind):
            cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, kind), cells)
        texts, place = _distinct_texts(cells, source, name)
        absent = is_in(texts, {None, *missing_texts})
        parsed = [None if gone else _number(text) for text, gone in zip(texts, absent, strict=True)]
        distinct = np.array([np.nan if n is None else n for n in parsed], np.float64)
        numbers, unreadable = distinct[place], (~absent & ~np.isfinite(distinct))[place]
    for text in missing_texts:
        if (number := _number(text)) is not None:
            numbers[numbers == number] = np.nan  # -9 and -9.00 alike
    numbers[unreadable] = np.nan
    return numbers, unreadable


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _moments(
    cells: pa.ChunkedArray,
    column: DateColumn | TimeColumn,
    missing_texts: Sequence[str],
    source: Path | str,
) -> tuple[Float64Array, BoolArray]:
    """Return days or minutes with NaN for missing, and which cells are no dates or times."""
    kind = cells.type
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        if pa.types.is_timestamp(kind):
            if kind.tz is not None:
                cells = pc.local_timestamp(cells)  # the clock on the hospital's wall
            cells = cells.cast(pa.timestamp("us"), safe=False)
        if pa.types.is_date(kind) and isinstance(column, TimeColumn):
            cells = pc.if_else(pc.is_valid(cells), "", None)  # a date has no time of day
    texts, place = _distinct_texts(cells, source, column.name)
    gone = is_in(texts, {None, *missing_texts})
    moments = [
        np.nan if absent else _moment(text, column)
        for text, absent in zip(texts, gone, strict=True)
    ]
    numbers = np.array(moments, np.float64)
    return numbers[place], (~gone & np.isnan(numbers))[place]


def _moment(text: str, column: BinnedColumn) -> float:
    """Return the day or the minute that an ISO text tells, NaN if it tells none."""
    try:
        if isinstance(column, DateColumn):
            day = datetime.datetime.fromisoformat(text).date()
            return float((day - datetime.date(1970, 1, 1)).days)
        at = _time_of_day(text)
        return float(60 * at.hour + at.minute)
    except ValueError:
        return float("nan")


def _time_of_day(text: str) -> datetime.time:
    """Return the time of day of ``08:30``, ``08:30:10`` or ``2020-03-01 08:30``.

    Raises:
        ValueError: there is none in the text.
    """
    if ":" not in text:
        raise ValueError("no time of day")
    try:
        return datetime.time.fromisoformat(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text).time()


def _levels(
    cells: pa.ChunkedArray,
    column: CategoricalColumn,
    missing_texts: Sequence[str],
    source: Path | str,
) -> tuple[ObjectArray, BoolArray]:
    texts, place = _distinct_texts(cells, source, column.name)
    # A listed level wins over a spelling of missing: "None" may be a level.
    gone = {None, *missing_texts} - set(column.categories)
    levels = [None if text in gone else column.level_of(text) for text in texts]
    unknown = [
        level is None and text not in gone for text, level in zip(texts, levels, strict=True)
    ]
    return np.array(levels, object)[place], np.array(unknown, bool)[place]
