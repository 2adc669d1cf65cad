"""Rows as the audit sees them: with what the public encoder finds in their images."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from pratique_common.images.spec import IMAGE, feature_names
from pratique_common.schema import TableSchema


def audited_columns(
    schema: TableSchema, columns: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the columns of ``schema.audited``; where rows have no images, the same ones.

    Args:
        schema: of the study.
        columns: its columns, (N,) each, and images (N, H, W, C) where it has them.
    """
    if schema.image is None:
        return dict(columns)
    from pratique_common.images.features import FeatureEncoder  # torch takes two seconds

    seen = FeatureEncoder.of(schema.image.prior).features(columns[IMAGE])
    own = {name: columns[name] for name in schema.names}
    return own | dict(zip(feature_names(), seen.T, strict=True))
