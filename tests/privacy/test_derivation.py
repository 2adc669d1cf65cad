"""From sums to a candidate: everybody finds the same, on whatever processor."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from pratique_common.study import StudySpec
from pratique_privacy.post_processing.derivation import Derivation, models_agree, sites_derive
from tests.conftest import small_study
from tests.derived import KINDS, study_of
from tests.small_images import image_study

# What a processor of 2008 and one of 2013 can do; numpy, torch, BLAS and numba choose by these.
_PROCESSORS = {
    "2008": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Nehalem",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NUMBA_CPU_NAME": "generic",
        "OMP_NUM_THREADS": "1",
    },
    "2013": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
        "OMP_NUM_THREADS": "2",
    },
    "this": {"OMP_NUM_THREADS": "1"},
}


def _derived(folder: Path, processors: tuple[str, ...], num_patients: int) -> dict[str, Any]:
    """Return what processes found that run as if on other processors."""
    arguments = [sys.executable, "-W", "ignore", "-m", "tests.derived"]
    running = {
        name: subprocess.Popen(
            [*arguments, str(folder / f"{name}.npz"), str(num_patients)],
            env={**os.environ, **_PROCESSORS[name]},
            cwd=Path(__file__).parents[2],
        )
        for name in processors
    }
    assert [process.wait() for process in running.values()] == [0] * len(running)
    return {name: np.load(folder / f"{name}.npz") for name in processors}


def _assert_the_same(found: dict[str, Any]) -> None:
    first, *others = found.values()
    for other in others:
        for kind in KINDS:
            assert first[f"{kind} candidate"] == other[f"{kind} candidate"], kind
        assert first["rare levels"] == other["rare levels"]
        for name in first.files:
            if first[name].dtype.kind == "f":
                np.testing.assert_allclose(first[name], other[name], atol=1e-9)


def test_old_processors_find_the_same_rows(tmp_path: Path) -> None:
    found = _derived(tmp_path, ("2008", "this"), 200)
    assert str(found["2008"]["instructions"]) == "DEFAULT"
    _assert_the_same(found)


@pytest.mark.statistical
def test_all_processors_find_the_same_rows_of_many_patients(tmp_path: Path) -> None:
    _assert_the_same(_derived(tmp_path, tuple(_PROCESSORS), 6_000))


def test_the_seed_is_of_all_sums() -> None:
    study = small_study()
    derivations = [Derivation(study, 3) for _ in range(3)]
    seeds = {derivation.seed for derivation in derivations}
    assert len(seeds) == 1
    size = derivations[0].histogram_form.size
    for number, derivation in enumerate(derivations):
        total = np.full(size, 100.0)
        total[number] += 1e-9 * (number == 2)
        derivation.add_histograms(total, 3)
    first, second, third = (derivation.seed for derivation in derivations)
    assert first == second != third
    assert first not in seeds
    derivations[0].add_round(np.zeros(derivations[0].step_form.size), 3)
    assert derivations[0].seed != second
    assert 0 <= derivations[0].seed < 2**56


def test_models_agree_up_to_rounding() -> None:
    model = {"bias": np.zeros(3, "f4"), "weight": np.ones((3, 3), "f4")}
    own = save(model)

    def agrees(**changes: Any) -> bool:
        return models_agree(own, save({**model, **changes}))

    assert models_agree(own, own)
    assert agrees(bias=np.full(3, 9e-6, "f4"))
    assert not agrees(bias=np.full(3, 2e-5, "f4"))
    assert not agrees(bias=np.full(3, np.nan, "f4"))
    assert not agrees(bias=np.zeros(4, "f4"))
    assert not agrees(bias=np.zeros(3, "f8"))
    assert not agrees(more=np.zeros(3, "f4"))
    assert not models_agree(own, b"")
    assert load(own).keys() == model.keys()


@pytest.mark.parametrize(
    ("changes", "derived"),
    [
        ({}, True),
        ({"generator": {"name": "tree"}}, True),
        ({"generator": {"name": "autoregressive"}}, False),
        ({"privacy": {"noise": "local"}}, False),
        ({"privacy": {"colluding_sites": 0}}, False),
    ],
)
def test_sites_derive_what_they_can(changes: dict[str, Any], derived: bool) -> None:
    study: StudySpec = study_of("pairwise", 1_000)
    data = study.model_dump(mode="json")
    for name, fields in changes.items():
        data[name] = {**data[name], **fields} if name != "generator" else fields
    assert sites_derive(StudySpec.model_validate(data)) == derived


@pytest.mark.parametrize("name", ["sim_moments", "sim_pe", "image_diffusion"])
def test_sites_do_not_derive_images(name: str) -> None:
    assert not sites_derive(image_study(generator={"name": name}))
