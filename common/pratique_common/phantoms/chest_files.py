"""Chest x-rays of phantoms as files: PNG films with masks, a table, a contact sheet."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from pratique_common.phantoms.chest_parameters import KINDS, Phantoms
from pratique_common.phantoms.chest_xray import ChestFilms, render_films
from pratique_common.phantoms.contact_sheet import Block, contact_sheet, grey, overlay
from pratique_common.phantoms.unit_cube import Population

CONTACT_SHEET = "contact-sheet.png"
FILMS_TABLE = "films.csv"

_COLUMNS = ("file", "patient", "label", "mask", "projection")
_SHEET_COLUMNS = 12
_SHEET_BLOCKS = 4


def write_films(folder: Path, population: Population, *, num: int, size: int, seed: int) -> None:
    """Write PNG films, masks, their table and the contact sheet, which shows the first 48.

    Kinds take turns. A mask's grey values are the labels themselves: 1 opacity of the lung, 2
    pleural effusion.
    """
    images, masks = folder / "films", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    rng = np.random.default_rng(seed)
    films = render_films(
        Phantoms.draw(num, rng, kinds=np.arange(num) % len(KINDS)), population, size=size
    )
    rows = []
    for index in range(num):
        patient = f"chest-{index:04d}"
        file, mask = f"{images.name}/{patient}.png", f"{masks.name}/{patient}.png"
        Image.fromarray(grey(films.image[index])).save(folder / file)
        Image.fromarray(films.label[index]).save(folder / mask)
        projection = "AP" if films.from_front[index] else "PA"
        rows.append((file, patient, KINDS[films.kind[index]], mask, projection))
    with (folder / FILMS_TABLE).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([_COLUMNS, *rows])
    starts = range(0, min(num, _SHEET_COLUMNS * _SHEET_BLOCKS), _SHEET_COLUMNS)
    blocks = [_block(films, range(start, min(start + _SHEET_COLUMNS, num))) for start in starts]
    contact_sheet(blocks).save(folder / CONTACT_SHEET)


def _block(films: ChestFilms, shown: range) -> Block:
    return Block(
        title="chest",
        columns=[KINDS[films.kind[index]].replace("_", " ") for index in shown],
        rows={
            "xray": [Image.fromarray(grey(films.image[index])).convert("RGB") for index in shown],
            "mask": [overlay(films.image[index], films.label[index]) for index in shown],
        },
    )
