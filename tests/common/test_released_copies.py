"""What lies beside the audited rows of a release must say the same."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pratique_common.errors import VerificationError
from pratique_common.phantoms.cohort import study_path
from pratique_common.released_copies import (
    ARCHIVE,
    CSV,
    PARQUET,
    check_copies,
    image_archive,
    table_csv,
)
from pratique_common.schema import TableSchema
from pratique_common.study import load_study
from pratique_common.tables import parquet_bytes

TABLES = load_study(study_path()).data
IMAGES = TableSchema.model_validate(
    {
        "kind": "image",
        "target": "kind",
        "columns": [{"name": "kind", "type": "categorical", "categories": ["a", "b"]}],
        "image": {"prior": "brain_mri", "size_px": 16, "channels": ["t1", "t2"]},
    }
)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 16, 16, 2), dtype=np.uint8)
MASKS = (PIXELS[..., 0] > 200).astype(np.uint8)


def rows() -> pa.Table:
    return pa.table(
        {
            "number": pa.array([0.1, 1e-7, None], pa.float64()),
            "whole": pa.array([7, None, -1], pa.int64()),
            "level": ["plain", 'a, "b"\nc', None],
            "at": pa.array([500 * 60_000, None, 0], pa.time32("ms")),
        }
    )


def images(pixels: Any = PIXELS) -> pa.Table:
    cells = pa.array([each.tobytes() for each in pixels], pa.binary(16 * 16 * 2))
    return pa.table({"kind": ["a"] * len(pixels), "image": cells})


def test_cells_come_back_as_they_were() -> None:
    assert b'"08:20"\n' in table_csv(rows())
    check_copies({PARQUET: parquet_bytes(rows()), CSV: table_csv(rows())}, TABLES)


@pytest.mark.parametrize(
    "other",
    [
        lambda table: table.slice(1),
        lambda table: table.take([1, 0, 2]),
        lambda table: table.set_column(0, "number", pa.array([0.1, 1.1e-7, None])),
        lambda table: table.append_column("more", pa.array([1, 2, 3])),
        lambda table: table.set_column(3, "at", pa.array([501 * 60_000, None, 0], pa.time32("ms"))),
        lambda table: table.set_column(2, "level", pa.array(["plain", 'a, "b"\nc', ""])),
    ],
)
def test_other_rows_in_the_csv_are_found(other: Callable[[pa.Table], pa.Table]) -> None:
    contents = {PARQUET: parquet_bytes(rows()), CSV: table_csv(other(rows()))}
    with pytest.raises(VerificationError, match=r"synthetic\.(csv holds other|parquet or)"):
        check_copies(contents, TABLES)


def test_a_file_that_nobody_audited_is_found() -> None:
    with pytest.raises(VerificationError, match=r"patients\.csv is no file of a release"):
        check_copies({PARQUET: parquet_bytes(rows()), "patients.csv": b"x"}, TABLES)
    archive = image_archive(images(), IMAGES.image, None) if IMAGES.image else b""
    with pytest.raises(VerificationError, match="no images"):
        check_copies({PARQUET: parquet_bytes(rows()), ARCHIVE: archive}, TABLES)


@pytest.mark.parametrize("masks", [None, MASKS])
def test_an_archive_holds_the_images(masks: Any) -> None:
    assert IMAGES.image is not None
    archive = image_archive(images(), IMAGES.image, masks)
    contents = {PARQUET: parquet_bytes(images()), CSV: table_csv(images()), ARCHIVE: archive}
    check_copies(contents, IMAGES)
    assert b"image" not in contents[CSV]
    np.testing.assert_array_equal(np.load(io.BytesIO(archive))["images"], PIXELS)


def _npz(**arrays: Any) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        _npz(images=np.bitwise_xor(PIXELS, 1)),
        _npz(images=PIXELS[:-1]),
        _npz(masks=MASKS),
        _npz(images=PIXELS, masks=MASKS[:-1]),
        _npz(images=PIXELS, more=MASKS),
        _npz(images=np.concatenate([PIXELS] * 40)),
        _npz(images=np.array([{}], object)),
        b"PK",
        b"",
    ],
)
def test_other_images_are_found(archive: bytes) -> None:
    with pytest.raises(VerificationError, match="other images"):
        check_copies({PARQUET: parquet_bytes(images()), ARCHIVE: archive}, IMAGES)
