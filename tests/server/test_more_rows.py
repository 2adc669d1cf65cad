"""``pratique sample``: rows on conditions from a release's generator."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from pratique_common.encoding import TableEncoder
from pratique_common.errors import NotEnoughDataError, UsageError, VerificationError
from pratique_common.generators.build import build_generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.study import StudySpec, parse_study, parse_study_text
from pratique_common.sub_bins import SubBins
from pratique_common.tables import check_table, read_table
from pratique_privacy.patient_sums import patient_sum
from pratique_privacy.post_processing.one_way import OneWay, smoothed
from pratique_privacy.post_processing.pairwise_fit import PairwiseFit
from pratique_privacy.post_processing.weights import WEIGHTS_FILE, load_weights, weights_bytes
from pratique_server.cli import app
from pratique_server.conditions import restriction_of
from pratique_server.more_rows import sample_more_rows
from pratique_server.more_table_rows import draw_rows
from tests.common.test_bundle import bundle_files, write_signed
from tests.conftest import small_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release(
    cardiology: StudySpec,
    small_cohort: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A signed release whose generator was fitted to phantom patients without noise."""
    encoder = TableEncoder(cardiology.data)
    tables = [read_table(path, cardiology.data) for path in small_cohort.values()]
    codes = np.concatenate([encoder.encode(table.columns) for table in tables])
    generator = build_generator(cardiology)
    assert isinstance(generator, PairwiseGenerator)
    generator.set_marginals(
        [
            smoothed(np.bincount(codes[:, d], minlength=n) / len(codes), cardiology)
            for d, n in enumerate(encoder.num_levels)
        ]
    )
    fit = PairwiseFit(
        cardiology, generator, patients=len(codes), errors=np.ones(len(generator.centre))
    )
    exact = patient_sum(generator, 1.0)(torch.from_numpy(codes[:, None]), torch.ones(len(codes), 1))
    fit.update(exact, 1.0)
    fit.finish()
    finer = SubBins(cardiology.data.columns)
    counts = sum(finer.count(table.columns, np.ones(table.num_rows)) for table in tables)
    by_bin = [each + 1e-9 for bins in finer.by_bin(np.asarray(counts)).values() for each in bins]
    within = np.concatenate([each / each.sum() for each in by_bin])
    one_way = OneWay([], patients=950, noise=5.0, within=within)
    files = bundle_files("release", "granted")
    files[WEIGHTS_FILE] = weights_bytes(generator, one_way)
    return write_signed(tmp_path_factory.mktemp("release"), files=files)


def _columns(table: pa.Table) -> dict[str, list[object]]:
    return {name: table.column(name).to_pylist() for name in table.column_names}


def test_weighted_rows_follow_the_conditional_distribution() -> None:
    """Against exact enumeration of all 80 rows of a small model, conditions before and after."""
    study = small_study()
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    levels = generator.layout.num_levels
    rng = np.random.default_rng(0)
    generator.set_marginals([rng.dirichlet(np.full(n, 2.0)) for n in levels])
    position = {d: place for place, d in enumerate(generator.order)}
    column_of = np.repeat(np.arange(3), levels)
    later = np.array([[position[a] > position[b] for b in column_of] for a in column_of])
    with torch.no_grad():
        weight = np.where(later, rng.normal(0, 1.5, later.shape), 0)
        generator.module.weight.copy_(torch.from_numpy(weight))
    bias, offsets = generator.module.bias.detach().double().numpy(), generator.layout.offsets

    probability = {}
    for row in product(*(range(n) for n in levels)):
        p, seen = 1.0, np.zeros(len(bias))
        for d in generator.order:
            logits = (bias + weight @ seen)[offsets[d] : offsets[d + 1]]
            p *= float(np.exp(logits[row[d]]) / np.exp(logits).sum())
            seen[offsets[d] + row[d]] = 1
        probability[row] = p
    allowed = {0: np.arange(8) % 3 == 1, 1: np.array([True, False, True, True])}
    fits = {r: p for r, p in probability.items() if allowed[0][r[0]] and allowed[1][r[1]]}

    rows, weights = (
        t.numpy()
        for t in generator.sample_among(allowed, 200_000, torch.Generator().manual_seed(1))
    )
    assert weights.mean() == pytest.approx(sum(fits.values()), rel=0.02)
    found = dict.fromkeys(fits, 0.0)
    for row, w in zip(map(tuple, rows.tolist()), weights / weights.sum(), strict=True):
        found[row] += w  # a KeyError is a level that is not allowed
    expected = {row: p / sum(fits.values()) for row, p in fits.items()}
    assert 0.5 * sum(abs(found[r] - expected[r]) for r in fits) < 0.01


def test_every_row_is_as_asked_and_obeys_the_rules(release: Path, cardiology: StudySpec) -> None:
    where = ["age=67..80", "sex=female", "smoking=never,former"]
    result = sample_more_rows(release, rows=400, where=where, balance="cvd_event", seed=1)
    columns = _columns(result.table)
    assert all(67 <= age <= 80 for age in columns["age"])  # type: ignore[operator]
    assert set(columns["sex"]) == {"female"}
    assert set(columns["smoking"]) == {"never", "former"}
    assert [columns["cvd_event"].count(level) for level in ("no", "yes")] == [200, 200]
    table = check_table(result.table, cardiology.data, source="rows", patient_id=None)
    assert table.num_dropped == 0
    assert cardiology.data.obeys_rules(table.columns).all()
    assert [group.rows for group in result.groups] == [200, 200]
    assert result.groups[0].share > result.groups[1].share > 0


@pytest.mark.parametrize("end", ["inf", ""])
def test_ranges_may_be_open_or_cut_bins_and_names_may_be_any(end: str) -> None:
    """Names that no rule can spell, negative numbers, ends beyond the domain."""
    toml = (ROOT / "common/pratique_common/phantoms/cardiology.toml").read_text()
    columns = [
        {"name": "change=per week", "type": "numeric", "lower": -10, "upper": 10, "bins": 4},
        {"name": "kind", "type": "categorical", "categories": ["a", "b"]},
    ]
    data = parse_study_text(toml, source="s").model_dump(mode="json")
    study = parse_study({**data, "data": {"kind": "table", "columns": columns}}, source="s")
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    restriction = restriction_of(study.data, f"change=per week=-7.5..{end}")
    table, share = draw_rows(
        study.data, generator, TableEncoder(study.data), [restriction], 200, seed=(1,)
    )
    values = np.array(table.column("change=per week").to_pylist())
    assert -7.5 <= values.min() < -6
    assert values.max() > 9
    assert share == pytest.approx(7 / 8, abs=0.02)  # half of the first of four bins is cut off
    low = restriction_of(study.data, "change=per week=..-7.5")
    one = restriction_of(study.data, "change=per week=3")
    assert low.ends == (-10, -7.5) and low.levels.tolist() == [True, False, False, False]
    assert one.ends == (3, 3) and one.levels.tolist() == [False, False, True, False]


def test_a_table_that_cannot_be_written_is_told_in_words(release: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "rows.csv"
    call = [sys.executable, "-m", "pratique_server.cli", "sample", str(release), "--rows", "5"]
    told = subprocess.run([*call, "--out", str(out)], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "choose another path" in told.stderr
    assert "internal error" not in told.stderr


def test_the_seed_decides_and_no_condition_means_all(release: Path) -> None:
    first, again, other = (
        sample_more_rows(release, rows=50, where=[], balance=None, seed=seed) for seed in (1, 1, 2)
    )
    assert first.table.equals(again.table)
    assert not first.table.equals(other.table)
    (group,) = first.groups
    assert group.condition == ""
    assert group.share == 1
    assert group.patients == 950
    assert group.sufficient


def test_rare_groups_are_called_insufficient(release: Path) -> None:
    where = ["age=90..95", "sex=female", "smoking=current", "diabetes=yes"]
    (group,) = sample_more_rows(release, rows=5, where=where, balance=None, seed=1).groups
    assert not group.sufficient
    assert group.patients < 2 * group.noise


@pytest.mark.parametrize(
    ("where", "balance", "words"),
    [
        (["age"], None, "is not COLUMN=LEVEL"),
        (["height=1..2"], None, "no column 'height'"),
        (["sex=SECRET"], None, "no level of 'sex'"),
        (["age=old"], None, "age=30..95"),
        (["age=80..70"], None, "the lowest comes first"),
        (["age=.."], None, "age=30..95"),
        (["age=65.5"], None, "no value of age with 0 decimals lies in"),
        (["age=65.2..65.8"], None, "no value of age with 0 decimals lies in"),
        (["age=96.."], None, "lies outside"),
        (["age=..20"], None, "lies outside"),
        (["=30..40"], None, "is not COLUMN=LEVEL"),
        (["age=30..40", "age=41..50"], None, "no row can obey"),
        (["age=40..41", "age=42..43"], None, "no row can obey"),
        (["patient=3"], None, "'patient' names rows or patients"),
        (["age=200..300"], None, "lies outside"),
        (["sex=female", "sex=male"], None, "no row can obey"),
        (["cvd_event=no"], "age", "is numeric"),
        ([], "height", "no column 'height'"),
    ],
)
def test_wrong_conditions_are_told_in_words(
    release: Path, where: list[str], balance: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        sample_more_rows(release, rows=10, where=where, balance=balance, seed=0)


def test_what_hardly_exists_is_not_made_up(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pratique_server.more_table_rows._MAX_POOLS", 1)
    monkeypatch.setattr("pratique_server.more_table_rows._LEAST_SHARE_EFFECTIVE", 1e6)
    with pytest.raises(NotEnoughDataError, match="hardly knows"):
        sample_more_rows(release, rows=10, where=["age=90..95"], balance=None, seed=0)


def test_many_rows_are_drawn_in_blocks(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pratique_server.more_table_rows._MATCHED_BLOCK_ROWS", 40)
    result = sample_more_rows(release, rows=100, where=["sex=male"], balance=None, seed=1)
    assert result.table.num_rows == 100
    blocks = [result.table.slice(start, 20).to_pylist() for start in (0, 40, 80)]
    assert blocks[0] != blocks[1] != blocks[2]


def test_a_release_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="weights do not fit"):
        sample_more_rows(write_signed(tmp_path), rows=10, where=[], balance=None, seed=0)


def test_a_refusal_has_no_generator(tmp_path: Path) -> None:
    refusal = write_signed(tmp_path, kind="refusal")
    with pytest.raises(VerificationError, match="holds no generator"):
        sample_more_rows(refusal, rows=10, where=[], balance=None, seed=0)


def test_the_command_writes_a_table_and_says_what_it_is(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep [" / "x] rows.parquet"  # no end of a markup
    call = ["sample", str(release), "--rows", "30", "--where", "sex=male", "--out", str(out)]
    shown = CliRunner().invoke(app, call)
    assert shown.exit_code == 0
    assert f"written to {out}; not part of the release" in shown.output
    assert set(pq.read_table(out).column("sex").to_pylist()) == {"male"}
    machine = CliRunner().invoke(app, [*call, "--force", "--json"])
    groups = json.loads(machine.stdout)["groups"]
    assert groups[0]["rows"] == 30
    assert groups[0]["sufficient"]
    for wrong in (call, [*call[:-1], str(tmp_path / "rows.xlsx")]):
        refused = CliRunner().invoke(app, wrong)
        assert isinstance(refused.exception, UsageError)


def test_weights_that_do_not_fit_their_study_are_refused() -> None:
    study = small_study()
    generator, size = build_generator(study), SubBins(study.data.columns).size
    good = OneWay([], 1234.5678901234, 3.3, np.full(size, 0.5))
    found = load_weights(weights_bytes(generator, good), generator, study.data)
    np.testing.assert_array_equal(found.within, good.within)
    assert (found.patients, found.noise) == (1234.5678901234, 3.3)  # in 64 bits
    for within in (None, np.full(size - 1, 0.5), np.full(size, np.nan), np.full(size, 2.0)):
        content = weights_bytes(generator, OneWay([], within=within))
        with pytest.raises(VerificationError, match="do not fit"):
            load_weights(content, generator, study.data)
    for patients, noise in ((np.nan, 1.0), (0.0, 1.0), (10.0, -1.0), (np.inf, 1.0)):
        content = weights_bytes(generator, OneWay([], patients, noise, good.within))
        with pytest.raises(VerificationError, match="do not fit"):
            load_weights(content, generator, study.data)
    with pytest.raises(VerificationError, match="do not fit"):
        load_weights(b"", generator, study.data)


def test_ranges_beside_a_heap_are_drawn_as_any() -> None:
    """Nearly all of a bin is at 40 hours: rows from 41 on are rare there, and given."""
    toml = (ROOT / "common/pratique_common/phantoms/cardiology.toml").read_text()
    columns = [
        {"name": "hours", "type": "numeric", "lower": 0, "upper": 99, "bins": 10,
         "integer": True},
        {"name": "kind", "type": "categorical", "categories": ["a", "b"]},
    ]  # fmt: skip
    data = parse_study_text(toml, source="s").model_dump(mode="json")
    study = parse_study({**data, "data": {"kind": "table", "columns": columns}}, source="s")
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    within = np.full((10, 10), 0.1)
    within[4] = [0.91, *[0.01] * 9]
    encoder = TableEncoder(study.data, within.ravel())
    restriction = restriction_of(study.data, "hours=41..44")
    table, share = draw_rows(study.data, generator, encoder, [restriction], 1_000, seed=(1,))
    hours = np.array(table.column("hours").to_pylist())
    assert len(hours) == 1_000
    assert set(hours) == {41, 42, 43, 44}
    assert share == pytest.approx(0.1 * 0.04, rel=0.2)


@pytest.mark.parametrize("matched", [True, False])
def test_rules_leave_the_rows_that_the_model_has(matched: bool) -> None:
    """Of two numbers in order: a bin of both is as frequent as before, and so is every level."""
    toml = (ROOT / "common/pratique_common/phantoms/cardiology.toml").read_text()
    number = {"type": "numeric", "lower": 0, "upper": 80, "bins": 4}
    columns = [
        {"name": "came", **number}, {"name": "left", **number},
        {"name": "kind", "type": "categorical", "categories": ["a", "b"]},
    ]  # fmt: skip
    rules = [{"when": "came >= 0", "then": "left >= came"},
             {"when": "kind == 'a'", "then": "left >= 20"}]  # fmt: skip
    data = parse_study_text(toml, source="s").model_dump(mode="json")
    table = {"kind": "table", "columns": columns, "rules": rules}
    study = parse_study({**data, "data": table}, source="s")
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    early, late = np.array([1.0, 0, 0, 0]), np.array([0.5, 0.5, 0, 0])
    generator.set_marginals([m + 1e-9 for m in (early, late, np.array([0.5, 0.5]))])
    made, _ = draw_rows(
        study.data, generator, TableEncoder(study.data), [], 4_000, seed=(1,), matched=matched
    )
    rows = _columns(made)
    # One row in four is of kind a and left early: it is thrown out, others stand for it.
    assert np.mean([left < 20 for left in rows["left"]]) == pytest.approx(0.5, abs=0.01)  # type: ignore[operator]
    assert rows["kind"].count("a") / 4_000 == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("condition", [None, "stay=2..80"])
def test_rows_of_which_a_rule_leaves_little_are_not_copies(condition: str | None) -> None:
    """Half a hundredth of the second bin obeys: as many rows as the model has, and all differ."""
    toml = (ROOT / "common/pratique_common/phantoms/cardiology.toml").read_text()
    number = {"type": "numeric", "lower": 0, "upper": 80, "bins": 4}
    columns = [
        {"name": "age", **number}, {"name": "stay", **number},
        {"name": "kind", "type": "categorical", "categories": ["a", "b"]},
    ]  # fmt: skip
    rules = [{"when": "age >= 20 and age < 40", "then": "age >= 39.9"}]
    data = parse_study_text(toml, source="s").model_dump(mode="json")
    table = {"kind": "table", "columns": columns, "rules": rules}
    study = parse_study({**data, "data": table}, source="s")
    generator = build_generator(study)
    assert isinstance(generator, PairwiseGenerator)
    ages = np.array([0.4, 0.3, 0.3, 0]) + 1e-9
    generator.set_marginals([ages, np.full(4, 0.25), np.array([0.5, 0.5])])
    restrictions = [] if condition is None else [restriction_of(study.data, condition)]
    encoder = TableEncoder(study.data)
    made, _ = draw_rows(study.data, generator, encoder, restrictions, 2_000, seed=(1,))
    age, stay = (np.array(made.column(name).to_pylist()) for name in ("age", "stay"))
    few = (age >= 20) & (age < 40)
    assert few.mean() == pytest.approx(0.3, abs=0.01)
    assert (age[few] >= 39.9).all()
    assert len(np.unique(np.column_stack([age, stay]), axis=0)) > 1_990
