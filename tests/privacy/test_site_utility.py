"""Noised counts of hold-out patients: what they tell, and where they must say "insufficient n"."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.utility import OutcomeModel
from pratique_common.utility_cells import (
    BLOCK_CELLS,
    SCORE_CELLS,
    groups_of,
    num_utility_cells,
    utility_counts,
    utility_sensitivity,
)
from pratique_privacy.site_utility import SiteUtility, site_utility
from tests.conftest import small_study
from tests.small_images import image_study

DATA: dict[str, Any] = {
    "kind": "table",
    "target": "ill",
    "columns": [
        {"name": "age", "type": "numeric", "lower": 20, "upper": 100, "bins": 8},
        {"name": "sex", "type": "categorical", "categories": ["f", "m"]},
        {"name": "ward", "type": "categorical", "categories": ["a", "b", "c"], "missing": True},
        {"name": "ill", "type": "categorical", "categories": ["no", "yes"], "missing": True},
    ],
    "subgroups": ["sex", "ward"],
}
SCHEMA = small_study(data=DATA).data
PLAIN = small_study(data={**DATA, "subgroups": []}).data


def _patients(size: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Risk grows with age from .1 to .9; women are few; one in thirty has no known outcome."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 100, size)
    ill = rng.random(size) < 0.1 + 0.8 * (age - 20) / 80
    outcome = np.where(ill, "yes", "no").astype(object)
    outcome[rng.random(size) < 1 / 30] = None
    return {
        "age": age,
        "sex": np.where(rng.random(size) < 0.05, "f", "m").astype(object),
        "ward": rng.choice(np.array(["a", "b", None], object), size, p=[0.7, 0.2, 0.1]),
        "ill": outcome,
    }


SYNTHETIC = _patients(4_000, 1)
MODEL = OutcomeModel.fit(SCHEMA, SYNTHETIC)


def _utility(held_out: dict[str, Any], sigma: float, seed: int = 0) -> SiteUtility:
    counts = utility_counts(MODEL, SYNTHETIC, held_out).astype(float)
    noise = np.random.default_rng(seed).normal(0, sigma, counts.size) if sigma else 0.0
    return site_utility(SCHEMA, counts + noise, sigma)


def test_groups_are_the_categories_of_the_named_columns() -> None:
    assert groups_of(SCHEMA) == [
        ("sex", "f"), ("sex", "m"), ("ward", "a"), ("ward", "b"), ("ward", "c"), ("ward", None),
    ]  # fmt: skip
    assert num_utility_cells(SCHEMA) == 7 * BLOCK_CELLS
    assert num_utility_cells(PLAIN) == BLOCK_CELLS
    without = small_study(data={**DATA, "target": None, "subgroups": []}).data
    assert num_utility_cells(without) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 12))
def test_a_patient_moves_the_counts_by_the_sensitivity_at_most(seed: int, size: int) -> None:
    held_out = _patients(size, seed)
    everybody = utility_counts(MODEL, SYNTHETIC, held_out)
    others = {name: values[1:] for name, values in held_out.items()}
    moved = np.linalg.norm(everybody - utility_counts(MODEL, SYNTHETIC, others))
    assert moved <= utility_sensitivity(SCHEMA) + 1e-12
    if held_out["ill"][0] is not None:
        assert moved == pytest.approx(np.sqrt(3))  # all patients, and one group of each column


def test_without_noise_counts_tell_what_the_patients_are_like() -> None:
    held_out = _patients(20_000, 2)
    found = _utility(held_out, 0.0)
    known = held_out["ill"] != None  # noqa: E711  (elementwise)
    label = held_out["ill"][known] == "yes"
    assert found.auc is not None and 0.7 < found.auc.lower < found.auc.auc < found.auc.upper < 0.8
    observed = [share.value for share in found.calibration if share]
    assert len(observed) == SCORE_CELLS and observed[0] > 0.75 and observed[-1] < 0.25
    groups = {(g.column, g.level): g for g in found.groups}
    men = groups["sex", "m"]
    inside = held_out["sex"][known] == "m"
    assert men.share is not None and men.share.value == pytest.approx(inside.mean())
    assert men.outcome is not None and men.outcome.value == pytest.approx(label[inside].mean())
    nobody = groups["ward", "c"]
    assert nobody.share is None and nobody.outcome is None and nobody.auc is None


def test_what_noise_would_decide_is_insufficient_n() -> None:
    held_out = _patients(1_500, 3)
    found = {(g.column, g.level): g for g in _utility(held_out, 12.0).groups}
    assert found["sex", "m"].share is not None and found["sex", "m"].auc is not None
    women = found["sex", "f"]  # about 75, and the noise of their number is 48
    assert women.share is None and women.outcome is None and women.auc is None
    nothing = _utility(_patients(40, 4), 12.0)
    assert nothing.auc is None and set(nothing.calibration) == {None}


RISING = np.linspace(20, 180, SCORE_CELLS)
GOOD = np.concatenate([RISING, RISING[::-1]])  # without outcome, and with it: highest risks first
CHANCE = np.full(2 * SCORE_CELLS, 100.0)


@pytest.mark.parametrize(
    ("release", "prior", "sigma", "beaten"),
    [
        (GOOD, CHANCE, 5.0, True),
        (CHANCE, GOOD, 5.0, False),
        (GOOD, GOOD, 5.0, False),
        (GOOD / 20, CHANCE / 20, 5.0, None),  # 80 patients
        ((GOOD + 3 * CHANCE) / 4, CHANCE, 30.0, False),  # less than noise may do
    ],
)
def test_a_release_of_images_beats_its_prior_only_if_that_was_shown(
    release: np.ndarray[Any, Any], prior: np.ndarray[Any, Any], sigma: float, beaten: bool | None
) -> None:
    found = site_utility(image_study().data, np.concatenate([release, prior]), sigma)
    assert found.beats_prior is beaten


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_intervals_hold_what_they_promise(sigma: float) -> None:
    """Of 95 % intervals over many draws of patients and noise at least 92 % hold the truth."""
    truth = {"share": 0.95, "outcome": 0.5}
    held = {"share": [], "outcome": []}  # type: ignore[var-annotated]
    for seed in range(300):
        counts = utility_counts(MODEL, SYNTHETIC, _patients(1_000, 10 + seed)).astype(float)
        counts += np.random.default_rng(seed).normal(0, sigma, counts.size) if sigma else 0.0
        (men,) = (g for g in site_utility(SCHEMA, counts, sigma).groups if g.level == "m")
        for name, share in (("share", men.share), ("outcome", men.outcome)):
            assert share is not None
            held[name].append(share.lower <= truth[name] <= share.upper)
    assert min(np.mean(held["share"]), np.mean(held["outcome"])) >= 0.92
