"""A coordinator that crafts its candidate learns no more of one patient than the noise allows."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats

from pratique_client import auditing
from pratique_client.site import Site
from pratique_client.split import is_holdout
from pratique_common.canonical import sha256_hex
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import StudySpec, load_study
from pratique_common.tables import Table, check_table, parquet_bytes, read_table
from pratique_privacy import conclusion
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import (
    NUM_CELLS,
    CellCounts,
    count_cells,
    flatten,
    unflatten,
)
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.audits.statistics import EXACT_CELL
from pratique_privacy.budget import AUDIT_SENSITIVITY
from pratique_privacy.post_processing.derivation import Derivation
from pratique_server import release
from pratique_server.coordinator import Coordinator
from pratique_server.release import Candidate
from tests.federation.helpers import make_federation

pytestmark = pytest.mark.statistical

RUNS = 30
COPIES = 20
SITE = "harbour"

Counts = NDArray[np.float64]


class Crafty(Coordinator):
    """It puts what it knows of one patient into the table that the sites audit."""

    target: dict[str, Any]
    columns: dict[str, Any]

    def _sample(self, derivation: Derivation) -> Candidate:
        honest = super()._sample(derivation)
        frame = honest.table.to_pandas()
        for name, value in self.target.items():
            frame.loc[: COPIES - 1, name] = value
        table = pa.Table.from_pandas(frame, honest.table.schema, preserve_index=False)
        table = table.replace_schema_metadata(None)
        content = parquet_bytes(table)
        self.columns = check_table(
            table, self._study.data, source="crafted", patient_id=None
        ).columns
        return replace(honest, table=table, parquet=content, sha256=sha256_hex(content))


def _member(site: Site, study: StudySpec, table: Table) -> str:
    """Return a patient with one row, whom the site's secret makes a member."""
    patients, counts = np.unique(table.patients.astype(str), return_counts=True)
    fraction = study.audit.holdout_fraction
    for patient in patients[counts == 1]:
        if not is_holdout(site.split_secret, study.digest, patient, fraction):
            return str(patient)
    raise AssertionError


@dataclass
class Attack:
    """What the coordinator saw, and what it must not see: members' counts of all sites, (cells,).

    ``target`` is 1 in each cell that the target is in, if it is there.
    """

    noised: Counts
    exact: Counts
    target: Counts
    sigma: float

    def score(self, present: bool) -> float:
        """Return the best guess of whether it is there: 1 and 0 on average if so and if not.

        By somebody who knows all other patients' counts; of Gaussian noise no statistic tells more.
        """
        others = self.exact - present * self.target
        return float((self.noised - others) @ self.target / np.square(self.target).sum())


def _attack(folder: Path, *, present: bool) -> Attack:
    folder.mkdir()
    text = study_path().read_text() + "\n[training]\nrounds = 1\nreply_interval_s = 0\n"
    text = text.replace("[release]\n", "[release]\nrows = 200\n")
    # Sites then see no sums and derive no candidate: else they would not answer at all.
    text = text.replace("[privacy]\n", "[privacy]\ncolluding_sites = 0\n")
    (folder / "study.toml").write_text(
        text.replace("expected_patients = 12000", "expected_patients = 300")
    )
    study = load_study(folder / "study.toml")
    sizes = {SITE: 120, "northgate": 90, "lakeside": 90}
    data = write_cohort(folder / "data", seed=1, num_patients=sizes)
    federation = make_federation(folder, study, folder / "study.toml", data, epsilon=50.0)
    table = read_table(data[SITE], study.data)
    target = _member(federation.sites[SITE], study, table)
    (row,) = np.flatnonzero(table.patients.astype(str) == target)
    if not present:
        frame = pd.read_csv(data[SITE], dtype=str, keep_default_na=False)
        frame[frame["patient"] != target].to_csv(data[SITE], index=False)
    crafty = federation.coordinator(Crafty)
    assert isinstance(crafty, Crafty)
    crafty.target = {name: values[row] for name, values in table.columns.items()}
    noised: list[Counts] = []
    exact: list[Counts] = []

    def conclude(study: StudySpec, evidence: Any, rows: Any) -> Any:
        total = conclusion._audit_total(study, evidence)
        assert total is not None
        noised.append(total[:NUM_CELLS])
        return conclusion.conclude_evidence(study, evidence, rows)

    def flat(counts: CellCounts) -> Counts:
        exact.append(flatten(counts).astype(float))
        return flatten(counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "conclude_evidence", conclude)
        patch.setattr(auditing, "flatten", flat)
        crafty.run()
    assert len(exact) == 2 * len(sizes)  # members and hold-out of each
    own = table.take(np.array([row]))
    context = AuditContext.build(study.data, crafty.columns)
    scores = PatientScores.of(context, own.columns, own.patients)
    return Attack(
        noised=noised[0],
        exact=np.sum(exact[::2], axis=0),
        target=flatten(count_cells(context.cuts, scores)).astype(float),
        sigma=conclusion.audit_sigmas(study, len(sizes), len(sizes))[0],
    )


@pytest.mark.timeout(3_600)
def test_membership_of_one_patient_stays_within_the_noise(tmp_path: Path) -> None:
    present = np.random.default_rng(2).random(RUNS) < 0.5
    runs = [_attack(tmp_path / str(n), present=bool(coin)) for n, coin in enumerate(present)]
    # With exact counts the attack would always be right: it is a real one.
    for run, coin in zip(runs, present, strict=True):
        assert unflatten(run.exact)["closeness"][EXACT_CELL] == float(coin)
        assert unflatten(run.target)["closeness"][EXACT_CELL] == 1
        assert (run.exact >= coin * run.target).all()
        assert np.square(run.target).sum() == pytest.approx(AUDIT_SENSITIVITY**2)
    # In every cell there is the noise that the ledger paid for, and nothing else.
    off = np.array([(run.noised - run.exact) / run.sigma for run in runs])
    for name, part in unflatten(np.arange(NUM_CELLS)).items():
        values = off[:, part.astype(int)].ravel()
        spread = np.square(values).sum()
        low, high = stats.chi2.ppf([0.001, 0.999], values.size)
        assert low < spread < high, name
        assert abs(values.mean()) < 3.3 / math.sqrt(values.size), name
    # So the best guess is right as often as that noise lets it be, which is less than ε allows.
    planned = stats.norm.cdf(AUDIT_SENSITIVITY / 2 / runs[0].sigma)
    epsilon = load_study(study_path()).audit.epsilon_members
    ceiling = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert planned < ceiling
    right = sum(
        (run.score(bool(coin)) > 0.5) == coin for run, coin in zip(runs, present, strict=True)
    )
    assert right <= min(stats.binom.ppf(0.999, RUNS, share) for share in (planned, ceiling))
