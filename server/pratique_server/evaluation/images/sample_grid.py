"""A picture of synthetic images, one row a class. Real images are never drawn.

Shapes: N images, H x W pixels.
"""

import base64
import io
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]

ACROSS = 12
_LEAST_SIDE_PX = 64  # smaller images are shown larger, pixel by pixel
_GAP_PX = 2
_PAPER = 255


def grid_address(images_NHW: UInt8Array, class_N: IntArray, num_classes: int) -> str:
    """Return the first images of each class, in rows, as a PNG's ``data:`` address."""
    _, height, width = images_NHW.shape
    scale = ceil(_LEAST_SIDE_PX / min(height, width))
    high, wide = height * scale + _GAP_PX, width * scale + _GAP_PX
    canvas = np.full((num_classes * high - _GAP_PX, ACROSS * wide - _GAP_PX), _PAPER, np.uint8)
    for row in range(num_classes):
        for column, index in enumerate(np.flatnonzero(class_N == row)[:ACROSS]):
            large = np.kron(images_NHW[index], np.ones((scale, scale), np.uint8))
            top, left = row * high, column * wide
            canvas[top : top + height * scale, left : left + width * scale] = large
    sink = io.BytesIO()
    Image.fromarray(canvas).save(sink, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
