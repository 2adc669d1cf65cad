"""Synthetic patients visit by visit: what is learnt of how visits follow, and what is obeyed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pratique_client.histograms import exact_histograms
from pratique_client.patients import Group
from pratique_client.training import encode_patients
from pratique_common.errors import NotEnoughDataError
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.study import StudySpec
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.candidate import sample_candidate
from pratique_privacy.post_processing.one_way import OneWay, smoothed
from pratique_privacy.post_processing.pairwise_fit import PairwiseFit
from tests.conftest import small_study

PATIENTS, VISITS = 6_000, 4
DATA: dict[str, Any] = {
    "kind": "table",
    "patient_id": "who",
    "max_rows_per_patient": VISITS,
    "target": "ill",
    "columns": [
        {"name": "sex", "type": "categorical", "categories": ["f", "m"]},
        {"name": "ill", "type": "categorical", "categories": ["no", "yes"]},
        {"name": "age", "type": "numeric", "lower": 20, "upper": 100, "bins": 8, "integer": True},
        {"name": "births", "type": "categorical", "categories": ["0", "1"],
         "asked_if": "sex == 'f'"},
    ],
    "visits": {"order_by": "age", "fixed": ["sex"]},
    "rules": [
        {"when": "age > 80", "then": "ill == 'yes'"},
        {"when": "previous(ill) == 'yes' and ill == 'yes'", "then": "age > previous(age)"},
    ],
}  # fmt: skip


def _study(**release: Any) -> StudySpec:
    return small_study(data=DATA, release={"rows": 20_000, **release}, training={"rounds": 1})


STUDY = _study()


def _cohort() -> pd.DataFrame:
    """Illness persists (.9 against .2), the ill come again (.8 against .3), age grows by 1 to 9."""
    rng = np.random.default_rng(0)
    rows = []
    for who in range(PATIENTS):
        sex, age = rng.choice(["f", "m"]), int(rng.integers(25, 80))
        ill = rng.random() < 0.4
        for _ in range(VISITS):
            ill |= age > 80
            births = str(rng.integers(0, 2)) if sex == "f" else None
            rows.append((who, sex, "yes" if ill else "no", float(age), births))
            if rng.random() > (0.8 if ill else 0.3):
                break
            ill = rng.random() < (0.9 if ill else 0.2)
            age = min(100, age + int(rng.integers(1, 10)))
    frame = pd.DataFrame(rows, columns=["who", "sex", "ill", "age", "births"], dtype=object)
    return frame.where(frame.notna(), None)


def _fitted(frame: pd.DataFrame) -> tuple[PairwiseGenerator, OneWay]:
    """Fit as a coordinator does, nearly without noise."""
    names = STUDY.data.names
    columns = {name: frame[name].to_numpy(float if name == "age" else object) for name in names}
    group = Group(columns, frame["who"].to_numpy(object))
    codes, weight = encode_patients(STUDY, group)
    generator = build_generator(STUDY)
    assert isinstance(generator, PairwiseGenerator)
    one_way = OneWay.of(STUDY, exact_histograms(STUDY, codes, weight, group), [1e-2, 1e-2])
    generator.set_marginals([smoothed(m, STUDY) for m in one_way.marginals])
    fit = PairwiseFit(STUDY, generator, patients=one_way.patients, errors=one_way.errors)
    fit.update(patient_sum(generator, STUDY.training.max_grad_norm)(codes, weight), 1e-2)
    fit.finish()
    return generator, one_way


@pytest.fixture(scope="module")
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Real and synthetic visits."""
    real = _cohort()
    generator, one_way = _fitted(real)
    return real, sample_candidate(STUDY, generator, one_way, seed=3).to_pandas()


def _follows(frame: pd.DataFrame) -> dict[str, float]:
    by_patient = frame.groupby("who", sort=False)
    before, size = by_patient.shift(1), by_patient["age"].transform("size")
    later = before["ill"].notna()
    last = ~frame["who"].duplicated(keep="last") & (size < VISITS)
    ill, was_ill = frame["ill"] == "yes", before["ill"] == "yes"
    age = frame["age"].astype(float)
    return {
        "visits": len(frame) / frame["who"].nunique(),
        "ill stays": ill[later & was_ill].mean(),
        "falls ill": ill[later & ~was_ill].mean(),
        "ill comes again": 1 - last[ill & (frame.groupby("who").cumcount() < VISITS - 1)].mean(),
        "well comes again": 1 - last[~ill & (frame.groupby("who").cumcount() < VISITS - 1)].mean(),
        "first ill": ill[~later].mean(),
        "age grows": (age - before["age"].astype(float))[later].mean() / 40,
    }


def test_visits_follow_as_the_real_ones_do(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    real, synthetic = map(_follows, made)
    for name, value in real.items():
        # Visits of patients with many count less: what follows is learnt a little less well. Ages
        # are drawn anew inside their bins of ten years.
        assert synthetic[name] == pytest.approx(value, abs=0.08), name
    assert real["ill stays"] - real["falls ill"] > 0.5


def test_what_the_study_says_holds_in_every_visit(made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    _, synthetic = made
    assert len(synthetic) == 20_000
    by_patient = synthetic.groupby("who", sort=False)
    assert by_patient["sex"].nunique().max() == 1
    assert by_patient.size().max() == VISITS
    grows = by_patient["age"].diff().dropna()
    assert (grows >= 0).all() and (grows > 0).any()
    ill = synthetic["ill"] == "yes"
    still = ill & (by_patient["ill"].shift(1) == "yes")
    assert still.any() and (by_patient["age"].diff()[still] > 0).all()
    assert (synthetic["ill"][synthetic["age"] > 80] == "yes").all()
    assert (synthetic["births"].isna() == (synthetic["sex"] == "m")).all()
    assert synthetic["who"].is_monotonic_increasing


def test_the_same_seed_gives_the_same_visits() -> None:
    study = _study(rows=300)
    generator = build_generator(study)
    tables = [sample_candidate(study, generator, OneWay([]), seed=s) for s in (1, 1, 2)]
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_a_generator_that_cannot_obey_ends_in_a_named_cause() -> None:
    data = {**DATA, "rules": [{"when": "age > 0", "then": "age < 20"}]}
    study = small_study(data=data, release={"rows": 300})
    with pytest.raises(NotEnoughDataError, match="too little to obey"):
        sample_candidate(study, build_generator(study), OneWay([]), seed=0)


def test_visits_before_are_paired_with_their_own_column_only() -> None:
    generator = build_generator(STUDY)
    assert isinstance(generator, PairwiseGenerator)
    names, layout = STUDY.data.trained.names, generator.layout
    pairs = [{names[a], names[b]} for a, b in layout.pairs]
    assert {"ill", "previous ill"} in pairs and {"age", "previous ill"} not in pairs
    assert {"first visit", "another visit"} in pairs
    levels = layout.num_levels
    assert layout.size == layout.num_cells + sum(levels[a] * levels[b] for a, b in layout.pairs)
    _, matrix = layout.split(np.arange(1.0, layout.size + 1), np.ones(len(layout.num_levels)))
    weights = torch.from_numpy(matrix)
    assert int((weights != 0).sum()) == 2 * (layout.size - layout.num_cells)


def test_two_dates_of_a_visit_are_in_the_bins_that_the_model_says() -> None:
    """Half of the stays end in the bin they begin in: a rule must not make these fewer."""
    day = {"type": "date", "first": "2020-01-01", "last": "2020-12-27", "bins": 6}
    data = {
        "kind": "table", "patient_id": "who", "max_rows_per_patient": 2,
        "columns": [{"name": "came", **day}, {"name": "left", **day}],
        "visits": {"order_by": "came"},
        "rules": [{"when": "not missing(came)", "then": "left >= came"}],
    }  # fmt: skip
    study = small_study(data=data, release={"rows": 4_000}, training={"rounds": 1})
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    names = study.data.trained.names
    marginals = [np.full(n, 1 / n) for n in generator.layout.num_levels]
    marginals[0], marginals[1] = np.eye(6)[2], np.array([0, 0, 0.5, 0.5, 0, 0])
    marginals[names.index("another visit")] = np.eye(2)[0]
    generator.set_marginals([m + 1e-9 for m in marginals])
    made = sample_candidate(study, generator, OneWay([]), seed=1).to_pandas()
    came, left = (pd.to_datetime(made[name]) for name in ("came", "left"))
    assert (left >= came).all()
    same = left < pd.Timestamp("2020-06-29")  # where the fourth of six bins of 60.2 days begins
    assert same.mean() == pytest.approx(0.5, abs=0.03)
