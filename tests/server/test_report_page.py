"""The report's page: it says what a board must know, and neither runs nor loads anything."""

import base64
import copy
import re
from dataclasses import asdict
from datetime import date
from html import unescape
from typing import Any

import numpy as np
import pytest

from pratique_common.bundle import Decision
from pratique_common.encoding import TableEncoder
from pratique_common.parts import EarlierAudit, SpentEvent
from pratique_common.study import StudySpec, parse_study
from pratique_common.tables import Table
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import Conclusion, audit_form, conclude_evidence
from pratique_privacy.evidence import AuditAnswer, Drop, Evidence, SiteBudget
from pratique_server.report.canary_words import WEAK_EVIDENCE
from pratique_server.report.content import build_report
from pratique_server.report.figures import (
    ACCENT,
    INK,
    LIMIT,
    attacks_figure,
    marginals_figure,
    strictest_tolerance,
)
from pratique_server.report.formats import chance, css_string, day, number, percent, tiny
from pratique_server.report.page import render_report
from pratique_server.report.standards import (
    ANSWERED,
    IN_PART,
    NOT_COVERED,
    SECTIONS,
    answers,
)
from tests.canaries import honest_canaries
from tests.pages import LEAST_CONTRAST, assert_accessible, contrast

SITES = ("harbour", "lakeside", "northgate")
SEED = 3
HOSTILE = "<script>alert('x')</script> & \"more\""
MAX_BYTES = 1_500_000

MEMBERS_A_SITE = 4_000
CONTROLS_A_SITE = 1_000


def hostile_fields(*, simulated: bool = True) -> dict[str, Any]:
    """The file of a study whose texts and names would break a page that does not escape."""
    return {
        "name": "heart",
        "simulated": simulated,
        "data": {
            "kind": "table",
            "patient_id": "patient",
            "max_rows_per_patient": 2,
            "target": "outcome",
            "quasi_identifiers": ["<b>age</b>"],
            "sensitive": ["outcome"],
            "columns": [
                {"name": "<b>age</b>", "type": "numeric", "lower": 0, "upper": 80, "bins": 4},
                {"name": "$x_1$", "type": "categorical", "categories": ["a&b", "<i>", "$y$"]},
                {"name": "outcome", "type": "categorical", "categories": ["no", "yes"]},
            ],
            "rules": [{"when": "outcome == 'yes'", "then": "missing(outcome) or outcome == 'yes'"}],
        },
        "privacy": {"target_epsilon": 3.0, "expected_patients": 15_000, "noise": "local"},
        "audit": {"epsilon_members": 1.0, "epsilon_holdout": 3.0},
        "training": {"rounds": 5},
        "release": {"rows": 200, "near_match_patients": 300},
        "disclosure": {
            "purpose": HOSTILE,
            "recipients": [HOSTILE],
            "licence": "CC0-1.0",
            "expires": "2030-01-02",
        },
    }


def hostile_study(*, simulated: bool = True) -> StudySpec:
    return parse_study(hostile_fields(simulated=simulated), source="hostile.toml")


def as_answer(study: StudySpec, counts: list[int]) -> AuditAnswer:
    """What a site without a secure sum would send, had its noise been zero."""
    form = audit_form(study, 1)
    sizes = [section.size for section in form.sections]
    words = np.rint(np.array(counts) / np.repeat(form.steps, sizes)).astype(np.int64)
    return AuditAnswer(words=words.astype(form.word).tobytes().hex())


def answer(study: StudySpec, *, size: float = 1.0, copies: int = 0) -> AuditAnswer:
    """A site's counts: members and controls alike, but for ``copies`` of members."""
    shares = np.array([0.0, 0.01, *[0.99 / 14] * 14])
    groups = []
    for patients, copied in ((MEMBERS_A_SITE, copies), (CONTROLS_A_SITE, 0)):
        closeness = np.rint(size * patients * shares).astype(int)
        closeness[0] += copied
        linkable = round(0.01 * size * patients)
        groups += closeness.tolist()
        agreement = np.rint(size * patients * np.array([*[0.005] * 4, *[0.98 / 20] * 20]))
        agreement[0] += copied
        groups += agreement.astype(int).tolist()
        inferred = round(0.5 * size * patients)
        groups += [round(size * patients) - linkable - inferred, inferred, 0, linkable + copied]
        density = np.rint(size * patients * np.array([*[0.05 / 16] * 16, *[0.95 / 16] * 16]))
        density[0] += copied
        groups += density.astype(int).tolist()
    groups += [10, 20, 30, 40, 50, 60, 70, 80, 80, 70, 60, 50, 40, 30, 20, 10]
    return as_answer(study, groups)


def events(study: StudySpec) -> tuple[SpentEvent, ...]:
    plan = PrivacyPlan(study)
    roles = [("member", e) for e in plan.member_events()]
    roles += [("holdout", e) for e in plan.holdout_events()]
    return tuple(SpentEvent(role=role, **asdict(event)) for role, event in roles)  # type: ignore[arg-type]


def make_report(
    study: StudySpec, *, answers: dict[str, AuditAnswer] | None = None, **changes: Any
) -> dict[str, Any]:
    counts = {site: answer(study) for site in SITES} if answers is None else answers
    evidence = Evidence(
        **{
            "asked": SITES,
            "trained": SITES,
            "commitments": dict.fromkeys(SITES, "c" * 64),
            "ledger_heads": dict.fromkeys(SITES, "d" * 64),
            "answers": counts,
            "budgets": {
                site: SiteBudget(spent=3.44, budget=8.0, events=events(study)) for site in counts
            },
            "canaries": honest_canaries(study, SITES),
            "dropped": {},
            "vetoes": {},
            "earlier": dict.fromkeys(SITES, ()),
            "rounds_done": study.training.rounds,
            **changes,
        }
    )
    conclusion: Conclusion = conclude_evidence(study, evidence, rows(study))
    return build_report(
        study,
        evidence,
        conclusion,
        run="j1",
        candidate=Table(rows(study), np.arange(200).astype(str).astype(object), 0),
        candidate_sha256="ab" * 32,
        seed=SEED,
        marginals=[np.full(c.num_levels, 1 / c.num_levels) for c in study.data.columns],
        created="2026-11-21T03:23:18+00:00",
        versions={"pratique": "0.1.0"},
    )


def rows(study: StudySpec) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    codes = np.stack([rng.integers(0, c.num_levels, 200) for c in study.data.columns], axis=1)
    return TableEncoder(study.data).decode(codes, rng)


@pytest.fixture(scope="module")
def granted() -> dict[str, Any]:
    return make_report(hostile_study())


def page_one(page: str) -> str:
    """The first page's text without tags."""
    html = page[page.index('<section class="page-one"') : page.index('<div class="sections"')]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def pictures(page: str) -> list[str]:
    return [
        base64.b64decode(data).decode()
        for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    ]


def test_release_says_what_a_board_must_know(granted: dict[str, Any]) -> None:
    assert granted["decision"] == "granted"
    text = page_one(render_report(granted))
    for needed in (
        "✓ RELEASE",
        "SIMULATED DATA",
        "ab" * 32,
        "21 November 2026",
        "harbour, lakeside and northgate",
        "pratique verify bundle --trust consortium.toml",
        "at most 98.3",
        "weak ceiling",
        "What this audit cannot see",
        "canaries",
        "4.56",
        "until 2 January 2030",
        "Near copies",
        "Supports an assessment",
        "Most exposed group Unusual",
        "coordinator, harbour, lakeside and northgate must have signed",
    ):
        assert needed in text, needed
    limits = [a["limit_of_detection"] for a in granted["audits"].values()]
    assert f"{max(filter(None, limits))} patients copied" in text
    assert not re.search("[\u0370-\u03ff]", text), "a Greek letter on page one"
    assert "What can be done" not in text


def every_outcome() -> list[dict[str, Any]]:
    study = hostile_study()
    copies = make_report(study, answers={s: answer(study, copies=100) for s in SITES})
    few = make_report(study, answers={s: answer(study, size=0.02) for s in SITES})
    return [make_report(study), copies, few, make_report(study, answers={})]


def test_everybody_can_read_every_outcome() -> None:
    for report in every_outcome():
        page = render_report(report)
        assert_accessible(page)
        assert not re.search(r"\banonymous\b", page, re.IGNORECASE)
        assert page.count("supports an assessment") == 2
    assert contrast("#ffffff", "#000000") == pytest.approx(21)  # by definition
    assert min(contrast(ink, "#ffffff") for ink in (INK, ACCENT, LIMIT)) >= LEAST_CONTRAST


def test_guidance_is_answered_by_what_was_done(granted: dict[str, Any]) -> None:
    def status(report: dict[str, Any]) -> dict[str, str]:
        return {p.asks: p.status for _, points in answers(report) for p in points}

    found = answers(granted)
    assert [title.split()[0] for title, _ in found] == [
        "Article",
        "NIST",
        "ISO/IEC",
        "CNIL,",
        "EMA",
    ]
    assert len(found[3][1]) == 5
    for _, points in found:
        for point in points:
            assert set(point.sections) <= set(SECTIONS)
            assert point.sections or point.status == NOT_COVERED, point.asks
    now = status(granted)
    assert now["Correctness of the implementation"] == IN_PART
    assert now["Inference"] == IN_PART
    assert now["Unit of privacy, neighbouring data"] == ANSWERED
    other = copy.deepcopy(granted)
    del other["audits"]["INFER"]
    other["canaries"] = None
    assert status(other)["Inference"] == NOT_COVERED
    assert status(other)["Correctness of the implementation"] == NOT_COVERED
    assert "(canaries) are missing" in render_report(other)
    assert set(status(make_report(hostile_study(), answers={})).values()) >= {NOT_COVERED}


def test_convention_of_009_is_an_analogy_with_the_runs_own_bound(granted: dict[str, Any]) -> None:
    (point,) = answers(granted)[-1][1]
    bound = granted["audits"]["LINK"]["bounds"][0]["value"]
    assert "By analogy only" in point.answer
    assert f"Linkability: upper bound {bound:.3f}, within it" in point.answer
    above = copy.deepcopy(granted)
    above["audits"]["LINK"]["bounds"][0]["value"] = 0.0901
    assert "above it" in answers(above)[-1][1][0].answer


def test_history_shows_every_audited_run_of_the_study() -> None:
    study = hostile_study()
    signed: tuple[Decision | None, ...] = ("refused", None)
    told = tuple(
        EarlierAudit(run=run, candidate_sha256=run * 64, day=date(2026, 1, 1), decision=decision)
        for run, decision in zip("ef", signed, strict=True)
    )
    earlier = dict.fromkeys(SITES, ()) | {"harbour": told}
    page = render_report(make_report(study, earlier=earlier))
    assert "<td><code>" + "e" * 64 + "</code></td><td>do not release</td>" in page
    assert "<td><code>" + "f" * 64 + "</code></td><td>none was signed</td>" in page
    assert "3 (this report)" in page
    assert "Audit 3 of this study : earlier ones are in section 12" in page_one(page)
    assert "Audit 1" not in page_one(render_report(make_report(study)))
    assert "98.3\u00a0%" in page
    assert "1 (this report)" in render_report(make_report(study))


def test_whoever_was_missing_after_training_is_said_so() -> None:
    study = hostile_study()
    rounds = study.training.rounds
    drops = (Drop(round=2, code="timeout", returned=rounds), Drop(round=rounds + 1, code="timeout"))
    page = render_report(make_report(study, dropped={"harbour": drops}))
    assert f"round 2: timeout, back in round {rounds}; after training: timeout</td>" in page
    late = Drop(round=2, code="timeout", returned=rounds + 1)
    page = render_report(make_report(study, dropped={"harbour": (late,)}))
    assert "round 2: timeout, back after training</td>" in page


def test_exposed_patients_stand_on_page_one(granted: dict[str, Any]) -> None:
    outlier = granted["audits"]["OUTLIER"]
    text = page_one(render_report(granted))
    assert f"Most exposed group {outlier['title']}: the attack" in text
    nothing = page_one(render_report(make_report(hostile_study(), answers={})))
    assert "Most exposed group Not measured." in nothing


def test_a_name_cannot_leave_the_running_header() -> None:
    assert css_string('a"; } x') == "a\\000022 \\00003b  \\00007d  x"


def test_sections_follow_the_outline(granted: dict[str, Any]) -> None:
    page = render_report(granted)
    assert re.findall(r"<h2 id=\"\w+\">(\d+)\.", page) == [str(i) for i in range(1, 15)]
    assert [*SECTIONS].index("data") == 3  # the remedy of a missing quorum names section 4
    for needed in ("NIST SP 800-226", "WP216", "near-tautological", "never sent", "d" * 64):
        assert needed in page, needed
    assert page.count('scope="row"') > len(granted["reasons"])
    assert page.index("Canaries: every hospital") < page.index("Exact copies: no sign of")


def test_canaries_stand_beside_the_claim(granted: dict[str, Any]) -> None:
    page = render_report(granted)
    found = granted["canaries"]
    for needed in (
        f"training ε = {granted['privacy']['training']['epsilon']:.2f}",
        f"ε is at least {found['epsilon']:.2f}",
        f"{found['right']} of {found['guesses']} guesses were right",
        f"{found['all_right']} of {found['num_canaries']} guesses were right",
        WEAK_EVIDENCE,
    ):
        assert needed in page, needed
    assert WEAK_EVIDENCE in page_one(page)


@pytest.mark.parametrize(
    ("canaries", "why"),
    [
        ({}, "are missing, or are not those"),
        ({"noise_ratio": 0.5}, "show less noise than the promise needs"),
        ({"size": 0.0}, "do not look as the study"),
    ],
)
def test_canaries_that_fail_refuse_in_words(canaries: dict[str, float], why: str) -> None:
    study = hostile_study()
    planted = honest_canaries(study, SITES, **canaries) if canaries else {}
    report = make_report(study, canaries=planted)
    assert report["decision"] == "refused"
    text = page_one(render_report(report))
    assert why in text
    assert ("incident" in text) == bool(canaries)


def test_page_runs_and_loads_nothing(granted: dict[str, Any]) -> None:
    page = render_report(granted)
    for markup in (page, *pictures(page)):
        assert "<script" not in markup.lower()
        assert not re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', markup))
    addresses = re.findall(r'\b(?:src|href)\s*=\s*"([^"]*)"', page)
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "url(" not in page and "@import" not in page and "<link" not in page
    for svg in pictures(page):
        links = re.findall(r'href\s*=\s*"([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg)
        assert all(link.startswith("#") for link in links)
    assert len(page.encode()) < MAX_BYTES


def test_every_value_is_escaped(granted: dict[str, Any]) -> None:
    page = render_report(granted)
    assert "&lt;script&gt;alert" in page
    assert "<b>age</b>" not in page and "&lt;b&gt;age&lt;/b&gt;" in page
    svg = next(svg for svg in pictures(page) if "$x_1$" in svg)
    assert "&lt;b&gt;age" in svg and "<b>" not in svg


def test_pictures_have_alternative_texts_and_are_the_same_every_time(
    granted: dict[str, Any],
) -> None:
    page = render_report(granted)
    alternatives = re.findall(r'<img src="[^"]+" alt="([^"]*)"', page)
    assert len(alternatives) == page.count("<img ") == 3
    assert all(len(text) > 20 for text in alternatives)
    assert render_report(copy.deepcopy(granted)) == page


def test_real_data_have_no_banner() -> None:
    assert "SIMULATED" not in render_report(make_report(hostile_study(simulated=False)))


def test_refusal_for_memorisation_says_why_and_what_to_do() -> None:
    study = hostile_study()
    report = make_report(study, answers={s: answer(study, copies=100) for s in SITES})
    assert report["decision"] == "refused"
    text = page_one(render_report(report))
    assert "DO NOT RELEASE" in text and "This folder holds no data" in text
    assert "Exact copies: the attack succeeds on patients in training more often" in text
    assert "Train a new model" in text and "not proof of a leak" not in text
    assert "pratique verify refusal" in text and "must not be passed on" in text


def test_refusal_after_drop_out_and_veto_names_the_sites() -> None:
    study = hostile_study()
    report = make_report(
        study,
        answers={site: answer(study) for site in SITES[:2]},
        dropped={"northgate": (Drop(round=4, code="not_answering"),)},
        vetoes={"harbour": "counts_mismatch"},
    )
    assert report["decision"] == "refused"
    page = render_report(report)
    text = page_one(page)
    assert "Dropped out: northgate (not answering)" in text
    assert "did not sign the conclusion (harbour: counts mismatch)" in text
    assert "audited the result (northgate)" in text
    assert "round 4: not answering" in page and "not reported" in page


def test_too_little_data_is_not_called_a_leak() -> None:
    study = hostile_study()
    report = make_report(study, answers={s: answer(study, size=0.02) for s in SITES})
    assert report["decision"] == "not_enough_data"
    text = page_one(render_report(report))
    assert "NOT ENOUGH DATA TO DECIDE" in text
    assert "cannot exclude" in text and "This is not proof of a leak" in text
    assert "sign of memorisation" not in text.replace("No sign of memorisation was shown", "")


def test_groups_too_small_for_any_conclusion() -> None:
    study = hostile_study()
    empty = as_answer(study, [0] * audit_form(study, 1).size)
    report = make_report(study, answers=dict.fromkeys(SITES, empty))
    assert (report["decision"], report["audits"]) == ("not_enough_data", {})
    text = page_one(render_report(report))
    assert "too small for any conclusion" in text and "No attack could be concluded" in text


def test_missing_answers_refuse_in_words() -> None:
    report = make_report(hostile_study(), answers={})
    assert (report["decision"], report["audits"]) == ("refused", {})
    text = page_one(render_report(report))
    assert "The evidence of every attack is missing" in text
    assert "No hospital reported its budget" in text


def test_every_rule_of_integrity_and_canaries_has_words(granted: dict[str, Any]) -> None:
    rules = [rule for rule in granted["reasons"] if rule["tier"] in (0, 1)]
    assert {rule["tier"] for rule in rules} == {0, 1}
    for broken in rules:
        report = copy.deepcopy(granted) | {"decision": "refused", "marginals": {}}
        report["reasons"] = [{**broken, "passed": False}]
        assert "is missing or unusable" not in render_report(report), broken["rule"]


def test_estimate_beyond_its_tolerance_is_said(granted: dict[str, Any]) -> None:
    report = copy.deepcopy(granted)
    report["decision"] = "not_enough_data"
    audit = report["audits"]["LINK"]
    audit |= {"statistic": 0.11, "interval": [0.08, 0.14], "passed": False}
    audit["bounds"][0] |= {"value": 0.14, "passed": False}
    rule = next(r for r in report["reasons"] if "linkage_risk" in r["rule"])
    rule |= {"value": 0.14, "passed": False}
    assert "Even the best estimate lies above" in page_one(render_report(report))


def test_study_without_patient_id_promises_rows(granted: dict[str, Any]) -> None:
    report = copy.deepcopy(granted)
    report["data"]["patient_id"] = False
    assert "The promise is for one row" in page_one(render_report(report))


def test_strictest_tolerance_is_on_the_scale_of_the_statistic() -> None:
    # Upper bound .01 stands for 40 patients: 20 patients are .005.
    bounds = [
        {"rule": "near_match_excess", "value": 0.01, "limit": 0.03},
        {"rule": "near_match_patients", "value": 40.0, "limit": 20},
        {"rule": "tail_tpr", "value": 0.02, "limit": 0.03},
    ]
    assert strictest_tolerance({"interval": [-0.01, 0.01], "bounds": bounds}) == 0.005
    without_patients = {"interval": [-0.01, 0.01], "bounds": [bounds[0], bounds[2]]}
    assert strictest_tolerance(without_patients) == 0.03
    assert strictest_tolerance({"interval": [-0.01, 0.01], "bounds": bounds[2:]}) is None
    assert strictest_tolerance({"interval": [-0.01, 0.01], "bounds": []}) is None


def test_figures_stay_small_and_bear_odd_numbers(granted: dict[str, Any]) -> None:
    levels = [f"level {i}" for i in range(300)]
    wide = {f"c{i}": {"labels": levels, "noised": [0.1] * 300, "synthetic": [0.2] * 300}
            for i in range(70)}  # fmt: skip
    picture = marginals_figure(wide)
    assert picture.startswith("data:image/png;base64,") and len(picture) < MAX_BYTES
    audits = copy.deepcopy(granted["audits"])
    audits["LINK"] |= {"members": None, "statistic": float("nan"), "interval": [None, None]}
    assert attacks_figure(audits).startswith("data:image/svg")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(-0.0024, 2), "\u22120.24\u00a0%"),
        (percent(-0.000001, 2), "0.00\u00a0%"),
        (percent(None), "not available"),
        (number(float("nan")), "not available"),
        (number(12000, 0), "12,000"),
        (chance(0.0004), "below 0.001"),
        (chance(0.2), "0.200"),
        (tiny(1.1e-5), "1.1 × 10⁻⁵"),
        (tiny(1e-6), "1 × 10⁻⁶"),
        (day("2035-12-31"), "31 December 2035"),
        (day("soon"), "soon"),
    ],
)
def test_numbers_for_people(shown: str, expected: str) -> None:
    assert shown == expected
