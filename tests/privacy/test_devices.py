"""Gradients on a GPU and on the processor: the same seed, the same model.

The tests with CUDA run where torch sees a GPU. The others hold what they can without one: draws
that do not depend on precision, and no number that is left on the processor.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.vectors import MAX_WEIGHT, from_vector, to_vector
from pratique_privacy import dp_sgd, patient_sums
from pratique_privacy.canary_sums import canaries_in_step
from pratique_privacy.linear_gradients import (
    RowProducts,
    is_linear,
    scaled_sum,
    squared_norms,
)
from pratique_privacy.patient_sums import CPU, patient_sum, place_matters
from pratique_privacy.post_processing.strategy import strategy_of
from tests.conftest import needs_cuda
from tests.privacy.test_dp_sgd import TRAINED, _batch, _randomised, _study

CUDA = torch.device("cuda")
ROUNDS = 5
SIGMA = 0.5


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses draw from what the system calls random, which no seed repeats: here one does."""
    monkeypatch.setattr(patient_sums.os, "urandom", lambda size: b"\5" * size)


def _generator(name: str) -> GradientGenerator:
    generator = build_generator(_study(name))
    assert isinstance(generator, GradientGenerator)
    return generator


def _sum(name: str, device: torch.device = CPU) -> Any:
    generator = _generator(name)
    _randomised(generator)
    return patient_sum(generator, 1.0, device=device)(*_batch(_study(name), 1_500, 3))


def _trained(name: str, device: torch.device) -> np.ndarray:  # type: ignore[type-arg]
    """Return the weights after some noised rounds, as a federation of one site finds them."""
    study, generator, at_site = _study(name), _generator(name), _generator(name)
    generator.set_marginals([np.full(c.num_levels, 1 / c.num_levels) for c in study.data.columns])
    batch = _batch(study, 1_500, 3)
    strategy = strategy_of(study, generator, patients=1_500, errors=np.zeros(0))
    noise = np.random.default_rng(7)
    add_up = patient_sum(at_site, 1.0, device=device)
    for _ in range(ROUNDS):
        at_site.load_state(generator.state())
        total = add_up(*batch)
        strategy.update(total + noise.normal(0, SIGMA, total.size), SIGMA)
    strategy.finish()
    return to_vector(generator.module)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.usefixtures("one_seed")
def test_what_a_loss_draws_does_not_depend_on_precision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = _sum(name)
    monkeypatch.setitem(patient_sums._PRECISION, "cpu", torch.float64)
    long = _sum(name)
    assert np.abs(long).max() > 1
    assert (short != long).any()  # or the precision was not taken
    np.testing.assert_allclose(long, short, atol=1e-4 * np.abs(long).max())


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_of_a_step_stays_on_the_processor(name: str) -> None:
    """Device "meta" holds shapes without numbers, and refuses what lies on two devices."""
    generator: Any = _generator(name)
    codes, weight = _batch(_study(name), 10, 3)
    if name == "diffusion":
        probabilities = generator._noise()  # drawn from on the processor, as is meant
        generator._noise = lambda: probabilities
    generator.module.to("meta", torch.float64)
    with dp_sgd._recorded(generator.module) as passes:
        loss = generator.loss(codes.to("meta"), weight.to("meta", torch.float64))
    assert loss.device.type == "meta"
    found = torch.autograd.grad(loss.sum(), [p.outputs for p in passes], allow_unused=True)
    scale = torch.ones(10, device="meta", dtype=torch.float64)
    for each, gradient in zip(passes, found, strict=True):
        backprop = torch.zeros_like(each.outputs) if gradient is None else gradient
        assert is_linear(each.layer)
        norms = squared_norms(each.layer, each.inputs, backprop, RowProducts())
        sums = scaled_sum(each.layer, each.inputs, backprop, scale)
        assert norms and norms.keys() == sums.keys()
        assert {x.device.type for x in (*norms.values(), *sums.values())} == {"meta"}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_rows_place_in_a_block_does_not_matter(name: str, rows: int) -> None:
    generator = _generator(name)
    before = generator.state()
    assert not place_matters(generator, rows, 4, CPU)
    np.testing.assert_array_equal(generator.state(), before)


def test_a_layer_that_treats_places_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = nn.Linear.forward

    def last_rows_otherwise(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """As a library does that adds up the last rows in another order."""
        backwards = nn.functional.linear(x.flip(-1), layer.weight.flip(-1), layer.bias)
        return torch.cat([stock(layer, x)[:1_000], backwards[1_000:]])

    monkeypatch.setattr(nn.Linear, "forward", last_rows_otherwise)
    assert place_matters(_generator("vae"), 1, 4, CPU)


@needs_cuda
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.usefixtures("one_seed")
def test_a_gpu_finds_the_same_sum(name: str) -> None:
    expected = _sum(name)
    np.testing.assert_allclose(_sum(name, CUDA), expected, atol=1e-4 * np.abs(expected).max())


@needs_cuda
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.usefixtures("one_seed")
def test_the_same_seed_trains_the_same_model_on_a_gpu(name: str) -> None:
    start, here = to_vector(_generator(name).module), _trained(name, CPU)
    assert np.abs(here - start).max() > 1e-3
    np.testing.assert_allclose(_trained(name, CUDA), here, atol=1e-3)


@needs_cuda
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("scale", [1.0, 30.0, MAX_WEIGHT])
def test_no_weights_let_one_patient_count_for_more_on_a_gpu(name: str, scale: float) -> None:
    generator = _generator(name)
    weights = to_vector(generator.module)
    hostile = np.random.default_rng(3).choice([-scale, 0.0, scale], weights.size)
    from_vector(generator.module, hostile.astype(np.float32))
    codes, weight = _batch(_study(name), 12, 3)
    for one in range(12):
        alone = slice(one, one + 1)
        part = patient_sum(generator, 1.0, device=CUDA)(codes[alone], weight[alone])
        assert np.isfinite(part).all()
        assert np.linalg.norm(part) <= 1 + 1e-3


@needs_cuda
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_rows_place_does_not_matter_on_a_gpu(name: str, rows: int) -> None:
    assert not place_matters(_generator(name), rows, 4, CUDA)


@needs_cuda
def test_canaries_go_through_the_gpu_too() -> None:
    included = np.arange(9) % 2 == 0
    here, there = (
        canaries_in_step(_generator("vae"), included, 3, 1.0, 1.0, device=device)
        for device in (CPU, CUDA)
    )
    np.testing.assert_allclose(there, here, atol=1e-5)
