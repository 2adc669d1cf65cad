"""Brain MRI without patients: 3-D anatomy, MR physics, tumours with exact masks.

``draw`` phantoms, then ``render_slices`` or ``render_volume``. Nothing is learned from images:
shapes are analytic (``brain_head``, ``brain_interior``, ``brain_tumours``), contrasts follow from
relaxation times (``mri_tissues``, ``mri_signals``), and the scanner adds its own (``mri_scanner``).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms import brain_head, brain_interior, brain_tumours, mri_scanner
from pratique_common.phantoms.brain_head import Points
from pratique_common.phantoms.brain_parameters import Phantoms
from pratique_common.phantoms.brain_planes import (
    CENTRE_MM,
    FIELD_OF_VIEW_MM,
    PLANES,
    Plane,
    pose,
    slice_position_mm,
)
from pratique_common.phantoms.implicit_shapes import Floats, Waves, coverage
from pratique_common.phantoms.mri_signals import CONTRASTS, contrasts
from pratique_common.phantoms.mri_tissues import Relaxation, Tissue, relaxation_at
from pratique_common.phantoms.unit_cube import Population

SUPERSAMPLING = 2
_HEAD_VALUES = ("skull_mm", "scalp_mm")
_BRAIN_VALUES = (
    *("subarachnoid_mm", "ventricles", "sulcus_mm", "sulcus_depth_mm", "cortex_mm", "kind"),
    *("tumour_cx", "tumour_cy", "tumour_cz", "tumour_x", "tumour_y", "tumour_z", "tumour_mm"),
    *("tumour_roughness", "necrosis", "oedema"),
)


@dataclass(frozen=True)
class BrainSlices:
    """One slice of each of N phantoms, and of every contrast O of them if others lie beside it."""

    image: Floats  # (N, C * O, size, size) in [0, 1]; C are CONTRASTS
    label: NDArray[np.uint8]  # (N, size, size), BraTS: 0, 1 necrotic, 2 oedema, 4 enhancing
    kind: NDArray[np.int64]  # (N,), index into KINDS
    position_mm: Floats  # (N,), along the plane's normal, in scanner coordinates


@dataclass(frozen=True)
class BrainVolume:
    """A whole head, axes in the order right, anterior, superior."""

    image: Floats  # (C, X, Y, Z) in [0, 1]
    label: NDArray[np.uint8]  # (X, Y, Z)
    affine: NDArray[np.float64]  # (4, 4), from voxel indices to mm (RAS)
    kind: int


class _Drawn(NamedTuple):
    """What a seed decides, for B phantoms."""

    warp: Waves
    folding: Waves
    fine: Waves
    rough: Waves
    tissue: Relaxation
    bias: Floats  # (B, 9)
    noise_rngs: list[np.random.Generator]


def render_slices(
    phantoms: Phantoms,
    population: Population,
    *,
    size: int,
    plane: str = "axial",
    position_mm: Floats | None = None,
    offsets_mm: tuple[float, ...] = (0.0,),
    batch: int = 8,
) -> BrainSlices:
    """Render one slice of each phantom, ``size`` pixels square over 240 mm.

    Without ``position_mm`` (N,) a slice lies where its phantom's value ``slice`` puts it: within
    the plane's range, or through the tumour if there is one. Slices at ``offsets_mm`` (O,) from it,
    0 among them, show the same head, each with noise of its own; the one at 0 is what it is alone,
    and labels are its.

    Raises:
        ValueError: ``size`` is below 16 or odd, or there is no such plane.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size must be even and at least 16, not {size}")
    if plane not in PLANES:
        raise ValueError(f"planes are {', '.join(PLANES)}, not {plane}")
    num = len(phantoms)
    image = np.empty((num, len(CONTRASTS), len(offsets_mm), size, size), np.float32)
    label, position = np.empty((num, size, size), np.uint8), np.empty(num, np.float32)
    others = (number for number, offset in enumerate(offsets_mm) if offset)
    in_turn = (offsets_mm.index(0.0), *others)  # of one stream of noise
    for start in range(0, num, batch):
        rows = slice(start, start + batch)
        part = phantoms[rows]
        values = _values(part, population)
        drawn = _drawn(part, values)
        where = slice_position_mm(values, plane) if position_mm is None else position_mm[rows]
        position[rows] = where
        for number in in_turn:
            at = where + np.float32(offsets_mm[number])
            signal, sigma, shown = _scan(values, drawn, PLANES[plane], at, size)
            if number == in_turn[0]:
                label[rows] = shown
            for index, rng in enumerate(drawn.noise_rngs):
                magnitude = mri_scanner.rician(signal[index], sigma[index], rng)
                scaled = mri_scanner.display_scale(magnitude, values["gamma"][index])
                image[start + index, :, number] = scaled
    planes = image.reshape(num, len(CONTRASTS) * len(offsets_mm), size, size)
    return BrainSlices(planes, label, phantoms.kind, position)


def render_volume(
    phantoms: Phantoms, population: Population, index: int, *, size: int, batch: int = 8
) -> BrainVolume:
    """Render the whole head of one phantom in ``size`` cubed voxels over 240 mm.

    Raises:
        ValueError: ``size`` is below 16 or odd.
    """
    if size < 16 or size % 2:
        raise ValueError(f"size must be even and at least 16, not {size}")
    one = phantoms[np.array([index])]
    values = _values(one, population)
    rng = _drawn(one, values).noise_rngs[0]
    voxel_mm = FIELD_OF_VIEW_MM / size
    height = CENTRE_MM[2] + (np.arange(size, dtype=np.float32) - (size - 1) / 2) * voxel_mm
    image = np.empty((len(CONTRASTS), size, size, size), np.float32)
    label = np.empty((size, size, size), np.uint8)
    for start in range(0, size, batch):
        rows = slice(start, min(start + batch, size))
        same = one[np.zeros(rows.stop - start, np.int64)]
        repeated = _values(same, population)
        drawn = _drawn(same, repeated)
        signal, sigma, slices = _scan(repeated, drawn, PLANES["axial"], height[rows], size)
        for offset in range(rows.stop - start):
            noisy = mri_scanner.rician(signal[offset], sigma[offset], rng)
            # From an image's rows and columns (front to back, right to left) to RAS.
            image[:, :, :, start + offset] = noisy[:, ::-1, ::-1].transpose(0, 2, 1)
            label[:, :, start + offset] = slices[offset, ::-1, ::-1].T
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = CENTRE_MM - (size - 1) / 2 * voxel_mm
    scaled = mri_scanner.display_scale(image, float(values["gamma"][0]))
    return BrainVolume(scaled, label, affine, int(one.kind[0]))


def _values(phantoms: Phantoms, population: Population) -> dict[str, Floats]:
    values = population.values(phantoms.unit)
    centre = brain_tumours.centre_mm(values, phantoms.kind)
    return values | {
        "kind": phantoms.kind.astype(np.float32),
        "tumour_cx": centre[:, 0],
        "tumour_cy": centre[:, 1],
        "tumour_cz": centre[:, 2],
    }


def _drawn(phantoms: Phantoms, values: dict[str, Floats]) -> _Drawn:
    rngs = [np.random.default_rng(int(seed)) for seed in phantoms.seed]
    gyrus = values["gyrus_mm"]
    table = relaxation_at(values["field_tesla"])
    spread = np.stack([rng.standard_normal((3, len(Tissue)), np.float32) for rng in rngs])
    spread = np.exp(spread * values["tissue_spread"][:, None, None])
    return _Drawn(
        warp=Waves.draw(rngs, 18, (70.0, 160.0)),
        folding=Waves.draw(rngs, 20, (gyrus * 0.85, gyrus * 1.15)),
        fine=Waves.draw(rngs, 12, (25.0, 60.0)),
        rough=Waves.draw(rngs, 12, (16.0, 40.0)),
        tissue=Relaxation(
            np.minimum(table.density * np.sqrt(spread[:, 0]), 1.1),
            table.t1_ms * spread[:, 1],
            table.t2_ms * spread[:, 2],
        ),
        bias=np.stack([mri_scanner.bias_coefficients(rng) for rng in rngs]),
        noise_rngs=rngs,
    )


def _scan(
    values: dict[str, Floats], drawn: _Drawn, plane: Plane, position_mm: Floats, size: int
) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Return signals (B, C, H, W), noise (B, C) and labels (B, H, W) of one slice a phantom."""
    fine_size = size * SUPERSAMPLING
    share = _tissue_shares(values, drawn, plane, position_mm, fine_size)
    signal_BCT = contrasts(drawn.tissue, values)
    num = len(position_mm)
    fine = (signal_BCT @ share.reshape(len(Tissue), num, -1).swapaxes(0, 1)).reshape(
        num, len(CONTRASTS), fine_size, fine_size
    )
    matrix = mri_scanner.sampling_matrix(size, SUPERSAMPLING, values["blur_px"])[:, None]
    signal = matrix @ fine @ matrix.transpose(0, 1, 3, 2)
    signal *= _gain(values, drawn, plane, position_mm, size)[:, None]
    label = brain_tumours.labels(
        share.reshape(len(Tissue), num, fine_size, fine_size), SUPERSAMPLING
    )
    sigma = values["noise"][:, None] * signal_BCT.max(axis=2)
    return signal, sigma, label


def _gain(
    values: dict[str, Floats], drawn: _Drawn, plane: Plane, position_mm: Floats, size: int
) -> Floats:
    steps = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    rows, columns = np.meshgrid(steps, steps, indexing="ij")
    through = (position_mm - CENTRE_MM[plane.axis]) * (2 / FIELD_OF_VIEW_MM)
    at = [
        (rows * plane.down[axis] + columns * plane.across[axis])[None]
        + (through if axis == plane.axis else 0 * through)[:, None, None]
        for axis in range(3)
    ]
    return mri_scanner.receive_field(at[0], at[1], at[2], drawn.bias, values["bias"])


def _tissue_shares(
    values: dict[str, Floats], drawn: _Drawn, plane: Plane, position_mm: Floats, size: int
) -> Floats:
    """Return the share of each tissue in each fine sample, (T, B * size * size)."""
    num, sample_mm = len(position_mm), FIELD_OF_VIEW_MM / size
    # 1. The slice in head coordinates: an affine grid, on which random fields are cheap.
    rotation, scale, shift = pose(values)
    to_head = rotation.transpose(0, 2, 1) / scale[:, :, None]
    middle = np.tile(CENTRE_MM, (num, 1))
    middle[:, plane.axis] = position_mm
    origin = np.einsum("bij,bj->bi", to_head, middle - shift)
    down = np.asarray(to_head @ np.array(plane.down, np.float32), np.float32)
    across = np.asarray(to_head @ np.array(plane.across, np.float32), np.float32)
    steps = ((np.arange(size) - (size - 1) / 2) * sample_mm).astype(np.float32)
    grid = origin, down, across, steps
    thirds = [
        Waves(drawn.warp.wave[:, part], drawn.warp.phase[:, part])
        for part in (slice(0, 6), slice(6, 12), slice(12, 18))
    ]
    amplitude = values["warp_mm"][:, None, None]
    straight = [
        origin[:, axis, None, None] + down[:, axis, None, None] * steps[:, None]
        + across[:, axis, None, None] * steps
        for axis in range(3)
    ]  # fmt: skip
    moved = [amplitude * waves.on_grid(*grid) for waves in thirds]
    # 2. Skull and skin: stiffer than the brain.
    x, y, z = (place + 0.35 * move for place, move in zip(straight, moved, strict=True))
    vault = brain_head.vault_distance(x, y, z, values["egg"][:, None, None])
    shell = (values["skull_mm"] + values["scalp_mm"])[:, None, None]
    head = brain_head.head_distance(x, y, z, vault, shell)
    cerebral, cavity = brain_head.cavity_distances(x, y, z, vault)
    # 3. Only samples that are not air, and inside the skull only those of the brain.
    fine, rough = drawn.fine.on_grid(*grid), drawn.rough.on_grid(*grid)
    share = np.zeros((len(Tissue), num * size * size), np.float32)
    cavity_M = cavity.ravel()

    def points_at(index: NDArray[np.int64], place: list[Floats], names: tuple[str, ...]) -> Points:
        phantom = index // (size * size)
        at = {name: values[name][phantom] for name in names}
        px, py, pz = (axis.ravel()[index] for axis in place)
        return Points(px, py, pz, fine.ravel()[index], at, sample_mm)

    outer = np.flatnonzero((head < sample_mm) & (cavity > -sample_mm))
    around = points_at(outer, [x, y, z], _HEAD_VALUES)
    painter = brain_head.paint_head(around, head.ravel()[outer], cavity_M[outer])
    inner_M = coverage(cavity_M, sample_mm)
    share[:, outer] = painter.share_TM * (1 - inner_M[outer])
    inner = np.flatnonzero(cavity_M < sample_mm)
    if len(inner):
        soft = [place + move for place, move in zip(straight, moved, strict=True)]
        room = cerebral.ravel()[inner], cavity_M[inner]
        brain = points_at(inner, soft, _BRAIN_VALUES)
        phantom_M = inner // (size * size)
        painter = _paint_brain(brain, *room, rough.ravel()[inner], drawn, phantom_M)
        share[:, inner] += painter.share_TM * inner_M[inner]
    return share


def _paint_brain(
    points: Points,
    cerebral: Floats,
    cavity: Floats,
    rough: Floats,
    drawn: _Drawn,
    phantom_M: NDArray[np.int64],
) -> brain_head.Painter:
    painter = brain_head.Painter(len(points.x))
    tumour = brain_tumours.around(points)
    brain = brain_tumours.displaced(points, tumour)
    depths = brain_interior.depths(brain, cerebral, drawn.folding, phantom_M)
    brain_tumours.paint_tumour(painter, points, tumour, rough, depths)
    brain_interior.paint_interior(painter, brain, depths, cavity)
    return painter
