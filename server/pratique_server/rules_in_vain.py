"""Rules that hold nowhere or contradict each other, by made-up rows: what `study check` warns of.

Half of all cells are what a rule compares a column with, or beside it: a condition on a rare level
is met as well as one on a frequent one. In part of the rows sides of comparisons are made equal,
and in part nothing or all that may is missing. Rows that obey one rule go on to the next.

Shapes: N made-up rows.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
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
_MISSING_SHARE, _EQUAL_SHARE = 0.1, 0.1
_SEED = 0  # the same warnings at every call


def rules_in_vain(schema: TableSchema) -> list[str]:
    """Return in words which conditions hold in no row within the study's limits."""
    rows = _MadeUp(schema)
    made = rows.with_visits_before()
    found = [*_never_asked(schema, made), *_never_apply(schema, made)]
    return [*found, *_contradict(schema, rows, made)]


def _never_asked(schema: TableSchema, made: Columns) -> list[str]:
    return [
        f"columns: {column.name}: asked_if = {column.asked_if}: {_NONE} is so; {column.name} may "
        "always be missing"
        for column in schema.columns
        if column.asked_if is not None and not condition(column.asked_if).holds(made).any()
    ]


def _never_apply(schema: TableSchema, made: Columns) -> list[str]:
    found = []
    for number, rule in enumerate(schema.rules, start=1):
        when = condition(rule.when).holds(made)
        if not when.any():
            found.append(f"rules: number {number} may never apply: {_NONE} is as {rule.when}")
        elif not (when & condition(rule.then).holds(made)).any():
            found.append(
                f"rules: number {number}: where {rule.when}, {_NONE} is as {rule.then}: hardly "
                "any synthetic row will be as the former"
            )
    return found


def _contradict(schema: TableSchema, rows: "_MadeUp", any_rows: Columns) -> list[str]:
    """Go from rule to rule with rows that obey those before."""
    made = Columns()
    for number, rule in enumerate(schema.rules, start=1):
        if rule in schema.visit_rules:
            continue
        named = _named(schema, rule)
        made |= rows.draw([name for name in schema.names if name in named and name not in made])
        rows.blank(made)
        obeys = np.flatnonzero(rule.obeyed(made))
        if not len(obeys):
            if not rule.obeyed(any_rows).any():
                continue  # alone it is told of already
            return [
                f"rules: number {number} may contradict those before it: {_NONE} obeys them all"
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
        self._conditions = [condition(text) for text in _texts(schema)]

    def with_visits_before(self) -> Columns:
        """Return rows, and of each a row that stands for the visit before."""
        made, before = (self.draw(self._schema.names) for _ in range(2))
        for rows in (made, before):
            self.blank(rows)
        return made | {previous(name): cells for name, cells in before.items()}

    def draw(self, names: Sequence[str]) -> Columns:
        """Return some columns of rows, (N,), with cells that are not asked for as well."""
        columns = tuple(self._schema.column(name) for name in names)
        if not columns:
            return {}
        sizes = [column.num_levels - column.can_be_missing for column in columns]
        codes_ND = np.stack([self.rng.integers(0, size, _ROWS) for size in sizes], axis=1)
        encoder = TableEncoder(self._schema.model_copy(update={"columns": columns}))
        made = encoder.cells(encoder.drawing(names, codes_ND), codes_ND, self.rng)
        for column in columns:
            cells = made[column.name]
            if compared := self._compared.get(column.name):
                put = self.rng.random(_ROWS) < 0.5
                cells[put] = self.rng.choice(np.array(compared, cells.dtype), int(put.sum()))
        self._make_equal(made)
        missing_share = np.resize([0, 0, 0, 1, _MISSING_SHARE], _ROWS)  # the same at every call
        for column in columns:
            if column.missing:
                cells = made[column.name]
                absent = self.rng.random(_ROWS) < missing_share
                cells[absent] = None if cells.dtype == object else np.nan
        return made

    def _make_equal(self, made: Columns) -> None:
        """Change one column of a comparison in part of the rows so that its sides are equal."""
        for told in self._conditions:
            if not told.columns <= set(made):
                continue
            for place, found in enumerate(list(told.differences(made))):
                for name, factor in found.factors.items():
                    if not factor:
                        continue
                    column = self._schema.column(name)
                    assert not isinstance(column, CategoricalColumn)
                    rows = np.flatnonzero(self.rng.random(_ROWS) < _EQUAL_SHARE)
                    some = {each: made[each][rows] for each in told.columns}
                    *_, apart = islice(told.differences(some), place + 1)
                    scale = 10.0**column.decimals_shown
                    values = np.rint((some[name] - apart.values / factor) * scale) / scale
                    inside = np.clip(values, *column.bin_edges()[[0, -1]])
                    made[name][rows] = np.where(np.isnan(inside), some[name], inside)

    def blank(self, made: Columns) -> None:
        """Make cells missing where they are not asked for; of columns that others' decide on."""
        columns = tuple(column for column in self._schema.columns if column.name in made)
        self._schema.model_copy(update={"columns": columns}).blank_unasked(made)


def _compared(schema: TableSchema) -> dict[str, list[Any]]:
    """Return levels that conditions name, and numbers that they name or that are beside these."""
    found: dict[str, list[Any]] = {}
    of_name: Mapping[str, AnyColumn] = {
        name: column for column in schema.columns for name in (column.name, previous(column.name))
    }
    for text in _texts(schema):
        for name, constant in condition(text).compared_constants:
            column = of_name[name]
            values: list[Any] = [constant]
            if not isinstance(column, CategoricalColumn):
                step, edges = 10.0**-column.decimals_shown, column.bin_edges()
                near = float(constant) + step * np.array([-1, 0, 1])
                values = [each for each in near if edges[0] <= each <= edges[-1]]
            found.setdefault(column.name, []).extend(values)
    return found


def _texts(schema: TableSchema) -> list[str]:
    """Return all conditions, each once."""
    texts = [text for rule in schema.rules for text in (rule.when, rule.then)]
    texts += [column.asked_if for column in schema.columns if column.asked_if is not None]
    return list(dict.fromkeys(texts))
