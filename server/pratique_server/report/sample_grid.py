"""Synthetic images for the report: some of each level of the target, as they come."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pratique_common.columns import CategoricalColumn
from pratique_common.images.spec import IMAGE
from pratique_common.schema import TableSchema

_IN_A_ROW = 10
_SHOWN_PX = 96  # a side on the page; small images are enlarged without smoothing
_GAP_PX = 4
_WHITE = 255


def sample_grid(schema: TableSchema, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
    """Return the first images of each level: ``png`` in base64, and the rows' ``levels``.

    Of several channels the first is shown, of neighbouring slices the middle one. None where rows
    have no images.

    Args:
        schema: of the study.
        columns: of synthetic rows, with their images (N, H, W, C).
    """
    if schema.image is None or schema.target is None:
        return None
    target = schema.column(schema.target)
    assert isinstance(target, CategoricalColumn)
    middle = schema.image.neighbours
    scale = max(1, _SHOWN_PX // schema.image.size_px)
    side = schema.image.size_px * scale + _GAP_PX
    sheet = np.full((side * len(target.levels), side * _IN_A_ROW), _WHITE, np.uint8)
    for row, level in enumerate(target.levels):
        chosen = np.flatnonzero(columns[schema.target] == level)[:_IN_A_ROW]
        for place, pixels in enumerate(columns[IMAGE][chosen, :, :, middle]):
            large = np.kron(pixels, np.ones((scale, scale), np.uint8))
            top, left = row * side, place * side
            sheet[top : top + len(large), left : left + len(large)] = large
    sink = io.BytesIO()
    Image.fromarray(sheet).save(sink, "PNG", optimize=True)
    return {"png": base64.b64encode(sink.getvalue()).decode(), "levels": list(target.levels)}
