"""Rows as the audit sees them: with what the public encoder finds in their images."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from pratique_common.images.spec import IMAGE, NUM_FEATURES, PLANES, feature_names
from pratique_common.schema import TableSchema


def audited_columns(
    schema: TableSchema, columns: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the columns of ``schema.audited``; where rows have no images, the same ones.

    Where images have several planes, ``PLANES`` are the features of each by itself, (N, channels,
    slices, E), NaN where one shows nothing: a copy of one plane among new ones is near there and
    nowhere else.

    Args:
        schema: of the study.
        columns: its columns, (N,) each, and images (N, H, W, C) where it has them.
    """
    if schema.image is None:
        return dict(columns)
    from pratique_common.images.features import FeatureEncoder  # torch takes two seconds

    seen, planes = FeatureEncoder.of(schema.image.prior).features_and_planes(columns[IMAGE])
    own = {name: columns[name] for name in schema.names}
    own |= dict(zip(feature_names(), seen.T, strict=True))
    if planes.shape[1] == 1:
        return own
    return own | {PLANES: planes.reshape(len(planes), len(schema.image.channels), -1, NUM_FEATURES)}


def audited_names(schema: TableSchema) -> tuple[str, ...]:
    """Return the names of what ``audited_columns`` returns."""
    several = schema.image is not None and len(schema.image.planes) > 1
    return (*schema.audited.names, PLANES) if several else schema.audited.names
