"""``pratique sample`` from a release of visits: patients whose first visit is as asked."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pratique_common.encoding import TableEncoder
from pratique_common.errors import NotEnoughDataError, UsageError
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.study import parse_study_text
from pratique_common.sub_bins import SubBins
from pratique_common.tables import parquet_bytes, read_candidate
from pratique_privacy.post_processing.one_way import OneWay
from pratique_privacy.post_processing.weights import WEIGHTS_FILE, weights_bytes
from pratique_server import more_rows
from pratique_server.cli import app
from pratique_server.conditions import restriction_of
from pratique_server.more_visits import draw_visits
from tests.privacy import test_sequences

STUDY = test_sequences.STUDY
STUDY_TEXT = """
name = "stays"
[data]
kind = "table"
patient_id = "who"
max_rows_per_patient = 3
columns = [
    { name = "sex", type = "categorical", categories = ["f", "m"] },
    { name = "age", type = "numeric", lower = 20, upper = 100, bins = 8, integer = true },
]
visits = { order_by = "age", fixed = ["sex"] }
[privacy]
target_epsilon = 3.0
expected_patients = 900
[training]
rounds = 2
[release]
rows = 300
[disclosure]
purpose = "Test"
recipients = ["Nobody"]
licence = "CC0-1.0"
expires = "2035-01-01"
"""


@pytest.fixture(scope="module")
def generator() -> PairwiseGenerator:
    """A model in which everything depends on everything before it."""
    generator = build_generator(STUDY)
    assert isinstance(generator, PairwiseGenerator)
    levels = generator.layout.num_levels
    generator.set_marginals([np.full(n, 1 / n) for n in levels])
    place = np.argsort(generator.order)  # of a column in the order of drawing
    of_cell = np.repeat(place, levels)
    weight = np.random.default_rng(0).normal(0, 0.7, (len(of_cell), len(of_cell)))
    weight *= of_cell[:, None] > of_cell
    with torch.no_grad():
        generator.module.weight.copy_(torch.from_numpy(weight))
    return generator


def _draw(
    generator: PairwiseGenerator, *groups: list[str], rows: int = 8_000, seed: int = 1
) -> tuple[list[pd.DataFrame], list[float]]:
    """Return visits of each group, and its share of patients."""
    asked = [([restriction_of(STUDY.data, text) for text in group], rows) for group in groups]
    table, shares = draw_visits(STUDY.data, generator, TableEncoder(STUDY.data), asked, seed=seed)
    read_candidate(parquet_bytes(table), STUDY.data, num_rows=table.num_rows)  # obeys the study
    frame = table.to_pandas()
    parts = [frame.iloc[rows * n : rows * (n + 1)] for n in range(len(groups))]
    assert sum(part["who"].nunique() for part in parts) == frame["who"].nunique()
    return parts, shares


def _first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["who"].duplicated()]


def test_first_visits_are_as_asked_and_later_ones_follow(generator: PairwiseGenerator) -> None:
    women, ill = _draw(generator, ["sex=f", "age=33..52"], ["ill=yes"])[0]
    (every,) = _draw(generator, [], rows=40_000)[0]
    assert set(women["sex"]) == {"f"}
    first = _first(women)
    assert first["age"].between(33, 52).all() and women["age"].max() > 52
    assert (_first(ill)["ill"] == "yes").all() and (ill["ill"] == "no").any()
    # Given the first visit, nothing else changes: the same as picking patients from all.
    rows = _first(every)
    picked = rows[(rows["sex"] == "f") & rows["age"].between(33, 52)]
    assert len(picked) > 400
    _assert_same_mean(first["ill"] == "yes", picked["ill"] == "yes")
    of_ill = every[every["who"].isin(rows["who"][rows["ill"] == "yes"])]
    for frame, same in ((ill, of_ill), (women, every[every["who"].isin(picked["who"])])):
        _assert_same_mean(frame.groupby("who").size(), same.groupby("who").size())


def _assert_same_mean(one: pd.Series, other: pd.Series) -> None:
    """Compare two samples: by chance it fails once in 15,000 times."""
    error = np.hypot(one.sem(), other.sem())
    assert one.mean() == pytest.approx(other.mean(), abs=4 * error)


def test_shares_are_of_patients(generator: PairwiseGenerator) -> None:
    (every, *_), shares = _draw(generator, [], ["ill=yes"], ["sex=f", "age=33..52"])
    first = _first(every)
    assert shares[0] == 1
    assert shares[1] == pytest.approx((first["ill"] == "yes").mean(), abs=0.02)
    as_asked = (first["sex"] == "f") & first["age"].between(33, 52)
    assert shares[2] == pytest.approx(as_asked.mean(), abs=0.02)


def test_the_same_seed_gives_the_same_visits(generator: PairwiseGenerator) -> None:
    tables = [_draw(generator, ["ill=yes"], rows=50, seed=s)[0][0] for s in (1, 1, 2)]
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])


def test_what_no_patient_is_like_is_refused(generator: PairwiseGenerator) -> None:
    with pytest.raises(UsageError, match="no row can obey all"):
        _draw(generator, ["sex=f", "sex=m"])
    with pytest.raises(UsageError, match="'births' is asked for only where sex == 'f'"):
        _draw(generator, ["sex=m", "births=0"])
    with pytest.raises(NotEnoughDataError, match="hardly knows"):
        _draw(generator, ["age=85..100", "ill=no"])  # a rule of the study forbids it


def test_a_release_of_visits_gives_more_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study_text(STUDY_TEXT, source="study.toml")
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    generator.set_marginals([np.full(n, 1 / n) for n in generator.layout.num_levels])
    within = np.full(SubBins(study.data.columns).size, 1.0)
    weights = weights_bytes(generator, OneWay([], patients=1_000, noise=5.0, within=within))
    contents = {"study.toml": STUDY_TEXT.encode(), WEIGHTS_FILE: weights}
    verified = SimpleNamespace(manifest=SimpleNamespace(kind="release"), contents=contents)
    monkeypatch.setattr(more_rows, "verify_bundle", lambda bundle: verified)
    out = tmp_path / "more.csv"
    command = ["sample", "bundle", "--rows", "300", "--balance", "sex", "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--where", "age=30..40"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert len(table) == 300
    assert table["sex"].tolist().count("m") == 150
    assert table["who"].nunique() < 300 and table["who"].is_monotonic_increasing
    assert table.groupby("who", sort=False)["age"].first().astype(int).between(30, 40).all()
    assert (table["age"].astype(int) > 40).any()
    found = CliRunner().invoke(app, [*command, "--json", "--force"])
    assert found.exit_code == 0, found.output
    groups: list[dict[str, Any]] = json.loads(found.output)["groups"]
    assert [group["rows"] for group in groups] == [150, 150]
    few = CliRunner().invoke(app, [*command[:3], "1", *command[4:], "--json", "--force"])
    assert few.exit_code == 0, few.output
    assert [group["rows"] for group in json.loads(few.output)["groups"]] == [1]
    assert sum(group["share"] for group in groups) == pytest.approx(1, abs=0.05)
    assert [group["condition"] for group in groups] == [
        f"sex={level} at the first visit" for level in "fm"
    ]
