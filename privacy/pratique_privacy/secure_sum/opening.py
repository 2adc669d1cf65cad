"""Take the masks off a survivors' sum: by the coordinator, and again by whoever doubts it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pratique_common.errors import FederationError
from pratique_privacy.secure_sum.masks import Words, expand
from pratique_privacy.secure_sum.party import Masked, Revealed, adds
from pratique_privacy.secure_sum.shares import rebuild


@dataclass(frozen=True, kw_only=True)
class OpenedSum:
    """The survivors' sum, and the seeds of all masks in it: with them anybody can repeat it.

    Attributes:
        words: the sum.
        self_seeds: survivor → seed of its self mask.
        pair_seeds: survivor → missing site → seed of the mask of both.
    """

    words: Words
    self_seeds: Mapping[str, bytes]
    pair_seeds: Mapping[str, Mapping[str, bytes]]


def open_sum(
    masked: Mapping[str, Masked],
    revealed: Mapping[str, Revealed],
    *,
    participants: tuple[str, ...],
    threshold: int,
) -> OpenedSum:
    """Return the sum of the survivors' vectors modulo 2ᵏ.

    Args:
        masked: survivor → its masked vector.
        revealed: site → what it revealed for exactly these survivors.
        participants: all sites that masked with each other.
        threshold: shares that rebuild a self mask.

    Raises:
        FederationError: a self mask or a mask with a missing site cannot be rebuilt; the round is
            lost, and nothing of it can be seen.
    """
    missing = sorted(set(participants) - set(masked))
    if lost := [site for site in masked if missing and site not in revealed]:
        raise FederationError(
            f"{', '.join(lost)} did not open masks with {', '.join(missing)}", code="sum_lost"
        )
    self_seeds = {
        survivor: rebuild(
            {site: r.shares[survivor] for site, r in revealed.items() if survivor in r.shares},
            threshold,
            vector.commitment,
        )
        for survivor, vector in masked.items()
    }
    pair_seeds = {site: revealed[site].pair_seeds if missing else {} for site in masked}
    words = {site: vector.words for site, vector in masked.items()}
    total = without_masks(words, self_seeds, pair_seeds, missing=missing)
    return OpenedSum(words=total, self_seeds=self_seeds, pair_seeds=pair_seeds)


def without_masks(
    words: Mapping[str, Words],
    self_seeds: Mapping[str, bytes],
    pair_seeds: Mapping[str, Mapping[str, bytes]],
    *,
    missing: Iterable[str],
) -> Words:
    """Return the sum of masked vectors less all masks that did not cancel.

    Raises:
        FederationError: a seed is not there, or vectors do not fit each other.
    """
    total = without_self_masks(words, self_seeds)
    for site, vector in words.items():
        for peer in missing:
            seed = pair_seeds[site].get(peer)
            if seed is None:
                raise FederationError("a pair's seed is not there", code="sum_lost")
            mask = expand(seed, len(vector), vector.dtype)
            total = total - mask if adds(site, peer) else total + mask
    return total


def without_self_masks(words: Mapping[str, Words], self_seeds: Mapping[str, bytes]) -> Words:
    """Return the sum of masked vectors less their self masks.

    If nobody is missing the pairs' masks cancel and this is the sum itself.

    Raises:
        FederationError: a seed is not there, or vectors do not fit each other.
    """
    vectors = list(words.values())
    first = vectors[0]
    if any(v.shape != first.shape or v.dtype != first.dtype for v in vectors):
        raise FederationError("vectors that do not fit", code="malformed_message")
    if set(words) != set(self_seeds):
        raise FederationError("a self mask is not there", code="sum_lost")
    total = first - first
    for site, vector in words.items():
        total = total + vector - expand(self_seeds[site], len(vector), vector.dtype)
    return total
