"""Arrays of images that somebody else wrote: no header makes a reader take more than it says."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.images.image_tables import scaling_of
from pratique_common.images.npz_images import ARRAY, num_images, read_places
from tests.small_images import image_study


def archive(folder: Path, shape: str) -> Path:
    """Write an ``.npz`` whose array claims to have a shape."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    path, sink = folder / "x.npz", io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{ARRAY}.npy", content + bytes(4_096))
    path.write_bytes(sink.getvalue())
    return path


@pytest.mark.parametrize("shape", ["(1, -1, 16)", "(-1, 16, 16)", "(1, 0, 16)", "(1, 16, -16, 1)"])
def test_a_shape_that_is_none_is_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(InvalidFileError, match="it holds no array 'images'"):
        num_images(archive(tmp_path, shape), 1)
    assert num_images(archive(tmp_path, "(16, 16, 16)"), 1) == 16


def test_an_index_is_a_number_of_few_digits(tmp_path: Path) -> None:
    assert read_places(tmp_path, ["0", "17"]) == [0, 17]
    for text in (None, "", "-1", "1.0", "²", "9" * 5_000):
        with pytest.raises(InvalidFileError, match="the index is no number"):
            read_places(tmp_path, [text])


def test_a_scaling_is_said_only_where_something_is_scaled() -> None:
    image = image_study().data.image
    csv, parquet = Path("x.csv"), Path("x.parquet")
    assert scaling_of(image, [csv, parquet], None) == "percentile"
    assert scaling_of(image, [parquet, csv], "full_range") == "full_range"
    assert scaling_of(image, [parquet, parquet], None) is None
    assert scaling_of(None, [csv, csv], None) is None
    for of, real in ((image, parquet), (None, csv)):
        with pytest.raises(UsageError, match="no real table has images"):
            scaling_of(of, [real], "percentile")


def test_the_archive_helper_is_what_numpy_reads(tmp_path: Path) -> None:
    assert np.load(archive(tmp_path, "(16, 16, 16)"))[ARRAY].shape == (16, 16, 16)
