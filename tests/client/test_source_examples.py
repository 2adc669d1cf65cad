"""The examples of the client's README read what they say: files, databases, OMOP, FHIR, images."""

import gzip
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from pratique_client.sources.fhir_paths import Path as FhirPath
from pratique_client.sources.fhir_paths import PathSyntaxError, referenced
from pratique_common.errors import InvalidFileError
from pratique_common.study import StudySpec
from pratique_common.tables import Table
from tests.client.image_files import (
    UIDS,
    head,
    image_study,
    write_nifti,
    write_png,
    write_series,
    write_table,
)
from tests.client.phantoms import site_of
from tests.client.postgres import OWNER, Postgres, postgres
from tests.conftest import small_study

README = (Path(__file__).parents[2] / "client" / "README.md").read_text("utf-8")
_FENCE = re.compile(r"^```(toml|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def example(*words: str, kind: str = "toml") -> str:
    """Return the one example with these words."""
    (found,) = [text for form, text in _FENCE.findall(README)
                if form == kind and all(word in text for word in words)
                and text.startswith(("[source]", "SELECT"))]  # fmt: skip
    return str(found).removeprefix("[source]\n")


def study_of(columns: list[dict[str, Any]], rows: int = 1, **data: Any) -> StudySpec:
    table = {"kind": "table", "patient_id": "patient", "max_rows_per_patient": rows,
             "max_dropped_share": 0.0, "columns": columns, **data}  # fmt: skip
    return small_study(data=table)


def load(folder: Path, source: str, study: StudySpec) -> Table:
    site = site_of(folder, source)
    source_of = site.settings.source
    assert source_of.unused_columns(site.site_file, study.data) == []
    return site.load_table(study.data)


def by_patient(table: Table) -> dict[str, list[dict[str, Any]]]:
    """Return rows as people would write them; NaN as None."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, patient in enumerate(table.patients):
        row = {name: values[place] for name, values in table.columns.items()}
        plain = {n: None if isinstance(v, float) and np.isnan(v) else v for n, v in row.items()}
        found.setdefault(str(patient), []).append(plain)
    return found


def test_a_query_over_files(tmp_path: Path) -> None:
    visits = {"visit": [1, 2, 3], "patient": ["a", "a", "b"], "sex": ["male", "male", "female"],
              "age": [60, 61, 40]}  # fmt: skip
    labs = {"visit": ["1", "1", "3"], "value": ["1.0", "2.0", "too little blood"]}
    pa.parquet.write_table(pa.table(visits), tmp_path / "visits.parquet")
    labs_as_texts = pa.table(labs)
    pa.csv.write_csv(labs_as_texts, tmp_path / "labs.csv")
    study = study_of(
        [
            {"name": "sex", "type": "categorical", "categories": ["male", "female"]},
            {"name": "age", "type": "numeric", "lower": 0, "upper": 110, "integer": True},
            {"name": "creatinine", "type": "numeric", "lower": 0, "upper": 20, "missing": True},
        ],
        rows=2,
    )
    source = example("visits.parquet").replace("l.visit = v.visit", "l.visit = v.visit::TEXT")
    found = by_patient(load(tmp_path, source, study))
    assert sorted((r["age"], r["creatinine"]) for r in found["a"]) == [(60.0, 1.5), (61.0, None)]
    assert found["b"] == [{"sex": "female", "age": 40.0, "creatinine": None}]


# A small OMOP CDM v5.4: two people, three visits; values by hand below.
CDM: dict[str, dict[str, list[Any]]] = {
    "person": {"person_id": [1, 2], "gender_concept_id": [8507, 8532],
               "year_of_birth": [1950, 1980]},
    "visit_occurrence": {
        "visit_occurrence_id": [10, 11, 20], "person_id": [1, 1, 2],
        "visit_start_date": ["2020-05-01", "2019-03-02", "2021-07-07"],
    },
    "measurement": {
        "person_id": [1, 1, 1, 2], "visit_occurrence_id": [10, 10, 11, 20],
        "measurement_concept_id": [3004410, 3004410, 3004410, 999],
        "value_as_number": [6.0, 7.0, 8.5, 1.0],
    },
    "condition_occurrence": {
        "person_id": [1, 2], "condition_concept_id": [201826, 77],
        "condition_start_date": ["2020-01-01", "2001-01-01"],
    },
    "concept_ancestor": {"ancestor_concept_id": [201820, 201820],
                         "descendant_concept_id": [201820, 201826]},
}  # fmt: skip
CDM_ROWS = {
    "1": [
        {"admitted": "2019-03-02", "age": 69.0, "sex": "male", "hba1c": 8.5, "diabetes": "no"},
        {"admitted": "2020-05-01", "age": 70.0, "sex": "male", "hba1c": 6.5, "diabetes": "yes"},
    ],
    "2": [
        {"admitted": "2021-07-07", "age": 41.0, "sex": "female", "hba1c": None, "diabetes": "no"},
    ],
}
CDM_STUDY = study_of(
    [
        {"name": "admitted", "type": "date", "first": "2010-01-01", "last": "2030-01-01"},
        {"name": "age", "type": "numeric", "lower": 0, "upper": 110, "integer": True},
        {"name": "sex", "type": "categorical", "categories": ["male", "female"]},
        {"name": "hba1c", "type": "numeric", "lower": 3, "upper": 20, "missing": True},
        {"name": "diabetes", "type": "categorical", "categories": ["no", "yes"]},
    ],
    rows=3,
    visits={"order_by": "admitted"},
)


def cdm_as_read(table: Table) -> dict[str, list[dict[str, Any]]]:
    column = CDM_STUDY.data.column("admitted")
    found = by_patient(table)
    for row in chain(*found.values()):
        row["admitted"] = column.spell(row["admitted"])  # type: ignore[union-attr]
    return found


def cdm_table(name: str) -> pa.Table:
    table = pa.table(CDM[name])
    for place, column in enumerate(table.column_names):
        if column.endswith("_date"):
            table = table.set_column(place, column, table[column].cast(pa.date32()))
    return table


def test_omop_in_parquet_files(tmp_path: Path) -> None:
    for name in CDM:
        pa.parquet.write_table(cdm_table(name), tmp_path / f"{name}.parquet")
    (tmp_path / "visits.sql").write_text(example("visit_occurrence", kind="sql"))
    files = ", ".join(f'{name} = "{name}.parquet"' for name in CDM)
    source = f'kind = "sql"\nfiles = {{ {files} }}\nquery_file = "visits.sql"'
    assert cdm_as_read(load(tmp_path, source, CDM_STUDY)) == CDM_ROWS


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


def test_omop_in_postgres_as_the_readme_says(tmp_path: Path, server: Postgres) -> None:
    engine = create_engine(server.url(OWNER))
    with engine.begin() as owner:
        for name in CDM:
            table = cdm_table(name)
            kinds = ["date" if c.endswith("_date") else "numeric" if c.endswith("_number") else
                     "integer" for c in table.column_names]  # fmt: skip
            columns = ", ".join(map(" ".join, zip(table.column_names, kinds, strict=True)))
            owner.exec_driver_sql(f"CREATE TABLE {name} ({columns})")
            marks = ", ".join(["%s"] * table.num_columns)
            rows = [tuple(row.values()) for row in table.to_pylist()]
            owner.exec_driver_sql(f"INSERT INTO {name} VALUES ({marks})", rows)
    engine.dispose()
    (tmp_path / "patients.sql").write_text(example("visit_occurrence", kind="sql"))
    (tmp_path / "database.url").write_text(server.url(OWNER))
    (tmp_path / "database.url").chmod(0o600)
    (tmp_path / "hospital.crt").write_bytes(server.certificate.read_bytes())
    source = example("url_file")
    assert "root_certificates" in source
    assert cdm_as_read(load(tmp_path, source, CDM_STUDY)) == CDM_ROWS


def lines(*resources: dict[str, Any]) -> str:
    return "".join(json.dumps(resource) + "\n" for resource in resources)


def observation(name: str, patient: str, encounter: str, code: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "id": name, "status": "final",
        "code": {"coding": [{"system": "http://other", "code": "x"},
                            {"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": patient}, "encounter": {"reference": encounter}, **more,
    }  # fmt: skip


def hba1c(name: str, encounter: str, value: str, at: str | None, unit: str = "%",
          **more: Any) -> dict[str, Any]:  # fmt: skip
    moment = {"effectiveDateTime": at} if at else {}
    quantity = {"valueQuantity": {"value": json.loads(value), "code": unit}}
    return observation(name, "Patient/1", encounter, "4548-4", **quantity, **moment, **more)


def pressure(name: str, systolic: float) -> dict[str, Any]:
    parts = [("8462-4", 80), ("8480-6", systolic)]
    component = [{"code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                  "valueQuantity": {"value": value}} for code, value in parts]  # fmt: skip
    return observation(name, "Patient/1", "Encounter/a", "85354-9", component=component)


def write_export(folder: Path) -> None:
    """Write three encounters of two patients, and what must not count."""
    export = folder / "export"
    export.mkdir()
    (export / "Patient.ndjson").write_text(lines(
        {"resourceType": "Patient", "id": "1", "gender": "male", "birthDate": "1950-06-15"},
        {"resourceType": "Patient", "id": "2", "gender": "female", "birthDate": "1980"},
    ))  # fmt: skip
    (export / "Encounter.000.ndjson").write_text(lines(
        {"resourceType": "Encounter", "id": "a", "subject": {"reference": "Patient/1"},
         "period": {"start": "2020-06-14T10:00:00+02:00"}},
        {"resourceType": "Encounter", "id": "b",
         "subject": {"reference": "https://fhir.example/r4/Patient/1/_history/3"},
         "period": {"start": "2020-06-15"}},
        {"resourceType": "Encounter", "id": "c", "subject": {"reference": "Patient/2"},
         "period": {"start": "2021-01-01"}},
        {"resourceType": "Encounter", "id": "d", "subject": {"reference": "Patient/unknown"}},
        {"resourceType": "Encounter", "id": "e", "subject": {"reference": "Group/1"}},
        {"resourceType": "Encounter", "id": "f", "subject": {"reference": "Patient/2"},
         "status": "entered-in-error"},
    ))  # fmt: skip
    with gzip.open(export / "1.Observation.ndjson.gz", "wt") as file:
        file.write(lines(
            hba1c("o1", "Encounter/a", "6.10", "2020-06-14T09:00:00Z"),
            hba1c("o2", "Encounter/a", "7.20", "2020-06-14T12:30:00+02:00"),  # the last: 10:30 UTC
            hba1c("o3", "Encounter/a", "9.9", None),
            hba1c("o4", "Encounter/a", "55", "2020-06-14T23:00:00Z", unit="mmol/mol"),
            hba1c("o5", "Encounter/a", "8.8", "2020-06-14T23:00:00Z", status="entered-in-error"),
            hba1c("o6", "Encounter/none", "8.8", "2020-06-14T23:00:00Z"),
        ))  # fmt: skip
    (export / "Observation.ndjson").write_text(lines(
        pressure("o7", 120.1), pressure("o8", 130.2),
        observation("o9", "Patient/2", "Encounter/c", "1234-5", valueQuantity={"value": 1}),
    ))  # fmt: skip
    coding = {"coding": [{"system": "http://snomed.info/sct", "code": "44054006"}]}
    refuted = {"coding": [{"code": "entered-in-error"}]}
    (export / "Condition.ndjson").write_text(lines(
        {"resourceType": "Condition", "id": "c1", "code": coding,
         "subject": {"reference": "Patient/1"}},
        {"resourceType": "Condition", "id": "c2", "code": coding, "verificationStatus": refuted,
         "subject": {"reference": "Patient/2"}},
    ))  # fmt: skip
    (export / "ObservationDefinition.ndjson").write_text("not ours\n")


FHIR_STUDY = study_of(
    [
        {"name": "sex", "type": "categorical", "categories": ["male", "female"]},
        {"name": "age", "type": "numeric", "lower": 0, "upper": 110, "integer": True},
        {"name": "admitted", "type": "date", "first": "2010-01-01", "last": "2030-01-01"},
        {"name": "hba1c", "type": "numeric", "lower": 3, "upper": 20, "missing": True},
        {"name": "systolic", "type": "numeric", "lower": 50, "upper": 300, "missing": True},
        {"name": "diabetes", "type": "categorical", "categories": ["no", "yes"]},
    ],
    rows=2,
    visits={"order_by": "admitted"},
)


def test_fhir_by_encounter(tmp_path: Path) -> None:
    write_export(tmp_path)
    found = by_patient(load(tmp_path, example('kind = "fhir"'), FHIR_STUDY))
    for row in chain(*found.values()):
        row.pop("admitted")
    assert found == {
        "1": [
            {"sex": "male", "age": 69.0, "hba1c": 7.2, "systolic": 125.15, "diabetes": "yes"},
            {"sex": "male", "age": 70.0, "hba1c": None, "systolic": None, "diabetes": "yes"},
        ],
        "2": [
            {"sex": "female", "age": 41.0, "hba1c": None, "systolic": None, "diabetes": "no"},
        ],
    }


@pytest.mark.parametrize(
    ("take", "value"),
    [("first", "6.1"), ("last", "7.2"), ("least", "6.1"), ("most", "9.9"), ("count", "3"),
     ("mean", repr(23.2 / 3)), ("exists", "yes")],
)  # fmt: skip
def test_fhir_by_patient_in_any_order_of_lines(tmp_path: Path, take: str, value: str) -> None:
    write_export(tmp_path)
    source = (
        'kind = "fhir"\nfolder = "export"\nrow = "patient"\npatient_id = "patient"\n'
        '[[source.columns]]\nname = "x"\nresource = "Observation"\npath = "valueQuantity.value"\n'
        f'take = "{take}"\ncodes = ["http://loinc.org|4548-4"]\n'
        'where = { "valueQuantity.code" = "%", "encounter.reference" = "Encounter/a" }\n'
        '[[source.columns]]\nname = "age"\nresource = "Patient"\npath = "birthDate"\n'
        'age_at = "2025-06-14"\n'
    )
    site = site_of(tmp_path, source)
    for _ in range(2):
        (table,) = site.settings.source.batches(site.site_file, ["patient", "x", "age"])
        rows = {row["patient"]: (row["x"], row["age"]) for row in table.to_pylist()}
        none = {"count": "0", "exists": "no"}.get(take)
        assert rows == {"1": (value, "74"), "2": (none, "45")}
        path = tmp_path / "export" / "1.Observation.ndjson.gz"
        backwards = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[::-1]
        path.write_bytes(gzip.compress(b"".join(backwards)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda e: (e / "Patient.ndjson").open("a").write('{"marked-XYZZY": \n'),
         ["Patient.ndjson", "line 3", "export that file again"]),
        (lambda e: (e / "Condition.ndjson").write_text('{"resourceType": "44054006", "id": "9"}'),
         ["Condition.ndjson", "line 1"]),
        (lambda e: (e / "Condition.ndjson").write_text("[1]\n"), ["Condition.ndjson", "line 1"]),
        (lambda e: (e / "Condition.ndjson").unlink(), ["source.folder", "no Condition.ndjson"]),
        (lambda e: (e / "1.Observation.ndjson.gz").write_bytes(b"not gzip"), ["Observation"]),
        (lambda e: e.rename(e.with_name("away")), ["source.folder", "no such folder"]),
    ],
)  # fmt: skip
def test_a_broken_export_is_refused_in_one_sentence(
    tmp_path: Path, spoil: Any, words: list[str]
) -> None:
    write_export(tmp_path)
    spoil(tmp_path / "export")
    with pytest.raises(InvalidFileError) as caught:
        load(tmp_path, example('kind = "fhir"'), FHIR_STUDY)
    for word in words:
        assert word in str(caught.value)
    assert "XYZZY" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('path = "gender"', 'path = "gender + 1"', ["'gender + 1' is no path"]),
        ('path = "gender"', 'path = "descendants()"', ["is no path"]),
        ("http://loinc.org|4548-4", "4548-4", ["codes", "system|code"]),
        ('name = "age"', 'name = "sex"', ["'sex' stands twice"]),
        ('take = "last"', 'take = "median"', ["take"]),
        ('row = "encounter"', 'row = "patient"', ["age", "give a date"]),
        ('row = "encounter"', 'row = "visit"', ["row"]),
        ('name = "diabetes"', 'name = "dm"', ["site.toml: source.columns", "'diabetes'"]),
    ],
)
def test_bad_columns_of_fhir_are_refused(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    write_export(tmp_path)
    source = example('kind = "fhir"')
    assert old in source
    with pytest.raises(InvalidFileError) as caught:
        site_of(tmp_path, source.replace(old, new)).load_table(FHIR_STUDY.data)
    for word in words:
        assert word in str(caught.value)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_images_in_files_and_in_an_array(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    write_png(scans / "a.png", GREY)
    write_table(scans / "images.csv", file=["a.png"], patient_number=["1"], kind=["glioma"])
    found = load(tmp_path, example("image_folder", "patient_number"), image_study())
    darkest = found.columns["image"][0, :, :, 0]
    assert (darkest.min(), darkest.max()) == (0, 255)
    np.savez(scans / "images.npz", images=np.stack([GREY // 2, GREY]))
    write_table(scans / "images.csv", index=["1", "0"], patient=["1", "2"], kind=["glioma"] * 2)
    found = load(tmp_path, example("image_folder", "npz ="), image_study())
    np.testing.assert_array_equal(found.columns["image"][..., 0], [GREY, GREY // 2])


def test_slices_in_dicom_and_nifti_files(tmp_path: Path) -> None:
    study = image_study(rows=12, prior="brain_mri", channels=["t1"], position="place")
    volume = head()
    volume[:, :, 5] = 1  # empty: NIfTI leaves it out
    axial = ((-1, 0, 0), (0, -1, 0))
    write_series(tmp_path / "export" / "a", volume, *axial, PatientID="p")
    write_series(tmp_path / "export" / "b", volume, *axial, Modality="CT", PatientID="p",
                 SeriesInstanceUID=f"{UIDS}.3")  # fmt: skip
    write_table(tmp_path / "cases.csv", SeriesInstanceUID=[f"{UIDS}.2"], kind=["glioma"])
    series = load(tmp_path, example('kind = "dicom"'), study)
    write_nifti(tmp_path / "scans" / "a.nii.gz", volume)
    cells = {"file": ["a.nii.gz"], "patient": ["p"], "kind": ["glioma"]}
    write_table(tmp_path / "scans" / "volumes.csv", **cells)
    volumes = load(tmp_path, example('kind = "nifti"'), study)
    places = series.columns["place"]
    np.testing.assert_allclose((places * 0.5 + 0.3) * 11, [4, 5, 6, 7, 8])
    assert volumes.columns["place"].tolist() == places[[0, 2, 3, 4]].tolist()
    found = series.columns["image"][[0, 2, 3, 4]]
    np.testing.assert_array_equal(found, volumes.columns["image"])
    assert set(series.patients) == set(volumes.patients)


RESOURCE = {"a": [{"b": 1, "c": [{"d": "x"}]}, {"b": 2, "c": [{"d": "y"}, {"d": "z"}]}], "e": True}


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("a.b", ["1", "2"]), ("a[1].b", ["2"]), ("a.c.d", ["x", "y", "z"]), ("a.c.last().d", ["z"]),
        ("a.where(b = '2').c[0].d", ["y"]), ("a.where(c.d = 'z').b", ["2"]), ("a[7].b", []),
        ("a.first().c.first().d", ["x"]), ("e", ["true"]), ("e.f", []), ("a", []),
        ("R.e", ["true"]),
    ],
)  # fmt: skip
def test_paths(path: str, texts: list[str]) -> None:
    assert FhirPath(path, "R").texts(RESOURCE) == texts


@given(st.text(max_size=20))
def test_any_text_is_a_path_or_is_refused(text: str) -> None:
    try:
        assert isinstance(FhirPath(text).texts(RESOURCE), list)
    except PathSyntaxError as error:
        assert "is no path" in str(error)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("Patient/1", "1"), ("https://x.example/fhir/Patient/a-1.b", "a-1.b"),
        ("Patient/1/_history/2", "1"), ("urn:uuid:0f", "0f"), ("Group/1", None), ("#p", None),
        (None, None), ("Patient/", None),
    ],
)  # fmt: skip
def test_references(reference: str | None, found: str | None) -> None:
    assert referenced(reference, "Patient") == found
