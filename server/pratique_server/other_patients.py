"""Two real tables that must be of different patients: an audit's, an evaluation's."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pratique_common.errors import InvalidFileError
from pratique_common.schema import TableSchema
from pratique_common.tables import Table

_LEAST_ROWS = 20
"""Of which each may well be like one of other patients in a table of few columns."""
_ALONE = ":0"
"""How the id of a row without a patient ends if no row before it is the same."""


def require_other_patients(
    schema: TableSchema, tables: Mapping[str, Table], *, source: Path
) -> None:
    """Refuse a second table with patients of the first.

    Where rows have no patient, two patients may be alike: a second table is refused if each of its
    rows stands in the first, of whose rows most are like no other.

    Args:
        schema: of both.
        tables: the two, by what they are called.
        source: of the second.

    Raises:
        InvalidFileError: patients stand in both.
    """
    (first_name, first), (second_name, second) = tables.items()
    first_ids, second_ids = (each.patients.astype(str) for each in (first, second))
    both = np.isin(second_ids, first_ids)
    if schema.patient_id is None:
        differ = np.char.endswith(first_ids, _ALONE).mean() > 0.5
        if len(both) >= _LEAST_ROWS and both.all() and differ:
            raise InvalidFileError(
                source,
                problem=f"all its rows stand in the file of {first_name}, too",
                remedy=f"give a table of other patients as {second_name}",
            )
    elif both.any():
        raise InvalidFileError(
            source,
            field=f"column '{schema.patient_id}'",
            problem=f"patients stand in {first_name} and {second_name}",
            remedy="give each patient one role",
        )
