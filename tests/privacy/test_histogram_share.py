from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pratique_common.generators import TABLE_GENERATORS
from pratique_common.generators.base import CountedGenerator
from pratique_common.generators.build import build_generator
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.histogram_share import FITTED, histogram_share
from tests.conftest import small_study


def _plan(name: str = "pairwise", **changes: Any) -> PrivacyPlan:
    privacy = {"target_epsilon": 1.0, "expected_patients": 2_500, **changes.pop("privacy", {})}
    training = changes.pop("training", {})
    return PrivacyPlan(small_study(generator={"name": name}, privacy=privacy, training=training))


def _share_of(plan: PrivacyPlan) -> float:
    rounds = plan.study.training.rounds
    of_histograms = plan.histogram.noise_multiplier**-2
    return of_histograms / (of_histograms + rounds * plan.step.noise_multiplier**-2)


@pytest.mark.parametrize("name", TABLE_GENERATORS)
def test_the_names_are_those_of_the_generators_that_are_fitted(name: str) -> None:
    rounds = 0 if name == "independent" else 3
    generator = build_generator(_plan(name, training={"rounds": rounds}).study)
    assert isinstance(generator, CountedGenerator) == (name in FITTED)


@pytest.mark.parametrize("name", sorted(set(TABLE_GENERATORS) - FITTED - {"independent"}))
def test_networks_give_a_quarter_to_histograms(name: str) -> None:
    assert _share_of(_plan(name)) == pytest.approx(0.25, rel=0.01)


def test_the_share_that_a_study_names_is_taken() -> None:
    assert _share_of(_plan(training={"histogram_share": 0.7})) == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize(
    ("patients", "epsilon", "share"),
    [
        (100, 0.3, 0.55),  # noise of a count is a fifth of all patients: the most there is
        (2_500, 1.0, 0.4786),  # σ = 3.73, three columns, 2,000 in training: r = .00323
        (40_000, 3.0, 0.25),  # all but exact: the least
    ],
)
def test_the_share_follows_from_noise_columns_and_patients(
    patients: int, epsilon: float, share: float
) -> None:
    plan = _plan(privacy={"target_epsilon": epsilon, "expected_patients": patients})
    assert _share_of(plan) == pytest.approx(share, rel=0.01)


@given(st.floats(1e-3, 1e6), st.floats(1.01, 100.0))
def test_more_noise_never_means_a_smaller_share(sigma: float, more: float) -> None:
    study = _plan().study
    less_noise, more_noise = histogram_share(study, sigma), histogram_share(study, more * sigma)
    assert 0 < less_noise <= more_noise < 1
