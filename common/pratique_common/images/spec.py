"""What an image of a study is, and the columns in which the audit sees it.

A study of images is a study of rows, and each row has an image. Its columns say what is known about
it (a diagnosis, where the slice lies). What a public encoder sees in an image are more columns:
with them the audit of tables is the audit of images (docs/adr/0014).

Shapes: N images, H = W = ``size_px``, C planes: of every channel its slices, from the lowest to the
highest.
"""

from math import prod
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from pratique_common.binned_columns import NumericColumn
from pratique_common.column_base import Spec
from pratique_common.columns import CategoricalColumn

if TYPE_CHECKING:
    from pratique_common.columns import AnyColumn
    from pratique_common.schema import TableSchema

IMAGE = "image"
"""The column of tables that holds images: no column of a study."""

VOLUME = "volume"
"""The column that tells slices of drawn volumes apart: no column of a study either."""

MASK = "mask"
"""The column beside it that holds what images show, where a generator knows it."""

PLANES = "planes"
"""What the audit sees in each plane by itself, where images have several: no column either."""

FEATURE_LIMIT = 4.0
"""Features lie within ± it, in standard deviations of the prior's images."""

NUM_FEATURES = 32
_FEATURE = "feature "
_FEATURE_BINS = 16
"""Of half a deviation each: the audit asks which cells of a row agree with a record's."""

FEATURE_DECIMALS = 6

Prior = Literal["brain_mri", "chest_xray"]
"""Phantoms that know the domain: what generators start from, and encoders were trained on."""


class ImageSpec(Spec):
    """``[data.image]``."""

    prior: Prior
    size_px: int = Field(ge=16, le=256, multiple_of=2, description="pixels a side")
    channels: tuple[str, ...] = Field(
        min_length=1, max_length=16, description="of the prior: contrasts, 8 bits each"
    )
    neighbours: int = Field(
        default=0, ge=0, le=3, description="slices on each side of a slice, as further channels"
    )
    gap_mm: float = Field(
        default=5.0, gt=0, le=40, description="between them; 3 x 40 mm leave a phantom's view"
    )
    kinds: dict[str, str] = Field(
        default={}, description="level of the target → what the prior calls it; default: the same"
    )
    position: str | None = Field(
        default=None, description="numeric column, 0 to 1: where a slice lies along its normal"
    )

    @property
    def offsets_mm(self) -> tuple[float, ...]:
        """Where a channel's planes lie beside the slice that rows are about, lowest first."""
        return tuple(n * self.gap_mm for n in range(-self.neighbours, self.neighbours + 1))

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the C planes; a slice itself has its channel's name."""
        return tuple(
            f"{channel} {offset:+g} mm" if offset else channel
            for channel in self.channels
            for offset in self.offsets_mm
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.size_px, self.size_px, len(self.planes)

    @property
    def num_pixels(self) -> int:
        """H · W · C, which is also an image's size in bytes."""
        return prod(self.shape)

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("channels: two channels share one name")
        return self


def check_image(schema: "TableSchema") -> None:
    """Check what a study of images says beside its images.

    Raises:
        ValueError: with the field.
    """
    image = schema.image
    if image is None:
        return
    if schema.visits is not None:
        raise ValueError("visits: images have no visits; write the slice's place as a column")
    taken = {IMAGE, MASK, VOLUME, PLANES, *feature_names()}
    named = {*schema.names, *(each.name for each in schema.ids), schema.patient_id}
    if both := taken & named:
        raise ValueError(f"columns: '{min(both)}' is a name that images use")
    if schema.target is None:
        raise ValueError("target: images need one: what an image shows")
    if schema.rules:
        raise ValueError("rules: rows with images have none: a row cannot be redrawn without them")
    target = schema.column(schema.target)
    assert isinstance(target, CategoricalColumn)
    if target.can_be_missing:
        raise ValueError("target: it must not be missing: generators make images of it")
    if unknown := set(image.kinds) - set(target.levels):
        raise ValueError(f"image: kinds: '{min(unknown)}' is no level of the target")
    if image.position is None:
        return
    if image.position not in schema.names:
        raise ValueError(f"image: position: '{image.position}' is not a column")
    column = schema.column(image.position)
    if not isinstance(column, NumericColumn) or (column.lower, column.upper) != (0, 1):
        raise ValueError("image: position: must be numeric, from 0 to 1")
    if column.can_be_missing:
        raise ValueError("image: position: must not be missing")


def feature_names() -> tuple[str, ...]:
    """Return the names of the encoder's columns."""
    return tuple(f"{_FEATURE}{number}" for number in range(1, NUM_FEATURES + 1))


def features_of(schema: "TableSchema") -> tuple["AnyColumn", ...]:
    """Return the encoder's columns of an audited schema; a table has none."""
    return tuple(schema.column(name) for name in feature_names() if name in schema.names)


def audited_schema(schema: "TableSchema") -> "TableSchema":
    """Return the schema of the rows that the audit sees: the study's columns, then features."""
    if schema.image is None:
        return schema
    features = [
        NumericColumn(
            name=name,
            type="numeric",
            lower=-FEATURE_LIMIT,
            upper=FEATURE_LIMIT,
            bins=_FEATURE_BINS,
            decimals=FEATURE_DECIMALS,
        )
        for name in feature_names()
    ]
    update = {"kind": "table", "image": None, "columns": (*schema.columns, *features)}
    return schema.model_copy(update=update)
