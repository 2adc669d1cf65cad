"""The brain inside the skull: folded cortex, white matter, ventricles, deep nuclei, hindbrain.

Coordinates as in ``brain_head``. Left and right are mirrored shapes; folding, warp and tumours
make them differ. Positions are estimates for an average adult, not fitted to any image.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.brain_head import Painter, Points
from pratique_common.phantoms.implicit_shapes import (
    Floats,
    Waves,
    blended,
    capsule,
    coverage,
    ellipsoid,
    nearest,
)
from pratique_common.phantoms.mri_tissues import Tissue

_FOLDING_RADIUS_MM = 45.0
"""Folding is drawn on a surface this far from a hemisphere's axis, and carried along radii."""


class Depths(NamedTuple):
    """Distances in mm, (M,) each."""

    ventricles: Floats  # to their walls, negative inside
    pial: Floats  # below the surface of the cerebrum, sulci included; positive inside


def depths(
    points: Points, cerebral: Floats, folding: Waves, phantom_M: NDArray[np.int64]
) -> Depths:
    """Return how deep points lie; ``cerebral`` is the distance to the cerebrum's room.

    Points of one phantom, a row of ``folding``, are neighbours: ``phantom_M`` never decreases.
    """
    cerebrum = cerebrum_distance(points, cerebral)
    return Depths(ventricle_distance(points), pial_depth(points, cerebrum, folding, phantom_M))


def paint_interior(painter: Painter, points: Points, depths: Depths, cavity: Floats) -> None:
    """Paint the brain over all that is left; ``cavity`` is the distance to the inner skull."""
    width, pial = points.sample_mm, depths.pial
    painter.paint(Tissue.CSF, coverage(depths.ventricles, width))
    _paint_nuclei(painter, points)
    _paint_hindbrain(painter, points, cavity)
    callosum = np.maximum(_callosum(points), np.abs(points.x) - 14)
    painter.paint(Tissue.WHITE_MATTER, coverage(callosum, width))
    painter.paint(Tissue.CSF, coverage(pial, width))
    painter.paint(Tissue.GREY_MATTER, coverage(pial - points.values["cortex_mm"], width))
    painter.paint(Tissue.WHITE_MATTER, np.ones_like(pial))


def ventricle_distance(points: Points) -> Floats:
    """Return the distance to the ventricles, all four and the aqueduct."""
    x, y, z, size = points.x, points.y, points.z, points.values["ventricles"]
    # The bodies lean outwards: in coronal sections they look like the wings of a butterfly.
    side = np.abs(x) - 0.42 * np.clip(z - 10, -12, 14)
    frontal = capsule(side, y, z, ((17, 30, 5), (6.5, 5, 12)), (3.6 * size, 3.8 * size), 0.55)
    body = capsule(side, y, z, ((6.5, 5, 12), (9.5, -20, 19)), (3.8 * size, 4.0 * size), 0.65)
    atrium = capsule(side, y, z, ((9.5, -20, 19), (25, -42, 11)), (4.2 * size, 6.8 * size), 0.75)
    occipital = capsule(side, y, z, ((25, -42, 11), (27, -70, 4)), (5.5 * size, 1.2 * size), 0.8)
    temporal_start = capsule(
        side, y, z, ((25, -42, 11), (36, -30, -9)), (4.0 * size, 2.0 * size), 0.9
    )
    temporal = capsule(side, y, z, ((36, -30, -9), (38, -6, -18)), (2.0 * size, 1.4 * size))
    lateral = nearest(frontal, body, atrium, occipital, temporal_start, temporal)
    lateral = np.maximum(lateral, 0.9 - np.abs(x))  # the septum
    third = ellipsoid(x, y, z, (0, -11, -2), (1.9 * size, 15, 10))
    aqueduct = capsule(x, y, z, ((0, -28, -4), (0, -38, -22)), (0.9, 1.0))
    fourth = ellipsoid(x, y, z, (0, -45, -33), (7.5 * size**0.5, 5 * size**0.5, 11))
    return nearest(lateral, third, aqueduct, fourth)


def _callosum(points: Points) -> Floats:
    arch = np.sqrt(np.square((points.y + 7) * (1 / 37)) + np.square((points.z - 3) * (1 / 22.5)))
    thickness = 3.2 + 1.8 * np.clip(np.abs(points.y + 7) * (1 / 30) - 0.35, 0, 1)
    band = np.abs(arch - 1) * 27 - thickness
    return np.asarray(
        np.maximum(band, np.where(points.y > 0, -4 - points.z, 3 - points.z)), np.float32
    )


def _paint_nuclei(painter: Painter, points: Points) -> None:
    side, y, z, width = np.abs(points.x), points.y, points.z, points.sample_mm
    thalamus = ellipsoid(side, y, z, (11, -18, 7), (8, 15, 9), 0.45)
    caudate = nearest(
        ellipsoid(side, y, z, (13.5, 14, 9), (5, 10, 8.5), 0.25),
        capsule(side, y, z, ((15, 6, 17), (19, -24, 22)), (3.4, 2.2)),
    )
    putamen = ellipsoid(side, y, z, (26.5, 3, 2), (5, 17, 11), 0.2)
    pallidum = ellipsoid(side, y, z, (20, -3, 0), (4.2, 9, 7), 0.45)
    hippocampus = nearest(
        capsule(side, y, z, ((27, -12, -21), (27, -34, -7)), (5.5, 3.5)),
        ellipsoid(side, y, z, (23, -4, -20), (8, 7, 7)),  # amygdala
    )
    painter.paint(Tissue.DEEP_GREY, coverage(nearest(caudate, putamen), width))
    painter.paint(Tissue.DEEP_GREY, 0.55 * coverage(pallidum, width))
    painter.paint(Tissue.DEEP_GREY, 0.85 * coverage(thalamus, width))
    painter.paint(Tissue.GREY_MATTER, coverage(hippocampus, width))


def _paint_hindbrain(painter: Painter, points: Points, cavity: Floats) -> None:
    x, y, z, side, width = points.x, points.y, points.z, np.abs(points.x), points.sample_mm
    stem = nearest(
        blended(
            capsule(x, y, z, ((0, -25, -7), (0, -31, -34)), (11.5, 12)),
            ellipsoid(x, y, z, (0, -19, -30), (17, 11, 13)),  # pons
            4,
        ),
        capsule(x, y, z, ((0, -29, -40), (0, -36, -58)), (10, 7)),
        capsule(x, y, z, ((0, -36, -58), (0, -43, -190)), (6.5, 5)),
        capsule(side, y, z, ((12, -28, -32), (24, -50, -36)), (7, 7)),  # to the cerebellum
    )
    peduncles = capsule(side, y, z, ((14, -12, -4), (7, -19, -20)), (5.5, 6))  # of the cerebrum
    stem = blended(stem, peduncles, 5)
    stem_share = coverage(stem, width)
    painter.paint(Tissue.DEEP_GREY, 0.35 * stem_share)
    painter.paint(Tissue.WHITE_MATTER, stem_share)
    hemispheres = ellipsoid(side, y, z, (24, -63, -34), (28, 31, 26))
    vermis = ellipsoid(x, y, z, (0, -59, -26), (13, 24, 28))
    room = np.maximum(infratentorial_distance(points) + 1, cavity + 3)
    _paint_folia(painter, points, np.maximum(blended(hemispheres, vermis, 5), room))
    painter.paint(Tissue.CSF, coverage(stem - 3.0, width) * coverage(z + 8, 8.0))


def infratentorial_distance(points: Points) -> Floats:
    """Return the distance to the room below the tentorium, behind the petrous bones."""
    side, y, z = np.abs(points.x), points.y, points.z
    roof = 2 - 0.40 * np.maximum(side - 4, 0) - 0.30 * np.clip(-40 - y, 0, 70)
    return np.asarray(np.maximum((z - roof) * 0.9, (y + 20 + 0.45 * side) * 0.9), np.float32)


def _paint_folia(painter: Painter, points: Points, cerebellum: Floats) -> None:
    inside = np.flatnonzero(cerebellum < points.sample_mm)
    share = np.zeros((3, len(points.x)), np.float32)
    if len(inside):
        part, depth, width = points.select(inside), -cerebellum[inside], points.sample_mm
        # White matter branches from the roof of the fourth ventricle, fissures lie between.
        angle = np.arctan2(part.z + 34, part.y + 47) * 15 + 0.7 * part.fine
        branch = np.cos(angle + 0.05 * np.abs(part.x))
        core = ellipsoid(np.abs(part.x), part.y, part.z, (17, -56, -35), (17, 12, 6))
        white = np.minimum(core, 5 - depth + 7 * (0.35 - branch))
        fissure = np.clip((-0.72 - branch) * 3, 0, 1) * np.clip(1 - depth / 14, 0, 1)
        whole = coverage(-depth, width)
        share[0, inside] = whole * fissure * 0.8
        share[1, inside] = whole * coverage(white, np.maximum(width, 2.0))
        share[2, inside] = whole
    painter.paint(Tissue.CSF, share[0])
    painter.paint(Tissue.WHITE_MATTER, share[1])
    painter.paint(Tissue.GREY_MATTER, share[2])


def cerebrum_distance(points: Points, cerebral: Floats) -> Floats:
    """Return the distance to the cerebrum's hull: its room less CSF, tentorium and cisterns."""
    x, y, z = points.x, points.y, points.z
    cisterns = nearest(
        ellipsoid(x, y, z, (0, -2, -22), (15, 17, 13)),  # suprasellar
        ellipsoid(x, y, z, (0, -41, -3), (7, 4.5, 7)),  # quadrigeminal
        ellipsoid(x, y, z, (0, -24, -30), (22, 22, 24)),  # around the brain stem
    )
    hull = cerebral + points.values["subarachnoid_mm"]
    return np.asarray(
        np.maximum(np.maximum(hull, 0.7 - infratentorial_distance(points)), -cisterns), np.float32
    )


def pial_depth(
    points: Points, cerebrum: Floats, folding: Waves, phantom_M: NDArray[np.int64]
) -> Floats:
    """Return the depth below the pia, in mm and positive inside: hull, fissures and sulci."""
    depth = np.minimum(-cerebrum, _fissure_distance(points))
    deepest = points.values["sulcus_depth_mm"]
    folded = np.flatnonzero((depth > -points.sample_mm) & (depth < 1.3 * deepest + 6))
    if len(folded):
        part = points.select(folded)
        sulcus = _sulcus_distance(part, depth[folded], folding, phantom_M[folded])
        depth[folded] = np.minimum(depth[folded], sulcus)
    return depth


def _fissure_distance(points: Points) -> Floats:
    """Return the distance to the walls of the interhemispheric and the Sylvian fissures."""
    x, y, z, side = points.x, points.y, points.z, np.abs(points.x)
    half_width = points.values["sulcus_mm"]
    # The hemispheres are joined inside the arch of the callosum and around the third ventricle.
    arch = np.sqrt(np.square((y + 7) * (1 / 40.5)) + np.square((z - 3) * (1 / 26)))
    joined = np.minimum((arch - 1) * 30, ellipsoid(x * 0, y, z, (0, -12, -8), (30, 24, 18)))
    midline = np.hypot(x + 1.3 * points.fine, np.maximum(-joined, 0)) - 0.5 - half_width
    level = -3 - 0.42 * y + 0.2 * (side - 50) + 3 * points.fine  # it climbs backwards
    outer = np.sqrt(
        np.square(z - level)
        + np.square(np.maximum(38 - side, 0))
        + np.square(np.maximum(y - 24, 0))
        + np.square(np.maximum(-42 - y, 0))
    )
    insula = np.sqrt(
        np.square(side - 40 + 0.006 * np.square(y + 4) + 0.025 * np.square(z - level - 4))
        + np.square(np.maximum(np.abs(z - level - 4) - 13, 0))
        + np.square(np.maximum(np.abs(y + 6) - 24, 0))
    )
    funnel = 0.05 * np.clip(side - 45, 0, 25)
    sylvian = np.minimum(outer - funnel, insula) - 1.3 * half_width
    return np.asarray(np.minimum(midline, sylvian), np.float32)


def _sulcus_distance(
    points: Points, depth: Floats, folding: Waves, phantom_M: NDArray[np.int64]
) -> Floats:
    """Return the distance to the walls of the sulci: zero lines of a random field on the surface.

    The field is carried inwards along radii from each hemisphere's axis (bent into the temporal
    lobe), so that sulci stand upright on the surface as real ones do.
    """
    x, y, z, side = points.x, points.y, points.z, np.abs(points.x)
    temporal = np.clip((-3 - 0.42 * y - z) * (1 / 12) + 0.5, 0, 1) * np.clip(
        (y + 62) * (1 / 30), 0, 1
    )
    axis_x, axis_z = 26 + 14 * temporal, 9 - 27 * temporal
    axis_y = np.clip(y, -62 + 25 * temporal, 32 - 22 * temporal)
    away = np.stack([side - axis_x, y - axis_y, z - axis_z], axis=1)
    radius = np.maximum(np.sqrt(np.einsum("mk,mk->m", away, away)), 6)
    away /= radius[:, None]
    axis = np.stack([axis_x, axis_y, axis_z], axis=1)
    on_surface = np.asarray(axis + _FOLDING_RADIUS_MM * away, np.float32)
    mirror = np.sign(x)
    on_surface[:, 0] *= mirror
    away[:, 0] *= mirror
    field, steepness = np.empty_like(x), np.empty_like(x)
    starts = np.flatnonzero(np.diff(phantom_M, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(x)], strict=True):
        part = slice(start, end)
        field[part], gradient = folding.at(int(phantom_M[start]), on_surface[part])
        along = np.einsum("mk,mk->m", gradient, away[part])
        squared = np.einsum("mk,mk->m", gradient, gradient) - np.square(along)
        steepness[part] = np.sqrt(np.maximum(squared, 0) + 0.004)
    across = np.abs(field) / steepness * (radius * (1 / _FOLDING_RADIUS_MM))
    deepest = points.values["sulcus_depth_mm"] * (1 + 0.25 * points.fine)
    left = np.maximum(1 - np.maximum(depth, 0) / np.maximum(deepest, 4), 0)
    half_width = points.values["sulcus_mm"] * (
        0.35 + 0.65 * left + 1.2 * np.square(np.square(left))
    )
    below = np.maximum(np.maximum(depth - deepest, 15 - radius), 0)
    return np.asarray(np.hypot(across, below) - half_width, np.float32)
