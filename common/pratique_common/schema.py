"""The public data dictionary of a table: columns, closed domains and row rules.

Domains are written in the study before anybody looks at data; nothing here is learned from records.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pratique_common.rules import BoolArray, Condition, RuleSyntaxError

OTHER = "other"
MISSING_TEXTS = ("", "NA", "?")
_DEFAULT_BINS = 16
_MAX_LIMIT = 1e15
_MAX_COLUMNS = 500
_MAX_LEVELS = 2_000


class Spec(BaseModel):
    """Base of everything a study is made of: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NumericColumn(Spec):
    """Numbers in a closed range, seen by the generator as ``num_bins`` bins."""

    type: Literal["numeric"]
    name: str = Field(min_length=1, max_length=100)
    lower: float | None = None
    upper: float | None = None
    bins: int | None = Field(
        default=None, ge=1, le=200, description="equal-width bins between the limits; 16 if unset"
    )
    edges: tuple[float, ...] | None = Field(default=None, description="instead of limits and bins")
    integer: bool = False
    decimals: int = Field(default=2, ge=0, le=9, description="digits of synthetic non-integers")
    unit: str = ""
    missing: bool = Field(default=False, description="missing is a value of its own")
    missing_values: tuple[str, ...] | None = Field(
        default=None, description="how files spell missing in this column; overrides the table's"
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.edges is not None:
            if self.lower is not None or self.upper is not None or self.bins is not None:
                raise ValueError("write either edges, or lower, upper and bins")
            if len(self.edges) < 2 or any(np.diff(self.edges) <= 0):
                raise ValueError("edges must be two or more increasing numbers")
        elif self.lower is None or self.upper is None:
            raise ValueError("lower and upper are needed, or edges")
        elif not self.lower < self.upper:
            raise ValueError("lower must be below upper")
        if np.abs(self.bin_edges()).max() > _MAX_LIMIT:
            raise ValueError(f"limits must be within ±{_MAX_LIMIT:g}")
        if self.integer and any(count < 1 for count in self._integers_per_bin()):
            raise ValueError("every bin of an integer column must hold an integer: use fewer bins")
        return self

    def bin_edges(self) -> NDArray[np.float64]:
        """Return the ``num_bins + 1`` increasing edges; the last bin includes its upper edge."""
        if self.edges is not None:
            return np.asarray(self.edges, np.float64)
        assert self.lower is not None and self.upper is not None
        return np.linspace(self.lower, self.upper, self.num_bins + 1)

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        if self.edges is not None:
            return len(self.edges) - 1
        return _DEFAULT_BINS if self.bins is None else self.bins

    @property
    def num_levels(self) -> int:
        """Number of codes: the bins and, where allowed, missing (the last code)."""
        return self.num_bins + int(self.missing)

    def integer_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the first and the last integer of every bin, both inclusive."""
        edges = self.bin_edges()
        last = np.ceil(edges[1:]) - 1
        last[-1] = np.floor(edges[-1])
        return np.ceil(edges[:-1]), last

    def _integers_per_bin(self) -> NDArray[np.float64]:
        first, last = self.integer_bounds()
        return last - first + 1


class CategoricalColumn(Spec):
    """A closed list of levels."""

    type: Literal["categorical"]
    name: str = Field(min_length=1, max_length=100)
    categories: tuple[str, ...] = Field(min_length=1, max_length=_MAX_LEVELS)
    ordered: bool = Field(default=False, description="categories are listed in their order")
    other: bool = Field(default=False, description="unlisted levels become 'other'")
    missing: bool = False
    missing_values: tuple[str, ...] | None = None

    @field_validator("categories")
    @classmethod
    def _check_categories(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(categories)) != len(categories):
            raise ValueError("categories must differ from each other")
        return categories

    @model_validator(mode="after")
    def _check_other(self) -> Self:
        if self.other and OTHER in self.categories:
            raise ValueError(f"'{OTHER}' is added by other = true and must not be listed as well")
        return self

    @property
    def levels(self) -> tuple[str, ...]:
        """The listed levels and, where allowed, 'other'."""
        return (*self.categories, OTHER) if self.other else self.categories

    @property
    def num_levels(self) -> int:
        """Number of codes: the levels and, where allowed, missing (the last code)."""
        return len(self.levels) + int(self.missing)


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="type")]


class RowRule(Spec):
    """Where ``when`` holds, ``then`` must hold, in every accepted and every synthetic row."""

    when: str
    then: str

    @field_validator("when", "then")
    @classmethod
    def _check_syntax(cls, text: str) -> str:
        try:
            Condition(text)
        except RuleSyntaxError as error:
            raise ValueError(str(error)) from error
        return text


class TableSchema(Spec):
    """The table every site agrees on."""

    kind: Literal["table"]
    columns: tuple[Column, ...] = Field(min_length=2, max_length=_MAX_COLUMNS)
    patient_id: str | None = None
    max_rows_per_patient: int = Field(default=1, ge=1, le=100)
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
    def _check_names(self) -> Self:
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError("columns: two columns share one name")
        if self.patient_id in names:
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
        numeric = {column.name: isinstance(column, NumericColumn) for column in self.columns}
        for number, rule in enumerate(self.rules, start=1):
            for text in (rule.when, rule.then):
                try:
                    Condition(text).check_types(numeric)
                except RuleSyntaxError as error:
                    raise ValueError(f"rules: number {number}: {error}") from error
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in the study's order."""
        return tuple(column.name for column in self.columns)

    @property
    def positive_level(self) -> str | None:
        """The level of the target that utility and attacks treat as positive."""
        if self.target is None:
            return None
        column = self.column(self.target)
        assert isinstance(column, CategoricalColumn)
        return self.target_positive or column.categories[-1]

    def column(self, name: str) -> NumericColumn | CategoricalColumn:
        """Return a column by its name."""
        return self.columns[self.names.index(name)]

    def missing_texts(self, column: NumericColumn | CategoricalColumn) -> tuple[str, ...]:
        """Return how files spell missing in ``column``."""
        return self.missing_values if column.missing_values is None else column.missing_values

    def obeys_rules(self, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
        """Return which rows obey every rule.

        Args:
            columns: name → values of shape (rows,), as in ``Condition.holds``.
        """
        obeys = np.ones(len(next(iter(columns.values()))), bool)
        for rule in self.rules:
            obeys &= ~Condition(rule.when).holds(columns) | Condition(rule.then).holds(columns)
        return obeys

    def log2_domain(self) -> float:
        """Return log2 of the number of different rows: how rich the table is, in bits."""
        return sum(math.log2(column.num_levels) for column in self.columns)
