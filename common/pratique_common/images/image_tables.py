"""Table files with images: Parquet holds them in a column; beside a CSV lies an .npz of its name.

``x.npz`` holds an image for each line of ``x.csv``, in that order, as a release does; or, if the
CSV has a column ``index``, at the places that it names, as hospitals' sources do.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from pratique_common.cells import read_texts
from pratique_common.errors import InvalidFileError, UsageError
from pratique_common.images.image_cells import image_cells
from pratique_common.images.image_pixels import Scaling
from pratique_common.images.npz_images import images_at, num_images, read_places
from pratique_common.images.spec import IMAGE, ImageSpec
from pratique_common.table_files import header, read_batches, read_columns

INDEX = "index"

_BATCH_BYTES = 1 << 26


def images_file(table: Path) -> Path | None:
    """Return the file that holds the images of a table file; None if it holds them itself."""
    return table.with_suffix(".npz") if table.suffix.lower() == ".csv" else None


def scaling_of(
    image: ImageSpec | None, real: Sequence[Path], asked: Scaling | None
) -> Scaling | None:
    """Return how images of real tables are scaled: None where no table has them in an ``.npz``.

    Args:
        image: of the study.
        real: table files.
        asked: by the user; default ``percentile``, as in a site's source.

    Raises:
        UsageError: it is asked for where nothing is scaled.
    """
    scaled = image is not None and any(images_file(path) is not None for path in real)
    if asked is not None and not scaled:
        raise UsageError("--scaling: no real table has images in an .npz; leave it out")
    return (asked or "percentile") if scaled else None


def read_image_batches(
    path: Path, names: Sequence[str], image: ImageSpec, scaling: Scaling | None
) -> Iterator[pa.Table]:
    """Read the named columns of a table file and its images, as a last column; some at a time.

    Args:
        path: ``.csv`` or ``.parquet``.
        names: of the columns.
        image: of the study.
        scaling: of images in an .npz, as ``images_at``; what Parquet holds is taken as it stands.

    Raises:
        InvalidFileError: a file is not there or not readable, lacks a column, or its images are
            not as many as its lines or not of the study's size.
    """
    npz = images_file(path)
    if npz is None:
        yield from read_batches(path, [*names, IMAGE])
        return
    by_index = INDEX in header(path) and INDEX not in names
    cells = read_columns(path, [*names, INDEX] if by_index else names)
    if not npz.is_file():
        raise InvalidFileError(
            npz,
            problem="no such file",
            remedy="put the images of the table's lines there, or give Parquet that holds them",
        )
    if by_index:
        places = read_places(path, list(read_texts(cells.column(INDEX), path, INDEX)))
    else:
        places = list(range(cells.num_rows))
        if num_images(npz, image.shape[2]) != cells.num_rows:
            raise InvalidFileError(
                npz,
                problem="it has not as many images as the table has lines",
                remedy=f"write one for each, or name their places in a column '{INDEX}'",
            )
    images = images_at(npz, path, places, image, scaling)
    at_once = max(1, _BATCH_BYTES // image.num_pixels)
    for start in range(0, cells.num_rows, at_once):
        pixels = np.stack(list(islice(images, at_once)))
        batch = cells.select(list(names)).slice(start, at_once)
        yield batch.append_column(IMAGE, image_cells(pixels, image))
