"""``pratique sample`` for releases with images: post-processing of what is in the bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pratique_common.bundle import verify_bundle
from pratique_common.canonical import sha256_hex
from pratique_common.errors import NotEnoughDataError, UsageError
from pratique_common.generators.base import ImageGenerator
from pratique_common.generators.build import build_generator
from pratique_common.images.spec import IMAGE, MASK
from pratique_common.released_copies import ARCHIVE, CSV, PARQUET, image_archive, table_csv
from pratique_common.study import StudySpec, parse_study_text
from pratique_common.sub_bins import SubBins
from pratique_common.tables import parquet_bytes, read_table
from pratique_privacy.post_processing.image_candidate import sample_images
from pratique_privacy.post_processing.one_way import OneWay
from pratique_privacy.post_processing.weights import WEIGHTS_FILE, weights_bytes
from pratique_server import more_images
from pratique_server.cli import app
from pratique_server.more_rows import MoreRows, sample_more_rows
from tests.common.test_bundle import write_signed
from tests.small_images import scans_text

SIM_PE = 'name = "sim_pe"\nphantoms = 40'
GENERATORS = {
    "sim_pe": SIM_PE,
    "sim_moments": 'name = "sim_moments"\nphantoms = 40',
    "image_chain": 'name = "image_chain"\nvote_rounds = 1\nmoments = { phantoms = 40 }\n'
    "network = { base_channels = 8, steps = 2 }",
    "image_diffusion": 'name = "image_diffusion"\nbase_channels = 8\nsteps = 2',
    "image_vae": 'name = "image_vae"',
    "image_gan": 'name = "image_gan"',
    "dcgan": 'name = "image_gan"\nvariant = "dcgan"',
}
AGE = '[[data.columns]]\nname = "age"\ntype = "numeric"\nlower = 20\nupper = 100\nbins = 4\n\n'
FINDINGS = ["none", "glioblastoma", "low grade glioma", "meningioma"]
SHARES = {
    "finding": [0.7, 0.1, 0.1, 0.1],
    "place": [0.0, *[1 / 7] * 7],
    "age": [0.1, 0.4, 0.4, 0.1],
}


def study_text(generator: str) -> str:
    text = scans_text(generator).replace("size_px = 32", "size_px = 16")
    text = text.replace("rows = 2000", "rows = 100")
    return text.replace("[generator]", f"{AGE}[generator]")


def released(folder: Path, generator: str, **shares: list[float]) -> Path:
    """Write a signed release of a generator that learnt nothing but its columns' shares."""
    text = study_text(generator)
    study = parse_study_text(text, source="study")
    built = build_generator(study)
    assert isinstance(built, ImageGenerator) and study.data.image is not None
    marginals = [np.array((SHARES | shares)[name]) for name in study.data.names]
    built.set_marginals(marginals)
    within = np.full(SubBins(study.data.columns).size, 0.1)
    one_way = OneWay(marginals, patients=3_000, noise=20.0, within=within)
    table, masks = sample_images(study, built, one_way, seed=1)
    report = {"decision": "granted", "study_digest": study.digest, "simulated": True,
              "candidate_sha256": sha256_hex(parquet_bytes(table))}  # fmt: skip
    files = {
        "report.json": json.dumps(report).encode(),
        "report.html": b"<html></html>",
        "study.toml": text.encode(),
        PARQUET: parquet_bytes(table),
        CSV: table_csv(table),
        ARCHIVE: image_archive(table, study.data.image, masks),
        WEIGHTS_FILE: weights_bytes(built, one_way),
    }
    return write_signed(
        folder, files=files, study_name=study.name, study_digest=study.digest,
        candidate_sha256=sha256_hex(files[PARQUET]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: released(tmp_path_factory.mktemp(name), settings)
        for name, settings in GENERATORS.items()
    }


def study_of(release: Path) -> StudySpec:
    text = verify_bundle(release).contents["study.toml"].decode()
    return parse_study_text(text, source="study.toml")


def sampled(release: Path, rows: int, **changes: Any) -> MoreRows:
    options = {"where": [], "balance": None, "seed": 1, **changes}
    return sample_more_rows(release, rows=rows, **options)


def pixels_of(table: pa.Table, name: str = IMAGE) -> Any:
    content = b"".join(table.column(name).to_pylist())
    return np.frombuffer(content, np.uint8).reshape(table.num_rows, 16, 16)


@pytest.mark.parametrize("name", [name for name in GENERATORS if name != "dcgan"])
def test_a_balanced_target_is_exact(releases: dict[str, Path], name: str) -> None:
    result = sampled(releases[name], 11, balance="finding")
    findings = result.table.column("finding").to_pylist()
    assert [findings.count(level) for level in FINDINGS] == [3, 3, 3, 2]
    assert result.table.column_names == ["finding", "place", "age", IMAGE]
    assert len({image.tobytes() for image in pixels_of(result.table)}) == 11
    assert (result.masks is not None) == (name in ("image_chain", "sim_moments", "sim_pe"))
    # Of the smaller groups noise hid how many there are; of the largest it did not.
    assert [group.rows for group in result.groups] == [3, 3, 3, 2]
    assert [group.share for group in result.groups] == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert result.groups[0].condition == "finding=none" and result.groups[0].sufficient


def test_columns_follow_what_was_learnt_of_them(releases: dict[str, Path]) -> None:
    """Their shares are in the bundle: without them all findings would be alike frequent."""
    for name in ("sim_pe", "image_vae"):
        table = sampled(releases[name], 300).table
        healthy = table.column("finding").to_pylist().count("none") / 300
        assert healthy == pytest.approx(0.7, abs=0.08)
        middle = [20 <= age < 40 for age in table.column("age").to_pylist()]
        assert np.mean(middle) == pytest.approx(0.1, abs=0.05)
    assert min(table.column("place").to_pylist()) >= 1 / 8  # of the last: nobody is below


def test_images_show_what_rows_say_and_masks_what_images_show(releases: dict[str, Path]) -> None:
    where = ["finding=none,glioblastoma"]
    result = sampled(releases["sim_pe"], 60, where=where, balance="finding")
    ill = np.array(result.table.column("finding").to_pylist()) == "glioblastoma"
    assert result.masks is not None and result.masks.shape == (60, 16, 16)
    assert ill.sum() == 30 and not result.masks[~ill].any()
    assert result.masks[ill].any((1, 2)).mean() > 0.8
    # A tumour takes up contrast agent: its ring (4) is brighter than the rest of its head.
    pixels, ring, rest = pixels_of(result.table), result.masks == 4, result.masks == 0
    assert ring.any((1, 2)).sum() > 5
    assert pixels[ring].mean() > pixels[rest & (pixels > 30)].mean() + 20


def test_the_seed_decides_and_rows_come_in_blocks(
    releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(more_images, "_BLOCK_BYTES", 10 * 8 * 16 * 16)
    for name in ("sim_pe", "image_diffusion"):
        first, again, other = (sampled(releases[name], 25, seed=seed) for seed in (1, 1, 2))
        assert first.table.equals(again.table) and not first.table.equals(other.table)
        pixels = pixels_of(first.table)
        assert len({image.tobytes() for image in pixels}) == 25
        assert first.masks is None or len(first.masks) == 25


def test_places_may_be_asked_for_where_images_are_made_for_them(
    releases: dict[str, Path],
) -> None:
    where = ["place=0.3..0.45", "finding=meningioma"]  # both ends cut a bin
    result = sampled(releases["image_diffusion"], 40, where=where)
    places = np.array(result.table.column("place").to_pylist())
    assert places.min() >= 0.3 and places.max() <= 0.45
    assert places.min() < 0.33 and places.max() > 0.42
    assert set(result.table.column("finding").to_pylist()) == {"meningioma"}
    assert result.groups[0].share == pytest.approx(0.1 * (0.15 * 8 / 7), rel=0.1)


@pytest.mark.parametrize(
    ("name", "where", "balance", "words"),
    [
        ("sim_pe", ["place=0.2..0.5"], None, "--where: .* made for 'finding', so .* on 'place'"),
        ("sim_pe", ["age=60..80"], None, "made for 'finding', so a condition on 'age'"),
        ("image_vae", ["age=60..80"], None, "made for 'finding' and 'place', so .* on 'age'"),
        ("dcgan", ["finding=none"], None, "made for no column, so a condition on 'finding'"),
        ("dcgan", [], "finding", "--balance: .* made for no column"),
        ("sim_pe", [], "place", "'place' is numeric"),
        ("sim_pe", ["finding=SECRET"], None, "no level of 'finding'"),
        ("sim_pe", ["finding=none", "finding=meningioma"], None, "no row can obey"),
    ],
)
def test_what_images_know_nothing_of_is_refused(
    releases: dict[str, Path], name: str, where: list[str], balance: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        sampled(releases[name], 5, where=where, balance=balance)


def test_a_generator_that_is_told_nothing_gives_rows_without_conditions(
    releases: dict[str, Path],
) -> None:
    assert sampled(releases["dcgan"], 7).table.num_rows == 7


def test_what_never_occurs_is_not_made_up(tmp_path: Path) -> None:
    release = released(tmp_path, SIM_PE, finding=[0.5, 0.5, 0.0, 0.0])
    with pytest.raises(NotEnoughDataError, match="hardly knows"):
        sampled(release, 5, where=["finding=meningioma"])


def test_a_range_that_is_hardly_met_ends(
    releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(more_images, "_LEAST_POOL_ROWS", 10)
    monkeypatch.setattr(more_images, "_MAX_POOLS", 2)
    with pytest.raises(NotEnoughDataError, match="hardly knows"):
        sampled(releases["image_vae"], 50, where=["place=0.5..0.501"])


def _invoke(release: Path, out: Path, *more: str) -> Any:
    call = ["sample", str(release), "--rows", "9", "--balance", "finding", "--out", str(out)]
    return CliRunner().invoke(app, [*call, *more])


def test_parquet_holds_images_and_masks(releases: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "more.parquet"
    shown = _invoke(releases["sim_pe"], out)
    assert shown.exit_code == 0, shown.output
    assert "no audit saw these rows" in shown.output
    table = pq.read_table(out)
    assert table.column_names == ["finding", "place", "age", IMAGE, MASK]
    assert table.schema.field(MASK).type == pa.binary(16 * 16)
    ill = np.array(table.column("finding").to_pylist()) != "none"
    assert not pixels_of(table, MASK)[~ill].any() and pixels_of(table, MASK)[ill].any()
    # It is a table of the study like any other.
    read = read_table(out, study_of(releases["sim_pe"]).data, with_patients=False)
    np.testing.assert_array_equal(read.columns[IMAGE][..., 0], pixels_of(table))
    assert read.num_dropped == 0
    assert not list(out.parent.glob("*.partial"))
    without = tmp_path / "without.parquet"
    assert _invoke(releases["image_vae"], without).exit_code == 0
    assert pq.read_table(without).column_names == ["finding", "place", "age", IMAGE]


def test_csv_has_its_images_beside_as_a_release_does(
    releases: dict[str, Path], tmp_path: Path
) -> None:
    out, same = tmp_path / "more.csv", tmp_path / "more.parquet"
    shown = _invoke(releases["sim_pe"], out)
    assert shown.exit_code == 0 and "more.npz" in shown.output
    assert _invoke(releases["sim_pe"], same).exit_code == 0
    table, arrays = pq.read_table(same), np.load(out.with_suffix(".npz"))
    assert list(pd.read_csv(out).columns) == ["finding", "place", "age"]
    assert pd.read_csv(out)["place"].tolist() == table.column("place").to_pylist()
    np.testing.assert_array_equal(arrays["images"][..., 0], pixels_of(table))
    np.testing.assert_array_equal(arrays["masks"], pixels_of(table, MASK))
    release = np.load(releases["sim_pe"] / ARCHIVE)
    assert {name: release[name].shape[1:] for name in release} == {
        name: arrays[name].shape[1:] for name in arrays
    }
    schema = study_of(releases["sim_pe"]).data
    read = read_table(out, schema, with_patients=False)
    np.testing.assert_array_equal(read.columns[IMAGE], arrays["images"])
    # Neither file is replaced by accident, and a table alone is not left behind.
    out.unlink()
    again = _invoke(releases["sim_pe"], out, "--seed", "2")
    assert isinstance(again.exception, UsageError) and "more.npz exists" in str(again.exception)
    assert not out.exists()
    assert _invoke(releases["sim_pe"], out, "--seed", "2", "--force").exit_code == 0
    other = np.load(out.with_suffix(".npz"))["images"]
    assert not np.array_equal(other, arrays["images"])


def test_a_row_becomes_a_volume(releases: dict[str, Path]) -> None:
    bundle = releases["image_diffusion"]
    where = ["finding=none,meningioma"]
    result = sample_more_rows(bundle, rows=4, where=where, balance="finding", seed=3, slices=5)
    table = result.table
    assert table.column("volume").to_pylist() == np.repeat(np.arange(4), 5).tolist()
    assert table.column("place").to_pylist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9] * 4)
    for name in ("finding", "age"):  # of the head, and not of a slice
        cells = np.array(table.column(name).to_pylist(), object).reshape(4, 5)
        assert (cells == cells[:, :1]).all()
    found = table.column("finding").to_pylist()[::5]
    assert found == ["none", "none", "meningioma", "meningioma"]
    again = sample_more_rows(bundle, rows=4, where=where, balance="finding", seed=3, slices=5)
    assert again.table.equals(table)


@pytest.mark.parametrize(
    ("name", "where", "problem"),
    [
        ("sim_pe", [], "makes slices one by one"),
        ("image_diffusion", ["place=0.2..0.5"], "has slices of every 'place'"),
    ],
)
def test_what_has_no_volumes_is_refused(
    releases: dict[str, Path], name: str, where: list[str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        sample_more_rows(releases[name], rows=2, where=where, balance=None, seed=0, slices=3)
