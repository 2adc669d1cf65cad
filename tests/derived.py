"""Derive candidates of phantoms in a process of its own: ``python -m tests.derived OUT N``.

Its environment says which instructions of the processor may be used.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load

from pratique_client.histograms import exact_histograms
from pratique_client.patients import Group
from pratique_client.training import encode_patients
from pratique_common.canonical import sha256_hex
from pratique_common.generators.base import CountedGenerator
from pratique_common.phantoms.cohort import study_path, write_cohort
from pratique_common.study import StudySpec, load_study, parse_study
from pratique_common.tables import parquet_bytes, read_table
from pratique_privacy.pair_sums import clipped_pair_sum
from pratique_privacy.post_processing.derivation import Derivation
from pratique_privacy.post_processing.level_shares import level_shares

KINDS = ("pairwise", "tree", "copula", "independent")
_SITES, _ROWS = 3, 400


def study_of(kind: str, num_patients: int) -> StudySpec:
    """Return the demo's study with another generator and few rows."""
    data = load_study(study_path()).model_dump(mode="json")
    data["generator"] = {"name": kind}
    data["training"]["rounds"] = 0 if kind == "independent" else 3
    data["release"]["rows"] = _ROWS
    data["privacy"]["expected_patients"] = num_patients
    return parse_study(data, source="derived")


def derive(study: StudySpec, group: Group, seed: int) -> tuple[bytes, bytes]:
    """Return model and candidate, the noise being that of a seed."""
    rng = np.random.default_rng(seed)
    derivation = Derivation(study, _SITES)
    codes_PKD, weight_PK = encode_patients(study, group)

    def noised(exact: NDArray[Any], form: Any) -> NDArray[np.float64]:
        sigmas = np.repeat(form.share_sigmas(), [section.size for section in form.sections])
        total = form.join(exact, np.zeros(sum(s.reserved for s in form.sections)))
        return np.asarray(total + np.sqrt(_SITES) * sigmas * rng.standard_normal(len(total)))

    exact = exact_histograms(study, codes_PKD, weight_PK, group)
    derivation.add_histograms(noised(exact, derivation.histogram_form), _SITES)
    for _ in range(study.training.rounds):
        generator = derivation.generator
        assert isinstance(generator, CountedGenerator)
        exact = clipped_pair_sum(
            generator.layout, generator.centre, codes_PKD.numpy(), weight_PK.numpy().astype(float)
        )
        derivation.add_round(noised(exact, derivation.step_form), _SITES)
    model = derivation.fit()
    table, _ = derivation.sample()
    return model, parquet_bytes(table)


def rare_levels() -> bytes:
    """Return shares and errors of columns with rare levels, many patients and little noise."""
    rng, found = np.random.default_rng(5), b""
    for patients, noise in ((1e4, 3.5), (1e5, 3.5), (1e6, 3.5), (1e6, 1.0)):
        for size in (2, 5, 10, 20, 33):
            exact = patients * rng.dirichlet(np.full(size, 0.1))
            noised = (exact + rng.normal(0, noise, size)).round()
            for num_ordered in (0, size):
                shares, errors = level_shares(noised, patients, noise, num_ordered)
                found += shares.tobytes() + errors.tobytes()
    return found


def main(out: Path, num_patients: int) -> None:
    """Derive one candidate of each kind and write models, and hashes of candidates."""
    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        sizes = {"harbour": num_patients, "northgate": 1, "lakeside": 1}
        data = write_cohort(Path(folder), seed=1, num_patients=sizes)["harbour"]
        for kind in KINDS:
            study = study_of(kind, num_patients)
            table = read_table(data, study.data)
            model, candidate = derive(study, Group(table.columns, table.patients), seed=2)
            found[f"{kind} candidate"] = sha256_hex(candidate)
            found |= {f"{kind} {name}": weights for name, weights in load(model).items()}
    found["rare levels"] = sha256_hex(rare_levels())
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
