"""A coordinator that crafts its candidate learns no more of one patient than the noise allows."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from pratique_client.site import Site
from pratique_client.split import is_holdout
from pratique_common.canonical import sha256_hex
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import StudySpec, load_study
from pratique_common.tables import Table, parquet_bytes, read_table
from pratique_privacy import conclusion
from pratique_privacy.audits.family import NUM_CELLS, unflatten
from pratique_privacy.audits.statistics import EXACT_CELL
from pratique_privacy.post_processing.derivation import Derivation
from pratique_server import release
from pratique_server.coordinator import Coordinator
from pratique_server.release import Candidate
from tests.federation.helpers import make_federation

pytestmark = pytest.mark.statistical

RUNS = 30
COPIES = 20
SITE = "harbour"


class Crafty(Coordinator):
    """It puts what it knows of one patient into the table that the sites audit."""

    target: dict[str, Any]

    def _sample(self, derivation: Derivation) -> Candidate:
        honest = super()._sample(derivation)
        frame = honest.table.to_pandas()
        for name, value in self.target.items():
            frame.loc[: COPIES - 1, name] = value
        table = pa.Table.from_pandas(frame, honest.table.schema, preserve_index=False)
        table = table.replace_schema_metadata(None)
        content = parquet_bytes(table)
        return replace(honest, table=table, parquet=content, sha256=sha256_hex(content))


def _member(site: Site, study: StudySpec, table: Table) -> str:
    """Return a patient with one row, whom the site's secret makes a member."""
    patients, counts = np.unique(table.patients.astype(str), return_counts=True)
    fraction = study.audit.holdout_fraction
    for patient in patients[counts == 1]:
        if not is_holdout(site.split_secret, study.digest, patient, fraction):
            return str(patient)
    raise AssertionError


def _attack(folder: Path, *, present: bool) -> tuple[float, float, float]:
    """Return the noised and the exact number of members equal to the target, and the deviation."""
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
    seen: dict[str, Any] = {}

    def conclude(study: StudySpec, evidence: Any, rows: Any) -> Any:
        total = conclusion._audit_total(study, evidence)
        seen["noised"] = unflatten(total[:NUM_CELLS])["closeness"][EXACT_CELL]
        return conclusion.conclude_evidence(study, evidence, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "conclude_evidence", conclude)
        crafty.run()
    (annex,) = (federation.sites[SITE].folder / "annex").glob("*.json")
    found = json.loads(annex.read_text())
    exact = found["audits"]["EXACT"]["members"] * found["members"]
    sigma = conclusion.audit_sigmas(study, len(sizes), len(sizes))[0]
    return float(seen["noised"]), float(exact), sigma


@pytest.mark.timeout(3_600)
def test_membership_of_one_patient_stays_within_the_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    present = rng.random(RUNS) < 0.5
    runs = [_attack(tmp_path / str(n), present=bool(coin)) for n, coin in enumerate(present)]
    noised, exact = np.array([run[0] for run in runs]), np.array([run[1] for run in runs])
    sigma = runs[0][2]
    # With exact counts the attack would always be right: it is a real one.
    np.testing.assert_allclose(exact, present.astype(float), atol=1e-9)
    epsilon = load_study(study_path()).audit.epsilon_members
    ceiling = math.exp(epsilon) / (1 + math.exp(epsilon))
    right = int(((noised > 0.5) == present).sum())
    assert right <= stats.binom.ppf(0.999, RUNS, ceiling)
    # And the noise is the one that the ledger paid for.
    spread = ((noised - exact) ** 2).sum() / sigma**2
    assert stats.chi2.ppf(0.001, RUNS) < spread < stats.chi2.ppf(0.999, RUNS)
