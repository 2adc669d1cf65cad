"""The rays of a chest film: where each pixel's ray passes at any depth of the patient.

Coordinates are in half widths of the rib cage: x to the patient's right, y forwards, z upwards,
the origin in the middle of the chest. The patient's right is shown on the left.

An organ is seen at its own depth, enlarged by the cone of the beam and shifted by the patient's
rotation; within an organ rays are taken as parallel to y. Rotations are small and enter as shears.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.implicit_shapes import Floats

Values = Mapping[str, Floats]
"""Values of phantoms, (B, 1, 1) each."""

Real = NDArray[np.floating[Any]]
"""What arithmetic with 32-bit floats is to a type checker: of any width."""


@dataclass(frozen=True)
class View:
    """Rays through B chests, H x W each."""

    x: Floats  # (B, H, W), where a ray meets y = 0
    z: Floats
    narrowing: Floats  # (B, 1, 1): a ray's x and z shrink by this share of themselves per y
    yaw_rad: Floats
    pitch_rad: Floats

    def at(self, y: float | Real) -> tuple[Floats, Floats]:
        """Return x and z of all rays at depth ``y``, (B, 1, 1) or one a ray."""
        shrink = 1 - y * self.narrowing
        return self.x * shrink + y * self.yaw_rad, self.z * shrink + y * self.pitch_rad


def rays(values: Values, size: int) -> View:
    """Return the rays of an image of ``size`` samples a side."""
    step = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * values["field"]
    right = values["shift_x"] - step * values["aspect"]
    up = (values["shift_z"] - step).swapaxes(1, 2)
    turn_cos, turn_sin = np.cos(values["roll_rad"]), np.sin(values["roll_rad"])
    # The detector touches the patient; the middle of the chest is about its depth away from it.
    to_middle = values["distance_mm"] / values["half_width_mm"] - values["depth"] - values["wall"]
    side = np.where(values["from_front"] >= 0.5, 1, -1).astype(np.float32)
    return View(
        x=np.asarray(right * turn_cos + up * turn_sin, np.float32),
        z=np.asarray(up * turn_cos - right * turn_sin, np.float32),
        narrowing=side / to_middle,
        yaw_rad=values["yaw_rad"],
        pitch_rad=values["pitch_rad"],
    )


def root(square: Real) -> Floats:
    """Return the square root, 0 where negative: half a chord through a unit sphere."""
    return np.asarray(np.sqrt(np.maximum(square, 0)), np.float32)


def rise(value: Real, start: float | Real, end: float | Real) -> Floats:
    """Return a smooth step from 0 at ``start`` to 1 at ``end``."""
    share = np.clip((value - start) * (1 / (end - start)), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def bump(value: Real, centre: float | Real, width: float | Real) -> Floats:
    """Return a smooth bump of height 1 that ends ``width`` away from its centre."""
    hill = np.maximum(1 - np.square((value - centre) * (1 / width)), 0)
    return np.asarray(np.square(hill), np.float32)
