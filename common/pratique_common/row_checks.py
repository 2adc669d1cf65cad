"""Which rows are inside a study's domains and rules: batch by batch, so that a table need not fit.

Of a batch only accepted values are kept: 8 bytes a cell, where levels are shared texts, and the
pixels of an image. Messages hold no value of a record; what is dropped is counted for the site's
own eyes only.

Shapes: N rows.
"""

from collections import Counter
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pratique_common.canonical import sha256_hex
from pratique_common.cells import check_cells, is_in, read_order, read_texts
from pratique_common.columns import CategoricalColumn
from pratique_common.errors import InvalidFileError
from pratique_common.images.image_cells import image_hashes, read_images
from pratique_common.images.spec import IMAGE
from pratique_common.schema import TableSchema
from pratique_common.visits import visits_that_follow

Columns = dict[str, NDArray[Any]]
BoolArray = NDArray[np.bool_]
UIntArray = NDArray[np.uint64]

_VISITS = "visits and rules on the visit before"


class RowChecks:
    """Takes batches of a table in their order."""

    def __init__(
        self,
        schema: TableSchema,
        *,
        source: Path | str,
        patient_id: str | None,
        order_by: str | None,
    ) -> None:
        self._schema, self._source = schema, source
        self._patient_id, self._order_by = patient_id, order_by
        names = schema.names if schema.image is None else (*schema.names, IMAGE)
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        self._patients: list[NDArray[np.object_]] = []
        self._moments: list[NDArray[np.float64]] = []
        self._rules = {_VISITS}
        self._seen: Counter[str] = Counter()
        self._bad_by_cause: Counter[str] = Counter()
        self._num_rows = self.num_dropped = 0

    def add(self, batch: pa.Table) -> None:
        """Keep the accepted rows of a batch that has all columns."""
        columns: Columns = {}
        bad_by_cause: dict[str, BoolArray] = {}
        for column in self._schema.columns:
            texts = self._schema.missing_texts(column)
            values, bad = check_cells(batch.column(column.name), column, texts, self._source)
            columns[column.name], bad_by_cause[f"column '{column.name}'"] = values, bad
        if self._schema.image is not None:
            columns[IMAGE] = read_images(batch.column(IMAGE), self._schema.image, self._source)
        if self._patient_id is None:
            patients = self._ids_by_content(columns)
        else:
            cells = batch.column(self._patient_id)
            patients = read_texts(cells, self._source, self._patient_id)
            unknown = is_in(patients, {None, *self._schema.missing_values})
            bad_by_cause[f"column '{self._patient_id}'"] = unknown
        moments = np.zeros(len(patients))
        if self._order_by is not None:
            moments = self._moments_of(batch, columns, self._order_by)
            bad_by_cause[f"column '{self._order_by}'"] = np.isnan(moments)
        breaches = dict(self._schema.breaches(columns))
        self._rules |= set(breaches)
        bad_by_cause |= breaches
        keep = ~np.logical_or.reduce(list(bad_by_cause.values()))
        for name, values in columns.items():
            self._parts[name].append(values[keep])
        self._patients.append(patients[keep])
        self._moments.append(moments[keep])
        self._bad_by_cause.update({cause: int(bad.sum()) for cause, bad in bad_by_cause.items()})
        self._num_rows += len(keep)
        self.num_dropped += len(keep) - int(keep.sum())

    def accepted(self, *, by_content: bool) -> tuple[Columns, NDArray[np.object_]]:
        """Return values and whose each row is, in time where an order is asked for.

        Args:
            by_content: rows came in no order: put those of one moment in an order that follows
                from what they hold.

        Raises:
            InvalidFileError: there are no rows, or more are dropped than the study allows.
        """
        if self._num_rows == 0:
            raise InvalidFileError(
                self._source, problem="there are no rows", remedy="export the table again"
            )
        self._require_few_dropped()
        # One column after the other, so that few are there twice.
        columns = {name: np.concatenate(self._parts.pop(name)) for name in list(self._parts)}
        patients, moments = np.concatenate(self._patients), np.concatenate(self._moments)
        if by_content:
            order = np.lexsort((content_hashes(self._schema, columns), moments))
            patients = _take(order, columns, patients)
        elif self._order_by is not None:
            patients = _take(np.argsort(moments, kind="stable"), columns, patients)
        if self._schema.visits is not None and self._patient_id is not None:
            rows = visits_that_follow(self._schema, columns, patients)
            wrong = len(patients) - len(rows)
            self._bad_by_cause[_VISITS] += wrong
            self.num_dropped += wrong
            self._require_few_dropped()
            patients = _take(rows, columns, patients)
        return columns, patients

    def _require_few_dropped(self) -> None:
        share = self.num_dropped / self._num_rows
        if share > self._schema.max_dropped_share or share == 1:
            raise self._too_many_dropped(share)

    def _moments_of(self, batch: pa.Table, columns: Columns, order_by: str) -> NDArray[np.float64]:
        if order_by in columns:
            return np.asarray(columns[order_by], np.float64)
        cells, missing = batch.column(order_by), self._schema.missing_values
        return read_order(cells, missing, self._source, order_by)

    def _ids_by_content(self, columns: Columns) -> NDArray[np.object_]:
        """Return an id for each row that no other row's presence can change.

        A row's number would: removing one row would change the roles of all after it. Identical
        rows are told apart by how many of them stood before.
        """
        told = dict(columns)
        if self._schema.image is not None:
            told[IMAGE] = image_hashes(told[IMAGE])
        ids = []
        for values in zip(*told.values(), strict=True):
            content = sha256_hex("\0".join(map(str, values)).encode())
            ids.append(f"{content}:{self._seen[content]}")
            self._seen[content] += 1
        return np.array(ids, object)

    def _too_many_dropped(self, dropped: float) -> InvalidFileError:
        worst = max(self._bad_by_cause, key=lambda cause: self._bad_by_cause[cause])
        share = self._bad_by_cause[worst] / self._num_rows
        reason = "do not obey" if worst in self._rules else "are outside the study's domain"
        return InvalidFileError(
            self._source,
            field=worst,
            problem=f"{share:.1%} of the rows {reason} and {dropped:.1%} would be dropped in "
            f"all (the study allows {self._schema.max_dropped_share:.1%})",
            remedy="correct the export, or agree on the domain in a new study",
            code="too_many_dropped",
        )


def _take(
    rows: NDArray[np.intp], columns: Columns, patients: NDArray[np.object_]
) -> NDArray[np.object_]:
    """Put rows in place of all, column by column, and return whose they are."""
    for name in columns:
        columns[name] = columns[name][rows]
    return patients[rows]


def level_positions(column: CategoricalColumn, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return each level's position in the study, -1 for missing."""
    position = {level: place for place, level in enumerate(column.levels)}
    found = map(position.get, values.tolist(), repeat(-1))
    return np.fromiter(found, np.int64, len(values))


def content_hashes(schema: TableSchema, columns: Columns) -> UIntArray:
    """Return a number for each row, (N,), that follows from its values alone.

    Each column's bits are mixed in by the finaliser of SplitMix64 (Steele, Lea & Flood 2014). It
    orders rows that came in no order; nothing secret hangs on it.
    """
    mixed = np.zeros(len(columns[schema.names[0]]), np.uint64)
    for column in schema.columns:
        values = columns[column.name]
        if isinstance(column, CategoricalColumn):
            bits = level_positions(column, values).view(np.uint64)
        else:
            # -0.0 and 0.0 are one number, and so are all that are none.
            plain = np.where(np.isnan(values), np.nan, values + 0.0)
            bits = np.ascontiguousarray(plain).view(np.uint64)
        mixed = _mixed(mixed ^ bits)
    if schema.image is not None:
        mixed = _mixed(mixed ^ image_hashes(columns[IMAGE]))
    return mixed


def _mixed(bits: UIntArray) -> UIntArray:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
