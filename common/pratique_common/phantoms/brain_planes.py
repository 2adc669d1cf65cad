"""Where slices lie: planes, the field of view, and how a head lies in the scanner."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pratique_common.phantoms.brain_parameters import KINDS
from pratique_common.phantoms.implicit_shapes import Floats

FIELD_OF_VIEW_MM = 240.0
CENTRE_MM = np.array([0.0, -12.0, -12.0], np.float32)
"""Centre of the field of view, in scanner coordinates (right, anterior, superior)."""


class Plane(NamedTuple):
    """A family of slices as they are shown: the patient's right on the left of the image."""

    axis: int  # of the normal
    down: tuple[float, float, float]
    across: tuple[float, float, float]
    range_mm: tuple[float, float]  # positions that show enough brain


PLANES = {
    "axial": Plane(2, (0, -1, 0), (-1, 0, 0), (-30.0, 52.0)),
    "coronal": Plane(1, (0, 0, -1), (-1, 0, 0), (-76.0, 44.0)),
    "sagittal": Plane(0, (0, 0, -1), (0, -1, 0), (-48.0, 48.0)),
}


def slice_position_mm(values: Mapping[str, Floats], plane: str) -> Floats:
    """Return where slices lie, (N,), along the plane's normal in scanner coordinates."""
    axis, (low, high) = PLANES[plane].axis, PLANES[plane].range_mm
    anywhere = low + (values["slice"] + 1) / 2 * (high - low)
    rotation, scale, shift = pose(values)
    centre = np.stack([values["tumour_cx"], values["tumour_cy"], values["tumour_cz"]], axis=1)
    # A meningioma's centre is on the skull: what shows of it is nearer to the middle of the head.
    inwards = (0, -17, 6) - centre
    inwards *= (0.45 * values["tumour_mm"] / np.linalg.norm(inwards, axis=1))[:, None]
    centre = centre + np.where(values["kind"][:, None] == KINDS.index("meningioma"), inwards, 0)
    tumour = np.einsum("bij,bj->bi", rotation, centre * scale) + shift
    through = tumour[:, axis] + 0.5 * values["slice"] * values["tumour_mm"]
    return np.where(values["kind"] > 0, through, anywhere).astype(np.float32)


def pose(values: Mapping[str, Floats]) -> tuple[Floats, Floats, Floats]:
    """Return rotations (B, 3, 3), sizes (B, 3) and shifts (B, 3): head to scanner coordinates."""
    angles = [values[name] for name in ("pitch_rad", "roll_rad", "yaw_rad")]
    rotation = np.broadcast_to(np.eye(3, dtype=np.float32), (len(angles[0]), 3, 3))
    for axis, angle in enumerate(angles):
        turn = np.zeros_like(rotation)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[:, axis, axis] = 1
        turn[:, first, first] = turn[:, second, second] = np.cos(angle)
        turn[:, second, first] = np.sin(angle)
        turn[:, first, second] = -turn[:, second, first]
        rotation = turn @ rotation
    scale = np.stack([values["width"], values["length"], values["height"]], axis=1)
    shift = np.stack([values[f"shift_{axis}_mm"] for axis in "xyz"], axis=1)
    return rotation, scale, shift
