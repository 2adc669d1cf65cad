"""Rules that hold nowhere or contradict each other, by made-up rows: what `study check` warns of.

Half of all cells are what a rule compares a column with, or beside it: a condition on a rare level
is met as well as one on a frequent one. Rows that obey one rule are gone on with to the next.

Shapes: N made-up rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.encoding import TableEncoder
from pratique_common.row_rules import RowRule
from pratique_common.rule_grammar import previous
from pratique_common.rules import condition
from pratique_common.schema import TableSchema

Columns = dict[str, NDArray[Any]]

_ROWS = 20_000
_NONE = f"of {_ROWS:,} made-up rows within the study's limits none"
_MISSING_SHARE = 0.1
_SEED = 0  # the same warnings at every call


def rules_in_vain(schema: TableSchema) -> list[str]:
    """Return in words which conditions hold in no row within the study's limits."""
    rows = _MadeUp(schema)
    return [*_never_asked(schema, rows), *_never_apply(schema, rows), *_contradict(schema, rows)]


def _never_asked(schema: TableSchema, rows: "_MadeUp") -> list[str]:
    made = rows.with_visits_before()
    return [
        f"columns: {column.name}: asked_if = {column.asked_if}: {_NONE} is so; {column.name} would "
        "always be missing"
        for column in schema.columns
        if column.asked_if is not None and not condition(column.asked_if).holds(made).any()
    ]


def _never_apply(schema: TableSchema, rows: "_MadeUp") -> list[str]:
    made, found = rows.with_visits_before(), []
    for number, rule in enumerate(schema.rules, start=1):
        when = condition(rule.when).holds(made)
        if not when.any():
            found.append(f"rules: number {number} never applies: {_NONE} is as {rule.when}")
        elif not (when & condition(rule.then).holds(made)).any():
            found.append(
                f"rules: number {number}: where {rule.when}, {_NONE} is as {rule.then}: no "
                "synthetic row will be as the former"
            )
    return found


def _contradict(schema: TableSchema, rows: "_MadeUp") -> list[str]:
    """Go from rule to rule with rows that obey those before."""
    made, settled = rows.draw(), set[str]()
    for number, rule in enumerate(schema.rules, start=1):
        if rule in schema.visit_rules:
            continue
        named = _named(schema, rule)
        made |= {name: cells for name, cells in rows.draw().items() if name in named - settled}
        schema.blank_unasked(made)
        settled |= named
        obeys = np.flatnonzero(rule.obeyed(made))
        if not len(obeys):
            return [
                f"rules: number {number} contradicts those before it: {_NONE} obeys them all, and "
                "no table could be made"
            ]
        kept = rows.rng.choice(obeys, _ROWS)
        made = {name: cells[kept] for name, cells in made.items()}
    return []


def _named(schema: TableSchema, rule: RowRule) -> set[str]:
    """Return what a rule names, and the columns that decide whether these are asked for."""
    named = set(rule.columns)
    for column in reversed(schema.columns):  # conditions name columns before
        if column.name in named and column.asked_if is not None:
            named |= condition(column.asked_if).columns
    return named


class _MadeUp:
    """Rows within a study's limits, from nobody's data."""

    def __init__(self, schema: TableSchema) -> None:
        self._schema, self.rng = schema, np.random.default_rng(_SEED)
        self._compared = _compared(schema)

    def with_visits_before(self) -> Columns:
        """Return rows, and of each a row that stands for the visit before."""
        made, before = self.draw(), self.draw()
        for rows in (made, before):
            self._schema.blank_unasked(rows)
        return made | {previous(name): cells for name, cells in before.items()}

    def draw(self) -> Columns:
        """Return rows, (N,), with cells that are not asked for as well."""
        codes = [self.rng.integers(0, n, _ROWS) for n in self._levels()]
        encoder = TableEncoder(self._schema)
        codes_ND = np.stack(codes, axis=1)
        made = encoder.cells(encoder.drawing(self._schema.names, codes_ND), codes_ND, self.rng)
        for column in self._schema.columns:
            cells = made[column.name]
            if compared := self._compared.get(column.name):
                put = self.rng.random(_ROWS) < 0.5
                values = np.array(compared, cells.dtype)
                cells[put] = self.rng.choice(values, int(put.sum()))
            if column.missing:
                cells[self.rng.random(_ROWS) < _MISSING_SHARE] = (
                    None if cells.dtype == object else np.nan
                )
        return made

    def _levels(self) -> list[int]:
        return [each.num_levels - each.can_be_missing for each in self._schema.columns]


def _compared(schema: TableSchema) -> dict[str, list[Any]]:
    """Return levels that conditions name, and numbers that they name or that are beside these."""
    texts = [text for rule in schema.rules for text in (rule.when, rule.then)]
    texts += [column.asked_if for column in schema.columns if column.asked_if is not None]
    found: dict[str, list[Any]] = {}
    of_name: Mapping[str, AnyColumn] = {
        name: column for column in schema.columns for name in (column.name, previous(column.name))
    }
    for text in texts:
        for name, constant in condition(text).compared_constants:
            column = of_name[name]
            values: list[Any] = [constant]
            if not isinstance(column, CategoricalColumn):
                step, edges = 10.0**-column.decimals_shown, column.bin_edges()
                near = float(constant) + step * np.array([-1, 0, 1])
                values = [each for each in near if edges[0] <= each <= edges[-1]]
            found.setdefault(column.name, []).extend(values)
    return found
