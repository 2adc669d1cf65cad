"""A prior's images as rows of codes, like a study's own.

Shapes: N rows, D columns, L levels of the target.
"""

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.images.priors import PRIORS
from pratique_common.schema import TableSchema

Int64Array = NDArray[np.int64]


def prior_kinds(schema: TableSchema) -> Int64Array:
    """Return what the target's levels are among the prior's kinds, (L,).

    Raises:
        ValueError: a level or a channel is none of the prior's.
    """
    image, target = schema.image, schema.column(schema.target or "")
    assert image is not None and isinstance(target, CategoricalColumn)
    prior = PRIORS[image.prior]
    if unknown := set(image.channels) - set(prior.channels):
        known = ", ".join(prior.channels)
        raise ValueError(f"image: channels: the prior has no '{min(unknown)}', but {known}")
    kinds = [image.kinds.get(level, level) for level in target.levels]
    if unknown := set(kinds) - set(prior.kinds):
        known = ", ".join(prior.kinds)
        raise ValueError(f"image: kinds: the prior has no '{min(unknown)}', but {known}")
    if target.can_be_missing:
        raise ValueError("target: must not be missing: the prior has to know what to show")
    return np.array([prior.kinds.index(kind) for kind in kinds])


def prior_codes(schema: TableSchema, num_rows: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return codes (N, D + pixels) of images that the study's prior drew, as many of each level.

    Columns of which a prior knows nothing have their first code.
    """
    image = schema.image
    assert image is not None and schema.target is not None
    kinds, prior = prior_kinds(schema), PRIORS[image.prior]()
    level_N = np.arange(num_rows) % len(kinds)
    drawn = prior.render(
        prior.draw(kinds[level_N], rng),
        image.channels,
        size_px=image.size_px,
        offsets_mm=image.offsets_mm,
    )
    codes_ND = np.zeros((num_rows, len(schema.columns)), np.int16)
    codes_ND[:, schema.names.index(schema.target)] = level_N
    if image.position is not None:
        column = schema.column(image.position)
        assert not isinstance(column, CategoricalColumn)
        bins = np.searchsorted(column.bin_edges(), drawn.position, side="right") - 1
        codes_ND[:, schema.names.index(image.position)] = bins.clip(0, column.num_bins - 1)
    return np.concatenate([codes_ND, drawn.pixels.reshape(num_rows, -1)], axis=1, dtype=np.int16)
