"""Chest x-rays without patients: 3-D anatomy, attenuation of rays, pneumonia with exact masks.

``draw`` phantoms, then ``render_films``. Nothing is learned from images: shapes are analytic
(``chest_anatomy``, ``chest_bones``, ``chest_opacities``), contrasts follow from how tissues
attenuate (``xray_attenuation``), and detector and display add their own (``xray_detector``).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms import chest_anatomy, xray_attenuation, xray_detector
from pratique_common.phantoms.chest_bones import bones_of
from pratique_common.phantoms.chest_opacities import opacities
from pratique_common.phantoms.chest_parameters import Phantoms, values_of
from pratique_common.phantoms.chest_view import Values, View, rays, rise
from pratique_common.phantoms.implicit_shapes import Floats, Waves
from pratique_common.phantoms.unit_cube import Population
from pratique_common.phantoms.xray_attenuation import mass_attenuation

SUPERSAMPLING = 2
_MAX_LEADS = 3


@dataclass(frozen=True)
class ChestFilms:
    """One film of each of N phantoms."""

    image: Floats  # (N, size, size) in [0, 1], bone white
    label: NDArray[np.uint8]  # (N, size, size): 0, 1 opacity of the lung, 2 pleural effusion
    kind: NDArray[np.int64]  # (N,), index into KINDS
    from_front: NDArray[np.bool_]  # (N,): AP, else PA


class _Drawn(NamedTuple):
    """What a seed decides, for B phantoms."""

    coarse: Waves
    fine: Waves
    wander: Waves
    heel_rad: Floats  # (B, 1, 1)
    marker: Floats  # (B, 3): side, height, length
    leads: Floats  # (B, leads, 4): x, amplitude, waves, phase
    noise_rngs: list[np.random.Generator]


class _Projection(NamedTuple):
    """What rays met, (B, H, W)."""

    lost: Floats  # natural logarithm of how many times fewer photons leave than enter
    body: Floats  # length in the body, half widths of the rib cage
    label: NDArray[np.uint8]


def render_films(
    phantoms: Phantoms, population: Population, *, size: int, batch: int = 8
) -> ChestFilms:
    """Render a film of each phantom, ``size`` pixels square.

    Raises:
        ValueError: ``size`` is below 16.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, not {size}")
    shape = len(phantoms), size, size
    image, label = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    from_front = np.empty(shape[0], np.bool_)
    for start in range(0, len(phantoms), batch):
        rows = slice(start, start + batch)
        values = values_of(phantoms[rows], population)
        image[rows], label[rows] = _film(phantoms[rows], values, size)
        from_front[rows] = values["from_front"][:, 0, 0] >= 0.5
    return ChestFilms(image, label, phantoms.kind, from_front)


def _drawn(phantoms: Phantoms, values: Values) -> _Drawn:
    rngs = [np.random.default_rng(int(seed)) for seed in phantoms.seed]
    patch = values["patch"][:, 0, 0]
    uniform = np.stack([rng.random(4 + 4 * _MAX_LEADS, np.float32) for rng in rngs])
    return _Drawn(
        coarse=Waves.draw(rngs, 12, (patch * 0.8, patch * 3)),
        fine=Waves.draw(rngs, 16, (0.10, 0.24)),
        wander=Waves.draw(rngs, 6, (0.5, 1.2)),
        heel_rad=(2 * np.pi * uniform[:, 3])[:, None, None],
        marker=uniform[:, :3],
        leads=uniform[:, 4:].reshape(-1, _MAX_LEADS, 4),
        noise_rngs=rngs,
    )


def _film(phantoms: Phantoms, values: Values, size: int) -> tuple[Floats, NDArray[np.uint8]]:
    drawn = _drawn(phantoms, values)
    rays_met = _project(phantoms.kind, values, drawn, size * SUPERSAMPLING)
    matrix = xray_detector.pixel_matrix(size, SUPERSAMPLING, values["blur_px"][:, 0, 0])
    exposed = xray_detector.with_scatter(np.exp(-rays_met.lost), values["scatter"])
    exposure = np.asarray(matrix @ exposed @ matrix.swapaxes(1, 2), np.float32)
    exposure *= xray_detector.heel(size, values["heel"], drawn.heel_rad)
    exposure = xray_detector.with_noise(exposure, values["noise"], drawn.noise_rngs)
    field = _collimated(values, size)
    image = xray_detector.displayed(
        exposure,
        (_blocks(rays_met.body > values["depth"]) > 0.5) & (field > 0.5),
        equalised=values["equalised"],
        film=values["film"],
        contrast=values["contrast"],
        brightness=values["brightness"],
        gamma=values["gamma"],
    )
    image = np.maximum(image * field, _marker(values, drawn, size))
    return image, _label(rays_met.label)


def _project(kind: NDArray[np.int64], values: Values, drawn: _Drawn, size: int) -> _Projection:
    """Follow ``size`` x ``size`` rays through each of B chests."""
    view = rays(values, size)
    lungs = chest_anatomy.lungs_of(values, view)
    coarse, fine, wander = (
        _on_rays(waves, values, size) for waves in (drawn.coarse, drawn.fine, drawn.wander)
    )
    disease = opacities(kind, values, view, lungs, coarse=coarse, fine=fine)
    body = chest_anatomy.body_of(values, view)
    vessels = chest_anatomy.vessels_of(values, view, lungs, wander)
    # 1. Lengths of what is not soft tissue, in half widths of the rib cage.
    air = chest_anatomy.airways_of(values, view) + _bowel(values, view, coarse)
    aerated = np.maximum(lungs.total - disease.fluid - vessels, 0) * (1 + 0.05 * wander)
    bone = bones_of(values, view, lungs.cage)
    breast = chest_anatomy.breast_of(values, view)
    # 2. Beer and Lambert.
    energy = values["energy_kev"]
    soft = mass_attenuation(xray_attenuation.SOFT_TISSUE_CM2_G, energy)
    adipose = mass_attenuation(xray_attenuation.ADIPOSE_CM2_G, energy)
    cortical = mass_attenuation(xray_attenuation.CORTICAL_BONE_CM2_G, energy)
    solid = soft * xray_attenuation.SOFT_TISSUE_G_CM3
    lost = np.maximum(body - aerated - air, 0) * solid + aerated * (soft * values["lung_g_cm3"])
    lost += bone * (cortical * xray_attenuation.CORTICAL_BONE_G_CM3 - solid)
    lost += breast * (adipose * xray_attenuation.ADIPOSE_G_CM3)
    lost *= values["half_width_mm"] / 10  # to cm
    lost += _leads(values, view, drawn)
    return _Projection(np.asarray(lost, np.float32), body, disease.label)


def _on_rays(waves: Waves, values: Values, size: int) -> Floats:
    """Return a random field where rays cross the middle of the chest."""
    num = len(values["field"])
    steps = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    zero = np.zeros(num, np.float32)
    field, aspect = values["field"][:, 0, 0], values["aspect"][:, 0, 0]
    origin = np.stack([values["shift_x"][:, 0, 0], zero, values["shift_z"][:, 0, 0]], axis=1)
    down = np.stack([zero, zero, -field], axis=1)
    across = np.stack([-field * aspect, zero, zero], axis=1)
    return waves.on_grid(origin, down, across, steps)


def _bowel(values: Values, view: View, coarse: Floats) -> Floats:
    """Return the length of rays in gas of the bowel, well below the diaphragm."""
    below = rise(chest_anatomy.dome_z(values) - view.z, 0.25, 0.45)
    gas = 0.35 * np.maximum(coarse + values["bowel_gas"] - 0.6, 0)
    return np.asarray(np.minimum(gas, 0.25) * below, np.float32)


def _leads(values: Values, view: View, drawn: _Drawn) -> Floats:
    """Return the attenuation of wires that wind down over the chest."""
    lost = np.zeros_like(view.x)
    for lead in range(_MAX_LEADS):
        rows = np.flatnonzero(values["leads"][:, 0, 0] >= lead + 1)
        if not len(rows):
            break
        place, amplitude, waves, phase = drawn.leads[rows, lead].T[..., None, None]
        bend = np.sin((1 + 2 * waves) * view.z[rows] + 2 * np.pi * phase)
        off = view.x[rows] - (1.6 * place - 0.8) - 0.5 * amplitude * bend
        lost[rows] += 0.8 * np.maximum(1 - np.abs(off) * (1 / 0.02), 0)
    return lost


def _collimated(values: Values, size: int) -> Floats:
    """Return (B, size, size): 1 where the beam was open, 0 where leaf shutters closed it."""
    place = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None, None]
    soft = 1.5 / size
    across = rise(place, values["border_left"], values["border_left"] + soft)
    across = across * rise(1 - place, values["border_right"], values["border_right"] + soft)
    down = rise(place, values["border_top"], values["border_top"] + soft)
    down = down * rise(1 - place, values["border_bottom"], values["border_bottom"] + soft)
    return across * down.swapaxes(1, 2)


def _marker(values: Values, drawn: _Drawn, size: int) -> Floats:
    """Return a white bar in an upper corner, as of a lead letter: it says nothing."""
    place = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None]
    side, height, length = drawn.marker.T[..., None]
    x = np.where(side < 0.5, 0.05 + 0.08 * side, 0.85 + 0.08 * side)
    across = np.abs(place - x) < 0.012
    down = np.abs(place - 0.05 - 0.15 * height) < 0.015 + 0.02 * length
    shown = values["marker"] > 0
    return np.asarray(0.95 * (across[:, None, :] & down[:, :, None] & shown), np.float32)


def _blocks(fine: NDArray[np.bool_]) -> Floats:
    """Return the share of each pixel's samples that are true."""
    num, size, _ = fine.shape
    pixels = size // SUPERSAMPLING
    shares = fine.reshape(num, pixels, SUPERSAMPLING, pixels, SUPERSAMPLING).mean(axis=(2, 4))
    return np.asarray(shares, np.float32)


def _label(fine: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the label that at least half of a pixel's samples have; the larger one at a tie."""
    label = np.zeros_like(fine[:, ::SUPERSAMPLING, ::SUPERSAMPLING])
    for value in np.unique(fine[fine > 0]):
        label[_blocks(fine == value) >= 0.5] = value
    return label
