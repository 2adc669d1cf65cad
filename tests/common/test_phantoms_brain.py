"""Brain phantoms: anatomy where it belongs, contrasts in order, nested masks, seeds that decide."""

from types import MappingProxyType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, center_of_mass

from pratique_common.phantoms.brain_head import Points
from pratique_common.phantoms.brain_mri import (
    BrainSlices,
    BrainVolume,
    render_slices,
    render_volume,
)
from pratique_common.phantoms.brain_parameters import (
    BASE,
    KINDS,
    PARAMETERS,
    POPULATIONS,
    RANDOMISED,
    SHIFTED,
    Phantoms,
    draw,
    mutated,
)
from pratique_common.phantoms.brain_planes import FIELD_OF_VIEW_MM, PLANES
from pratique_common.phantoms.brain_tumours import around, displaced
from pratique_common.phantoms.mri_signals import CONTRASTS
from pratique_common.phantoms.unit_cube import Population

NONE, GLIOBLASTOMA, LOW_GRADE, MENINGIOMA = range(len(KINDS))
T1, T1CE, T2, FLAIR = range(len(CONTRASTS))
QUIET = Population(
    "quiet",
    MappingProxyType(
        dict(BASE.ranges) | {"noise": (0.0, 0.0), "bias": (0.0, 0.0), "tissue_spread": (0.0, 0.0)}
    ),
)
"""BASE without noise, receive field and spread of tissues: differences are anatomy and contrast."""


def phantoms_of(kind: int, num: int, seed: int = 1) -> Phantoms:
    return draw(num, np.random.default_rng(seed), kinds=np.full(num, kind))


def typical(kind: int, **changed: float) -> Phantoms:
    """Return one phantom in the middle of all ranges: upright and of average size."""
    unit = np.full((1, len(PARAMETERS)), 0.5, np.float32)
    for name, value in changed.items():
        unit[0, PARAMETERS.index(name)] = value
    return Phantoms(np.array([kind]), unit, np.array([5]))


@pytest.fixture(scope="module")
def mixed() -> BrainSlices:
    return render_slices(draw(12, np.random.default_rng(3)), BASE, size=32)


@pytest.fixture(scope="module")
def healthy() -> BrainVolume:
    return render_volume(typical(NONE), QUIET, 0, size=64)


@pytest.fixture(scope="module")
def glioblastomas() -> BrainSlices:
    return render_slices(phantoms_of(GLIOBLASTOMA, 8), QUIET, size=128)


def mean_at(volume: BrainVolume, contrast: int, *places_mm: tuple[float, float, float]) -> float:
    """Return the mean over voxels at places in mm (RAS) and their mirror images."""
    to_voxel = np.linalg.inv(volume.affine)
    both = [place for x, y, z in places_mm for place in ((x, y, z), (-x, y, z))]
    voxels = [tuple(np.rint(to_voxel @ [*place, 1])[:3].astype(int)) for place in both]
    return float(np.mean([volume.image[(contrast, *voxel)] for voxel in voxels]))


def test_the_same_seed_gives_the_same_images_and_another_seed_does_not(mixed: BrainSlices) -> None:
    again = render_slices(draw(12, np.random.default_rng(3)), BASE, size=32)
    assert np.array_equal(mixed.image, again.image)
    assert np.array_equal(mixed.label, again.label)
    other = render_slices(draw(12, np.random.default_rng(4)), BASE, size=32)
    assert np.abs(mixed.image - other.image).mean() > 0.02


def test_an_image_does_not_depend_on_its_neighbours(mixed: BrainSlices) -> None:
    phantoms = draw(12, np.random.default_rng(3))
    alone = render_slices(phantoms[np.array([7])], BASE, size=32)
    assert np.allclose(alone.image[0], mixed.image[7], atol=1e-4)
    in_threes = render_slices(phantoms, BASE, size=32, batch=3)
    assert np.allclose(in_threes.image, mixed.image, atol=1e-4)


def test_the_seed_alone_changes_folds_and_noise_but_not_the_size_of_the_head() -> None:
    one = typical(NONE)
    other = Phantoms(one.kind, one.unit, np.array([6]))
    first, second = (render_slices(p, QUIET, size=64).image[0, T1] for p in (one, other))
    assert np.abs(first - second).max() > 0.2
    assert np.count_nonzero(first > 0.1) == pytest.approx(np.count_nonzero(second > 0.1), rel=0.1)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_shapes_ranges_and_labels(size: int, plane: str, population: Population) -> None:
    phantoms = draw(4, np.random.default_rng(2), kinds=np.arange(4))
    slices = render_slices(phantoms, population, size=size, plane=plane)
    assert slices.image.shape == (4, 4, size, size)
    assert slices.image.dtype == np.float32
    assert np.isfinite(slices.image).all()
    assert slices.image.min() >= 0
    assert np.allclose(slices.image.max(axis=(2, 3)), 1)
    assert set(np.unique(slices.label)) <= {0, 1, 2, 4}
    assert not slices.label[NONE].any()
    head = slices.image.max(axis=1) > 0.3
    assert 0.1 < head.mean() < 0.75


@pytest.mark.parametrize(
    ("size", "plane", "said"), [(31, "axial", "even"), (8, "axial", "16"), (32, "oblique", "axial")]
)
def test_what_cannot_be_rendered_is_said(size: int, plane: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render_slices(typical(NONE), BASE, size=size, plane=plane)


def test_contrasts_of_tissues_are_in_order_where_anatomy_puts_them(healthy: BrainVolume) -> None:
    horns, white = (10, 18, 10), (26, 34, 22)
    thalamus = (11, -18, 7)
    csf = {c: mean_at(healthy, c, horns) for c in range(4)}
    wm = {c: mean_at(healthy, c, white, (24, -55, 26)) for c in range(4)}
    deep = {c: mean_at(healthy, c, thalamus) for c in range(4)}
    assert csf[T2] > 2 * wm[T2]
    assert csf[FLAIR] < 0.5 * wm[FLAIR]
    assert csf[T1] < deep[T1] < wm[T1]


def test_cortex_is_darker_than_white_matter_on_t1_and_brighter_on_t2(healthy: BrainVolume) -> None:
    level = round((30 - healthy.affine[2, 3]) / healthy.affine[2, 2])
    t1, t2 = healthy.image[T1, :, :, level], healthy.image[T2, :, :, level]
    x, y = (np.arange(64) * healthy.affine[0, 0] + healthy.affine[axis, 3] for axis in (0, 1))
    radius = np.hypot(x[:, None] / 66, (y + 17) / 82)
    inner, outer = radius < 0.6, (radius > 0.75) & (radius < 0.88)
    assert np.median(t1[outer]) < 0.97 * np.median(t1[inner])
    assert np.median(t2[outer]) > 1.1 * np.median(t2[inner])


def test_scalp_is_bright_on_t1_around_dark_bone(healthy: BrainVolume) -> None:
    """A ray from the brain to the back of the head meets brain, bone and fat, then air."""
    x = round((20 - healthy.affine[0, 3]) / healthy.affine[0, 0])
    z = round((25 - healthy.affine[2, 3]) / healthy.affine[2, 2])
    ray = healthy.image[T1, x, ::-1, z][20:]  # from near the middle backwards
    fat = int(np.argmax(ray))
    assert ray[fat] > 0.75
    assert ray[fat - 5 : fat].min() < 0.35
    assert np.median(ray[: fat - 6]) > 0.4
    assert ray[fat + 6 :].max() < 0.05


def test_the_cerebellum_has_white_matter_within_its_cortex(healthy: BrainVolume) -> None:
    core, rim = (15, -56, -35), ((30, -85, -34), (42, -68, -34), (30, -75, -50))
    for contrast in (T1, T1CE):
        assert mean_at(healthy, contrast, core) > 1.2 * mean_at(healthy, contrast, *rim)
    assert mean_at(healthy, T2, core) < 0.8 * mean_at(healthy, T2, *rim)
    # It is no CSF, which FLAIR shows dark.
    assert mean_at(healthy, FLAIR, core, *rim) > 0.3


def test_eyes_are_bright_on_t2_and_dark_on_t1(healthy: BrainVolume) -> None:
    globe, fat = (32, 60, -30), (29, 44, -30)
    assert mean_at(healthy, T2, globe) > 0.6
    assert mean_at(healthy, T1, globe) < 0.5 * mean_at(healthy, T1, fat)


def test_only_enhancing_tumour_enhances(glioblastomas: BrainSlices) -> None:
    for image, label in zip(glioblastomas.image, glioblastomas.label, strict=True):
        brain = image[T1] > 0.2
        near = binary_dilation(label == 4, iterations=5)
        # Images are scaled one by one, so an unchanged tissue shows as one ratio.
        ratio = image[T1CE][brain & ~near] / image[T1][brain & ~near]
        assert np.ptp(np.quantile(ratio, [0.02, 0.98])) < 0.02
        inside = (image[T1CE] / np.median(ratio) - image[T1])[label == 4]
        assert np.median(inside) > 0.1


def test_labels_nest(glioblastomas: BrainSlices) -> None:
    cores = 0
    for label in glioblastomas.label:
        core, whole = np.isin(label, (1, 4)), label > 0
        assert (label == 4).any()
        assert (label == 2).any()
        cores += int((label == 1).any())
        assert not (binary_dilation(label == 1) & ~whole).any()  # necrosis never meets brain
        inside_rim = binary_fill_holes(label == 4)
        assert (label == 1)[~inside_rim].sum() <= 0.02 * core.sum()
        swollen = binary_fill_holes(whole)
        assert np.count_nonzero(core & ~swollen) == 0
    assert cores >= 4


@pytest.mark.parametrize(
    ("kind", "has", "lacks"),
    [(LOW_GRADE, {1}, {4}), (MENINGIOMA, {4}, {1}), (NONE, {0}, {1, 2, 4})],
)
def test_each_kind_has_its_labels(kind: int, has: set[int], lacks: set[int]) -> None:
    for population in (BASE, SHIFTED, RANDOMISED):
        labels = render_slices(phantoms_of(kind, 8), population, size=64).label
        assert all(has <= set(np.unique(label)) for label in labels)
        assert not lacks & set(np.unique(labels))


def test_oedema_is_bright_on_flair(glioblastomas: BrainSlices) -> None:
    oedema = glioblastomas.label == 2
    brain = (glioblastomas.label == 0) & (glioblastomas.image[:, T1] > 0.3)
    flair = glioblastomas.image[:, FLAIR]
    assert np.median(flair[oedema]) > 1.3 * np.median(flair[brain])


def test_a_tumour_pushes_the_brain_aside_and_far_tissue_stays() -> None:
    place = np.float32([0, 10, 20, 30, 120])
    zero, one = np.zeros_like(place), np.ones_like(place)
    values = dict.fromkeys(("tumour_x", "tumour_y", "tumour_z"), one)
    values |= {"tumour_cx": zero, "tumour_cy": zero, "tumour_cz": zero, "tumour_mm": 15 * one}

    def before(kind: int) -> NDArray[np.float32]:
        points = Points(place, zero, zero, zero, values | {"kind": kind * one}, 1.0)
        return displaced(points, around(points)).x

    assert np.array_equal(before(NONE), place)
    for kind in (GLIOBLASTOMA, LOW_GRADE, MENINGIOMA):
        was = before(kind)
        assert (np.diff(was) > 0).all()  # nothing folds over
        assert (place - was)[1:4].min() > 0.5  # tissue came from nearer to the centre
        assert was[4] == pytest.approx(120, abs=0.01)


def corner_of(slices: BrainSlices) -> NDArray[np.float32]:
    """Return T2 in the corner of the field of view, where there is air: (N, pixels)."""
    return slices.image[:, T2, :8, :8].reshape(len(slices.image), -1)


def test_air_holds_rayleigh_noise() -> None:
    """Its mean over its standard deviation is sqrt(pi / (4 - pi)) = 1.91, whatever the scale."""
    air = corner_of(render_slices(phantoms_of(NONE, 8), BASE, size=128))
    assert (air > 0).mean() > 0.99
    ratio = air.mean(axis=1) / air.std(axis=1)
    assert ratio.mean() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.1)
    assert np.allclose(
        corner_of(render_slices(phantoms_of(NONE, 8), QUIET, size=128)), 0, atol=0.01
    )


def test_populations_differ_in_noise_and_csf_and_breadth() -> None:
    phantoms = phantoms_of(NONE, 24)
    position = np.full(24, 14, np.float32)
    slices = {
        population.name: render_slices(phantoms, population, size=64, position_mm=position)
        for population in (BASE, SHIFTED, RANDOMISED)
    }
    air = {name: float(corner_of(part).mean()) for name, part in slices.items()}
    assert air["shifted"] > 1.5 * air["base"]
    dark = {
        name: float(((part.image[:, FLAIR] < 0.2) & (part.image[:, T2] > 0.5)).mean())
        for name, part in slices.items()
    }
    assert dark["shifted"] > 1.3 * dark["base"]
    spread = {name: float(part.image[:, T1].std(axis=0).mean()) for name, part in slices.items()}
    assert spread["randomised"] > 1.2 * spread["base"]
    for name, (low, high) in RANDOMISED.ranges.items():
        for narrower in (BASE, SHIFTED):
            inner_low, inner_high = narrower.ranges[name]
            assert low <= inner_low <= inner_high <= high, f"{name} of {narrower.name}"


def test_a_volume_is_its_slices_in_ras() -> None:
    phantom = typical(GLIOBLASTOMA, tumour_side=1.0)  # on the patient's right
    volume = render_volume(phantom, QUIET, 0, size=32)
    voxel_mm = FIELD_OF_VIEW_MM / 32
    assert np.allclose(np.diag(volume.affine), [voxel_mm, voxel_mm, voxel_mm, 1])
    right, _, _ = (volume.affine @ [*center_of_mass(volume.label > 0), 1])[:3]
    assert right > 10
    index = 18
    height = volume.affine[2, 3] + index * voxel_mm
    axial = render_slices(phantom, QUIET, size=32, position_mm=np.float32([height]))
    shown = volume.label[::-1, ::-1, index].T  # front above, the patient's right on the left
    assert np.array_equal(axial.label[0], shown)
    cut = volume.image[T2, ::-1, ::-1, index].T
    assert np.corrcoef(axial.image[0, T2].ravel(), cut.ravel())[0, 1] > 0.999


def test_slices_beside_a_slice_show_the_same_head_with_noise_of_their_own() -> None:
    phantoms = draw(3, np.random.default_rng(7), kinds=np.full(3, GLIOBLASTOMA))
    alone = render_slices(phantoms, BASE, size=32)
    beside = render_slices(phantoms, BASE, size=32, offsets_mm=(-6.0, 0.0, 6.0), batch=2)
    planes = beside.image.reshape(3, len(CONTRASTS), 3, 32, 32)
    assert np.array_equal(planes[:, :, 1], alone.image)  # what it is without the others
    assert np.array_equal(beside.label, alone.label)
    assert np.array_equal(beside.position_mm, alone.position_mm)
    # Without noise they are the slices there.
    quiet = render_slices(phantoms, QUIET, size=32, offsets_mm=(-6.0, 0.0, 6.0))
    for number, offset in enumerate((-6, 0, 6)):
        there = quiet.position_mm + np.float32(offset)
        expected = render_slices(phantoms, QUIET, size=32, position_mm=there).image
        assert np.array_equal(quiet.image.reshape(planes.shape)[:, :, number], expected)
    # At one place all that differs is noise, in the whole image and in air alike.
    same = render_slices(phantoms, BASE, size=32, offsets_mm=(-1e-6, 0.0, 1e-6)).image
    first, middle, last = same.reshape(planes.shape)[:, T1].swapaxes(0, 1)
    corner = np.s_[:, :4, :4]
    for one, other in ((first, middle), (middle, last), (first, last)):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97
        assert abs(np.corrcoef(one[corner].ravel(), other[corner].ravel())[0, 1]) < 0.5
        assert (one[corner] != other[corner]).any()


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_other_planes_cut_the_same_head(plane: str) -> None:
    phantom = typical(LOW_GRADE)
    volume = render_volume(phantom, QUIET, 0, size=32)
    axis = PLANES[plane].axis
    index = int(center_of_mass(volume.label > 0)[axis])
    position = volume.affine[axis, 3] + index * volume.affine[axis, axis]
    shown = render_slices(phantom, QUIET, size=32, plane=plane, position_mm=np.float32([position]))
    cut = np.take(volume.image[T1], index, axis=axis)[::-1, ::-1].T
    assert np.corrcoef(shown.image[0, T1].ravel(), cut.ravel())[0, 1] > 0.97
    assert (shown.label[0] > 0).sum() > 0


def test_children_stay_in_the_cube_and_near_their_parents() -> None:
    parents = draw(200, np.random.default_rng(0))
    least = mutated(parents, np.random.default_rng(1), share=0)
    assert ((least.unit != parents.unit).sum(1) == 1).all()  # a child is never its parent again
    assert np.array_equal(least.seed, parents.seed)
    children = mutated(parents, np.random.default_rng(1), share=0.3, step=0.2)
    assert np.array_equal(children.kind, parents.kind)
    moved = children.unit != parents.unit
    assert moved.mean() == pytest.approx(0.3, abs=0.02)
    assert np.abs(children.unit - parents.unit).max() <= 0.2
    assert (children.seed != parents.seed).mean() == pytest.approx(0.3, abs=0.1)


def test_crossed_phantoms_have_values_of_either_parent() -> None:
    parents, mates = (draw(200, np.random.default_rng(seed)) for seed in (0, 1))
    children = parents.crossed(mates, np.random.default_rng(2), share=0.2)
    from_mate = children.unit == mates.unit
    assert (from_mate | (children.unit == parents.unit)).all()
    assert from_mate.mean() == pytest.approx(0.2, abs=0.02)
    assert np.array_equal(children.seed, parents.seed)
    assert np.array_equal(children.kind, parents.kind)


@pytest.mark.parametrize(
    ("kind", "unit", "said"),
    [
        (np.array([0]), np.zeros((1, 3), np.float32), "seeds"),
        (np.array([4]), np.zeros((1, len(PARAMETERS)), np.float32), "kinds"),
        (np.array([0]), np.full((1, len(PARAMETERS)), 1.5, np.float32), "cube"),
    ],
)
def test_phantoms_refuse_to_exist_wrong(
    kind: NDArray[np.int64], unit: NDArray[np.float32], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Phantoms(kind, unit, np.array([0]))
