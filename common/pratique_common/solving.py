"""Values that make two sides equal where a rule wants it: a total, a length of stay.

Draws and exchanges hardly ever meet ``total == a + b``. One term follows from the others, and is
taken where it lies in the bin that the row has anyway.

Shapes: N rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.in_bins import ValuesInBins
from pratique_common.row_rules import RowRule
from pratique_common.rules import condition

IntArray = NDArray[np.int64]


def solve_equalities(
    rules: Sequence[RowRule],
    columns: dict[str, NDArray[Any]],
    inside: Mapping[str, ValuesInBins],
    bins: Mapping[str, IntArray],
) -> None:
    """Replace one value of each row that breaks a rule that wants sides to be equal, if one can be.

    A term that stands alone is tried first: a total follows from its parts, and these stay as they
    were drawn. Other rules may be broken then; judge rows afterwards.

    Args:
        rules: one after the other; those without an equality change nothing.
        columns: all that rules name, values (N,) as in ``Condition.holds``; changed in place.
        inside: of the columns that may be changed.
        bins: of the same, the bin of each row, (N,); negative where it has none.
    """
    for rule in rules:
        for found in condition(rule.then).differences(columns):
            if not found.equal:
                continue
            signs = list(found.factors.values())
            broken = ~rule.obeyed(columns)
            for name in sorted(found.factors, key=lambda each: signs.count(found.factors[each])):
                if name not in inside or not found.factors[name]:
                    continue
                solved = columns[name] - found.values / found.factors[name]
                solved, fits = inside[name].on_grid(solved, bins[name])
                fits &= broken
                columns[name][fits] = solved[fits]
                broken &= ~fits
