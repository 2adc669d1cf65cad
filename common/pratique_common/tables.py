"""Check tables against a study's schema, and write them in one form.

Only the study's columns are read; others are never loaded. Messages name file, column and remedy
and hold no value of a record. What is dropped is counted for the site's own eyes only.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from pratique_common.cells import arrow_cells
from pratique_common.errors import InvalidFileError
from pratique_common.images.image_cells import image_cells, image_type
from pratique_common.images.image_pixels import Scaling
from pratique_common.images.image_tables import read_image_batches
from pratique_common.images.spec import IMAGE
from pratique_common.row_checks import RowChecks
from pratique_common.schema import IdColumn, TableSchema
from pratique_common.table_files import damaged_parquet, read_batches
from pratique_common.visits import fixed_cells_change

ObjectArray = NDArray[np.object_]


@dataclass(frozen=True)
class Table:
    """Accepted rows. Stays at the site: ``num_dropped`` is an exact count.

    Columns are (N,); ``image``, where rows have one, is (N, H, W, C).
    """

    columns: dict[str, NDArray[Any]]
    patients: ObjectArray
    num_dropped: int

    @property
    def num_rows(self) -> int:
        """Number of accepted rows."""
        return len(self.patients)

    def take(self, rows: NDArray[Any]) -> "Table":
        """Return some rows, by position or by a mask."""
        kept = {name: values[rows] for name, values in self.columns.items()}
        return Table(kept, self.patients[rows], self.num_dropped)


def read_table(
    path: Path,
    schema: TableSchema,
    *,
    with_patients: bool = True,
    in_time: bool = True,
    lacks: Sequence[str] = (),
    scaling: Scaling | None = None,
) -> Table:
    """Read a file and keep the rows inside the schema's closed domains and rules.

    Args:
        path: ``.csv`` (UTF-8, commas) or ``.parquet``; images as ``read_image_batches`` says.
        schema: the study's table.
        with_patients: read ``schema.patient_id``; without it every row is a patient of its own,
            as in a synthetic table.
        in_time: put visits in order, by a column of the file. A synthetic table has such a column
            if the study releases it; else its rows stand as they came.
        lacks: columns that the file does not have: missing in all rows.
        scaling: of images in an .npz, as a hospital's source has it; by default they are taken as
            they stand, as a synthetic table's are.

    Raises:
        InvalidFileError: unreadable, a column missing, empty, or more rows dropped than the
            study allows.
    """
    patient_id = schema.patient_id if with_patients else None
    order_by = schema.visits.order_by if schema.visits and patient_id else None
    if not in_time and order_by not in schema.names:
        order_by = None
    names = [name for name in schema.names if name not in lacks]
    names += [name for name in (patient_id, order_by) if name and name not in names]
    if schema.image is None:
        batches = read_batches(path, names)
    else:
        batches = read_image_batches(path, names, schema.image, scaling)
    return check_batches(
        batches,
        schema,
        source=path,
        patient_id=patient_id,
        order_by=order_by,
        lacks=lacks,
    )


def check_batches(
    batches: Iterable[pa.Table],
    schema: TableSchema,
    *,
    source: Path | str,
    patient_id: str | None,
    order_by: str | None = None,
    lacks: Sequence[str] = (),
    ordered: bool = True,
) -> Table:
    """Bring columns into their domains and drop rows that are outside.

    Args:
        batches: of one table, each with all columns but those that it ``lacks``.
        schema: the study's table.
        source: named in errors.
        patient_id: column of the patient's id; None if every row is a patient of its own.
        order_by: column that puts visits in order.
        lacks: columns that are missing in all rows.
        ordered: the order of rows means something. If not, rows of one moment are put in an order
            that follows from their content: a database may give them in another one tomorrow.

    Raises:
        InvalidFileError: cells of an unreadable type, no rows, or more of them dropped than the
            study allows.
    """
    checks = RowChecks(schema, source=source, patient_id=patient_id, order_by=order_by)
    for batch in batches:
        for name in schema.names:
            if name in lacks:
                batch = batch.append_column(name, pa.nulls(batch.num_rows, pa.string()))
        checks.add(batch)
    columns, patients = checks.accepted(by_content=not ordered)
    return Table(columns, patients, checks.num_dropped)


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
            found = parquet.schema_arrow
            if found.names != list(schema.released_names):
                raise _not_canonical(source)  # before anything is unpacked
            if schema.image and found.field(IMAGE).type != image_type(schema.image):
                raise _not_canonical(source)
            arrow = parquet.read()
    except (pa.ArrowException, OSError):
        raise damaged_parquet(source) from None
    if arrow.schema.metadata:
        raise _not_canonical(source)
    patient_id = schema.patient_id if schema.visits else None
    try:
        if patient_id is not None:
            rows_each = arrow.column(patient_id).value_counts().field("counts").to_numpy()
            if rows_each.max(initial=0) > schema.max_rows_per_patient:
                raise _not_canonical(source)
        table = check_table(arrow, schema, source=source, patient_id=patient_id)
    except (InvalidFileError, pa.ArrowException):
        raise _not_canonical(source) from None
    number = _numbered(table.patients)
    canonical = to_arrow(table.columns, schema, number)
    if (
        table.num_dropped
        or not canonical.equals(arrow)
        or not canonical.schema.equals(arrow.schema, check_metadata=True)
        or fixed_cells_change(schema, table.columns, number)
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
    table: pa.Table, schema: TableSchema, *, source: Path | str, patient_id: str | None
) -> Table:
    """Bring columns into their domains and drop rows that are outside; see ``read_table``."""
    return check_batches([table], schema, source=source, patient_id=patient_id)


def cap_rows(table: Table, schema: TableSchema) -> Table:
    """Keep the first ``max_rows_per_patient`` rows of every patient, in the table's order."""
    _, owner, counts = np.unique(
        table.patients.astype(str), return_inverse=True, return_counts=True
    )
    order = np.argsort(owner, kind="stable")
    rank = np.empty(len(owner), np.int64)
    rank[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return table.take(rank < schema.max_rows_per_patient)


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
        columns: values (N,), and images (N, H, W, C).
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
    if schema.image is not None:
        cells.append(image_cells(columns[IMAGE], schema.image))
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
