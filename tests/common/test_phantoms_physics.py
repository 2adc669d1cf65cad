"""The physics under the phantoms: signal equations, tissues, noise, k-space, shapes and fields."""

import numpy as np
import pytest

from pratique_common.phantoms.brain_parameters import BASE, PARAMETERS, SHIFTED
from pratique_common.phantoms.implicit_shapes import (
    Waves,
    blended,
    capsule,
    coverage,
    ellipsoid,
    nearest,
)
from pratique_common.phantoms.mri_scanner import (
    display_scale,
    receive_field,
    rician,
    sampling_matrix,
)
from pratique_common.phantoms.mri_signals import (
    CONTRASTS,
    contrasts,
    inversion_recovery,
    nulling_time_ms,
    spin_echo,
)
from pratique_common.phantoms.mri_tissues import (
    ENHANCED,
    Relaxation,
    Tissue,
    relaxation_at,
    with_contrast_agent,
)
from pratique_common.phantoms.unit_cube import Population

T1, T1CE, T2, FLAIR = range(len(CONTRASTS))


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def one_tissue(density: float, t1_ms: float, t2_ms: float) -> Relaxation:
    return Relaxation(f32(density)[None], f32(t1_ms)[None], f32(t2_ms)[None])


def test_signals_by_hand() -> None:
    # exp(-1) = 0.36788: TR = T1 and TE = T2.
    spin = spin_echo(one_tissue(0.8, 500, 100), f32(500), f32(100))
    assert spin[0, 0] == pytest.approx(0.8 * 0.63212 * 0.36788, rel=1e-4)
    # TI = T1, TR = 10 T1: |1 - 2 * 0.36788 + 0.0000454| * exp(-0.5).
    inverted = inversion_recovery(one_tissue(1, 1000, 200), f32(10_000), f32(100), f32(1000))
    assert inverted[0, 0] == pytest.approx(0.264286 * 0.606531, rel=1e-4)


def test_csf_is_nulled_at_its_time() -> None:
    t1, tr = f32(2569), f32(9000)
    assert nulling_time_ms(t1, tr)[0] == pytest.approx(1704, abs=1)
    at_null = inversion_recovery(one_tissue(1, 2569, 329), tr, f32(100), nulling_time_ms(t1, tr))
    assert at_null[0, 0] < 1e-6


def test_relaxation_times_are_those_of_the_sources() -> None:
    at = relaxation_at(f32(1.5, 3.0))
    assert at.t1_ms[:, Tissue.WHITE_MATTER] == pytest.approx([500, 832])
    assert at.t1_ms[:, Tissue.GREY_MATTER] == pytest.approx([833, 1331])
    assert at.t2_ms[:, Tissue.GREY_MATTER] == pytest.approx([83, 110])
    assert at.t1_ms[:, Tissue.ENHANCING] == pytest.approx([1863 / 1.21, 1863])
    between = relaxation_at(f32(np.sqrt(4.5))).t1_ms[0, Tissue.WHITE_MATTER]
    assert between == pytest.approx(np.sqrt(500 * 832), rel=1e-5)  # a power of the field


def test_contrast_agent_shortens_times_of_enhancing_tissue_only() -> None:
    tissue = relaxation_at(f32(3.0))
    after = with_contrast_agent(tissue, f32(3.0), f32(0.5))
    others = [index for index in Tissue if index not in ENHANCED]
    assert np.array_equal(after.t1_ms[:, others], tissue.t1_ms[:, others])
    assert np.array_equal(after.t2_ms[:, others], tissue.t2_ms[:, others])
    # 1 / 1863 ms + 4.97 per mM and s * 0.5 mM
    assert after.t1_ms[0, Tissue.ENHANCING] == pytest.approx(
        1 / (1 / 1863 + 0.00497 * 0.5), rel=1e-5
    )
    assert after.t2_ms[0, Tissue.ENHANCING] < tissue.t2_ms[0, Tissue.ENHANCING]


@pytest.mark.parametrize("population", [BASE, SHIFTED], ids=["base", "shifted"])
def test_tissues_are_in_the_order_that_radiologists_know(population: Population) -> None:
    values = population.values(np.random.default_rng(0).random((300, len(PARAMETERS)), np.float32))
    signal = contrasts(relaxation_at(values["field_tesla"]), values)

    def of(contrast: int, tissue: Tissue) -> np.ndarray:
        return signal[:, contrast, tissue]

    fat, csf, grey, white = Tissue.FAT, Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER
    assert (of(T1, fat) > of(T1, white)).all()
    assert (of(T1, white) > of(T1, grey)).all()
    assert (of(T1, grey) > of(T1, csf)).all()
    assert (of(T2, csf) > of(T2, grey)).all()
    assert (of(T2, grey) > of(T2, white)).all()
    assert (of(FLAIR, grey) > of(FLAIR, white)).all()
    assert (of(FLAIR, csf) < 0.5 * of(FLAIR, white)).all()
    assert (of(FLAIR, Tissue.OEDEMA) > 1.2 * of(FLAIR, grey)).all()
    assert (of(T1CE, Tissue.ENHANCING) > of(T1CE, grey)).all()
    assert (of(T1, Tissue.ENHANCING) < of(T1, grey)).all()
    assert (signal[:, :, Tissue.BONE] < 1e-5).all()


def test_rician_noise_has_its_moments() -> None:
    rng = np.random.default_rng(0)
    air = rician(np.zeros((1, 300, 300), np.float32), f32(0.1), rng)
    assert air.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)
    tissue = rician(np.ones((1, 300, 300), np.float32), f32(0.1), rng)
    assert np.square(tissue).mean() == pytest.approx(1 + 2 * 0.01, rel=0.01)  # E[m^2] = A^2 + 2 s^2


@pytest.mark.parametrize("size", [16, 32])
def test_pixels_are_the_low_frequencies_of_the_samples(size: int) -> None:
    blur = 0.5
    matrix = sampling_matrix(size, 2, f32(blur))[0]
    assert matrix.sum(axis=1) == pytest.approx(1, abs=1e-5)  # a constant stays
    sample = (np.arange(2 * size) + 0.5) / 2 - 0.5
    for cycles in (1, 3, size // 2 - 1):
        fine = np.cos(2 * np.pi * cycles * sample / size)
        expected = np.cos(2 * np.pi * cycles * np.arange(size) / size)
        expected = expected * np.exp(-2 * (np.pi * blur * cycles / size) ** 2)
        assert matrix @ fine == pytest.approx(expected, abs=1e-4)
    too_fine = np.cos(2 * np.pi * (size // 2 + 3) * sample / size)
    assert matrix @ too_fine == pytest.approx(0, abs=1e-4)  # cut off, not folded back


def test_receive_field_is_smooth_and_about_one() -> None:
    axis = np.linspace(-1, 1, 16, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    flat = np.zeros((1, 16, 16), np.float32)
    coefficients = np.full((1, 9), 1 / 3, np.float32)
    assert np.allclose(receive_field(x[None], y[None], flat, coefficients, f32(0)), 1)
    gain = receive_field(x[None], y[None], flat, coefficients, f32(0.2))
    assert 0.3 < gain.min() < 0.95 < 1.05 < gain.max() < 3
    assert np.abs(np.diff(gain, axis=2)).max() < 0.3


def test_display_scale_clips_and_bends() -> None:
    image = np.linspace(0, 10, 1000, dtype=np.float32).reshape(1, 10, 100)
    plain, bent = display_scale(image, 1.0), display_scale(image, 2.0)
    assert plain.max() == 1
    assert plain[0, 5, 0] == pytest.approx(image[0, 5, 0] / np.quantile(image, 0.995), rel=1e-4)
    assert bent == pytest.approx(plain**2, abs=1e-6)


def test_distances_to_shapes() -> None:
    x, y, z = f32(0, 10, 20, 0), f32(0, 0, 0, 15), f32(0, 0, 0, 0)
    ball = ellipsoid(x, y, z, (0, 0, 0), (10, 10, 10))
    assert ball == pytest.approx([-10, 0, 10, 5], abs=1e-4)
    rod = capsule(x, y, z, ((0, 0, 0), (10, 0, 0)), (2, 4))
    assert rod == pytest.approx([-2, -4, 6, 13], abs=1e-4)
    turned = ellipsoid(f32(0), f32(20), f32(0), (0, 0, 0), (20, 5, 5), np.pi / 2)
    assert turned == pytest.approx([0], abs=1e-3)
    assert nearest(ball, rod) == pytest.approx([-10, -4, 6, 5], abs=1e-4)
    assert (blended(ball, rod, 4.0) <= nearest(ball, rod) + 1e-6).all()
    assert coverage(f32(-2, 0, 0.5, 2), 2.0) == pytest.approx([1, 0.5, 0.25, 0])


def test_waves_are_the_same_on_a_grid_and_at_points_and_know_their_slope() -> None:
    rngs = [np.random.default_rng(seed) for seed in (1, 2)]
    waves = Waves.draw(rngs, 10, (20.0, 40.0))
    steps = np.arange(6, dtype=np.float32) * 4
    origin, row, column = f32(1, 2, 3), f32(0, -1, 0.1), f32(-1, 0, 0.2)
    both = [np.stack([vector, vector]) for vector in (origin, row, column)]
    grid = waves.on_grid(*both, steps)
    points = origin + steps[:, None, None] * row + steps[None, :, None] * column
    for phantom in (0, 1):
        field, slope = waves.at(phantom, points.reshape(-1, 3).astype(np.float32))
        assert field == pytest.approx(grid[phantom].ravel(), abs=1e-3)
        beside, _ = waves.at(phantom, (points.reshape(-1, 3) + f32(0.05, 0, 0)).astype(np.float32))
        assert (beside - field) / 0.05 == pytest.approx(slope[:, 0], abs=0.02)
    many = Waves.draw([np.random.default_rng(3)], 12, (20.0, 30.0))
    field, _ = many.at(0, np.random.default_rng(4).uniform(-500, 500, (20_000, 3)).astype("f4"))
    assert field.std() == pytest.approx(1, rel=0.05)
