from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from pratique_common.generators import TABLE_GENERATORS
from pratique_common.generators.base import GradientGenerator
from pratique_common.generators.build import build_generator
from pratique_common.generators.masked import MaskedLinear
from pratique_common.generators.vectors import MAX_WEIGHT, from_vector, to_vector, trainable
from pratique_common.study import StudySpec
from pratique_privacy.budget import _FLOAT32_MARGIN
from pratique_privacy.dp_sgd import clipped_sum
from pratique_privacy.linear_gradients import RowProducts, squared_norms
from pratique_privacy.patient_sums import patient_sum, sampled_sum
from tests.conftest import needs_cuda, rounds_of, small_study

TRAINED = [
    name
    for name in sorted(TABLE_GENERATORS)
    if isinstance(
        build_generator(
            small_study(generator={"name": name}, training={"rounds": rounds_of(name)})
        ),
        GradientGenerator,
    )
]
SEED = 5
"""Losses may draw: the same seed and shapes give every patient the same draws."""


def _study(name: str) -> StudySpec:
    levels = [3, 5, 2, 4]
    columns = [
        {"name": f"c{d}", "type": "categorical", "categories": [str(k) for k in range(n)]}
        for d, n in enumerate(levels)
    ]
    data: dict[str, Any] = {"kind": "table", "patient_id": "p", "max_rows_per_patient": 3,
                            "columns": columns, "target": "c2"}  # fmt: skip
    return small_study(data=data, generator={"name": name})


def _batch(study: StudySpec, patients: int, rows: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    codes = torch.stack(
        [
            torch.randint(0, column.num_levels, (patients, rows), generator=rng)
            for column in study.data.columns
        ],
        dim=-1,
    )
    count = torch.randint(1, rows + 1, (patients, 1), generator=rng)
    weight = (torch.arange(rows) < count).float() / count
    return codes, weight


def _randomised(generator: GradientGenerator) -> None:
    weights = to_vector(generator.module)
    noise = np.random.default_rng(3).normal(0, 0.3, weights.size).astype(np.float32)
    from_vector(generator.module, weights + noise)


def _explicit(
    generator: GradientGenerator, codes: Tensor, weight: Tensor, bound: float
) -> np.ndarray:  # type: ignore[type-arg]
    total = np.zeros(to_vector(generator.module).size)
    parameters = trainable(generator.module)
    torch.manual_seed(SEED)
    loss = generator.loss(codes, weight)
    for patient in range(len(codes)):
        gradients = torch.autograd.grad(
            loss[patient], parameters, allow_unused=True, retain_graph=True
        )
        flat = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(parameters, gradients, strict=True)
            ]
        )
        total += (flat * min(1.0, bound / float(flat.norm()))).double().numpy()
    return total


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("bound", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("rows", [1, 3])
def test_equals_explicit_clipping_a_patient(name: str, bound: float, rows: int) -> None:
    study = _study(name)
    generator = build_generator(study)
    _randomised(generator)
    codes, weight = _batch(study, 25, rows)
    expected = _explicit(generator, codes, weight, bound)
    torch.manual_seed(SEED)
    found = clipped_sum(generator, bound, codes, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_one_patient_with_all_rows_moves_the_sum_by_the_bound_at_most(name: str) -> None:
    study = _study(name)
    generator = build_generator(study)
    _randomised(generator)
    codes, weight = _batch(study, 30, 3)
    torch.manual_seed(SEED)
    everybody = clipped_sum(generator, 0.1, codes, weight)
    for patient in range(5):
        others = weight.clone()
        others[patient] = 0  # as good as absent: see padding below
        torch.manual_seed(SEED)
        without = clipped_sum(generator, 0.1, codes, others)
        assert np.linalg.norm(everybody - without) <= 0.1 * (1 + 1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_padding_rows_mean_nothing(name: str) -> None:
    study = _study(name)
    generator = build_generator(study)
    codes, weight = _batch(study, 10, 3)
    changed = codes.clone()
    changed[weight == 0] = 0
    sums = []
    for each in (codes, changed):
        torch.manual_seed(SEED)
        sums.append(clipped_sum(generator, 1.0, each, weight))
    np.testing.assert_array_equal(*sums)


def test_an_empty_batch_is_a_valid_step() -> None:
    study = _study("autoregressive")
    generator = build_generator(study)
    codes, weight = _batch(study, 4, 2)
    add_up = patient_sum(generator, 1.0)
    total = sampled_sum(add_up, codes, weight, sample_rate=1e-12)
    assert total.shape == to_vector(generator.module).shape
    assert not total.any()
    assert add_up(codes, weight).any()


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 3),
    scale=st.sampled_from([1.0, 30.0, MAX_WEIGHT]),
    kind=st.sampled_from(["normal", "extreme", "cancelling"]),
)
def test_no_weights_let_one_patient_count_for_more(
    name: str, seed: int, rows: int, scale: float, kind: str
) -> None:
    """Whatever weights a coordinator sends: one patient's part is bounded, and is a number."""
    generator = build_generator(_study(name))
    rng = np.random.default_rng(seed)
    size = to_vector(generator.module).size
    weights = rng.normal(0, scale / 3, size).clip(-MAX_WEIGHT, MAX_WEIGHT)
    if kind == "extreme":
        weights = rng.choice([-scale, 0.0, scale], size)
    elif kind == "cancelling":
        weights = np.where(rng.random(size) < 0.1, scale, 0.0)
    from_vector(generator.module, weights.astype(np.float32))
    codes, weight = _batch(_study(name), 12, rows)
    for patient in range(12):
        one = slice(patient, patient + 1)
        contribution = clipped_sum(generator, 1.0, codes[one], weight[one])
        assert np.isfinite(contribution).all()
        assert np.linalg.norm(contribution) <= 1 + 1e-3


def test_a_patient_whose_gradient_is_no_number_is_left_out_and_nobody_else_changes() -> None:
    study = _study("autoregressive")
    generator = build_generator(study)
    codes, weight = _batch(study, 10, 2)
    expected = clipped_sum(generator, 1.0, codes[1:], weight[1:])
    poisoned = weight.clone()
    poisoned[0] = torch.inf
    found = clipped_sum(generator, 1.0, codes, poisoned)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_rows_that_cancel_do_not_hide_a_large_gradient(masked: bool) -> None:
    """Two rows whose gradients nearly cancel: the norm is rounded up, never down to nothing."""
    layer: MaskedLinear | nn.Linear = nn.Linear(4, 3)
    if masked:
        layer = MaskedLinear(torch.ones(3, 4, dtype=torch.bool), scale=1.0, rng=torch.Generator())
    a = torch.full((1, 2, 4), 1e4)
    a[0, 1] += 1e-2
    g = torch.tensor([[[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]]])
    norm = squared_norms(layer, a, g, RowProducts())[layer.weight].sqrt()
    true = torch.einsum("bko,bki->boi", g.double(), a.double()).norm()
    assert norm.item() >= true.item()
    assert norm.item() >= 1e-4 * 1e4


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 40])
@pytest.mark.parametrize("runs", [1, 2, 3, 5, 15])
def test_a_norm_is_the_same_at_every_place(rows: int, runs: int) -> None:
    """Otherwise one patient more would shift the others' norms, and with them their scales.

    With a run's sum as a product of few columns, odd places had other last bits than even ones;
    with all of 2 to 7 rows of a patient in one product, other places had.
    """
    mask = torch.tril(torch.ones(runs, runs)).bool()
    mask = mask.repeat_interleave(7, dim=0).repeat_interleave(9, dim=1)
    masked = MaskedLinear(mask, scale=1.0, rng=torch.Generator())
    for layer in (masked, nn.Linear(9 * runs, 7 * runs)):
        for seed in range(5):
            rng = torch.Generator().manual_seed(seed)
            a, g = (torch.randn(1, rows, n * runs, generator=rng) for n in (9, 7))
            everywhere = (x.expand(1_088, -1, -1).contiguous() for x in (a, g))
            for found_B in squared_norms(layer, *everywhere, RowProducts()).values():
                assert (found_B == found_B[0]).all()


def test_weights_that_make_two_rows_cancel_gain_nothing() -> None:
    """The critic's second layer gets, for two rows, inputs whose gradients cancel but for δ.

    With float32 norms (Opacus' own for linear layers) the contribution reaches 29 times the bound.
    """
    study = _study("adversarial")
    generator = build_generator(study)
    assert isinstance(generator, GradientGenerator)
    critic = cast(Any, generator.module)
    weights = {name: torch.zeros_like(p) for name, p in critic.named_parameters()}
    half, strong, slope = 64, 20.0, 0.2
    weights["critic_in.weight"][:half, 3] = MAX_WEIGHT  # c1 = 0, the first row only
    weights["critic_in.weight"][:half, 4] = -MAX_WEIGHT  # c1 = 1, the second row only
    weights["critic_in.weight"][half:, 0] = MAX_WEIGHT  # c0 = 0, both rows
    uneven = 1 + 0.3 * torch.rand(128, 1, generator=torch.Generator().manual_seed(3))
    first, second = half * MAX_WEIGHT * strong, -slope * half * MAX_WEIGHT * strong
    codes = torch.zeros(1, 2, 4, dtype=torch.long)
    codes[0, 1, 1] = 1
    for delta in np.linspace(0, 2e-3, 41):
        shared = -(second + first * (1 + delta) / slope) / (1 + (1 + delta) / slope)
        hidden = torch.full((128, 128), strong)
        hidden[:, half:] = shared / (half * MAX_WEIGHT)
        weights["critic_hidden.weight"] = hidden * uneven
        sent = [weights[name] for name, p in critic.named_parameters() if p.requires_grad]
        generator.load_state(nn.utils.parameters_to_vector(sent).numpy())
        contribution = clipped_sum(generator, 1.0, codes, torch.tensor([[0.5, 0.5]]))
        assert np.linalg.norm(contribution) <= 1 + _FLOAT32_MARGIN / 10


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("scale", [0.3, 30.0])
@pytest.mark.parametrize("alike", [True, False])
def test_rounding_of_a_block_stays_far_within_the_margin(
    name: str, scale: float, alike: bool
) -> None:
    """Four times a planned block, and equal patients, whose sum is as large as it can be."""
    generator = build_generator(_study(name))
    assert isinstance(generator, GradientGenerator)
    weights = to_vector(generator.module)
    hostile = np.random.default_rng(3).normal(0, scale, weights.size).clip(-MAX_WEIGHT, MAX_WEIGHT)
    from_vector(generator.module, hostile.astype(np.float32))
    codes, weight = _batch(_study(name), 4_096, 3)
    if alike:
        codes[:], weight[:] = codes[:1].clone(), weight[:1].clone()
    torch.manual_seed(SEED)
    everybody = clipped_sum(generator, 0.1, codes, weight)
    for patient in (0, 1_500, 4_095):
        others = weight.clone()
        others[patient] = 0
        torch.manual_seed(SEED)
        without = clipped_sum(generator, 0.1, codes, others)
        assert np.linalg.norm(everybody - without) <= 0.1 * (1 + _FLOAT32_MARGIN / 10)


class _Toy:
    """A generator of which only the loss matters here."""

    def __init__(self, *layers: nn.Module) -> None:
        self.module = nn.Sequential(*layers)

    def loss(self, codes: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = self.module(codes.float()).flatten(1).square().sum(1)
        return found * weight[:, 0]


def _clipped(toy: _Toy, codes: Tensor, weight: Tensor) -> Any:
    return clipped_sum(cast(GradientGenerator, toy), 0.5, codes, weight)


def test_layers_of_other_kinds_go_through_opacus_samplers() -> None:
    torch.manual_seed(0)
    toy = _Toy(nn.Conv1d(3, 5, 2), nn.GroupNorm(1, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2))
    codes, weight = torch.randint(0, 4, (9, 3, 4)), torch.ones(9, 3)
    expected = _explicit(cast(GradientGenerator, toy), codes, weight, 0.5)
    np.testing.assert_allclose(_clipped(toy, codes, weight), expected, atol=1e-5)


@pytest.mark.parametrize("trouble", ["mixes patients", "weight used twice", "weight not used"])
def test_modules_whose_norms_cannot_be_taken_are_refused(trouble: str) -> None:
    layer = nn.Linear(4, 4)
    toy = {
        "mixes patients": _Toy(nn.BatchNorm1d(4)),
        "weight used twice": _Toy(layer, layer),
        "weight not used": _Toy(layer),
    }[trouble]
    if trouble == "weight not used":
        toy.module.register_module("idle", nn.Identity())
        toy.module.get_submodule("idle").register_parameter("w", nn.Parameter(torch.ones(1)))
        toy.module.forward = layer.forward  # type: ignore[method-assign]
    with pytest.raises(TypeError):
        _clipped(toy, torch.ones(5, 4, dtype=torch.long), torch.ones(5, 1))


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("ghost", [True, False])
@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_opacus_finds_the_same_norms(name: str, ghost: bool) -> None:
    study = _study(name)
    generator = build_generator(study)
    assert isinstance(generator, GradientGenerator)
    _randomised(generator)
    codes, weight = _batch(study, 40, 3)
    torch.manual_seed(SEED)
    before = clipped_sum(generator, 0.1, codes[:1], weight[:1])
    hooked = GradSampleModuleFastGradientClipping(
        generator.module, loss_reduction="sum", use_ghost_clipping=ghost, max_grad_norm=0.1
    )
    torch.manual_seed(SEED)
    generator.loss(codes[:1], weight[:1]).sum().backward()
    scale = hooked.get_clipping_coef()
    gradient = torch.cat([p.grad.flatten() for p in trainable(generator.module)])
    np.testing.assert_allclose(before, (scale * gradient).detach(), atol=1e-6)


def test_blocks_change_nothing() -> None:
    generator = build_generator(_study("autoregressive"))
    assert isinstance(generator, GradientGenerator)
    codes, weight = _batch(_study("autoregressive"), 3_000, 2)
    whole = clipped_sum(generator, 1.0, codes, weight)
    np.testing.assert_allclose(patient_sum(generator, 1.0)(codes, weight), whole, atol=1e-3)
    assert np.abs(whole).max() > 10


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_nobodys_gradient_depends_on_who_else_is_there(device: str) -> None:
    """Scores that are nothing but rounding: at another place in a matrix they would be others.

    Without blocks of one shape, a patient less moves the sum by up to 3 times the bound.
    """
    study = _study("adversarial")
    codes, weight = _batch(study, 1_000, 1)
    for seed in (2, 31):
        generator = build_generator(study)
        rng = np.random.default_rng(seed)
        critic, hostile = cast(Any, generator.module), cast(Any, generator)
        mask = torch.zeros(1, 1, 14)
        mask[..., :3] = 1
        hostile._one_column = lambda shape, rng, mask=mask: mask  # the same coins for everybody
        with torch.no_grad():
            critic.critic_in.weight.zero_()
            critic.critic_in.bias.fill_(MAX_WEIGHT)
            uniform = rng.uniform(60, 100, (128, 128)).astype(np.float32)
            critic.critic_hidden.weight.copy_(torch.from_numpy(uniform))
            critic.critic_hidden.bias.zero_()
            critic.critic_out.bias.zero_()
            ones = torch.full((1, 128), MAX_WEIGHT)
            h = nn.functional.leaky_relu(critic.critic_hidden(ones), 0.2)[0].double()
            w = torch.from_numpy(rng.choice([-MAX_WEIGHT, MAX_WEIGHT], 128))
            w *= torch.from_numpy(rng.uniform(0.7, 1, 128))
            for _ in range(60):
                w = (w - (w @ h) * h / (h @ h)).clamp(-MAX_WEIGHT, MAX_WEIGHT).float().double()
            critic.critic_out.weight.copy_(w.float()[None])
        add_up = patient_sum(generator, 1.0, device=torch.device(device))
        moved = add_up(codes, weight) - add_up(codes[1:], weight[1:])
        assert np.linalg.norm(moved) <= 1 + _FLOAT32_MARGIN / 10


def test_the_first_dimension_is_the_patient_and_outputs_stay() -> None:
    class Columns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, x @ self.table(torch.arange(4)))

    toys = (_Toy(Columns()), _Toy(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1)))
    for toy, words in zip(toys, ("must be the patient", "in place"), strict=True):
        with pytest.raises(TypeError, match=words):
            _clipped(toy, torch.ones(5, 4, dtype=torch.long), torch.ones(5, 1))


@pytest.mark.parametrize("name", ["adversarial", "diffusion", "vae"])
def test_draws_of_a_loss_come_from_no_seed_that_somebody_set(name: str) -> None:
    generator = build_generator(_study(name))
    assert isinstance(generator, GradientGenerator)
    _randomised(generator)
    codes, weight = _batch(_study(name), 40, 1)
    sums, after = [], []
    for _ in range(2):
        torch.manual_seed(SEED)
        sums.append(patient_sum(generator, 1.0)(codes, weight))
        after.append(torch.rand(1).item())
    assert (sums[0] != sums[1]).any()
    assert after[0] == after[1]  # and others' draws are left as they were
