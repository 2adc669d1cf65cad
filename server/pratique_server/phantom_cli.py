"""``pratique phantom``: tables and brain images of nobody."""

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pratique_common import console
from pratique_common.errors import UsageError

EXAMPLE = "Example: pratique phantom --out phantoms --size 64 --population shifted"


class _Population(StrEnum):
    BASE = "base"
    SHIFTED = "shifted"
    RANDOMISED = "randomised"


def phantom(
    out: Annotated[Path, typer.Option(help="Folder for tables, images, volumes and the sheet.")],
    size: Annotated[int, typer.Option(min=16, max=256, help="Pixels a side; even.")] = 128,
    per_plane: Annotated[
        int, typer.Option(min=1, max=10_000, help="Brain slices in each of the three planes.")
    ] = 8,
    volumes: Annotated[int, typer.Option(min=0, max=1_000, help="Whole heads as NIfTI.")] = 2,
    population: Annotated[
        _Population, typer.Option(help="Whose heads and which scanners.")
    ] = _Population.BASE,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace older phantoms in that folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Phantom tables and brain MRI, simulated from published equations: no patient in them.

    Writes slices/ and masks/ as PNG with slices.csv, volumes/ as NIfTI with masks, tables/ as CSV,
    and contact-sheet.png. Masks use the labels of BraTS: 1 necrotic, 2 oedema, 4 enhancing.
    """
    from pratique_common.phantoms.brain_files import (
        CONTACT_SHEET,
        SLICES_TABLE,
        write_slices,
        write_volumes,
    )
    from pratique_common.phantoms.brain_parameters import POPULATIONS
    from pratique_common.phantoms.cohort import write_cohort

    if size % 2:
        raise UsageError(f"--size {size} is odd; give an even number of pixels")
    if out.exists():
        if not force:
            raise UsageError(f"{out} exists already; give another --out, or --force to replace it")
        is_ours = out.is_dir() and ((out / SLICES_TABLE).is_file() or not any(out.iterdir()))
        if not is_ours:
            raise UsageError(f"{out} holds no phantoms, so --force does not remove it")
        shutil.rmtree(out)
    chosen = POPULATIONS[population.value]
    num_images = write_slices(out, chosen, per_plane=per_plane, size=size, seed=seed)
    if not as_json:
        console.err.print(f"slices    {num_images} images, {out / SLICES_TABLE}", soft_wrap=True)
    masks = []
    for mask in write_volumes(out / "volumes", chosen, num=volumes, size=size, seed=seed):
        masks.append(mask.relative_to(out).as_posix())
        if not as_json:
            console.err.print(f"volume    {mask}", soft_wrap=True)
    tables = write_cohort(out / "tables", seed=seed)
    result = {
        "contact_sheet": CONTACT_SHEET,
        "slices": SLICES_TABLE,
        "images": num_images,
        "masks_of_volumes": masks,
        "tables": sorted(path.relative_to(out).as_posix() for path in tables.values()),
    }
    if as_json:
        console.print_json(result)
    else:
        console.out.print(f"sheet     {out / CONTACT_SHEET}", soft_wrap=True)
        console.out.print("every head and every row is simulated: no patient")
