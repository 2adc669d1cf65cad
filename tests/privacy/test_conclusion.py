"""From evidence to a decision: every piece that is missing, false or disputed refuses."""

from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np
import pytest

from pratique_common.bundle import Decision
from pratique_common.parts import CanaryOpening, EarlierAudit, SpentEvent, SumProof
from pratique_common.study import StudySpec
from pratique_privacy import conclusion
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canary_evidence import AS_PLANNED, GAUSSIAN, OPENED
from pratique_privacy.claims import claims
from pratique_privacy.conclusion import Conclusion, audit_form, conclude_evidence
from pratique_privacy.evidence import (
    AuditAnswer,
    Drop,
    Evidence,
    SiteBudget,
    spent_events,
)
from pratique_privacy.ledger import Charge, PrivacyLedger
from pratique_privacy.secure_sum.opening import open_sum
from tests.canaries import honest_canaries
from tests.conftest import small_study
from tests.privacy.test_secure_sum import Sites, make_sites

STUDY = small_study(
    privacy={"target_epsilon": 3.0, "expected_patients": 15_000},
    audit={"epsilon_members": 1.0, "epsilon_holdout": 3.0},
    release={"rows": 300, "near_match_patients": 300},
)


RNG = np.random.default_rng(4)
CANDIDATE = {
    "age": RNG.integers(20, 101, 300).astype(float),
    "marker": RNG.uniform(0, 10, 300).round(2),
    "disease": RNG.choice(np.array(["no", "yes"], object), 300),
}


def exact_counts(study: StudySpec) -> np.ndarray:  # type: ignore[type-arg]
    """A site's counts: members and controls alike, and an outcome that is predicted well."""
    shares = np.array([0.0, 0.01, *[0.99 / 14] * 14])
    groups: list[float] = []
    for patients in (4_000, 1_000):
        groups += [*(patients * shares)]
        groups += [*([0.005 * patients] * 4), *([0.98 / 20 * patients] * 20)]
        groups += [0.49 * patients, 0.50 * patients, 0.005 * patients, 0.005 * patients]
        groups += [*([0.05 / 16 * patients] * 16), *([0.95 / 16 * patients] * 16)]
    groups += [10, 20, 30, 40, 50, 60, 70, 80, 80, 70, 60, 50, 40, 30, 20, 10]
    counts = np.array(groups)
    assert counts.size == audit_form(study, 3).size
    return counts


def transcript(study: StudySpec, sites: Sites) -> dict[str, AuditAnswer]:
    """Every site's masked answer, opened as a coordinator would."""
    form = audit_form(study, len(sites.names))
    words = {site: form.protect(exact_counts(study)) for site in sites.names}
    _, masked = sites.mask("audit x", words)
    opened = open_sum(
        masked, sites.reveal("audit x", masked), participants=sites.names, threshold=3
    )
    return {
        site: AuditAnswer.of(
            m.words,
            SumProof(
                commitment=m.commitment,
                signature=m.signature,
                self_seed=opened.self_seeds[site].hex(),
            ),
        )
        for site, m in masked.items()
    }


def events(study: StudySpec) -> tuple[SpentEvent, ...]:
    plan = PrivacyPlan(study)
    roles = {"member": plan.member_events(), "holdout": plan.holdout_events()}
    return tuple(
        SpentEvent(role=role, **asdict(event))  # type: ignore[arg-type]
        for role, planned in roles.items()
        for event in planned
    )


@pytest.fixture(scope="module")
def honest() -> Evidence:
    sites = make_sites(3)
    return Evidence(
        asked=sites.names,
        trained=sites.names,
        roster=tuple(sites.signed),
        commitments=dict.fromkeys(sites.names, "c" * 64),
        ledger_heads=dict.fromkeys(sites.names, "d" * 64),
        answers=transcript(STUDY, sites),
        budgets={
            site: SiteBudget(spent=3.2, budget=8.0, events=events(STUDY)) for site in sites.names
        },
        canaries=honest_canaries(STUDY, sites.names),
        dropped={},
        vetoes={},
        earlier=dict.fromkeys(sites.names, ()),
        rounds_done=STUDY.training.rounds,
    )


def failed(concluded: Conclusion) -> set[str]:
    return {rule.rule for rule in concluded.gate.rules if rule.tier < 2 and not rule.passed}


def test_whole_evidence_meets_every_integrity_rule(honest: Evidence) -> None:
    concluded = conclude_evidence(STUDY, honest, CANDIDATE)
    assert not failed(concluded)
    assert concluded.audits is not None
    # 12,000 members and 3,000 hold-out patients were summed, and the noise is small beside them.
    assert abs(concluded.audits["NEAR"].result.members - 0.01) < 0.01
    assert concluded.utility is not None
    assert concluded.utility.auc is not None
    assert concluded.utility.auc.auc == pytest.approx(0.75, abs=0.1)
    assert len(concluded.utility.calibration) == 8


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"answers": {}}, "every site that trained audited"),
        ({"budgets": {}}, "every ledger's events reproduce the claim"),
        ({"rounds_done": 4}, "all rounds of the study were done"),
        ({"commitments": {}}, "hold-outs were committed before training"),
        ({"ledger_heads": {}}, "every ledger was charged"),
        ({"vetoes": {"site00": "x"}}, "no site refused to sign"),
        ({"earlier": {"site00": ()}}, "every site told of earlier audits"),
        ({"canaries": {}}, OPENED),
        ({"asked": ("site00",)}, "only sites of the study took part"),
    ],
)
def test_missing_evidence_refuses(honest: Evidence, change: dict[str, Any], rule: str) -> None:
    concluded = conclude_evidence(STUDY, honest.model_copy(update=change), CANDIDATE)
    assert rule in failed(concluded)
    assert concluded.gate.decision == "refused"


def _audited(run: str, day: str, decision: Decision | None) -> EarlierAudit:
    return EarlierAudit(
        run=run, candidate_sha256="e" * 64, day=date.fromisoformat(day), decision=decision
    )


def test_every_audited_run_of_the_study_is_a_try(honest: Evidence) -> None:
    """What one site tells of counts, once, and bounds widen with each try."""
    old, new = _audited("b", "2026-01-02", "refused"), _audited("a", "2026-03-04", None)
    told = honest.earlier | {"site00": (old, new), "site01": (new,)}
    third = honest.model_copy(update={"earlier": told})
    assert honest.attempt == 1
    assert third.history() == (old, new)
    assert third.attempt == 3
    first, later = (conclude_evidence(STUDY, e, CANDIDATE) for e in (honest, third))
    assert not failed(later)
    assert first.audits is not None
    assert later.audits is not None
    for name, audit in first.audits.items():
        again = later.audits[name]
        assert again.result.p_value == audit.result.p_value
        for one, other in zip(audit.result.bounds, again.result.bounds, strict=True):
            assert other.value > one.value
    assert claims(STUDY, third, later)["audits"]["NEAR"]["confidence"] == 1 - 0.05 / 3


def test_sites_that_signed_different_decisions_leave_none(honest: Evidence) -> None:
    told = {"site00": (_audited("a", "2026-01-02", "refused"),),
            "site01": (_audited("a", "2026-01-01", "granted"),)}  # fmt: skip
    differing = honest.model_copy(update={"earlier": told})
    assert differing.history() == (_audited("a", "2026-01-01", None),)


@pytest.mark.parametrize(
    "change",
    [
        {"commitment": "0" * 64},
        {"opening": CanaryOpening(coins="00" * 125, salt="00" * 32)},
        {"opening": CanaryOpening(coins="", salt="00" * 32)},
        {"steps": (0.0,)},
        {"histograms": ((0.0,) * 333,)},  # one section of two
        {"rounds": 6},
        {"round_summands": 0},
        {"histograms": (), "rounds": 0},
        {"steps": (float("nan"),) * 333},
    ],
)
def test_canaries_that_a_site_did_not_commit_to_refuse(
    honest: Evidence, change: dict[str, Any]
) -> None:
    forged = honest.canaries["site01"].model_copy(update=change)
    evidence = honest.model_copy(update={"canaries": {**honest.canaries, "site01": forged}})
    concluded = conclude_evidence(STUDY, evidence, CANDIDATE)
    assert failed(concluded) == {OPENED}
    assert concluded.gate.decision == "refused"


def test_one_site_without_canaries_refuses(honest: Evidence) -> None:
    others = {site: honest.canaries[site] for site in ("site00", "site02")}
    assert failed(
        conclude_evidence(STUDY, honest.model_copy(update={"canaries": others}), CANDIDATE)
    ) == {OPENED}
    absent = honest_canaries(STUDY, honest.trained, size=0.0)["site01"]  # committed, never planted
    evidence = honest.model_copy(update={"canaries": {**others, "site01": absent}})
    assert AS_PLANNED in failed(conclude_evidence(STUDY, evidence, CANDIDATE))


def test_a_site_that_missed_sums_is_judged_by_those_that_it_was_in(honest: Evidence) -> None:
    late = honest.canaries["site01"].model_copy(update={"histograms": (), "histogram_summands": 0})
    evidence = honest.model_copy(update={"canaries": {**honest.canaries, "site01": late}})
    assert failed(conclude_evidence(STUDY, evidence, CANDIDATE)) == {OPENED}  # it was never missing
    drop = Drop(round=0, code="timeout", returned=1)
    evidence = evidence.model_copy(update={"dropped": {"site01": (drop,)}})
    assert not failed(conclude_evidence(STUDY, evidence, CANDIDATE))


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 0, "steps": (), "round_summands": 0},
        {"rounds": 4, "round_summands": 12},
        {"round_summands": 16},
        {"histogram_summands": 2},
    ],
)
def test_canaries_without_rounds_that_were_done_refuse(
    honest: Evidence, change: dict[str, Any]
) -> None:
    fewer = {site: each.model_copy(update=change) for site, each in honest.canaries.items()}
    concluded = conclude_evidence(STUDY, honest.model_copy(update={"canaries": fewer}), CANDIDATE)
    assert failed(concluded) == {OPENED}


def test_half_the_noise_is_an_incident(honest: Evidence) -> None:
    """With three sites and one share to spare the noise is still four fifths of what is claimed."""
    planted = honest_canaries(STUDY, honest.trained, noise_ratio=0.5)
    concluded = conclude_evidence(STUDY, honest.model_copy(update={"canaries": planted}), CANDIDATE)
    assert {AS_PLANNED, GAUSSIAN} <= failed(concluded)
    assert concluded.gate.decision == "refused"


@pytest.mark.parametrize("field", ["words", "self_seed", "commitment"])
def test_a_sum_that_is_not_the_answers_is_no_sum(honest: Evidence, field: str) -> None:
    answer = honest.answers["site00"]
    text = getattr(answer, field)
    changed = answer.model_copy(update={field: f"{int(text[0], 16) ^ 1:x}" + text[1:]})
    evidence = honest.model_copy(update={"answers": {**honest.answers, "site00": changed}})
    concluded = conclude_evidence(STUDY, evidence, CANDIDATE)
    if field == "words":  # signed by its site: every other site finds that, see test_local
        assert concluded != conclude_evidence(STUDY, honest, CANDIDATE)
    else:
        assert "the audit's sum is that of the sites' answers" in failed(concluded)
    broken = answer.model_copy(update={"words": "00"})
    evidence = honest.model_copy(update={"answers": {**honest.answers, "site00": broken}})
    assert conclude_evidence(STUDY, evidence, CANDIDATE).gate.decision == "refused"


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e[:2],  # nothing of the hold-out
        lambda e: (e[0].model_copy(update={"noise_multiplier": 1.0}), *e[1:]),
        lambda e: (*e, e[0]),  # histograms twice
        lambda e: (e[0], e[1].model_copy(update={"num_steps": e[1].num_steps + 1}), *e[2:]),
    ],
)
def test_a_ledger_that_shows_more_than_the_claim_refuses(honest: Evidence, change: Any) -> None:
    budget = honest.budgets["site01"]
    changed = budget.model_copy(update={"events": change(budget.events)})
    evidence = honest.model_copy(update={"budgets": {**honest.budgets, "site01": changed}})
    concluded = conclude_evidence(STUDY, evidence, CANDIDATE)
    assert failed(concluded) == {"every ledger's events reproduce the claim"}


def test_a_site_that_missed_rounds_paid_for_fewer_and_is_no_contradiction(honest: Evidence) -> None:
    budget = honest.budgets["site01"]
    fewer = budget.events[1].model_copy(update={"num_steps": 2})
    changed = budget.model_copy(update={"events": (budget.events[0], fewer, *budget.events[2:])})
    evidence = honest.model_copy(update={"budgets": {**honest.budgets, "site01": changed}})
    assert not failed(conclude_evidence(STUDY, evidence, CANDIDATE))


def test_accountants_that_do_not_agree_refuse(
    honest: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conclusion, "accountants_agree", lambda *_, **__: False)
    assert failed(conclude_evidence(STUDY, honest, CANDIDATE)) == {
        "two accountants agree on the claim"
    }


def test_a_ledgers_entries_become_events(tmp_path: Any) -> None:
    ledger = PrivacyLedger(tmp_path / "l.db", population="p", epsilon=50, delta=1e-5)
    plan = PrivacyPlan(STUDY)
    for number in range(3):
        ledger.reserve(
            [Charge(study="s", run="r", role="member", phase=f"round {number}", event=plan.step)]
        )
    (event,) = spent_events(ledger.entries_of("s", "r"))
    assert event.num_steps == 3
    assert event.noise_multiplier == plan.step.noise_multiplier
    assert spent_events(ledger.entries_of("s", "another")) == ()
