"""Conditions of ``pratique sample`` beside rules, and on cells that are not always asked for."""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pratique_common.canonical import sha256_hex
from pratique_common.encoding import TableEncoder
from pratique_common.errors import NotEnoughDataError, UsageError
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.released_copies import CSV, PARQUET, table_csv
from pratique_common.study import parse_study_text
from pratique_common.sub_bins import SubBins
from pratique_common.tables import parquet_bytes, to_arrow
from pratique_privacy.post_processing.one_way import OneWay
from pratique_privacy.post_processing.weights import WEIGHTS_FILE, weights_bytes
from pratique_server import more_rows
from pratique_server.more_rows import Group, sample_more_rows
from tests.common.test_bundle import write_signed

PATIENTS = 2_000
STUDY = """
name = "smokers"

[data]
kind = "table"

[[data.columns]]
name = "age"
type = "numeric"
edges = [20, 40, 60, 100]
integer = true

[[data.columns]]
name = "screened"
type = "categorical"
categories = ["no", "yes"]
asked_if = "age >= 50"

[[data.columns]]
name = "smoker"
type = "categorical"
categories = ["no", "yes"]

[[data.columns]]
name = "brand"
type = "categorical"
categories = ["light", "strong, old"]
asked_if = "smoker == 'yes'"

[[data.columns]]
name = "ward"
type = "categorical"
categories = ["a", "b"]

[[data.rules]]
when = "ward == 'b'"
then = "smoker == 'no'"

[privacy]
target_epsilon = 3.0
expected_patients = 20000

[release]
rows = 100

[disclosure]
purpose = "Test"
recipients = ["Nobody"]
licence = "CC0-1.0"
expires = 2030-01-01
"""
# Columns are independent; the last level of what is asked for on a condition is missing.
SHARES = {
    "age": [0.3, 0.4, 0.3],
    "screened": [0.5, 0.5, 0.0],
    "smoker": [0.7, 0.3],
    "brand": [0.6, 0.3, 0.1],
    "ward": [0.8, 0.2],
}


def released(folder: Path, *, noise: float = 10.0) -> Path:
    """Write a signed release of the study, whose histograms counted 2,000 patients."""
    study = parse_study_text(STUDY, source="study")
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    generator.set_marginals([np.array(SHARES[name]) for name in study.data.names])
    one_way = OneWay([], PATIENTS, noise, np.full(SubBins(study.data.columns).size, 0.1))
    encoder = TableEncoder(study.data, one_way.within)
    codes = generator.sample(500, torch.Generator().manual_seed(0)).numpy()
    columns = encoder.decode(codes, np.random.default_rng(0))
    obeying = np.flatnonzero(study.data.obeys_rules(columns))[: study.release.rows]
    table = to_arrow({name: cells[obeying] for name, cells in columns.items()}, study.data)
    report = {"decision": "granted", "study_digest": study.digest, "simulated": False,
              "candidate_sha256": sha256_hex(parquet_bytes(table))}  # fmt: skip
    files = {
        "report.json": json.dumps(report).encode(),
        "report.html": b"<html></html>",
        "study.toml": STUDY.encode(),
        PARQUET: parquet_bytes(table),
        CSV: table_csv(table),
        WEIGHTS_FILE: weights_bytes(generator, one_way),
    }
    return write_signed(
        folder, files=files, study_name=study.name, study_digest=study.digest,
        simulated=False, candidate_sha256=sha256_hex(files[PARQUET]),
        tolerated_dropouts=study.privacy.tolerated_dropouts,
        colluding_sites=study.privacy.colluding_sites,
    )  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("smokers"))


def sampled(
    release: Path, *where: str, balance: str | None = None, rows: int = 3_000
) -> tuple[Mapping[str, list[object]], tuple[Group, ...]]:
    result = sample_more_rows(release, rows=rows, where=where, balance=balance, seed=1)
    return result.table.to_pydict(), result.groups


def test_a_condition_on_a_cell_that_is_not_always_asked_for_is_met(release: Path) -> None:
    columns, _ = sampled(release, "brand=strong, old")
    assert set(columns["brand"]) == {"strong, old"}
    assert set(columns["smoker"]) == {"yes"}
    assert np.mean([age < 40 for age in columns["age"]]) == pytest.approx(0.3, abs=0.02)  # type: ignore[operator]


def test_a_level_with_a_comma_stands_alone_or_in_quotes(release: Path) -> None:
    columns, _ = sampled(release, 'brand=light, "strong, old"', rows=1_000)
    assert set(columns["brand"]) == {"light", "strong, old"}
    with pytest.raises(UsageError, match="'strong' is no level of 'brand'"):
        sampled(release, "brand=light, strong, old")
    with pytest.raises(UsageError, match="no line of levels"):
        sampled(release, "brand=light\nstrong, old")


def test_every_level_of_such_a_column_gets_as_many_rows(release: Path) -> None:
    columns, groups = sampled(release, balance="brand")
    assert [columns["brand"].count(level) for level in ("light", "strong, old")] == [1_500, 1_500]
    assert [group.rows for group in groups] == [1_500, 1_500]


def test_rows_that_are_drawn_again_stay_as_asked(release: Path) -> None:
    """Ages of one bin are asked and not asked: rows that repeat get another age of it."""
    columns, groups = sampled(release, "screened=yes", "age=40..60", rows=5_000)
    assert set(columns["screened"]) == {"yes"}
    assert min(columns["age"]) == 50  # type: ignore[type-var]
    assert groups[0].share < 0.5 * (0.4 + 0.3)


@pytest.mark.parametrize(
    ("where", "balance"),
    [
        (["brand=strong, old", "smoker=no"], None),
        (["smoker=no"], "brand"),
        (["screened=no", "age=20..49"], None),
    ],
)
def test_what_the_study_never_asks_for_together_is_refused(
    release: Path, where: list[str], balance: str | None
) -> None:
    with pytest.raises(UsageError, match=r"is asked for only where .* leave out one"):
        sampled(release, *where, balance=balance)


def test_what_rules_forbid_is_refused(release: Path) -> None:
    with pytest.raises(NotEnoughDataError, match="hardly knows"):
        sampled(release, "ward=b", "smoker=yes")


def _probability(**asked: str) -> float:
    """Return the probability of rows that obey the rules and are as asked, by enumeration."""
    total = 0.0
    levels = {"smoker": ["no", "yes"], "brand": ["light", "strong, old", ""], "ward": ["a", "b"]}
    for places in product(*(range(len(each)) for each in levels.values())):
        row = {name: levels[name][place] for name, place in zip(levels, places, strict=True)}
        share = np.prod([SHARES[name][place] for name, place in zip(levels, places, strict=True)])
        if row["smoker"] == "no":
            row["brand"] = ""
        elif row["brand"] == "" or row["ward"] == "b":
            continue
        if all(row[name] == level for name, level in asked.items()):
            total += float(share)
    return total


@pytest.mark.parametrize(
    "asked",
    [{}, {"brand": "strong, old"}, {"smoker": "no"}, {"ward": "a"}, {"ward": "a", "smoker": "yes"}],
)
def test_shares_are_of_what_rules_allow_and_patients_of_those_counted(
    release: Path, asked: dict[str, str]
) -> None:
    """The study plans for 16,000 members; the histograms counted 2,000."""
    expected = _probability(**asked) / _probability()
    _, (group,) = sampled(release, *(f"{name}={level}" for name, level in asked.items()))
    assert group.share == pytest.approx(expected, rel=0.03)
    assert group.patients == pytest.approx(PATIENTS * expected, rel=0.03)
    assert group.share <= 1
    if not asked:
        assert group.share == 1


def test_shares_of_all_levels_add_up(release: Path) -> None:
    _, groups = sampled(release, balance="smoker")
    assert sum(group.share for group in groups) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("noise", "sufficient"), [(70.0, True), (90.0, False)])
def test_noise_is_compared_with_the_patients_who_were_counted(
    tmp_path: Path, noise: float, sufficient: bool
) -> None:
    """Some 158 of 2,000; of the planned members they would be 1,250."""
    _, (group,) = sampled(released(tmp_path, noise=noise), "brand=strong, old")
    assert group.noise == noise
    assert group.sufficient == sufficient
    (told,) = more_rows.as_data(more_rows.MoreRows(pa.table({}), (group,)))
    assert (told["training_patients_about"] is not None) == sufficient


@pytest.mark.parametrize("where", [[], ["smoker=yes"]])
def test_large_requests_follow_the_same_distribution(release: Path, where: list[str]) -> None:
    """Their rows are not matched to a larger pool; each is drawn from what small ones match."""
    (large, (group,)), (small, _) = (sampled(release, *where, rows=n) for n in (120_000, 20_000))
    rows, few = (
        list(zip(columns["smoker"], columns["brand"], columns["ward"], strict=True))
        for columns in (large, small)
    )
    assert len(rows) == group.rows == 120_000
    for row in {*rows, *few}:
        share = few.count(row) / len(few)
        assert rows.count(row) / len(rows) == pytest.approx(share, abs=0.01)
    assert rows[:1_000] != rows[50_000:51_000]
