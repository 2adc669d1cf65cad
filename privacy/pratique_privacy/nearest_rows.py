"""Inner loops of the exact search for nearest rows: a screen in bytes, then whole distances.

Rows are screened in blocks that stay in a core's first cache, by lower bounds in 8 and 16 bits, of
which a vector holds four and two times as many as of distances: first the columns that differ are
counted among levels, then, unless few rows are left, coarse numbers are added. Rows whose bound is
below the second least distance so far are measured in full. Nothing is approximate: all distances
are whole numbers, and the bound errs to one side.

Within a block a row's place is such that the least bounds of 16 consecutive rows, a lane, are found
by vectors, for all lanes at once, and lanes are then visited in the order of rows.

Shapes: N queries, R rows, D columns.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_privacy.kernels import compiled

Int32Array = NDArray[np.int32]
IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]

_STEPS = np.uint8(63)
"""Of a unit, in coarse numbers: the gaps of four columns still fit a byte."""
_TOGETHER = 4  # columns of one pass over a block
_MOST_COLUMNS = 255  # of a kind in the screen: counts fit a byte, bounds 16 bits
_LANE_ROWS, _LANES = 16, 128
_BLOCK_ROWS = _LANE_ROWS * _LANES
_FEW_LANES = _LANES // 4
_CHUNK_ROWS = 256
_CHUNKS = _BLOCK_ROWS // _CHUNK_ROWS
_MOST_SEEDS = 16
_FAR = np.int32(2**31 - 1)


class ScreenedRows(NamedTuple):
    """Rows, and the same as bytes: of queries (N, D), of other rows in blocks."""

    numbers: Int32Array
    levels: Int32Array
    number_bytes: ByteArray
    level_bytes: ByteArray


def screened_queries(numbers: Int32Array, levels: Int32Array, unit: np.int32) -> ScreenedRows:
    """Return queries with their bytes.

    Args:
        numbers: from 0 to 2 units.
        levels: those that coincide modulo 256 count as equal in the screen.
        unit: the most that one column adds; all columns together add less than 2³¹ - 1.
    """
    coarse = numbers * np.int32(_STEPS) // unit
    return ScreenedRows(numbers, levels, _padded(coarse), _padded(levels))


def screened_rows(numbers: Int32Array, levels: Int32Array, unit: np.int32) -> ScreenedRows:
    """Return rows with their bytes in blocks (blocks, D, rows of a block), for all lanes at once:
    their first rows, then their second ones."""
    rows = screened_queries(numbers, levels, unit)
    return ScreenedRows(
        numbers, levels, _in_blocks(rows.number_bytes), _in_blocks(rows.level_bytes)
    )


def _padded(codes: Int32Array) -> ByteArray:
    """Add columns of zeros, in which no rows differ, up to whole passes."""
    codes = codes[:, :_MOST_COLUMNS]
    return np.pad(codes.astype(np.uint8), ((0, 0), (0, -codes.shape[1] % _TOGETHER)))


def _in_blocks(codes: ByteArray) -> ByteArray:
    num_rows, num_columns = codes.shape
    num_blocks = -(-num_rows // _BLOCK_ROWS)
    whole = np.zeros((num_blocks * _BLOCK_ROWS, num_columns), np.uint8)
    whole[:num_rows] = codes
    lanes = whole.reshape(num_blocks, _LANES, _LANE_ROWS, num_columns).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(lanes).reshape(num_blocks, num_columns, _BLOCK_ROWS)


@compiled
def _row_of(block: int, place: int) -> int:
    return block * _BLOCK_ROWS + place % _LANES * _LANE_ROWS + place // _LANES


@compiled
def _count_differences(query: ByteArray, block: ByteArray, count: ByteArray) -> None:
    count[:] = 0
    for d in range(0, len(block), _TOGETHER):
        x0, x1, x2, x3 = query[d], query[d + 1], query[d + 2], query[d + 3]
        y0, y1, y2, y3 = block[d], block[d + 1], block[d + 2], block[d + 3]
        for r in range(_BLOCK_ROWS):
            count[r] += (
                np.uint8(x0 != y0[r])
                + np.uint8(x1 != y1[r])
                + np.uint8(x2 != y2[r])
                + np.uint8(x3 != y3[r])
            )


@compiled
def _gap(x: np.uint8, y: np.uint8) -> np.uint8:
    return min(np.uint8(max(x, y) - min(x, y)), _STEPS)


@compiled
def _add_gaps(
    query: ByteArray, block: ByteArray, count: ByteArray, gaps: ByteArray, bound: NDArray[np.uint16]
) -> None:
    for r in range(_BLOCK_ROWS):
        bound[r] = np.uint16(count[r]) * np.uint16(_STEPS)
    for d in range(0, len(block), _TOGETHER):
        x0, x1, x2, x3 = query[d], query[d + 1], query[d + 2], query[d + 3]
        y0, y1, y2, y3 = block[d], block[d + 1], block[d + 2], block[d + 3]
        for r in range(_BLOCK_ROWS):  # in a loop of its own: vectors of bytes
            gaps[r] = _gap(x0, y0[r]) + _gap(x1, y1[r]) + _gap(x2, y2[r]) + _gap(x3, y3[r])
        for r in range(_BLOCK_ROWS):
            bound[r] += np.uint16(gaps[r])


@compiled
def _lane_minima(values: NDArray[np.unsignedinteger], least: NDArray[np.unsignedinteger]) -> None:
    least[:] = values[:_LANES]
    for start in range(_LANES, _BLOCK_ROWS, _LANES):
        part = values[start : start + _LANES]
        for t in range(_LANES):
            least[t] = min(least[t], part[t])


@compiled
def _gaps(query: Int32Array, row: Int32Array, unit: np.int32) -> np.int32:
    total = np.int32(0)
    for d in range(len(row)):
        total += min(np.int32(abs(query[d] - row[d])), unit)
    return total


@compiled
def _distance(
    query: ScreenedRows, i: int, rows: ScreenedRows, row: int, unit: np.int32
) -> np.int32:
    """Return the distance of two rows: min(|q - r|, unit) a number, unit a level that differs."""
    apart, one, other = np.int32(0), query.levels[i], rows.levels[row]
    for d in range(len(one)):
        apart += np.int32(one[d] != other[d])
    return np.int32(_gaps(query.numbers[i], rows.numbers[row], unit) + apart * unit)


@compiled
def _limit(distance: np.int32, unit: np.int32, num_numbers: int) -> np.int64:
    """Return the least bound that shows a row to be no nearer than a distance.

    A coarse number is ⌊63 x / unit⌋, so a gap g shows that 63 |x - y| > (g - 1) unit.
    """
    return num_numbers + np.int64((np.int64(distance) * np.int64(_STEPS) + unit - 1) // unit)


@compiled
def _beyond_two(
    query: ScreenedRows,
    i: int,
    rows: ScreenedRows,
    unit: np.int32,
    own: int,
    count: ByteArray,
    least: ByteArray,
) -> np.int32:
    """Return a distance that two rows of the first block are below: without it all are measured."""
    one = two = _FAR
    num_seeds, likely = 0, np.int64(least.min()) + 1
    for t in range(_LANES):
        if least[t] > likely:
            continue
        for place in range(t, _BLOCK_ROWS, _LANES):
            row = _row_of(0, place)
            if count[place] > likely or row >= len(rows.levels) or row == own:
                continue
            distance = _distance(query, i, rows, row, unit)
            one, two = min(one, distance), min(two, max(one, distance))
            num_seeds += 1
        if num_seeds >= _MOST_SEEDS:
            break
    return two if two == _FAR else np.int32(two + 1)


@compiled
def nearest_rows(
    query: ScreenedRows,
    rows: ScreenedRows,
    unit: np.int32,
    own: int,
    first: Int32Array,
    second: Int32Array,
    position: IntArray,
) -> None:
    """Find the two nearest rows.

    A number's column adds min(|q - r|, unit) and a level's adds unit where they differ.

    Args:
        query: N queries.
        rows: R ≥ 3 rows.
        unit: as in ``screened_queries``.
        own: the row of query 0, of query 1 the next: none counts for itself. Negative: no such.
        first, second: (N,), written: the two least distances.
        position: (N,), written: the nearest row, the first of several.
    """
    num_numbers = rows.numbers.shape[1]
    count, gaps = np.empty(_BLOCK_ROWS, np.uint8), np.empty(_BLOCK_ROWS, np.uint8)
    bound = np.empty(_BLOCK_ROWS, np.uint16)
    least_count, least = np.empty(_LANES, np.uint8), np.empty(_LANES, np.uint16)
    first[:], second[:], position[:] = _FAR, _FAR, 0
    for k in range(len(rows.level_bytes)):
        for i in range(len(first)):
            if second[i] == 0:
                continue
            _count_differences(query.level_bytes[i], rows.level_bytes[k], count)
            _lane_minima(count, least_count)
            if second[i] == _FAR:
                second[i] = _beyond_two(query, i, rows, unit, own + i, count, least_count)
            enough = np.uint8(min(255, second[i] // unit))  # all in this type: vectors
            num_lanes = np.uint8(0)
            for t in range(_LANES):
                num_lanes += np.uint8(least_count[t] <= enough)
                least[t] = np.uint16(least_count[t]) * np.uint16(_STEPS)
            if num_lanes == 0:
                continue
            by_numbers = num_lanes > _FEW_LANES
            if by_numbers:
                _add_gaps(query.number_bytes[i], rows.number_bytes[k], count, gaps, bound)
                _lane_minima(bound, least)
            slack = num_numbers if by_numbers else 0
            limit = _limit(second[i], unit, slack)
            for t in range(_LANES):
                if least[t] >= limit:
                    continue
                for place in range(t, _BLOCK_ROWS, _LANES):
                    low = bound[place] if by_numbers else np.uint16(count[place]) * _STEPS
                    row = _row_of(k, place)
                    if low >= limit or row >= len(rows.levels) or row == own + i:
                        continue
                    apart = np.int32(count[place]) * unit
                    if apart + _gaps(query.numbers[i], rows.numbers[row], unit) >= second[i]:
                        continue
                    distance = _distance(query, i, rows, row, unit)
                    if distance < second[i]:
                        if distance < first[i]:
                            second[i] = min(first[i], second[i])
                            first[i], position[i] = distance, row
                        else:
                            second[i] = distance
                        limit = _limit(second[i], unit, slack)


@compiled
def _half(table: ScreenedRows, half: int, numbers_in_a: int, levels_in_a: int) -> ScreenedRows:
    """Return half of the columns; columns are the last but one axis of blocks."""
    n, m = slice(0, numbers_in_a), slice(0, levels_in_a)
    if half == 1:
        n, m = slice(numbers_in_a, None), slice(levels_in_a, None)
    return ScreenedRows(
        table.numbers[:, n], table.levels[:, m], table.number_bytes[:, n], table.level_bytes[:, m]
    )


@compiled
def _any_nearer(
    query: ScreenedRows,
    i: int,
    rows: ScreenedRows,
    chunk: int,
    unit: np.int32,
    own: int,
    distance: np.int32,
) -> bool:
    """Return whether a row of a chunk is nearer than a distance."""
    k, start = chunk // _CHUNKS, chunk % _CHUNKS * _CHUNK_ROWS
    count, bound = np.zeros(_CHUNK_ROWS, np.uint8), np.empty(_CHUNK_ROWS, np.uint16)
    for d in range(query.level_bytes.shape[1]):
        level = query.level_bytes[i, d]
        column = rows.level_bytes[k, d, start : start + _CHUNK_ROWS]
        for r in range(_CHUNK_ROWS):
            count[r] += np.uint8(level != column[r])
    for r in range(_CHUNK_ROWS):
        bound[r] = np.uint16(count[r]) * np.uint16(_STEPS)
    for d in range(query.number_bytes.shape[1]):
        number = query.number_bytes[i, d]
        column = rows.number_bytes[k, d, start : start + _CHUNK_ROWS]
        for r in range(_CHUNK_ROWS):
            bound[r] += np.uint16(_gap(number, column[r]))
    limit = _limit(distance, unit, query.number_bytes.shape[1])
    for r in range(_CHUNK_ROWS):
        row = _row_of(k, start + r)
        if bound[r] >= limit or row >= len(rows.levels) or row == own:
            continue
        if _distance(query, i, rows, row, unit) < distance:
            return True
    return False


@compiled
def linkable_rows(
    query: ScreenedRows,
    rows: ScreenedRows,
    numbers_in_a: int,
    levels_in_a: int,
    unit: np.int32,
    own: int,
    nearest: IntArray,
    linkable: NDArray[np.bool_],
) -> None:
    """Find whether one row is nearest on both halves of the columns.

    If one is, the least distance is the sum of the halves' least, so that the nearest row is such
    a row too: it is enough to look for a row that is nearer than the nearest on one half.

    Args:
        query, rows, unit, own: as in ``nearest_rows``.
        numbers_in_a, levels_in_a: how many columns, the first ones, are in half a.
        nearest: (N,), the nearest rows.
        linkable: (N,), written.
    """
    query_a = _half(query, 0, numbers_in_a, levels_in_a)
    query_b = _half(query, 1, numbers_in_a, levels_in_a)
    rows_a = _half(rows, 0, numbers_in_a, levels_in_a)
    rows_b = _half(rows, 1, numbers_in_a, levels_in_a)
    for i in range(len(nearest)):
        in_a = _distance(query_a, i, rows_a, nearest[i], unit)
        in_b = _distance(query_b, i, rows_b, nearest[i], unit)
        linkable[i] = True
        for chunk in range(len(rows.level_bytes) * _CHUNKS):
            if (in_a > 0 and _any_nearer(query_a, i, rows_a, chunk, unit, own + i, in_a)) or (
                in_b > 0 and _any_nearer(query_b, i, rows_b, chunk, unit, own + i, in_b)
            ):
                linkable[i] = False
                break
