"""The way to the coordinator: clocks, proxies, files. Real connections: test_deployed."""

import os
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from pratique_client.connection import (
    EXPIRES_SOON_DAYS,
    _clock,
    load_node_key,
    look_at_connection,
    proxy_environment,
    trusted_roots,
)
from pratique_client.site import CoordinatorSettings, Site, load_site
from pratique_common.errors import FederationError, InvalidFileError
from pratique_server.deployment import certificates
from pratique_server.deployment.certificates import create_ca, create_certificate
from tests.federation.deployed import client, done
from tests.sites import invite

NOW = 1_800_000_000.0


class Handler(BaseHTTPRequestHandler):
    """A coordinator's proxy whose SuperLink is away, with a clock of its own."""

    ahead_s = 0.0

    def do_GET(self) -> None:
        self._answer(403)

    def do_POST(self) -> None:
        self._answer(502)

    def _answer(self, status: int) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() + self.ahead_s, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()


@dataclass
class Coordinator:
    """Something that answers over TLS, and a site that was invited to it."""

    server: ThreadingHTTPServer
    folder: Path
    site: Site

    def findings(self) -> dict[str, str | FederationError]:
        return dict(look_at_connection(self.site))


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    create_ca(tmp_path / "ca.key", tmp_path / "ca.crt", host="localhost")
    yield from _serving(tmp_path)


def _serving(folder: Path) -> Iterator[Coordinator]:
    files = {"ca_key": folder / "ca.key", "ca": folder / "ca.crt"}
    create_certificate(folder / "server.key", folder / "server.crt", hosts=["localhost"], **files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    invitation = invite(folder / "i.json", "quay", address=f"localhost:{server.server_port}",
                        root_certificates=(folder / "ca.crt").read_text())  # fmt: skip
    done(client("init", invitation, "--folder", folder / "quay", "--data", "rows.csv"))
    yield Coordinator(server, folder, load_site(folder / "quay"))
    server.shutdown()
    server.server_close()


def failed(findings: dict[str, str | FederationError], title: str, code: str) -> str:
    """Check that this check failed, with this code, and that it was the last one."""
    last = list(findings)[-1]
    error = findings[last]
    assert last == title, findings
    assert isinstance(error, FederationError)
    assert error.code == code
    return str(error)


def test_a_coordinator_whose_superlink_is_away_is_told(coordinator: Coordinator) -> None:
    findings = coordinator.findings()
    assert "SuperLink does not (HTTP 502)" in failed(findings, "identity", "superlink_unreachable")
    assert findings["proxy"] == "none: the daemon connects directly"
    assert "TLSv1.3" in str(findings["certificate"])


@pytest.mark.parametrize(("ahead_s", "side"), [(600, "behind"), (-600, "ahead of")])
def test_a_clock_ten_minutes_off_is_told(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, ahead_s: float, side: str
) -> None:
    monkeypatch.setattr(Handler, "ahead_s", ahead_s)
    assert side in failed(coordinator.findings(), "clock", "clock_wrong")


def test_an_expired_certificate_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_ca(tmp_path / "ca.key", tmp_path / "ca.crt", host="localhost")
    monkeypatch.setattr(certificates, "_BACKDATED", timedelta(days=2))
    monkeypatch.setattr(certificates, "SERVER_DAYS", -1)
    for coordinator in _serving(tmp_path):
        told = failed(coordinator.findings(), "certificate", "certificate_expired")
        assert "pratique server renew" in told


def test_a_certificate_that_expires_soon_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_ca(tmp_path / "ca.key", tmp_path / "ca.crt", host="localhost")
    monkeypatch.setattr(certificates, "SERVER_DAYS", EXPIRES_SOON_DAYS - 1)
    for coordinator in _serving(tmp_path):
        assert "expires soon" in str(coordinator.findings()["certificate"])


def test_a_firewall_that_opens_tls_is_told(coordinator: Coordinator) -> None:
    create_ca(coordinator.folder / "x.key", coordinator.site.folder / "ca.crt", host="localhost")
    assert "firewall" in failed(coordinator.findings(), "certificate", "certificate_refused")


def test_nobody_there_and_a_proxy_that_is_none(coordinator: Coordinator) -> None:
    file = coordinator.site.folder / "site.toml"
    text = file.read_text()
    file.write_text(text + 'proxy = "http://127.0.0.1:1"\n')
    broken = Coordinator(coordinator.server, coordinator.folder, load_site(file))
    assert "http://127.0.0.1:1" in failed(broken.findings(), "proxy", "proxy_failed")
    file.write_text(text.replace(f":{coordinator.server.server_port}", ":1"))
    away = Coordinator(coordinator.server, coordinator.folder, load_site(file))
    told = failed(away.findings(), "connection", "coordinator_unreachable")
    assert "let this machine connect out" in told


def test_a_proxys_password_is_not_shown(coordinator: Coordinator) -> None:
    file = coordinator.site.folder / "site.toml"
    file.write_text(file.read_text() + 'proxy = "http://daemon:SECRET@127.0.0.1:1"\n')
    broken = Coordinator(coordinator.server, coordinator.folder, load_site(file))
    told = failed(broken.findings(), "proxy", "proxy_failed")
    assert "http://...@127.0.0.1:1" in told
    assert "SECRET" not in told


def test_looking_leaves_the_environment_as_it_was(coordinator: Coordinator) -> None:
    before = dict(os.environ)
    coordinator.findings()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("ahead_s", "right"), [(0, True), (4, True), (7, False), (-300, True), (-306, False)]
)
def test_the_clock_may_be_as_far_off_as_flower_takes(ahead_s: int, right: bool) -> None:
    """Flower takes a signed time that is up to 5 s in its future and 305 s in its past."""
    assert (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE) == (5, 300)
    reply = httpx.Response(403, headers={"date": formatdate(NOW, usegmt=True)})
    found = _clock(reply, NOW + ahead_s)
    assert isinstance(found, str) is right
    if isinstance(found, FederationError):
        assert "NTP" in str(found)
        assert ("ahead of" if ahead_s > 0 else "behind") in str(found)


def test_a_proxy_that_hides_the_time_stops_nothing() -> None:
    assert "does not tell" in str(_clock(httpx.Response(403), NOW))


@pytest.mark.parametrize(
    ("environment", "listed"),
    [
        ({}, "127.0.0.1"),
        ({"NO_PROXY": "intra.example"}, "intra.example,127.0.0.1"),
        ({"no_proxy": "a, b", "NO_PROXY": "c"}, "a,b,127.0.0.1"),
        ({"NO_PROXY": "127.0.0.1"}, "127.0.0.1"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_the_loopback_address_is_never_asked_of_a_proxy(
    environment: dict[str, str], listed: str
) -> None:
    settings = CoordinatorSettings(address="127.0.0.1:1", public_key="0" * 64)
    changes = proxy_environment(settings, environment)
    assert changes == {"NO_PROXY": listed, "no_proxy": listed}
    with_proxy = settings.model_copy(update={"proxy": "http://proxy:3128"})
    changes = proxy_environment(with_proxy, environment)
    assert changes["https_proxy"] == changes["HTTPS_PROXY"] == "http://proxy:3128"


def _site(tmp_path: Path) -> Site:
    invitation = invite(tmp_path / "i.json", "quay", address="pratique.example.org:443",
                        root_certificates="no certificate")  # fmt: skip
    done(client("init", invitation, "--folder", tmp_path / "quay", "--data", "rows.csv"))
    return load_site(tmp_path / "quay")


def test_bad_files_are_told_with_their_remedy(tmp_path: Path) -> None:
    site = _site(tmp_path)
    with pytest.raises(InvalidFileError, match=r"ca\.crt: holds no certificates"):
        trusted_roots(site)
    load_node_key(site)
    key = site.folder / "node.key"
    key.write_text((site.folder / "site.key").read_text())
    with pytest.raises(InvalidFileError, match="not an ECDSA P-384 key"):
        load_node_key(site)
    key.unlink()
    with pytest.raises(InvalidFileError, match="no such key file"):
        load_node_key(site)


@pytest.mark.parametrize(
    "proxy", ["proxy:3128", "https://proxy:3128", "http://proxy", "socks5://p:1"]
)
def test_a_proxy_is_named_by_an_http_address(tmp_path: Path, proxy: str) -> None:
    invitation = invite(tmp_path / "i.json", "quay")
    result = client("init", invitation, "--folder", tmp_path / "quay", "--data", "rows.csv",
                    "--proxy", proxy)  # fmt: skip
    assert isinstance(result.exception, InvalidFileError)
    assert "coordinator.proxy" in str(result.exception)
    assert not (tmp_path / "quay" / "site.key").exists()
