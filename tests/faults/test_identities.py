"""Two daemons with one identity, a clock ten minutes off, a certificate that has expired."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.faults.conftest import Deploy
from tests.faults.federation import CLIENT, DECISIONS, STRANGER, Federation, done, wait
from tests.faults.hosts import PATH

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_200)]

FAKETIME = shutil.which("faketime", path=PATH)
needs_faketime = pytest.mark.skipif(
    FAKETIME is None, reason="faketime is not here (Debian: apt-get install faketime)"
)


def test_a_second_daemon_with_the_same_identity_is_turned_away(deploy: Deploy) -> None:
    federation = deploy()
    wait(lambda: len(federation.connected()) == 4, "not all are connected")
    copy = federation.folder / "copy"
    shutil.copytree(
        federation.home("lakeside"), copy, ignore=shutil.ignore_patterns("signs", "*.log")
    )
    run = federation.start_run()
    name = federation.wait_for_event(run, set(), kind="phase", phase="histograms")
    second = federation.on(STRANGER, *CLIENT, "start", copy)
    assert second.returncode == 7
    assert "ended by itself" in second.stdout + second.stderr
    assert "Failed to activate SuperNode" in (copy / "supernode.log").read_text()
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS, out
    _, report = federation.result(name)
    assert report["evidence"]["dropped"] == {}
    assert sorted(report["sites"]["answered"]) == sorted(federation.sites)
    own = json.loads(done(federation.on(STRANGER, *CLIENT, "ledger", copy, "--json")))
    assert own["entries"] == []


@needs_faketime
def test_a_clock_ten_minutes_off_is_named_and_the_site_turned_away(deploy: Deploy) -> None:
    federation = deploy()
    wait(lambda: len(federation.connected()) == 4, "not all are connected")
    for offset in ("+10m", "-10m"):
        federation.stop("lakeside")
        federation.wrapped["lakeside"] = (str(FAKETIME), "-f", offset)
        federation.start_daemon("lakeside")
        check = federation.checks("lakeside")["clock"]
        assert not check["passed"]
        assert check["code"] == "clock_wrong"
        wait(lambda: "lakeside" not in federation.connected(), "it is still connected")
    run = federation.start_run()
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS or "lakeside" in out, out
    federation.stop("lakeside")
    del federation.wrapped["lakeside"]
    federation.start_daemon("lakeside")
    wait(lambda: "lakeside" in federation.connected(), "it does not come back")
    assert federation.checks("lakeside")["clock"]["passed"]


def _expire(federation: Federation) -> None:
    """Let the proxy's certificate have ended yesterday; the CA signs it as it signed the other."""
    load = x509.load_pem_x509_certificate
    old, ca = (load((federation.server / f"{name}.crt").read_bytes()) for name in ("server", "ca"))
    key = serialization.load_pem_private_key((federation.server / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=ca.subject,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=30),
        not_valid_after=now - timedelta(days=1),
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    expired = builder.sign(key, hashes.SHA384())
    (federation.server / "server.crt").write_bytes(expired.public_bytes(serialization.Encoding.PEM))


def test_an_expired_certificate_is_named_and_renewed(deploy: Deploy) -> None:
    federation = deploy()
    wait(lambda: len(federation.connected()) == 4, "not all are connected")
    _expire(federation)
    federation.reload_proxy()
    check = federation.checks("harbour")["certificate"]
    assert (check["passed"], check["code"]) == (False, "certificate_expired")
    wait(lambda: not federation.connected(), "a connection outlives its certificate")
    federation.pratique("server", "renew", federation.server)
    federation.reload_proxy()
    assert federation.checks("harbour")["certificate"]["passed"]
    wait(lambda: len(federation.connected()) == 4, "not all came back")
    run = federation.start_run()
    out, _ = run.communicate(timeout=600)
    assert run.returncode in DECISIONS, out
