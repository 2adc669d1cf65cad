import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.bundle import (
    SIGNATURE_PURPOSE,
    Manifest,
    Signer,
    verify_bundle,
    write_bundle,
)
from pratique_common.canonical import sha256_hex
from pratique_common.errors import InvalidFileError, VerificationError
from pratique_common.phantoms.cohort import study_path
from pratique_common.released_copies import table_csv
from pratique_common.signing import (
    check_signature,
    create_key,
    fingerprint,
    load_key,
    load_trust,
    public_hex,
    sign,
)
from pratique_common.study import load_study
from pratique_common.tables import parquet_bytes

NAMES = ("coordinator", "a", "b", "c")
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}
STUDY = load_study(study_path())
ROWS = pa.table({"age": [61, None, 7], "stay": [0.1, 2.25, None], "ward": ["a, b", "", None]})
SYNTHETIC = parquet_bytes(ROWS)


def bundle_files(kind: str, decision: str) -> dict[str, bytes]:
    report = {
        "decision": decision,
        "study_digest": STUDY.digest,
        "candidate_sha256": sha256_hex(SYNTHETIC),
        "simulated": True,
    }
    files = {
        "report.json": json.dumps(report).encode(),
        "report.html": b"<html></html>",
        "study.toml": study_path().read_bytes(),
    }
    if kind != "release":
        return files
    return {**files, "synthetic.parquet": SYNTHETIC, "synthetic.csv": table_csv(ROWS)}


def write_signed(folder: Path, *, sign_with: tuple[str, ...] = NAMES, **changes: Any) -> Path:
    kind = changes.get("kind", "release")
    decision = changes.get("decision", "granted" if kind == "release" else "refused")
    files = changes.pop("files", bundle_files(kind, decision))
    required = kind == "release"
    fields: dict[str, Any] = {
        "kind": kind,
        "decision": decision,
        "study_name": STUDY.name,
        "study_digest": STUDY.digest,
        "simulated": True,
        "noise": STUDY.privacy.noise,
        "tolerated_dropouts": STUDY.privacy.tolerated_dropouts,
        "colluding_sites": STUDY.privacy.colluding_sites,
        "run": "r",
        "candidate_sha256": sha256_hex(SYNTHETIC),
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "ledger_heads": {},
        "signers": tuple(
            Signer(
                name=name,
                role="coordinator" if name == "coordinator" else "site",
                public_key=public_hex(KEYS[name]),
                required=required or name == "coordinator",
            )
            for name in NAMES
        ),
        "files": {name: sha256_hex(content) for name, content in files.items()},
        **changes,
    }
    manifest = Manifest(**fields)
    signatures = {
        name: sign(KEYS[name], SIGNATURE_PURPOSE, manifest.canonical()) for name in sign_with
    }
    path = folder / "bundle"
    write_bundle(path, manifest, files, signatures)
    return path


def test_a_whole_bundle_verifies_with_and_without_trust(tmp_path: Path) -> None:
    path = write_signed(tmp_path)
    assert not verify_bundle(path).identities_checked
    trust = {name: public_hex(key) for name, key in KEYS.items()}
    verified = verify_bundle(path, trust=trust)
    assert verified.identities_checked
    assert {signer.name for signer in verified.signed_by} == set(NAMES)


def test_a_zip_of_it_verifies_too(tmp_path: Path) -> None:
    path = write_signed(tmp_path)
    shutil.make_archive(str(tmp_path / "whole"), "zip", tmp_path, "bundle")
    shutil.make_archive(str(tmp_path / "inside"), "zip", path)
    assert verify_bundle(tmp_path / "whole.zip").manifest == verify_bundle(path).manifest
    assert verify_bundle(tmp_path / "inside.zip").manifest == verify_bundle(path).manifest


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_signed(tmp_path_factory.mktemp("intact"))


def test_a_signature_has_one_spelling(intact: Path) -> None:
    path = min(intact.rglob("*.sig"))
    before = path.read_text()
    try:
        path.write_text(before.upper())
        with pytest.raises(VerificationError):
            verify_bundle(intact)
    finally:
        path.write_text(before)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(intact: Path, data: st.DataObject) -> None:
    files = sorted(path for path in intact.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[at] ^= data.draw(st.integers(1, 255))
    if path.suffix == ".sig" and bytes(changed).strip() == before.strip():
        return  # white space after a signature means nothing
    try:
        path.write_bytes(bytes(changed))
        with pytest.raises(VerificationError):
            verify_bundle(intact)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["synthetic.parquet", "manifest.json", "report.html",
                                  "signatures/a.sig", "study.toml"])  # fmt: skip
def test_a_missing_file_is_found(tmp_path: Path, name: str) -> None:
    path = write_signed(tmp_path)
    (path / name).unlink()
    with pytest.raises(VerificationError):
        verify_bundle(path)


def test_an_added_file_is_found(tmp_path: Path) -> None:
    path = write_signed(tmp_path)
    (path / "extra.csv").write_text("x")
    with pytest.raises(VerificationError, match=r"extra\.csv"):
        verify_bundle(path)


@pytest.mark.parametrize("missing", NAMES)
def test_a_release_needs_every_signature(tmp_path: Path, missing: str) -> None:
    path = write_signed(tmp_path, sign_with=tuple(name for name in NAMES if name != missing))
    with pytest.raises(VerificationError, match=missing):
        verify_bundle(path)


def test_a_refusal_needs_the_coordinator_alone(tmp_path: Path) -> None:
    path = write_signed(tmp_path, kind="refusal", sign_with=("coordinator", "b"))
    verified = verify_bundle(path)
    assert verified.manifest.decision == "refused"
    assert [signer.name for signer in verified.signed_by] == ["coordinator", "b"]


def test_a_forged_refusal_cannot_carry_data(tmp_path: Path) -> None:
    files = bundle_files("release", "refused")
    path = write_signed(tmp_path, kind="refusal", files=files)
    with pytest.raises(VerificationError, match="must not hold data"):
        verify_bundle(path)


def test_a_release_must_be_granted_and_hold_the_audited_table(tmp_path: Path) -> None:
    path = write_signed(tmp_path, decision="refused", files=bundle_files("release", "refused"))
    with pytest.raises(VerificationError, match="granted"):
        verify_bundle(path)
    shutil.rmtree(path)
    path = write_signed(tmp_path, candidate_sha256=sha256_hex(b"another"))
    with pytest.raises(VerificationError, match="not the candidate"):
        verify_bundle(path)


def test_fewer_sites_than_the_study_demands_make_no_release(tmp_path: Path) -> None:
    signers = tuple(
        Signer(name=name, role=role, public_key=public_hex(KEYS[name]), required=True)
        for name, role in (("coordinator", "coordinator"), ("a", "site"), ("b", "site"))
    )
    path = write_signed(tmp_path, signers=signers, sign_with=("coordinator", "a", "b"))
    with pytest.raises(VerificationError, match="fewer sites"):
        verify_bundle(path)


def test_trust_needs_the_right_names_and_keys(tmp_path: Path) -> None:
    path = write_signed(tmp_path)
    trust = {name: public_hex(key) for name, key in KEYS.items()}
    with pytest.raises(VerificationError, match="key of b"):
        verify_bundle(path, trust={**trust, "b": public_hex(Ed25519PrivateKey.generate())})
    with pytest.raises(VerificationError, match="not in the trust file"):
        verify_bundle(path, trust={k: v for k, v in trust.items() if k != "c"})


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    path = write_signed(tmp_path)
    outside = tmp_path / "outside.parquet"
    (path / "synthetic.parquet").rename(outside)
    (path / "synthetic.parquet").symlink_to(outside)
    with pytest.raises(VerificationError, match="neither a plain file"):
        verify_bundle(path)


def test_a_manifest_must_tell_the_noise_truly(tmp_path: Path) -> None:
    for number, lie in enumerate(({"noise": "local"}, {"colluding_sites": 2})):
        path = write_signed(tmp_path / str(number), **lie)
        with pytest.raises(VerificationError, match=r"study\.toml"):
            verify_bundle(path)


def test_a_manifest_must_tell_simulated_truly(tmp_path: Path) -> None:
    path = write_signed(tmp_path, simulated=False)
    with pytest.raises(VerificationError):
        verify_bundle(path)


def test_two_entries_of_one_name_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = write_signed(tmp_path)
    archive = shutil.make_archive(str(tmp_path / "twice"), "zip", path)
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("synthetic.parquet", b"other")
    with pytest.raises(VerificationError, match="two files of one name"):
        verify_bundle(Path(archive))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_zip_never_ends_in_anything_but_a_verification_error(
    intact: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zip")
    archive = Path(shutil.make_archive(str(folder / "bundle"), "zip", intact))
    content = bytearray(archive.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    archive.write_bytes(bytes(content))
    try:
        verify_bundle(archive)
    except VerificationError:
        return
    # Some bytes of a zip (times, attributes) mean nothing for what is in it.


def test_things_that_are_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(VerificationError, match="not a bundle"):
        verify_bundle(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(VerificationError, match="not a bundle"):
        verify_bundle(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(VerificationError, match="not a bundle"):
        verify_bundle(tmp_path / "other.zip")
    with pytest.raises(InvalidFileError, match="no such"):
        verify_bundle(tmp_path / "nothing")


def test_an_interrupted_write_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        write_signed(tmp_path)
    assert not (tmp_path / "bundle").exists()


def test_signatures_are_bound_to_their_purpose() -> None:
    key = Ed25519PrivateKey.generate()
    signature = sign(key, "join", b"message")
    check_signature(public_hex(key), "join", b"message", signature)
    for purpose, message in (("manifest", b"message"), ("join", b"other")):
        with pytest.raises(VerificationError):
            check_signature(public_hex(key), purpose, message, signature)
    with pytest.raises(VerificationError):
        check_signature("zz", "join", b"message", signature)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    key = create_key(path)
    assert path.stat().st_mode & 0o077 == 0
    assert public_hex(load_key(path)) == public_hex(key)
    with pytest.raises(InvalidFileError, match="already"):
        create_key(path)
    path.write_text("no key")
    with pytest.raises(InvalidFileError, match="not an Ed25519"):
        load_key(path)
    assert len(fingerprint(public_hex(key)).replace(" ", "")) == 32


def test_trust_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "trust.toml"
    path.write_text('a = "00"\n')
    with pytest.raises(InvalidFileError, match=r"trust\.toml: a: not a public key"):
        load_trust(path)
