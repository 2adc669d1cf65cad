"""Rows with images: checked, dropped, ordered and written like any other column."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pratique_common.errors import InvalidFileError
from pratique_common.images import image_tables
from pratique_common.images.image_cells import image_cells, image_hashes, read_images
from pratique_common.images.image_pixels import by_percentiles, square
from pratique_common.images.spec import IMAGE
from pratique_common.released_copies import table_csv
from pratique_common.row_checks import content_hashes
from pratique_common.schema import TableSchema
from pratique_common.tables import (
    Table,
    cap_rows,
    check_batches,
    check_table,
    parquet_bytes,
    read_candidate,
    read_table,
    to_arrow,
)
from tests.common.test_image_spec import IMAGE as SPEC
from tests.common.test_image_spec import KIND, schema

SCHEMA = schema(patient_id="patient", max_rows_per_patient=2, max_dropped_share=0.5)
OF_ROWS = schema(image={**SPEC, "channels": ["t1", "t2"]})


def columns(num: int = 6, of: TableSchema = SCHEMA) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    assert of.image is not None
    return {
        "kind": np.array(["healthy", "glioma"] * (num // 2), object),
        "place": np.linspace(0, 1, num).round(6),
        IMAGE: rng.integers(0, 256, (num, *of.image.shape), np.uint8),
    }


def batch(patients: list[str], cells: dict[str, Any]) -> pa.Table:
    table = to_arrow(cells, SCHEMA)
    return table.append_column("patient", pa.array(patients, pa.string()))


@pytest.mark.parametrize("of", [SCHEMA, OF_ROWS], ids=["one channel", "two channels"])
def test_a_candidate_with_images_makes_the_round_trip(of: TableSchema) -> None:
    cells = columns(of=of)
    arrow = to_arrow(cells, of)
    assert arrow.column_names == list(of.released_names) == ["kind", "place", "image"]
    content = parquet_bytes(arrow)
    again = read_candidate(content, of, num_rows=6)
    for name, values in cells.items():
        np.testing.assert_array_equal(again.columns[name], values)
        assert again.columns[name].dtype == values.dtype
    assert again.columns[IMAGE].shape == (6, *of.image.shape)  # type: ignore[union-attr]
    assert parquet_bytes(to_arrow(again.columns, of)) == content


def replaced(cells: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(2, IMAGE, cells)


PIXELS = [bytes(32 * 32)] * 6


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.select(["kind", "place"]),
        lambda t: t.select(["kind", "image", "place"]),
        lambda t: t.append_column("mask", t["image"]),
        lambda t: t.slice(0, 5),
        replaced(pa.array(PIXELS, pa.binary())),
        replaced(pa.array([bytes(32 * 31)] * 6, pa.binary(32 * 31))),
        replaced(pa.array([*PIXELS[1:], None], pa.binary(32 * 32))),
        replaced(pa.array(["x"] * 6)),
    ],
)
def test_a_candidate_s_images_are_exactly_what_is_audited(
    change: Callable[[pa.Table], pa.Table],
) -> None:
    good = to_arrow(columns(), SCHEMA)
    assert read_candidate(parquet_bytes(good), SCHEMA, num_rows=6).num_rows == 6
    with pytest.raises(InvalidFileError):
        read_candidate(parquet_bytes(change(good)), SCHEMA, num_rows=6)


def test_images_of_another_shape_are_a_bug() -> None:
    cells = columns()
    with pytest.raises(ValueError, match="bytes of shape"):
        to_arrow({**cells, IMAGE: cells[IMAGE][:, :31]}, SCHEMA)
    with pytest.raises(ValueError, match="bytes of shape"):
        to_arrow({**cells, IMAGE: cells[IMAGE].astype(np.float32)}, SCHEMA)


def test_a_dropped_row_takes_its_image_along() -> None:
    cells = columns()
    table = batch(list("aabbcc"), cells)
    kinds = table["kind"].to_pylist()
    kinds[2] = "unknown"
    found = check_batches([table.set_column(0, "kind", pa.array(kinds))], SCHEMA, source="x",
                          patient_id="patient")  # fmt: skip
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(found.columns[IMAGE], cells[IMAGE][kept])
    assert found.patients.tolist() == list("aabcc")
    taken = found.take(np.array([4, 0]))
    np.testing.assert_array_equal(taken.columns[IMAGE], cells[IMAGE][[5, 0]])


def test_the_cap_keeps_the_first_images_of_a_patient() -> None:
    cells = columns()
    found = check_table(batch(list("ababab"), cells), SCHEMA, source="x", patient_id="patient")
    np.testing.assert_array_equal(cap_rows(found, SCHEMA).columns[IMAGE], cells[IMAGE][:4])


def _checked(table: pa.Table, cuts: list[int], *, ordered: bool = True) -> Table:
    ends = sorted({0, *(cut % (table.num_rows + 1) for cut in cuts), table.num_rows})
    parts = [table.slice(a, b - a) for a, b in pairwise(ends)]
    return check_batches(parts, SCHEMA, source="x", patient_id="patient", ordered=ordered)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 20), max_size=4), order=st.permutations(range(6)))
def test_neither_batches_nor_order_move_an_image(cuts: list[int], order: list[int]) -> None:
    cells = columns()
    cells["kind"][:], cells["place"][:] = "glioma", 0.5  # only images tell rows apart
    table = batch(list("aabbcc"), cells)
    whole, parts = _checked(table, []), _checked(table, cuts)
    np.testing.assert_array_equal(whole.columns[IMAGE], parts.columns[IMAGE])
    first = _checked(table, [], ordered=False)
    other = _checked(table.take(order), cuts, ordered=False)
    np.testing.assert_array_equal(first.columns[IMAGE], other.columns[IMAGE])
    assert first.patients.tolist() == other.patients.tolist()


def test_images_without_patients_have_ids_that_others_do_not_change() -> None:
    cells = columns(4, OF_ROWS)
    cells["kind"][:], cells["place"][:] = "glioma", 0.5
    cells[IMAGE][3] = cells[IMAGE][0]
    rows = to_arrow(cells, OF_ROWS)
    whole = check_table(rows, OF_ROWS, source="x", patient_id=None).patients
    without = check_table(rows.slice(1), OF_ROWS, source="x", patient_id=None).patients
    assert len(set(whole)) == 4
    assert set(without) < set(whole)


def test_a_pixel_changes_the_hash_of_a_row() -> None:
    cells = columns()
    before = content_hashes(SCHEMA, cells)
    cells[IMAGE][2, 31, 31, 0] ^= 1
    after = content_hashes(SCHEMA, cells)
    assert np.flatnonzero(before != after).tolist() == [2]
    assert len(set(image_hashes(cells[IMAGE]).tolist())) == 6


def test_a_slice_of_a_column_gives_its_own_images() -> None:
    cells = columns()
    assert SCHEMA.image is not None
    column = pa.chunked_array([image_cells(cells[IMAGE], SCHEMA.image)])
    found = read_images(column.slice(2, 3), SCHEMA.image, "x")
    np.testing.assert_array_equal(found, cells[IMAGE][2:5])
    assert len(read_images(column.slice(0, 0), SCHEMA.image, "x")) == 0


def test_a_parquet_file_of_images_is_a_table_to_evaluate(tmp_path: Any) -> None:
    cells = columns()
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(to_arrow(cells, SCHEMA)))
    found = read_table(tmp_path / "x.parquet", SCHEMA, with_patients=False)
    np.testing.assert_array_equal(found.columns[IMAGE], cells[IMAGE])


def written(path: Path, cells: dict[str, Any], images: Any, **more: list[Any]) -> Path:
    """Write a CSV, and an array of images beside it."""
    path.write_bytes(table_csv(to_arrow(cells, SCHEMA)))
    if more:
        table = pa.csv.read_csv(path)
        for name, values in more.items():
            table = table.append_column(name, pa.array(values))
        pa.csv.write_csv(table, path)
    np.savez_compressed(path.with_suffix(".npz"), images=images)
    return path


def test_images_beside_a_csv_are_those_of_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tables, "_BATCH_BYTES", 4 * 32 * 32)  # four of six rows
    cells = columns()
    in_order = written(tmp_path / "release.csv", cells, cells[IMAGE])
    whole = read_table(in_order, SCHEMA, with_patients=False)
    np.testing.assert_array_equal(whole.columns[IMAGE], cells[IMAGE])
    assert whole.columns["kind"].tolist() == cells["kind"].tolist()
    # At hospitals a column names places; images that no line names are not read.
    places = [7, 0, 3, 2, 4, 5]
    images = np.zeros((9, 32, 32), np.uint8)
    images[places] = cells[IMAGE][..., 0]
    of_site = written(tmp_path / "site.csv", cells, images, index=places, patient=list("aabbcc"))
    for scaling in (None, "full_range"):
        found = read_table(of_site, SCHEMA, scaling=scaling)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.columns[IMAGE], cells[IMAGE])
        assert found.patients.tolist() == list("aabbcc")


def test_images_of_hospitals_are_read_as_their_sources_read_them(tmp_path: Path) -> None:
    """Twice as large, and in half of the range: the means of four pixels, scaled."""
    cells = columns()
    large = np.repeat(np.repeat(cells[IMAGE] // 2, 2, axis=1), 2, axis=2)
    path = written(tmp_path / "x.csv", cells, large, patient=list("aabbcc"))
    np.testing.assert_array_equal(
        read_table(path, SCHEMA, scaling="full_range").columns[IMAGE], cells[IMAGE] // 2
    )
    scaled = read_table(path, SCHEMA, scaling="percentile").columns[IMAGE]
    np.testing.assert_array_equal(scaled[0, ..., 0], square(by_percentiles(large[0, ..., 0]), 32))
    assert scaled.max() == 255
    with pytest.raises(InvalidFileError, match="line 2: its image has not the study's 32 x 32"):
        read_table(path, SCHEMA)  # a synthetic table's are taken as they stand


@pytest.mark.parametrize(
    ("index", "num", "words"),
    [
        (None, 5, "not as many images as the table has lines"),
        (None, 7, "not as many images as the table has lines"),
        (["0", "1", "2", "3", "4", "6"], 6, "x.csv: line 7: the index is beyond the array"),
        (["0", "1", "SECRET", "3", "4", "5"], 6, "x.csv: line 4: the index is no number"),
        (["0", "1", "", "3", "4", "5"], 6, "x.csv: line 4: the index is no number"),
    ],
)
def test_lines_without_an_image_are_refused(
    tmp_path: Path, index: list[str] | None, num: int, words: str
) -> None:
    cells = columns()
    more = {} if index is None else {"index": index}
    path = written(tmp_path / "x.csv", cells, np.zeros((num, 32, 32), np.uint8), **more)
    with pytest.raises(InvalidFileError, match=words) as caught:
        read_table(path, SCHEMA, with_patients=False)
    assert "SECRET" not in str(caught.value)


def test_a_csv_without_its_images_says_where_they_belong(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", columns(), np.zeros((6, 32, 32), np.uint8))
    (tmp_path / "x.npz").unlink()
    with pytest.raises(InvalidFileError, match=r"x\.npz: no such file; put the images"):
        read_table(path, SCHEMA, with_patients=False)
    (tmp_path / "x.npz").write_bytes(b"PK no archive")
    with pytest.raises(InvalidFileError, match=r"x\.npz: the file cannot be read"):
        read_table(path, SCHEMA, with_patients=False)
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 32, 32)))
    with pytest.raises(InvalidFileError, match="no array 'images' of bytes"):
        read_table(path, SCHEMA, with_patients=False)


def test_a_column_of_the_study_is_no_index(tmp_path: Path) -> None:
    place = {"name": "index", "type": "numeric", "lower": 0, "upper": 1}
    of = schema(columns=[KIND, place], image={**SPEC, "position": "index"})
    cells = columns(of=of)
    cells["index"] = cells.pop("place")
    (tmp_path / "x.csv").write_bytes(table_csv(to_arrow(cells, of)))
    np.savez(tmp_path / "x.npz", images=cells[IMAGE])
    found = read_table(tmp_path / "x.csv", of, with_patients=False)
    np.testing.assert_array_equal(found.columns[IMAGE], cells[IMAGE])
