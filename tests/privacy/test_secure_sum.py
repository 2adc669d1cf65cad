"""The secure sum alone: right sums whoever vanishes, and nothing for a coordinator that cheats."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pratique_common.errors import FederationError, VerificationError
from pratique_common.parts import SignedMaskKey
from pratique_common.signing import public_hex
from pratique_privacy.secure_sum.masks import Words, expand
from pratique_privacy.secure_sum.opening import open_sum, without_self_masks
from pratique_privacy.secure_sum.party import Masked, Party, Revealed, check_vector
from pratique_privacy.secure_sum.roster import Roster, SumId, check_mask_keys, sign_mask_key
from pratique_privacy.secure_sum.shares import rebuild

SESSION = "study-and-run"


@dataclass
class Claims:
    """What a site keeps on disk: the one list of survivors of each sum."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __call__(self, label: str, survivors: tuple[str, ...]) -> bool:
        return self.lists.setdefault(label, survivors) == survivors


@dataclass
class Sites:
    """The sites of one session."""

    parties: dict[str, Party]
    roster: Roster
    identities: dict[str, str]
    claims: dict[str, Claims]
    signed: list[SignedMaskKey]

    @property
    def names(self) -> tuple[str, ...]:
        return self.roster.sites

    def mask(
        self, label: str, vectors: dict[str, Words], participants: tuple[str, ...] | None = None
    ) -> tuple[SumId, dict[str, Masked]]:
        everybody = participants or self.names
        size, bits = next((len(v), 8 * v.dtype.itemsize) for v in vectors.values())
        sum_id = self.roster.sum_id(label, everybody, inputs="", size=size, bits=bits)
        masked = {site: self.parties[site].mask(sum_id, vectors[site])[0] for site in vectors}
        return sum_id, masked

    def reveal(
        self, label: str, masked: dict[str, Masked], askable: list[str] | None = None
    ) -> dict[str, Revealed]:
        survivors = tuple(sorted(masked))
        signatures = {site: self.parties[site].countersign(label, survivors) for site in survivors}
        return {
            site: self.parties[site].reveal(label, survivors, sealed_for(site, masked), signatures)
            for site in (askable or survivors)
        }


def sealed_for(site: str, masked: dict[str, Masked]) -> dict[str, bytes]:
    return {peer: m.sealed[site] for peer, m in masked.items() if peer != site}


def make_sites(count: int, *, dropouts: int = 0, colluding: int = 1) -> Sites:
    names = [f"site{i:02d}" for i in range(count)]
    identities = {name: Ed25519PrivateKey.generate() for name in names}
    keys = {name: X25519PrivateKey.generate() for name in names}
    public = {name: public_hex(key) for name, key in identities.items()}
    signed = [
        sign_mask_key(identities[name], keys[name], site=name, session=SESSION) for name in names
    ]
    roster = Roster(
        session=SESSION,
        mask_keys=check_mask_keys(signed, public, session=SESSION),
        tolerated_dropouts=dropouts,
        threshold=(count + colluding) // 2 + 1,
    )
    claims = {name: Claims() for name in names}
    parties = {
        name: Party(name, identities[name], keys[name], roster, public, claims[name])
        for name in names
    }
    return Sites(parties, roster, public, claims, signed)


def words(values: list[int], bits: int = 64) -> Words:
    return np.array(values, np.int64).astype(f"<u{bits // 8}")


def vectors_of(sites: Sites, *, bits: int = 64, size: int = 5) -> dict[str, Words]:
    rng = np.random.default_rng(len(sites.names))
    return {
        site: rng.integers(-1000, 1000, size).astype(f"<i{bits // 8}").view(f"<u{bits // 8}")
        for site in sites.names
    }


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_sum_of_the_survivors_is_exact_whoever_vanishes(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 8))
    colluding = data.draw(st.integers(0, 2))
    most = max(0, min(count - 3, (count - colluding - 1) // 2, count - colluding - 1))
    if count - most < (count + colluding) // 2 + 1:
        return  # the study refuses such numbers
    dropouts = data.draw(st.integers(0, most))
    bits = data.draw(st.sampled_from([32, 64]))
    sites = make_sites(count, dropouts=dropouts, colluding=colluding)
    gone = data.draw(st.sets(st.sampled_from(sites.names), max_size=dropouts))
    vectors = {s: v for s, v in vectors_of(sites, bits=bits).items() if s not in gone}
    _, masked = sites.mask("round 1", vectors)
    revealed = sites.reveal("round 1", masked)
    if not gone:  # then any threshold of answers opens the sum
        asked = data.draw(st.permutations(sorted(revealed)))[: sites.roster.threshold]
        revealed = {site: revealed[site] for site in asked}
    opened = open_sum(masked, revealed, participants=sites.names, threshold=sites.roster.threshold)
    expected = sum(v for v in vectors.values())
    assert (opened.words == expected).all()
    assert opened.words.dtype == np.dtype(f"<u{bits // 8}")


def test_a_site_that_vanishes_for_good_is_left_out_of_later_sums() -> None:
    sites = make_sites(5, dropouts=1)
    rest = sites.names[1:]
    vectors = {s: v for s, v in vectors_of(sites).items() if s in rest}
    _, masked = sites.mask("round 2", vectors, rest)
    revealed = {
        site: sites.parties[site].reveal("round 2", rest, sealed_for(site, masked), {})
        for site in rest
    }
    opened = open_sum(masked, revealed, participants=rest, threshold=sites.roster.threshold)
    assert (opened.words == sum(vectors.values())).all()


def test_two_failures_in_one_round_lose_it_and_show_nothing() -> None:
    sites = make_sites(5, dropouts=1)
    vectors = {s: v for s, v in vectors_of(sites).items() if s != sites.names[0]}
    _, masked = sites.mask("round 1", vectors)
    revealed = sites.reveal("round 1", masked, askable=list(sites.names[1:4]))
    with pytest.raises(FederationError, match="did not open masks") as error:
        open_sum(masked, revealed, participants=sites.names, threshold=4)
    assert error.value.code == "sum_lost"


def test_anybody_can_repeat_a_full_sum_from_signed_vectors_and_seeds() -> None:
    sites = make_sites(3)
    vectors = vectors_of(sites)
    sum_id, masked = sites.mask("audit", vectors)
    opened = open_sum(masked, sites.reveal("audit", masked), participants=sites.names, threshold=3)
    for site, m in masked.items():
        check_vector(sites.identities[site], sum_id, m.words, m.commitment, m.signature)
        changed = m.words.copy()
        changed[0] += changed.dtype.type(1)
        with pytest.raises(VerificationError):
            check_vector(sites.identities[site], sum_id, changed, m.commitment, m.signature)
    repeated = without_self_masks({s: m.words for s, m in masked.items()}, opened.self_seeds)
    assert (repeated == opened.words).all()


# Attacks: what a coordinator sees, and what it may try.


def test_masked_vectors_look_uniform_and_tell_nothing_of_the_summand() -> None:
    """All that the coordinator receives of one site in a round, for two very unlike summands."""
    size, lags = 20_000, {}
    for name, value in (("zeros", 0), ("large", 123_456)):
        sites = make_sites(4, dropouts=1)
        vectors = {site: words([value] * size) for site in sites.names}
        _, masked = sites.mask("round 1", vectors)
        revealed = sites.reveal("round 1", masked)
        opened = open_sum(masked, revealed, participants=sites.names, threshold=3)
        first = sites.names[0]
        # Even with the site's self mask off, its vector stays under its pairs' masks.
        seen = masked[first].words - expand(opened.self_seeds[first], size, np.dtype("<u8"))
        for observed in (masked[first].words, seen):
            assert stats.kstest(observed / 2.0**64, "uniform").pvalue > 1e-6
            low = np.bincount((observed & np.uint64(255)).astype(int), minlength=256)
            assert stats.chisquare(low).pvalue > 1e-6
        lags[name] = np.corrcoef(seen[1:].astype(float), seen[:-1].astype(float))[0, 1]
    assert all(abs(lag) < 5 / np.sqrt(size) for lag in lags.values())


def test_fewer_shares_than_the_threshold_rebuild_nothing() -> None:
    sites = make_sites(5, colluding=2)
    _, masked = sites.mask("round 1", vectors_of(sites))
    revealed = sites.reveal("round 1", masked)
    target = sites.names[0]
    few = {
        site: revealed[site].shares[target] for site in sites.names[: sites.roster.threshold - 1]
    }
    with pytest.raises(FederationError, match="too few shares"):
        rebuild(few, sites.roster.threshold, masked[target].commitment)
    with pytest.raises(FederationError, match="another seed"):  # a lower threshold gives another
        rebuild(few, len(few), masked[target].commitment)


def test_a_swapped_or_unsigned_mask_key_is_refused() -> None:
    identity, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    trusted = {"a": public_hex(identity)}
    good = sign_mask_key(identity, X25519PrivateKey.generate(), site="a", session=SESSION)
    swapped = good.model_copy(
        update={"mask_key": X25519PrivateKey.generate().public_key().public_bytes_raw().hex()}
    )
    forged = sign_mask_key(stranger, X25519PrivateKey.generate(), site="a", session=SESSION)
    for keys, session in (
        ([swapped], SESSION),
        ([forged], SESSION),
        ([good], "another run"),
        ([good, good], SESSION),
        ([SignedMaskKey(site="z", mask_key=good.mask_key, signature=good.signature)], SESSION),
    ):
        with pytest.raises(FederationError) as error:
            check_mask_keys(keys, trusted, session=session)
        assert error.value.code == "roster_invalid"
    assert check_mask_keys([good], trusted, session=SESSION) == {"a": good.mask_key}


_FIELD = 2**255 - 19


def _same_point(mask_key: str, how: str) -> str:
    """Return other bytes that X25519 takes for the same key: it ignores torsion and the top bit."""
    u = int.from_bytes(bytes.fromhex(mask_key), "little")
    twin = u ^ (1 << 255) if how == "bit 255" else pow(u, -1, _FIELD)
    return twin.to_bytes(32, "little").hex()


@pytest.mark.parametrize("how", ["bit 255", "torsion"])
def test_a_colluder_with_anothers_key_learns_no_mask_of_it(how: str) -> None:
    """site03 signs site00's point as its own and vanishes: what is revealed are its own masks."""
    names = [f"site{i:02d}" for i in range(4)]
    identities = {name: Ed25519PrivateKey.generate() for name in names}
    keys = {name: X25519PrivateKey.generate() for name in names}
    mask_keys = {name: key.public_key().public_bytes_raw().hex() for name, key in keys.items()}
    mask_keys["site03"] = _same_point(mask_keys["site00"], how)
    roster = Roster(session=SESSION, mask_keys=mask_keys, tolerated_dropouts=1, threshold=3)
    public = {name: public_hex(key) for name, key in identities.items()}
    honest = names[:3]
    parties = {
        name: Party(name, identities[name], keys[name], roster, public, Claims()) for name in honest
    }
    shared = {
        twin: keys["site01"].exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(key)))
        for twin, key in (("own", mask_keys["site00"]), ("twin", mask_keys["site03"]))
    }
    assert shared["own"] == shared["twin"]  # the attack's premise
    everybody = tuple(names)
    sum_id = roster.sum_id("round 1", everybody, inputs="", size=6, bits=64)
    vectors = {name: words([7, -7, 1, 2, 3, 4]) for name in honest}
    masked = {name: parties[name].mask(sum_id, vectors[name])[0] for name in honest}
    survivors = tuple(honest)
    signatures = {name: parties[name].countersign("round 1", survivors) for name in honest}
    revealed = {
        name: parties[name].reveal("round 1", survivors, sealed_for(name, masked), signatures)
        for name in honest
    }
    opened = open_sum(masked, revealed, participants=everybody, threshold=3)
    assert (opened.words == sum(vectors.values())).all()
    # Take off all that is known of site00's masks, with the revealed seeds in every place.
    bare = masked["site00"].words - expand(opened.self_seeds["site00"], 6, np.dtype("<u8"))
    for seed in (revealed["site01"].pair_seeds["site03"], revealed["site02"].pair_seeds["site03"]):
        bare = bare - expand(seed, 6, np.dtype("<u8"))
    bare = bare - expand(revealed["site00"].pair_seeds["site03"], 6, np.dtype("<u8"))
    assert not (bare == vectors["site00"]).any()


def test_different_inputs_have_masks_that_do_not_fit() -> None:
    """A coordinator that sends one site other weights gets no sum at all."""
    sites = make_sites(3)
    masked = {}
    for site in sites.names:
        inputs = "other weights" if site == "site00" else "weights"
        sum_id = sites.roster.sum_id("round 1", sites.names, inputs=inputs, size=5, bits=64)
        masked[site] = sites.parties[site].mask(sum_id, words([1, 2, 3, 4, 5]))[0]
    for site in sites.names:
        with pytest.raises(FederationError) as error:
            sites.parties[site].reveal("round 1", sites.names, sealed_for(site, masked), {})
        assert error.value.code == "share_invalid"


def test_one_identity_under_two_names_is_refused() -> None:
    identity = Ed25519PrivateKey.generate()
    trusted = dict.fromkeys(("a", "b"), public_hex(identity))
    with pytest.raises(FederationError, match="two names"):
        check_mask_keys([], trusted, session=SESSION)


def test_a_site_does_not_take_part_in_a_roster_with_another_key_of_its_own() -> None:
    sites = make_sites(3)
    with pytest.raises(FederationError, match="not in the roster"):
        Party("site00", Ed25519PrivateKey.generate(), X25519PrivateKey.generate(), sites.roster,
              sites.identities, Claims())  # fmt: skip


def test_a_replayed_round_is_refused() -> None:
    sites = make_sites(3)
    sum_id, _ = sites.mask("round 1", vectors_of(sites))
    with pytest.raises(FederationError) as error:
        sites.parties["site00"].mask(sum_id, words([1, 2, 3, 4, 5]))
    assert error.value.code == "repeated_request"


def test_shares_of_one_round_open_no_other() -> None:
    sites = make_sites(3)
    _, first = sites.mask("round 1", vectors_of(sites))
    sites.mask("round 2", vectors_of(sites))
    with pytest.raises(FederationError) as error:
        sites.parties["site00"].reveal("round 2", sites.names, sealed_for("site00", first), {})
    assert error.value.code == "share_invalid"


def test_a_second_list_of_survivors_is_refused_even_after_only_countersigning() -> None:
    sites = make_sites(5, dropouts=1)
    _, masked = sites.mask("round 1", vectors_of(sites))
    party = sites.parties["site01"]
    party.countersign("round 1", sites.names[1:])
    sealed = sealed_for("site01", masked)
    with pytest.raises(FederationError) as error:
        party.reveal("round 1", sites.names, sealed, {})
    assert error.value.code == "second_list"


def test_both_kinds_of_share_for_one_peer_are_refused() -> None:
    """First site00 is shown as a survivor (its self mask), then as missing (its pair's seeds)."""
    sites = make_sites(5, dropouts=1)
    _, masked = sites.mask("round 1", vectors_of(sites))
    party = sites.parties["site01"]
    revealed = party.reveal("round 1", sites.names, sealed_for("site01", masked), {})
    assert set(revealed.shares) == set(sites.names)
    assert not revealed.pair_seeds
    for attempt in (party.countersign,):
        with pytest.raises(FederationError):
            attempt("round 1", sites.names[1:])
    rest = {site: m for site, m in masked.items() if site != "site00"}
    with pytest.raises(FederationError):
        party.reveal("round 1", sites.names[1:], sealed_for("site01", rest), {})


def test_an_altered_survivor_list_finds_no_signatures() -> None:
    """The coordinator drops site00 for site01 alone: the others never saw such a list."""
    sites = make_sites(5, dropouts=1)
    _, masked = sites.mask("round 1", vectors_of(sites))
    short = sites.names[1:]
    party = sites.parties["site01"]
    own = party.countersign("round 1", short)
    sealed = sealed_for("site01", {s: m for s, m in masked.items() if s in short})
    with pytest.raises(FederationError) as error:
        party.reveal("round 1", short, sealed, {"site01": own})
    assert error.value.code == "survivors_disputed"
    full = {site: sites.parties[site].countersign("round 1", sites.names) for site in short[1:]}
    with pytest.raises(FederationError) as error:  # signatures of another list
        party.reveal("round 1", short, sealed, {"site01": own, **full})
    assert error.value.code == "survivors_disputed"


def test_dropping_to_two_or_below_the_noise_is_refused() -> None:
    sites = make_sites(5, dropouts=1)
    _, masked = sites.mask("round 1", vectors_of(sites))
    party = sites.parties["site00"]
    for survivors in (sites.names[:2], sites.names[:3]):
        with pytest.raises(FederationError) as error:
            party.countersign("round 1", survivors)
        assert error.value.code == "too_few_survivors"
    for participants in (sites.names[:2], sites.names[:3]):
        with pytest.raises(FederationError) as error:
            sites.roster.sum_id("round 2", participants, inputs="", size=5, bits=64)
        assert error.value.code == "too_few_sites"
    assert masked  # the sum itself stays open for an honest list
    for count, dropouts in ((2, 0), (3, 1), (4, 2)):
        with pytest.raises(FederationError) as error:
            make_sites(count, dropouts=dropouts)
        assert error.value.code == "too_few_sites"


def test_a_restarted_site_keeps_its_one_list() -> None:
    """What a site claimed is on disk: a second process answers for no other list."""
    sites = make_sites(5, dropouts=1)
    _, masked = sites.mask("round 1", vectors_of(sites))
    sites.parties["site01"].countersign("round 1", sites.names[1:])
    assert masked
    assert sites.claims["site01"]("round 1", sites.names) is False


def test_masks_of_two_sums_two_sessions_and_two_sites_have_nothing_in_common() -> None:
    sites = make_sites(3)
    seen: list[bytes] = []
    for label in ("round 1", "round 2"):
        _, masked = sites.mask(label, {site: words([0] * 8) for site in sites.names})
        seen += [m.words.tobytes() for m in masked.values()]
        seen += [share for m in masked.values() for share in m.sealed.values()]
    _, masked = make_sites(3).mask("round 1", {"site00": words([0] * 8)})
    seen += [m.words.tobytes() for m in masked.values()]
    assert len(set(seen)) == len(seen)
