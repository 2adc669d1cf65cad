"""A site's patients as the study sees them: whole patients, capped rows, two roles."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_client.site import Site
from pratique_client.sources import DATA_SOURCES
from pratique_client.split import commitment, holdout_mask
from pratique_common.errors import InvalidFileError, NotEnoughDataError
from pratique_common.study import StudySpec
from pratique_common.tables import Table, cap_rows

_LEAST_PATIENTS = 10
"""Below it neither role is surely filled; far below what any study could learn from."""


@dataclass(frozen=True)
class Group:
    """The records of one role."""

    columns: dict[str, NDArray[Any]]
    patients: NDArray[np.object_]
    """Whose each row is."""


@dataclass(frozen=True)
class SitePatients:
    """All accepted patients of a site. Stays at the site."""

    members: Group
    holdout: Group
    commitment: str
    snapshot: str
    """Hash of the accepted rows: stored answers are bound to it."""

    def everybody(
        self,
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.object_], NDArray[np.bool_]]:
        """Return all rows, whose each is, and for each patient whether it is a member.

        Patients stand in the order of ``np.unique``.
        """
        columns = {
            name: np.concatenate([self.members.columns[name], self.holdout.columns[name]])
            for name in self.members.columns
        }
        owners = np.concatenate([self.members.patients, self.holdout.patients])
        patients, members = np.unique(owners.astype(str)), self.members.patients.astype(str)
        return columns, owners, np.isin(patients, members)


def load_patients(site: Site, study: StudySpec, run: str) -> SitePatients:
    """Read a site's data, cap rows a patient and assign roles.

    Raises:
        InvalidFileError: the source is not acceptable.
        NotEnoughDataError: too few patients to fill both roles.
    """
    source = DATA_SOURCES[site.settings.source.kind]
    table = cap_rows(
        source.load(site.source_path, study.data, lacks=site.lacks(study.data)), study.data
    )
    patients = np.unique(table.patients.astype(str)).astype(object)
    fraction = study.audit.holdout_fraction
    held_out = patients[holdout_mask(site, study.digest, patients, fraction)]
    if len(patients) < _LEAST_PATIENTS or len(held_out) in (0, len(patients)):
        raise NotEnoughDataError(
            f"{site.source_path}: too few patients for this study; join with a larger population",
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
    in_holdout = np.isin(table.patients.astype(str), held_out.astype(str))
    return SitePatients(
        members=_group(table, ~in_holdout),
        holdout=_group(table, in_holdout),
        commitment=commitment(site, study.digest, run, held_out),
        snapshot=_snapshot(table),
    )


def _group(table: Table, rows: NDArray[np.bool_]) -> Group:
    columns = {name: values[rows] for name, values in table.columns.items()}
    return Group(columns, table.patients[rows])


def _snapshot(table: Table) -> str:
    sha = hashlib.sha256("\0".join(map(str, table.patients)).encode())
    for name in sorted(table.columns):
        values = table.columns[name]
        is_text = values.dtype == object
        sha.update(name.encode())
        sha.update("\0".join(map(str, values)).encode() if is_text else values.tobytes())
    return sha.hexdigest()
