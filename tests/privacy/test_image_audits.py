"""The audit of images: altered copies of members' images are found, other patients' images pass."""

from typing import Any

import numpy as np
import pytest

from pratique_common.images.spec import PLANES, feature_names
from pratique_common.study import ReleasePolicy
from pratique_privacy.agreement import CopyLikelihood
from pratique_privacy.audits import AUDITS
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import ConcludedAudit, conclude, count_cells
from pratique_privacy.closeness import RelativeCloseness
from pratique_privacy.control import planted_leak
from pratique_privacy.local_audits import run_local_audits
from pratique_privacy.local_audits.base import RealPatients
from tests.phantom_images import SCHEMA, Columns, Images, altered, hospital

NUM_MEMBERS, NUM_HELD_OUT, NUM_OTHERS = 250, 250, 1_000
NUM_COPIED = 20
"""Of 1,000. What a share of 1 % needs, thousands of patients, is in ``tests/statistical``."""

NUM_IN_PLANES = 30
"""Copies of single contrasts."""


@pytest.fixture(scope="module")
def images() -> Images:
    """Patients with an image each: members, held out, others."""
    return hospital(NUM_MEMBERS + NUM_HELD_OUT + NUM_OTHERS, seed=3, most_slices=1)


@pytest.fixture(scope="module")
def rows(images: Images) -> Columns:
    return images.columns()


def _taken(rows: Columns, chosen: slice) -> Columns:
    return {name: values[chosen] for name, values in rows.items()}


def _candidate(images: Images, rows: Columns, num_copied: int, **alterations: Any) -> Columns:
    """Other patients' images, in the place of some of them copies of members'."""
    rng = np.random.default_rng(4)
    source = images.take(np.arange(num_copied))
    pixels = altered(source.pixels, rng, **alterations)
    copies = Images(pixels, source.kind, source.place, source.owner).columns()
    honest = _taken(rows, slice(NUM_MEMBERS + NUM_HELD_OUT, None))
    return {name: np.concatenate([copies[name], v[num_copied:]]) for name, v in honest.items()}


def _patients(rows: Columns, table: Columns) -> RealPatients:
    patients = np.arange(NUM_MEMBERS + NUM_HELD_OUT).astype(str)
    is_member = np.unique(patients).astype(int) < NUM_MEMBERS
    columns = _taken(rows, slice(len(patients)))
    return RealPatients.of(AuditContext.build(SCHEMA, table), columns, patients, is_member)


def _audit(rows: Columns, table: Columns) -> dict[str, ConcludedAudit]:
    patients = _patients(rows, table)
    groups = patients.is_member, ~patients.is_member
    cuts = patients.context.cuts
    return conclude(
        *(count_cells(cuts, patients.scores.of_group(group)) for group in groups),
        ReleasePolicy(),
        sigma_members=0,
        sigma_holdout=0,
        member_share=NUM_MEMBERS / (NUM_MEMBERS + NUM_HELD_OUT),
    )


def _refusing(found: dict[str, ConcludedAudit]) -> set[str]:
    return {name for name, audit in found.items() if audit.p_adjusted < 0.05}


def _control(table: Columns) -> set[str]:
    """Return what finds the leak that is planted among a table's rows."""
    planted = planted_leak(
        SCHEMA, table, ReleasePolicy(), num_members=1_600.0, num_holdout=400.0,
        sigma_members=8.0, sigma_holdout=3.0,
    )  # fmt: skip
    assert planted is not None
    return set(planted.found_by)


def test_altered_copies_are_found(images: Images, rows: Columns) -> None:
    found = _refusing(_audit(rows, _candidate(images, rows, NUM_COPIED)))
    assert found & {"FS_1", "FS_5"}


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_rows_that_lie_together_switch_nothing_off(
    images: Images, rows: Columns, gap: float
) -> None:
    """Slips of a generator, or planted: thirty pairs of rows, equal or all but equal."""
    table = _candidate(images, rows, NUM_COPIED)
    apart = AuditContext.build(SCHEMA, table)
    for name, values in table.items():
        values[-30:] = values[-60:-30]
        if name == feature_names()[0]:
            values[-30:] += gap
    together = AuditContext.build(SCHEMA, table)
    assert together.cuts.near_radius > 0.7 * apart.cuts.near_radius
    np.testing.assert_array_equal(together.cuts.copies, apart.cuts.copies)
    assert _refusing(_audit(rows, table)) & {"FS_1", "FS_5"}


def test_mirrored_copies_are_exact_ones(images: Images, rows: Columns) -> None:
    unaltered: Any = {"shift_px": 0, "noise": (0, 0), "gamma": (1, 1)}
    found = _audit(rows, _candidate(images, rows, NUM_COPIED, **unaltered))
    assert _refusing(found) >= {"EXACT", "FS_1"}


def test_other_patients_images_pass(images: Images, rows: Columns) -> None:
    found = _audit(rows, _candidate(images, rows, 0))
    assert set(found) == set(AUDITS)
    assert _refusing(found) == set()


def test_the_encoder_is_what_sees_it(images: Images, rows: Columns) -> None:
    """Negative control: the same audit with features that say nothing of the image."""
    rng = np.random.default_rng(5)
    noise = {name: np.round(rng.standard_normal(len(images.kind)), 6) for name in feature_names()}
    blind = {**rows, **noise}
    table = _candidate(images, blind, NUM_COPIED)
    for name in noise:
        table[name][:NUM_COPIED] = np.round(rng.standard_normal(NUM_COPIED), 6)
    assert _refusing(_audit(blind, table)) == set()


def test_a_few_copies_of_one_image_do_not_hide_each_other(images: Images, rows: Columns) -> None:
    table = _candidate(images, rows, NUM_COPIED)
    alone = AuditContext.build(SCHEMA, table)
    again = altered(images.pixels[:NUM_COPIED].repeat(2, axis=0), np.random.default_rng(6))
    twice = images.take(np.arange(NUM_COPIED).repeat(2))
    copies = Images(again, twice.kind, twice.place, twice.owner).columns()
    crowded = AuditContext.build(
        SCHEMA, {name: np.concatenate([v, copies[name]]) for name, v in table.items()}
    )
    members = _taken(rows, slice(NUM_COPIED))
    others = _taken(rows, slice(NUM_MEMBERS, NUM_MEMBERS + NUM_HELD_OUT))
    for context in (alone, crowded):
        assert isinstance(context.copies, RelativeCloseness)
        beyond = np.quantile(context.copies.scores(others), 0.99)
        assert (context.copies.scores(members) > beyond).mean() > 0.4  # by chance .01


@pytest.fixture(scope="module")
def contrasts() -> Images:
    num_patients = NUM_MEMBERS + NUM_HELD_OUT + NUM_OTHERS
    return hospital(num_patients, seed=3, most_slices=1, contrasts=("t1ce", "t2", "flair"))


@pytest.fixture(scope="module")
def rows_of_contrasts(contrasts: Images) -> Columns:
    return contrasts.columns()


def _with_copies(contrasts: Images, rows: Columns, pixels: Any, *, at: int = 0) -> Columns:
    """Return other patients' rows, from ``at`` on with other pixels."""
    first = NUM_MEMBERS + NUM_HELD_OUT
    others = contrasts.take(np.arange(first + at, first + at + len(pixels)))
    made = Images(pixels, others.kind, others.place, others.owner).columns()
    table = {name: values[first:].copy() for name, values in rows.items()}
    for name, values in table.items():
        values[at : at + len(pixels)] = made[name]
    return table


@pytest.mark.parametrize("copied", [[1], [0, 2], [0, 1, 2]])
def test_copies_of_some_contrasts_among_new_ones_are_found(
    contrasts: Images, rows_of_contrasts: Columns, copied: list[int]
) -> None:
    """What they show besides, kind and place too, are other patients'."""
    first = NUM_MEMBERS + NUM_HELD_OUT
    pixels = contrasts.pixels[first : first + NUM_IN_PLANES].copy()
    of_members = altered(contrasts.pixels[:NUM_IN_PLANES], np.random.default_rng(4))
    pixels[..., copied] = of_members[..., copied]
    table = _with_copies(contrasts, rows_of_contrasts, pixels)
    found = _audit(rows_of_contrasts, table)
    assert _refusing(found) & {"FS_1", "FS_5"}
    if len(copied) < 3:  # the whole image alone does not show it
        without = [
            {n: v for n, v in each.items() if n != PLANES} for each in (rows_of_contrasts, table)
        ]
        assert _refusing(_audit(*without)) == set()


def test_a_stack_that_moved_by_a_slice_is_found(
    contrasts: Images, rows_of_contrasts: Columns
) -> None:
    """Of slices of one contrast each is compared with each; of contrasts, with its own kind."""
    first = NUM_MEMBERS + NUM_HELD_OUT
    pixels = contrasts.pixels[first : first + NUM_IN_PLANES].copy()
    pixels[..., :2] = contrasts.pixels[:NUM_IN_PLANES, ..., 1:]
    tables = rows_of_contrasts, _with_copies(contrasts, rows_of_contrasts, pixels)
    stacks = [
        columns | {PLANES: columns[PLANES].reshape(len(columns[PLANES]), 1, 3, -1)}
        for columns in tables
    ]
    assert _refusing(_audit(*stacks)) & {"FS_1", "FS_5"}
    assert _refusing(_audit(*tables)) == set()


def test_planes_that_show_nothing_hide_no_copies(
    contrasts: Images, rows_of_contrasts: Columns
) -> None:
    first = NUM_MEMBERS + NUM_HELD_OUT
    others = contrasts.pixels[first:].copy()
    of_members = altered(contrasts.pixels[:NUM_IN_PLANES], np.random.default_rng(4))
    # A generator that leaves one contrast black, but in one row, to which everybody would be near.
    others[..., 2] = 0
    others[NUM_IN_PLANES, ..., 2] = contrasts.pixels[first + NUM_IN_PLANES, ..., 2]
    others[:NUM_IN_PLANES, ..., :2] = of_members[..., :2]
    table = _with_copies(contrasts, rows_of_contrasts, others)
    assert _refusing(_audit(rows_of_contrasts, table)) & {"FS_1", "FS_5"}
    # 40 patients whose third contrast is black, and one honest row like them.
    pixels = contrasts.pixels[:first].copy()
    hit = np.random.default_rng(1).choice(first, 40, replace=False)
    pixels[hit, ..., 2] = 0
    patients = contrasts.take(np.arange(first))
    real = Images(pixels, patients.kind, patients.place, patients.owner).columns()
    table = _with_copies(contrasts, rows_of_contrasts, of_members)
    black = _with_copies(contrasts, rows_of_contrasts, others[-1:], at=NUM_OTHERS - 1)
    table = {name: np.concatenate([v[:-1], black[name][-1:]]) for name, v in table.items()}
    assert np.isnan(table[PLANES][-1, 2]).all()
    assert _refusing(_audit(real, table)) & {"FS_1", "FS_5"}


def test_other_patients_contrasts_pass(rows_of_contrasts: Columns) -> None:
    table = _taken(rows_of_contrasts, slice(NUM_MEMBERS + NUM_HELD_OUT, None))
    assert _refusing(_audit(rows_of_contrasts, table)) == set()
    assert _control(table) >= {"EXACT", "FS_1"}


def test_tables_are_scored_by_agreement() -> None:
    schema = SCHEMA.model_copy(update={"columns": SCHEMA.columns[:2]})
    rng = np.random.default_rng(0)
    table = {"kind": rng.choice(["none", "meningioma"], 100).astype(object)}
    table["place"] = np.round(rng.random(100), 2)
    assert isinstance(AuditContext.build(schema, table).copies, CopyLikelihood)


def test_own_rows_do_not_count_for_themselves(rows: Columns) -> None:
    table = _taken(rows, slice(100))
    copies = RelativeCloseness(SCHEMA, table)
    everybody = copies.scores(table, own=0)
    np.testing.assert_array_equal(copies.scores(_taken(table, slice(30, 60)), own=30), everybody[30:60])  # fmt: skip  # noqa: E501
    assert copies.scores(table).min() > everybody.max()  # a row is its own copy


def test_the_planted_leak_control_finds_phantom_rows_of_features(rows: Columns) -> None:
    table = _taken(rows, slice(NUM_MEMBERS + NUM_HELD_OUT, None))
    assert _control(table) >= {"EXACT", "FS_1"}


def test_a_hospital_s_own_annex_can_be_written_for_images(images: Images, rows: Columns) -> None:
    patients = _patients(rows, _candidate(images, rows, NUM_COPIED))
    results = {result.id: result for result in run_local_audits(patients)}
    assert results["NNDR"].members is not None
    assert all(r.p_value is None or 0 <= r.p_value <= 1 for r in results.values())
