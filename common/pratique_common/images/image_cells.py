"""Images as cells of a table: fixed-size bytes, rows of pixels first, channels of a pixel together.

Shapes: N images, H = W = ``size_px``, C channels.
"""

import hashlib
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pratique_common.errors import InvalidFileError
from pratique_common.images.spec import IMAGE, ImageSpec

UInt8Array = NDArray[np.uint8]

_HASH_BYTES = 8


def image_type(image: ImageSpec) -> pa.DataType:
    """Return the one type of a column of images."""
    return pa.binary(image.num_pixels)


def image_cells(images_NHWC: UInt8Array, image: ImageSpec) -> pa.Array:
    """Return images as a column.

    Raises:
        ValueError: they have another shape or another type.
    """
    if images_NHWC.shape[1:] != image.shape or images_NHWC.dtype != np.uint8:
        raise ValueError(f"images must be bytes of shape {image.shape}")
    return _cells(images_NHWC)


def mask_cells(masks_NHW: UInt8Array) -> pa.Array:
    """Return masks as a column: a byte a pixel, rows of pixels first."""
    return _cells(masks_NHW)


def _cells(arrays: UInt8Array) -> pa.Array:
    content = pa.py_buffer(np.ascontiguousarray(arrays))
    return pa.Array.from_buffers(pa.binary(prod(arrays.shape[1:])), len(arrays), [None, content])


def read_images(cells: pa.ChunkedArray, image: ImageSpec, source: Path | str) -> UInt8Array:
    """Return the images of a column, (N, H, W, C); what one chunk holds is not copied.

    Raises:
        InvalidFileError: cells are no images of the study, or one is missing.
    """
    if cells.type != image_type(image) or cells.null_count:
        raise InvalidFileError(
            source,
            field=f"column '{IMAGE}'",
            problem=f"its cells are not {image.num_pixels} bytes each",
            remedy="give the pixels of one image in each row",
        )
    parts = [_pixels(chunk, image) for chunk in cells.chunks if len(chunk)]
    if not parts:
        return np.empty((0, *image.shape), np.uint8)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _pixels(chunk: pa.Array, image: ImageSpec) -> UInt8Array:
    start, size = chunk.offset * image.num_pixels, len(chunk) * image.num_pixels
    content = np.frombuffer(chunk.buffers()[1], np.uint8, count=size, offset=start)
    return content.reshape(-1, *image.shape)


def image_hashes(images_NHWC: UInt8Array) -> NDArray[np.uint64]:
    """Return for each image a number, (N,), that follows from its pixels: 8 bytes of SHA-256."""
    digests = (hashlib.sha256(image.tobytes()).digest() for image in images_NHWC)
    content = b"".join(digest[:_HASH_BYTES] for digest in digests)
    return np.frombuffer(content, "<u8").astype(np.uint64)
