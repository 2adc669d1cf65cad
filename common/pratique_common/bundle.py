"""The signed folder that leaves a federation: a release with data, or a refusal without.

Every byte of it is named by the manifest, and the manifest is signed by the coordinator and by the
sites that checked its conclusion. Checking needs this module, a hash and Ed25519, nothing else.
"""

import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pratique_common.canonical import canonical_json, sha256_hex
from pratique_common.durable import sync_folder, write_whole
from pratique_common.errors import InvalidFileError, VerificationError
from pratique_common.released_copies import check_copies
from pratique_common.signing import check_signature
from pratique_common.study import parse_study_text

MANIFEST = "manifest.json"
SIGNATURES = "signatures"
SIGNATURE_PURPOSE = "manifest"
_MAX_FILE_BYTES = 4 << 30

REFUSAL_FILES = frozenset({"report.json", "report.html", "study.toml"})

Decision = Literal["granted", "refused", "not_enough_data"]


class Signer(BaseModel):
    """Who signs a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Literal["coordinator", "site"]
    public_key: str
    required: bool


class Manifest(BaseModel):
    """What is signed. A release demands every signer; a refusal demands the coordinator's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_version: Literal[1] = 1
    kind: Literal["release", "refusal"]
    decision: Decision
    study_name: str
    study_digest: str
    simulated: bool
    noise: Literal["secure_sum", "local"]
    tolerated_dropouts: int
    colluding_sites: int
    run: str
    candidate_sha256: str | None
    created: str
    versions: dict[str, str]
    signers: tuple[Signer, ...]
    ledger_heads: dict[str, str]
    files: dict[str, str]

    def canonical(self) -> bytes:
        """Return the bytes that are written and signed."""
        return canonical_json(self.model_dump(mode="json"))


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose every hash and signature was checked; ``contents`` are the checked bytes."""

    manifest: Manifest
    contents: Mapping[str, bytes]
    report: dict[str, Any]
    signed_by: tuple[Signer, ...]
    identities_checked: bool


def write_bundle(
    directory: Path, manifest: Manifest, files: Mapping[str, bytes], signatures: Mapping[str, str]
) -> None:
    """Write a bundle so that a partial one never stands at ``directory``.

    Args:
        directory: must not exist.
        manifest: names every file.
        files: relative path → content.
        signatures: signer → signature of the manifest.
    """
    staging = directory.with_name(directory.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)  # of an attempt that was cut short
    everything = dict(files)
    everything[MANIFEST] = manifest.canonical()
    for name, signature in signatures.items():
        everything[f"{SIGNATURES}/{name}.sig"] = signature.encode() + b"\n"
    for name, content in everything.items():
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    sync_folder(staging)
    staging.rename(directory)
    sync_folder(directory.parent)


def verify_bundle(path: Path, *, trust: Mapping[str, str] | None = None) -> VerifiedBundle:
    """Check every hash and signature of a bundle folder or ``.zip``.

    Args:
        path: the bundle.
        trust: name → public key; without it signatures are checked against the keys that the
            manifest itself names, which proves integrity and not identity.

    Raises:
        VerificationError: with the first thing that does not verify.
    """
    contents = _read(path)
    # 1. The manifest is exactly its canonical form.
    manifest = _parse_manifest(contents)
    # 2. Exactly the files that it names are here, with the content that it names.
    _check_files(manifest, contents)
    # 3. Those who must have signed did, and every signature that is here verifies.
    signed_by = _check_signatures(manifest, contents)
    # 4. The parts agree with each other.
    report = _check_consistency(manifest, contents)
    # 5. The signers are who the reader trusts.
    if trust is not None:
        _check_identities(manifest, signed_by, trust)
    return VerifiedBundle(
        manifest, contents, report, signed_by, identities_checked=trust is not None
    )


def _parse_manifest(contents: Mapping[str, bytes]) -> Manifest:
    if MANIFEST not in contents:
        raise VerificationError(f"not a bundle: there is no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(contents[MANIFEST])
    except ValidationError:
        raise VerificationError(f"{MANIFEST} is damaged or of an unknown version") from None
    if manifest.canonical() != contents[MANIFEST]:
        raise VerificationError(f"{MANIFEST} is not in its canonical form: it was changed")
    return manifest


def _check_files(manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    for name, expected in manifest.files.items():
        if name not in contents:
            raise VerificationError(f"{name} is missing")
        if sha256_hex(contents[name]) != expected:
            raise VerificationError(f"{name} was changed: its SHA-256 is not the manifest's")
    known = {*manifest.files, MANIFEST, *(_signature_file(who) for who in manifest.signers)}
    if extra := sorted(set(contents) - known):
        raise VerificationError(f"{extra[0]} is not named by the manifest")


def _signature_file(signer: Signer) -> str:
    return f"{SIGNATURES}/{signer.name}.sig"


def _check_signatures(manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[Signer, ...]:
    roles = [signer.role for signer in manifest.signers if signer.required]
    if roles.count("coordinator") != 1:
        raise VerificationError("the manifest must demand one coordinator's signature")
    if len({signer.name for signer in manifest.signers}) != len(manifest.signers):
        raise VerificationError("two signers share one name")
    if len({signer.public_key for signer in manifest.signers}) != len(manifest.signers):
        raise VerificationError("two signers share one key")
    signed = []
    for signer in manifest.signers:
        signature = contents.get(_signature_file(signer))
        if signature is None:
            if signer.required:
                raise VerificationError(f"the signature of {signer.name} is missing")
            continue
        try:
            check_signature(
                signer.public_key,
                SIGNATURE_PURPOSE,
                contents[MANIFEST],
                signature.decode("ascii", "replace").strip(),
            )
        except VerificationError:
            raise VerificationError(f"the signature of {signer.name} does not verify") from None
        signed.append(signer)
    return tuple(signed)


def _check_consistency(manifest: Manifest, contents: Mapping[str, bytes]) -> dict[str, Any]:
    if (manifest.kind == "release") != (manifest.decision == "granted"):
        raise VerificationError("only a granted decision makes a release")
    if manifest.kind != "release" and not set(manifest.files) <= REFUSAL_FILES:
        raise VerificationError("a refusal must not hold data")
    synthetic = manifest.files.get("synthetic.parquet")
    if manifest.kind == "release" and (
        manifest.candidate_sha256 is None or synthetic != manifest.candidate_sha256
    ):
        raise VerificationError("synthetic.parquet is not the candidate that was audited")
    try:
        report = json.loads(contents["report.json"])
        agrees = (
            report["decision"] == manifest.decision
            and report["study_digest"] == manifest.study_digest
            and report["candidate_sha256"] == manifest.candidate_sha256
            and report["simulated"] == manifest.simulated
        )
        study = parse_study_text(contents["study.toml"].decode(), source="study.toml")
    except (KeyError, TypeError, ValueError, RecursionError, InvalidFileError):
        raise VerificationError("report.json or study.toml is missing or damaged") from None
    if not agrees:
        raise VerificationError("report.json and the manifest contradict each other")
    told = (
        manifest.study_digest,
        manifest.simulated,
        manifest.noise,
        manifest.tolerated_dropouts,
        manifest.colluding_sites,
    )
    privacy = study.privacy
    if told != (
        study.digest,
        study.simulated,
        privacy.noise,
        privacy.tolerated_dropouts,
        privacy.colluding_sites,
    ):
        raise VerificationError("study.toml is not the study that the sites approved")
    if manifest.kind == "release":
        own = {MANIFEST, *(_signature_file(who) for who in manifest.signers)}
        files = {name: data for name, data in contents.items() if name not in own}
        check_copies(files, study.data)
    required_sites = sum(s.required and s.role == "site" for s in manifest.signers)
    if manifest.kind == "release" and required_sites < study.release.min_sites:
        raise VerificationError("fewer sites signed than the study demands")
    return dict(report)


def _check_identities(
    manifest: Manifest, signed_by: tuple[Signer, ...], trust: Mapping[str, str]
) -> None:
    for signer in signed_by:
        if signer.name not in trust:
            raise VerificationError(f"{signer.name} signed but is not in the trust file")
        if trust[signer.name] != signer.public_key:
            raise VerificationError(f"the key of {signer.name} is not the one in the trust file")
    if not signed_by:
        raise VerificationError(f"nobody signed {manifest.study_name}")


def _read(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return dict(_read_folder(path))
    if not path.is_file():
        raise InvalidFileError(path, problem="no such file or folder", remedy="check the path")
    try:
        return dict(_read_zip(path.read_bytes()))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, LookupError,
            NotImplementedError, RuntimeError):  # fmt: skip
        raise VerificationError(f"{path}: not a bundle: not an intact .zip") from None


def _read_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise VerificationError(f"{name} is neither a plain file nor a folder")
        if file.is_file():
            yield name, file.read_bytes()


def _read_zip(data: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [info for info in archive.infolist() if not info.is_dir() or info.file_size]
        if len({info.filename for info in files}) != len(files):
            # Readers differ in which of two entries of one name they show.
            raise VerificationError("the .zip holds two files of one name")
        roots = {PurePosixPath(info.filename).parts[0] for info in files}
        # A folder that was zipped whole keeps its own name in front of every path.
        prefix = "" if MANIFEST in roots or len(roots) != 1 else roots.pop() + "/"
        for info in files:
            if info.file_size > _MAX_FILE_BYTES:
                raise VerificationError(f"{info.filename} is too large")
            yield info.filename.removeprefix(prefix), archive.read(info)
