"""Read the array ``images`` of an .npz file, one image after the other: never the whole of it."""

import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from pratique_common.images.image_pixels import (
    MOST_PIXELS,
    ImageError,
    Scaling,
    UInt8Array,
    prepared,
    reading,
    too_large,
)
from pratique_common.images.spec import ImageSpec

ARRAY = "images"

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MOST_DIGITS = 18  # what 64 bits hold; Python refuses to read thousands
_INDEX_REMEDY = "write the image's place in the array, from 0"


def read_places(table: Path, texts: Sequence[str | None]) -> list[int]:
    """Return the places in an array that the lines of a table name.

    Raises:
        InvalidFileError: a line names none.
    """
    places = []
    for line, text in enumerate(texts):
        if text is None or not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
            raise ImageError("the index is no number", _INDEX_REMEDY).told(table, line=line)
        places.append(int(text))
    return places


def images_at(
    npz: Path, table: Path, places: Sequence[int], image: ImageSpec, scaling: Scaling | None
) -> Iterator[UInt8Array]:
    """Yield an image (H, W, C) for each line of a table, as a study has it.

    Args:
        npz: of the images.
        table: named in errors.
        places: of the lines' images in the array.
        image: of the study.
        scaling: None: images have the study's size already and are taken as they stand.

    Raises:
        InvalidFileError: no such file, no such array, a place beyond it, or what is no image.
    """
    line_of = {place: line for line, place in enumerate(places)}

    def prepare(place: int, image_HWC: UInt8Array) -> UInt8Array:
        try:
            if scaling is not None:
                return prepared(image_HWC, scaling, image.size_px)
            if image_HWC.shape != image.shape:
                problem = f"its image has not the study's {image.size_px} x {image.size_px} pixels"
                raise ImageError(problem, "give images as the study has them")
            return image_HWC
        except ImageError as problem:
            raise problem.told(table, line=line_of[place]) from None

    read = read_npz(npz, image.shape[2], line_of.keys(), prepare)
    for line, place in enumerate(places):
        if place not in read:
            raise ImageError("the index is beyond the array", _INDEX_REMEDY).told(table, line=line)
        yield read[place]


def read_npz(
    path: Path,
    num_planes: int,
    wanted: Collection[int],
    prepare: Callable[[int, UInt8Array], UInt8Array],
) -> dict[int, UInt8Array]:
    """Return what ``prepare`` makes of the wanted images, by their places.

    Args:
        path: of the file.
        num_planes: of an image: its channels, with all slices of each.
        wanted: places.
        prepare: takes a place and an image (H, W, C).

    Raises:
        InvalidFileError: no such file, or the array is not as it must be.
    """
    with _array(path, num_planes) as (file, (num, *shape)):
        last = min(num, max(wanted, default=-1) + 1)
        found = ((place, file.read(prod(shape))) for place in range(last))
        return {
            place: prepare(place, np.frombuffer(content, np.uint8).reshape(shape))
            for place, content in found
            if place in wanted
        }


def num_images(path: Path, num_planes: int) -> int:
    """Return how many images an array holds.

    Raises:
        InvalidFileError: as ``read_npz``.
    """
    with _array(path, num_planes) as (_, shape):
        return shape[0]


@contextmanager
def _array(path: Path, num_planes: int) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Give the array's bytes behind its header, and its shape (N, H, W, C)."""
    try:
        with reading(), zipfile.ZipFile(path) as archive:
            if f"{ARRAY}.npy" not in archive.namelist():
                raise _not_of_this_form(num_planes)
            with archive.open(f"{ARRAY}.npy") as file:
                yield file, _shape(file, num_planes)
    except ImageError as problem:
        raise problem.told(path) from None


def _shape(file: IO[bytes], num_planes: int) -> tuple[int, ...]:
    """Read an array's header and return (N, H, W, C)."""
    shape, is_fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    shape = (*shape, 1) if len(shape) == 3 else shape
    if len(shape) != 4 or shape[3] != num_planes or dtype != np.uint8 or is_fortran:
        raise _not_of_this_form(num_planes)
    if min(shape) < 1:  # a negative one would have all of the file read at once
        raise _not_of_this_form(num_planes)
    if prod(shape[1:]) > MOST_PIXELS:
        raise too_large()
    return shape


def _not_of_this_form(num_planes: int) -> ImageError:
    return ImageError(
        f"it holds no array '{ARRAY}' of bytes with a place, rows, columns and, if any, channels",
        f"save it with numpy.savez({ARRAY}=...), uint8 in C order, with the channels of the study "
        f"and, where it asks for neighbours, their slices from the lowest: {num_planes} planes",
    )
