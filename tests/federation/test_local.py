"""Whole runs in one process: what leaves, what is refused, what a coordinator cannot do."""

import errno
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import Message, RecordDict
from safetensors.numpy import load, save

from pratique_client import app as client_app_module
from pratique_client.run_folder import RunFolder
from pratique_common.bundle import verify_bundle
from pratique_common.canonical import sha256_hex
from pratique_common.errors import BudgetExceededError, FederationError
from pratique_common.generators import TABLE_GENERATORS
from pratique_common.messages import (
    AUDIT,
    CANDIDATE,
    CONCLUDE,
    HISTOGRAMS,
    JOIN,
    MODEL,
    NOISED,
    ROSTER,
    STEP,
    WEIGHTS,
    AuditInstructions,
    ConclusionInstructions,
    HistogramInstructions,
    JoinInstructions,
    Payload,
    Reply,
    RosterInstructions,
    StepInstructions,
    pack,
    step_label,
    unpack,
    unpack_array,
)
from pratique_common.parts import SignedMaskKey
from pratique_common.phantoms.cohort import write_cohort
from pratique_common.signing import create_key
from pratique_common.study import StudySpec, load_study
from pratique_common.tables import parquet_bytes
from pratique_privacy.audits import AUDITS
from pratique_privacy.canary_evidence import AS_PLANNED
from pratique_privacy.gate import SPLIT
from pratique_privacy.local_audits import LOCAL_AUDITS
from pratique_privacy.local_audits.dcr import WHY_NOT_DECISIVE
from pratique_privacy.post_processing.derivation import Derivation
from pratique_server.coordinator import Coordinator
from pratique_server.job import KEY_FILE
from pratique_server.release import Candidate
from pratique_server.reprint import reprint
from pratique_server.sums import OpenedSum
from tests.conftest import rounds_of
from tests.federation.helpers import LocalFederation, make_federation

MARK = "MARKED-4711"


@pytest.fixture
def quick(tmp_path: Path) -> tuple[StudySpec, Path]:
    """The demo's study with few rounds and rows."""
    from pratique_common.phantoms.cohort import study_path

    text = (
        study_path().read_text()
        + "\n[training]\nrounds = 3\nround_timeout_s = 5\nreply_interval_s = 0\n"
    )
    text = text.replace("[release]\n", "[release]\nrows = 400\n")
    text = text.replace("expected_patients = 12000", "expected_patients = 950")
    path = tmp_path / "quick.toml"
    path.write_text(text)
    return load_study(path), path


@pytest.fixture
def local_noise(
    tmp_path: Path, quick: tuple[StudySpec, Path], small_cohort: dict[str, Path]
) -> LocalFederation:
    """The same study without secure sums: what a site sends can be read."""
    _, path = quick
    path.write_text(path.read_text().replace("[privacy]\n", '[privacy]\nnoise = "local"\n'))
    return make_federation(tmp_path, load_study(path), path, small_cohort)


@pytest.fixture
def federation(
    tmp_path: Path, quick: tuple[StudySpec, Path], small_cohort: dict[str, Path]
) -> LocalFederation:
    return make_federation(tmp_path, *quick, small_cohort)


def _ask(
    federation: LocalFederation, node: int, kind: str, payload: Payload, **arrays: Any
) -> tuple[Reply, RecordDict]:
    message = Message(pack(payload, **arrays), dst_node_id=node, message_type=kind)
    (reply,) = federation.grid.pull_messages(federation.grid.push_messages([message]))
    return unpack(reply.content, Reply), reply.content


def _ids(federation: LocalFederation, run: str = "r") -> dict[str, str]:
    return {"study_digest": federation.study.digest, "run": run}


def _join(
    federation: LocalFederation, run: str = "r", *, secure: bool = True
) -> tuple[SignedMaskKey, ...]:
    """Let every site join and, for secure sums, accept the roster of all; return the roster."""
    keys = []
    for node in federation.grid.get_node_ids():
        reply, _ = _ask(federation, node, JOIN, JoinInstructions(**_ids(federation, run)))
        assert reply.code == "ok"
        assert (reply.mask_key is not None) == secure
        keys += [reply.mask_key] if reply.mask_key else []
    if not secure:
        return ()
    roster = tuple(sorted(keys, key=lambda key: key.site))
    for node in federation.grid.get_node_ids():
        instructions = RosterInstructions(keys=roster, **_ids(federation, run))
        assert _ask(federation, node, ROSTER, instructions)[0].code == "ok"
    return roster


def _sites(federation: LocalFederation) -> tuple[str, ...]:
    return tuple(sorted(federation.sites))


def test_a_run_ends_in_a_bundle_or_a_signed_refusal(federation: LocalFederation) -> None:
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    assert verified.manifest.decision == result.decision
    assert result.path.name == ("bundle" if result.decision == "granted" else "refusal")
    assert not (federation.folder / "bundle").exists() or result.decision == "granted"
    report = verified.report
    assert report["sites"]["asked"] == report["sites"]["answered"] == sorted(federation.sites)
    assert set(report["audits"]) == set(AUDITS)
    for site in federation.sites.values():
        phases = [entry.phase for entry in site.ledger.entries()]
        assert phases == [
            "histograms",
            "round 1",
            "round 2",
            "round 3",
            f"audit {verified.manifest.candidate_sha256}",
            f"audit {verified.manifest.candidate_sha256}",
            f"utility {verified.manifest.candidate_sha256}",
        ]
        assert site.ledger.verify() == verified.manifest.ledger_heads[site.name]
        (annex,) = (site.folder / "annex").glob("*.json")
        exact = json.loads(annex.read_text())
        assert [found["id"] for found in exact["local_audits"]] == list(LOCAL_AUDITS)
        assert exact["descriptive_note"] == WHY_NOT_DECISIVE
    # Whoever has the bundle comes to the same claims, and prints them.
    _, page = reprint(result.path)
    assert "every claim follows from the evidence" in page


BY_CHANCE = (SPLIT, AS_PLANNED)
"""Rules that one honest run in a hundred does not meet: with so many runs, some suite would."""


@pytest.mark.parametrize("name", sorted(set(TABLE_GENERATORS) - {"pairwise"}))
def test_every_generator_goes_the_whole_way(
    name: str, tmp_path: Path, quick: tuple[StudySpec, Path], small_cohort: dict[str, Path]
) -> None:
    _, path = quick
    text = path.read_text().replace("rounds = 3", f"rounds = {2 * rounds_of(name)}")
    path.write_text(text + f'\n[generator]\nname = "{name}"\n')
    federation = make_federation(tmp_path, load_study(path), path, small_cohort)
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    assert verified.manifest.decision == result.decision
    failed = {rule["rule"] for rule in verified.report["reasons"] if not rule["passed"]}
    # So few patients may leave bounds too wide; all else holds, the ledgers' sums above all.
    assert all(rule.startswith((*AUDITS, "control", *BY_CHANCE)) for rule in failed), failed
    phases = [entry.phase for entry in federation.sites["harbour"].ledger.entries()]
    assert [p for p in phases if p in (step_label(1), step_label(2))] == [
        step_label(number) for number in range(1, 2 * rounds_of(name) + 1)
    ]


def test_visits_go_the_whole_way(
    tmp_path: Path, quick: tuple[StudySpec, Path], small_cohort: dict[str, Path]
) -> None:
    _, path = quick
    path.write_text(path.read_text() + '\n[data.visits]\norder_by = "age"\nfixed = ["sex"]\n')
    federation = make_federation(tmp_path, load_study(path), path, small_cohort)
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    failed = {rule["rule"] for rule in verified.report["reasons"] if not rule["passed"]}
    assert all(rule.startswith((*AUDITS, "control", *BY_CHANCE)) for rule in failed), failed
    if result.decision == "granted":
        released = pd.read_csv(result.path / "synthetic.csv", dtype=str, keep_default_na=False)
        assert released["patient"].is_monotonic_increasing
        assert released.groupby("patient")["sex"].nunique().max() == 1
        assert "of a synthetic patient" in (result.path / "dictionary.csv").read_text()


def test_small_and_unlike_sites_take_part(tmp_path: Path, quick: tuple[StudySpec, Path]) -> None:
    """One of 90 beside one of 1,500; one has no women, one does not record a laboratory value."""
    _, path = quick
    text = path.read_text().replace("expected_patients = 950", "expected_patients = 2000")
    before, troponin, after = text.partition('name = "troponin"')
    assert "missing = true" in after.partition("[[")[0]
    path.write_text(before + troponin + "\nmay_lack = true" + after)
    sizes = {"harbour": 1_500, "northgate": 90, "lakeside": 400}
    data = write_cohort(tmp_path / "cohort", seed=7, num_patients=sizes)
    small = pd.read_csv(data["northgate"], dtype=str, keep_default_na=False)
    small.drop(columns="troponin").to_csv(data["northgate"], index=False)
    men = pd.read_csv(data["lakeside"], dtype=str, keep_default_na=False)
    men[men["sex"] == "male"].to_csv(data["lakeside"], index=False)
    lacks = {"northgate": ("troponin",), "lakeside": ()}
    federation = make_federation(tmp_path, load_study(path), path, data, lacks=lacks)
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    report = verified.report
    failed = {rule["rule"] for rule in report["reasons"] if not rule["passed"]}
    assert all(rule.startswith((*AUDITS, "control", *BY_CHANCE)) for rule in failed), failed
    assert report["evidence"]["lacks"] == {"northgate": ["troponin"]}
    assert report["sites"]["answered"] == sorted(sizes)
    page = (result.path / "report.html").read_text(encoding="utf-8")
    assert "<td>troponin</td>" in page


def test_a_study_that_needs_a_column_is_refused_by_a_site_without_it(
    tmp_path: Path, quick: tuple[StudySpec, Path], small_cohort: dict[str, Path]
) -> None:
    federation = make_federation(tmp_path, *quick, small_cohort, lacks={"harbour": ("troponin",)})
    with pytest.raises(FederationError, match="harbour: column_lacking"):
        federation.coordinator().run()


def test_sites_may_keep_their_data_in_different_places(
    federation: LocalFederation, small_cohort: dict[str, Path]
) -> None:
    """A file, a query over a file, a database; a site that moves its data joins with the same."""
    _join(federation)
    database = federation.folder / "lakeside.db"
    with sqlite3.connect(database) as connection:
        pd.read_csv(small_cohort["lakeside"], dtype=str).to_sql("visits", connection, index=False)
    places = {
        "northgate": f'files = {{ visits = "{small_cohort["northgate"]}" }}',
        "lakeside": f'url = "sqlite:///{database}"',
    }
    for name, place in places.items():
        file = federation.sites[name].folder / "site.toml"
        source = f'kind = "sql"\n{place}\nquery = "SELECT * FROM visits"\n'
        text = file.read_text()
        moved = re.sub(r"kind = .*\npath = .*\n", lambda _, source=source: source, text)
        assert moved != text
        file.write_text(moved)
    client_app_module._sessions.clear()  # as a daemon that is started again: other data are refused
    for node in federation.grid.get_node_ids():
        reply, _ = _ask(federation, node, JOIN, JoinInstructions(**_ids(federation)))
        assert reply.code == "ok"
    result = federation.coordinator().run()
    assert verify_bundle(result.path)


def test_only_noised_integers_and_codes_leave(federation: LocalFederation) -> None:
    """Every array is int64, every text a field of Reply, and no record's text is in any byte."""
    for name, site in federation.sites.items():
        source = Path(site.settings.source.label(site.site_file))
        text = source.read_text().replace(f"{name}-0", f"{MARK}-{name}-0")
        marked = source.with_name(f"marked-{name}.csv")
        marked.write_text(text)
        file = site.folder / "site.toml"
        file.write_text(file.read_text().replace(str(source), str(marked)))
    federation.coordinator().run()
    assert federation.grid.sent
    for wire in federation.grid.sent:
        assert MARK.encode() not in wire
        assert str(federation.folder).encode() not in wire
    for site in federation.sites.values():
        assert MARK not in (site.folder / "annex").joinpath().as_posix()
        for path in (site.folder / "annex").glob("*.json"):
            assert MARK not in path.read_text()


def test_without_secure_sums_a_run_ends_the_same_way(local_noise: LocalFederation) -> None:
    result = local_noise.coordinator().run()
    report = verify_bundle(result.path).report
    assert report["privacy"]["noise"] == "local"
    assert report["evidence"]["roster"] == []
    assert report["sites"]["answered"] == sorted(local_noise.sites)
    failed = [
        rule["rule"] for rule in report["reasons"] if rule["tier"] == 0 and not rule["passed"]
    ]
    assert not failed


def test_noise_never_repeats_between_sites_rounds_and_runs(local_noise: LocalFederation) -> None:
    """At weights whose gradients are the same, answers must differ in (nearly) every coordinate."""
    from pratique_common.generators.build import build_generator

    weights = build_generator(local_noise.study).state()
    answers = []
    for run in ("r1", "r2"):
        _join(local_noise, run, secure=False)
        for node in local_noise.grid.get_node_ids():
            everybody = {"participants": _sites(local_noise), **_ids(local_noise, run)}
            _ask(local_noise, node, HISTOGRAMS, HistogramInstructions(**everybody))
            for number in (1, 2):
                reply, records = _ask(
                    local_noise, node, STEP,
                    StepInstructions(round=number, **everybody), **{WEIGHTS: weights},
                )  # fmt: skip
                assert reply.code == "ok"
                words = unpack_array(records, NOISED)
                answers.append(words.view(f"<i{words.dtype.itemsize}").astype(float))
    for i, first in enumerate(answers):
        for second in answers[i + 1 :]:
            assert (first == second).mean() < 0.01
            noise_correlation = np.corrcoef(np.diff(first), np.diff(second))[0, 1]
            assert abs(noise_correlation) < 0.25


@pytest.mark.parametrize("code", ["study_not_approved", "not_joined", "malformed_message"])
def test_a_coordinator_gets_codes_and_nothing_else(federation: LocalFederation, code: str) -> None:
    node = federation.grid.get_node_ids()[0]
    payload: Payload = JoinInstructions(study_digest="0" * 64, run="r")
    kind = JOIN
    if code == "not_joined":
        payload, kind = HistogramInstructions(**_ids(federation)), HISTOGRAMS
    elif code == "malformed_message":
        payload = Reply()
    reply, _ = _ask(federation, node, kind, payload)
    assert reply == Reply(code=code, site=reply.site)
    assert reply.site in federation.sites


def test_an_unexpected_exception_leaves_as_a_code(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ValueError(f"could not convert {MARK}")

    monkeypatch.setattr("pratique_client.session.load_patients", explode)
    node = federation.grid.get_node_ids()[0]
    reply, _ = _ask(federation, node, JOIN, JoinInstructions(**_ids(federation)))
    assert reply == Reply(code="internal_error", site="harbour")
    assert MARK.encode() not in federation.grid.sent[-1]


def test_a_coordinator_cannot_ask_for_more_than_the_study(federation: LocalFederation) -> None:
    from pratique_common.generators.build import build_generator

    _join(federation)
    node = federation.grid.get_node_ids()[0]
    weights = build_generator(federation.study).state()
    everybody: dict[str, Any] = {"participants": _sites(federation), **_ids(federation)}

    def step(number: int, vector: Any = weights) -> str:
        instructions = StepInstructions(round=number, **everybody)
        return _ask(federation, node, STEP, instructions, **{WEIGHTS: vector})[0].code

    histograms = HistogramInstructions(**everybody)
    assert _ask(federation, node, HISTOGRAMS, histograms)[0].code == "ok"
    assert step(1) == "ok"
    assert _ask(federation, node, HISTOGRAMS, histograms)[0].code == "repeated_request"
    assert step(1, weights / 2) == "repeated_request"
    assert step(4) == "unexpected_round"
    assert step(2, weights[:-1]) == "malformed_message"
    assert step(3, np.full_like(weights, np.nan)) == "malformed_message"
    assert step(3, np.full_like(weights, 3e38)) == "malformed_message"
    site = next(iter(federation.sites.values()))
    assert [entry.phase for entry in site.ledger.entries()] == ["histograms", "round 1"]
    rejoin = JoinInstructions(**_ids(federation))
    assert _ask(federation, node, JOIN, rejoin)[0].code == "ok"  # the same keys, the same run
    assert step(1, weights / 2) == "repeated_request"


def test_a_sum_that_is_asked_for_again_is_sent_again_as_it_was(
    federation: LocalFederation,
) -> None:
    """Noise is drawn once and paid for once, also by a daemon that was started again."""
    _join(federation)
    node = federation.grid.get_node_ids()[0]
    histograms = HistogramInstructions(participants=_sites(federation), **_ids(federation))

    def answer() -> tuple[Reply, bytes]:
        reply, content = _ask(federation, node, HISTOGRAMS, histograms)
        return reply, unpack_array(content, NOISED).tobytes()

    first = answer()
    assert answer() == first
    client_app_module._sessions.clear()  # the daemon was started again
    assert answer() == first
    site = next(iter(federation.sites.values()))
    assert [entry.phase for entry in site.ledger.entries()] == ["histograms"]


def test_no_candidate_is_audited_before_training(federation: LocalFederation) -> None:
    _join(federation)
    node = federation.grid.get_node_ids()[0]
    candidate = np.frombuffer(b"anything", np.uint8)
    audit = AuditInstructions(candidate_sha256="0" * 64, **_ids(federation))
    arrays = {CANDIDATE: candidate, MODEL: candidate}
    assert _ask(federation, node, AUDIT, audit, **arrays)[0].code == "not_trained"


def test_an_annex_that_fails_keeps_no_answer_back(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The audit is paid for by then, and a site cannot be asked again."""

    def broken(_: Any) -> Any:
        raise ValueError(MARK)

    monkeypatch.setattr("pratique_client.auditing.run_local_audits", broken)
    report = verify_bundle(federation.coordinator().run().path).report
    assert report["sites"]["answered"] == sorted(federation.sites)
    assert "no annex" in caplog.text and MARK not in caplog.text


def test_a_silent_site_stops_a_federation_of_three(federation: LocalFederation) -> None:
    federation.grid.silent.add(federation.grid.get_node_ids()[1])
    with pytest.raises(FederationError, match=r"2 sites are left .*northgate: timeout") as caught:
        federation.coordinator().run()
    assert caught.value.exit_code == 7
    assert not list(federation.folder.glob("bundle*"))


def test_a_stranger_is_not_admitted(federation: LocalFederation) -> None:
    sites = {**federation.job.sites, "lakeside": "0" * 64}
    federation.job = federation.job.model_copy(update={"sites": sites})
    with pytest.raises(FederationError, match="2 sites are left"):
        federation.coordinator().run()
    events = (federation.folder / "events.jsonl").read_text()
    assert '"stranger"' in events


def test_an_exhausted_budget_refuses_before_anything_is_computed(
    tmp_path: Path, quick: tuple[StudySpec, Path], small_cohort: dict[str, Path]
) -> None:
    federation = make_federation(tmp_path, *quick, small_cohort, epsilon=1.0)
    with pytest.raises(BudgetExceededError, match="budget_exhausted") as caught:
        federation.coordinator().run()
    assert caught.value.exit_code == 6
    assert all(not site.ledger.entries() for site in federation.sites.values())


def test_a_site_vetoes_a_false_conclusion_and_the_release_becomes_a_refusal(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that turns the decision to granted gets no signature of any site."""
    from dataclasses import replace

    from pratique_server import release

    true_conclusion = release.conclude_evidence

    def forged(study: StudySpec, evidence: Any, rows: Any) -> Any:
        conclusion = true_conclusion(study, evidence, rows)
        if evidence.vetoes:
            return conclusion
        return replace(conclusion, gate=replace(conclusion.gate, decision="granted"))

    def honest_is_not_granted(study: StudySpec, evidence: Any, rows: Any) -> Any:
        conclusion = true_conclusion(study, evidence, rows)
        return replace(conclusion, gate=replace(conclusion.gate, decision="not_enough_data"))

    monkeypatch.setattr(release, "conclude_evidence", forged)
    monkeypatch.setattr("pratique_client.conclusion.conclude_evidence", honest_is_not_granted)
    result = federation.coordinator().run()
    assert result.decision == "refused"
    report = verify_bundle(result.path).report
    assert set(report["evidence"]["vetoes"]) == set(federation.sites)
    assert set(report["evidence"]["vetoes"].values()) == {"decision_mismatch"}
    assert not (result.path / "synthetic.parquet").exists()


def test_no_site_signs_for_a_coordinator_that_did_not_invite_it(
    federation: LocalFederation, caplog: pytest.LogCaptureFixture
) -> None:
    key_file = federation.folder / KEY_FILE
    key_file.unlink()
    create_key(key_file)
    result = federation.coordinator().run()
    assert {path.stem for path in (result.path / "signatures").iterdir()} == {"coordinator"}
    assert result.decision != "granted"
    assert "coordinator_unknown" in caplog.text


def test_a_coordinator_that_changes_a_sites_counts_is_vetoed(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pratique_server import coordinator

    true_evidence = coordinator.Evidence

    def tampered(**fields: Any) -> Any:
        answers = dict(fields["answers"])
        mine = answers["harbour"]
        changed = f"{int(mine.words[0], 16) ^ 1:x}" + mine.words[1:]
        answers["harbour"] = mine.model_copy(update={"words": changed})
        return true_evidence(**{**fields, "answers": answers})

    monkeypatch.setattr(coordinator, "Evidence", tampered)
    result = federation.coordinator().run()
    manifest = verify_bundle(result.path)
    # Every site checks every other's signature under its answer, so nobody signs.
    assert not {signer.name for signer in manifest.signed_by} & set(federation.sites)
    assert result.decision != "granted"


_EARLIER = {"run": "r", "candidate_sha256": "e" * 64, "day": "2026-01-01", "decision": "refused"}
_LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "epsilon": lambda report: report["privacy"].update(epsilon=0.01),
    "audit": lambda report: report["audits"]["NEAR"].update(p_adjusted=1.0, statistic=0.0),
    "dropped": lambda report: report["sites"]["dropped"].update(
        invented=[{"round": 1, "code": "x", "returned": None}]
    ),
    "simulated": lambda report: report.update(simulated=False),
    "ledger": lambda report: report["evidence"]["ledger_heads"].update(harbour="0" * 64),
    "holdout": lambda report: report["evidence"]["commitments"].update(harbour="f" * 64),
    "budget": lambda report: report["evidence"]["budgets"]["harbour"].update(spent=0.1),
    "earlier": lambda report: report["evidence"].update(
        earlier=report["evidence"]["earlier"] | {"harbour": [_EARLIER]}
    ),
}


def test_no_site_signs_what_lies(federation: LocalFederation) -> None:
    result = federation.coordinator().run()
    manifest = verify_bundle(result.path).manifest
    report = json.loads((result.path / "report.json").read_text())

    def not_signing(report: dict[str, Any], **more: str) -> dict[str, str]:
        shown = json.dumps(report)
        files = manifest.files | {"report.json": sha256_hex(shown.encode())} | more
        other = manifest.model_copy(update={"files": files})
        asked = ConclusionInstructions(
            manifest_json=other.canonical().decode(),
            report_json=shown,
            **_ids(federation, manifest.run),
        )
        nodes = federation.grid.get_node_ids()
        replies = [_ask(federation, node, CONCLUDE, asked)[0] for node in nodes]
        return {each.site: each.code for each in replies if not each.manifest_signature}

    assert not_signing(report) == {}  # the same way, an honest report is signed by all
    assert set(not_signing(report, **{"patients.csv": "a" * 64}).values()) == {"files_unknown"}
    for lie in _LIES.values():
        lying = json.loads(json.dumps(report))
        lie(lying)
        assert "harbour" in not_signing(lying)


def test_another_run_of_a_study_is_another_try(
    tmp_path: Path,
    quick: tuple[StudySpec, Path],
    small_cohort: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sites tell of the first audit, bounds widen, and nobody signs a report that hides it."""
    from pratique_server import coordinator

    federation = make_federation(tmp_path, *quick, small_cohort, epsilon=60.0)
    first = federation.coordinator().run()
    second = federation.another_run("second").coordinator().run()
    reports = [json.loads((result.path / "report.json").read_text()) for result in (first, second)]
    assert reports[0]["history"] == []
    (listed,) = reports[1]["history"]
    assert listed["run"] == federation.job.job
    assert listed["candidate_sha256"] == reports[0]["candidate_sha256"]
    assert listed["decision"] == first.decision
    assert [r["audits"]["NEAR"]["confidence"] for r in reports] == [0.95, 0.975]
    signers = {signer.name for signer in verify_bundle(second.path).signed_by}
    assert set(federation.sites) <= signers

    true_evidence = coordinator.Evidence

    def hiding(**fields: Any) -> Any:
        return true_evidence(**{**fields, "earlier": dict.fromkeys(fields["answers"], ())})

    # A damaged note of what was signed keeps no answer back: it is told as none.
    (federation.sites["harbour"].folder / "decisions" / federation.job.job).write_bytes(b"\xff")

    monkeypatch.setattr(coordinator, "Evidence", hiding)
    third = federation.another_run("third").coordinator().run()
    signers = {signer.name for signer in verify_bundle(third.path).signed_by}
    assert not set(federation.sites) & signers
    assert third.decision != "granted"


class _Crafty(Coordinator):
    """It has rows of its own audited, whatever the sums say."""

    def _sample(self, derivation: Derivation) -> Candidate:
        honest = super()._sample(derivation)
        table = honest.table.take([0] * 50 + [*range(50, honest.table.num_rows)])
        content = parquet_bytes(table)
        return replace(honest, table=table, parquet=content, sha256=sha256_hex(content))


class _Biased(Coordinator):
    """It would release another model than the one that the rows follow from."""

    def _sample(self, derivation: Derivation) -> Candidate:
        honest = super()._sample(derivation)
        weights = load(honest.model)
        weights["bias"] = weights["bias"] + np.linspace(0, 0.1, len(weights["bias"]), dtype="f4")
        return Candidate.of(derivation, save(weights))


class _Forger(Coordinator):
    """It counts patients into the histograms whom no site has."""

    def _count_in(self, opened: OpenedSum) -> None:
        opened.total[:3] += 40
        super()._count_in(opened)


class _Chooser(Coordinator):
    """It leaves a round out that was opened: with or without are two candidates to choose from."""

    def _train(self, derivation: Derivation) -> None:
        honest = derivation.add_round

        def leave_out(total: Any, num_summands: int) -> Any:
            self._proofs.pop()
            derivation.add_round = honest  # type: ignore[method-assign]
            return total, 1.0

        derivation.add_round = leave_out  # type: ignore[method-assign]
        super()._train(derivation)


@pytest.mark.parametrize("kind", [_Crafty, _Biased, _Forger, _Chooser])
def test_a_table_that_does_not_follow_from_the_sums_is_audited_by_nobody(
    federation: LocalFederation, kind: type[Coordinator]
) -> None:
    result = federation.coordinator(kind).run()
    assert result.decision == "refused"
    report = verify_bundle(result.path).report
    assert report["sites"]["answered"] == []
    codes = {drop["code"] for drops in report["evidence"]["dropped"].values() for drop in drops}
    assert codes == {"candidate_not_derived"}
    for site in federation.sites.values():
        assert not [e for e in site.ledger.entries() if e.phase.startswith(("audit", "utility"))]


def test_sums_that_a_coordinator_changes_on_the_way_are_not_believed(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OpenedSum.vectors

    def forged(opened: OpenedSum) -> Any:
        vectors = honest(opened)
        vectors[0, 0] += 1
        return vectors

    monkeypatch.setattr(OpenedSum, "vectors", forged)
    report = verify_bundle(federation.coordinator().run().path).report
    codes = {drop["code"] for drops in report["evidence"]["dropped"].values() for drop in drops}
    assert codes == {"transcript_invalid"}


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_sum_that_was_cut_short_is_computed_again_and_paid_once(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Three sites, none of which may be missing; one pays, and its disk is full before it answers.

    Its first answer (the histograms), its second (a round) or its last (the audit).
    """
    store, stored = RunFolder.store_sum, 0

    def store_sum(self: RunFolder, header: Any, words: bytes) -> None:
        nonlocal stored
        if self._folder.parts[-3] == "lakeside":
            stored += 1
            if stored == number:
                raise OSError(errno.ENOSPC, "No space left on device")
        store(self, header, words)

    monkeypatch.setattr(RunFolder, "store_sum", store_sum)
    report = verify_bundle(federation.coordinator().run().path).report
    ((site, (drop,)),) = report["evidence"]["dropped"].items()
    assert (site, drop["code"]) == ("lakeside", "disk_full")
    assert drop["round"] == number - 1  # the audit is after the last one
    assert drop["returned"] is not None
    assert sorted(report["sites"]["answered"]) == sorted(federation.sites)
    assert not [r["rule"] for r in report["reasons"] if r["tier"] == 0 and not r["passed"]]
    for each in federation.sites.values():
        phases = [(entry.role, entry.phase) for entry in each.ledger.entries()]
        assert len(phases) == len(set(phases)) == 7


def test_one_candidate_of_a_run_is_audited_once(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking again must not average the noise away, and a coordinator has no second question."""
    # As where sites cannot derive candidates: with networks that DP-SGD trains.
    monkeypatch.setattr("pratique_client.auditing.sites_derive", lambda study: False)
    from pratique_client.session import SiteSession
    from pratique_common.encoding import TableEncoder
    from pratique_common.tables import to_arrow

    site = federation.sites["harbour"]
    roster = _join(federation)
    session = SiteSession(site, federation.study.digest, "r")
    assert session.sums.enrolment.mask_keys == roster  # a second process finds the run on disk
    session.training.histograms(_sites(federation))
    encoder = TableEncoder(federation.study.data)

    def candidate(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        codes = np.stack([rng.integers(0, n, 5_000) for n in encoder.num_levels], axis=1)
        columns = encoder.decode(codes, rng)
        obeys = np.flatnonzero(federation.study.data.obeys_rules(columns))[:400]
        assert len(obeys) == 400 or len(obeys) > 0
        chosen = np.resize(obeys, 400)
        return parquet_bytes(
            to_arrow({n: v[chosen] for n, v in columns.items()}, federation.study.data)
        )

    def answer(data: bytes) -> list[int]:
        instructions = AuditInstructions(
            candidate_sha256=sha256_hex(data),
            participants=_sites(federation),
            **_ids(federation),
        )
        return session.audit.answer(data, b"", [], instructions).words.tolist()

    first = candidate(1)
    words = answer(first)
    spent = site.ledger.spent()
    assert answer(first) == words
    assert site.ledger.spent() == spent
    with pytest.raises(FederationError) as caught:
        answer(candidate(2))
    assert caught.value.code == "too_many_audits"
    assert site.ledger.spent() == spent
    assert answer(first) == words
    with pytest.raises(FederationError) as caught:
        instructions = AuditInstructions(candidate_sha256="0" * 64, **_ids(federation))
        session.audit.answer(first, b"", [], instructions)
    assert caught.value.code == "candidate_mismatch"


def test_reply_fields_are_the_only_texts_that_leave() -> None:
    texts = {name for name, field in Reply.model_fields.items() if field.annotation is str}
    assert texts == {"code", "site", "public_key", "identity_signature",
                     "holdout_commitment", "canary_commitment", "ledger_head",
                     "survivors_signature", "manifest_signature"}  # fmt: skip
    assert re.fullmatch(r"[a-z_]+", Reply().code)
