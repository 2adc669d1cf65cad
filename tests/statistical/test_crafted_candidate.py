"""A coordinator that crafts its candidate learns no more of one patient than the noise allows.

It is an attacker with a whole federation: the public commands, real processes, and a server of its
own, which is a copy of ours with another coordinator. Sites run what is installed.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

import pratique_server
from pratique_client.patients import Group, load_patients
from pratique_client.site import load_site
from pratique_common.images.audited import audited_columns
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import StudySpec, load_study
from pratique_common.tables import read_candidate, read_table
from pratique_privacy.audits.context import AuditContext
from pratique_privacy.audits.family import NUM_CELLS, count_cells, flatten, unflatten
from pratique_privacy.audits.scores import PatientScores
from pratique_privacy.audits.statistics import EXACT_CELL
from pratique_privacy.budget import AUDIT_SENSITIVITY
from pratique_privacy.conclusion import audit_sigmas
from tests.federation.commands import DECISIONS, Result, site_options
from tests.statistical.crafty_coordinator import KNOWN, SEEN, TABLE

pytestmark = pytest.mark.statistical

RUNS = 30
SITE = "harbour"
SIZES = {SITE: 120, "northgate": 90, "lakeside": 90}
HONEST = "from pratique_server.coordinator import Coordinator"
CRAFTY = "from tests.statistical.crafty_coordinator import CraftyCoordinator as Coordinator"

Counts = NDArray[np.float64]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the attacker's copy of the server."""
    folder = tmp_path_factory.mktemp("server")
    copy = folder / "pratique_server"
    shutil.copytree(Path(pratique_server.__file__).parent, copy)
    app = (copy / "app.py").read_text("utf-8")
    assert HONEST in app
    (copy / "app.py").write_text(app.replace(HONEST, CRAFTY), "utf-8")
    return folder


def _study(path: Path, *, colluding_sites: int) -> StudySpec:
    text = study_path().read_text("utf-8") + "\n[training]\nrounds = 1\nreply_interval_s = 0\n"
    text = text.replace("[release]\n", "[release]\nrows = 200\n")
    text = text.replace("[privacy]\n", f"[privacy]\ncolluding_sites = {colluding_sites}\n")
    path.write_text(text.replace("expected_patients = 12000", "expected_patients = 300"), "utf-8")
    return load_study(path)


def _target(study: StudySpec, data: Path, seed: int) -> tuple[str, dict[str, object]]:
    """Return a patient of one visit, and what is known of it."""
    table = read_table(data, study.data)
    patients, first, counts = np.unique(
        table.patients.astype(str), return_index=True, return_counts=True
    )
    chosen = int(np.random.default_rng(seed).choice(np.flatnonzero(counts == 1)))
    row = {name: values[first[chosen]] for name, values in table.columns.items()}
    known = {name: float(v) if isinstance(v, np.floating) else v for name, v in row.items()}
    return str(patients[chosen]), known


def _simulate(server: Path, folder: Path, data: dict[str, Path]) -> Result:
    command = [sys.executable, "-m", "pratique_server.cli", "simulate", folder / "study.toml",
               *site_options(data), "--out", folder / "out"]  # fmt: skip
    root = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": f"{server}{os.pathsep}{root}", KNOWN: str(folder / "known.json")}
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@dataclass
class Attack:
    """What the coordinator saw, and what it must not see: counts of all sites, (roles, cells).

    Roles are members and hold-out. ``target`` is 1 in each cell that the target is in, if it is
    there; ``counted`` tells of each role whether it is.
    """

    noised: Counts
    exact: Counts
    target: Counts
    counted: tuple[bool, bool]
    sigmas: tuple[float, float]

    def score(self, role: int) -> float:
        """Return the best guess of whether it is there: 1 and 0 on average if so and if not.

        By somebody who knows all other patients' counts; of Gaussian noise no statistic tells more.
        """
        others = self.exact[role] - self.counted[role] * self.target
        return float((self.noised[role] - others) @ self.target / np.square(self.target).sum())


def _attack(server: Path, folder: Path, *, seed: int, present: bool) -> Attack:
    folder.mkdir()
    # Sites then see no sums and derive no candidate: else they would not answer at all.
    study = _study(folder / "study.toml", colluding_sites=0)
    data = write_cohort(folder / "data", seed=1, num_patients=SIZES)
    patient, known = _target(study, data[SITE], seed)
    (folder / "known.json").write_text(json.dumps(known))
    if not present:
        frame = pd.read_csv(data[SITE], dtype=str, keep_default_na=False)
        frame[frame["patient"] != patient].to_csv(data[SITE], index=False)
    result = _simulate(server, folder, data)
    assert result.returncode in DECISIONS, result.stderr
    content = (folder / "out" / TABLE).read_bytes()
    rows = read_candidate(content, study.data, num_rows=study.release.rows)
    columns = audited_columns(study.data, rows.columns)
    context = AuditContext.build(study.data.audited, columns)

    def count(group: Group) -> Counts:
        scores = PatientScores.of(context, group.columns, group.patients)
        return flatten(count_cells(context.cuts, scores)).astype(float)

    sites = [load_patients(load_site(folder / "out" / "sites" / name), study) for name in SIZES]
    roles = [[site.members for site in sites], [site.holdout for site in sites]]
    own = {name: values[:1] for name, values in columns.items()}
    return Attack(
        noised=np.load(folder / "out" / SEEN)[: 2 * NUM_CELLS].reshape(2, NUM_CELLS),
        exact=np.array([np.sum([count(group) for group in groups], axis=0) for groups in roles]),
        target=count(Group(own, np.array([patient], object))),
        counted=(patient in sites[0].members.patients, patient in sites[0].holdout.patients),
        sigmas=audit_sigmas(study, len(SIZES), len(SIZES)),
    )


@pytest.mark.timeout(7_200)
def test_membership_of_one_patient_stays_within_the_noise(server: Path, tmp_path: Path) -> None:
    coins = np.random.default_rng(2).random(RUNS) < 0.6
    runs = [
        _attack(server, tmp_path / str(n), seed=n, present=bool(coin))
        for n, coin in enumerate(coins)
    ]
    audit = load_study(study_path()).audit
    for role, epsilon in enumerate((audit.epsilon_members, audit.epsilon_holdout)):
        counted = [run.counted[role] for run in runs]
        assert {True, False} == set(counted)
        # With exact counts the attack would always be right: it is a real one.
        for run in runs:
            assert unflatten(run.exact[role])["closeness"][EXACT_CELL] == run.counted[role]
            assert unflatten(run.target)["closeness"][EXACT_CELL] == 1
            assert (run.exact[role] >= run.counted[role] * run.target).all()
            assert np.square(run.target).sum() == pytest.approx(AUDIT_SENSITIVITY**2)
        # In every cell there is the noise that the ledger paid for, and nothing else.
        sigma = runs[0].sigmas[role]
        off = np.array([(run.noised[role] - run.exact[role]) / sigma for run in runs])
        for name, part in unflatten(np.arange(NUM_CELLS)).items():
            values = off[:, part.astype(int)].ravel()
            low, high = stats.chi2.ppf([0.0005, 0.9995], values.size)
            assert low < np.square(values).sum() < high, (role, name)
            assert abs(values.mean()) < 3.5 / math.sqrt(values.size), (role, name)
        # So the best guess is right as often as that noise lets it be, which is less than ε allows.
        planned = stats.norm.cdf(AUDIT_SENSITIVITY / 2 / sigma)
        ceiling = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert planned < ceiling
        right = sum((run.score(role) > 0.5) == run.counted[role] for run in runs)
        assert right <= min(stats.binom.ppf(0.999, RUNS, share) for share in (planned, ceiling))


@pytest.mark.timeout(600)
def test_sites_that_see_the_sums_audit_no_crafted_candidate(server: Path, tmp_path: Path) -> None:
    study = _study(tmp_path / "study.toml", colluding_sites=1)
    data = write_cohort(tmp_path / "data", seed=1, num_patients=SIZES)
    (tmp_path / "known.json").write_text(json.dumps(_target(study, data[SITE], 0)[1]))
    result = _simulate(server, tmp_path, data)
    assert DECISIONS[result.returncode] == "refused", result.stderr
    assert (tmp_path / "out" / TABLE).exists()
    assert not (tmp_path / "out" / SEEN).exists()
    report = json.loads((tmp_path / "out" / "refusal" / "report.json").read_text("utf-8"))
    codes = {drop["code"] for drops in report["evidence"]["dropped"].values() for drop in drops}
    assert codes == {"candidate_not_derived"}
    for name in SIZES:
        command = [
            "pratique_client.cli",
            "ledger",
            str(tmp_path / "out" / "sites" / name),
            "--json",
        ]
        told = subprocess.run([sys.executable, "-m", *command], capture_output=True, check=True)
        phases = [entry["phase"] for entry in json.loads(told.stdout)["entries"]]
        assert phases and not [p for p in phases if p.startswith(("audit", "utility"))]
