"""Shapes as signed distances, and random smooth fields: what analytic phantoms are built of.

A shape is a function of points in mm; its value is about the distance to its surface in mm,
negative inside. All arrays are float32 of one shape, one number a point.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]
Length = float | Floats
"""A length in mm: one for all points, or one a point."""


def coverage(distance: Floats, width_mm: Length) -> Floats:
    """Return the share in [0, 1] of a sample of that width that lies inside: partial volume."""
    return np.asarray(np.clip(0.5 - distance / width_mm, 0, 1), np.float32)


def ellipsoid(
    x: Floats,
    y: Floats,
    z: Floats,
    centre: Point,
    axes: tuple[Length, Length, Length],
    turn_rad: float = 0.0,
) -> Floats:
    """Return the distance to an ellipsoid that is turned about z; exact along its shortest axis."""
    across, along = x - centre[0], y - centre[1]
    if turn_rad:
        c, s = float(np.cos(turn_rad)), float(np.sin(turn_rad))
        across, along = across * c + along * s, along * c - across * s
    radius = np.sqrt(
        np.square(across / axes[0])
        + np.square(along / axes[1])
        + np.square((z - centre[2]) / axes[2])
    )
    return np.asarray((radius - 1) * np.minimum(np.minimum(axes[0], axes[1]), axes[2]), np.float32)


def capsule(
    x: Floats,
    y: Floats,
    z: Floats,
    ends: tuple[Point, Point],
    radii_mm: tuple[Length, Length],
    flatten_z: float = 1.0,
) -> Floats:
    """Return the distance to a tapered rod; ``flatten_z`` below 1 makes it taller than wide."""
    start, end = ends
    bx, by, bz = end[0] - start[0], end[1] - start[1], (end[2] - start[2]) * flatten_z
    dx, dy, dz = x - start[0], y - start[1], (z - start[2]) * flatten_z
    along = np.clip((dx * bx + dy * by + dz * bz) * (1 / (bx * bx + by * by + bz * bz)), 0, 1)
    off_axis = np.sqrt(
        np.square(dx - along * bx) + np.square(dy - along * by) + np.square(dz - along * bz)
    )
    return np.asarray(off_axis - (radii_mm[0] + along * (radii_mm[1] - radii_mm[0])), np.float32)


def nearest(*distances: Floats) -> Floats:
    """Return the distance to a union of shapes."""
    union = distances[0]
    for distance in distances[1:]:
        union = np.minimum(union, distance)
    return union


def blended(first: Floats, second: Floats, width_mm: float) -> Floats:
    """Return the distance to a union whose seam is rounded over ``width_mm`` (polynomial blend)."""
    overlap = np.maximum(width_mm - np.abs(first - second), 0)
    return np.asarray(
        np.minimum(first, second) - np.square(overlap) * (0.25 / width_mm), np.float32
    )


@dataclass(frozen=True)
class Waves:
    """A random field for each of B phantoms: a sum of J plane waves, of about unit variance."""

    wave: Floats  # (B, J, 3), radians per mm
    phase: Floats  # (B, J), radians

    @classmethod
    def draw(
        cls,
        rngs: Sequence[np.random.Generator],
        num_waves: int,
        length_mm: tuple[Length, Length],
    ) -> "Waves":
        """Draw directions at random and wavelengths between two bounds, one pair a phantom."""
        drawn = np.stack([rng.standard_normal((num_waves, 4), np.float32) for rng in rngs])
        uniform = np.stack([rng.random((num_waves, 2), np.float32) for rng in rngs])
        direction = drawn[..., :3] / np.linalg.norm(drawn[..., :3], axis=-1, keepdims=True)
        shortest = np.asarray(length_mm[0], np.float32).reshape(-1, 1)
        longest = np.asarray(length_mm[1], np.float32).reshape(-1, 1)
        length = shortest + uniform[..., 0] * (longest - shortest)
        wave = direction * (2 * np.pi / length)[..., None]
        return cls(wave.astype(np.float32), (2 * np.pi * uniform[..., 1]).astype(np.float32))

    def on_grid(
        self, origin_B3: Floats, row_B3: Floats, column_B3: Floats, steps_N: Floats
    ) -> Floats:
        """Return the field, (B, N, N), where ``origin + i * row + j * column`` for i, j in steps.

        A wave on a plane grid is a product of its rows and its columns, so that a sum of waves is
        one matrix product.
        """
        start = np.einsum("bjk,bk->bj", self.wave, origin_B3) + self.phase
        rows = np.einsum("bjk,bk->bj", self.wave, row_B3)[:, None, :] * steps_N[:, None]
        columns = np.einsum("bjk,bk->bj", self.wave, column_B3)[:, :, None] * steps_N
        rows += start[:, None, :]
        left = np.concatenate([np.cos(rows), -np.sin(rows)], axis=2)
        right = np.concatenate([np.cos(columns), np.sin(columns)], axis=1)
        return np.asarray((left @ right) * np.float32(np.sqrt(2 / self.phase.shape[1])), np.float32)

    def at(self, phantom: int, points_M3: Floats) -> tuple[Floats, Floats]:
        """Return the field, (M,), and its gradient per mm, (M, 3), at points of one phantom."""
        wave_J3 = self.wave[phantom]
        angle = points_M3 @ wave_J3.T + self.phase[phantom]
        scale = np.float32(np.sqrt(2 / wave_J3.shape[0]))
        return np.cos(angle).sum(axis=1) * scale, np.sin(angle) @ (wave_J3 * -scale)
