"""Pneumonia: fluid where a lung should hold air, as a length of rays, with its exact outline.

Three patterns are the classical ones ("Spectrum of imaging findings in pulmonary infections, part
1", Pol J Radiol 2019;84): a lobe up to its fissures, patches around bronchi, haze and lines on both
sides. The fourth is that of COVID-19: ground glass on both sides, peripheral and below (Rousan et
al., BMC Pulm Med 2020;20:245). How often lobes are affected, and how large and dense opacities are,
are estimates.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.chest_anatomy import Cage, Lungs, apex_z, dome_z
from pratique_common.phantoms.chest_parameters import KINDS
from pratique_common.phantoms.chest_view import Real, Values, View, rise
from pratique_common.phantoms.implicit_shapes import Floats

OPACITY, EFFUSION = 1, 2
"""Values of a mask."""

NONE, LOBAR, PATCHY, INTERSTITIAL, PERIPHERAL = range(5)

_PATTERN = {
    "normal": NONE,
    "lobar_pneumonia": LOBAR,
    "bronchopneumonia": PATCHY,
    "interstitial_pneumonia": INTERSTITIAL,
    "covid": PERIPHERAL,
}

_VISIBLE = 0.05
"""A mask holds rays on which more than this length of air is replaced: 7 mm in an adult."""


class Lobe(NamedTuple):
    """Where a lobe's consolidation is centred, and by which fissures it is bounded."""

    share: float  # of lobar pneumonias: lower lobes most often
    x: float
    z: float  # in heights of the lungs
    is_lower: bool  # behind and below the oblique fissure
    is_middle: bool  # in front of it, and below the horizontal one


LOBES = (
    Lobe(0.20, 0.48, 0.30, is_lower=False, is_middle=False),
    Lobe(0.15, 0.42, -0.45, is_lower=False, is_middle=True),
    Lobe(0.28, 0.50, -0.45, is_lower=True, is_middle=False),
    Lobe(0.15, -0.50, 0.22, is_lower=False, is_middle=False),
    Lobe(0.22, -0.52, -0.45, is_lower=True, is_middle=False),
)
"""Right upper, right middle, right lower, left upper, left lower."""

_LOBE_ENDS = np.cumsum([lobe.share for lobe in LOBES])
_LOBE_X = np.array([lobe.x for lobe in LOBES], np.float32)
_LOBE_Z = np.array([lobe.z for lobe in LOBES], np.float32)
_IS_LOWER = np.array([lobe.is_lower for lobe in LOBES])
_IS_MIDDLE = np.array([lobe.is_middle for lobe in LOBES])


class Opacities(NamedTuple):
    """What replaces air."""

    fluid: Floats  # length of air that fluid replaces, (B, H, W)
    label: NDArray[np.uint8]  # (B, H, W): 0, OPACITY or EFFUSION


class _Air(NamedTuple):
    """Rays through lungs, with all that their disease depends on."""

    x: Floats
    z: Floats
    lungs: Lungs
    coarse: Floats
    fine: Floats
    values: Values

    def of(self, rows: NDArray[np.int64]) -> "_Air":
        lungs = self.lungs
        return _Air(
            self.x[rows],
            self.z[rows],
            Lungs(
                lungs.back[rows],
                lungs.front[rows],
                lungs.back_from[rows],
                lungs.front_to[rows],
                Cage._make(array[rows] for array in lungs.cage),
            ),
            self.coarse[rows],
            self.fine[rows],
            {name: value[rows] for name, value in self.values.items()},
        )


def patterns(kind: NDArray[np.int64], subtype: Floats) -> NDArray[np.int64]:
    """Return the pattern of each phantom, (B,); ``subtype`` (B,) decides for "pneumonia"."""
    by_kind = np.array([_PATTERN.get(name, -1) for name in KINDS])[kind]
    among = np.array([LOBAR, PATCHY, INTERSTITIAL])
    drawn = among[np.minimum((subtype * len(among)).astype(np.int64), len(among) - 1)]
    return np.where(by_kind < 0, drawn, by_kind)


def opacities(
    kind: NDArray[np.int64],
    values: Values,
    view: View,
    lungs: Lungs,
    *,
    coarse: Floats,
    fine: Floats,
) -> Opacities:
    """Return the disease of B phantoms.

    Args:
        kind: (B,), index into ``KINDS``.
        values: of these phantoms.
        view: their rays.
        lungs: where these meet lung.
        coarse, fine: random fields of unit variance, (B, H, W): patches, and outlines and lines.
    """
    air = _Air(view.x, view.z, lungs, coarse, fine, values)
    pattern = patterns(kind, values["subtype"][:, 0, 0])
    fluid = np.zeros_like(view.x)
    for number, fluid_of in _BY_PATTERN.items():
        rows = np.flatnonzero(pattern == number)
        if len(rows):
            fluid[rows] = fluid_of(air.of(rows))
    label = np.where(fluid > _VISIBLE, OPACITY, 0).astype(np.uint8)
    # Fluid beside the lung comes with bacterial pneumonia, on its side.
    rows = np.flatnonzero((pattern == LOBAR) | (pattern == PATCHY))
    pleural = np.zeros_like(fluid)
    of_lobe = (pattern == LOBAR)[:, None, None]
    side = np.where(of_lobe, _LOBE_X[_lobe(values)], values["side"])[rows]
    pleural[rows] = _effusion(air.of(rows), side)
    label[pleural > np.maximum(_VISIBLE, fluid)] = EFFUSION
    return Opacities(np.minimum(np.maximum(fluid, pleural), lungs.total), label)


def _lobe(values: Values) -> NDArray[np.int64]:
    """Return the lobe of each phantom, (B, 1, 1), if its pneumonia is lobar."""
    return np.minimum(np.searchsorted(_LOBE_ENDS, values["lobe"]), len(LOBES) - 1)


def _lobar(air: _Air) -> Floats:
    """Return consolidation of a lobe, or of part of it; its fissures bound it sharply."""
    values, lungs = air.values, air.lungs
    lobe = _lobe(values)
    x, z = _LOBE_X[lobe], _LOBE_Z[lobe]
    is_lower, is_middle = _IS_LOWER[lobe], _IS_MIDDLE[lobe]
    # The oblique fissure: from behind, at the level of the 4th vertebra, to the diaphragm in front.
    above, below = 0.38 * values["height"], dome_z(values)
    fissure_y = values["depth"] * (1.75 * (above - air.z) / (above - below) - 1)
    behind = np.clip(fissure_y - lungs.back_from, 0, lungs.back)
    behind += np.clip(fissure_y - (lungs.front_to - lungs.front), 0, lungs.front)
    way = np.where(is_lower, behind, lungs.total - behind)
    # The horizontal fissure, on the right only.
    horizontal = -0.12 * values["height"] + 0.06 * air.x
    above_it = rise(air.z, horizontal - 0.02, horizontal + 0.02)
    in_front_right = ~is_lower & (x > 0)
    way = way * np.where(in_front_right, np.where(is_middle, 1 - above_it, above_it), 1)
    reach = 0.32 + 0.45 * values["extent"]
    dx = (air.x - x - 0.6 * values["focus_x"]) / reach
    dz = (air.z - z * values["height"] - 0.6 * values["focus_z"]) / (1.15 * reach)
    inside = 1 - np.sqrt(dx * dx + dz * dz) + 0.09 * air.coarse + 0.04 * air.fine
    dense = 0.55 + 0.45 * values["severity"]
    return np.asarray(dense * way * rise(inside, -0.12, 0.25) * (air.x * x > 0), np.float32)


def _patchy(air: _Air) -> Floats:
    """Return patches, on one side mostly, nearer to the hilum and below."""
    values = air.values
    reach = np.square((np.abs(air.x) - 0.42) / 0.5) + np.square((air.z + 0.3) / 0.65)
    other_side = air.x * values["side"] < 0
    near = 0.9 - 0.9 * reach - other_side * (2.2 * np.abs(values["side"]))
    level = 0.6 * air.coarse + 0.12 * air.fine + near + 0.9 * values["extent"]
    dense = 0.25 + 0.45 * values["severity"]
    return np.asarray(dense * air.lungs.total * rise(level, 0.4, 1.8), np.float32)


def _interstitial(air: _Air) -> Floats:
    """Return haze on both sides, more around the hila, and lines where a field passes zero."""
    values = air.values
    reach = np.square((np.abs(air.x) - 0.3) / 0.75) + np.square((air.z + 0.15) / 0.9)
    near = np.maximum(1 - reach * (1 - 0.5 * values["extent"]), 0.12)
    haze = (0.10 + 0.14 * values["severity"]) * (1 + 0.35 * air.coarse)
    lines = (0.04 + 0.06 * values["severity"]) * np.maximum(1 - 3 * np.abs(air.fine), 0)
    return np.asarray(near * air.lungs.total * np.maximum(haze + lines, 0), np.float32)


def _peripheral(air: _Air) -> Floats:
    """Return patches on both sides, towards the ribs and below, less dense than consolidation."""
    values = air.values
    outer = np.square(air.x / air.lungs.cage.width)
    low = rise(-air.z, -0.45 * apex_z(values), 0.45)
    level = 0.55 * air.coarse + 0.15 * air.fine + 1.4 * outer + low
    level = level + 0.9 * values["extent"] + 0.25 * np.sign(air.x) * values["side"]
    dense = 0.16 + 0.38 * values["severity"]
    return np.asarray(dense * air.lungs.total * rise(level, 1.2, 2.7), np.float32)


def _effusion(air: _Air, side: Real) -> Floats:
    """Return the length of lung that pleural fluid has displaced: it rises along the ribs."""
    values = air.values
    outer = np.clip(np.abs(air.x) - 0.35, 0, 1)
    level = dome_z(values) - 0.30 + 0.75 * values["effusion"] * (0.6 + np.square(outer))
    on_side = (air.x * side > 0) & (values["effusion"] > 0)
    return np.asarray(rise(level - air.z, -0.04, 0.06) * on_side * air.lungs.total, np.float32)


_BY_PATTERN = {LOBAR: _lobar, PATCHY: _patchy, INTERSTITIAL: _interstitial, PERIPHERAL: _peripheral}
