"""Where a slice lies, and how it is shown: in scanner coordinates (right, anterior, superior), mm.

All sources show a slice as phantoms are: the patient's right on the left of the image; axial with
the front on top, coronal and sagittal with the head on top, sagittal facing left.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

_FROM_LPS = np.array([-1.0, -1.0, 1.0])
"""DICOM's axes run to the left, back and up (PS3.3 C.7.6.2.1.1)."""


@dataclass(frozen=True)
class Placement:
    """Where a slice lies: two directions and the centre of its first pixel, each (3,)."""

    across: Float64Array  # in which column numbers grow
    down: Float64Array  # in which row numbers grow
    corner_mm: Float64Array

    @classmethod
    def of_dicom(cls, orientation: list[float], position: list[float]) -> "Placement":
        """Return the placement that ImageOrientationPatient and ImagePositionPatient tell.

        Raises:
            ValueError: they tell no plane.
        """
        across, down = np.reshape(np.array(orientation, np.float64), (2, 3)) * _FROM_LPS
        corner = np.reshape(np.array(position, np.float64), 3) * _FROM_LPS
        frame = np.array([across, down])
        if not np.allclose(frame @ frame.T, np.eye(2), atol=0.01) or not np.isfinite(corner).all():
            raise ValueError("no plane")
        return cls(across, down, corner)

    @property
    def normal(self) -> Float64Array:
        """Of the plane: to the right, front or head, whichever is nearest."""
        normal = np.cross(self.across, self.down)
        return np.asarray(normal * np.sign(normal[self.axis]), np.float64)

    @property
    def axis(self) -> int:
        """Nearest to the normal: 0 sagittal, 1 coronal, 2 axial."""
        return int(np.abs(np.cross(self.across, self.down)).argmax())

    @property
    def position_mm(self) -> float:
        """Along the normal."""
        return float(self.normal @ self.corner_mm)

    def is_parallel(self, other: "Placement") -> bool:
        """Whether both show the same directions, to a degree."""
        return np.allclose(self.across, other.across, atol=0.02) and np.allclose(
            self.down, other.down, atol=0.02
        )

    def upright(
        self, values_HW: NDArray[Any], spacing_mm: tuple[float, float]
    ) -> tuple[NDArray[Any], tuple[float, float]]:
        """Return a slice, and the spacing of its rows and columns, as it is shown."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        across, down = self.across, self.down
        if abs(across[second] * down[first]) > abs(across[first] * down[second]):
            values_HW, (row_mm, column_mm) = values_HW.T, spacing_mm
            across, down, spacing_mm = down, across, (column_mm, row_mm)
        if across[first] > 0:
            values_HW = values_HW[:, ::-1]
        if down[second] > 0:
            values_HW = values_HW[::-1]
        return values_HW, spacing_mm
