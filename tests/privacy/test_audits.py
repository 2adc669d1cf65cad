"""Every audit catches a copier and clears other patients' rows; the gate follows."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pratique_common.encoding import TableEncoder
from pratique_common.phantoms.cohort import simulate_cohort
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.tables import Table, cap_rows, check_table, to_arrow
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.base import AuditResult
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import (
    STATISTICS,
    ConcludedAudit,
    conclude,
    count_cells,
    estimated_size,
    flatten,
    unflatten,
)
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.control import PlantedLeak
from pratique_privacy.gate import Rule, decide, integrity
from pratique_privacy.intervals import Positives
from tests.noise import noise

Columns = dict[str, NDArray[Any]]
FOUND = PlantedLeak(rows=50, members=800, holdout=200, found_by=("NEAR",))


@pytest.fixture(scope="module")
def population(cardiology: StudySpec) -> tuple[Table, Table, Table]:
    """Members, hold-out and other patients, all from one simulated hospital."""
    cohort = simulate_cohort(11, num_patients={"harbour": 7_000, "northgate": 20, "lakeside": 20})
    table = _as_table(cohort["harbour"], cardiology)
    number = np.array([int(str(p).rpartition("-")[2]) for p in table.patients]) % 7_000
    return tuple(  # type: ignore[return-value]
        _rows(table, (number >= low) & (number < high))
        for low, high in ((0, 3_200), (3_200, 4_000), (4_000, 7_000))
    )


def _as_table(frame: Any, study: StudySpec) -> Table:
    import pyarrow as pa

    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    return cap_rows(check_table(arrow, study.data, source="x", patient_id="patient"), study.data)


def _rows(table: Table, chosen: NDArray[np.bool_]) -> Table:
    columns = {name: values[chosen] for name, values in table.columns.items()}
    return Table(columns, table.patients[chosen], 0)


def _honest(other: Table, schema: TableSchema) -> Columns:
    """Other patients' rows, with fresh values inside the public bins."""
    encoder = TableEncoder(schema)
    return encoder.decode(encoder.encode(other.columns), np.random.default_rng(5))


def _copier(honest: Columns, members: Table, share: float) -> Columns:
    count = int(share * len(honest["age"]))
    return {
        name: np.concatenate([members.columns[name][:count], values[count:]])
        for name, values in honest.items()
    }


def _attack(
    study: StudySpec, candidate: Columns, members: Table, holdout: Table, sigma: float = 0.0
) -> dict[str, ConcludedAudit]:
    context = AuditContext.build(study.data, candidate)
    counts = []
    for table in (members, holdout):
        scores = PatientScores.of(context, table.columns, table.patients)
        vector = flatten(count_cells(context.cuts, scores))
        if sigma:
            vector = vector + noise(len(vector), sigma)
        counts.append(unflatten(vector))
    return conclude(
        counts[0], counts[1], study.release,
        sigma_members=sigma, sigma_holdout=sigma, member_share=0.8,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(AUDITS))
@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_every_audit_catches_a_copier(
    name: str, sigma: float, cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    members, holdout, other = population
    copies = _copier(_honest(other, cardiology.data), members, 1.0)
    concluded = _attack(cardiology, copies, members, holdout, sigma)[name]
    assert concluded.p_adjusted < 0.05
    assert concluded.result.members > concluded.result.controls
    assert decide([integrity("x", True)], {name: concluded}, FOUND).decision == "refused"


@pytest.mark.parametrize("name", sorted(AUDITS))
def test_every_audit_clears_other_patients(
    name: str, cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    members, holdout, other = population
    concluded = _attack(cardiology, _honest(other, cardiology.data), members, holdout)[name]
    assert concluded.p_adjusted >= 0.05
    low, high = concluded.result.interval
    assert low <= concluded.result.statistic <= high


def test_a_few_copies_are_found_by_counts_and_not_by_averages(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    members, holdout, other = population
    copies = _copier(_honest(other, cardiology.data), members, 0.05)
    found = _attack(cardiology, copies, members, holdout)
    assert found["EXACT"].p_adjusted < 1e-6
    detectable = found["EXACT"].result.limit_of_detection
    assert detectable is not None
    assert 10 < detectable < 200


def test_a_patient_is_in_one_cell_of_every_statistic(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    _, holdout, other = population
    context = AuditContext.build(cardiology.data, _honest(other, cardiology.data))
    scores = PatientScores.of(context, holdout.columns, holdout.patients)
    patients = len(np.unique(holdout.patients.astype(str)))
    for name, counts in count_cells(context.cuts, scores).items():
        assert counts.sum() == patients
        assert len(counts) == STATISTICS[name].num_cells
    assert estimated_size(count_cells(context.cuts, scores)) == patients


def test_scores_take_the_most_incriminating_row(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    members, _, other = population
    one = str(members.patients[0])
    own = members.patients.astype(str) == one
    candidate = _honest(other, cardiology.data)
    for name, values in candidate.items():
        values[0] = members.columns[name][own][-1]  # one of the patient's rows is copied
    context = AuditContext.build(cardiology.data, candidate)
    scores = PatientScores.of(context, members.columns, members.patients)
    position = list(np.unique(members.patients.astype(str))).index(one)
    assert scores.distance[position] == 0
    assert scores.linkable[position]


def _passing(cardiology: StudySpec) -> dict[str, ConcludedAudit]:
    zeros = {name: np.zeros(s.num_cells, np.int64) for name, s in STATISTICS.items()}
    members = {name: v.copy() for name, v in zeros.items()}
    holdout = {name: v.copy() for name, v in zeros.items()}
    for name in zeros:
        members[name][-1 if name == "closeness" else 0] = 8_000
        holdout[name][-1 if name == "closeness" else 0] = 2_000
    return conclude(members, holdout, cardiology.release, sigma_members=0, sigma_holdout=0,
                    member_share=0.8)  # fmt: skip


def test_the_gate_grants_only_whole_and_passing_evidence(cardiology: StudySpec) -> None:
    passing = _passing(cardiology)
    good = [integrity("hashes", True)]
    assert decide(good, passing, FOUND).decision == "granted"
    assert decide([integrity("hashes", False)], passing, FOUND).decision == "refused"
    assert decide([], passing, FOUND).decision == "refused"
    assert decide([], passing, FOUND, required=False).decision == "granted"
    assert decide(good, None, None).decision == "not_enough_data"
    for name in AUDITS:
        rest = {key: value for key, value in passing.items() if key != name}
        assert decide(good, rest, FOUND).decision == "refused"


@pytest.mark.parametrize("p", [float("nan"), 0.0, 0.0499])
def test_the_gate_fails_closed_on_p_values(cardiology: StudySpec, p: float) -> None:
    passing = _passing(cardiology)
    passing["NEAR"] = ConcludedAudit(result=passing["NEAR"].result, p_adjusted=p)
    assert decide([integrity("x", True)], passing, FOUND).decision == "refused"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.031])
def test_bounds_above_their_tolerance_are_not_enough_data(
    cardiology: StudySpec, value: float
) -> None:
    from dataclasses import replace

    passing = _passing(cardiology)
    result = passing["NEAR"].result
    bounds = (replace(result.bounds[0], value=value), *result.bounds[1:])
    passing["NEAR"] = ConcludedAudit(result=replace(result, bounds=bounds), p_adjusted=1.0)
    decision = decide([integrity("x", True)], passing, FOUND)
    assert decision.decision == "not_enough_data"
    failed = [rule for rule in decision.rules if not rule.passed]
    assert [rule.tier for rule in failed] == [3]


def test_planted_twins_do_not_switch_near_off(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    _, _, other = population
    honest = _honest(other, cardiology.data)
    planted = {name: values.copy() for name, values in honest.items()}
    for values in planted.values():
        values[: len(values) // 50] = values[0]
    radius = [AuditContext.build(cardiology.data, c).cuts.near_radius for c in (honest, planted)]
    assert radius[1] == pytest.approx(radius[0], rel=0.35)
    alike = {name: np.repeat(values[:1], 100) for name, values in honest.items()}
    with pytest.raises(ValueError, match="rows that differ"):
        AuditContext.build(cardiology.data, alike)


def test_a_secret_that_nearly_all_share_is_not_given_away(
    cardiology: StudySpec, population: tuple[Table, Table, Table]
) -> None:
    """A heap at zero, a number mostly missing: a guess without any table is as good."""
    members, _, other = population
    honest = _honest(other, cardiology.data)
    secret = next(
        column.name for column in cardiology.data.columns
        if column.kind == "number" and column.can_be_missing
    )  # fmt: skip
    study = cardiology.model_copy(
        update={"data": cardiology.data.model_copy(update={"sensitive": (secret,)})}
    )
    rng = np.random.default_rng(0)
    for value in (np.nan, float(np.nanmedian(honest[secret]))):
        tables = []
        for table in (honest, members.columns):
            heaped = np.where(rng.random(len(table[secret])) < 0.9, value, table[secret])
            tables.append({**table, secret: heaped})
        context = AuditContext.build(study.data, tables[0])
        scores = PatientScores.of(context, tables[1], members.patients)
        assert scores.inferred.mean() < 0.1


def test_linkage_of_nearly_everybody_shows_nothing(cardiology: StudySpec) -> None:
    found = Positives(members=9_595, controls=2_398, num_members=9_600, num_controls=2_400,
                      sigma_members=20, sigma_controls=5, member_share=0.8)  # fmt: skip
    result = AuditResult.of_residual_risk(
        "LINK", found, rule="linkage_risk", limit=0.09, confidence=0.95, alpha=0.01
    )
    assert result.bounds[0].value == 1.0
    assert not result.bounds[0].passed


def test_a_second_try_must_show_more(cardiology: StudySpec) -> None:
    zeros = {name: np.full(s.num_cells, 100) for name, s in STATISTICS.items()}
    bounds = [
        conclude(zeros, zeros, cardiology.release, sigma_members=5, sigma_holdout=5,
                 member_share=0.8, attempt=attempt)["NEAR"].result.bounds[0].value
        for attempt in (1, 2)
    ]  # fmt: skip
    assert bounds[1] > bounds[0]


def test_groups_too_small_for_any_conclusion(cardiology: StudySpec) -> None:
    empty = {name: np.zeros(s.num_cells, np.int64) for name, s in STATISTICS.items()}
    with pytest.raises(ValueError, match="too few"):
        conclude(empty, empty, cardiology.release, sigma_members=0, sigma_holdout=0,
                 member_share=0.8)  # fmt: skip


def test_rules_name_what_failed(cardiology: StudySpec) -> None:
    rules = decide([integrity("x", True)], _passing(cardiology), FOUND).rules
    assert {rule.tier for rule in rules} == {0, 2, 3}
    assert all(isinstance(rule, Rule) and rule.passed for rule in rules)
    assert {
        "near_match_excess",
        "near_match_patients",
        "tail_tpr",
        "linkage_risk",
        "inference_risk",
        "attack_auc",
    } <= {rule.rule.split(": ")[1].split(" ")[0] for rule in rules if rule.tier == 3}


def test_arrow_round_trip_keeps_the_candidate(cardiology: StudySpec) -> None:
    cohort = simulate_cohort(2, num_patients={"harbour": 50, "northgate": 20, "lakeside": 20})
    table = _as_table(cohort["harbour"], cardiology)
    again = check_table(to_arrow(table.columns, cardiology.data), cardiology.data, source="x",
                        patient_id=None)  # fmt: skip
    for name, values in table.columns.items():
        np.testing.assert_array_equal(values, again.columns[name])


def test_sizes_of_exact_counts_come_out_whole() -> None:
    """A size that is not whole has no hypergeometric distribution: the gate would refuse."""
    for size in range(1, 5_001):
        counts = {name: np.eye(1, s.num_cells)[0] * size for name, s in STATISTICS.items()}
        assert estimated_size(counts) == size


def test_nobody_chooses_the_order_of_rows_by_writing_them_in_another(
    population: tuple[Table, Table, Table], cardiology: StudySpec
) -> None:
    """Cuts and kernels come from the rows in front: they must not be the writer's choice."""
    members, _, other = population
    honest = _honest(other, cardiology.data)
    shuffled = np.random.default_rng(8).permutation(len(honest["age"]))
    contexts = [
        AuditContext.build(cardiology.data, columns)
        for columns in (honest, {name: values[shuffled] for name, values in honest.items()})
    ]
    np.testing.assert_array_equal(contexts[0].cuts.copies, contexts[1].cuts.copies)
    np.testing.assert_array_equal(contexts[0].cuts.distances, contexts[1].cuts.distances)
    some = {name: values[:200] for name, values in members.columns.items()}
    scores = [context.copies.scores(some) for context in contexts]
    np.testing.assert_array_equal(scores[0], scores[1])
