"""Who takes part in a run: each site's mask key, signed by the identity that its peers know."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pratique_common.canonical import canonical_json, digest
from pratique_common.errors import FederationError, VerificationError
from pratique_common.parts import SignedMaskKey
from pratique_common.signing import check_signature, sign

LEAST_SITES = 3
"""Of a sum of two, each of the two would learn the other's summand."""

_PURPOSE = "mask-key"


def session_name(study_digest: str, run: str) -> str:
    """Return what the mask keys of a run are signed for."""
    return digest({"study": study_digest, "run": run})


def sign_mask_key(
    identity: Ed25519PrivateKey, private: X25519PrivateKey, *, site: str, session: str
) -> SignedMaskKey:
    """Return a site's public mask key for ``session``, signed."""
    mask_key = private.public_key().public_bytes_raw().hex()
    signature = sign(identity, _PURPOSE, _statement(site, mask_key, session))
    return SignedMaskKey(site=site, mask_key=mask_key, signature=signature)


def _statement(site: str, mask_key: str, session: str) -> bytes:
    return canonical_json({"site": site, "mask_key": mask_key, "session": session})


@dataclass(frozen=True, kw_only=True)
class SumId:
    """Names one sum; masks, shares and signatures of two sums have nothing in common.

    Attributes:
        roster: digest of the roster.
        label: which sum of the run.
        participants: who masks with whom.
        inputs: SHA-256 of what the sum is computed from besides records, such as weights. Sites
            that were given different inputs have masks that do not fit, so that a coordinator
            cannot make the others' summands vanish (Pasquini, Francati, Ateniese 2022).
        size, bits: of the vector.
    """

    roster: str
    label: str
    participants: tuple[str, ...]
    inputs: str
    size: int
    bits: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return digest(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The sites of one session, and how many of them may fail or collude.

    Attributes:
        session: names the study and the run.
        mask_keys: site → X25519 public key as hexadecimal digits.
        tolerated_dropouts: how many may be missing from a sum.
        threshold: how many must open a sum together; two disjoint sets of honest sites that size
            do not exist.
    """

    session: str
    mask_keys: Mapping[str, str]
    tolerated_dropouts: int
    threshold: int

    def __post_init__(self) -> None:
        if self.least_survivors < max(LEAST_SITES, self.threshold):
            raise FederationError("too few sites for a secure sum", code="too_few_sites")
        if len(set(self.mask_keys.values())) != len(self.mask_keys):
            raise FederationError("two sites show one mask key", code="roster_invalid")

    @property
    def sites(self) -> tuple[str, ...]:
        """Names in their one order, which every site uses."""
        return tuple(sorted(self.mask_keys))

    @property
    def least_survivors(self) -> int:
        """With fewer vectors than this a sum lacks noise: nothing of it may be opened."""
        return len(self.mask_keys) - self.tolerated_dropouts

    @cached_property
    def digest(self) -> str:
        """Names the roster: masks of two rosters have nothing in common."""
        return digest(
            {
                "session": self.session,
                "mask_keys": dict(self.mask_keys),
                "tolerated_dropouts": self.tolerated_dropouts,
                "threshold": self.threshold,
            }
        )

    def sum_id(
        self, label: str, participants: tuple[str, ...], *, inputs: str, size: int, bits: int
    ) -> SumId:
        """Return a sum's name after checking who takes part.

        Raises:
            FederationError: strangers, or too few.
        """
        known = set(participants) <= set(self.mask_keys)
        if not known or tuple(sorted(set(participants))) != participants:
            raise FederationError("not participants of this run", code="participants_invalid")
        if len(participants) < self.least_survivors:
            raise FederationError("too few participants", code="too_few_sites")
        return SumId(
            roster=self.digest,
            label=label,
            participants=participants,
            inputs=inputs,
            size=size,
            bits=bits,
        )


def check_mask_keys(
    keys: list[SignedMaskKey], trusted: Mapping[str, str], *, session: str
) -> dict[str, str]:
    """Return site → mask key after checking every signature against a trusted identity.

    Raises:
        FederationError: a stranger, a site twice, or a key that its site did not sign.
    """
    if len(set(trusted.values())) != len(trusted):
        raise FederationError("one identity under two names", code="roster_invalid")
    checked: dict[str, str] = {}
    for key in keys:
        if key.site not in trusted or key.site in checked:
            raise FederationError("a site nobody here agreed to", code="roster_invalid")
        try:
            statement = _statement(key.site, key.mask_key, session)
            check_signature(trusted[key.site], _PURPOSE, statement, key.signature)
        except VerificationError:
            raise FederationError("a mask key of another", code="roster_invalid") from None
        checked[key.site] = key.mask_key
    return checked
