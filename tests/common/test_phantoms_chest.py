"""Chest phantoms: anatomy on its side, attenuation by the tables, masks where opacities are."""

from types import MappingProxyType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label as connected

from pratique_common.phantoms import chest_xray
from pratique_common.phantoms.chest_anatomy import apex_z, cage_of, dome_z, lungs_of
from pratique_common.phantoms.chest_bones import bones_of
from pratique_common.phantoms.chest_opacities import (
    EFFUSION,
    INTERSTITIAL,
    LOBAR,
    LOBES,
    OPACITY,
    PATCHY,
    patterns,
)
from pratique_common.phantoms.chest_parameters import (
    BASE,
    KINDS,
    PARAMETERS,
    POPULATIONS,
    RANDOMISED,
    SHIFTED,
    Phantoms,
    values_of,
)
from pratique_common.phantoms.chest_view import View, rays
from pratique_common.phantoms.chest_xray import ChestFilms, render_films
from pratique_common.phantoms.unit_cube import Population
from pratique_common.phantoms.xray_attenuation import (
    ADIPOSE_CM2_G,
    CORTICAL_BONE_CM2_G,
    SOFT_TISSUE_CM2_G,
    mass_attenuation,
)
from pratique_common.phantoms.xray_detector import (
    displayed,
    heel,
    pixel_matrix,
    smooth_matrix,
    with_noise,
    with_scatter,
)

NORMAL, PNEUMONIA, LOBAR_KIND, _, INTERSTITIAL_KIND, COVID = range(len(KINDS))
_PLAIN = {
    "noise": (0.0, 0.0),
    "heel": (0.0, 0.0),
    "marker": (-1.0, -1.0),
    "leads": (0.0, 0.0),
    "yaw_rad": (0.0, 0.0),
    "roll_rad": (0.0, 0.0),
    "shift_x": (0.0, 0.0),
    "shift_z": (0.0, 0.0),
    "field": (1.3, 1.3),
    "aspect": (1.0, 1.0),
    "film": (1.0, 1.0),
    "gamma": (1.0, 1.0),
    "equalised": (0.0, 0.0),
} | {f"border_{side}": (-1.0, -1.0) for side in ("left", "right", "top", "bottom")}
PLAIN = Population("plain", MappingProxyType(dict(BASE.ranges) | _PLAIN))
"""BASE in the middle of the image, without noise, marker and processing."""


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def films_of(kind: int, num: int, population: Population = PLAIN, size: int = 64) -> ChestFilms:
    phantoms = Phantoms.draw(num, np.random.default_rng(1), kinds=np.full(num, kind))
    return render_films(phantoms, population, size=size)


def typical(kind: int, **changed: float) -> Phantoms:
    """Return one phantom in the middle of all ranges."""
    unit = np.full((1, len(PARAMETERS)), 0.5, np.float32)
    for name, value in changed.items():
        unit[0, PARAMETERS.index(name)] = value
    return Phantoms(np.array([kind]), unit, np.array([5]))


def at(image: NDArray[np.float32], x: float, z: float) -> NDArray[np.float32]:
    """Return the mean of 3 x 3 pixels of (N, H, W) at a place in the chest, as PLAIN shows it."""
    size = image.shape[-1]
    row, column = (round((0.5 - place / 1.3 / 2) * size) for place in (z, x))
    return image[:, row - 1 : row + 2, column - 1 : column + 2].mean(axis=(1, 2))


# Physics.


def test_attenuation_is_that_of_nist() -> None:
    """Mass attenuation in cm2/g at 60 and 80 keV: NIST, ICRU-44 tissues."""
    at_60_80 = f32(60, 80)
    assert mass_attenuation(SOFT_TISSUE_CM2_G, at_60_80) == pytest.approx([0.2048, 0.1823])
    assert mass_attenuation(CORTICAL_BONE_CM2_G, at_60_80) == pytest.approx([0.3148, 0.2229])
    assert mass_attenuation(ADIPOSE_CM2_G, at_60_80) == pytest.approx([0.1974, 0.1800])
    between = mass_attenuation(SOFT_TISSUE_CM2_G, f32(np.sqrt(60 * 80)))[0]
    assert between == pytest.approx(np.sqrt(0.2048 * 0.1823), rel=1e-5)  # a power of the energy


def test_a_ray_below_the_lungs_loses_what_beer_and_lambert_say() -> None:
    phantom = typical(NORMAL, stomach_gas=0, bowel_gas=0, breast=0)
    values = values_of(phantom, PLAIN)
    drawn = chest_xray._drawn(phantom, values)
    projection = chest_xray._project(phantom.kind, values, drawn, 256)
    row, column = (round((0.5 - place / 1.3 / 2) * 256) for place in (-1.25, 0.6))
    way_cm = projection.body[0, row, column] * values["half_width_mm"][0, 0, 0] / 10
    soft = float(mass_attenuation(SOFT_TISSUE_CM2_G, values["energy_kev"].ravel())[0])
    bare = way_cm * soft * 1.06
    assert 15 < way_cm < 25
    # No less than soft tissue; the rest is ribs.
    assert bare * 0.999 <= projection.lost[0, row, column] < bare * 1.2


def test_scatter_in_the_mediastinum_is_what_was_measured() -> None:
    """Nine tenths without a grid, about half with one: Niklason et al. 1981."""
    for ratio, low, high in ((0.35, 0.35, 0.65), (1.8, 0.75, 0.95)):
        phantom = typical(NORMAL)
        values = values_of(phantom, PLAIN)
        drawn = chest_xray._drawn(phantom, values)
        primary = np.exp(-chest_xray._project(phantom.kind, values, drawn, 64).lost)
        detected = with_scatter(primary, f32(ratio).reshape(1, 1, 1))
        share = 1 - at(primary, 0.0, -0.2) / at(detected, 0.0, -0.2)
        assert low < float(share[0]) < high
    air = np.ones((1, 32, 32), np.float32)
    assert with_scatter(air, f32(1).reshape(1, 1, 1)) == pytest.approx(air)


def test_the_heart_is_larger_in_ap_films_as_was_measured() -> None:
    """Heart diameter PA / AP is 0.99 per 10 m of distance + 0.79 (Chon et al., J Korean Med Sci
    2011;26:1446-1453): 0.889 at 1 m, and 0.968 were it the usual 1.8 m.
    """
    values = values_of(typical(NORMAL), BASE)
    depth = 0.25 * values["depth"]  # of the heart's middle

    def width(from_front: float, distance_mm: float) -> float:
        taken = {"from_front": f32(from_front), "distance_mm": f32(distance_mm)}
        shaped = {name: value.reshape(1, 1, 1) for name, value in taken.items()}
        view = rays(values | shaped | {"yaw_rad": np.zeros_like(depth)}, 256)
        x, _ = view.at(depth)
        to_detector = float(1 / np.abs(view.narrowing[0, 0, 0]))
        # Pixels lie where rays meet the middle of the chest; the detector is further away.
        enlarged = distance_mm / float(values["half_width_mm"][0, 0, 0]) / to_detector
        return enlarged * float((view.x[0, 0, -1] - view.x[0, 0, 0]) / (x[0, 0, -1] - x[0, 0, 0]))

    assert width(0, 1800) / width(1, 1000) == pytest.approx(0.889, abs=0.035)
    assert width(0, 1800) / width(1, 1800) == pytest.approx(0.968, abs=0.015)


def test_pixels_average_their_samples() -> None:
    sharp = pixel_matrix(8, 4, f32(0.0))[0]
    assert sharp == pytest.approx(np.kron(np.eye(8), np.full(4, 0.25)), abs=1e-6)
    blurred = pixel_matrix(8, 4, f32(0.8))[0]
    assert blurred.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert blurred == pytest.approx(blurred[::-1, ::-1], abs=1e-6)
    assert blurred[4, 16:20].sum() < 0.6
    assert smooth_matrix(16, 0.2).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_noise_grows_as_the_root_of_the_exposure() -> None:
    exposure = np.ones((1, 200, 200), np.float32)
    exposure[:, 100:] = 9
    noisy = with_noise(exposure, f32(0.02).reshape(1, 1, 1), [np.random.default_rng(0)])
    low, high = noisy[:, :100].std(), noisy[:, 100:].std()
    assert high / low == pytest.approx(3, rel=0.03)
    assert low == pytest.approx(0.02 * np.sqrt(5), rel=0.03)  # the mean exposure is 5


def test_display_is_a_logarithm_in_a_window() -> None:
    thickness = np.linspace(0, 4, 400, dtype=np.float32).reshape(1, 20, 20)
    one, zero = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    plain = {"equalised": zero, "film": one, "contrast": one, "brightness": zero, "gamma": one}
    body = np.ones(thickness.shape, bool)
    shown = displayed(np.exp(-thickness), body, **plain)
    assert shown.min() == 0
    assert shown.max() == 1
    middle = shown.ravel()[50:350]
    assert np.diff(middle) == pytest.approx(np.diff(middle).mean(), abs=1e-5)
    bent = displayed(np.exp(-thickness), body, **(plain | {"film": 2 * one}))
    assert bent == pytest.approx(1 - (1 - shown) ** 2, abs=1e-5)
    dull = displayed(np.exp(-thickness), body, **(plain | {"contrast": 0.5 * one}))
    assert (dull.min(), dull.max()) == pytest.approx((0.25, 0.75))
    tilt = heel(16, f32(0.2).reshape(1, 1, 1), f32(0).reshape(1, 1, 1))
    assert (np.diff(tilt, axis=2) > 0).all()
    assert 0.8 < tilt.min() < tilt.max() < 1.25


# Anatomy.


@pytest.fixture(scope="module")
def normal() -> ChestFilms:
    return films_of(NORMAL, 24)


def test_lungs_are_dark_and_the_rest_is_not(normal: ChestFilms) -> None:
    image = normal.image
    lungs = (at(image, 0.55, 0.1) + at(image, -0.6, 0.15)) / 2
    for x, z in ((0.0, 0.2), (-0.25, -0.45), (0.5, -1.15), (0.0, 0.55)):
        assert (at(image, x, z) > lungs + 0.15).all()  # aorta, heart, liver, upper mediastinum
    assert (at(image, 1.2, 1.2) < 0.3).all()  # beside the neck there is air


def test_the_heart_is_on_the_patient_s_left_which_is_on_the_right(normal: ChestFilms) -> None:
    image, column = normal.image, round((0.5 + 0.45 / 1.3 / 2) * 64)
    row = round((0.5 + 0.5 / 1.3 / 2) * 64)
    assert column > 32
    left_of_patient = image[:, row - 2 : row + 3, column - 1 : column + 2].mean(axis=(1, 2))
    mirrored = image[:, :, ::-1][:, row - 2 : row + 3, column - 1 : column + 2].mean(axis=(1, 2))
    assert (left_of_patient > mirrored + 0.1).all()


def test_the_right_dome_is_higher_and_deep_breaths_lower_both() -> None:
    def lowest_lung(inspiration: float, x: float) -> float:
        values = values_of(typical(NORMAL, inspiration=inspiration), PLAIN)
        view = rays(values, 256)
        column = int(np.argmin(np.abs(view.x[0, 0] - x)))
        way = lungs_of(values, view).total[0, :, column]
        return float(view.z[0, np.flatnonzero(way > 0.3), 0].min())

    assert lowest_lung(0.5, 0.45) > lowest_lung(0.5, -0.45) + 0.02
    assert lowest_lung(1.0, 0.45) < lowest_lung(0.0, 0.45) - 0.05


def test_nine_or_ten_ribs_are_above_the_diaphragm() -> None:
    values = values_of(typical(NORMAL, inspiration=0.9), PLAIN)
    view = rays(values, 512)
    column = int(np.argmin(np.abs(view.x[0, 0] - 0.28)))  # behind: in front there is cartilage
    bone = bones_of(values, view, cage_of(values, view))[0, :, column]
    z = view.z[0, :, 0]
    inside = (z < apex_z(values)[0, 0, 0]) & (z > dome_z(values)[0, 0, 0])
    _, ribs = connected((bone > 0.01) & inside)
    assert 8 <= ribs <= 11


def test_infants_have_level_ribs_and_large_hearts() -> None:
    infant, adult = (values_of(typical(NORMAL, growth=g), RANDOMISED) for g in (0.0, 1.0))
    assert infant["rib_slope"] < 0.5 * adult["rib_slope"]
    assert infant["heart"] > 1.2 * adult["heart"]
    assert infant["depth"] > 1.25 * adult["depth"]
    assert infant["half_width_mm"] == pytest.approx(65, rel=0.01)


def test_rotation_moves_front_and_back_apart() -> None:
    values = values_of(typical(NORMAL), PLAIN)
    turned = rays(values | {"yaw_rad": f32(0.1).reshape(1, 1, 1)}, 32)
    straight = rays(values, 32)
    assert (turned.at(0.5)[0] > straight.at(0.5)[0]).all()
    assert (turned.at(-0.5)[0] < straight.at(-0.5)[0]).all()
    assert isinstance(turned, View)


# Disease.


@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_masks_are_where_there_is_disease(population: Population) -> None:
    phantoms = Phantoms.draw(120, np.random.default_rng(2), kinds=np.arange(120) % len(KINDS))
    films = render_films(phantoms, population, size=32)
    assert films.image.dtype == np.float32
    assert films.image.min() >= 0
    assert films.image.max() <= 1
    assert (films.image.std(axis=(1, 2)) > 0.03).all()
    assert (films.label.any(axis=(1, 2)) == (films.kind != NORMAL)).all()
    assert set(np.unique(films.label)) == {0, OPACITY, EFFUSION}
    assert not (films.label[np.isin(films.kind, (INTERSTITIAL_KIND, COVID))] == EFFUSION).any()
    lungs = lungs_of(values_of(phantoms, population), rays(values_of(phantoms, population), 32))
    assert (lungs.total[films.label > 0] > 0).mean() > 0.98  # but for pixels on the edge


@pytest.mark.parametrize("kind", range(1, len(KINDS)))
def test_an_opacity_is_brighter_than_the_same_chest_without_it(kind: int) -> None:
    sick = Phantoms.draw(12, np.random.default_rng(3), kinds=np.full(12, kind))
    well = Phantoms(np.zeros_like(sick.kind), sick.unit, sick.seed)
    films, healthy = (render_films(part, PLAIN, size=32) for part in (sick, well))
    for image, same, label in zip(films.image, healthy.image, films.label, strict=True):
        inside = label > 0
        gain = (image - same)[inside].mean() - (image - same)[~inside].mean()
        assert gain > 0.03
    # Outside, only scatter and window differ.
    assert np.abs((films.image - healthy.image)[films.label == 0]).mean() < 0.05


def test_covid_is_bilateral_and_lobar_pneumonia_is_not() -> None:
    def sides(kind: int) -> NDArray[np.float64]:
        label = films_of(kind, 30, size=32).label == OPACITY
        return np.stack([label[:, :, :16].mean(axis=(1, 2)), label[:, :, 16:].mean(axis=(1, 2))])

    lobar, covid = sides(LOBAR_KIND), sides(COVID)
    assert (lobar.min(axis=0) < 0.1 * lobar.max(axis=0)).all()
    assert (covid.min(axis=0) > 0).mean() > 0.8


@pytest.mark.parametrize("number", range(len(LOBES)))
def test_a_lobe_is_where_it_belongs(number: int) -> None:
    ends = np.cumsum([lobe.share for lobe in LOBES])
    middle = float(ends[number] - LOBES[number].share / 2)
    label = render_films(
        typical(LOBAR_KIND, lobe=middle, effusion=0.0, severity=1.0), PLAIN, size=64
    ).label
    rows, columns = np.nonzero(label[0])
    assert (columns.mean() < 32) == (LOBES[number].x > 0)  # the patient's right is on the left
    assert (rows.mean() < 32) == (LOBES[number].z > 0)


def test_pneumonia_is_one_of_three_patterns() -> None:
    kinds = np.full(300, PNEUMONIA)
    drawn = patterns(kinds, np.random.default_rng(0).random(300, np.float32))
    values, counts = np.unique(drawn, return_counts=True)
    assert list(values) == [LOBAR, PATCHY, INTERSTITIAL]
    assert counts.min() > 75
    assert patterns(np.array([PNEUMONIA]), f32(1.0))[0] == INTERSTITIAL


# Phantoms.


def test_the_same_seed_gives_the_same_films_whatever_is_beside_them() -> None:
    phantoms = Phantoms.draw(12, np.random.default_rng(3))
    films = render_films(phantoms, RANDOMISED, size=32)
    again = render_films(phantoms, RANDOMISED, size=32)
    assert np.array_equal(films.image, again.image)
    assert np.array_equal(films.label, again.label)
    alone = render_films(phantoms[np.array([7])], RANDOMISED, size=32)
    assert np.allclose(alone.image[0], films.image[7], atol=1e-3)
    other = Phantoms(phantoms.kind, phantoms.unit, phantoms.seed + 1)
    assert np.abs(render_films(other, RANDOMISED, size=32).image - films.image).mean() > 0.01


def test_ranges_nest_and_projections_are_said() -> None:
    for name, (low, high) in RANDOMISED.ranges.items():
        for narrower in (BASE, SHIFTED):
            inner_low, inner_high = narrower.ranges[name]
            assert low <= inner_low <= inner_high <= high, f"{name} of {narrower.name}"
    assert not films_of(NORMAL, 2, BASE, 16).from_front.any()
    assert films_of(NORMAL, 2, SHIFTED, 16).from_front.all()
    with pytest.raises(ValueError, match="16"):
        films_of(NORMAL, 1, BASE, 15)
