"""``[[data.rules]]`` and ``asked_if``: what they may say of a study's columns."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from numpy.typing import NDArray
from pydantic import field_validator

from pratique_common.column_base import Spec
from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.rule_grammar import RuleSyntaxError, previous
from pratique_common.rules import BoolArray, condition


class RowRule(Spec):
    """Where ``when`` holds, ``then`` must hold, in every accepted and every synthetic row."""

    when: str
    then: str

    @field_validator("when", "then")
    @classmethod
    def _check_syntax(cls, text: str) -> str:
        try:
            condition(text)
        except RuleSyntaxError as error:
            raise ValueError(str(error)) from error
        return text

    @property
    def columns(self) -> frozenset[str]:
        """What it names, ``previous(column)`` as such."""
        return condition(self.when).columns | condition(self.then).columns

    def obeyed(self, columns: Mapping[str, NDArray[Any]]) -> BoolArray:
        """Return in which rows it holds; columns as in ``Condition.holds``."""
        return ~condition(self.when).holds(columns) | condition(self.then).holds(columns)


def check_rules(columns: Sequence[AnyColumn], rules: Sequence[RowRule], *, visits: bool) -> None:
    """Refuse conditions that do not fit the columns that they name.

    Args:
        columns: of the study; what asks for one names columns before it.
        rules: of the study.
        visits: whether rules may name the visit before.

    Raises:
        ValueError: an unknown column, sides that cannot be compared, or a text that is no level.
    """
    known: dict[str, AnyColumn] = {}
    for column in columns:
        if column.asked_if is not None:
            _check(column.asked_if, known, f"columns: {column.name}: asked_if")
        known[column.name] = column
    if visits:
        known |= {previous(name): column for name, column in known.items()}
    for number, rule in enumerate(rules, start=1):
        for text in (rule.when, rule.then):
            _check(text, known, f"rules: number {number}")


def _check(text: str, columns: Mapping[str, AnyColumn], where: str) -> None:
    try:
        condition(text).check_types({name: column.kind for name, column in columns.items()})
    except RuleSyntaxError as error:
        raise ValueError(f"{where}: {error}") from error
    for name, level in condition(text).compared_constants:
        column = columns[name]
        if isinstance(column, CategoricalColumn) and level not in column.levels:
            near = get_close_matches(str(level), column.levels, n=1)
            meant = f": did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{where}: '{level}' is no level of {name}{meant}")
