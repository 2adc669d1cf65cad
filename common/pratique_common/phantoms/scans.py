"""Three simulated hospitals with brain MRI: contrast-enhanced T1 slices of nobody.

Each has heads, scanners and a case mix of its own, shifted from those that public priors are drawn
from (``brain_parameters.SHIFTED``): what a generator brings with it is not what it has to learn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from pratique_common.phantoms.brain_mri import render_slices
from pratique_common.phantoms.brain_parameters import KINDS, SHIFTED, Phantoms
from pratique_common.phantoms.brain_planes import PLANES
from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.phantoms.unit_cube import Population

CONTRAST, PLANE, SIZE_PX = "t1ce", "axial", 32
IMAGES_OF_PATIENT = (1, 2, 3)
_SHARES = (0.5, 0.3, 0.2)  # of patients with one, two and three slices
_LEVELS = ("none", "glioblastoma", "low grade glioma", "meningioma")
"""The kinds as the study calls them, in the same order."""


@dataclass(frozen=True)
class Scanner:
    """What makes one hospital's images its own."""

    name: str
    num_patients: int
    kinds: tuple[float, ...]  # shares, in the order of KINDS
    ranges: Mapping[str, tuple[float, float]]  # that differ from SHIFTED


SCANNERS = (
    Scanner("harbour", 1_300, (0.25, 0.35, 0.2, 0.2), {}),
    Scanner(
        "lakeside",
        1_000,
        (0.4, 0.2, 0.2, 0.2),
        {"field_tesla": (1.5, 1.5), "t1_tr_ms": (450.0, 600.0), "noise": (0.03, 0.05)},
    ),
    Scanner(
        "northgate",
        700,
        (0.25, 0.25, 0.3, 0.2),
        {"bias": (0.3, 0.5), "blur_px": (0.6, 0.9), "pitch_rad": (0.0, 0.2)},
    ),
)


def write_scans(
    directory: Path, *, seed: int, num_patients: Mapping[str, int] | None = None
) -> dict[str, Path]:
    """Write a CSV file and, beside it, an ``.npz`` of images per hospital; return the CSV files.

    Args:
        directory: made if needed.
        seed: the same one gives the same files.
        num_patients: of hospitals, by name; by default as many as these have.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    streams = np.random.SeedSequence(seed).spawn(len(SCANNERS))
    for scanner, stream in zip(SCANNERS, streams, strict=True):
        num = scanner.num_patients if num_patients is None else num_patients[scanner.name]
        images, table = _scan(scanner, num, np.random.default_rng(stream))
        paths[scanner.name] = directory / f"{scanner.name}.csv"
        table.to_csv(paths[scanner.name], index=False, lineterminator="\n")
        np.savez_compressed(paths[scanner.name].with_suffix(".npz"), images=images)
    return paths


def scans_study_path() -> Path:
    """Return the study file that describes them."""
    return Path(__file__).with_name("scans.toml")


def _scan(
    scanner: Scanner, num_patients: int, rng: np.random.Generator
) -> tuple[np.ndarray, pd.DataFrame]:
    kinds = rng.choice(len(KINDS), num_patients, p=scanner.kinds)
    heads = Phantoms.draw(num_patients, rng, kinds=kinds)
    counts = rng.choice(IMAGES_OF_PATIENT, num_patients, p=_SHARES)
    rows = np.repeat(np.arange(num_patients), counts)
    slices = heads[rows]
    unit = slices.unit.copy()
    unit[:, Phantoms.parameters.index("slice")] = rng.random(len(rows))  # same head, other places
    slices = Phantoms(slices.kind, unit, slices.seed)
    ranges = {name: scanner.ranges.get(name, limits) for name, limits in SHIFTED.ranges.items()}
    population = Population(scanner.name, MappingProxyType(ranges))
    drawn = render_slices(slices, population, size=SIZE_PX, plane=PLANE)
    low, high = PLANES[PLANE].range_mm
    images = np.rint(drawn.image[:, CONTRASTS.index(CONTRAST)] * 255).astype(np.uint8)
    table = pd.DataFrame(
        {
            "patient": [f"{scanner.name}-{number:06d}" for number in rows],
            "index": np.arange(len(rows)),
            "finding": np.array(_LEVELS, dtype=object)[kinds[rows]],
            "place": np.clip((drawn.position_mm - low) / (high - low), 0, 1).round(3),
        }
    )
    return images[..., None], table
