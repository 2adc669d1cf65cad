"""Brain phantoms as files: PNG slices with masks and a table, NIfTI volumes, a contact sheet."""

import csv
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pratique_common.phantoms.brain_mri import (
    BrainSlices,
    BrainVolume,
    render_slices,
    render_volume,
)
from pratique_common.phantoms.brain_parameters import KINDS, draw
from pratique_common.phantoms.brain_planes import PLANES
from pratique_common.phantoms.contact_sheet import Block, contact_sheet, grey, overlay
from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.phantoms.unit_cube import Population

CONTACT_SHEET = "contact-sheet.png"
SLICES_TABLE = "slices.csv"
GREY_LEVELS = 1000
"""Value of 1.0 in a NIfTI volume; masks hold labels as they are."""

_COLUMNS = ("file", "patient", "label", "z", "mask", "contrast", "plane")


def write_slices(
    folder: Path, population: Population, *, per_plane: int, size: int, seed: int
) -> int:
    """Write PNG images, masks, their table and the contact sheet; return how many images.

    Every phantom is shown in one plane and all contrasts; kinds take turns. A mask's grey values
    are the labels themselves: 0, 1, 2, 4. In the table ``z`` is 0 to 1 over the plane's range.
    """
    images, masks = folder / "slices", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    rows, blocks = [], []
    for number, plane in enumerate(PLANES):
        kinds = np.arange(per_plane) % len(KINDS)
        phantoms = draw(per_plane, np.random.default_rng([seed, number]), kinds=kinds)
        slices = render_slices(phantoms, population, size=size, plane=plane)
        blocks.append(_block(plane, slices))
        low, high = PLANES[plane].range_mm
        depth = np.clip((slices.position_mm - low) / (high - low), 0, 1)
        for index in range(per_plane):
            patient = f"{plane}-{index:04d}"
            mask = f"{masks.name}/{patient}.png"
            Image.fromarray(slices.label[index]).save(folder / mask)
            for contrast, image in zip(CONTRASTS, slices.image[index], strict=True):
                file = f"{images.name}/{patient}_{contrast}.png"
                Image.fromarray(grey(image)).save(folder / file)
                kind = KINDS[slices.kind[index]]
                rows.append((file, patient, kind, f"{depth[index]:.4f}", mask, contrast, plane))
    with (folder / SLICES_TABLE).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([_COLUMNS, *rows])
    contact_sheet(blocks).save(folder / CONTACT_SHEET)
    return len(rows)


def write_volumes(
    folder: Path, population: Population, *, num: int, size: int, seed: int
) -> Iterator[Path]:
    """Write whole heads as NIfTI, one file a contrast and one mask; yield each mask's path.

    Tumours come first: glioblastoma, low-grade glioma, meningioma, then none.
    """
    folder.mkdir(parents=True)
    order = np.roll(np.arange(len(KINDS)), -1)
    rng = np.random.default_rng([seed, len(PLANES)])
    phantoms = draw(num, rng, kinds=order[np.arange(num) % len(KINDS)])
    for index in range(num):
        volume = render_volume(phantoms, population, index, size=size)
        name = f"volume-{index:04d}"
        for contrast, image in zip(CONTRASTS, volume.image, strict=True):
            grey = np.round(image * GREY_LEVELS).astype(np.int16)
            _write_nifti(folder / f"{name}_{contrast}.nii.gz", grey, volume)
        mask = folder / f"{name}_seg.nii.gz"
        _write_nifti(mask, volume.label, volume)
        yield mask


def _block(plane: str, slices: BrainSlices) -> Block:
    rows = {
        contrast: [Image.fromarray(grey(image)).convert("RGB") for image in slices.image[:, number]]
        for number, contrast in enumerate(CONTRASTS)
    }
    shown = zip(slices.image[:, -1], slices.label, strict=True)
    rows["mask"] = [overlay(image, label) for image, label in shown]
    return Block(plane, [KINDS[kind].replace("_", " ") for kind in slices.kind], rows)


def _write_nifti(path: Path, values: NDArray[np.generic], volume: BrainVolume) -> None:
    image = nibabel.Nifti1Image(values, volume.affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    image.header["descrip"] = b"phantom: simulated, no patient"
    nibabel.save(image, path)
