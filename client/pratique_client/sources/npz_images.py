"""Read the array ``images`` of an .npz file, one image after the other: never the whole of it."""

import zipfile
from collections.abc import Callable, Collection
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from pratique_client.sources.image_pixels import (
    MOST_PIXELS,
    ImageError,
    UInt8Array,
    reading,
    too_large,
)
from pratique_common.errors import InvalidFileError

ARRAY = "images"

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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
    try:
        with reading(), zipfile.ZipFile(path) as archive:
            if f"{ARRAY}.npy" not in archive.namelist():
                raise _not_of_this_form(num_planes)
            with archive.open(f"{ARRAY}.npy") as file:
                num, *shape = _shape(file, num_planes)
                last = min(num, max(wanted, default=-1) + 1)
                found = ((place, file.read(prod(shape))) for place in range(last))
                return {
                    place: prepare(place, np.frombuffer(content, np.uint8).reshape(shape))
                    for place, content in found
                    if place in wanted
                }
    except ImageError as problem:
        raise InvalidFileError(
            path, problem=problem.problem, remedy=problem.remedy, code=problem.code
        ) from None


def _shape(file: IO[bytes], num_planes: int) -> tuple[int, ...]:
    """Read an array's header and return (N, H, W, C)."""
    shape, is_fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    shape = (*shape, 1) if len(shape) == 3 else shape
    if len(shape) != 4 or shape[3] != num_planes or dtype != np.uint8 or is_fortran:
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
