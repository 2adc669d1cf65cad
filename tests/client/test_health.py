"""Health, status and metrics of a site, from its folder and over the network."""

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pratique_client.cli import app
from pratique_client.health import CONTACT_LIMIT_S, look, signs_of, status_of
from pratique_client.ledger_witness import require_newest
from pratique_client.metrics import SiteMetrics, serve_metrics
from pratique_client.signs import EXECUTOR, NODE, Signs
from pratique_client.site import Site
from pratique_common.errors import UsageError, VerificationError
from pratique_common.health import probe, require_loopback, serve_health
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.ledger import Charge
from tests.federation.helpers import make_site


@pytest.fixture
def site(tmp_path: Path, small_cohort: dict[str, Path]) -> Site:
    return make_site(tmp_path / "harbour", "harbour", small_cohort["harbour"])


def _charge(phase: str) -> Charge:
    event = GaussianEvent(noise_multiplier=10.0, sample_rate=1.0, num_steps=1)
    return Charge(study="ab" * 32, run="r", role="member", phase=phase, event=event)


def _wells(site: Site) -> dict[str, bool]:
    return {part.name: part.well for part in look(site)}


def _age(site: Site, name: str, seconds: float) -> None:
    path = site.folder / "signs" / name
    os.utime(path, (time.time() - seconds,) * 2)


def _free_port() -> int:
    import socket

    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def test_a_site_is_well_only_while_both_halves_give_signs(site: Site) -> None:
    assert _wells(site) == {"supernode": False, "executor": False, "ledger": True}
    signs = signs_of(site)
    signs.give(NODE)
    signs.give(EXECUTOR)
    assert all(_wells(site).values())
    _age(site, NODE, CONTACT_LIMIT_S + 5)
    assert _wells(site) == {"supernode": False, "executor": True, "ledger": True}
    _age(site, NODE, 0)
    _age(site, EXECUTOR, 60)
    assert _wells(site) == {"supernode": True, "executor": False, "ledger": True}


def test_a_sign_touches_the_disk_once_a_second_and_no_disk_stops_it(tmp_path: Path) -> None:
    signs = Signs(tmp_path)
    signs.give(NODE)
    _before = (tmp_path / NODE).stat().st_mtime_ns
    signs.give(NODE)
    assert (tmp_path / NODE).stat().st_mtime_ns == _before
    Signs(tmp_path / "gone").give(NODE)
    assert Signs(tmp_path / "gone").age_s(NODE) is None


def test_a_restored_old_ledger_is_noticed(site: Site) -> None:
    ledger = site.ledger.path
    site.reserve([_charge("histograms")])
    old = site.folder / "backup.db"
    _copy(ledger, old)
    site.reserve([_charge("round 1"), _charge("round 2")])
    assert require_newest(site) == site.ledger.verify()
    for part in ("", "-wal", "-shm"):
        Path(f"{ledger}{part}").unlink(missing_ok=True)
    shutil.move(old, ledger)
    site.ledger.verify()  # its own chain is intact
    with pytest.raises(VerificationError, match="older than the security log") as caught:
        require_newest(site)
    assert caught.value.code == "ledger_older"
    assert _wells(site)["ledger"] is False
    result = CliRunner().invoke(app, ["check", str(site.folder), "--json"])
    found = {check["check"]: check["passed"] for check in json.loads(result.output)["checks"]}
    assert found["ledger"] is False


def _copy(source: Path, target: Path) -> None:
    import sqlite3

    with sqlite3.connect(source) as db, sqlite3.connect(target) as copy:
        db.backup(copy)


def test_status_says_what_runs_what_was_spent_and_what_was_refused(site: Site) -> None:
    state = site.subfolder("runs") / "r" / "state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"study": "ab" * 32, "mask_key": "secret-0815"}))
    found = status_of(site)
    assert found.doing is not None and found.doing.phase == "joined"
    site.reserve([_charge("histograms"), _charge("round 1")])
    site.security.record("refused", code="repeated_request", question="step", run="r")
    found = status_of(site)
    assert found.doing is not None
    assert (found.doing.run, found.doing.phase) == ("r", "round 1")
    assert found.epsilon_spent == pytest.approx(site.ledger.spent())
    result = CliRunner().invoke(app, ["status", str(site.folder)], standalone_mode=False)
    assert result.return_value == 7  # no daemon runs
    for words in ("NOT WELL", "round 1, paid for at", "step: repeated_request"):
        assert words in result.output
    assert "secret-0815" not in result.output
    signs_of(site).give(NODE)
    signs_of(site).give(EXECUTOR)
    as_json = CliRunner().invoke(app, ["status", str(site.folder), "--json"], standalone_mode=False)
    assert as_json.return_value == 0
    assert json.loads(as_json.output)["well"] is True


def test_the_health_service_answers_for_all_and_for_each_part() -> None:
    parts = {"supernode": True, "ledger": True}
    address = f"127.0.0.1:{_free_port()}"
    server = serve_health(address, lambda: parts)
    try:
        assert probe(address) and probe(address, "ledger")
        parts["supernode"] = False
        assert not probe(address) and probe(address, "ledger")
        assert not probe(address, "nothing")
        with pytest.raises(UsageError, match="in use"):
            serve_health(address, lambda: parts)
    finally:
        server.stop(None)
    assert not probe(address)


@pytest.mark.parametrize("address", ["0.0.0.0:9095", "example.org:1", "127.0.0.1", "127.0.0.1:x"])
def test_health_and_metrics_stay_on_this_machine(address: str) -> None:
    with pytest.raises(UsageError, match="127"):
        require_loopback(address, "--health")


def test_metrics_count_events_and_tell_the_budget(site: Site) -> None:
    address = f"127.0.0.1:{_free_port()}"
    stop = serve_metrics(address, SiteMetrics(site))
    try:
        site.reserve([_charge("histograms"), _charge("round 1")])
        site.security.record("refused", code="repeated_request", question="step")
        signs_of(site).give(NODE)
        with urllib.request.urlopen(f"http://{address}/metrics") as reply:
            lines = reply.read().decode().splitlines()
    finally:
        stop()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["pratique_rounds_total"] == "1.0"
    assert values['pratique_refusals_total{code="repeated_request"}'] == "1.0"
    assert float(values["pratique_epsilon_spent"]) == pytest.approx(site.ledger.spent())
    assert float(values["pratique_contact_age_seconds"]) < 5
    assert values['pratique_well{part="executor"}'] == "0.0"
