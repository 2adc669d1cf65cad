import numpy as np
import pytest

from pratique_common.errors import NotEnoughDataError
from pratique_common.generators.build import build_generator
from pratique_common.study import StudySpec
from pratique_common.tables import check_table, parquet_bytes
from pratique_privacy.post_processing.candidate import (
    rake,
    sample_candidate,
)
from pratique_privacy.post_processing.one_way import OneWay
from tests.conftest import small_study


def _one_way(study: StudySpec, seed: int = 0) -> OneWay:
    rng = np.random.default_rng(seed)
    return OneWay([rng.dirichlet(np.full(c.num_levels, 5.0)) for c in study.data.columns])


def _with_rules(*rules: tuple[str, str]) -> StudySpec:
    data = small_study().data.model_dump(mode="json")
    data["rules"] = [{"when": when, "then": then} for when, then in rules]
    return small_study(data=data)


def test_a_candidate_has_the_rows_domains_and_rules_of_its_study() -> None:
    study = _with_rules(("age < 40", "disease == 'no'"), ("missing(marker)", "age > 30"))
    table = sample_candidate(study, build_generator(study), _one_way(study), seed=1)
    checked = check_table(table, study.data, source="candidate", patient_id=None)
    assert checked.num_rows == study.release.rows
    assert checked.num_dropped == 0
    assert table.column_names == list(study.data.names)


def test_the_seed_decides_everything() -> None:
    study = small_study()
    generator = build_generator(study)
    tables = [
        parquet_bytes(sample_candidate(study, generator, _one_way(study), seed=s))
        for s in (1, 1, 2)
    ]
    assert tables[0] == tables[1] != tables[2]


def test_raking_fits_the_marginals() -> None:
    rng = np.random.default_rng(0)
    pool = np.stack([rng.integers(0, 4, 5_000), rng.integers(0, 3, 5_000)], axis=1)
    wanted = [np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])]
    weights = rake(pool, wanted)
    for d, marginal in enumerate(wanted):
        found = np.bincount(pool[:, d], weights, minlength=len(marginal))
        np.testing.assert_allclose(found, marginal, atol=1e-6)


def test_synthetic_marginals_are_the_noised_histograms() -> None:
    """Of a trained generator; a fitted one has taken them into account already."""
    study = small_study(release={"rows": 4_000}, generator={"name": "autoregressive"})
    wanted = _one_way(study, seed=3)
    table = sample_candidate(study, build_generator(study), wanted, seed=5)
    disease = np.array(table.column("disease").to_pylist())
    assert abs((disease == "yes").mean() - wanted.marginals[2][1]) < 0.01


def test_levels_that_rules_hit_keep_their_share() -> None:
    """Rows with the disease are thrown out three times in four; it is no rarer for that."""
    rule = ("disease == 'yes'", "age < 40")
    data = _with_rules(rule).data.model_dump(mode="json")
    study = small_study(
        data=data,
        release={"rows": 4_000},
        generator={"name": "independent"},
        training={"rounds": 0},
    )
    generator = build_generator(study)
    marginals = [np.full(c.num_levels, 1 / c.num_levels) for c in study.data.columns]
    marginals[2] = np.array([0.8, 0.2])
    generator.set_marginals(marginals)
    table = sample_candidate(study, generator, OneWay(marginals), seed=5)
    disease = np.array(table.column("disease").to_pylist())
    assert (disease == "yes").mean() == pytest.approx(0.2, abs=0.01)


def test_rules_that_are_never_obeyed_end_in_words() -> None:
    study = _with_rules(("age >= 20", "age < 20"))
    with pytest.raises(NotEnoughDataError, match="rules"):
        sample_candidate(study, build_generator(study), _one_way(study), seed=1)
