"""A coordinator that ends at any moment goes on where it was: nothing is drawn or paid twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pratique_client import app as client_app_module
from pratique_common.bundle import verify_bundle
from pratique_common.errors import FederationError
from pratique_common.phantoms.cohort import study_path
from pratique_common.study import load_study
from pratique_server.checkpoint import Checkpoint
from pratique_server.coordinator import RunResult
from pratique_server.job import SUMS_FOLDER
from tests.federation.helpers import LocalFederation, make_federation


class PowerCutError(BaseException):
    """Not even ``except Exception`` sees it, as nothing sees a power cut."""


@pytest.fixture
def federation(tmp_path: Path, small_cohort: dict[str, Path]) -> LocalFederation:
    return _federation(tmp_path, small_cohort)


def _federation(folder: Path, data: dict[str, Path], extra: str = "") -> LocalFederation:
    text = study_path().read_text() + (
        "\n[training]\nrounds = 2\nround_timeout_s = 2\nreply_interval_s = 0\n"
    )
    text = text.replace("[release]\n", "[release]\nrows = 400\n")
    text = text.replace("expected_patients = 12000", "expected_patients = 950")
    path = folder / "study.toml"
    path.write_text(text.replace("[privacy]\n", f"[privacy]\n{extra}"))
    return make_federation(folder, load_study(path), path, data)


def _cut_after(federation: LocalFederation, messages: int) -> RunResult | None:
    """Let the coordinator send so many kinds of questions and then end it; None if it ended."""
    push, sent = federation.grid.push_messages, 0

    def counted(pushed: Any) -> Any:
        nonlocal sent
        if sent == messages:
            raise PowerCutError
        sent += 1
        return push(pushed)

    federation.grid.push_messages = counted  # type: ignore[method-assign]
    try:
        return federation.coordinator().run()
    except PowerCutError:
        return None
    finally:
        federation.grid.push_messages = push  # type: ignore[method-assign]


def _paid(federation: LocalFederation) -> set[tuple[tuple[str, str], ...]]:
    """Return every site's phases, each of which stands once in a whole ledger."""
    found = set()
    for site in federation.sites.values():
        site.ledger.verify()
        phases = [(entry.role, entry.phase) for entry in site.ledger.entries()]
        assert max(Counter(phases).values()) == 1
        found.add(tuple(sorted(phases)))
    return found


@pytest.mark.parametrize("daemons_too", [False, True])
def test_a_run_goes_on_after_a_power_cut_at_every_question(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, daemons_too: bool
) -> None:
    """After each question of a run, and between the last signature and the bundle."""

    def start(questions: int) -> RunResult | None:
        if daemons_too:
            client_app_module._sessions.clear()
        return _cut_after(federation, questions)

    # Every start joins and shows the roster; then a sum is asked for and, the next time, opened.
    for questions in (1, 2, *(3, 4) * 3, 3, 4):
        assert start(questions) is None

    def cut(*_: Any) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr("pratique_server.release.write_bundle", cut)
        assert start(99) is None
    assert not list(federation.folder.glob("bundle*"))
    assert not list(federation.folder.glob("refusal*"))
    result = start(99)
    assert result is not None
    bundle = verify_bundle(result.path)
    evidence = bundle.report["evidence"]
    assert evidence["rounds_done"] == 2
    assert set(evidence["answers"]) == set(federation.sites)
    assert evidence["vetoes"] == {}
    (phases,) = _paid(federation)
    kinds = Counter(phase.partition(" ")[0] for _, phase in phases)
    assert kinds == {"histograms": 1, "round": 2, "audit": 2, "utility": 1}
    assert evidence["budgets"].keys() == federation.sites.keys()


def test_sums_are_read_back_as_they_were_opened(federation: LocalFederation) -> None:
    assert _cut_after(federation, 6) is None
    checkpoint = Checkpoint(federation.folder / SUMS_FOLDER)
    assert checkpoint.num_sums() == 2
    opened = checkpoint.sum(0)
    assert opened is not None and opened.sites == tuple(sorted(federation.sites))
    assert opened.vectors().shape == (3, len(opened.total))
    before = [entry.hash for s in federation.sites.values() for entry in s.ledger.entries()]
    assert _cut_after(federation, 2) is None
    again = Checkpoint(federation.folder / SUMS_FOLDER).sum(0)
    assert again is not None
    np.testing.assert_array_equal(again.total, opened.total)
    after = [entry.hash for s in federation.sites.values() for entry in s.ledger.entries()]
    assert after == before


def test_a_site_that_is_gone_when_the_run_goes_on_is_missing_by_name(
    tmp_path: Path, small_cohort: dict[str, Path]
) -> None:
    data = {**small_cohort, "quay": small_cohort["lakeside"]}
    federation = _federation(tmp_path, data, "tolerated_dropouts = 1\n")
    assert _cut_after(federation, 2) is None  # who is asked is on disk
    gone = sorted(federation.sites)[0]
    federation.grid.silent.add(federation.grid.get_node_ids()[list(federation.sites).index(gone)])
    result = federation.coordinator().run()
    report = verify_bundle(result.path).report
    (drop,) = report["evidence"]["dropped"][gone]
    assert drop["code"] == "timeout"
    assert gone not in report["evidence"]["trained"]


def test_a_sum_whose_survivors_are_fixed_waits_for_each_of_them(
    tmp_path: Path, small_cohort: dict[str, Path]
) -> None:
    data = {**small_cohort, "quay": small_cohort["lakeside"]}
    federation = _federation(tmp_path, data, "tolerated_dropouts = 1\n")
    federation.job = federation.job.model_copy(update={"refuse_if_silent": False})
    assert _cut_after(federation, 3) is None  # answers are on the sites' disks, survivors on ours
    federation.grid.silent.add(federation.grid.get_node_ids()[list(federation.sites).index("quay")])
    with pytest.raises(FederationError, match=r"quay: timeout.*resume") as caught:
        federation.coordinator().run()
    assert caught.value.code == "sum_lost"
    federation.grid.silent.clear()
    report = verify_bundle(federation.coordinator().run().path).report
    assert set(report["evidence"]["answers"]) == set(federation.sites)
    assert len(_paid(federation)) == 1


def test_other_software_cannot_go_on_with_another_table(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Join, roster, three sums of two questions each, and the audit.
    assert _cut_after(federation, 9) is None
    monkeypatch.setattr("pratique_privacy.post_processing.candidate._POOL_FACTOR", 12)
    with pytest.raises(FederationError, match="versions") as caught:
        federation.coordinator().run()
    assert caught.value.code == "candidate_mismatch"


def test_a_site_that_was_missing_and_is_back_when_the_run_goes_on_counts_as_back(
    tmp_path: Path, small_cohort: dict[str, Path]
) -> None:
    data = {**small_cohort, "quay": small_cohort["lakeside"]}
    federation = _federation(tmp_path, data, "tolerated_dropouts = 1\n")
    quay = federation.grid.get_node_ids()[list(federation.sites).index("quay")]
    assert _cut_after(federation, 4) is None  # the histograms, of everybody
    federation.grid.silent.add(quay)
    assert _cut_after(federation, 7) is None  # a round, whose survivors countersign
    assert _cut_after(federation, 2) is None  # still missing: this is no second time
    federation.grid.silent.clear()
    report = verify_bundle(federation.coordinator().run().path).report
    (drop,) = report["evidence"]["dropped"]["quay"]
    assert drop["round"] == 1 and drop["returned"] is not None
    assert set(report["evidence"]["answers"]) == set(federation.sites)
    failed = [r["rule"] for r in report["reasons"] if r["tier"] in (0, 1) and not r["passed"]]
    assert not failed


@pytest.mark.parametrize("rest", [b"{", b"PK\x03\x04", b""])
@pytest.mark.parametrize("name", ["joined.json", "asked.json", "00000.npz"])
def test_a_damaged_checkpoint_ends_in_words(
    federation: LocalFederation, name: str, rest: bytes
) -> None:
    assert _cut_after(federation, 3 if name == "asked.json" else 4) is None
    (federation.folder / SUMS_FOLDER / name).write_bytes(rest)
    with pytest.raises(FederationError, match="damaged"):
        federation.coordinator().run()
