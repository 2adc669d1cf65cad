"""What a person at the hospital approved: nothing else runs.

An approval is the study's canonical form, named by its digest, and the sites to run it with, whose
keys the hospitals exchanged among themselves. It is signed with the site's key, so that neither the
coordinator nor a changed file can pass for it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pratique_client.site import Site
from pratique_common.canonical import canonical_json
from pratique_common.durable import write_whole
from pratique_common.errors import FederationError, UsageError, VerificationError
from pratique_common.signing import check_signature, public_hex
from pratique_common.study import StudySpec, parse_study

_FOLDER = "approved"
_PURPOSE = "approval"


@dataclass(frozen=True)
class Approval:
    """A study, and the sites it may run with: name → Ed25519 public key."""

    study: StudySpec
    sites: Mapping[str, str]


def approve(site: Site, study: StudySpec, sites: Mapping[str, str]) -> None:
    """Record that a person approved exactly this study with these sites.

    Raises:
        UsageError: this site is not among them, a key stands twice, or they are too few.
    """
    _check_sites(site, study, sites)
    approval = {
        "study": json.loads(study.canonical()),
        "sites": dict(sites),
        "approved": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    signature = site.sign(_PURPOSE, canonical_json(approval))
    path = site.subfolder(_FOLDER) / f"{study.digest}.json"
    content = json.dumps({"approval": approval, "signature": signature}, indent=2)
    write_whole(path, content.encode())
    site.security.record("approved", study=study.digest, sites=sorted(sites))


def _check_sites(site: Site, study: StudySpec, sites: Mapping[str, str]) -> None:
    least = max(study.release.min_sites, study.privacy.least_sites)
    if sites.get(site.name) != public_hex(site.key):
        raise UsageError(
            f"--sites: {site.name} is not in it with the key of site.pub: write every site's name "
            "and public key into it, this one's too"
        )
    if len(set(sites.values())) < len(sites):
        raise UsageError("--sites: one key stands under two names; each site has a key of its own")
    if len(sites) < least:
        raise UsageError(f"--sites: {len(sites)} sites, and the study needs {least}")


def approved_digests(site: Site) -> list[str]:
    """Return the digests of all approvals, unchecked."""
    return sorted(path.stem for path in site.subfolder(_FOLDER).glob("*.json"))


def require(site: Site, digest: str) -> Approval:
    """Return the approval of the study of this digest.

    Raises:
        FederationError: nobody approved it, or it has expired.
        VerificationError: the approval was changed since.
    """
    known = {path.stem: path for path in site.subfolder(_FOLDER).glob("*.json")}
    path = known.get(digest)  # a digest from outside never becomes part of a path
    if path is None:
        raise FederationError(
            f"study {digest[:12]} is not approved at this site: read it and run "
            "'pratique-client approve'",
            code="study_not_approved",
        )
    try:
        record = json.loads(path.read_text())
        approval, signature = record["approval"], record["signature"]
        check_signature(public_hex(site.key), _PURPOSE, canonical_json(approval), signature)
        study = parse_study(approval["study"], source=path)
        sites = dict(approval["sites"])
    except (ValueError, KeyError, TypeError, VerificationError):
        study = None
    if study is None or study.digest != digest:
        raise VerificationError(
            f"{path}: this approval was changed after it was signed; remove it and approve again",
            code="approval_changed",
        )
    if study.disclosure.expires < datetime.now(UTC).date():
        raise FederationError(
            f"study {digest[:12]} expired on {study.disclosure.expires}: nothing runs for it any "
            f"more; remove {path} or agree on a new study",
            code="study_expired",
        )
    return Approval(study, sites)
