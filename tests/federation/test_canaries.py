"""Canaries over a whole run: what the report shows, and who cannot leave them out or forge them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pratique_client.enrolment import Enrolment
from pratique_client.session import SiteSession
from pratique_common.bundle import verify_bundle
from pratique_common.messages import Reply
from pratique_common.phantoms.cohort import study_path
from pratique_common.study import load_study
from pratique_privacy.budget import NUM_CANARIES
from pratique_privacy.canary_coins import Coins
from pratique_privacy.canary_evidence import AS_PLANNED, OPENED
from pratique_server.canaries import CanaryBook
from pratique_server.report.canary_words import WEAK_EVIDENCE
from tests.federation.helpers import LocalFederation, make_federation


@pytest.fixture
def federation(
    request: pytest.FixtureRequest, tmp_path: Path, small_cohort: dict[str, Path]
) -> LocalFederation:
    noise = getattr(request, "param", "secure_sum")
    text = study_path().read_text().replace("[release]\n", "[release]\nrows = 400\n")
    text = text.replace("expected_patients = 12000", "expected_patients = 950")
    text = text.replace("[privacy]\n", f'[privacy]\nnoise = "{noise}"\n')
    path = tmp_path / "quick.toml"
    path.write_text(text + "\n[training]\nrounds = 3\nround_timeout_s = 5\nreply_interval_s = 0\n")
    return make_federation(tmp_path, load_study(path), path, small_cohort)


def canary_rules(report: dict[str, Any]) -> dict[str, bool]:
    return {rule["rule"]: rule["passed"] for rule in report["reasons"] if rule["tier"] == 1}


@pytest.mark.parametrize("federation", ["secure_sum", "local"], indirect=True)
def test_the_report_shows_canaries_beside_the_claim(federation: LocalFederation) -> None:
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    report, found = verified.report, verified.report["canaries"]
    assert len(canary_rules(report)) == 4 and all(canary_rules(report).values())
    assert found["num_canaries"] == NUM_CANARIES // 3 * 3
    assert 0 < found["epsilon_gaussian"] < report["privacy"]["training"]["epsilon"]
    assert found["epsilon"] < report["privacy"]["training"]["epsilon"]
    assert set(report["evidence"]["canaries"]) == set(federation.sites)
    page = (result.path / "report.html").read_text(encoding="utf-8")
    assert WEAK_EVIDENCE in page and f"ε is at least {found['epsilon']:.2f}" in page
    # A site kept its coins on disk from joining on, and they are what it opened.
    for name, site in federation.sites.items():
        state = json.loads((site.folder / "runs" / "run1" / "state.json").read_text())
        assert state["canaries"] == report["evidence"]["canaries"][name]["opening"]
    # Nothing of canaries is in the budget.
    phases = [entry.phase for entry in federation.sites["harbour"].ledger.entries()]
    assert not [phase for phase in phases if "canar" in phase]


def test_coins_stay_secret_until_training_is_over(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    original = SiteSession.reply

    def reply(self: SiteSession, **fields: Any) -> Reply:
        sent = original(self, **fields)
        seen.append((self.site.name, sent.canaries is not None))
        return sent

    monkeypatch.setattr(SiteSession, "reply", reply)
    federation.coordinator().run()
    first = next(i for i, (_, opened) in enumerate(seen) if opened)
    phases = {e.phase for s in federation.sites.values() for e in s.ledger.entries()}
    assert "round 3" in phases
    # Joining, histograms and rounds of all sites come first, with what opens their sums.
    assert first >= 3 * (1 + 1 + 3)


def test_a_site_that_opens_other_coins_is_refused(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the sums' sense and would like its canaries to look different."""
    original = SiteSession.audited

    def audited(self: SiteSession, **fields: Any) -> Reply:
        reply = original(self, **fields)
        if self.site.name != "harbour":
            return reply
        return reply.model_copy(update={"canaries": Coins.draw(NUM_CANARIES).opening})

    monkeypatch.setattr(SiteSession, "audited", audited)
    result = federation.coordinator().run()
    rules = canary_rules(verify_bundle(result.path).report)
    assert (result.decision, rules) == ("refused", {OPENED: False})


def test_a_site_that_opens_nothing_is_refused(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SiteSession.audited

    def audited(self: SiteSession, **fields: Any) -> Reply:
        reply = original(self, **fields)
        return reply.model_copy(update={"canaries": None})

    monkeypatch.setattr(SiteSession, "audited", audited)
    result = federation.coordinator().run()
    rules = canary_rules(verify_bundle(result.path).report)
    assert (result.decision, rules) == ("refused", {OPENED: False})


def test_a_site_that_leaves_its_canaries_out_is_found(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Enrolment.in_own_places

    def in_own_places(self: Enrolment, values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        mine = self.site.name == "harbour"
        return original(self, np.zeros_like(values) if mine else values)

    monkeypatch.setattr(Enrolment, "in_own_places", in_own_places)
    result = federation.coordinator().run()
    rules = canary_rules(verify_bundle(result.path).report)
    assert result.decision == "refused" and not rules[AS_PLANNED]


@pytest.mark.parametrize("field", ["opening", "whole"])
def test_no_site_signs_a_report_with_coins_that_it_did_not_open(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """The coordinator swaps coins and commitment of one site for a pair that fit each other."""
    original = CanaryBook.evidence

    def evidence(self: CanaryBook, *arguments: Any) -> Any:
        found = original(self, *arguments)
        forged = Coins.draw(NUM_CANARIES)
        if field == "whole":
            del found["harbour"]
        else:
            update = {"opening": forged.opening, "commitment": forged.commitment}
            found["harbour"] = found["harbour"].model_copy(update=update)
        return found

    monkeypatch.setattr(CanaryBook, "evidence", evidence)
    result = federation.coordinator().run()
    verified = verify_bundle(result.path)
    assert result.decision != "granted"
    assert "harbour" not in {signer.name for signer in verified.signed_by}
