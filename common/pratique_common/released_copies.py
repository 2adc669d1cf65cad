"""The audited rows in other formats: what a release holds beside them must say the same.

Sites audit ``synthetic.parquet``. A coordinator that wrote other rows into the files beside it
would release what nobody audited: ``pratique verify`` compares them.
"""

import io
import zipfile
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pratique_common.errors import VerificationError
from pratique_common.images.spec import IMAGE, ImageSpec
from pratique_common.schema import TableSchema

_HH_MM = len("08:20")
PARQUET, CSV, ARCHIVE = "synthetic.parquet", "synthetic.csv", "synthetic.npz"
RELEASE_FILES = frozenset(
    {
        PARQUET,
        CSV,
        ARCHIVE,
        "croissant.json",
        "dictionary.csv",
        "generator/schema.json",
        "generator/weights.safetensors",
        "report.html",
        "report.json",
        "study.toml",
    }
)
"""All that a release may hold: an audited table does not vouch for a file beside it."""

_IMAGES, _MASKS = "images", "masks"
_HEADER_BYTES = 4096  # of an array in the archive, far more than numpy writes


def table_csv(table: pa.Table) -> bytes:
    """Return the columns of rows as UTF-8 CSV, without images; missing cells are empty.

    Times of day are to the minute: 08:20.
    """
    sink, written = io.BytesIO(), _without_images(table)
    for place, field in enumerate(written.schema):
        if pa.types.is_time(field.type):
            texts = pc.utf8_slice_codeunits(written.column(place).cast(pa.string()), 0, _HH_MM)
            written = written.set_column(place, field.name, texts)
    pa.csv.write_csv(written, sink)
    return sink.getvalue()


def image_archive(table: pa.Table, image: ImageSpec, masks: NDArray[np.uint8] | None) -> bytes:
    """Return an ``.npz`` of the rows' images (N, H, W, C) and, where known, masks (N, H, W)."""
    arrays = {_IMAGES: _images(table, image)} | ({} if masks is None else {_MASKS: masks})
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def check_copies(contents: Mapping[str, bytes], schema: TableSchema) -> None:
    """Check that the files of a release say what its audited table says.

    Masks were not audited, and are only as large as they have to be.

    Raises:
        VerificationError: one does not.
    """
    if unknown := sorted(set(contents) - RELEASE_FILES):
        raise VerificationError(f"{unknown[0]} is no file of a release")
    try:
        table = pa.parquet.read_table(io.BytesIO(contents[PARQUET]))
        same_cells = CSV not in contents or _read_csv(contents[CSV], table).equals(
            _without_images(table)
        )
    except (KeyError, pa.ArrowException, OSError, ValueError):
        raise VerificationError("synthetic.parquet or synthetic.csv is damaged") from None
    if not same_cells:
        raise VerificationError("synthetic.csv holds other rows than those that were audited")
    if schema.image is None:
        if ARCHIVE in contents:
            raise VerificationError("synthetic.npz: the study has no images")
    elif ARCHIVE in contents and not _same_images(contents[ARCHIVE], table, schema.image):
        raise VerificationError("synthetic.npz holds other images than those that were audited")


def _without_images(table: pa.Table) -> pa.Table:
    names = [name for name in table.column_names if name != IMAGE]
    return table.select(names).replace_schema_metadata(None)


def _read_csv(content: bytes, table: pa.Table) -> pa.Table:
    types = {field.name: field.type for field in _without_images(table).schema}
    options = pa.csv.ConvertOptions(
        column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    return pa.csv.read_csv(io.BytesIO(content), convert_options=options).combine_chunks()


def _images(table: pa.Table, image: ImageSpec) -> NDArray[np.uint8]:
    pixels = np.frombuffer(b"".join(table.column(IMAGE).to_pylist()), np.uint8)
    return pixels.reshape(-1, *image.shape)


def _same_images(content: bytes, table: pa.Table, image: ImageSpec) -> bool:
    """Return whether an archive holds exactly the table's images; nothing larger is unpacked."""
    height, width, _ = image.shape
    largest = {_IMAGES: image.num_pixels, _MASKS: height * width}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                size = largest[entry.filename.removesuffix(".npy")] * table.num_rows
                if entry.file_size > size + _HEADER_BYTES:
                    return False
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        same = np.array_equal(arrays[_IMAGES], _images(table, image))
        masks_fit = _MASKS not in arrays or arrays[_MASKS].shape == (table.num_rows, height, width)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False
    return bool(same and masks_fit)
