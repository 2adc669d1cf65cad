from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_client.auditing import one_row_each
from pratique_client.patients import Group
from pratique_client.site import load_site
from pratique_client.split import commitment, holdout_mask, is_holdout
from pratique_common.errors import InvalidFileError
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.ledger import Charge
from tests.federation.helpers import make_site

DIGEST = "ab" * 32
SECRET = b"s" * 32


@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0.05, 0.5), prefix=st.text(max_size=5))
def test_the_share_is_the_studys_and_roles_are_independent(fraction: float, prefix: str) -> None:
    roles = np.array([is_holdout(SECRET, DIGEST, f"{prefix}{i}", fraction) for i in range(4_000)])
    assert abs(roles.mean() - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / 4_000)
    assert abs(np.corrcoef(roles[1:], roles[:-1])[0, 1]) < 0.1


def test_adding_a_patient_changes_nobody_elses_role() -> None:
    before = [is_holdout(SECRET, DIGEST, f"p{i}", 0.2) for i in range(500)]
    after = [is_holdout(SECRET, DIGEST, f"p{i}", 0.2) for i in range(501)]
    assert after[:500] == before


def test_roles_depend_on_secret_and_study() -> None:
    def roles(secret: bytes, digest: str) -> list[bool]:
        return [is_holdout(secret, digest, f"p{i}", 0.5) for i in range(200)]

    assert roles(SECRET, DIGEST) != roles(b"t" * 32, DIGEST)
    assert roles(SECRET, DIGEST) != roles(SECRET, "cd" * 32)
    assert roles(SECRET, DIGEST) == roles(SECRET, DIGEST)


def test_the_commitment_binds_the_hold_out_and_hides_it(tmp_path: Path) -> None:
    ids, salt = np.array(["b", "a"], object), b"s" * 32
    assert commitment(salt, ids) == commitment(salt, ids[::-1])
    assert commitment(salt, ids) != commitment(salt, ids[:1])
    assert commitment(salt, ids) != commitment(b"t" * 32, ids)
    assert commitment(salt, np.array(["ab"], object)) != commitment(salt, ids)


def test_the_secret_is_private_and_never_drawn_twice(tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("x\n")
    site = make_site(tmp_path / "one", "one", data)
    ids = np.array(["b", "a"], object)
    assert holdout_mask(site, DIGEST, ids, 0.5).shape == (2,)
    assert (site.folder / "split.secret").stat().st_mode & 0o077 == 0
    event = GaussianEvent(noise_multiplier=5.0)
    charge = Charge(study=DIGEST, run="r", role="member", phase="histograms", event=event)
    site.ledger.reserve([charge])
    (site.folder / "split.secret").unlink()
    with pytest.raises(InvalidFileError, match=r"split\.secret: no such file; restore it"):
        _ = load_site(site.folder).split_secret


def test_one_row_each_is_any_row_and_depends_on_no_other_patient() -> None:
    patients = np.repeat([f"p{i}" for i in range(3_000)], 3).astype(object)
    values = np.tile([0.0, 1.0, 2.0], 3_000)
    chosen = one_row_each(Group({"x": values}, patients), SECRET)["x"]
    assert len(chosen) == 3_000
    assert (np.bincount(chosen.astype(int)) / 3_000).tolist() == pytest.approx(
        3 * [1 / 3], abs=0.04
    )
    without = one_row_each(Group({"x": values[3:]}, patients[3:]), SECRET)["x"]
    np.testing.assert_array_equal(without, chosen[np.unique(patients.astype(str)) != "p0"])
