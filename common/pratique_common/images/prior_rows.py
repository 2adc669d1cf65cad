"""Rows of the public prior as the audit sees them: what a release has to beat."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.images.audited import audited_columns
from pratique_common.images.prior_codes import prior_codes
from pratique_common.images.spec import IMAGE, feature_names
from pratique_common.schema import TableSchema

_ROWS = 2_000
"""Some 4 s at 32 pixels; a model of 32 features learns little more from more of them."""


def prior_rows(schema: TableSchema) -> tuple[TableSchema, dict[str, NDArray[Any]]]:
    """Return the schema of what a prior knows, and rows of it: target, position and features.

    The same rows everywhere, up to the last bits that processors render differently.

    Args:
        schema: of a study of images.
    """
    image = schema.image
    assert image is not None and schema.target is not None
    codes = prior_codes(schema, _ROWS, np.random.default_rng(0))
    first = len(schema.columns)
    columns: dict[str, NDArray[Any]] = {
        IMAGE: codes[:, first:].astype(np.uint8).reshape(-1, *image.shape)
    }
    known = [name for name in (schema.target, image.position) if name is not None]
    for name in known:
        column, code = schema.column(name), codes[:, schema.names.index(name)]
        if isinstance(column, CategoricalColumn):
            columns[name] = np.array(column.levels, object)[code]
        else:
            edges = np.asarray(column.bin_edges())
            columns[name] = ((edges[1:] + edges[:-1]) / 2)[code]
    of_prior = schema.model_copy(update={"columns": tuple(map(schema.column, known))})
    kept = [*known, *feature_names()]
    audited = of_prior.audited.model_copy(
        update={"subgroups": (), "quasi_identifiers": (), "sensitive": ()}
    )
    seen = audited_columns(of_prior, columns)
    return audited, {name: seen[name] for name in kept}
