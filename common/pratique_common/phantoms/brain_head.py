"""The head around the brain: cavity of the skull, bone, scalp, face, orbits and sinuses.

Coordinates are in mm: x to the patient's right, y forwards, z upwards, the origin near the anterior
commissure. Sizes are of an average adult: inner skull 136 x 170 x 138 mm. Shapes are analytic.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pratique_common.phantoms.implicit_shapes import (
    Floats,
    blended,
    capsule,
    coverage,
    ellipsoid,
    nearest,
)
from pratique_common.phantoms.mri_tissues import Tissue

_VAULT_CENTRE_MM = (0.0, -17.0, 6.0)
_VAULT_MM = (68.0, 85.0, 70.0)


@dataclass(frozen=True)
class Points:
    """M sample points of some phantoms, with the values of the phantom that each belongs to."""

    x: Floats
    y: Floats
    z: Floats
    fine: Floats  # a random field of unit variance, some centimetres long
    values: Mapping[str, Floats]  # (M,)
    sample_mm: float  # distance between samples

    def select(self, index: np.ndarray) -> "Points":
        """Return some of the points."""
        values = {name: value[index] for name, value in self.values.items()}
        x, y, z, fine = self.x[index], self.y[index], self.z[index], self.fine[index]
        return Points(x, y, z, fine, values, self.sample_mm)


class Painter:
    """Paints shapes front to back: a sample's tissue shares add up to at most one."""

    def __init__(self, num_points: int) -> None:
        self.share_TM = np.zeros((len(Tissue), num_points), np.float32)
        self.left_M = np.ones(num_points, np.float32)

    def paint(self, tissue: Tissue, share: Floats) -> None:
        """Give a share of what is left of every sample to a tissue."""
        taken = self.left_M * share
        self.share_TM[tissue] += taken
        self.left_M -= taken

    def clear(self, share: Floats) -> None:
        """Leave a share of every sample to air."""
        self.left_M *= 1 - share


def vault_distance(x: Floats, y: Floats, z: Floats, egg: Floats) -> Floats:
    """Return the distance to the inner skull were it closed below: an egg with flat sides."""
    dx, dy, dz = x - _VAULT_CENTRE_MM[0], y - _VAULT_CENTRE_MM[1], z - _VAULT_CENTRE_MM[2]
    narrowing = 1 - egg * np.clip(dy * (1 / _VAULT_MM[1]), -1, 1)
    u2 = np.square(dx / (_VAULT_MM[0] * narrowing))
    v2 = np.square(dy * (1 / _VAULT_MM[1]))
    w2 = np.square(dz * (1 / _VAULT_MM[2]))
    round_radius = np.sqrt(u2 + v2 + w2)
    square_radius = np.sqrt(np.sqrt(u2 * u2 + v2 * v2 + w2 * w2))
    radius = 0.7 * round_radius + 0.3 * square_radius
    slope = np.sqrt(
        u2 * (1 / _VAULT_MM[0] ** 2) + v2 * (1 / _VAULT_MM[1] ** 2) + w2 * (1 / _VAULT_MM[2] ** 2)
    )
    # First-order distance of an ellipsoid: r (r - 1) / |gradient|.
    return np.asarray(radius * (radius - 1) / np.maximum(slope, 1e-3), np.float32)


def head_distance(x: Floats, y: Floats, z: Floats, vault: Floats, shell_mm: Floats) -> Floats:
    """Return the distance to the skin; ``shell_mm`` is the thickness of skull and scalp."""
    side = np.abs(x)
    face = ellipsoid(x, y, z, (0, 40, -58), (60, 50, 62))
    nose = nearest(
        capsule(x, y, z, ((0, 84, -22), (0, 97, -50)), (5, 10)),
        ellipsoid(side, y, z, (7, 92, -52), (8, 9, 7)),
    )
    neck = capsule(x, y, z, ((0, -22, -60), (0, -30, -190)), (58, 56))
    return blended(blended(vault - shell_mm, blended(face, nose, 12), 22), neck, 24)


def cavity_distances(x: Floats, y: Floats, z: Floats, vault: Floats) -> tuple[Floats, Floats]:
    """Return the distances to the room of the cerebrum and to the whole cavity of the skull."""
    side = np.abs(x)
    orbit_roof = 9 * np.exp(-(np.square(side - 30) + np.square(y - 48)) * (1 / 500))
    upper = np.maximum(vault, orbit_roof - 25 - z)
    middle_fossa = ellipsoid(side, y, z, (39, -10, -20), (27, 40, 27))
    cerebral = blended(upper, middle_fossa, 8)
    posterior_fossa = ellipsoid(x, y, z, (0, -53, -32), (54, 41, 36))
    sella = ellipsoid(x, y, z, (0, -13, -22), (19, 24, 17))
    canal = capsule(x, y, z, ((0, -34, -52), (0, -42, -190)), (13, 9))
    return cerebral, nearest(cerebral, blended(posterior_fossa, canal, 8), sella)


def paint_head(points: Points, head: Floats, cavity: Floats) -> Painter:
    """Paint all that lies between skin and brain; ``cavity`` is the distance to the inner skull."""
    painter = Painter(len(points.x))
    x, y, z, side, width = points.x, points.y, points.z, np.abs(points.x), points.sample_mm
    painter.clear(1 - coverage(head, width))
    _paint_orbits(painter, side, y, z, width)
    air = nearest(
        ellipsoid(side, y, z, (25, 50, -54), (13, 16, 15)),  # maxillary sinuses
        ellipsoid(side, y, z, (4, 56, -50), (2.6, 26, 16)),  # nasal passages
        ellipsoid(side, y, z, (8, 52, -28), (4.5, 22, 8)),  # ethmoid cells
        ellipsoid(x, y, z, (0, 15, -37), (12, 11, 8)),  # sphenoid sinus
        ellipsoid(side, y, z, (10, 73, -8), (9, 4, 8)),  # frontal sinuses
        capsule(x, y, z, ((0, 8, -58), (0, -4, -125)), (5, 7)),  # pharynx
    )
    painter.clear(coverage(air, width))
    skull = points.values["skull_mm"]
    vertebrae = capsule(x, y, z, ((0, -12, -84), (0, -22, -190)), (9, 10))
    discs = np.abs(np.mod(z + 90, 17) - 8.5) - 6.8
    marrow = nearest(
        capsule(x, y, z, ((0, 2, -46), (0, -14, -66)), (5, 3)),  # clivus
        np.maximum(vertebrae, discs),
        ellipsoid(side, y, z, (30, 66, -96), (8, 14, 8)),  # mandible
        ellipsoid(side, y, z, (14, 68, -79), (14, 12, 6)),  # upper jaw
    )
    painter.paint(Tissue.MARROW, coverage(marrow, width))
    diploe = np.abs(cavity - 0.5 * skull) - 0.2 * skull
    painter.paint(Tissue.MARROW, 0.75 * coverage(diploe, width) * coverage(-8 - z, 20.0))
    bone = nearest(
        cavity - skull, air - 1.5, marrow - 1.5, ellipsoid(x, y, z, (0, 40, -71), (24, 32, 3))
    )
    painter.paint(Tissue.BONE, coverage(bone, width))
    painter.paint(Tissue.MUSCLE, 0.8 * coverage(-1.6 - head, width))  # skin
    fat = -points.values["scalp_mm"] - head
    painter.paint(Tissue.FAT, coverage(fat, width))
    # Muscle with planes of fat between; below the temples mostly muscle.
    painter.paint(Tissue.MUSCLE, np.clip(0.5 + 0.7 * np.abs(points.fine), 0, 1))
    painter.paint(Tissue.FAT, np.ones_like(x))
    return painter


def _paint_orbits(painter: Painter, side: Floats, y: Floats, z: Floats, width: float) -> None:
    lens = ellipsoid(side, y, z, (32, 71.5, -30), (4.6, 2.2, 4.6))
    globe = ellipsoid(side, y, z, (32, 62, -30), (12, 12.4, 12))
    nerve = capsule(side, y, z, ((31, 50, -30), (7, 12, -25)), (2.2, 2.2))
    recti = nearest(
        capsule(side, y, z, ((43, 58, -30), (18, 22, -27)), (1.6, 2.2)),
        capsule(side, y, z, ((22, 58, -30), (14, 22, -27)), (1.6, 2.2)),
        capsule(side, y, z, ((31, 58, -18), (17, 22, -23)), (1.6, 2.0)),
        capsule(side, y, z, ((31, 58, -42), (17, 22, -31)), (1.6, 2.0)),
    )
    fat = ellipsoid(side, y, z, (29, 49, -30), (16, 27, 15), -0.35)
    painter.paint(Tissue.LENS, coverage(lens, width))
    painter.paint(Tissue.VITREOUS, coverage(globe, width))
    painter.paint(Tissue.BONE, 0.7 * coverage(globe - 1.0, width))  # sclera: dark
    painter.paint(Tissue.WHITE_MATTER, coverage(nerve, width))
    painter.paint(Tissue.MUSCLE, coverage(recti, width))
    painter.paint(Tissue.FAT, coverage(fat, width))
