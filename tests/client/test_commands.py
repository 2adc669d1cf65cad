"""``pratique-client`` as hospital IT runs it: real processes, exit codes, one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from pratique_client.site import load_site
from pratique_common.joining import node_key_pem, read_request
from pratique_common.phantoms.cohort import study_path
from pratique_common.signing import public_hex
from tests.sites import invite

Result = subprocess.CompletedProcess[str]


def client(*arguments: object) -> Result:
    command = [sys.executable, "-m", "pratique_client.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def failed(result: Result, code: int, *words: str) -> None:
    """Check exit code, one sentence on stderr and no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    for word in words:
        assert word in result.stderr + result.stdout


@pytest.fixture
def site(tmp_path: Path, small_cohort: dict[str, Path]) -> Path:
    folder = tmp_path / "harbour"
    invitation = invite(tmp_path / "invitation.json", "harbour")
    result = client("init", invitation, "--folder", folder, "--data", small_cohort["harbour"])
    assert result.returncode == 0, result.stderr
    return folder


def trust_file(site: Path, **changes: str) -> Path:
    """Write what the hospitals exchanged: names and public keys, of which one is this site's."""
    keys = {
        load_site(site).name: (site / "site.pub").read_text().strip(),
        **{name: public_hex(Ed25519PrivateKey.generate()) for name in ("quay", "pier")},
        **changes,
    }
    path = site.with_name("sites.toml")
    path.write_text("".join(f'{name} = "{key}"\n' for name, key in keys.items()))
    return path


def _approve(site: Path) -> None:
    result = client("approve", study_path(), "--site", site, "--sites", trust_file(site), "--yes")
    assert result.returncode == 0, result.stderr


def test_secure_sums_need_the_other_sites_keys(site: Path) -> None:
    own = (site / "site.pub").read_text().strip()
    failed(client("approve", study_path(), "--site", site, "--yes"), 2, "--sites")
    for changes, words in (
        ({"harbour": "0" * 64}, "with the key of site.pub"),
        ({"quay": own}, "one key stands under two names"),
        ({"quay": "not hexadecimal"}, "64 hexadecimal digits"),
    ):
        trust = trust_file(site, **changes)
        result = client("approve", study_path(), "--site", site, "--sites", trust, "--yes")
        failed(result, 2, words)
    assert not list((site / "approved").glob("*"))


def test_init_makes_keys_at_the_site(site: Path, tmp_path: Path) -> None:
    for secret in ("site.key", "node.key"):
        assert (site / secret).stat().st_mode & 0o077 == 0
    assert len((site / "site.pub").read_text().strip()) == 64
    again = client("init", tmp_path / "invitation.json", "--folder", site, "--data", "y.csv")
    failed(again, 2, "exists already")


def test_an_older_key_is_not_overwritten_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "harbour"
    folder.mkdir()
    (folder / "site.key").write_text("precious")
    invitation = invite(tmp_path / "invitation.json", "harbour")
    failed(client("init", invitation, "--folder", folder, "--data", "y.csv"), 2, "a key is here")
    assert [path.name for path in folder.iterdir()] == ["site.key"]


def test_what_leaves_is_public_and_signed(site: Path) -> None:
    request = read_request(site / "request.json")
    assert request.public_key == (site / "site.pub").read_text().strip()
    # Flower reads the private key just so, and it is that of the request.
    private = load_ssh_private_key((site / "node.key").read_bytes(), None)
    assert isinstance(private, EllipticCurvePrivateKey)
    assert public_key_to_bytes(private.public_key()) == node_key_pem(request.node_key)
    sent = (site / "request.json").read_bytes()
    for secret in ("site.key", "node.key"):
        for line in (site / secret).read_bytes().splitlines()[1:-1]:
            assert line not in sent


def test_init_refuses_a_remote_coordinator_without_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    invitation = invite(tmp_path / "i.json", "new", address="pratique.example.org:443")
    failed(client("init", invitation, "--folder", folder, "--data", "x.csv"), 2,
           "root_certificates")  # fmt: skip
    assert not (folder / "site.toml").exists()
    assert not (folder / "site.key").exists()


def test_check_tells_what_to_do_and_then_that_all_is_well(site: Path) -> None:
    failed(client("check", site), 7, "FAIL", "pratique-client approve")
    _approve(site)
    result = client("check", site, "--json")
    assert result.returncode == 0, result.stdout
    checks = json.loads(result.stdout)["checks"]
    assert all(check["passed"] for check in checks)
    assert {check["check"] for check in checks} >= {"site key", "ledger", "data", "budget"}


def test_approve_asks_and_a_no_approves_nothing(site: Path) -> None:
    command = [sys.executable, "-m", "pratique_client.cli", "approve", str(study_path()),
               "--site", str(site), "--sites", str(trust_file(site))]  # fmt: skip
    result = subprocess.run(
        command, input="n\n", capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 130
    assert "What leaves" in result.stdout
    assert "where icu == 'yes': hospitalised == 'yes'" in result.stdout
    assert not list((site / "approved").glob("*")) if (site / "approved").exists() else True


def test_an_approval_that_was_changed_is_refused(site: Path) -> None:
    _approve(site)
    (approval,) = (site / "approved").glob("*.json")
    approval.write_text(approval.read_text().replace('"rounds": 3', '"rounds": 90'))
    failed(client("start", site), 5, "changed after it was signed")


def test_start_needs_an_approved_study(site: Path) -> None:
    failed(client("start", site), 7, "no study is approved")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda t: t.replace("cvd_event", "outcome", 1), 2, ["column 'cvd_event'", "missing"]),
        (lambda t: t.replace(",never,", ",SECRET-LEVEL,"), 2, ["column 'smoking'"]),
        (lambda _: "", 2, ["empty"]),
        (lambda t: "\n".join(t.splitlines()[:5]) + "\n", 4, ["too few patients"]),
    ],
)
def test_bad_data_stop_the_daemon_before_it_connects(
    site: Path, small_cohort: dict[str, Path], tmp_path: Path, change: object, code: int,
    words: list[str],
) -> None:  # fmt: skip
    _approve(site)
    bad = tmp_path / "bad.csv"
    bad.write_text(change(small_cohort["harbour"].read_text()))  # type: ignore[operator]
    file = site / "site.toml"
    file.write_text(file.read_text().replace(str(small_cohort["harbour"]), str(bad)))
    result = client("start", site)
    failed(result, code, "bad.csv", *words)
    assert "SECRET-LEVEL" not in result.stdout + result.stderr
    assert not (site / "supernode.log").exists()


def test_an_exhausted_budget_is_told_by_check(
    tmp_path: Path, small_cohort: dict[str, Path]
) -> None:
    folder = tmp_path / "poor"
    invitation = invite(tmp_path / "invitation.json", "poor")
    client("init", invitation, "--folder", folder, "--data", small_cohort["harbour"],
           "--epsilon", 1)  # fmt: skip
    _approve(folder)
    failed(client("check", folder), 6, "FAIL", "ε = 1 a patient")
    failed(client("start", folder), 6, "nothing was computed")


def test_ledger_shows_the_chain_and_finds_tampering(site: Path) -> None:
    from pratique_client.site import load_site
    from pratique_privacy.accountant import GaussianEvent
    from pratique_privacy.ledger import Charge

    ledger = load_site(site).ledger
    event = GaussianEvent(noise_multiplier=4.0)
    charge = Charge(study="a" * 64, run="r", role="member", phase="audit", event=event)
    ledger.reserve([charge])
    shown = json.loads(client("ledger", site, "--json").stdout)
    assert shown["entries"][0]["phase"] == "audit"
    assert shown["epsilon_spent"] == pytest.approx(ledger.spent())
    assert "chain intact" in client("ledger", site).stdout
    import sqlite3

    with sqlite3.connect(site / "ledger.db") as db:
        db.execute("DROP TRIGGER entries_never_change")
        db.execute("UPDATE entries SET noise_multiplier = 400")
    failed(client("ledger", site), 5, "chain is broken")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("site = 'x'", "source"),
        ("nonsense", "not valid TOML"),
        ("site = 'UPPER'\n[source]\npath='x'\n[budget]\nepsilon=1\ndelta=1e-5\n"
         "[coordinator]\naddress='127.0.0.1:1'", "site"),
    ],
)  # fmt: skip
def test_bad_site_files(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "site.toml").write_text(text)
    failed(client("check", tmp_path), 2, "site.toml", words)


def test_wrong_use_is_2_and_version_is_0(tmp_path: Path) -> None:
    assert client("--version").returncode == 0
    failed(client("check", tmp_path / "nothing"), 2, "no such file")
    failed(client("dance"), 2, "dance")
