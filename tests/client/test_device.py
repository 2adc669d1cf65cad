"""``device`` of ``site.toml``: which one is taken, and how a wrong one is told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pratique_client import training
from pratique_client.checks import run_checks
from pratique_client.device import describe_device, device_of
from pratique_client.patients import Group
from pratique_client.site import Site, load_site
from pratique_common.errors import InvalidFileError
from tests.client.test_commands import client, failed, site
from tests.conftest import needs_cuda, small_study

__all__ = ["site"]  # the fixture

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")


def _asking(folder: Path, device: str) -> Site:
    file = folder / "site.toml"
    file.write_text(f'device = "{device}"\n' + file.read_text())
    return load_site(folder)


def _check(site: Site) -> Any:
    return next(check for check in run_checks(site) if check.title == "GPU")


def test_the_processor_is_taken_where_there_is_nothing_else(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_site(site).settings.device == "auto"
    assert device_of(load_site(site)) == torch.device("cpu")
    assert _check(load_site(site)).finding == "none found, and none needed"
    assert device_of(_asking(site, "cpu")) == torch.device("cpu")


@without_cuda
def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(site: Path) -> None:
    asking = _asking(site, "cuda")
    with pytest.raises(InvalidFileError) as told:
        device_of(asking)
    assert (told.value.field, told.value.code) == ("device", "device_unusable")
    assert 'write "auto"' in told.value.remedy
    assert _check(asking).error is not None
    failed(client("start", site), 2, "site.toml: device: asks for CUDA", 'or write "auto"')


def test_a_gpu_that_does_not_compute_is_told_and_not_passed_over(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch does where its build knows no kernel for a GPU of that generation."""

    def no_kernel(*size: int, **options: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.raises(InvalidFileError, match=r"does not compute; .* or write \"cpu\""):
        device_of(load_site(site))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert describe_device(_asking(site, "cpu")) == 'Some GPU is not used: device = "cpu"'


def test_no_other_device_can_be_written(site: Path) -> None:
    with pytest.raises(InvalidFileError, match="device"):
        _asking(site, "tpu")


def _training(site: Site) -> training.SiteTraining:
    study = small_study(generator={"name": "vae"})
    columns = {
        "age": np.full(4, 40.0),
        "marker": np.full(4, 1.5),
        "disease": np.full(4, "yes", object),
    }
    group = Group(columns, np.array(list("abcd"), object))
    patients: Any = SimpleNamespace(members=group)
    nothing: Any = None  # no sum leaves here
    return training.SiteTraining(site, study, "run", patients, nothing)


def test_too_little_memory_is_told_before_a_record_is_touched(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trained = _training(_asking(site, "cpu"))
    monkeypatch.setattr(trained, "_add_up", full)
    with pytest.raises(InvalidFileError, match=r"device: the GPU's free memory") as told:
        trained.warm_up()
    assert told.value.code == "device_unusable"


def test_a_device_that_treats_places_differently_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = _training(_asking(site, "cpu"))
    monkeypatch.setattr(trained, "_device", torch.device("cuda"))
    monkeypatch.setattr(training, "place_matters", lambda *arguments: True)
    with pytest.raises(InvalidFileError, match=r'at another place.* write "cpu"'):
        trained.warm_up()


@needs_cuda
def test_a_gpu_is_taken_where_there_is_one(site: Path) -> None:
    assert device_of(load_site(site)) == torch.device("cuda")
    assert "computes gradients" in _check(load_site(site)).finding
    _training(load_site(site)).warm_up()
