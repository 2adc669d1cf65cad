"""The planted-leak control finds a leak, and says so where the audit could not have."""

from typing import Any

import numpy as np
import pytest

from pratique_common.phantoms.cohort import simulate_cohort
from pratique_common.study import StudySpec
from pratique_privacy import control
from pratique_privacy.audits.context import Cuts
from pratique_privacy.audits.family import count_cells
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.control import PlantedLeak, planted_leak
from pratique_privacy.smooth import SmoothTable
from tests.privacy.test_audits import Columns, _as_table


@pytest.fixture(scope="module")
def rows(cardiology: StudySpec) -> Columns:
    sizes = {"harbour": 1_500, "northgate": 20, "lakeside": 20}
    cohort = simulate_cohort(7, num_patients=sizes)
    return _as_table(cohort["harbour"], cardiology).columns


def _control(cardiology: StudySpec, rows: Columns, **changes: Any) -> PlantedLeak | None:
    sizes: dict[str, Any] = {"num_members": 1_600.2, "num_holdout": 399.7}
    noise: dict[str, Any] = {"sigma_members": 8.0, "sigma_holdout": 3.0}
    asked = {**sizes, **noise, **changes}
    return planted_leak(cardiology.data, rows, cardiology.release, **asked)


def test_a_planted_leak_is_found_and_every_machine_finds_the_same(
    cardiology: StudySpec, rows: Columns
) -> None:
    found = _control(cardiology, rows)
    assert found is not None and found.found
    assert {"EXACT", "NEAR"} <= set(found.found_by)
    assert (found.members, found.holdout) == (1_600, 400)
    assert found.rows == max(round(0.05 * len(rows["age"])), 2 * 48)  # 3 % of members, or 50
    assert _control(cardiology, rows) == found


def test_a_blinded_audit_is_void(
    cardiology: StudySpec, rows: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is close to anything: real patients with such counts would have passed."""

    def blind(cuts: Cuts, scores: PatientScores) -> dict[str, Any]:
        counts = count_cells(cuts, scores)
        far = {"closeness": -1, "agreement": -1, "joins": 0, "density": -1}
        return {
            name: np.roll(np.eye(1, len(c))[0], far[name]) * c.sum() for name, c in counts.items()
        }

    monkeypatch.setattr(control, "count_cells", blind)
    for patients in (1_000, 4_000, 20_000):  # of few, noise alone takes bounds beyond tolerances
        voided = _control(
            cardiology, rows, num_members=0.8 * patients, num_holdout=0.2 * patients,
            sigma_members=21.0, sigma_holdout=5.4,
        )  # fmt: skip
        assert voided is not None and not voided.found


def test_nothing_is_found_where_nothing_was_planted(
    cardiology: StudySpec, rows: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = control._Phantoms.rows

    def others(self: Any, num_patients: int, rng: np.random.Generator) -> Any:
        monkeypatch.setattr(control._Phantoms, "rows", drawn)  # the first call draws the planted
        leaked = drawn(self, num_patients, rng)
        monkeypatch.setattr(self.__class__, "counts", counts_of_others(leaked))
        return leaked

    counts = control._Phantoms.counts

    def counts_of_others(leaked: Any) -> Any:
        def found(self: Any, context: Any, some: Any) -> Any:
            fresh = self.smooth.draw(len(some["age"]), np.random.default_rng(9))
            return counts(self, context, fresh if some is leaked else some)

        return found

    monkeypatch.setattr(control._Phantoms, "rows", others)
    missed = _control(cardiology, rows)
    assert missed is not None and not missed.found


def test_some_phantoms_stand_for_many(
    cardiology: StudySpec, rows: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_MOST_SCORED_ROWS", 900)
    found = _control(cardiology, rows, num_members=160_000, num_holdout=40_000)
    assert found is not None and found.found
    assert (found.members, found.holdout) == (160_000, 40_000)


def test_groups_too_small_have_no_control(cardiology: StudySpec, rows: Columns) -> None:
    assert _control(cardiology, rows, num_holdout=0.3) is None
    alike = {name: np.repeat(values[:1], 200) for name, values in rows.items()}
    assert _control(cardiology, alike) is None


def test_a_smooth_table_keeps_columns_and_correlations_and_no_rows(
    cardiology: StudySpec, rows: Columns
) -> None:
    size, rng = len(rows["age"]), np.random.default_rng(0)
    drawn = SmoothTable(cardiology.data, rows, rng).draw(size, rng)
    assert list(drawn) == list(cardiology.data.names)
    for name, values in drawn.items():
        if values.dtype == object:
            assert set(values.tolist()) <= set(rows[name].tolist())
        else:
            assert np.nanmin(rows[name]) <= np.nanmin(values)
            assert np.nanmax(values) <= np.nanmax(rows[name])
            np.testing.assert_array_equal(values, np.round(values, 3))
            assert np.isnan(values).mean() == pytest.approx(np.isnan(rows[name]).mean(), abs=0.04)
    numbers = [n for n, v in rows.items() if v.dtype == float and not np.isnan(v).any()]
    before = np.corrcoef([rows[n] for n in numbers])
    after = np.corrcoef([drawn[n] for n in numbers])
    np.testing.assert_allclose(before, after, atol=0.1)
    assert np.abs(before - np.eye(len(numbers))).max() > 0.25

    def as_rows(columns: Columns) -> set[str]:
        return set(map("|".join, zip(*(v.astype(str) for v in columns.values()), strict=True)))

    assert len(as_rows(drawn) & as_rows(rows)) < 0.01 * size


def test_a_smooth_table_of_constants_and_of_one_row(cardiology: StudySpec, rows: Columns) -> None:
    rng = np.random.default_rng(0)
    one = {name: values[:1] for name, values in rows.items()}
    for name, values in SmoothTable(cardiology.data, one, rng).draw(5, rng).items():
        assert (values.astype(str) == one[name].astype(str)[0]).all()
