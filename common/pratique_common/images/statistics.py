"""Numbers of an image whose distribution over patients tells how a hospital's images look.

What the public encoder sees, which was trained to look past brightness, contrast, sharpness, noise
and where a head lies; and beside it, of every plane, just these: means of blocks, ordered grey
levels, edges.
An image's numbers depend on that image alone, in every bit: they are the encoder's, or counted in
whole grey levels.

Shapes: N images, H x W pixels, C planes, S = ``num_statistics``.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.features import FeatureEncoder
from pratique_common.images.spec import NUM_FEATURES

UInt8Array = NDArray[np.uint8]
Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

_BLOCKS = 4
"""Along each side of an image: layout, and left from right."""

_GREY_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Of pixels that are darker: background, tissues, and what is brightest but some pixels."""

_EDGE_SHARES = (0.25, 0.5)
"""Of pixels whose surroundings differ less: noise, where nothing is to be seen."""

_OF_A_PLANE = _BLOCKS**2 + len(_GREY_SHARES) + len(_EDGE_SHARES) + 2


def num_statistics(num_planes: int) -> int:
    """Return S."""
    return NUM_FEATURES + num_planes * _OF_A_PLANE


def image_statistics(encoder: FeatureEncoder, pixels: UInt8Array) -> Float64Array:
    """Return the numbers of images, (N, S).

    Args:
        encoder: of the study's prior.
        pixels: (N, H, W, C), three pixels a side or more.
    """
    return np.concatenate([encoder.features(pixels), _low_level(pixels)], axis=1)


def _low_level(pixels: UInt8Array) -> Float64Array:
    grey = pixels.astype(np.int64)
    num, height, width, planes = grey.shape
    rows, columns = (np.linspace(0, side, _BLOCKS + 1).astype(int) for side in (height, width))
    blocks = [
        grey[:, top:bottom, left:right].sum((1, 2))
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    edges = np.abs(4 * middle - around)
    steps = [np.abs(np.diff(grey, axis=axis)).sum((1, 2)) for axis in (1, 2)]
    found = [
        *blocks,
        *_ordered(grey, _GREY_SHARES),
        *_ordered(edges, _EDGE_SHARES),
        edges.sum((1, 2)),
        steps[0] + steps[1],
    ]
    return np.stack(found, axis=1).reshape(num, planes * _OF_A_PLANE).astype(np.float64)


def _ordered(values: Int64Array, shares: tuple[float, ...]) -> list[Int64Array]:
    """Return the values that these shares of an image's pixels lie below, (N, C) each."""
    flat = np.sort(values.reshape(len(values), -1, values.shape[-1]), axis=1)
    return [flat[:, int(share * flat.shape[1])] for share in shares]
