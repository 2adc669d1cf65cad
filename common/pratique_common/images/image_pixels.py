"""From what a file holds to the pixels of a study: scaled by itself, padded, resized.

Only the image itself decides how it is scaled: no other patient's has a part in it. Problems that
are told from here are sentences of ours: a library's own text may quote a header.

Shapes: H rows, W columns.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pratique_common.errors import InvalidFileError, PratiqueError

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

Scaling = Literal["percentile", "full_range"]
"""How an image's values become 0 to 1: by its own percentiles, or by what its type can hold."""

UNREADABLE, REFUSED = "image_unreadable", "image_refused"
"""Codes: a file that is damaged or of another kind; one that may show who somebody is."""

LEAST_SIDE_PX = 8
MOST_PIXELS = 89_478_485
"""Of one image: Pillow's own limit (a quarter of a GiB of 24-bit pixels), for all kinds of file."""

_PERCENTILES = (0.5, 99.5)
"""Of an image: less than they leave out are hot pixels and burnt corners."""

_CHATTY = ("PIL", "pydicom", "nibabel")


class ImageError(Exception):
    """Why an image is not taken, without a value of it; whoever knows its place adds that."""

    def __init__(self, problem: str, remedy: str, *, code: str = UNREADABLE) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.code = problem, remedy, code

    def told(self, path: Path, *, line: int | None = None) -> InvalidFileError:
        """Return it as the error of a file, or of a line of a table (from 0, below its header)."""
        return InvalidFileError(
            path,
            field=None if line is None else f"line {line + 2}",
            problem=self.problem,
            remedy=self.remedy,
            code=self.code,
        )


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever a library meets into an ``ImageError``, and keep what it says to itself."""
    for name in _CHATTY:  # their logs and warnings quote headers
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (ImageError, PratiqueError):
        raise
    except FileNotFoundError:
        raise ImageError("there is no such file", "correct the path") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise too_large() from None
    except Exception:  # noqa: BLE001 - damaged files raise anything
        raise ImageError("the file cannot be read", "export or copy it again") from None


def too_large() -> ImageError:
    """Return the problem of an image that would not fit."""
    return ImageError(f"more than {MOST_PIXELS:,} pixels", "export it smaller")


def inside(folder: Path, name: str) -> Path:
    """Return the file of a name in a folder.

    Raises:
        ImageError: the name, or a link, leads out of the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ImageError(
            "the path leads out of the folder", "keep images below the folder", code=REFUSED
        )
    return path


def check_pixels(values_HW: NDArray[Any]) -> None:
    """Refuse what is no image.

    Raises:
        ImageError: no rows and columns, fewer than 8 of them, too many pixels, or infinite ones.
    """
    if values_HW.ndim != 2 or min(values_HW.shape) < LEAST_SIDE_PX:
        raise ImageError(
            f"no image of one channel with at least {LEAST_SIDE_PX} rows and columns",
            "leave it out, or export it again",
        )
    if values_HW.size > MOST_PIXELS:
        raise too_large()
    if not np.isfinite(values_HW).all():
        raise ImageError("pixels that are no finite numbers", "replace them by the background")


def by_percentiles(values_HW: NDArray[Any]) -> Float64Array:
    """Return an image in [0, 1]: its percentiles .5 and 99.5 become 0 and 1.

    One without contrast between the two is black.
    """
    values = values_HW.astype(np.float64)
    low, high = np.percentile(values, _PERCENTILES)
    if not high > low:
        return np.zeros(values.shape)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float64)


def by_full_range(values_HW: NDArray[Any]) -> Float64Array:
    """Return an image of unsigned whole numbers in [0, 1]: what its type can hold becomes 1."""
    if values_HW.dtype.kind != "u":
        raise ImageError("pixels are no unsigned whole numbers", "set scaling to percentile")
    return np.asarray(values_HW / np.iinfo(values_HW.dtype).max, np.float64)


def prepared(values_HWC: NDArray[Any], scaling: Scaling, size_px: int) -> UInt8Array:
    """Return an image as a study has it, (size_px, size_px, C), each channel by itself.

    Raises:
        ImageError: it is no image, or its type has no full range.
    """
    scaled = by_percentiles if scaling == "percentile" else by_full_range
    planes = []
    for values_HW in np.moveaxis(values_HWC, -1, 0):
        check_pixels(values_HW)
        planes.append(square(scaled(values_HW), size_px))
    return np.stack(planes, axis=-1)


def square(
    scaled_HW: Float64Array, size_px: int, spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> UInt8Array:
    """Return an image padded to a square of black and resized, (size_px, size_px).

    Anatomy keeps its proportions. Shrinking takes the mean over areas, so that no pattern appears
    that was not there; enlarging is Lanczos'.

    Args:
        scaled_HW: in [0, 1].
        size_px: of the study.
        spacing_mm: between rows, and between columns.

    Raises:
        ImageError: the square would be too large.
    """
    height, width = scaled_HW.shape
    side_mm = max(height * spacing_mm[0], width * spacing_mm[1])
    rows = max(height, round(side_mm / spacing_mm[0]))
    columns = max(width, round(side_mm / spacing_mm[1]))
    if rows * columns > MOST_PIXELS:
        raise too_large()
    top, left = (rows - height) // 2, (columns - width) // 2
    padded = np.zeros((rows, columns))
    padded[top : top + height, left : left + width] = scaled_HW
    if min(rows, columns) >= size_px:
        resized = _area_means(_area_means(padded, size_px).T, size_px).T
    else:
        whole = Image.fromarray(padded.astype(np.float32))
        resized = np.asarray(whole.resize((size_px, size_px), Image.Resampling.LANCZOS))
    return np.asarray(np.rint(np.clip(resized, 0, 1) * 255), np.uint8)


def _area_means(values_HW: Float64Array, num: int) -> Float64Array:
    """Return the means over ``num`` equal parts of the rows, (num, W).

    A row that lies in two parts counts in both by its share. Pillow's BOX gives it to one of them:
    from 17 rows to 16 the mean of an image moves by up to 3 %.
    """
    height = len(values_HW)
    sums = np.concatenate([np.zeros((1, values_HW.shape[1])), values_HW.cumsum(axis=0)])
    edges = np.linspace(0, height, num + 1)
    whole = np.minimum(edges.astype(np.int64), height - 1)
    up_to = sums[whole] + (edges - whole)[:, None] * values_HW[whole]
    return np.diff(up_to, axis=0) * (num / height)
