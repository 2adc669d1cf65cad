"""Contact sheets of phantoms: images side by side, with their masks in colour."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pratique_common.phantoms.implicit_shapes import Floats

TILE_PX = 128
_MARGIN_PX = 64
_TITLE_PX = 20
_COLOURS = {1: (230, 60, 60), 2: (70, 200, 90), 4: (250, 220, 70)}
"""Of labels."""


class Block(NamedTuple):
    """Images under one title: N columns with a title each, R rows."""

    title: str
    columns: list[str]
    rows: dict[str, list[Image.Image]]  # title → N images, of any size


def grey(image: Floats) -> NDArray[np.uint8]:
    """Return values of 0 to 1 as 8 bits."""
    return np.asarray(np.round(image * 255), np.uint8)


def overlay(image: Floats, label: NDArray[np.uint8]) -> Image.Image:
    """Return an image, (H, W) in [0, 1], under the colours of its labels, (H, W)."""
    colours = np.repeat(grey(image)[:, :, None], 3, axis=2)
    for value, colour in _COLOURS.items():
        region = label == value
        colours[region] = (0.4 * colours[region] + 0.6 * np.array(colour)).astype(np.uint8)
    return Image.fromarray(colours)


def contact_sheet(blocks: list[Block]) -> Image.Image:
    """Return all blocks below each other."""
    width = _MARGIN_PX + TILE_PX * max(len(block.columns) for block in blocks)
    heights = [_TITLE_PX + TILE_PX * len(block.rows) for block in blocks]
    sheet = Image.new("RGB", (width, sum(heights)))
    pen = ImageDraw.Draw(sheet)
    top = _TITLE_PX
    for block, height in zip(blocks, heights, strict=True):
        pen.text((4, top - 16), block.title, fill="white")
        for column, title in enumerate(block.columns):
            pen.text((_MARGIN_PX + column * TILE_PX + 4, top - 16), title, fill="white")
        for row, (title, images) in enumerate(block.rows.items()):
            y = top + row * TILE_PX
            pen.text((4, y + 4), title.upper(), fill="white")
            for column, image in enumerate(images):
                enlarged = image.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
                sheet.paste(enlarged, (_MARGIN_PX + column * TILE_PX, y))
        top += height
    return sheet
