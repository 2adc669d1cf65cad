"""No value of a record is in anything that leaves a site, nor in any log, whatever goes wrong."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from pratique_client.site import Site
from pratique_client.sources.table_file import TableFile
from pratique_common.console import log_to_file
from pratique_common.errors import FederationError, InvalidFileError
from pratique_common.messages import HISTOGRAMS, JOIN, HistogramInstructions, JoinInstructions, pack
from pratique_common.study import load_study
from tests.federation.helpers import LocalFederation, make_federation
from tests.federation.marks import LEVEL, NUMBER, PATIENT, TEXTS, found_below, found_in, plant


@pytest.fixture
def federation(tmp_path: Path, small_cohort: dict[str, Path]) -> LocalFederation:
    from pratique_common.phantoms.cohort import study_path

    text = study_path().read_text().replace("[release]\n", "[release]\nrows = 400\n")
    text = text.replace("expected_patients = 12000", "expected_patients = 950")
    study = tmp_path / "quick.toml"
    study.write_text(text + "\n[training]\nrounds = 2\nround_timeout_s = 5\nreply_interval_s = 0\n")
    records = tmp_path / "records"
    records.mkdir()
    marked = {name: plant(path, records / path.name) for name, path in small_cohort.items()}
    folder = tmp_path / "federation"
    folder.mkdir()
    return make_federation(folder, load_study(study), study, marked)


@pytest.fixture(autouse=True)
def application_log(federation: LocalFederation) -> Iterator[Path]:
    """Write the application's log as a daemon does."""
    logger = logging.getLogger("pratique")
    before = list(logger.handlers)
    path = federation.folder / "site.log"
    log_to_file(path)
    yield path
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()


def _nothing_left(federation: LocalFederation) -> None:
    assert federation.grid.sent
    for wire in federation.grid.sent:
        assert found_in(wire) == []
    assert found_below(federation.folder) == {}


def _table_of(site: Site) -> Path:
    source = site.settings.source
    assert isinstance(source, TableFile)
    return source.file(site.site_file)


def _security(federation: LocalFederation, site: str) -> list[dict[str, Any]]:
    lines = (federation.folder / site / "security.log").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_search_finds_what_was_planted(federation: LocalFederation, tmp_path: Path) -> None:
    for site in federation.sites.values():
        assert set(TEXTS) <= set(found_in(_table_of(site).read_bytes()))
    np.save(tmp_path / "x.npy", np.array([1.0, NUMBER]))
    assert found_below(tmp_path, but=(tmp_path / "records").iterdir()) == {
        "x.npy": [f"{NUMBER} as a float"]
    }


def test_a_whole_run_shows_no_record(federation: LocalFederation) -> None:
    result = federation.coordinator().run()
    _nothing_left(federation)
    for site in federation.sites:
        events = [entry["event"] for entry in _security(federation, site)]
        assert events.count("spent") == 6  # histograms, two rounds, two roles' audit, utility
        for event in ("key_made", "approved", "joined", "opened", "key_used"):
            assert event in events
        # A refusal is signed, too.
        assert events[-1] == "signed"
    server = (federation.folder / "security.log").read_text().splitlines()
    decided = json.loads(server[-1])
    assert (decided["event"], decided["decision"]) == ("decided", result.decision)
    assert [json.loads(line)["site"] for line in server[:3]] == list(federation.sites)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("pratique_client.session.load_patients", ValueError(f"could not convert {LEVEL}")),
        ("pratique_client.site.Site.load_table", KeyError(PATIENT)),
        ("pratique_client.training.exact_histograms", RuntimeError(f"{PATIENT}: {NUMBER}")),
        ("pratique_client.sums.SiteSums.submit", UnicodeError(PATIENT)),
        ("pratique_client.session.require", FederationError("no", code="study_not_approved")),
        (
            "pratique_client.session.load_patients",
            InvalidFileError("x.csv", problem="bad", remedy="mend it", code="column_missing"),
        ),
    ],
)
def test_no_exception_shows_a_record(
    where: str, error: Exception, federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Explosive:
        def __call__(self, *_: object, **__: object) -> None:
            raise error

        def __getitem__(self, _: object) -> None:
            raise error

    monkeypatch.setattr(where, Explosive())
    with pytest.raises(FederationError):
        federation.coordinator().run()
    _nothing_left(federation)
    refused = [e for e in _security(federation, "harbour") if e["event"] == "refused"]
    assert refused[0]["code"] == getattr(error, "code", "internal_error")
    assert refused[0]["study"] == federation.study.digest
    server = (federation.folder / "security.log").read_text()
    assert json.loads(server.splitlines()[0])["event"] in ("joined", "dropped")


def test_bad_rows_are_refused_without_being_shown(federation: LocalFederation) -> None:
    site = federation.sites["harbour"]
    text = _table_of(site).read_text()
    _table_of(site).write_text(text.replace(",never,", f",{LEVEL},"))
    with pytest.raises(FederationError, match="harbour: "):
        federation.coordinator().run()
    _nothing_left(federation)


def test_questions_of_a_curious_coordinator_leave_no_text_in_the_log(
    federation: LocalFederation,
) -> None:
    """Whatever a question holds, the security log writes only what has the form of its field."""
    node = federation.grid.get_node_ids()[0]
    ids = {"study_digest": federation.study.digest, "run": "r"}
    questions = [
        (JOIN, pack(JoinInstructions(study_digest="0" * 64, run="r"))),
        (HISTOGRAMS, pack(HistogramInstructions(participants=(PATIENT,), **ids))),
        (JOIN, pack(HistogramInstructions(participants=(PATIENT,), **ids))),
    ]
    for kind, content in questions:
        message = Message(content, dst_node_id=node, message_type=kind)
        federation.grid.pull_messages(federation.grid.push_messages([message]))
    assert found_below(federation.folder) == {}
    refused = [e for e in _security(federation, "harbour") if e["event"] == "refused"]
    assert [(e["question"], e["code"]) for e in refused] == [
        ("join", "study_not_approved"),
        ("histograms", "not_joined"),
        ("join", "malformed_message"),
    ]
