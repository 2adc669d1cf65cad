"""Images as vectors: scikit-learn's handwritten digits stand in, a patient each."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pratique_common.study import ReleasePolicy
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.family import ConcludedAudit, conclude, count_cells
from pratique_privacy.audits.vectors import VectorContext, Vectors

NUM_MEMBERS, NUM_HELD_OUT = 900, 400
Images = NDArray[np.float64]


def _vectors(images: Images, labels: NDArray[Any] | None = None) -> Vectors:
    """A crude public encoder, and a fingerprint that a shift by one pixel changes little."""
    spectrum = np.abs(np.fft.fft2(images)).reshape(len(images), -1)
    pooled = images.reshape(len(images), 4, 2, 4, 2).mean((2, 4)).reshape(len(images), -1)
    return Vectors(features=pooled, fingerprints=spectrum[:, :36], labels=labels)


@pytest.fixture(scope="module")
def digits() -> tuple[Images, NDArray[Any]]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(images))
    return images.reshape(-1, 8, 8)[order], labels[order]


def _audit(digits: tuple[Images, NDArray[Any]], table: Images) -> dict[str, ConcludedAudit]:
    images, labels = digits
    said = labels[NUM_MEMBERS + NUM_HELD_OUT :][: len(table)]
    context = VectorContext(_vectors(table, said), seed=5)
    counts = []
    for rows in (slice(NUM_MEMBERS), slice(NUM_MEMBERS, NUM_MEMBERS + NUM_HELD_OUT)):
        group = images[rows]
        scores = context.scores(_vectors(group, labels[rows]), np.arange(len(group)))
        counts.append(count_cells(context.cuts, scores))
    return conclude(
        *counts, ReleasePolicy(), sigma_members=0, sigma_holdout=0,
        member_share=NUM_MEMBERS / (NUM_MEMBERS + NUM_HELD_OUT),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "found_by"),
    [
        (lambda x, _: x, {"EXACT", "NEAR", "FS_5"}),
        (lambda x, rng: x + rng.normal(0, 0.3, x.shape), {"NEAR", "FS_5"}),
        (lambda x, _: np.roll(x, 1, axis=2), {"FS_5"}),
    ],
)
def test_copies_are_found_altered_ones_too(
    digits: tuple[Images, NDArray[Any]], change: Any, found_by: set[str]
) -> None:
    images, _ = digits
    honest = images[NUM_MEMBERS + NUM_HELD_OUT :]
    table = honest.copy()
    table[:50] = change(images[:50], np.random.default_rng(2))
    found = _audit(digits, table)
    assert {name for name in found_by if found[name].p_adjusted >= 0.05} == set()


def test_other_patients_images_pass(digits: tuple[Images, NDArray[Any]]) -> None:
    found = _audit(digits, digits[0][NUM_MEMBERS + NUM_HELD_OUT :])
    assert set(found) == set(AUDITS)
    assert min(audit.p_adjusted for audit in found.values()) >= 0.05


def test_views_of_an_image_are_rows_of_its_patient(digits: tuple[Images, NDArray[Any]]) -> None:
    images, _ = digits
    table = images[500:].copy()
    table[0] = np.flip(images[3], axis=1)
    context = VectorContext(_vectors(table), seed=5)
    mirrored = np.concatenate([images[:10], np.flip(images[:10], axis=2)])
    alone = context.scores(_vectors(images[:10]), np.arange(10))
    views = context.scores(_vectors(mirrored), np.tile(np.arange(10), 2))
    assert alone.distance[3] > 0
    assert views.distance[3] == 0
    assert (views.distance <= alone.distance).all()


def test_too_few_images_or_images_all_alike_are_no_candidate(
    digits: tuple[Images, NDArray[Any]],
) -> None:
    images, _ = digits
    for table in (images[:10], np.repeat(images[:1], 100, axis=0)):
        with pytest.raises(ValueError, match="a candidate needs"):
            VectorContext(_vectors(table), seed=5)
