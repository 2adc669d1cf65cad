"""More rows with images from a released generator, on what it makes images for.

Columns are drawn as the generator draws them, one by one, from the levels that are asked for; then
an image is made for each row. A condition on a column that images know nothing of would choose no
other images, so it is refused.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.binned_columns import NumericColumn
from pratique_common.encoding import TableEncoder
from pratique_common.errors import UsageError
from pratique_common.generators.base import ImageGenerator, VolumeGenerator
from pratique_common.generators.image_codes import draw_columns
from pratique_common.generators.image_diffusion import volume_positions
from pratique_common.images.image_cells import mask_cells
from pratique_common.images.spec import IMAGE, MASK, ImageSpec
from pratique_common.schema import TableSchema
from pratique_common.tables import to_arrow
from pratique_server.conditions import Restriction, allowed_levels, met, too_rare

UInt8Array = NDArray[np.uint8]

_BLOCK_BYTES = 1 << 27
"""Of the 64-bit codes of pixels that are drawn at once."""

_LEAST_POOL_ROWS, _POOL_ROWS_A_ROW, _MAX_POOLS = 20_000, 8, 16
"""Of columns alone: ranges may cut a bin, and what lies outside of one is drawn again."""


def block_rows(image: ImageSpec, slices: int | None = None) -> int:
    """Return how many rows are drawn at once, so that memory stays flat in their number."""
    return max(1, _BLOCK_BYTES // (8 * image.num_pixels * (slices or 1)))


def require_shown(
    schema: TableSchema, generator: ImageGenerator, column: int, *, option: str
) -> None:
    """Refuse a condition on a column that images know nothing of.

    Raises:
        UsageError: with what images are made for.
    """
    if column in generator.shown:
        return
    shown = " and ".join(f"'{schema.names[place]}'" for place in generator.shown)
    raise UsageError(
        f"{option}: this release's images are made for {shown or 'no column'}, so a condition on "
        f"'{schema.names[column]}' would choose no other images; leave it out"
    )


def require_volumes(
    schema: TableSchema, generator: ImageGenerator, restrictions: Sequence[Restriction]
) -> None:
    """Refuse volumes where slices are made one by one, and conditions on where they lie.

    Raises:
        UsageError: with the reason.
    """
    assert schema.image is not None
    position = schema.image.position
    if not isinstance(generator, VolumeGenerator) or position is None:
        raise UsageError("--slices: this release's generator makes slices one by one; leave it out")
    if any(schema.names[each.column] == position for each in restrictions):
        raise UsageError(f"--where: a volume has slices of every '{position}'; leave it out")


def draw_images(
    schema: TableSchema,
    generator: ImageGenerator,
    encoder: TableEncoder,
    restrictions: Sequence[Restriction],
    rows: int,
    *,
    seed: tuple[int, int, int],
    slices: int | None = None,
) -> tuple[pa.Table, UInt8Array | None, float]:
    """Return rows with images that obey restrictions.

    Args:
        schema: of a study of images.
        generator: of a release.
        encoder: decodes codes of columns.
        restrictions: on columns that images are made for.
        rows: how many.
        seed: the same one gives the same rows.
        slices: of a volume that each row becomes, the lowest first; see ``require_volumes``.

    Returns:
        The rows, masks of their images (N, H, W) where they are known, and the probability of the
        restrictions.

    Raises:
        UsageError: no row can obey all restrictions.
        NotEnoughDataError: the generator hardly knows such rows.
    """
    assert schema.image is not None
    position = schema.image.position
    allowed = allowed_levels(restrictions)
    asked_for = [
        marginal * allowed.get(place, 1.0) for place, marginal in enumerate(generator.marginals)
    ]
    rng = np.random.default_rng(seed)
    torch_rng = torch.Generator().manual_seed(int(rng.integers(2**62)))
    share = prod(float(marginal.sum()) for marginal in asked_for)
    if not share > 0:
        raise too_rare()
    found: list[NDArray[np.int64]] = []
    values: list[dict[str, NDArray[Any]]] = []
    drawn = kept = 0
    while kept < rows:
        if len(found) == _MAX_POOLS:
            raise too_rare()
        size = max(_LEAST_POOL_ROWS, _POOL_ROWS_A_ROW * rows)
        pool = draw_columns(asked_for, size, torch_rng).numpy()
        columns = encoder.decode(pool, rng)
        inside = met(schema, restrictions, encoder.blanked(pool, columns), columns)
        found.append(pool[inside])
        values.append({name: cells[inside] for name, cells in columns.items()})
        drawn, kept = drawn + size, kept + int(inside.sum())
    codes = np.concatenate(found)[:rows]
    if slices is not None:
        assert isinstance(generator, VolumeGenerator)
        made, masks = generator.volumes_for(torch.from_numpy(codes), slices, torch_rng), None
    else:
        made, masks = generator.images_for(torch.from_numpy(codes), torch_rng)
    made_codes, pixels = np.split(made.numpy(), [codes.shape[1]], axis=1)
    cells: dict[str, NDArray[Any]]
    kept_cells = {name: np.concatenate([each[name] for each in values])[:rows] for name in columns}
    if slices is not None and position is not None:
        cells = {name: np.repeat(each, slices) for name, each in kept_cells.items()}
        cells[position] = np.tile(_rounded_positions(schema, position, slices), rows)
    elif np.array_equal(made_codes, codes):
        cells = kept_cells
    else:  # an image decided where its slice lies: values are drawn from what came out
        cells = encoder.decode(made_codes, rng)
    cells[IMAGE] = pixels.astype(np.uint8).reshape(-1, *schema.image.shape)
    return to_arrow(cells, schema), masks, share * kept / drawn


def _rounded_positions(schema: TableSchema, position: str, slices: int) -> NDArray[np.float64]:
    column = schema.column(position)
    assert isinstance(column, NumericColumn)  # checked by the study
    return np.round(volume_positions(slices).double().numpy(), column.decimals_shown)


def with_masks(table: pa.Table, masks: UInt8Array | None) -> pa.Table:
    """Return a table with a column of masks behind its images, if they are known."""
    return table if masks is None else table.append_column(MASK, mask_cells(masks))
