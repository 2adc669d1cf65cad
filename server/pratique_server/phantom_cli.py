"""``pratique phantom``: tables, brain images and chest x-rays of nobody."""

import re
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pratique_common import console
from pratique_common.errors import UsageError

EXAMPLE = "Example: pratique phantom --out phantoms --size 64 --population shifted"

_OURS = re.compile(
    r"(slices|masks)(/(axial|coronal|sagittal)-\d+(_\w+)?\.png)?|slices\.csv|contact-sheet\.png"
    r"|volumes(/volume-\d+_\w+\.nii\.gz)?|tables(/(harbour|lakeside|northgate)\.csv)?"
    r"|chest(/films\.csv|/contact-sheet\.png|/(films|masks)(/chest-\d+\.png)?)?"
)
"""What this command writes."""


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
    films: Annotated[int, typer.Option(min=0, max=10_000, help="Chest x-rays.")] = 12,
    volumes: Annotated[int, typer.Option(min=0, max=1_000, help="Whole heads as NIfTI.")] = 2,
    population: Annotated[
        _Population, typer.Option(help="Whose heads and chests, and which scanners.")
    ] = _Population.BASE,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace older phantoms in that folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Phantom tables, brain MRI and chest x-rays, simulated from published equations: no patient.

    Brain: slices/ and masks/ as PNG with slices.csv, volumes/ as NIfTI with masks, and
    contact-sheet.png; masks use the labels of BraTS: 1 necrotic, 2 oedema, 4 enhancing. Chest:
    chest/films/ and chest/masks/ as PNG with chest/films.csv and a sheet of their own; in masks 1
    is opacity of the lung, 2 pleural effusion. tables/ holds CSV.
    """
    from pratique_common.phantoms import (
        brain_files,
        brain_parameters,
        chest_files,
        chest_parameters,
    )
    from pratique_common.phantoms.cohort import write_cohort

    table, sheet = out / brain_files.SLICES_TABLE, out / brain_files.CONTACT_SHEET
    chest = out / "chest"
    chest_table, chest_sheet = chest / chest_files.FILMS_TABLE, chest / chest_files.CONTACT_SHEET
    if size % 2:
        raise UsageError(f"--size {size} is odd; give an even number of pixels")
    _make_room(out, force)
    heads = brain_parameters.POPULATIONS[population.value]
    num_images = brain_files.write_slices(out, heads, per_plane=per_plane, size=size, seed=seed)
    _say(f"slices    {num_images} images, {table}", as_json)
    if films:
        chests = chest_parameters.POPULATIONS[population.value]
        chest_files.write_films(chest, chests, num=films, size=size, seed=seed)
        _say(f"films     {films} images, {chest_table}", as_json)
    masks = []
    for mask in brain_files.write_volumes(
        out / "volumes", heads, num=volumes, size=size, seed=seed
    ):
        masks.append(mask.relative_to(out).as_posix())
        _say(f"volume    {mask}", as_json)
    tables = write_cohort(out / "tables", seed=seed)
    if not as_json:
        console.out.print(f"sheet     {sheet}", markup=False, soft_wrap=True)
        if films:
            console.out.print(f"sheet     {chest_sheet}", markup=False, soft_wrap=True)
        console.out.print("every head, chest and row is simulated: no patient")
        return
    result: dict[str, object] = {
        "contact_sheet": sheet.relative_to(out).as_posix(),
        "slices": table.relative_to(out).as_posix(),
        "images": num_images,
        "masks_of_volumes": masks,
        "tables": sorted(path.relative_to(out).as_posix() for path in tables.values()),
        "films": films,
    }
    if films:
        result["films_table"] = chest_table.relative_to(out).as_posix()
        result["films_contact_sheet"] = chest_sheet.relative_to(out).as_posix()
    console.print_json(result)


def _make_room(out: Path, force: bool) -> None:
    """Remove older phantoms, whole or not; never what a person put beside them.

    Raises:
        UsageError: there is something else, or older phantoms and no ``force``.
    """
    if out.is_symlink():
        raise UsageError(f"{out} is a link; give the folder itself as --out")
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already; give another --out, or --force to replace it")
    if not out.is_dir():
        raise UsageError(f"{out} is no folder, so --force does not replace it")
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out).as_posix()
        if not _OURS.fullmatch(relative) or path.is_symlink():
            raise UsageError(
                f"{out} holds '{relative}', which is no phantom, so --force does not remove it"
            )
    shutil.rmtree(out)


def _say(text: str, as_json: bool) -> None:
    if not as_json:
        console.err.print(text, markup=False, soft_wrap=True)
