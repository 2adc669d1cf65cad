"""The simulated cardiology cohort: its outcome is the published one, its rows obey its study."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata

from pratique_common.binned_columns import NumericColumn
from pratique_common.errors import UsageError
from pratique_common.phantoms.cohort import (
    HOSPITALS,
    framingham_risk,
    simulate_cohort,
    study_path,
    write_cohort,
)
from pratique_common.study import StudySpec, load_study

SMALL = {"harbour": 30, "northgate": 20, "lakeside": 10}


@pytest.fixture(scope="module")
def cohort() -> dict[str, pd.DataFrame]:
    return simulate_cohort(7)


@pytest.fixture(scope="module")
def everybody(cohort: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(cohort.values(), ignore_index=True)


@pytest.fixture(scope="module")
def study() -> StudySpec:
    return load_study(study_path())


def arrays(table: pd.DataFrame, study: StudySpec) -> dict[str, NDArray[Any]]:
    """Return the columns as rules want them: floats with NaN, texts with None."""
    result: dict[str, NDArray[Any]] = {}
    for column in study.data.columns:
        values = table[column.name]
        if isinstance(column, NumericColumn):
            result[column.name] = values.to_numpy(np.float64)
        else:
            texts = [None if pd.isna(value) else value for value in values]
            result[column.name] = np.array(texts, dtype=object)
    return result


def share(table: pd.DataFrame, column: str, level: str = "yes") -> float:
    return float((table[column] == level).mean())


def risk_of(table: pd.DataFrame) -> NDArray[np.float64]:
    return framingham_risk(
        age_years=table["age"].to_numpy(np.float64),
        woman=(table["sex"] == "female").to_numpy(bool),
        total_cholesterol_mg_dl=table["total_cholesterol"].to_numpy(np.float64),
        hdl_cholesterol_mg_dl=table["hdl_cholesterol"].to_numpy(np.float64),
        systolic_bp_mmhg=table["systolic_bp"].to_numpy(np.float64),
        bp_treated=(table["bp_medication"] == "yes").to_numpy(bool),
        smoker=(table["smoking"] == "current").to_numpy(bool),
        diabetic=(table["diabetes"] == "yes").to_numpy(bool),
    )


def one_risk(
    *, age: float, woman: bool, tc: float, hdl: float, sbp: float, rx: bool, smoke: bool, dm: bool
) -> float:
    return float(
        framingham_risk(
            age_years=np.array([age]),
            woman=np.array([woman]),
            total_cholesterol_mg_dl=np.array([tc]),
            hdl_cholesterol_mg_dl=np.array([hdl]),
            systolic_bp_mmhg=np.array([sbp]),
            bp_treated=np.array([rx]),
            smoker=np.array([smoke]),
            diabetic=np.array([dm]),
        )[0]
    )


def test_framingham_equation_gives_the_worked_examples() -> None:
    woman = one_risk(age=61, woman=True, tc=180, hdl=47, sbp=124, rx=False, smoke=True, dm=False)
    man = one_risk(age=53, woman=False, tc=161, hdl=55, sbp=125, rx=True, smoke=False, dm=True)
    assert (round(100 * woman, 1), round(100 * man, 1)) == (10.5, 15.6)


def test_framingham_equation_clamps_age_to_its_range() -> None:
    rest: dict[str, Any] = {"woman": False, "tc": 200, "hdl": 45, "sbp": 140}
    rest |= {"rx": False, "smoke": False, "dm": False}
    assert one_risk(age=90, **rest) == one_risk(age=74, **rest) > one_risk(age=73, **rest)
    assert one_risk(age=20, **rest) == one_risk(age=30, **rest)


def test_the_seed_decides() -> None:
    first, again, other = (simulate_cohort(seed, num_patients=SMALL) for seed in (1, 1, 2))
    for name in SMALL:
        pd.testing.assert_frame_equal(first[name], again[name])
        assert not first[name].equals(other[name])


def test_a_hospital_does_not_depend_on_the_others_sizes() -> None:
    small = simulate_cohort(3, num_patients=SMALL)
    changed = simulate_cohort(3, num_patients=SMALL | {"harbour": 5, "northgate": 50})
    pd.testing.assert_frame_equal(small["lakeside"], changed["lakeside"])
    assert changed["northgate"]["patient"].nunique() == 50


@pytest.mark.parametrize("sizes", [{"nowhere": 10}, {"harbour": 0}])
def test_impossible_sizes_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="harbour, northgate, lakeside"):
        simulate_cohort(1, num_patients=sizes)


def test_patients_and_visits(cohort: dict[str, pd.DataFrame], study: StudySpec) -> None:
    assert sum(hospital.num_patients for hospital in HOSPITALS) == study.privacy.expected_patients
    for hospital in HOSPITALS:
        table = cohort[hospital.name]
        visits = table.groupby("patient", sort=False)
        assert visits.ngroups == hospital.num_patients
        assert set(visits.size()) == {1, 2, 3}
        assert study.data.max_rows_per_patient == 3
        assert (visits[["sex", "diabetes"]].nunique() == 1).all(axis=None)
        assert visits["age"].apply(lambda ages: ages.is_monotonic_increasing).all()
        assert table["patient"].str.startswith(f"{hospital.name}-").all()


def test_no_row_is_outside_the_study(everybody: pd.DataFrame, study: StudySpec) -> None:
    assert ["patient", *study.data.names] == list(everybody.columns)
    for column in study.data.columns:
        values = everybody[column.name]
        known = values.dropna()
        assert column.missing == (len(known) < len(values)), column.name
        if isinstance(column, NumericColumn):
            edges = column.bin_edges()
            assert known.between(edges[0], edges[-1]).all(), column.name
            if column.integer:
                assert (known == known.round()).all(), column.name
            counts, _ = np.histogram(known, edges)
            assert (counts > 0).all(), f"{column.name}: an empty bin"
        else:
            assert set(known) == set(column.categories), column.name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_row_obeys_every_rule(seed: int, study: StudySpec) -> None:
    for table in simulate_cohort(seed).values():
        assert study.data.obeys_rules(arrays(table, study)).all()


def test_a_row_against_a_rule_is_noticed(everybody: pd.DataFrame, study: StudySpec) -> None:
    columns = arrays(everybody, study)
    columns["hospitalised"] = np.where(columns["icu"] == "yes", "no", columns["hospitalised"])
    broken = ~study.data.obeys_rules(columns)
    assert broken.sum() == share(everybody, "icu") * len(everybody)


def test_the_outcome_follows_the_published_risk(cohort: dict[str, pd.DataFrame]) -> None:
    # Harbour and lakeside write pressures and lipids as measured, so that rows with known lipids
    # and smoking have the risk that their outcome was drawn from.
    tables = [cohort["harbour"], cohort["lakeside"]]
    table = pd.concat(tables).dropna(subset=["total_cholesterol", "smoking"])
    table = table.drop_duplicates("patient")
    risk, event = risk_of(table), (table["cvd_event"] == "yes").to_numpy(bool)
    for low, high in [(0, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 1)]:
        group = (risk >= low) & (risk < high)
        expected, spread = risk[group].mean(), np.sqrt((risk * (1 - risk))[group].sum())
        assert abs(event[group].mean() - expected) < 4 * spread / group.sum()
    ranks, positives = rankdata(risk), event.sum()
    area = (ranks[event].mean() - (positives + 1) / 2) / (len(event) - positives)
    assert 0.70 < area < 0.82  # the paper reports C = 0.76 in men and 0.79 in women


def test_outcome_rates(cohort: dict[str, pd.DataFrame]) -> None:
    rates = {name: share(table, "cvd_event") for name, table in cohort.items()}
    assert all(0.05 < rate < 0.35 for rate in rates.values())
    assert rates["harbour"] > rates["lakeside"] > rates["northgate"]


def test_missing_values_depend_on_other_columns(cohort: dict[str, pd.DataFrame]) -> None:
    for table in cohort.values():
        known = table.notna()
        diabetic, admitted = table["diabetes"] == "yes", table["hospitalised"] == "yes"
        icu, statin = table["icu"] == "yes", table["statin"] == "yes"
        assert known["hba1c"][diabetic].mean() > known["hba1c"][~diabetic].mean() + 0.4
        assert known["ejection_fraction"][admitted].mean() > 0.8
        assert known["ejection_fraction"][~admitted].mean() < 0.4
        assert not known["troponin"][~admitted].any()
        assert known["total_cholesterol"][statin].mean() > known["total_cholesterol"].mean()
        assert known["bmi"][icu].mean() < known["bmi"][~icu].mean()


def test_hospitals_differ_in_case_mix_and_coding(cohort: dict[str, pd.DataFrame]) -> None:
    harbour, northgate, lakeside = (cohort[hospital.name] for hospital in HOSPITALS)
    assert harbour["age"].mean() > lakeside["age"].mean() + 4 > northgate["age"].mean() + 4
    assert share(harbour, "hospitalised") > 1.5 * share(northgate, "hospitalised")
    assert share(lakeside, "smoking", "current") > 2 * share(northgate, "smoking", "current")
    assert share(lakeside, "diabetes") > 2 * share(northgate, "diabetes")
    assert (northgate[["systolic_bp", "diastolic_bp"]] % 10 == 0).all(axis=None)
    assert (harbour["systolic_bp"] % 10 == 0).mean() < 0.2
    assert lakeside["hba1c"].notna().mean() < 0.6 * harbour["hba1c"].notna().mean()


def test_csv_files_hold_the_same_cohort(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path / "new", seed=4, num_patients=SMALL)
    tables = simulate_cohort(4, num_patients=SMALL)
    assert list(paths) == list(tables)
    for name, path in paths.items():
        read = pd.read_csv(path, keep_default_na=False, na_values=[""], encoding="utf-8")
        pd.testing.assert_frame_equal(read, tables[name], check_dtype=False)
    # Whole numbers stay whole, although a missing value makes their column one of floats.
    texts = pd.read_csv(paths["harbour"], dtype=str, keep_default_na=False)
    assert not texts["ejection_fraction"].str.contains(".", regex=False).any()
    assert (texts["ejection_fraction"] == "").any()
