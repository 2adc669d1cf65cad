"""What leaves the federation: a release with data or a refusal without, hashed and signed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from pratique_common.bundle import SIGNATURE_PURPOSE, Decision, Manifest, Signer, write_bundle
from pratique_common.canonical import sha256_hex
from pratique_common.errors import VerificationError
from pratique_common.images.audited import audited_columns
from pratique_common.messages import CONCLUDE, ConclusionInstructions, Reply, pack
from pratique_common.released_copies import ARCHIVE, CSV, PARQUET, image_archive, table_csv
from pratique_common.signing import check_signature, fingerprint, public_hex, sign
from pratique_common.study import StudySpec
from pratique_common.tables import parquet_bytes, read_candidate
from pratique_privacy.conclusion import conclude_evidence
from pratique_privacy.evidence import Evidence
from pratique_privacy.post_processing.derivation import Derivation
from pratique_privacy.post_processing.weights import WEIGHTS_FILE
from pratique_server.dictionary import croissant_json, dictionary_csv
from pratique_server.federation import Federation
from pratique_server.report.content import build_report
from pratique_server.report.page import render_report

COORDINATOR = "coordinator"
_VERSIONS = ("pratique", "flwr", "opacus", "torch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Candidate:
    """The sampled table and its bytes; the hash names it in audit, report and manifest.

    Masks, (N, H, W), are of its images, where the generator knows what they show.
    """

    table: pa.Table
    masks: NDArray[np.uint8] | None
    parquet: bytes
    sha256: str
    seed: int
    model: bytes

    @staticmethod
    def of(derivation: Derivation, model: bytes) -> "Candidate":
        """Draw the candidate of a fitted derivation, whose model the bundle will hold.

        Raises:
            NotEnoughDataError: it learnt too little to obey the study's rules.
        """
        table, masks = derivation.sample()
        content = parquet_bytes(table)
        return Candidate(table, masks, content, sha256_hex(content), derivation.seed, model)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Everything that a release or a refusal is made of."""

    study: StudySpec
    study_file: str
    run: str
    candidate: Candidate
    marginals: list[NDArray[np.float64]]
    evidence: Evidence
    site_keys: Mapping[str, str]


def publish(
    release: Release, federation: Federation, key: Ed25519PrivateKey, out: Path
) -> tuple[Decision, Path]:
    """Decide, collect signatures and write the bundle; a missing signature turns it to a refusal.

    Returns:
        The decision, and the folder that was written.
    """
    files, manifest = _draft(release, key)
    signatures, vetoes = _collect_signatures(release, federation, files, manifest)
    if manifest.kind == "release" and vetoes:
        # Some site did not sign: that is evidence now, and the gate refuses.
        evidence = release.evidence.model_copy(update={"vetoes": vetoes})
        release = replace(release, evidence=evidence)
        files, manifest = _draft(release, key)
        signatures, _ = _collect_signatures(release, federation, files, manifest)
    signatures[COORDINATOR] = sign(key, SIGNATURE_PURPOSE, manifest.canonical())
    federation.tell("key_used", key=fingerprint(public_hex(key)), purpose=SIGNATURE_PURPOSE)
    path = out / ("bundle" if manifest.kind == "release" else "refusal")
    write_bundle(path, manifest, files, signatures)
    shown = sha256_hex(manifest.canonical())
    federation.tell("decided", decision=manifest.decision, manifest=shown)
    return manifest.decision, path


def _draft(release: Release, key: Ed25519PrivateKey) -> tuple[dict[str, bytes], Manifest]:
    study, candidate = release.study, release.candidate
    rows = read_candidate(candidate.parquet, study.data, num_rows=study.release.rows)
    seen = audited_columns(study.data, rows.columns)
    conclusion = conclude_evidence(study, release.evidence, seen)
    decision = conclusion.gate.decision
    created = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {name: version(name) for name in _VERSIONS}
    report = build_report(
        study,
        release.evidence,
        conclusion,
        run=release.run,
        candidate=replace(rows, columns=rows.columns | seen) if decision == "granted" else None,
        candidate_sha256=candidate.sha256,
        seed=candidate.seed,
        marginals=release.marginals,
        created=created,
        versions=versions,
    )
    files = {
        "report.json": json.dumps(report, indent=1, allow_nan=False).encode(),
        "report.html": render_report(report).encode(),
        "study.toml": release.study_file.encode(),
    }
    if decision == "granted":
        files |= _data_files(release)
    manifest = Manifest(
        kind="release" if decision == "granted" else "refusal",
        decision=decision,
        study_name=study.name,
        study_digest=study.digest,
        simulated=study.simulated,
        noise=study.privacy.noise,
        tolerated_dropouts=study.privacy.tolerated_dropouts,
        colluding_sites=study.privacy.colluding_sites,
        run=release.run,
        candidate_sha256=candidate.sha256,
        created=created,
        versions=versions,
        signers=_signers(release, key, required=decision == "granted"),
        ledger_heads=dict(release.evidence.ledger_heads),
        files={name: sha256_hex(content) for name, content in sorted(files.items())},
    )
    return files, manifest


def _signers(release: Release, key: Ed25519PrivateKey, *, required: bool) -> tuple[Signer, ...]:
    def signer(name: str, role: Literal["coordinator", "site"], public: str, must: bool) -> Signer:
        return Signer(name=name, role=role, public_key=public, required=must)

    sites = [
        signer(site, "site", release.site_keys[site], required) for site in release.evidence.trained
    ]
    return (signer(COORDINATOR, "coordinator", public_hex(key), True), *sites)


def _data_files(release: Release) -> dict[str, bytes]:
    study, candidate = release.study, release.candidate
    schema = json.dumps(study.data.model_dump(mode="json"), indent=1)
    images: dict[str, bytes] = {}
    if study.data.image is not None:
        images[ARCHIVE] = image_archive(candidate.table, study.data.image, candidate.masks)
    return images | {
        PARQUET: candidate.parquet,
        CSV: table_csv(candidate.table),
        WEIGHTS_FILE: release.candidate.model,
        "generator/schema.json": schema.encode(),
        "dictionary.csv": dictionary_csv(study).encode(),
        "croissant.json": croissant_json(study, release.candidate.sha256).encode(),
    }


def _collect_signatures(
    release: Release,
    federation: Federation,
    files: Mapping[str, bytes],
    manifest: Manifest,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return valid signatures, and for every other required signer the code of its veto."""
    content = pack(
        ConclusionInstructions(
            study_digest=release.study.digest,
            run=release.run,
            manifest_json=manifest.canonical().decode(),
            report_json=files["report.json"].decode(),
        )
    )
    sites = {signer.name: signer.required for signer in manifest.signers if signer.role == "site"}
    answers = federation.ask_to_sign(CONCLUDE, content, sites, required=any(sites.values()))
    signatures: dict[str, str] = {}
    vetoes: dict[str, str] = {}
    for signer in manifest.signers:
        if signer.role == "coordinator":
            continue
        answer = answers[signer.name]
        if not isinstance(answer, Reply):
            vetoes[signer.name] = answer
            continue
        try:
            check_signature(
                signer.public_key,
                SIGNATURE_PURPOSE,
                manifest.canonical(),
                answer.manifest_signature,
            )
            signatures[signer.name] = answer.manifest_signature
        except VerificationError:
            vetoes[signer.name] = "bad_signature"
    for site, code in vetoes.items():
        federation.tell("vetoed", site=site, code=code)
    return signatures, vetoes
