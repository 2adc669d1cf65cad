"""A coordinator's folder by its commands: certificates, invitations, requests, who is taken in."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pratique_common.errors import InvalidFileError, UsageError, VerificationError
from pratique_common.joining import (
    read_invitation,
    read_request,
    write_invitation,
    write_request,
)
from pratique_common.signing import fingerprint, load_key, load_trust, public_hex
from pratique_server.deployment.certificates import (
    SERVER_DAYS,
    create_ca,
    create_certificate,
    days_left,
    load_certificate,
    require_handshake,
)
from pratique_server.deployment.folder import load_server
from pratique_server.deployment.joining import accepted
from tests.federation.deployed import client, done, pratique
from tests.sites import invite

HOST = "pratique.example.org"


def failing(error: type[Exception], words: str, result: object) -> None:
    """Check that a command failed with this error and says these words."""
    assert result.exit_code != 0  # type: ignore[attr-defined]
    with pytest.raises(error, match=words):
        raise result.exception  # type: ignore[attr-defined]


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "coordinator"
    # Ports that nothing listens on: no SuperLink runs here.
    done(pratique("server", "init", folder, "--host", HOST, "--superlink-port", 1,
                  "--health-port", 1))  # fmt: skip
    return folder


@pytest.fixture
def request_file(server: Path, tmp_path: Path) -> Path:
    return _join(server, "cleveland", tmp_path)


def _join(server: Path, name: str, tmp_path: Path) -> Path:
    invitation = tmp_path / f"{name}.json"
    done(pratique("server", "invite", server, name, "--out", invitation))
    done(client("init", invitation, "--folder", tmp_path / name, "--data", "rows.csv"))
    return tmp_path / name / "request.json"


def _told(request_file: Path) -> str:
    return fingerprint(read_request(request_file).public_key)


def test_the_ca_signs_for_this_coordinator_and_for_nothing_below_it(server: Path) -> None:
    ca = load_certificate(server / "ca.crt")
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value.ca and basic.value.path_length == 0
    names = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert names.critical
    assert names.value.permitted_subtrees is not None
    assert {str(name.value) for name in names.value.permitted_subtrees} == {
        HOST, "localhost", "127.0.0.1/32",
    }  # fmt: skip
    leaf = load_certificate(server / "server.crt")
    for certificate in (ca, leaf, load_certificate(server / "superlink.crt")):
        assert isinstance(certificate.public_key().curve, SECP384R1)  # type: ignore[union-attr]
    assert days_left(server / "server.crt") in (SERVER_DAYS - 1, SERVER_DAYS)
    assert days_left(server / "ca.crt") > 9 * 365
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.OID_SERVER_AUTH]


def test_a_client_trusts_the_servers_certificate_for_its_name_alone(
    server: Path, tmp_path: Path
) -> None:
    files = {"certificate": server / "server.crt", "key": server / "server.key"}
    require_handshake(**files, ca=server / "ca.crt", host=HOST)
    with pytest.raises(InvalidFileError, match=r"other\.example\.org"):
        require_handshake(**files, ca=server / "ca.crt", host="other.example.org")
    create_ca(tmp_path / "x.key", tmp_path / "x.crt", host=HOST)
    with pytest.raises(InvalidFileError, match="would refuse it"):
        require_handshake(**files, ca=tmp_path / "x.crt", host=HOST)


def test_a_stolen_ca_key_opens_no_other_name(server: Path, tmp_path: Path) -> None:
    files = (tmp_path / "bank.key", tmp_path / "bank.crt")
    create_certificate(*files, ca_key=server / "ca.key", ca=server / "ca.crt",
                       hosts=["bank.example.com"])  # fmt: skip
    with pytest.raises(InvalidFileError, match="permitted subtree"):
        require_handshake(key=files[0], certificate=files[1], ca=server / "ca.crt",
                          host="bank.example.com")  # fmt: skip


def test_an_address_can_stand_for_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    done(pratique("server", "init", folder, "--host", "192.0.2.7"))
    require_handshake(certificate=folder / "server.crt", key=folder / "server.key",
                      ca=folder / "ca.crt", host="192.0.2.7")  # fmt: skip


def test_own_certificates_are_taken_if_a_hospital_would_trust_them(
    server: Path, tmp_path: Path
) -> None:
    own = ("--certificate", server / "server.crt", "--key", server / "server.key")
    roots = ("--ca", server / "ca.crt")
    new = tmp_path / "second"
    failing(UsageError, "go together", pratique("server", "init", new, "--host", HOST, *own))
    wrong_key = ("--certificate", server / "server.crt", "--key", server / "ca.key")
    for options, words in (
        (("--host", "else.example.org", *own, *roots), "would refuse it"),
        (("--host", HOST, *wrong_key, *roots), "of its own key"),
        (("--host", HOST, *own, "--ca", server / "server.key"), "not certificates in PEM"),
    ):
        failing(InvalidFileError, words, pratique("server", "init", new, *options))
        assert not new.exists()
    done(pratique("server", "init", new, "--host", HOST, *own, *roots))
    assert not (new / "server.key").exists()
    assert f"ssl_certificate     {server / 'server.crt'};" in (new / "nginx.conf").read_text()
    done(pratique("server", "invite", new, "cleveland", "--out", tmp_path / "i.json"))
    shown = read_invitation(tmp_path / "i.json").root_certificates
    assert shown == (server / "ca.crt").read_text()
    before = (server / "server.crt").read_bytes()
    done(pratique("server", "renew", new))
    assert (server / "server.crt").read_bytes() == before


def test_renewing_changes_the_servers_key_and_not_what_hospitals_trust(server: Path) -> None:
    before = {name: (server / name).read_bytes() for name in ("ca.crt", "server.crt", "server.key")}
    done(pratique("server", "renew", server))
    assert (server / "ca.crt").read_bytes() == before["ca.crt"]
    assert (server / "server.crt").read_bytes() != before["server.crt"]
    assert (server / "server.key").read_bytes() != before["server.key"]
    assert (server / "server.key").stat().st_mode & 0o077 == 0


def test_a_folder_is_made_once_and_its_settings_are_checked(server: Path) -> None:
    again = pratique("server", "init", server, "--host", HOST)
    failing(InvalidFileError, "a coordinator is here already", again)
    file = server / "server.toml"
    text = file.read_text()
    for change, words in (
        (("port = 443", "port = 0"), "port"),
        (("port = 443", "port = 443\nnew = 1"), "unknown field"),
        (("host =", "hosts ="), "host: this field is missing"),
    ):
        file.write_text(text.replace(*change, 1))
        with pytest.raises(InvalidFileError, match=words):
            load_server(server)
    missing = pratique("server", "sites", server.parent)
    failing(InvalidFileError, "pratique server init", missing)


def test_the_proxy_forwards_one_path_to_the_loopback_address(server: Path) -> None:
    text = (server / "nginx.conf").read_text()
    assert text.count("proxy_pass ") == text.count("proxy_pass https://127.0.0.1:1;") == 1
    assert [line.split() for line in text.splitlines() if line.strip().startswith("location")] == [
        ["location", "^~", "/v1/fleet/", "{"],
        ["location", "/", "{"],
    ]
    assert "location / {\n        return 403;" in text


def test_an_invitation_holds_no_secret(server: Path, tmp_path: Path) -> None:
    path = tmp_path / "i.json"
    done(pratique("server", "invite", server, "cleveland", "--out", path))
    text = path.read_bytes()
    for key in server.glob("*.key"):
        for line in key.read_bytes().splitlines()[1:-1]:
            assert line not in text
    invitation = read_invitation(path)
    assert invitation.address == f"{HOST}:443"
    assert invitation.coordinator == public_hex(load_server(server).key)
    assert timedelta(days=13) < invitation.expires - datetime.now(UTC) < timedelta(days=14)


@pytest.mark.parametrize(
    "field", ["address", "root_certificates", "coordinator", "site", "expires"]
)
def test_a_changed_invitation_makes_no_site(server: Path, tmp_path: Path, field: str) -> None:
    path = tmp_path / "i.json"
    done(pratique("server", "invite", server, "cleveland", "--out", path))
    file = json.loads(path.read_text())
    changed = {
        "address": "evil.example.org:443",
        "root_certificates": file["invitation"]["root_certificates"] + "\n",
        "coordinator": public_hex(Ed25519PrivateKey.generate()),
        "site": "clevelanb",
        "expires": "2099-01-01T00:00:00Z",
    }
    file["invitation"][field] = changed[field]
    path.write_text(json.dumps(file))
    result = client("init", path, "--folder", tmp_path / "new", "--data", "rows.csv")
    failing(VerificationError, "changed after it was signed", result)
    assert not (tmp_path / "new").exists()


def test_an_expired_invitation_makes_no_site_and_lets_nobody_in(
    server: Path, request_file: Path, tmp_path: Path
) -> None:
    old = invite(tmp_path / "old.json", "cleveland", valid=timedelta(days=-1))
    result = client("init", old, "--folder", tmp_path / "new", "--data", "rows.csv")
    failing(InvalidFileError, "expired on", result)
    assert not (tmp_path / "new").exists()
    # The hospital answered in time, and the coordinator looks too late.
    own, kept = load_server(server), server / "invitations" / "cleveland.json"
    late = read_invitation(kept).model_copy(
        update={"expires": datetime.now(UTC) - timedelta(minutes=1)}
    )
    write_invitation(kept, late, own.key)
    key = load_key(tmp_path / "cleveland" / "site.key")
    request = read_request(request_file).model_copy(update={"invitation": late.digest})
    write_request(request_file, request, key)
    told = _told(request_file)
    result = pratique("server", "accept", server, request_file, "--fingerprint", told)
    failing(InvalidFileError, "expired on", result)
    assert not accepted(own)


def test_only_the_told_fingerprint_lets_a_site_in(server: Path, request_file: Path) -> None:
    wrong = fingerprint(public_hex(Ed25519PrivateKey.generate()))
    for told in (wrong, "", _told(request_file)[:-5]):
        result = pratique("server", "accept", server, request_file, "--fingerprint", told)
        failing(VerificationError, "do not accept it", result)
    assert not accepted(load_server(server))
    told = _told(request_file)
    shown = done(pratique("server", "accept", server, request_file, "--fingerprint", told))
    assert "cleveland has joined" in shown
    assert "will know this site when it is started" in shown
    request = read_request(request_file)
    assert load_trust(server / "sites.toml") == {"cleveland": request.public_key}
    assert "cleveland" in done(pratique("server", "sites", server))
    again = pratique("server", "accept", server, request_file, "--fingerprint", told)
    failing(UsageError, "has joined already", again)
    failing(UsageError, "has joined already", pratique("server", "invite", server, "cleveland"))


def test_a_request_is_good_for_its_own_invitation_alone_and_once(
    server: Path, request_file: Path, tmp_path: Path
) -> None:
    told = _told(request_file)
    # Another invitation was written since: the first no longer counts.
    done(pratique("server", "invite", server, "cleveland", "--out", tmp_path / "second.json"))
    result = pratique("server", "accept", server, request_file, "--fingerprint", told)
    failing(VerificationError, "no invitation that is open here", result)
    # Accepted and removed: the invitation was used up.
    request = _join(server, "quay", tmp_path)
    done(pratique("server", "accept", server, request, "--fingerprint", _told(request)))
    done(pratique("server", "remove", server, "quay"))
    assert load_trust(server / "sites.toml") == {}
    result = pratique("server", "accept", server, request, "--fingerprint", _told(request))
    failing(VerificationError, "no invitation that is open here", result)
    failing(UsageError, "has not joined", pratique("server", "remove", server, "quay"))


def test_a_changed_request_lets_nobody_in(server: Path, request_file: Path, tmp_path: Path) -> None:
    """Above all: another SuperNode key under the fingerprint that was told."""
    other = _join(server, "quay", tmp_path)
    told, file = _told(request_file), json.loads(request_file.read_text())
    file["request"]["node_key"] = read_request(other).node_key
    request_file.write_text(json.dumps(file))
    result = pratique("server", "accept", server, request_file, "--fingerprint", told)
    failing(VerificationError, "changed after it was signed", result)
    file["request"]["node_key"] = "ssh-ed25519 AAAA"
    request_file.write_text(json.dumps(file))
    result = pratique("server", "accept", server, request_file, "--fingerprint", told)
    failing(InvalidFileError, "node_key", result)
    request_file.write_text("[]")
    result = pratique("server", "accept", server, request_file, "--fingerprint", told)
    failing(InvalidFileError, "no request is in it", result)


def test_one_key_does_not_join_twice(server: Path, request_file: Path, tmp_path: Path) -> None:
    told = _told(request_file)
    done(pratique("server", "accept", server, request_file, "--fingerprint", told))
    request = _join(server, "quay", tmp_path)
    # Somebody shows cleveland's SuperNode key as quay's.
    stolen = read_request(request).model_copy(
        update={"node_key": read_request(request_file).node_key}
    )
    write_request(request, stolen, load_key(tmp_path / "quay" / "site.key"))
    result = pratique("server", "accept", server, request, "--fingerprint", _told(request))
    failing(UsageError, "cleveland joined with one of these keys", result)


def test_a_run_needs_sites_and_a_server(server: Path, tmp_path: Path) -> None:
    from pratique_common.phantoms.cohort import study_path

    run = ("run", study_path(), "--server", server)
    failing(UsageError, "the study demands 3 sites and 0 take part", pratique(*run))
    sites = tmp_path / "sites.toml"
    sites.write_text("".join(f'{name} = "{"0" * 64}"\n' for name in "abc"))
    failing(UsageError, "a has not joined with that key", pratique(*run, "--sites", sites))
