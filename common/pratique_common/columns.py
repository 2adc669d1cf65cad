"""Columns of a study's table: what a cell may hold, and how the generator sees it.

Domains are written in the study before anybody looks at data; nothing here is learned from records.
Numbers, dates and times are seen as bins (``binned_columns``), levels as themselves.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pratique_common.binned_columns import NumericColumn
from pratique_common.codes import CHAPTERS, CodeSystem, check_nodes, roll_up
from pratique_common.column_base import ColumnBase, Kind
from pratique_common.time_columns import DateColumn, TimeColumn

OTHER = "other"
_MAX_LEVELS = 2_000


class CategoricalColumn(ColumnBase):
    """A closed list of levels."""

    type: Literal["categorical"]
    categories: tuple[str, ...] = Field(default=(), max_length=_MAX_LEVELS)
    codes: CodeSystem | None = Field(
        default=None,
        description="cells are codes, categories are nodes (428 or 390-459) to which they are "
        "rolled up; icd9 and icd10 have their chapters if none are listed",
    )
    ordered: bool = Field(default=False, description="categories are listed in their order")
    other: bool = Field(default=False, description="unlisted levels become 'other'")

    @model_validator(mode="before")
    @classmethod
    def _default_to_chapters(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("codes") in CHAPTERS and "categories" not in data:
            return {**data, "categories": CHAPTERS[data["codes"]]}
        return data

    @field_validator("categories")
    @classmethod
    def _check_categories(cls, categories: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(categories)) != len(categories):
            raise ValueError("categories must differ from each other")
        if any(not level or level != level.strip() for level in categories):
            raise ValueError("categories must not be empty, nor begin or end with a space")
        return categories

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if not self.categories:
            raise ValueError("categories: list at least one")
        if self.other and OTHER in self.categories:
            raise ValueError(f"'{OTHER}' is added by other = true and must not be listed as well")
        if self.codes is not None:
            check_nodes(self.categories, self.codes)
        return self

    @property
    def kind(self) -> Kind:
        """Texts."""
        return "text"

    @property
    def levels(self) -> tuple[str, ...]:
        """The listed levels and, where allowed, 'other'."""
        return (*self.categories, OTHER) if self.other else self.categories

    @property
    def num_levels(self) -> int:
        """Number of codes: the levels and, where allowed, missing (the last code)."""
        return len(self.levels) + int(self.can_be_missing)

    def level_of(self, text: str) -> str | None:
        """Return the level of a cell's text, None if it is outside the domain."""
        plain = text.removesuffix(".0")  # 1.0 of a float column
        if text in self.levels:
            return text
        if plain in self.categories:
            return plain
        node = roll_up(text, self.categories, self.codes) if self.codes else None
        return OTHER if node is None and self.other else node

    def domain_in_words(self) -> str:
        """Return the levels."""
        return ", ".join(self.levels)


def spells_a_value(text: str, column: "AnyColumn") -> bool:
    """Whether a text that stands for missing could be a cell's value instead.

    A listed category wins over a spelling of missing, and "None" may be one; "other" may not.
    """
    if isinstance(column, CategoricalColumn):
        return column.other and text == OTHER
    if column.kind != "number":
        return False
    try:
        value = float(text)
    except ValueError:
        return False
    edges = column.bin_edges()
    return bool(edges[0] <= value <= edges[-1])


AnyColumn = NumericColumn | DateColumn | TimeColumn | CategoricalColumn
Column = Annotated[AnyColumn, Field(discriminator="type")]
