"""Read a table of images: a study's columns, and the pixels of each row.

Shapes: N rows, H x W x C pixels.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from pratique_common.errors import InvalidFileError
from pratique_common.images.spec import IMAGE, ImageSpec
from pratique_common.schema import TableSchema
from pratique_common.table_files import read_columns
from pratique_common.tables import Table, check_table


def read_image_table(path: Path, schema: TableSchema, *, with_patients: bool) -> Table:
    """Read a Parquet file and keep the rows inside the study's domains; see ``read_table``.

    Args:
        path: ``.parquet`` with the study's columns and ``image``: H · W · C bytes a row, rows of
            pixels from above, channels last.
        schema: of a study of images.
        with_patients: read ``schema.patient_id``; without it every row is a patient of its own.

    Returns:
        The table, with pixels (N, H, W, C) as its column ``image``.

    Raises:
        InvalidFileError: as ``read_table``, or the images are of another size.
    """
    if schema.image is None:
        raise ValueError("the study has no images")
    patient_id = schema.patient_id if with_patients else None
    arrow = read_columns(path, [*schema.names, IMAGE, *([patient_id] if patient_id else [])])
    pixels = _pixels(arrow.column(IMAGE), schema.image, path)
    known = np.ones(arrow.num_rows, bool)
    if patient_id is not None:
        patients = arrow.column(patient_id).cast(pa.string())
        unknown = pa.compute.is_in(patients, value_set=pa.array([None, *schema.missing_values]))
        known = ~np.asarray(unknown.to_numpy(zero_copy_only=False), bool)
    # Rows carry their number in place of a patient's id: it says which of them were accepted.
    numbers = pa.array([f"row {number}" for number in range(arrow.num_rows)])
    numbered = arrow.select(schema.names).append_column(IMAGE, numbers).filter(pa.array(known))
    table = check_table(numbered, schema, source=path, patient_id=IMAGE)
    kept = np.array([int(text.removeprefix("row ")) for text in table.patients], np.int64)
    owner = table.patients
    if patient_id is not None:
        owner = np.array(patients.to_pylist(), object)[kept]
    num_dropped = table.num_dropped + int((~known).sum())
    return Table({**table.columns, IMAGE: pixels[kept]}, owner, num_dropped)


def _pixels(column: pa.ChunkedArray, image: ImageSpec, path: Path) -> NDArray[np.uint8]:
    size = image.num_pixels
    if column.type != pa.binary(size) or column.null_count:
        raise InvalidFileError(
            path,
            field=f"column '{IMAGE}'",
            problem="not an image in every row as bytes of fixed size",
            remedy=f"write {' x '.join(map(str, image.shape))} = {size} bytes of one size a row",
        )
    parts = [np.zeros(0, np.uint8)]
    for chunk in column.chunks:
        first = chunk.offset * size
        data = np.frombuffer(chunk.buffers()[1], np.uint8)
        parts.append(data[first : first + len(chunk) * size])
    return np.concatenate(parts).reshape(-1, *image.shape)
