"""Some of a site's images on one sheet, for the eyes of the person who approves.

No rule finds every face, name or label in pixels. The sheet stays in the site's folder.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pratique_client.site import Site
from pratique_common.durable import write_whole
from pratique_common.images.spec import IMAGE
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec

CONTACT_SHEET = "contact-sheet.png"

_MOST_IMAGES = 64
_TILES_A_ROW = 8
_TILE_PX = 128
_TEXT_PX = 14


def write_contact_sheet(site: Site, study: StudySpec, columns: Mapping[str, NDArray[Any]]) -> str:
    """Write the sheet of a study's images, and return what a person has to do with it.

    Args:
        site: in whose folder it is written, for its owner only.
        study: of images.
        columns: rows of the site, as ``Table.columns``.
    """
    path = site.folder / CONTACT_SHEET
    content = io.BytesIO()
    contact_sheet(study.data, columns, f"{study.name} {study.digest[:12]}").save(content, "PNG")
    write_whole(path, content.getvalue(), mode=0o600)
    return f"look for faces, names and burned-in text in {path}, and never send it"


def contact_sheet(
    schema: TableSchema, columns: Mapping[str, NDArray[Any]], title: str
) -> Image.Image:
    """Return up to 64 images, evenly drawn, all channels side by side, each under its target."""
    images_NHWC = columns[IMAGE]
    num_rows, channels = len(images_NHWC), images_NHWC.shape[-1]
    chosen = np.unique(
        np.linspace(0, num_rows - 1, min(_MOST_IMAGES, num_rows)).round().astype(int)
    )
    a_row = max(1, _TILES_A_ROW // channels)
    width, height = channels * _TILE_PX, _TILE_PX + _TEXT_PX
    num_lines = -(-len(chosen) // a_row)
    sheet = Image.new("L", (a_row * width, num_lines * height + _TEXT_PX))
    pen = ImageDraw.Draw(sheet)
    pen.text((2, 1), title, fill=255)
    assert schema.target is not None
    for number, row in enumerate(chosen):
        left, top = number % a_row * width, number // a_row * height + _TEXT_PX
        pen.text((left + 2, top + 1), str(columns[schema.target][row]), fill=255)
        for channel in range(channels):
            tile = Image.fromarray(np.ascontiguousarray(images_NHWC[row, :, :, channel]))
            tile = tile.resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)
            sheet.paste(tile, (left + channel * _TILE_PX, top + _TEXT_PX))
    return sheet
