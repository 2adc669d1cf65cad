"""One volume in a NIfTI file: its voxels and how they lie. The rest of its header stays here."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.image_pixels import REFUSED, ImageError, reading

_SUFFIXES = (".nii", ".nii.gz")
_MOST_VOXELS = 2**29
"""Twice a CT of 1,024 slices of 512 x 512: 2 GiB in memory."""

_TEXTS = ("descrip", "aux_file", "db_name", "intent_name")
_MARKS = (b"@", b"^")
"""Of an address, and between the names of a person in DICOM."""

_PERCENTILES = (0.5, 99.5)
_BACKGROUND = 0.05
"""What is darker than this share of the way between the two percentiles is background."""


@dataclass(frozen=True)
class Volume:
    """Voxels along right, anterior, superior."""

    values: NDArray[np.float32]  # (X, Y, Z)
    affine: NDArray[np.float64]  # (4, 4), from voxel indices to mm

    def lies_like(self, other: "Volume") -> bool:
        """Whether voxels are the same places, to a tenth of a mm."""
        return self.values.shape == other.values.shape and np.allclose(
            self.affine, other.affine, atol=0.1
        )

    def foreground(self) -> NDArray[np.float64]:
        """Return for each axial slice, (Z,), the share that is not background."""
        low, high = np.percentile(self.values, _PERCENTILES)
        is_lit = self.values > low + _BACKGROUND * (high - low)
        return np.asarray(is_lit.mean(axis=(0, 1)), np.float64)

    def heights_mm(self) -> NDArray[np.float64]:
        """Return where axial slices lie along their normal, (Z,), from the first."""
        apart_mm = np.linalg.norm(self.affine[:3, 2])
        return np.asarray(np.arange(self.values.shape[2]) * apart_mm, np.float64)

    def slice(self, number: int) -> tuple[NDArray[np.float32], tuple[float, float]]:
        """Return a slice as it is shown, and the spacing of its rows and columns in mm."""
        across_mm, down_mm = (float(np.linalg.norm(self.affine[:3, axis])) for axis in (0, 1))
        return self.values[::-1, ::-1, number].T, (down_mm, across_mm)


def read_volume(path: Path) -> Volume:
    """Read a volume.

    Raises:
        ImageError: damaged, of another kind, too large, without an orientation, or its header
            holds more than a header needs.
    """
    if not path.name.lower().endswith(_SUFFIXES):
        raise ImageError("the file is no .nii or .nii.gz", "convert the volume")
    with reading():
        import nibabel

        image: Any = nibabel.load(path)
        _check_header(image)
        canonical: Any = nibabel.as_closest_canonical(image)  # type: ignore[no-untyped-call]
        values = np.asarray(canonical.dataobj, np.float32).reshape(canonical.shape[:3])
        affine = np.asarray(canonical.affine, np.float64)
    if not np.isfinite(values).all():
        raise ImageError("voxels that are no finite numbers", "replace them by the background")
    return Volume(values, affine)


def _check_header(image: Any) -> None:
    from nibabel import Nifti1Image

    header, shape = image.header, image.shape
    if not isinstance(image, Nifti1Image) or header.get_data_dtype().kind not in "iuf":
        raise ImageError("the file is no NIfTI volume of numbers", "convert the volume")
    if len(header.extensions):
        raise ImageError(
            "the header has extensions, which may hold a whole DICOM header",
            "remove them, as nifti_tool -rm_ext ALL does",
            code=REFUSED,
        )
    texts = b"".join(bytes(header[name]) for name in _TEXTS)
    if any(mark in texts for mark in _MARKS):
        raise ImageError(
            "a text of the header looks like a name or an address",
            "empty descrip, aux_file, db_name and intent_name",
            code=REFUSED,
        )
    if len(shape) < 3 or prod(shape[3:]) != 1:
        raise ImageError("not one volume of three dimensions", "write one file a volume")
    if prod(shape) > _MOST_VOXELS:
        raise ImageError(f"more than {_MOST_VOXELS:,} voxels", "crop the volume")
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise ImageError(
            "the header does not tell how the head or body lies (sform and qform are 0)",
            "convert the volume from its DICOM files again",
        )
