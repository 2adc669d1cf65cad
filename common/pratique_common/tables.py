"""Check tables against a study's schema, and write them in one form.

Only the study's columns are read; others are never loaded. Messages name file, column and remedy
and hold no value of a record. What is dropped is counted for the site's own eyes only.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pratique_common.canonical import sha256_hex
from pratique_common.cells import arrow_cells, check_cells, is_in, read_order, read_texts
from pratique_common.errors import InvalidFileError
from pratique_common.schema import IdColumn, TableSchema
from pratique_common.table_files import damaged_parquet, read_columns
from pratique_common.visits import breaks_off

ObjectArray = NDArray[np.object_]


@dataclass(frozen=True)
class Table:
    """Accepted rows. Stays at the site: ``num_dropped`` is an exact count."""

    columns: dict[str, NDArray[Any]]
    patients: ObjectArray
    num_dropped: int

    @property
    def num_rows(self) -> int:
        """Number of accepted rows."""
        return len(self.patients)


def read_table(
    path: Path,
    schema: TableSchema,
    *,
    with_patients: bool = True,
    in_time: bool = True,
    lacks: Sequence[str] = (),
) -> Table:
    """Read a file and keep the rows inside the schema's closed domains and rules.

    Args:
        path: ``.csv`` (UTF-8, commas) or ``.parquet``.
        schema: the study's table.
        with_patients: read ``schema.patient_id``; without it every row is a patient of its own,
            as in a synthetic table.
        in_time: put visits in order, by a column of the file; a synthetic table's are.
        lacks: columns that the file does not have: missing in all rows.

    Raises:
        InvalidFileError: unreadable, a column missing, empty, or more rows dropped than the
            study allows.
    """
    patient_id = schema.patient_id if with_patients else None
    names = [name for name in schema.names if name not in lacks]
    names += [patient_id] if patient_id else []
    order_by = schema.visits.order_by if schema.visits and patient_id and in_time else None
    if order_by and order_by not in names:
        names.append(order_by)
    arrow = read_columns(path, names)
    for name in schema.names:
        if name in lacks:
            arrow = arrow.append_column(name, pa.nulls(arrow.num_rows, pa.string()))
    return check_table(arrow, schema, source=path, patient_id=patient_id, order_by=order_by)


def read_candidate(data: bytes, schema: TableSchema, *, num_rows: int) -> Table:
    """Read a synthetic table that must be exactly what ``to_arrow`` writes for its content.

    What is audited is then all that is released: no other column, type, value outside its domain
    or metadata travels along.

    Raises:
        InvalidFileError: anything else is in it.
    """
    source = "candidate"
    try:
        with pa.parquet.ParquetFile(io.BytesIO(data)) as parquet:
            metadata = set(parquet.metadata.metadata or {}) - {b"ARROW:schema"}
            if metadata or parquet.metadata.num_rows != num_rows:
                raise _not_canonical(source)
            arrow = parquet.read()
    except (pa.ArrowException, OSError):
        raise damaged_parquet(source) from None
    if arrow.column_names != list(schema.released_names) or arrow.schema.metadata:
        raise _not_canonical(source)
    patient_id = schema.patient_id if schema.visits else None
    table = check_table(arrow, schema, source=source, patient_id=patient_id)
    number = _numbered(table.patients)
    canonical = to_arrow(table.columns, schema, number)
    if (
        table.num_dropped
        or not canonical.equals(arrow)
        or not canonical.schema.equals(arrow.schema, check_metadata=True)
        or breaks_off(schema, table.columns, number)
        or np.bincount(number).max() > schema.max_rows_per_patient
    ):
        raise _not_canonical(source)
    return table


def _numbered(patients: ObjectArray) -> NDArray[np.int64]:
    """Return 0, 0, 1, 2, 2, ... for patients whose rows stand together."""
    return np.concatenate([[0], np.cumsum(patients[1:] != patients[:-1])]).astype(np.int64)


def _not_canonical(source: str) -> InvalidFileError:
    return InvalidFileError(
        source, problem="not exactly a table of the study", remedy="sample it again"
    )


def check_table(
    table: pa.Table,
    schema: TableSchema,
    *,
    source: Path | str,
    patient_id: str | None,
    order_by: str | None = None,
) -> Table:
    """Bring columns into their domains and drop rows that are outside; see ``read_table``."""
    if table.num_rows == 0:
        raise InvalidFileError(source, problem="there are no rows", remedy="export the table again")
    columns: dict[str, NDArray[Any]] = {}
    bad_by_cause: dict[str, NDArray[np.bool_]] = {}
    for column in schema.columns:
        cells = table.column(column.name)
        values, bad = check_cells(cells, column, schema.missing_texts(column), source)
        columns[column.name] = values
        bad_by_cause[f"column '{column.name}'"] = bad
    if patient_id is None:
        patients = _ids_by_content(columns)
    else:
        patients = read_texts(table.column(patient_id), source, patient_id)
        bad_by_cause[f"column '{patient_id}'"] = is_in(patients, {None, *schema.missing_values})
    if order_by is not None:
        if order_by in columns:
            moments = columns[order_by]
        else:
            moments = read_order(table.column(order_by), schema.missing_values, source, order_by)
        bad_by_cause[f"column '{order_by}'"] = np.isnan(moments)
    bad_by_cause["rules"] = ~schema.obeys_rules(columns)
    dropped = np.logical_or.reduce(list(bad_by_cause.values()))
    if dropped.mean() > schema.max_dropped_share or dropped.all():
        raise _too_many_dropped(source, schema, bad_by_cause, dropped)
    keep = np.flatnonzero(~dropped)
    if order_by is not None:
        keep = keep[np.argsort(moments[keep], kind="stable")]
    kept = {name: values[keep] for name, values in columns.items()}
    return Table(kept, patients[keep], num_dropped=int(dropped.sum()))


def _ids_by_content(columns: dict[str, NDArray[Any]]) -> ObjectArray:
    """Return an id for each row that no other row's presence can change.

    A row's number would: removing one row would change the roles of all after it. Identical rows
    are told apart by how many of them stood before.
    """
    seen: Counter[str] = Counter()
    ids = []
    for values in zip(*columns.values(), strict=True):
        content = sha256_hex("\0".join(map(str, values)).encode())
        ids.append(f"{content}:{seen[content]}")
        seen[content] += 1
    return np.array(ids, object)


def _too_many_dropped(
    source: Path | str,
    schema: TableSchema,
    bad_by_cause: dict[str, NDArray[np.bool_]],
    dropped: NDArray[np.bool_],
) -> InvalidFileError:
    worst = max(bad_by_cause, key=lambda cause: int(bad_by_cause[cause].sum()))
    share = float(bad_by_cause[worst].mean())
    reason = "break a rule of the study" if worst == "rules" else "are outside the study's domain"
    return InvalidFileError(
        source,
        field=worst,
        problem=f"{share:.1%} of the rows {reason} and {dropped.mean():.1%} would be dropped in "
        f"all (the study allows {schema.max_dropped_share:.1%})",
        remedy="correct the export, or agree on the domain in a new study",
        code="too_many_dropped",
    )


def cap_rows(table: Table, schema: TableSchema) -> Table:
    """Keep the first ``max_rows_per_patient`` rows of every patient, in the table's order."""
    _, owner, counts = np.unique(
        table.patients.astype(str), return_inverse=True, return_counts=True
    )
    order = np.argsort(owner, kind="stable")
    rank = np.empty(len(owner), np.int64)
    rank[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = rank < schema.max_rows_per_patient
    kept = {name: values[keep] for name, values in table.columns.items()}
    return Table(kept, table.patients[keep], table.num_dropped)


def row_weights(table: Table) -> NDArray[np.float64]:
    """Return for each row one over its patient's number of rows: every patient counts once."""
    _, owner, counts = np.unique(
        table.patients.astype(str), return_inverse=True, return_counts=True
    )
    return np.asarray(1 / counts[owner], np.float64)


def to_arrow(
    columns: dict[str, NDArray[Any]],
    schema: TableSchema,
    number_N: NDArray[np.int64] | None = None,
) -> pa.Table:
    """Return a table with fresh ids and one type a column, null where missing.

    Args:
        columns: values (N,).
        schema: of the table.
        number_N: where rows are visits, whose each is: 0, 0, 1, ...; by default all differ.
    """
    num_rows = len(columns[schema.names[0]])
    ids = [pa.array(each.fresh(num_rows), pa.string()) for each in schema.ids]
    if schema.visits is not None and schema.patient_id is not None:
        number_N = np.arange(num_rows) if number_N is None else number_N
        patients = IdColumn(name=schema.patient_id, prefix="P").fresh(
            int(number_N.max(initial=-1)) + 1
        )
        ids.insert(0, pa.array(np.array(patients, object)[number_N], pa.string()))
    cells = [arrow_cells(columns[column.name], column) for column in schema.columns]
    return pa.table(dict(zip(schema.released_names, [*ids, *cells], strict=True)))


def with_fresh_ids(table: pa.Table, schema: TableSchema) -> pa.Table:
    """Return a table that was put together of several with ids that differ throughout."""
    for each in schema.ids:
        ids = pa.array(each.fresh(table.num_rows), pa.string())
        table = table.set_column(table.column_names.index(each.name), each.name, ids)
    return table


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file without any metadata of this machine."""
    sink = io.BytesIO()
    pa.parquet.write_table(table.replace_schema_metadata(None), sink, compression="zstd")
    return sink.getvalue()


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as UTF-8 CSV; missing cells are empty."""
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink)
    return sink.getvalue()
