"""A small study of images, and rows of codes for it."""

from typing import Any

import torch
from torch import Tensor

from pratique_common.phantoms.scans import scans_study_path
from pratique_common.study import StudySpec
from tests.conftest import small_study

KINDS = ["none", "glioblastoma", "low_grade_glioma", "meningioma"]


def image_study(
    *,
    size_px: int = 16,
    channels: tuple[str, ...] = ("t1ce",),
    neighbours: int = 0,
    rows: int = 3,
    **changes: Any,
) -> StudySpec:
    """Return a study of three columns and an image a row."""
    data = {
        "kind": "image", "patient_id": "patient", "max_rows_per_patient": rows, "target": "kind",
        "columns": [
            {"name": "age", "type": "numeric", "lower": 20, "upper": 100, "bins": 4},
            {"name": "kind", "type": "categorical", "categories": KINDS},
            {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 5},
        ],
        "image": {"prior": "brain_mri", "size_px": size_px, "channels": channels,
                  "neighbours": neighbours, "position": "place"},
    }  # fmt: skip
    defaults = {"data": data, "generator": {"name": "image_diffusion"}, "training": {"rounds": 2}}
    return small_study(**(defaults | changes))


def scans_text(generator: str) -> str:
    """Return the study of the demo of images with another generator."""
    text = scans_study_path().read_text()
    before, after = text.index("[generator]"), text.index("[training]")
    return f"{text[:before]}[generator]\n{generator}\n\n{text[after:]}"


def image_batch(study: StudySpec, patients: int, rows: int) -> tuple[Tensor, Tensor]:
    """Return random codes (B, K, D + pixels) and weights (B, K) of one to K rows a patient."""
    assert study.data.image is not None
    rng = torch.Generator().manual_seed(1)
    levels = [column.num_levels for column in study.data.columns]
    levels += [256] * study.data.image.num_pixels
    shape = (patients, rows)
    codes = torch.stack([torch.randint(0, n, shape, generator=rng) for n in levels], dim=-1)
    count = 1 + torch.arange(patients)[:, None] % rows
    return codes, (torch.arange(rows) < count).float() / count
