"""What all columns of a study have, and the base of everything that a study is made of."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pratique_common.rule_grammar import RuleSyntaxError
from pratique_common.rules import Condition

Kind = Literal["number", "date", "time", "text"]


class Spec(BaseModel):
    """Base of everything a study is made of: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ColumnBase(Spec):
    """What all columns have."""

    name: str = Field(min_length=1, max_length=100)
    missing: bool = Field(default=False, description="missing is a value of its own")
    missing_values: tuple[str, ...] | None = Field(
        default=None, description="how files spell missing in this column; overrides the table's"
    )
    may_lack: bool = Field(
        default=False, description="a site may not record it: all its cells are missing there"
    )
    asked_if: str | None = Field(
        default=None,
        description="a condition on columns before this one: elsewhere the cell must be missing",
    )

    @field_validator("asked_if")
    @classmethod
    def _check_condition(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                Condition(text)
            except RuleSyntaxError as error:
                raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _check_may_lack(self) -> Self:
        if self.may_lack and not self.missing:
            raise ValueError("may_lack: needs missing = true")
        return self

    @property
    def can_be_missing(self) -> bool:
        """Whether missing is one of the codes (the last one)."""
        return self.missing or self.asked_if is not None
