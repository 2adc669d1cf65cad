"""Audits of the annex: each knows a copier, and none calls other patients' rows a leak."""

import numpy as np
import pytest
from scipy.special import ndtr

from pratique_common.study import StudySpec
from pratique_common.tables import Table
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.scores import secrets_of
from pratique_privacy.local_audits import LOCAL_AUDITS, differences
from pratique_privacy.local_audits.base import LocalResult, RealPatients
from pratique_privacy.local_audits.data_copying import DataCopying
from pratique_privacy.local_audits.shadow import LearntAttack
from pratique_privacy.smooth import SmoothTable
from tests.privacy.test_audits import Columns, _copier, _honest, population

__all__ = ["population"]


def _patients(
    study: StudySpec, tables: tuple[Table, Table, Table], candidate: Columns
) -> RealPatients:
    members, holdout, _ = tables
    columns = {
        name: np.concatenate([members.columns[name], holdout.columns[name]])
        for name in members.columns
    }
    owners = np.concatenate([members.patients, holdout.patients])
    is_member = np.isin(np.unique(owners.astype(str)), members.patients.astype(str))
    context = AuditContext.build(study.data, candidate)
    return RealPatients.of(context, columns, owners, is_member)


@pytest.fixture(scope="module")
def found(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> dict[float, dict[str, LocalResult]]:
    members, _, other = population
    honest = _honest(other, cardiology.data)
    results = {}
    for share in (0.0, 0.6):
        patients = _patients(cardiology, population, _copier(honest, members, share))
        results[share] = {name: audit.run(patients) for name, audit in LOCAL_AUDITS.items()}
    return results


@pytest.mark.parametrize("name", LOCAL_AUDITS)
def test_each_knows_a_copier(name: str, found: dict[float, dict[str, LocalResult]]) -> None:
    result = found[0.6][name]
    assert result.id == name
    assert result.members is not None and result.controls is not None
    if name == DataCopying.id:
        assert result.members < -3
        assert result.p_value is None
        return
    assert result.p_value is not None
    assert result.p_value < 0.01
    assert (result.members > result.controls) == (name != "NNDR")


@pytest.mark.parametrize("name", LOCAL_AUDITS)
def test_none_accuses_other_patients_rows(
    name: str, found: dict[float, dict[str, LocalResult]]
) -> None:
    result = found[0.0][name]
    assert result.members is not None
    if name == DataCopying.id:
        assert abs(result.members) < 3
        return
    assert result.p_value is not None
    assert result.p_value > 0.01


@pytest.mark.parametrize("name", LOCAL_AUDITS)
def test_bounds_lie_around_the_difference(
    name: str, found: dict[float, dict[str, LocalResult]]
) -> None:
    for share in (0.0, 0.6):
        result = found[share][name]
        assert result.members is not None and result.controls is not None
        assert result.interval is not None
        low, high = result.interval
        assert low <= result.members - result.controls <= high
        leaks = low > 0 if name not in (DataCopying.id, "NNDR") else high < 0
        assert leaks == (share > 0), result


DRAWS = {
    # name: bounds, and their truth where members' scores are .3 deviations higher
    "means": (differences.of_means, 0.3),
    "medians": (differences.of_medians, 0.3),
    "auc": (differences.of_auc, float(ndtr(0.3 / np.sqrt(2))) - 0.5),
}


@pytest.mark.parametrize("name", DRAWS)
def test_bounds_hold_as_often_as_they_say(name: str) -> None:
    """One in twenty each: three standard errors of 600 draws are 2.7 points."""
    bounds, truth = DRAWS[name]
    rng, missed = np.random.default_rng(5), np.zeros(2)
    for _ in range(600):
        low, high = bounds(rng.normal(0.3, 1, 120), rng.normal(0, 1, 80))  # type: ignore[misc]
        missed += low > truth, high < truth
    assert (missed / 600 < 0.05 + 0.027).all()
    assert (missed / 600 > 0.001).all()


def test_of_too_few_patients_there_are_no_bounds() -> None:
    few, many = np.arange(4.0), np.arange(9.0)
    assert differences.of_medians(few, many) is differences.of_medians(many, few) is None
    assert differences.of_means(few[:1], many) is None
    low, high = differences.of_medians(np.arange(5.0), many)  # type: ignore[misc]
    assert low < -2 < high


def test_a_level_that_one_row_alone_has_stops_nothing(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    """scikit-learn refuses it where it holds rows back by level, above 10,000 rows."""
    honest = _honest(population[2], cardiology.data)
    rng = np.random.default_rng(1)
    many = SmoothTable(cardiology.data, honest, rng).draw(10_500, rng)
    secret = secrets_of(cardiology.data)[0]
    common, rare = np.unique(many[secret].astype(str))[:2]
    many[secret] = np.full(10_500, common, object)
    many[secret][0] = rare
    patients = _patients(cardiology, population, many)
    for name in ("ATTRIBUTE", "SHADOW"):
        assert LOCAL_AUDITS[name].run(patients).members is not None


def test_groups_too_small_to_learn_from_have_no_result(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    members, holdout, other = population
    few = Table({n: v[:30] for n, v in holdout.columns.items()}, holdout.patients[:30], 0)
    patients = _patients(cardiology, (members, few, other), _honest(other, cardiology.data))
    result = LearntAttack.run(patients)
    assert result.members is None
    assert result.p_value is None
    assert result.interval is None
