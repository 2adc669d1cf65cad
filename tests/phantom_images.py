"""Images of a stand-in hospital, never seen in training, and what a copier does to images.

Shapes: N images of P patients, H = W = ``SIZE_PX``, C contrasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pratique_common.encoding import TableEncoder
from pratique_common.generators.sim_pe import Settings, SimPeGenerator
from pratique_common.images.audited import audited_columns
from pratique_common.images.spec import IMAGE
from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import (
    KINDS,
    PARAMETERS,
    RANDOMISED,
    SHIFTED,
    Phantoms,
    Population,
    draw,
)
from pratique_common.phantoms.brain_planes import PLANES
from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.schema import TableSchema

SIZE_PX = 32
CONTRAST = "t1ce"
MOST_SLICES = 3
PRIOR = "brain_mri"

Columns = dict[str, NDArray[Any]]
UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]

STUDY_SCHEMA = TableSchema.model_validate(
    {
        "kind": "image",
        "patient_id": "patient",
        "max_rows_per_patient": MOST_SLICES,
        "target": "kind",
        "columns": [
            {"name": "kind", "type": "categorical", "categories": list(KINDS)},
            {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 8},
        ],
        "image": {
            "prior": PRIOR,
            "size_px": SIZE_PX,
            "channels": [CONTRAST],
            "position": "place",
        },
    }
)
SCHEMA = STUDY_SCHEMA.audited


@dataclass(frozen=True)
class Images:
    """Images and the columns beside them.

    Attributes:
        pixels: (N, H, W, C).
        kind: index into ``KINDS``, (N,).
        place: (N,), 0 to 1.
        owner: number of each image's patient, (N,).
    """

    pixels: UInt8Array
    kind: IntArray
    place: NDArray[np.float64]
    owner: IntArray

    def take(self, rows: IntArray) -> "Images":
        """Return some images."""
        return Images(self.pixels[rows], self.kind[rows], self.place[rows], self.owner[rows])

    def columns(self, *, slices: int = 1) -> Columns:
        """Return the rows that the audit sees; of each contrast there are so many slices."""
        channels = CONTRASTS[: self.pixels.shape[3] // slices]
        assert STUDY_SCHEMA.image is not None
        image = STUDY_SCHEMA.image.model_copy(update={"channels": channels})
        schema = STUDY_SCHEMA.model_copy(update={"image": image})
        kind, place = np.array(KINDS, object)[self.kind], np.round(self.place, 2)
        own = {"kind": kind, "place": place, IMAGE: self.pixels}
        return audited_columns(schema, own)


def hospital(
    num_patients: int,
    *,
    seed: int,
    most_slices: int = MOST_SLICES,
    contrasts: Sequence[str] = (CONTRAST,),
) -> Images:
    """Return one to three slices of each patient of another hospital than the prior's."""
    rng = np.random.default_rng(seed)
    patients = draw(num_patients, rng)
    owner = np.repeat(np.arange(num_patients), rng.integers(1, most_slices + 1, num_patients))
    unit = patients.unit[owner]
    unit[:, PARAMETERS.index("slice")] = rng.random(len(owner))
    slices = Phantoms(patients.kind[owner], unit, patients.seed[owner])
    return _rendered(slices, SHIFTED, owner, contrasts)


def of_prior(num: int, *, seed: int) -> Images:
    """Return slices of the prior's phantoms: what a generator that saw no patient could make."""
    return _rendered(
        draw(num, np.random.default_rng(seed)), RANDOMISED, np.arange(num), (CONTRAST,)
    )


def children(num: int, *, seed: int) -> Columns:
    """Return rows of ``sim_pe`` before any vote: children of 600 phantoms, so many lie together."""
    generator = SimPeGenerator(STUDY_SCHEMA, Settings(), seed)
    rows = generator.sample(num, torch.Generator().manual_seed(seed)).numpy()
    codes_ND, pixels = np.split(rows, [len(STUDY_SCHEMA.columns)], axis=1)
    columns = TableEncoder(STUDY_SCHEMA).decode(codes_ND, np.random.default_rng(seed))
    images = pixels.astype(np.uint8).reshape(-1, SIZE_PX, SIZE_PX, 1)
    place = np.round(columns["place"], 2)
    return audited_columns(STUDY_SCHEMA, columns | {"place": place, IMAGE: images})


def _rendered(
    phantoms: Phantoms, population: Population, owner: IntArray, contrasts: Sequence[str]
) -> Images:
    slices = render_slices(phantoms, population, size=SIZE_PX)
    chosen = slices.image[:, [CONTRASTS.index(each) for each in contrasts]]
    grey = np.rint(chosen * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    low, high = PLANES["axial"].range_mm
    place = np.clip((slices.position_mm - low) / (high - low), 0, 1).astype(np.float64)
    return Images(grey, slices.kind, place, owner)


def altered(
    pixels: UInt8Array,
    rng: np.random.Generator,
    *,
    mirror: bool = True,
    shift_px: int = 3,
    noise: tuple[float, float] = (0.03, 0.05),
    gamma: tuple[float, float] = (0.8, 1.2),
) -> UInt8Array:
    """Return altered copies of images (N, H, W, C).

    Args:
        pixels: the images.
        rng: decides for each image.
        mirror: half of them, left and right.
        shift_px: at most so far up, down and sideways, each; edges are repeated.
        noise: deviation of Gaussian noise, of a range of 1.
        gamma: of grey values.
    """
    copies = np.empty_like(pixels)
    for index, image in enumerate(pixels / 255):
        copy = image[:, ::-1] if mirror and rng.random() < 0.5 else image
        down, across = rng.integers(0, 2 * shift_px + 1, 2)
        padded = np.pad(copy, ((shift_px, shift_px), (shift_px, shift_px), (0, 0)), mode="edge")
        copy = padded[down : down + len(image), across : across + len(image)]
        copy = copy ** rng.uniform(*gamma)
        copy = copy + rng.normal(0, rng.uniform(*noise), copy.shape)
        copies[index] = np.rint(copy.clip(0, 1) * 255)
    return copies
