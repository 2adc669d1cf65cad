"""Tumours with mass effect: nested necrosis, enhancing rim and oedema, or their simpler kin.

Labels as in BraTS (Menze et al., IEEE Trans Med Imaging 2015;34:1993-2024): 1 necrotic and
non-enhancing core, 2 oedema, 4 enhancing tumour. The core is 1 and 4, the whole tumour all three.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.brain_head import Painter, Points
from pratique_common.phantoms.brain_interior import Depths
from pratique_common.phantoms.brain_parameters import KINDS
from pratique_common.phantoms.implicit_shapes import Floats, coverage
from pratique_common.phantoms.mri_tissues import Tissue

NECROTIC, OEDEMA, ENHANCING = 1, 2, 4
GLIOBLASTOMA, LOW_GRADE, MENINGIOMA = (KINDS.index(kind) for kind in KINDS[1:])
"""Classes of phantoms with a tumour."""

_RIM_MM = 2.5
"""Least thickness of an enhancing rim."""


class Tumour(NamedTuple):
    """Offsets from the tumour's centre in its own axes, mm; (M,) each."""

    radius: Floats
    towards_x: Floats
    towards_y: Floats
    towards_z: Floats


def centre_mm(values: dict[str, Floats], kind_N: NDArray[np.int64]) -> Floats:
    """Return centres, (N, 3), in head coordinates; meningiomas sit on the inner skull."""
    azimuth, elevation = values["tumour_azimuth_rad"], values["tumour_elevation_rad"]
    reach = np.where(kind_N == MENINGIOMA, 0.97, values["tumour_depth"])
    side = np.where(values["tumour_side"] >= 0, 1.0, -1.0)
    across = side * np.maximum(np.cos(elevation) * np.cos(azimuth), 0.3)
    along = np.cos(elevation) * np.sin(azimuth)
    direction = np.stack([across * 67, along * 84, np.sin(elevation) * 69], axis=1)
    return np.asarray((reach[:, None] * direction + (0, -17, 6)).astype(np.float32), np.float32)


def around(points: Points) -> Tumour:
    """Return where points lie in the tumour's own frame."""
    values = points.values
    dx = (points.x - values["tumour_cx"]) / values["tumour_x"]
    dy = (points.y - values["tumour_cy"]) / values["tumour_y"]
    dz = (points.z - values["tumour_cz"]) / values["tumour_z"]
    return Tumour(np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-3, dx, dy, dz)


def displaced(points: Points, tumour: Tumour) -> Points:
    """Return the points where their tissue was before the tumour grew: mass effect."""
    values = points.values
    size = np.where(values["kind"] > 0, values["tumour_mm"], 1e-3)
    near = np.exp(-np.square(tumour.radius / (1.8 * size)))
    push = np.asarray(0.30 * size * near / tumour.radius, np.float32)
    return Points(
        points.x - push * tumour.towards_x,
        points.y - push * tumour.towards_y,
        points.z - push * tumour.towards_z,
        points.fine,
        values,
        points.sample_mm,
    )


def paint_tumour(
    painter: Painter, points: Points, tumour: Tumour, rough: Floats, depths: Depths
) -> None:
    """Paint the tumour before the brain.

    Args:
        painter: nothing painted yet.
        points: as they are, not displaced.
        tumour: ``around(points)``.
        rough: a random field of unit variance, for outlines.
        depths: of the displaced brain; oedema keeps to white matter and out of the ventricles.
    """
    pial = depths.pial
    values, width = points.values, points.sample_mm
    kind, size = values["kind"], values["tumour_mm"]
    core = tumour.radius - size * (1 + values["tumour_roughness"] * rough)
    necrosis = np.maximum(
        tumour.radius
        - size * values["necrosis"] * (1 + 1.5 * values["tumour_roughness"] * points.fine),
        core + _RIM_MM,
    )
    in_white = np.clip((pial - values["cortex_mm"]) * (1 / 3), -1, 1)
    reach = size * np.where(kind == LOW_GRADE, 1.25, values["oedema"])
    oedema = tumour.radius - reach * (1 + 0.18 * rough + 0.1 * points.fine) - 3 * (in_white - 1)
    is_in_brain = coverage(-pial, width) * coverage(-depths.ventricles, width)
    swollen = np.maximum(coverage(oedema, 5.0), coverage(core - 2, width)) * (
        0.35 + 0.65 * (in_white > 0)
    )

    glioblastoma, low_grade = kind == GLIOBLASTOMA, kind == LOW_GRADE
    core_share = coverage(core, width)
    painter.paint(Tissue.NECROSIS, coverage(necrosis, width) * core_share * glioblastoma)
    painter.paint(Tissue.ENHANCING, core_share * glioblastoma)
    painter.paint(Tissue.NON_ENHANCING, coverage(core, 4.0) * low_grade)
    smooth = tumour.radius - size * (1 + 0.3 * values["tumour_roughness"] * rough)
    painter.paint(Tissue.MENINGIOMA, coverage(smooth, width) * (kind == MENINGIOMA))
    painter.paint(Tissue.CSF, 0.7 * coverage(smooth - 1.2, width) * (kind == MENINGIOMA))
    share = np.where(
        kind == MENINGIOMA, 0.8 * (values["necrosis"] > 0.65), glioblastoma + 0.7 * low_grade
    )
    painter.paint(Tissue.OEDEMA, swollen * is_in_brain * share)


def labels(share_TBHW: Floats, supersampling: int) -> NDArray[np.uint8]:
    """Return labels of pixels, (B, h, w), from the tissue shares of their samples.

    Regions are nested by construction: a pixel belongs to the whole tumour if at least half of it
    does, to the core if at least half does; inside the core the larger of the two parts decides.
    """

    def pooled(*tissues: Tissue) -> Floats:
        total = sum(share_TBHW[tissue] for tissue in tissues)
        num, height, width = total.shape
        steps = (num, height // supersampling, supersampling, width // supersampling, supersampling)
        return np.asarray(
            np.einsum("bhiwj->bhw", total.reshape(steps)) / supersampling**2, np.float32
        )

    necrotic = pooled(Tissue.NECROSIS, Tissue.NON_ENHANCING)
    enhancing = pooled(Tissue.ENHANCING, Tissue.MENINGIOMA)
    core = necrotic + enhancing
    inner = np.where(enhancing >= necrotic, ENHANCING, NECROTIC)
    label = np.where(core >= 0.5, inner, np.where(core + pooled(Tissue.OEDEMA) >= 0.5, OEDEMA, 0))
    return label.astype(np.uint8)
