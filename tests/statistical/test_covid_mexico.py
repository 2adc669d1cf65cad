"""Real cases of ten states: no rule is broken in 50,000 synthetic rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks.arithmetic import train

from pratique_common.study import load_study
from pratique_common.tables import check_table, read_table
from pratique_common.utility import grid_codes, mean_tv
from tests.studies import covid_mexico

pytestmark = pytest.mark.statistical


def test_ten_states_with_rules(shared_data: Path, tmp_path: Path) -> None:
    study = load_study(Path(covid_mexico.__file__).with_name("covid-mexico.toml"))
    states = covid_mexico.cut(covid_mexico.load(shared_data / "covid_mexico"), tmp_path)
    assert len(states) == covid_mexico.NUM_SITES
    sites = [read_table(tmp_path / f"{state.lower()}.csv", study.data) for state in states]
    derivation, _ = train(study, sites)
    table, _ = derivation.sample()
    frame: pd.DataFrame = table.to_pandas()
    assert len(frame) == 50_000 and frame["case"].is_unique

    # In pandas' words, not in ours.
    assert frame.loc[frame["sex"] == "male", "pregnant"].isna().all()
    assert frame.loc[frame["patient_type"] == "outpatient", ["icu", "intubated"]].isna().all().all()
    dead = frame["died"] == "yes"
    assert (frame["days_symptom_to_death"].notna() == dead).all()
    delay = frame["days_symptom_to_death"] - frame["days_symptom_to_admission"]
    assert (delay[dead] >= 0).all()
    assert (frame.loc[frame["pregnant"] == "yes", "age"] >= 10).all()
    assert (
        frame["onset"]
        .between(
            study.data.column("onset").first,  # type: ignore[union-attr]
            study.data.column("onset").last,
        )
        .all()
    )  # type: ignore[union-attr]

    train_table, test = (
        read_table(tmp_path / f"{name}.csv", study.data) for name in ("train", "test")
    )
    real_dead = (train_table.columns["died"] == "yes").mean()
    assert dead.mean() == pytest.approx(real_dead, rel=0.1)
    synthetic = check_table(table, study.data, source="table", patient_id=None)
    others = [test.columns, synthetic.columns]
    real, held_out, fake = grid_codes(train_table.columns, others, study.data)
    distances = [
        mean_tv(
            real, codes, 2, real_weight=np.ones(len(real)), synthetic_weight=np.ones(len(codes))
        )
        for codes in (fake, held_out)
    ]
    assert distances[0] < 1.2 * distances[1]  # about as near as other patients of these states
