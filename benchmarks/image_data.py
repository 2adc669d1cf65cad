"""Images for ``image_methods``: phantoms of a stand-in hospital that priors do not draw from.

Shapes: N images, one a patient, H = W = ``SIZE_PX``.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from pratique_common.images.spec import IMAGE
from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import (
    KINDS,
    RANDOMISED,
    SHIFTED,
    Phantoms,
    Population,
)
from pratique_common.phantoms.brain_planes import PLANES
from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.tables import Table

SIZE_PX, PLANE = 32, "axial"
CHANNELS = {"t1ce": ("t1ce",), "all": CONTRASTS}
"""One contrast, as in the table of design/images.md, or the four of a study of tumours."""
NUM_TRAIN, NUM_TEST = 3_800, 1_500
"""As many as the table of design/images.md was measured with."""

_STUDY: dict[str, Any] = {
    "spec_version": 1,
    "simulated": True,
    "data": {
        "kind": "image",
        "target": "kind",
        "columns": [
            {"name": "kind", "type": "categorical", "categories": list(KINDS)},
            {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 8, "decimals": 3},
        ],
        "image": {"prior": "brain_mri", "size_px": SIZE_PX, "position": "place"},
    },
    "disclosure": {
        "purpose": "Benchmark on phantoms",
        "recipients": ["Anyone"],
        "licence": "CC0-1.0",
        "expires": "2035-12-31",
    },
}


def study_data(channels: str) -> dict[str, Any]:
    """Return all of a study but its name, generator and budget."""
    study = copy.deepcopy(_STUDY)
    study["data"]["image"]["channels"] = list(CHANNELS[channels])
    return study


@dataclass(frozen=True)
class Data:
    """The stand-in hospital's images: to learn from, and to test on."""

    channels: str
    train: Table
    test: Table

    @staticmethod
    def draw(channels: str) -> "Data":
        """Return the same images each time."""
        train = phantoms(NUM_TRAIN, SHIFTED, channels, seed=2_026)
        return Data(channels, train, phantoms(NUM_TEST, SHIFTED, channels, seed=2_027))

    def of_prior(self, num: int, *, seed: int) -> Table:
        """Return rows that know no patient: the release that every generator has to beat."""
        return phantoms(num, RANDOMISED, self.channels, seed=seed)


def phantoms(num: int, population: Population, channels: str, *, seed: int) -> Table:
    """Return rows of phantoms, as many of each kind, each of a patient of its own."""
    rng = np.random.default_rng(seed)
    heads = Phantoms.draw(num, rng, kinds=np.arange(num) % len(KINDS))
    slices = render_slices(heads, population, size=SIZE_PX, plane=PLANE)
    places = [CONTRASTS.index(name) for name in CHANNELS[channels]]
    grey = np.rint(slices.image[:, places] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    low, high = PLANES[PLANE].range_mm
    columns = {
        "kind": np.array(KINDS, object)[heads.kind],
        "place": np.clip((slices.position_mm - low) / (high - low), 0, 1).round(3).astype(float),
        IMAGE: np.ascontiguousarray(grey),
    }
    return Table(columns, np.arange(num).astype(str), 0)
