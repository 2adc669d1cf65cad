"""A bulk export of FHIR R4 or R5 (NDJSON, plain or .gz): one row a patient or one an encounter.

Resources are read line by line. What is kept is a row's cells, so memory grows with the rows and
not with the export.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pratique_client.sources.base import TableSource
from pratique_client.sources.fhir_cells import Cells, Take, cells_for, seconds_of, whole_years
from pratique_client.sources.fhir_files import FhirFiles
from pratique_client.sources.fhir_paths import Path, PathSyntaxError, referenced
from pratique_common.column_base import Spec
from pratique_common.table_files import BATCH_ROWS, check_columns

_PATIENT, _ENCOUNTER = "Patient", "Encounter"
_TIMES = {
    "Observation": ("effectiveDateTime", "effectivePeriod.start", "effectiveInstant", "issued"),
    "Condition": ("onsetDateTime", "onsetPeriod.start", "recordedDate"),
    _ENCOUNTER: ("period.start",),
    "Procedure": ("performedDateTime", "performedPeriod.start", "occurrenceDateTime"),
    "MedicationRequest": ("authoredOn",),
}
_VOID = "entered-in-error"
_SUBJECTS = (Path("subject.reference"), Path("patient.reference"))
_ENCOUNTERS = (Path("encounter.reference"), Path("context.reference"))
_PLAIN_CODE = re.compile(r"[A-Za-z0-9.-]+")
_DATE = re.compile(r"\d{4}(-\d\d){2}")


class FhirColumn(Spec):
    """``[[source.columns]]``: where a column of the study stands in the export."""

    name: str = Field(min_length=1)
    resource: str = Field(pattern=r"^[A-Z][A-Za-z]+$")
    path: str = Field(default="id", min_length=1, description="to the value")
    codes: tuple[str, ...] = Field(
        default=(), description="system|code, one of which the resource must have"
    )
    code_path: str = Field(default="code.coding", description="to the codings")
    where: Mapping[str, str] = Field(default={}, description="path → text that must stand there")
    take: Take = "first"
    time: str | None = Field(default=None, description="path to the moment, for first and last")
    of: Literal["row", "patient"] = Field(
        default="row", description="patient: of all of a patient's resources, in each of its rows"
    )
    age_at: str | None = Field(
        default=None,
        description="completed years from the value to this date or, where rows are encounters, "
        "to this path of the encounter",
    )

    @field_validator("codes")
    @classmethod
    def _check_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if any(code.count("|") != 1 or code.endswith("|") for code in codes):
            raise ValueError("codes: write system|code, such as http://loinc.org|4548-4")
        return codes

    @model_validator(mode="after")
    def _check_paths(self) -> Self:
        texts = [self.path, self.code_path, *self.where, *([self.time] if self.time else [])]
        try:
            for text in texts:
                Path(text, self.resource)
            if self.age_at and not _DATE.fullmatch(self.age_at):
                Path(self.age_at, _ENCOUNTER)
        except PathSyntaxError as error:
            raise ValueError(str(error)) from None
        if self.age_at and self.resource != _PATIENT:
            raise ValueError("age_at: is for columns of Patient")
        return self


class FhirExport(TableSource):
    """A folder of NDJSON files, named by their resource: ``Patient.ndjson``, ``Patient.1.ndjson``,
    ``Observation.ndjson.gz``."""

    kind: Literal["fhir"]
    folder: str = Field(min_length=1)
    row: Literal["patient", "encounter"]
    patient_id: str = Field(min_length=1, description="what the study calls the patient's id")
    columns: tuple[FhirColumn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        names = [self.patient_id, *(column.name for column in self.columns)]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"columns: '{repeated[0]}' stands twice")
        for column in self.columns:
            if self.row == "patient" and column.age_at and not _DATE.fullmatch(column.age_at):
                raise ValueError(f"columns: {column.name}: age_at: rows are patients: give a date")
        return self

    def is_ordered(self, site_file: FilePath) -> bool:
        """No: servers export resources in any order."""
        del site_file
        return False

    def label(self, site_file: FilePath) -> str:
        """Return the folder."""
        return str(site_file.parent / self.folder)

    def names(self, site_file: FilePath) -> list[str]:
        """Return the declared columns."""
        del site_file
        return [self.patient_id, *(column.name for column in self.columns)]

    def batches(self, site_file: FilePath, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield rows; every cell is the text that stands in a resource."""
        check_columns(self.names(site_file), names, f"{site_file}: source.columns")
        wanted = [column for column in self.columns if column.name in names]
        export = FhirFiles(site_file, site_file.parent / self.folder)
        patients, rows = _Keys(), _Keys()
        of_patients = [_Reader(column) for column in wanted if self._is_of_patient(column)]
        of_rows = [_Reader(column) for column in wanted if not self._is_of_patient(column)]
        for resource in export.read(_PATIENT):
            patients.add(resource["id"])
        until = {text: Path(text, _ENCOUNTER) for c in wanted if (text := c.age_at)
                 and not _DATE.fullmatch(text)}  # fmt: skip
        if self.row == "encounter":
            for resource in export.read(_ENCOUNTER):
                owner = patients.places.get(_reference(_SUBJECTS, resource, _PATIENT) or "")
                known = resource["id"] in rows.places
                if owner is not None and not known and not _is_void(resource):
                    rows.add(resource["id"], owner)
                    for text, path in until.items():
                        rows.dates.setdefault(text, []).append(path.first(resource))
        else:
            rows = patients
        for readers, keys in ((of_patients, patients), (of_rows, rows)):
            for reader in readers:
                reader.begin(len(keys.places))
        for kind in sorted({column.resource for column in wanted}):
            self._read(export, kind, (of_patients, patients), (of_rows, rows))
        yield from self._table(names, patients, rows, of_patients, of_rows)

    def _is_of_patient(self, column: FhirColumn) -> bool:
        return self.row == "patient" or column.resource == _PATIENT or column.of == "patient"

    def _read(
        self,
        export: FhirFiles,
        kind: str,
        of_patients: "tuple[list[_Reader], _Keys]",
        of_rows: "tuple[list[_Reader], _Keys]",
    ) -> None:
        """Take what the resources of one kind say."""
        by_key = []
        for (readers, keys), paths, target in (
            (of_patients, _SUBJECTS, _PATIENT),
            (of_rows, _ENCOUNTERS, _ENCOUNTER),
        ):
            ours = [reader for reader in readers if reader.column.resource == kind]
            if ours:
                by_key.append((ours, keys, paths, target))
        needles = [reader.needles for ours, *_ in by_key for reader in ours]
        worth = None if any(not each for each in needles) else sum(needles, ())
        for resource in export.read(kind, worth):
            if _is_void(resource):
                continue
            for ours, keys, paths, target in by_key:
                own = resource["id"] if kind == target else _reference(paths, resource, target)
                key = keys.places.get(own or "")
                if key is not None:
                    for reader in ours:
                        reader.take(key, resource)

    def _table(
        self,
        names: Sequence[str],
        patients: "_Keys",
        rows: "_Keys",
        of_patients: "list[_Reader]",
        of_rows: "list[_Reader]",
    ) -> Iterator[pa.Table]:
        ids = list(patients.places)
        owners = range(len(ids)) if rows is patients else rows.owners
        by_name = {r.column.name: (r, True) for r in of_patients}
        by_name |= {r.column.name: (r, False) for r in of_rows}
        for start in range(0, len(owners), BATCH_ROWS):
            part = range(start, min(start + BATCH_ROWS, len(owners)))
            columns = []
            for name in names:
                if name == self.patient_id:
                    columns.append(pa.array([ids[owners[row]] for row in part], pa.string()))
                    continue
                reader, of_patient = by_name[name]
                cells = [reader.text(owners[r] if of_patient else r, r, rows.dates) for r in part]
                columns.append(pa.array(cells, pa.string()))
            yield pa.Table.from_arrays(columns, names=list(names))


@dataclass
class _Keys:
    """Patients or encounters by their id, numbered from 0; ``owners`` are encounters' patients."""

    places: dict[str, int] = field(default_factory=dict)
    owners: list[int] = field(default_factory=list)
    dates: dict[str, list[str | None]] = field(default_factory=dict)

    def add(self, name: str, owner: int | None = None) -> None:
        self.places.setdefault(name, len(self.places))
        if owner is not None:
            self.owners.append(owner)


class _Reader:
    """Fills the cells of one column."""

    def __init__(self, column: FhirColumn) -> None:
        self.column = column
        kind = column.resource
        self._path, self._codings = Path(column.path, kind), Path(column.code_path, kind)
        self._where = [(Path(path, kind), text) for path, text in column.where.items()]
        times = (column.time,) if column.time else _TIMES.get(kind, ())
        self._times = [Path(text, kind) for text in times]
        self._pairs = {tuple(code.split("|")) for code in column.codes}
        plain = [code for _, code in self._pairs]
        # A line without the code's text needs no parsing; what JSON may escape is always parsed.
        all_plain = all(map(_PLAIN_CODE.fullmatch, plain))
        self.needles = tuple(code.encode() for code in plain) if all_plain else ()
        self._cells: Cells | None = None

    def begin(self, num_keys: int) -> None:
        self._cells = cells_for(self.column.take, num_keys)

    def take(self, key: int, resource: dict[str, Any]) -> None:
        assert self._cells is not None
        if self._pairs and not self._pairs & set(self._codings.codings(resource)):
            return
        if any(text not in path.texts(resource) for path, text in self._where):
            return
        texts = self._path.texts(resource)
        if texts:
            said = (at.first(resource) for at in self._times)
            moment = seconds_of(next((text for text in said if text is not None), None))
            self._cells.add(key, texts[0], moment)

    def text(self, key: int, row: int, dates: Mapping[str, list[str | None]]) -> str | None:
        assert self._cells is not None
        text, age_at = self._cells.text(key), self.column.age_at
        if age_at is None:
            return text
        return whole_years(text, dates[age_at][row] if age_at in dates else age_at)


def _reference(paths: Sequence[Path], resource: Any, target: str) -> str | None:
    found = (referenced(path.first(resource), target) for path in paths)
    return next((name for name in found if name is not None), None)


def _is_void(resource: dict[str, Any]) -> bool:
    """Whether a resource says of itself that it should never have been there."""
    if resource.get("status") == _VOID:
        return True
    return "verificationStatus" in resource and _VOID in _VERIFICATION.texts(resource)


_VERIFICATION = Path("verificationStatus.coding.code")
