"""Images for ``image_methods``: hospitals that generators learn from, and images to test on.

Shapes: N images, H = W.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tabular_data import SHARED
from pratique_common.encoding import TableEncoder
from pratique_common.images.prior_codes import prior_codes
from pratique_common.images.spec import IMAGE
from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import KINDS, SHIFTED, Phantoms
from pratique_common.phantoms.brain_planes import PLANES
from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.schema import TableSchema
from pratique_common.tables import Table

PLANE, BRAIN_PX = "axial", 32
NUM_TRAIN, NUM_TEST = 3_800, 1_500
"""Brains: as many as the table of design/images.md was measured with."""

FINDINGS, CHEST_PX, MOST_FILMS = ("normal", "pneumonia"), 28, 8

_POSITION = {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 8, "decimals": 3}


@dataclass(frozen=True)
class Data:
    """Hospitals, what is tested on, and what of a study follows from them."""

    schema: Mapping[str, Any]
    sites: tuple[Table, ...]
    test: Table

    @property
    def num_patients(self) -> int:
        """Of all sites."""
        return sum(len(set(site.patients)) for site in self.sites)

    @property
    def levels(self) -> list[str]:
        """What images may show."""
        return list(self.schema["columns"][0]["categories"])

    def labels(self, table: Table) -> NDArray[np.int64]:
        """Return what images show, as positions among ``levels``."""
        return np.array([self.levels.index(each) for each in table.columns["kind"]], np.int64)

    def of_prior(self, num: int, *, seed: int) -> Table:
        """Return rows that know no patient: the release that every generator has to beat."""
        schema, rng = TableSchema.model_validate(self.schema), np.random.default_rng(seed)
        assert schema.image is not None
        encoder = TableEncoder(schema)
        codes, pixels = np.split(prior_codes(schema, num, rng), [len(encoder.num_levels)], axis=1)
        columns = encoder.decode(codes.astype(np.int64), rng)
        columns[IMAGE] = pixels.astype(np.uint8).reshape(-1, *schema.image.shape)
        return Table(columns, np.arange(num).astype(str), 0)

    def real(self, num: int, *, seed: int) -> Table:
        """Return real rows of all sites, drawn at random."""
        whole = joined(self.sites)
        return whole.take(np.random.default_rng(seed).permutation(whole.num_rows)[:num])


def joined(tables: tuple[Table, ...]) -> Table:
    """Return the rows of all tables."""
    columns = {
        name: np.concatenate([table.columns[name] for table in tables])
        for name in tables[0].columns
    }
    return Table(columns, np.concatenate([table.patients for table in tables]), 0)


def brains(channels: tuple[str, ...]) -> Data:
    """Return slices of a stand-in hospital whose phantoms no prior draws: as many of each kind."""

    def table(num: int, seed: int) -> Table:
        rng = np.random.default_rng(seed)
        heads = Phantoms.draw(num, rng, kinds=np.arange(num) % len(KINDS))
        slices = render_slices(heads, SHIFTED, size=BRAIN_PX, plane=PLANE)
        places = [CONTRASTS.index(name) for name in channels]
        grey = np.rint(slices.image[:, places] * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        low, high = PLANES[PLANE].range_mm
        columns = {
            "kind": np.array(KINDS, object)[heads.kind],
            "place": np.clip((slices.position_mm - low) / (high - low), 0, 1).round(3),
            IMAGE: np.ascontiguousarray(grey),
        }
        columns["place"] = columns["place"].astype(np.float64)
        return Table(columns, np.arange(num).astype(str), 0)

    schema = {
        "kind": "image",
        "target": "kind",
        "columns": [{"name": "kind", "type": "categorical", "categories": list(KINDS)}, _POSITION],
        "image": {
            "prior": "brain_mri",
            "size_px": BRAIN_PX,
            "channels": list(channels),
            "position": "place",
        },
    }
    return Data(schema, (table(NUM_TRAIN, 2_026),), table(NUM_TEST, 2_027))


def chests() -> Data:
    """Return real films: PneumoniaMNIST as three hospitals, and Hannover's, unlike them.

    Children in Guangzhou, a film each as far as is known; adults with COVID-19, up to eight films.
    """
    mnist = np.load(SHARED / "img_pneumoniamnist" / "pneumoniamnist_reconstructed.npz")
    parts = np.array_split(np.random.default_rng(0).permutation(len(mnist["train_labels"])), 3)
    sites = [
        _films(mnist["train_images"][rows], mnist["train_labels"][rows, 0], f"site {number} {{}}")
        for number, rows in enumerate(parts)
    ]
    test = _films(mnist["test_images"], mnist["test_labels"][:, 0], "test {}")
    schema = {
        "kind": "image",
        "target": "kind",
        "patient_id": "patient",
        "max_rows_per_patient": MOST_FILMS,
        "columns": [{"name": "kind", "type": "categorical", "categories": list(FINDINGS)}],
        "image": {"prior": "chest_xray", "size_px": CHEST_PX, "channels": ["xray"]},
    }
    return Data(schema, (*sites, _hannover(SHARED / "img_covid_cxr_hannover")), test)


def _films(images: NDArray[np.uint8], label: NDArray[np.uint8], patient: str) -> Table:
    columns = {"kind": np.array(FINDINGS, object)[label], IMAGE: images[..., None]}
    names = np.array([patient.format(number) for number in range(len(label))], object)
    return Table(columns, names, 0)


def _hannover(folder: Path) -> Table:
    films = np.load(folder / "covid_cxr_hannover_128.npz")
    full = torch.from_numpy(films["images"]).float()[:, None]
    small = torch.nn.functional.interpolate(full, size=(CHEST_PX, CHEST_PX), mode="area")
    order = np.argsort(films["patient_id"], kind="stable")
    owner = films["patient_id"][order]
    first = np.searchsorted(owner, owner)
    kept = order[np.arange(len(owner)) - first < MOST_FILMS]
    pixels = small[:, 0].round().byte().numpy()[kept]
    covid = np.full(len(kept), FINDINGS.index("pneumonia"))
    table = _films(pixels, covid, "")
    return Table(table.columns, films["patient_id"][kept].astype(object), 0)


DATA: dict[str, Callable[[], Data]] = {
    **{name: partial(brains, (name,)) for name in CONTRASTS},
    "pair": partial(brains, ("t1ce", "flair")),
    "contrasts": partial(brains, CONTRASTS),
    "chest": chests,
}
