"""The public data dictionary of a table: columns, closed domains and row rules.

Domains are written in the study before anybody looks at data; nothing here is learned from records.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pratique_common.column_base import Spec
from pratique_common.columns import AnyColumn, CategoricalColumn, Column, spells_a_value
from pratique_common.images.spec import IMAGE, ImageSpec, audited_schema, check_image
from pratique_common.row_rules import RowRule, check_rules
from pratique_common.rule_grammar import previous
from pratique_common.rules import BoolArray, condition, is_missing
from pratique_common.visits import Visits, trained_schema

MISSING_TEXTS = ("", "NA", "?")
_MAX_COLUMNS = 500
_FRESH_PATIENT = re.compile(r"P\d+")


class IdColumn(Spec):
    """An identifier: fresh in every synthetic row; a site's own may order visits, and no more."""

    name: str = Field(min_length=1, max_length=100)
    prefix: str = Field(default="S", max_length=20)

    def fresh(self, num_rows: int) -> list[str]:
        """Return ids that say nothing but the row's place in the table."""
        width = len(str(num_rows))
        return [f"{self.prefix}{number:0{width}d}" for number in range(1, num_rows + 1)]


class TableSchema(Spec):
    """The table every site agrees on."""

    kind: Literal["table", "image"]
    columns: tuple[Column, ...] = Field(min_length=1, max_length=_MAX_COLUMNS)
    image: ImageSpec | None = Field(default=None, description="what each row's image is")
    ids: tuple[IdColumn, ...] = ()
    patient_id: str | None = None
    max_rows_per_patient: int = Field(default=1, ge=1, le=100)
    visits: Visits | None = Field(default=None, description="a patient's rows follow in time")
    target: str | None = None
    target_positive: str | None = Field(default=None, description="default: the last category")
    quasi_identifiers: tuple[str, ...] = ()
    sensitive: tuple[str, ...] = ()
    subgroups: tuple[str, ...] = Field(
        default=(), description="categorical columns whose categories are looked at one by one"
    )
    missing_values: tuple[str, ...] = MISSING_TEXTS
    max_dropped_share: float = Field(default=0.05, ge=0, lt=1)
    rules: tuple[RowRule, ...] = ()

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "image") != (self.image is not None):
            raise ValueError("image: images need it, and tables have none")
        if self.image is None and len(self.columns) < 2:
            raise ValueError("columns: a table needs two or more")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = self.names
        named = (*(each.name for each in self.ids), *names)
        if len(set(named)) != len(named):
            raise ValueError("columns: two columns share one name")
        if self.patient_id in (*names, *(each.name for each in self.ids)):
            raise ValueError("patient_id: the patient's id must not be one of the columns")
        for field in ("quasi_identifiers", "sensitive", "subgroups"):
            if unknown := [name for name in getattr(self, field) if name not in names]:
                raise ValueError(f"{field}: '{unknown[0]}' is not a column")
        if any(not isinstance(self.column(name), CategoricalColumn) for name in self.subgroups):
            raise ValueError("subgroups: name categorical columns only")
        if self.patient_id is None and self.max_rows_per_patient != 1:
            raise ValueError("max_rows_per_patient: needs patient_id to tell whose a row is")
        return self

    @model_validator(mode="after")
    def _check_missing_texts(self) -> Self:
        # A synthetic cell with such a value would be read as missing.
        for column in self.columns:
            for text in self.missing_texts(column):
                if spells_a_value(text, column):
                    raise ValueError(
                        f"columns: {column.name}: '{text}' spells missing and is a value of it: "
                        "give the column missing_values of its own, or other limits"
                    )
        return self

    @model_validator(mode="after")
    def _check_visits(self) -> Self:
        if self.visits is None:
            return self
        if self.patient_id is None or self.max_rows_per_patient < 2:
            raise ValueError("visits: needs patient_id, and max_rows_per_patient of 2 or more")
        for field in ("fixed", "remembered"):
            for name in getattr(self.visits, field) or ():
                if name not in self.names:
                    raise ValueError(f"visits: {field}: '{name}' is not a column")
        if both := set(self.visits.fixed) & set(self.visits.remembered or ()):
            raise ValueError(f"visits: '{min(both)}' is fixed: it cannot be remembered as well")
        order_by = self.visits.order_by
        if order_by in self.names:
            column = self.column(order_by)
            if isinstance(column, CategoricalColumn):
                raise ValueError(f"visits: order_by: '{order_by}' is a category: it does not grow")
            if column.can_be_missing:
                raise ValueError(f"visits: order_by: '{order_by}' must not be missing")
        if any(_FRESH_PATIENT.fullmatch(text) for text in self.missing_values):
            raise ValueError("missing_values: a synthetic patient may have such a name")
        if order_by == self.patient_id or order_by in self.visits.fixed:
            raise ValueError(f"visits: order_by: '{order_by}' does not grow within a patient")
        if both := set(map(previous, self.names)) & set(self.names):
            raise ValueError(f"columns: '{min(both)}' is how rules name the visit before")
        trained = self.trained.names
        if len(set(trained)) != len(trained):
            raise ValueError(f"columns: '{_repeated(trained)}' is a name that visits use")
        return self

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.target is None:
            if self.target_positive is not None:
                raise ValueError("target_positive: needs target")
            return self
        if self.target not in self.names:
            raise ValueError(f"target: '{self.target}' is not a column")
        column = self.column(self.target)
        if not isinstance(column, CategoricalColumn):
            raise ValueError(f"target: '{self.target}' must be categorical")
        if len(column.levels) < 2:
            raise ValueError(f"target: '{self.target}' must have two levels or more")
        if self.target_positive is not None and self.target_positive not in column.levels:
            raise ValueError("target_positive: not a category of the target")
        return self

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        check_rules(self.columns, self.rules, visits=self.visits is not None)
        return self

    @model_validator(mode="after")
    def _check_image(self) -> Self:
        check_image(self)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in the study's order."""
        return tuple(column.name for column in self.columns)

    @property
    def released_names(self) -> tuple[str, ...]:
        """Names of a synthetic table's columns: ids first, the patient's where rows are visits.

        Where rows have images, these come last.
        """
        patient = (self.patient_id,) if self.visits and self.patient_id else ()
        image = (IMAGE,) if self.image is not None else ()
        return (*patient, *(each.name for each in self.ids), *self.names, *image)

    @property
    def trained(self) -> "TableSchema":
        """The schema of what a generator learns: with more columns where rows are visits."""
        return trained_schema(self)

    @property
    def audited(self) -> "TableSchema":
        """The schema of what an audit looks at: with more columns where rows have images."""
        return audited_schema(self)

    @property
    def remembered(self) -> tuple[str, ...]:
        """Columns whose value at the visit before a generator learns."""
        if self.visits is None:
            return ()
        if self.visits.remembered is not None:
            return self.visits.remembered
        return tuple(name for name in self.names if name not in self.visits.fixed)

    @property
    def positive_level(self) -> str | None:
        """The level of the target that utility and attacks treat as positive."""
        if self.target is None:
            return None
        column = self.column(self.target)
        assert isinstance(column, CategoricalColumn)
        return self.target_positive or column.categories[-1]

    def column(self, name: str) -> AnyColumn:
        """Return a column by its name."""
        return self.columns[self.names.index(name)]

    def missing_texts(self, column: AnyColumn) -> tuple[str, ...]:
        """Return how files spell missing in ``column``."""
        return self.missing_values if column.missing_values is None else column.missing_values

    def obeys_rules(self, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
        """Return which rows obey every rule and have cells exactly where they are asked for.

        Rules that look back at the visit before are left to ``visits.may_follow``.

        Args:
            columns: name → values of shape (rows,), as in ``Condition.holds``.
        """
        obeys = np.ones(len(next(iter(columns.values()))), bool)
        for _, broken in self.breaches(columns):
            obeys &= ~broken
        return obeys

    def breaches(self, columns: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, BoolArray]]:
        """Yield what a row may break, as the study file names it, and which rows do.

        Args:
            columns: as in ``obeys_rules``.
        """
        for column in self.columns:
            if column.asked_if is not None:
                asked, absent = self._asked(column, columns), is_missing(columns[column.name])
                broken = np.where(asked, absent & (not column.missing), ~absent)
                yield f"columns: {column.name}: asked_if = {column.asked_if}", broken
        names = set(self.names)
        for number, rule in enumerate(self.rules, start=1):
            if rule.columns <= names:
                label = f"rules: number {number}: when {rule.when}, then {rule.then}"
                yield label, ~rule.obeyed(columns)

    @property
    def visit_rules(self) -> tuple[RowRule, ...]:
        """Rules that look back at the visit before."""
        names = set(self.names)
        return tuple(rule for rule in self.rules if not rule.columns <= names)

    @property
    def compared_names(self) -> tuple[tuple[str, str], ...]:
        """Pairs of columns in one comparison of a rule, as rules name them, each once."""
        texts = [text for rule in self.rules for text in (rule.when, rule.then)]
        return tuple(
            dict.fromkeys(pair for text in texts for pair in condition(text).compared_columns)
        )

    @property
    def ruled_names(self) -> tuple[str, ...]:
        """Columns that rules, conditions of asking or the order of visits name, in order."""
        named: set[str] = {self.visits.order_by} if self.visits is not None else set()
        for rule in self.rules:
            named |= rule.columns
        for column in self.columns:
            if column.asked_if is not None:
                named |= {column.name} | condition(column.asked_if).columns
        return tuple(name for name in self.names if name in named)

    def blank_unasked(self, columns: dict[str, NDArray[Any]]) -> None:
        """Make cells missing where they are not asked for, in place."""
        for column in self.columns:
            if column.asked_if is not None:
                values = columns[column.name]
                values[~self._asked(column, columns)] = None if values.dtype == object else np.nan

    @staticmethod
    def _asked(column: AnyColumn, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
        assert column.asked_if is not None
        return condition(column.asked_if).holds(columns)

    def log2_domain(self) -> float:
        """Return log2 of the number of different rows: how rich the table is, in bits."""
        return sum(math.log2(column.num_levels) for column in self.columns)


def _repeated(names: tuple[str, ...]) -> str:
    return next(name for name in names if names.count(name) > 1)
