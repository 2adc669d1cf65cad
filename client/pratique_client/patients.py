"""A site's patients as the study sees them: whole patients, capped rows, two roles."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_client.site import Site
from pratique_client.split import commitment, holdout_mask
from pratique_common.columns import CategoricalColumn
from pratique_common.errors import InvalidFileError, NotEnoughDataError
from pratique_common.images.audited import audited_columns
from pratique_common.images.spec import IMAGE
from pratique_common.row_checks import content_hashes, level_positions
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.tables import Table, cap_rows

_HASHED_ROWS = 65_536
_LEAST_PATIENTS = 10
"""Below it neither role is surely filled; far below what any study could learn from."""


@dataclass(frozen=True)
class Group:
    """The records of one role."""

    columns: dict[str, NDArray[Any]]
    patients: NDArray[np.object_]
    """Whose each row is."""

    def part(self, rows: slice) -> "Group":
        """Return some rows, without a copy."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Group(columns, self.patients[rows])


@dataclass(frozen=True)
class SitePatients:
    """All accepted patients of a site, members' rows first. Stays at the site."""

    rows: Group
    num_member_rows: int
    snapshot: str
    """Hash of the accepted rows: stored answers are bound to it."""

    @property
    def members(self) -> Group:
        """Who may train: a part of the rows, without a copy."""
        return self.rows.part(slice(None, self.num_member_rows))

    @property
    def holdout(self) -> Group:
        """Who is held out: the other part."""
        return self.rows.part(slice(self.num_member_rows, None))

    def commitment(self, salt: bytes) -> str:
        """Return the commitment to who is held out."""
        return commitment(salt, np.unique(self.holdout.patients.astype(str)))

    def everybody(
        self,
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.object_], NDArray[np.bool_]]:
        """Return all rows, whose each is, and for each patient whether it is a member.

        Patients stand in the order of ``np.unique``.
        """
        owners = self.rows.patients
        patients, members = np.unique(owners.astype(str)), self.members.patients.astype(str)
        return self.rows.columns, owners, np.isin(patients, members)


def load_patients(site: Site, study: StudySpec) -> SitePatients:
    """Read a site's data, cap rows a patient and assign roles.

    Raises:
        InvalidFileError: the source is not acceptable.
        NotEnoughDataError: too few patients to fill both roles.
    """
    table = cap_rows(site.load_table(study.data), study.data)
    patients, owner = np.unique(table.patients.astype(str), return_inverse=True)
    patients = patients.astype(object)
    fraction = study.audit.holdout_fraction
    is_held_out = holdout_mask(site, study.digest, patients, fraction)
    held_out = patients[is_held_out]
    if len(patients) < _LEAST_PATIENTS or len(held_out) in (0, len(patients)):
        raise NotEnoughDataError(
            f"{site.settings.source.label(site.site_file)}: too few patients for this study; "
            "join with a larger population",
            code="too_few_patients",
        )
    if site.settings.budget.delta * len(patients) >= 1:
        raise InvalidFileError(
            site.folder / "site.toml",
            field="budget.delta",
            problem="not below one over the number of patients",
            remedy="lower it: such a δ would allow to publish one patient in full",
            code="delta_too_large",
        )
    # In an order that follows from the content: a database may give another one tomorrow.
    keys = [owner, is_held_out[owner]]
    if study.data.visits is None:  # visits stand in time, and their order says something
        keys.insert(0, content_hashes(study.data, table.columns))
    table = table.take(np.lexsort(keys))
    seen = table.columns | audited_columns(study.data, table.columns)
    return SitePatients(
        rows=Group(seen, table.patients),
        num_member_rows=int((~is_held_out[owner]).sum()),
        snapshot=_snapshot(table, study.data),
    )


def _snapshot(table: Table, schema: TableSchema) -> str:
    """Return a hash of rows in that order: a function of the content."""
    sha = hashlib.sha256()
    for start in range(0, table.num_rows, _HASHED_ROWS):
        patients = table.patients[start : start + _HASHED_ROWS]
        sha.update(json.dumps(patients.tolist()).encode())
    for column in schema.columns:
        values = table.columns[column.name]
        sha.update(column.name.encode())
        if isinstance(column, CategoricalColumn):
            values = level_positions(column, values)
        sha.update(np.ascontiguousarray(values).tobytes())
    if schema.image is not None:
        sha.update(IMAGE.encode())
        for image in table.columns[IMAGE]:
            sha.update(image.tobytes())
    return sha.hexdigest()
