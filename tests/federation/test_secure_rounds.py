"""Secure sums in whole runs: who vanishes, who comes back, and a coordinator that cheats."""

import errno
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Message, RecordDict
from numpy.typing import NDArray
from pydantic import BaseModel

from pratique_client import app as client_app
from pratique_client.reply_times import ReplyTimes
from pratique_client.run_folder import RunFolder
from pratique_client.session import SiteSession
from pratique_client.site import load_site
from pratique_client.sums import SiteSums, Submission
from pratique_common.bundle import verify_bundle
from pratique_common.errors import FederationError, InvalidFileError
from pratique_common.messages import (
    AUDIT,
    CONCLUDE,
    COUNTERSIGN,
    HISTOGRAMS,
    HISTOGRAMS_LABEL,
    JOIN,
    NOISED,
    REVEAL,
    ROSTER,
    CountersignInstructions,
    HistogramInstructions,
    JoinInstructions,
    Payload,
    Reply,
    RevealInstructions,
    RosterInstructions,
    pack,
    unpack,
    unpack_array,
)
from pratique_common.parts import SignedMaskKey
from pratique_common.phantoms.cohort import study_path
from pratique_common.signing import public_hex
from pratique_common.study import StudySpec, load_study
from pratique_privacy.conclusion import conclude_evidence
from pratique_privacy.evidence import Evidence
from pratique_privacy.fixed_point import FixedPoint
from pratique_server import coordinator as coordinator_module
from pratique_server import sums as server_sums
from pratique_server.coordinator import Coordinator
from tests.federation.helpers import LocalFederation, make_federation

ROUNDS = 4


@pytest.fixture
def four(tmp_path: Path, small_cohort: dict[str, Path]) -> LocalFederation:
    """Four sites, of which one may be missing from a sum."""
    text = study_path().read_text()
    text += f"\n[training]\nrounds = {ROUNDS}\nround_timeout_s = 1\nreply_interval_s = 0\n"
    text = text.replace("[release]\n", "[release]\nrows = 400\n")
    text = text.replace("[privacy]\n", "[privacy]\ntolerated_dropouts = 1\n")
    text = text.replace("expected_patients = 12000", "expected_patients = 1200")
    path = tmp_path / "four.toml"
    path.write_text(text)
    quay = tmp_path / "quay.csv"
    shutil.copy(small_cohort["lakeside"], quay)
    return make_federation(tmp_path, load_study(path), path, {**small_cohort, "quay": quay})


class Script:
    """Makes nodes silent, or restarts them, when a message of some kind is about to be sent."""

    def __init__(self, federation: LocalFederation) -> None:
        self.federation, self.grid = federation, federation.grid
        self.node_of = dict(zip(federation.sites, self.grid.get_node_ids(), strict=True))
        self.sent: dict[str, int] = defaultdict(int)
        self.actions: dict[tuple[str, int], Any] = {}
        original = self.grid.push_messages

        def push(messages: Any) -> list[str]:
            messages = list(messages)
            if not messages:
                return original(messages)
            kind = messages[0].metadata.message_type
            self.sent[kind] += 1
            self.actions.pop((kind, self.sent[kind]), lambda: None)()
            return original(messages)

        self.grid.push_messages = push  # type: ignore[method-assign]

    def at(self, kind: str, number: int, *, silence: str = "", back: str = "") -> None:
        """Before the ``number``-th sending of ``kind``, silence one site and wake another."""

        def act() -> None:
            self.grid.silent |= {self.node_of[silence]} if silence else set()
            self.grid.silent -= {self.node_of[back]} if back else set()

        self.actions[(kind, number)] = act


def record_protected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, NDArray[Any]]]:
    """Keep each site's vector as it was before masking: size and words, in order."""
    kept: list[tuple[int, NDArray[Any]]] = []
    original = FixedPoint.protect

    def protect(self: FixedPoint, total: NDArray[np.float64]) -> NDArray[Any]:
        words = original(self, total)
        kept.append((self.size, words.copy()))
        return words

    monkeypatch.setattr(FixedPoint, "protect", protect)
    return kept


def record_opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], NDArray[np.float64]]]:
    """Keep every opened sum and whose it is."""
    kept: list[tuple[set[str], NDArray[np.float64]]] = []
    original = server_sums.Sums.ask

    def ask(self: server_sums.Sums, *args: Any, **fields: Any) -> Any:
        opened = original(self, *args, **fields)
        if opened is not None:
            kept.append((set(opened.sites), opened.total))
        return opened

    monkeypatch.setattr(server_sums.Sums, "ask", ask)
    return kept


def test_opened_sums_are_those_of_a_run_without_masks(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same vectors with the same noise, added without masks, give the same numbers exactly."""
    protected, opened = record_protected(monkeypatch), record_opened(monkeypatch)
    four.coordinator().run()
    assert len(opened) == ROUNDS + 2  # histograms, rounds, audit
    for number, (sites, total) in enumerate(opened):
        assert sites == set(four.sites)
        plain = protected[4 * number : 4 * number + 4]
        words = plain[0][1].copy()
        for _, vector in plain[1:]:
            words = words + vector
        signed = words.view(f"<i{words.dtype.itemsize}").astype(float)
        scale = total[signed != 0] / signed[signed != 0]
        assert len(np.unique(np.round(scale, 12))) <= 3  # a step a section, and nothing else
        assert (total[signed == 0] == 0).all()


def test_a_full_round_takes_two_messages_a_site_and_one_more_if_somebody_is_missing(
    four: LocalFederation,
) -> None:
    script = Script(four)
    script.at("train.step", 2, silence="quay")
    script.at("train.step", 3, back="quay")
    four.coordinator().run()
    assert script.sent["train.step"] == ROUNDS
    assert script.sent[REVEAL] == ROUNDS + 2
    assert script.sent[COUNTERSIGN] == 1


def test_a_site_that_vanishes_before_masking_and_comes_back_is_named(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = record_opened(monkeypatch)
    script = Script(four)
    script.at("train.step", 2, silence="quay")
    script.at("train.step", 4, back="quay")
    result = four.coordinator().run()
    everybody, rest = set(four.sites), set(four.sites) - {"quay"}
    assert [sites for sites, _ in opened] == [everybody, everybody, rest, rest, rest, everybody]
    report = verify_bundle(result.path).report
    (drop,) = report["evidence"]["dropped"]["quay"]
    assert (drop["round"], drop["code"]) == (2, "timeout")
    assert drop["returned"] == ROUNDS + 1
    failed = [r["rule"] for r in report["reasons"] if r["tier"] == 0 and not r["passed"]]
    assert not failed  # it was there for the audit
    page = (result.path / "report.html").read_text()
    assert "round 2: timeout" in page
    assert "back after training" in page


def test_a_site_whose_disk_fails_is_named_and_comes_back_once_it_is_well(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, broken = Script(four), False
    store, room = RunFolder.store_sum, client_app.require_room

    def is_quay(path: object) -> bool:
        return broken and "quay" in str(path)

    def store_sum(self: RunFolder, header: BaseModel, words: bytes) -> None:
        if is_quay(self._folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        store(self, header, words)

    def require_room(folder: Path) -> str:
        if is_quay(folder):
            raise InvalidFileError(folder, problem="is full", remedy="make room", code="disk_full")
        return room(folder)

    def now(state: bool) -> Callable[[], None]:
        def act() -> None:
            nonlocal broken
            broken = state

        return act

    monkeypatch.setattr(RunFolder, "store_sum", store_sum)
    monkeypatch.setattr(client_app, "require_room", require_room)
    script.actions[("train.step", 2)], script.actions[("train.step", 3)] = now(True), now(False)
    result = four.coordinator().run()
    report = verify_bundle(result.path).report
    (drop,) = report["evidence"]["dropped"]["quay"]
    assert (drop["round"], drop["code"]) == (2, "disk_full")
    assert 3 <= drop["returned"] <= ROUNDS + 1  # nobody waits for its answer to the question
    assert sorted(report["sites"]["answered"]) == sorted(four.sites)
    paid = [entry.phase for entry in four.sites["quay"].ledger.entries()]
    assert paid.count("round 2") == 1  # lost, and never asked for again


def test_a_site_that_vanishes_after_masking_is_in_the_sum(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = record_opened(monkeypatch)
    script = Script(four)
    script.at(REVEAL, 3, silence="quay")  # histograms, round 1, then round 2
    script.at("train.step", 3, back="quay")
    four.coordinator().run()
    assert [len(sites) for sites, _ in opened][:4] == [4, 4, 4, 3]


def test_a_second_failure_is_waited_for_and_its_sum_asked_for_again(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = record_opened(monkeypatch)
    script = Script(four)
    script.at("train.step", 2, silence="quay")
    script.at(REVEAL, 3, silence="harbour")
    script.at(JOIN, 2, back="harbour")  # which follows at once
    script.actions[("train.step", 4)] = lambda: script.grid.silent.clear()
    result = four.coordinator().run()
    assert [len(sites) for sites, _ in opened][:4] == [4, 4, 3, 3]
    report = verify_bundle(result.path).report
    assert [drop["round"] for drop in report["evidence"]["dropped"]["harbour"]] == [2]
    for site in four.sites.values():
        phases = Counter(entry.phase for entry in site.ledger.entries())
        assert phases["round 2"] == (site.name != "quay")


def test_a_round_that_a_site_refuses_to_open_ends_the_run_until_it_is_mended(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, script = SiteSums.reveal, Script(four)

    def reveal(self: SiteSums, label: str, *arguments: Any) -> Any:
        if label == "round 2" and self.folder._folder.parts[-3] == "harbour":
            raise FederationError("a share of another sum", code="share_invalid")
        return original(self, label, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr(SiteSums, "reveal", reveal)
        script.at("train.step", 2, silence="quay")
        script.at(JOIN, 2, back="quay")
        with pytest.raises(FederationError, match=r"'round 2' cannot be opened.*resume") as caught:
            four.coordinator().run()
        assert caught.value.code == "sum_lost"
    # Nobody was asked for the round after: without harbour's audit all of it were for nothing.
    phases = [entry.phase for entry in four.sites["harbour"].ledger.entries()]
    assert phases == ["histograms", "round 1", "round 2"]
    report = verify_bundle(four.coordinator().run().path).report
    (drop,) = report["evidence"]["dropped"]["harbour"]
    assert (drop["round"], drop["code"]) == (2, "share_invalid")
    assert sorted(report["sites"]["answered"]) == sorted(four.sites)


def _grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everybody conclude that a release may be, unless a site does not sign."""
    for place in ("pratique_server.release", "pratique_client.conclusion"):

        def concluded(study: StudySpec, evidence: Evidence, rows: Any) -> Any:
            conclusion = conclude_evidence(study, evidence, rows)
            if evidence.vetoes:
                return conclusion
            return replace(conclusion, gate=replace(conclusion.gate, decision="granted"))

        monkeypatch.setattr(f"{place}.conclude_evidence", concluded)


def test_a_run_ends_resumable_while_sites_that_it_needs_are_silent(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few open a sum; later nobody audits without the fourth; and nobody concludes."""
    _grant(monkeypatch)
    four.job = four.job.model_copy(update={"refuse_if_silent": False})
    script = Script(four)
    script.at("train.step", 2, silence="quay")
    script.at(REVEAL, 3, silence="harbour")
    for question, silenced in ((None, None), (AUDIT, "lakeside"), (CONCLUDE, "quay")):
        if question is not None:
            script.at(question, script.sent[question] + 1, silence=silenced)
        with pytest.raises(FederationError, match="then resume the run") as caught:
            four.coordinator().run()
        assert caught.value.code == ("site_lost" if question else "sum_lost")
        assert not list(four.folder.glob("refusal*")) and not list(four.folder.glob("bundle*"))
        script.grid.silent.clear()
    result = four.coordinator().run()
    assert result.decision == "granted"
    report = verify_bundle(result.path).report
    assert sorted(report["sites"]["answered"]) == sorted(four.sites)
    for site in four.sites.values():
        assert max(Counter((e.role, e.phase) for e in site.ledger.entries()).values()) == 1


def test_a_site_that_is_silent_at_the_conclusion_is_waited_for(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _grant(monkeypatch)
    script = Script(four)
    script.at(CONCLUDE, 1, silence="quay")
    script.at(JOIN, 2, back="quay")
    result = four.coordinator().run()
    assert result.decision == "granted"
    assert len(verify_bundle(result.path).signed_by) == 5
    assert script.sent[CONCLUDE] == 2


def test_a_site_that_stays_silent_at_the_conclusion_is_named_in_a_refusal(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _grant(monkeypatch)
    Script(four).at(CONCLUDE, 1, silence="quay")
    result = four.coordinator().run()
    assert result.decision == "refused"
    assert verify_bundle(result.path).report["evidence"]["vetoes"] == {"quay": "timeout"}


def test_a_site_that_never_comes_back_ends_in_a_signed_refusal(four: LocalFederation) -> None:
    assert four.job.refuse_if_silent
    script = Script(four)
    script.at("train.step", 2, silence="quay")
    result = four.coordinator().run()
    assert result.decision == "refused"
    report = verify_bundle(result.path).report
    assert report["evidence"]["dropped"]["quay"][0]["returned"] is None
    rules = {r["rule"] for r in report["reasons"] if not r["passed"]}
    assert "every site that trained audited" in rules
    # Nothing was spent on an audit that could not be whole.
    phases = [entry.phase for entry in four.sites["harbour"].ledger.entries()]
    assert not any(phase.startswith("audit") for phase in phases)


def test_two_missing_sites_of_four_end_the_run(four: LocalFederation) -> None:
    script = Script(four)
    script.at("train.step", 2, silence="quay")
    script.at("train.step", 3, silence="harbour")
    with pytest.raises(FederationError, match="'round 3' cannot be opened") as caught:
        four.coordinator().run()
    assert caught.value.exit_code == 7


def test_a_restarted_daemon_goes_on_with_its_run(four: LocalFederation) -> None:
    """All sessions are forgotten, as by kill -9: keys and roster come back from the disk.

    The whole run costs ε = 3.45 a patient: what was paid before a restart is not counted again.
    """
    file = four.sites["quay"].folder / "site.toml"
    file.write_text(file.read_text().replace("epsilon = 8.0", "epsilon = 3.5"))
    script = Script(four)
    for question in (("train.step", 3), (REVEAL, 4), (AUDIT, 1), (CONCLUDE, 1)):
        script.actions[question] = client_app._sessions.clear
    result = four.coordinator().run()
    report = verify_bundle(result.path).report
    assert report["evidence"]["dropped"] == {}
    failed = [r["rule"] for r in report["reasons"] if r["tier"] == 0 and not r["passed"]]
    assert not failed


def test_a_site_that_trained_cannot_be_left_out_of_the_conclusion(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others opened sums with quay in them: they do not sign that it never was there."""
    original = Coordinator._ask_for_audit

    def without_quay(self: Coordinator, candidate: Any) -> Any:
        self._trained.discard("quay")
        self._federation.drop("quay", ROUNDS, "left_out")
        return original(self, candidate)

    monkeypatch.setattr(Coordinator, "_ask_for_audit", without_quay)
    result = four.coordinator().run()
    signed = {signer.name for signer in verify_bundle(result.path).signed_by}
    assert not signed & set(four.sites)
    assert result.decision != "granted"


def test_sites_sign_beside_keys_that_they_know_and_no_others(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Coordinator.run
    forged = public_hex(Ed25519PrivateKey.generate())

    def run(self: Coordinator) -> Any:
        publish = coordinator_module.publish

        def with_a_forged_key(release: Any, *arguments: Any) -> Any:
            keys = {**release.site_keys, "quay": forged}
            return publish(replace(release, site_keys=keys), *arguments)

        monkeypatch.setattr(coordinator_module, "publish", with_a_forged_key)
        return original(self)

    monkeypatch.setattr(Coordinator, "run", run)
    result = four.coordinator().run()
    signed = {signer.name for signer in verify_bundle(result.path).signed_by}
    assert not signed & set(four.sites)


def test_the_private_mask_key_is_gone_after_the_conclusion(four: LocalFederation) -> None:
    four.coordinator().run()
    for site in four.sites.values():
        state = json.loads((site.folder / "runs" / "run1" / "state.json").read_text())
        assert state["mask_key"] is None


# A coordinator that cheats.


def ask(four: LocalFederation, site: str, kind: str, payload: Payload) -> tuple[Reply, RecordDict]:
    node = dict(zip(four.sites, four.grid.get_node_ids(), strict=True))[site]
    message = Message(pack(payload), dst_node_id=node, message_type=kind)
    (reply,) = four.grid.pull_messages(four.grid.push_messages([message]))
    return unpack(reply.content, Reply), reply.content


def ids(four: LocalFederation) -> dict[str, Any]:
    return {"study_digest": four.study.digest, "run": "r"}


def join_all(four: LocalFederation) -> tuple[SignedMaskKey, ...]:
    keys = []
    for site in four.sites:
        reply, _ = ask(four, site, JOIN, JoinInstructions(**ids(four)))
        assert reply.mask_key is not None
        keys.append(reply.mask_key)
    return tuple(sorted(keys, key=lambda key: key.site))


def show(four: LocalFederation, site: str, keys: tuple[SignedMaskKey, ...]) -> str:
    return ask(four, site, ROSTER, RosterInstructions(keys=keys, **ids(four)))[0].code


def masked_histograms(four: LocalFederation) -> dict[str, Reply]:
    request = HistogramInstructions(participants=tuple(sorted(four.sites)), **ids(four))
    return {site: ask(four, site, HISTOGRAMS, request)[0] for site in four.sites}


def test_a_swapped_key_a_stranger_and_a_second_roster_are_refused(four: LocalFederation) -> None:
    roster = join_all(four)
    other = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    swapped = (roster[0].model_copy(update={"mask_key": other}), *roster[1:])
    stranger = (*roster, roster[0].model_copy(update={"site": "zzz"}))
    for keys in (swapped, stranger, roster[1:], ()):
        assert show(four, "harbour", keys) in {"roster_invalid", "too_few_sites"}
    assert show(four, "harbour", roster[:2]) == "too_few_sites"
    assert show(four, "harbour", roster) == "ok"
    assert show(four, "harbour", roster) == "ok"  # the same again
    assert show(four, "harbour", roster[:3]) == "roster_invalid"


def test_no_sum_leaves_before_a_roster_nor_for_too_few(four: LocalFederation) -> None:
    roster = join_all(four)
    names = tuple(key.site for key in roster)
    request = HistogramInstructions(participants=names, **ids(four))
    assert ask(four, "harbour", HISTOGRAMS, request)[0].code == "no_roster"
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    for participants, code in (
        (names[:2], "too_few_sites"),
        ((), "too_few_sites"),
        (tuple(name for name in names if name != "harbour"), "participants_invalid"),
        ((*names[:3], "zzz"), "participants_invalid"),
    ):
        request = HistogramInstructions(participants=participants, **ids(four))
        assert ask(four, "harbour", HISTOGRAMS, request)[0].code == code
    assert not four.sites["harbour"].ledger.entries()  # refused before anything was spent


def test_a_paid_run_is_never_begun_anew(four: LocalFederation) -> None:
    """Another run's join removes its files; a fresh state would take a second roster."""
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    masked_histograms(four)
    other = JoinInstructions(study_digest=four.study.digest, run="other")
    assert ask(four, "harbour", JOIN, other)[0].code == "ok"
    first = ask(four, "harbour", JOIN, JoinInstructions(**ids(four)))[0]
    assert (first.code, first.mask_key) == ("run_damaged", None)
    assert show(four, "harbour", roster[:3]) != "ok"


def test_asking_twice_does_not_get_past_what_cannot_be_paid(four: LocalFederation) -> None:
    file = four.sites["quay"].folder / "site.toml"
    file.write_text(file.read_text().replace("epsilon = 8.0", "epsilon = 3.2"))
    for _ in range(2):
        reply, _ = ask(four, "quay", JOIN, JoinInstructions(**ids(four)))
        assert reply.code == "budget_exhausted"
    assert not load_site(four.sites["quay"].folder).ledger.entries()


def test_a_joined_run_is_affordable_to_its_end_with_what_it_paid(four: LocalFederation) -> None:
    """A daemon that is started again counts only what is still to pay."""
    file = four.sites["quay"].folder / "site.toml"
    file.write_text(file.read_text().replace("epsilon = 8.0", "epsilon = 4.2"))
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    masked_histograms(four)
    client_app._sessions.clear()
    assert ask(four, "quay", JOIN, JoinInstructions(**ids(four)))[0].code == "ok"


def test_what_is_not_on_disk_does_not_leave_at_the_second_asking(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunFolder, name: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    roster = join_all(four)
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "_write", full)
        assert [show(four, "quay", roster) for _ in range(2)] == ["disk_full"] * 2
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    request = HistogramInstructions(participants=tuple(sorted(four.sites)), **ids(four))
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "_write", full)
        codes = [ask(four, "quay", HISTOGRAMS, request)[0].code for _ in range(2)]
    assert codes == ["disk_full", "disk_full"]
    # Nothing of it left, so it is computed again, and was paid for once.
    first, again = (ask(four, "quay", HISTOGRAMS, request) for _ in range(2))
    assert first[0].code == again[0].code == "ok"
    np.testing.assert_array_equal(unpack_array(first[1], NOISED), unpack_array(again[1], NOISED))
    assert [entry.phase for entry in four.sites["quay"].ledger.entries()] == ["histograms"]


def test_a_made_up_study_ends_nobodys_session_and_loading_is_held(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster = join_all(four)
    file = str(four.sites["quay"].folder / "site.toml")
    made_up = JoinInstructions(study_digest="0" * 64, run="r")
    assert ask(four, "quay", JOIN, made_up)[0].code == "study_not_approved"
    assert file in client_app._sessions
    held: list[str] = []
    hold = client_app._times.hold

    def note(kind: str) -> Any:
        held.append(kind)
        return hold(kind)

    monkeypatch.setattr(client_app._times, "hold", note)
    assert show(four, "quay", roster) == "ok"
    assert held == []
    client_app._sessions.clear()  # as after a restart: the answer loads the records first
    assert show(four, "quay", roster) == "ok"
    assert held == ["join"]


def test_a_new_run_commits_to_the_hold_out_anew(four: LocalFederation) -> None:
    """Else two commitments of two days tell whether the hold-out changed."""
    told = []
    for run in ("x", "y", "x"):
        instructions = JoinInstructions(study_digest=four.study.digest, run=run)
        told.append(ask(four, "quay", JOIN, instructions)[0].holdout_commitment)
    assert len(set(told)) == 3
    again = JoinInstructions(study_digest=four.study.digest, run="x")
    assert ask(four, "quay", JOIN, again)[0].holdout_commitment == told[-1]


def test_one_list_of_survivors_also_after_a_restart(four: LocalFederation) -> None:
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    replies = masked_histograms(four)
    names = tuple(key.site for key in roster)
    sealed = {
        peer: reply.masked.sealed["harbour"]
        for peer, reply in replies.items()
        if peer != "harbour" and reply.masked
    }
    short = tuple(name for name in names if name != "quay")
    countersign = CountersignInstructions(label=HISTOGRAMS_LABEL, survivors=short, **ids(four))
    signature = ask(four, "harbour", COUNTERSIGN, countersign)[0].survivors_signature
    assert signature
    full = RevealInstructions(label=HISTOGRAMS_LABEL, survivors=names, sealed=sealed, **ids(four))
    assert ask(four, "harbour", REVEAL, full)[0].code == "second_list"
    alone = RevealInstructions(
        label=HISTOGRAMS_LABEL, survivors=short, sealed=sealed,
        signatures={"harbour": signature}, **ids(four),
    )  # fmt: skip
    assert ask(four, "harbour", REVEAL, alone)[0].code == "survivors_disputed"
    two = CountersignInstructions(label=HISTOGRAMS_LABEL, survivors=names[:2], **ids(four))
    assert ask(four, "harbour", COUNTERSIGN, two)[0].code == "too_few_survivors"
    client_app._sessions.clear()
    assert ask(four, "harbour", REVEAL, full)[0].code == "second_list"
    request = HistogramInstructions(participants=names, **ids(four))
    assert ask(four, "harbour", HISTOGRAMS, request)[0].masked == replies["harbour"].masked
    fewer = HistogramInstructions(participants=short, **ids(four))
    assert ask(four, "harbour", HISTOGRAMS, fewer)[0].code == "repeated_request"


def test_restarted_sites_never_reuse_masks_or_keys(four: LocalFederation) -> None:
    """Another run has other keys, and a site that paid for the first does not begin it anew."""
    seen: list[bytes] = []
    keys = set()
    for run in ("r1", "r2"):
        roster = []
        for site in four.sites:
            reply, _ = ask(
                four, site, JOIN, JoinInstructions(study_digest=four.study.digest, run=run)
            )
            assert reply.mask_key is not None
            roster.append(reply.mask_key)
        keys |= {key.mask_key for key in roster}
        shown = RosterInstructions(
            keys=tuple(sorted(roster, key=lambda key: key.site)),
            study_digest=four.study.digest, run=run,
        )  # fmt: skip
        for site in four.sites:
            assert ask(four, site, ROSTER, shown)[0].code == "ok"
        request = HistogramInstructions(
            participants=tuple(sorted(four.sites)), study_digest=four.study.digest, run=run
        )
        reply, records = ask(four, "harbour", HISTOGRAMS, request)
        assert reply.code == "ok"
        seen.append(unpack_array(records, NOISED).tobytes())
    assert len(keys) == 8
    assert len(set(seen)) == 2
    again = JoinInstructions(study_digest=four.study.digest, run="r1")
    codes = {site: ask(four, site, JOIN, again)[0].code for site in four.sites}
    assert codes.pop("harbour") == "run_damaged"
    assert set(codes.values()) == {"ok"}  # they paid for nothing in it


def _histograms_in_child(
    folder: Path, digest: str, names: tuple[str, ...], queue: "multiprocessing.Queue[str]"
) -> None:
    session = SiteSession(load_site(folder), digest, "r")
    try:
        queue.put(session.training.histograms(names).words.tobytes().hex()[:64])
    except FederationError as error:
        queue.put(error.code)


def test_forked_clients_asked_for_one_sum_draw_its_noise_once(four: LocalFederation) -> None:
    """Processes of a site hold the same keys: one pays, others refuse or send what it drew."""
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    names = tuple(sorted(four.sites))
    arguments = (four.sites["harbour"].folder, four.study.digest, names, queue)
    children = [context.Process(target=_histograms_in_child, args=arguments) for _ in range(3)]
    for child in children:
        child.start()
    answers = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert len(set(answers) - {"repeated_request"}) == 1
    phases = [entry.phase for entry in four.sites["harbour"].ledger.entries()]
    assert phases == [HISTOGRAMS_LABEL]


def test_refusals_and_answers_of_one_kind_take_one_time(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    session = client_app._sessions[str(four.sites["harbour"].folder / "site.toml")]
    training = four.study.training.model_copy(update={"reply_interval_s": 1.0})
    monkeypatch.setattr(session, "study", four.study.model_copy(update={"training": training}))
    monkeypatch.setattr(client_app, "_is_of", lambda *_: True)  # the digest is another now
    everybody = tuple(sorted(four.sites))
    seconds = []
    for code, participants in (("ok", everybody), ("repeated_request", everybody[:3])):
        request = HistogramInstructions(participants=participants, **ids(four))
        started = time.monotonic()
        assert ask(four, "harbour", HISTOGRAMS, request)[0].code == code
        seconds.append(time.monotonic() - started)
    assert all(1 <= s < 1.9 for s in seconds)


def test_a_slow_answer_does_not_make_those_after_it_too_late(
    four: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator waits two seconds: held to powers of two they would take more than that."""
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    session = client_app._sessions[str(four.sites["harbour"].folder / "site.toml")]
    times = {"reply_interval_s": 0.55, "round_timeout_s": 2.0}
    training = four.study.training.model_copy(update=times)
    monkeypatch.setattr(session, "study", four.study.model_copy(update={"training": training}))
    monkeypatch.setattr(client_app, "_is_of", lambda *_: True)  # the digest is another now
    monkeypatch.setattr(client_app, "_times", ReplyTimes())
    answer = session.training.histograms

    def slow(participants: tuple[str, ...]) -> Submission:
        time.sleep(1.2)
        return answer(participants)

    request = HistogramInstructions(participants=tuple(sorted(four.sites)), **ids(four))
    seconds = []
    for work in (slow, answer):  # the second time it comes from the disk
        monkeypatch.setattr(session.training, "histograms", work)
        started = time.monotonic()
        assert ask(four, "harbour", HISTOGRAMS, request)[0].code == "ok"
        seconds.append(time.monotonic() - started)
    assert all(1.5 <= s < 1.95 for s in seconds)


def test_replies_of_all_sites_have_one_size(four: LocalFederation) -> None:
    """Sites of 400, 300 and 250 patients: what they send differs in no length."""
    roster = join_all(four)
    assert all(show(four, site, roster) == "ok" for site in four.sites)
    sizes = set()
    for reply in masked_histograms(four).values():
        assert reply.masked is not None
        fields = json.loads(reply.model_dump_json())
        names = len(reply.site) + sum(map(len, reply.masked.sealed))
        sizes.add(len(json.dumps(fields)) - names)
    assert len(sizes) == 1
