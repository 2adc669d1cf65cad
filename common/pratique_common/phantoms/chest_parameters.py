"""What varies between chest x-rays of phantoms, and the three populations they are drawn from.

Lengths are in half widths of the rib cage, unless a name says mm: proportions of a chest change
less than its size. What changes with growth is in ``GROWTH``; parameters here say how far one
person is from the typical one of that age (1 is typical), how the film was taken, and the disease.

Ranges are of films that radiographers call acceptable, or worse in RANDOMISED; where no source is
named they are estimates. None was fitted to images.
"""

from types import MappingProxyType

import numpy as np

from pratique_common.phantoms import unit_cube
from pratique_common.phantoms.implicit_shapes import Floats
from pratique_common.phantoms.unit_cube import Population

KINDS = (
    "normal",
    "pneumonia",
    "lobar_pneumonia",
    "bronchopneumonia",
    "interstitial_pneumonia",
    "covid",
)
"""What a film shows; the index is its class. "pneumonia" is one of the next three."""

_GROWN = np.array([0.0, 1 / 3, 2 / 3, 1.0], np.float32)
"""Values of ``growth``: about half a year, 2 years, 7 years, adult."""

GROWTH = {
    "half_width_mm": (65.0, 76.0, 95.0, 142.0),
    "depth": (0.76, 0.66, 0.62, 0.58),
    "height": (0.86, 0.91, 0.95, 1.0),
    "rib_slope": (0.16, 0.38, 0.45, 0.50),
    "rib_pitch": (0.190, 0.180, 0.172, 0.165),
    "heart": (0.56, 0.53, 0.49, 0.45),
    "thymus": (1.0, 0.7, 0.2, 0.0),
    "aorta": (0.35, 0.45, 0.65, 1.0),
    "head": (0.92, 0.88, 0.72, 0.54),
    "neck": (0.50, 0.46, 0.40, 0.39),
    "lung_g_cm3": (0.36, 0.30, 0.24, 0.20),
}
"""Typical values by age, each times the parameter of its name.

half_width_mm, heart (cardiothoracic ratio), height of the lungs: Maresh, Pediatrics 1948;2:382-404,
and Simon et al., Arch Dis Child 1972;47:373-381: at 6 years the lungs have 67 % of their adult
width and 63 % of their length, the heart 80 % of its diameter (less here: 73 % at 7 years, an
estimate between that and the limits of clinics). Slope of ribs and depth (of the inside of the cage
over its width): Openshaw et al., Thorax 1984;39:624-627, and Weaver et al., J Anat 2014
(PMC4111931): round with level ribs in infants, near the adult form at 2 years. Density of lungs:
"Quantitative CT characterization of pediatric lung development", Pediatr Radiol 2016 (PMC5116406;
-650 HU at 2 years, -860 HU later), Long et al., Pediatr Radiol 2005;35:677-683, and 0.26 g/cm3 of
inflated lung in ICRU Report 46. Pitch of ribs, thymus, aorta, head, neck: estimates.
"""

_BASE = {
    # person
    "growth": (0.9, 1.0),
    "half_width_mm": (0.92, 1.08),
    "depth": (0.92, 1.08),
    "height": (0.93, 1.07),
    "apex": (1.7, 2.1),  # exponent of the outline of the lungs above: 2 is an ellipse
    "wall": (0.12, 0.24),  # thickness of the chest wall
    "neck": (0.9, 1.1),
    "shoulder": (1.30, 1.50),  # half width
    "clavicle_rise": (0.05, 0.20),
    "clavicle_bend": (0.02, 0.06),
    "scapula_out": (0.12, 0.28),  # shoulders rolled forward, as asked for in PA films
    "arm_rad": (0.25, 0.7),  # from hanging down
    "breast": (-0.3, 0.25),  # thickness where positive
    "head": (0.95, 1.05),
    "head_z": (1.75, 2.0),
    "rib_size": (0.85, 1.15),
    "rib_slope": (0.85, 1.15),
    "rib_pitch": (0.95, 1.05),
    "bone": (0.85, 1.15),  # mineral
    "heart": (0.88, 1.10),
    "heart_tilt_rad": (0.45, 0.95),
    "heart_shift": (-0.04, 0.04),
    "mediastinum": (0.9, 1.15),
    "thymus": (0.0, 1.0),
    "aorta": (0.6, 1.5),
    "hilum": (0.7, 1.3),
    "vessels": (0.7, 1.3),
    "lung_g_cm3": (0.85, 1.15),
    "inspiration": (0.75, 1.0),
    "dome_left": (0.04, 0.14),  # below the right dome: 1 to 2 cm
    "stomach_gas": (-0.1, 0.2),  # size of the bubble where positive
    "bowel_gas": (-2.0, 0.2),
    # disease: read by the kinds that have it
    "subtype": (0.0, 1.0),  # which one "pneumonia" is
    "side": (-1.0, 1.0),  # right if positive
    "lobe": (0.0, 1.0),
    "extent": (0.0, 1.0),
    "severity": (0.0, 1.0),
    "focus_x": (-0.15, 0.15),
    "focus_z": (-0.2, 0.2),
    "patch": (0.22, 0.45),  # wavelength of patches
    "effusion": (-1.0, 0.6),  # height of fluid where positive
    # film
    "from_front": (0.0, 0.0),  # AP from 0.5, else PA
    "distance_mm": (1800.0, 1830.0),  # from the focus to the detector: 180 cm upright
    "yaw_rad": (-0.05, 0.05),
    "pitch_rad": (-0.06, 0.06),
    "roll_rad": (-0.03, 0.03),
    "field": (1.22, 1.38),  # half a side of the image
    "aspect": (0.97, 1.03),
    "shift_x": (-0.06, 0.06),
    "shift_z": (-0.08, 0.08),
    "energy_kev": (55.0, 70.0),
    "scatter": (0.2, 0.5),  # to primary radiation, averaged; with a grid
    "heel": (0.0, 0.15),
    "noise": (0.004, 0.012),  # standard deviation at mean exposure
    "blur_px": (0.25, 0.5),
    "equalised": (0.2, 0.6),  # share of slow variation that processing removes
    "film": (1.2, 1.9),  # exponent of the toe: where little arrives, film stays clear
    "contrast": (0.8, 1.0),
    "brightness": (-0.05, 0.05),
    "gamma": (0.9, 1.1),
    "border_left": (-1.5, 0.05),  # collimated share of the image where positive
    "border_right": (-1.5, 0.05),
    "border_top": (-1.5, 0.05),
    "border_bottom": (-1.5, 0.05),
    "marker": (-1.0, 1.0),  # a lead marker where positive
    "leads": (0.0, 0.6),  # number of wires, rounded down
}

_SHIFTED = _BASE | {
    "growth": (0.1, 0.45),
    "half_width_mm": (0.90, 1.10),
    "wall": (0.10, 0.22),
    "shoulder": (1.25, 1.45),
    "clavicle_rise": (0.10, 0.30),
    "scapula_out": (-0.05, 0.18),
    "arm_rad": (0.4, 2.6),
    "breast": (-1.0, -0.5),
    "head_z": (1.35, 1.75),
    "heart": (0.90, 1.12),
    "inspiration": (0.55, 1.0),
    "stomach_gas": (-0.1, 0.3),
    "bowel_gas": (-1.5, 1.0),
    "from_front": (1.0, 1.0),
    "distance_mm": (1000.0, 1150.0),
    "yaw_rad": (-0.12, 0.12),
    "pitch_rad": (-0.12, 0.12),
    "roll_rad": (-0.08, 0.08),
    "field": (1.0, 1.22),
    "energy_kev": (43.0, 52.0),
    "scatter": (0.5, 1.1),  # no grid
    "noise": (0.006, 0.02),
    "equalised": (0.1, 0.5),
}

_RANDOMISED = _BASE | {
    "growth": (0.0, 1.0),
    "half_width_mm": (0.85, 1.15),
    "depth": (0.85, 1.15),
    "height": (0.85, 1.15),
    "apex": (1.4, 2.3),
    "wall": (0.07, 0.32),
    "neck": (0.8, 1.3),
    "shoulder": (1.20, 1.60),
    "clavicle_rise": (0.0, 0.36),
    "clavicle_bend": (0.0, 0.08),
    "scapula_out": (-0.15, 0.30),
    "arm_rad": (0.1, 2.8),
    "breast": (-1.0, 0.4),
    "head": (0.85, 1.15),
    "head_z": (1.25, 2.1),
    "rib_size": (0.7, 1.3),
    "rib_slope": (0.6, 1.3),
    "rib_pitch": (0.88, 1.12),
    "bone": (0.6, 1.5),
    "heart": (0.82, 1.22),
    "heart_tilt_rad": (0.3, 1.1),
    "heart_shift": (-0.08, 0.08),
    "mediastinum": (0.8, 1.4),
    "aorta": (0.4, 1.8),
    "hilum": (0.5, 1.6),
    "vessels": (0.4, 1.6),
    "lung_g_cm3": (0.7, 1.35),
    "inspiration": (0.25, 1.1),
    "dome_left": (-0.03, 0.2),
    "stomach_gas": (-0.15, 0.35),
    "bowel_gas": (-2.0, 1.3),
    "patch": (0.15, 0.6),
    "from_front": (0.0, 1.0),
    "distance_mm": (950.0, 1850.0),
    "yaw_rad": (-0.18, 0.18),
    "pitch_rad": (-0.2, 0.2),
    "roll_rad": (-0.15, 0.15),
    "field": (0.92, 1.45),
    "aspect": (0.85, 1.18),
    "shift_x": (-0.15, 0.15),
    "shift_z": (-0.2, 0.2),
    "energy_kev": (42.0, 80.0),
    "scatter": (0.1, 1.8),
    "heel": (0.0, 0.35),
    "noise": (0.0, 0.02),
    "blur_px": (0.15, 0.9),
    "equalised": (0.0, 0.8),
    "film": (1.0, 2.2),
    "contrast": (0.45, 1.0),
    "brightness": (-0.2, 0.1),
    "gamma": (0.7, 1.7),
    "border_left": (-1.5, 0.12),
    "border_right": (-1.5, 0.12),
    "border_top": (-1.5, 0.12),
    "border_bottom": (-1.5, 0.12),
    "leads": (0.0, 3.0),
}
# scatter: Niklason et al., Med Phys 1981;8:677-681: nine tenths of what reaches the mediastinum is
# scattered without a grid, half with one; there primary radiation is a tenth of the film's mean.

PARAMETERS = tuple(_BASE)
"""Names of the coordinates of the unit cube, in order."""

BASE = Population("base", MappingProxyType(_BASE))
"""Adults, upright, PA at 180 cm with a grid."""

SHIFTED = Population("shifted", MappingProxyType(_SHIFTED))
"""A stand-in for a real hospital in tests and demonstrations: small children, AP, low voltage."""

RANDOMISED = Population("randomised", MappingProxyType(_RANDOMISED))
"""Wider than any hospital, for pretraining (Billot et al., SynthSeg, Med Image Anal 2023;86)."""

POPULATIONS = {population.name: population for population in (BASE, SHIFTED, RANDOMISED)}


class Phantoms(unit_cube.Phantoms):
    """Chests. Their seeds decide textures, patches of disease, wires, the marker and noise."""

    kinds = KINDS
    parameters = PARAMETERS


def values_of(phantoms: Phantoms, population: Population) -> dict[str, Floats]:
    """Return parameter → values, (N, 1, 1) each; those of ``GROWTH`` are in their own units."""
    values = population.values(phantoms.unit)
    for name, by_age in GROWTH.items():
        values[name] = values[name] * np.interp(values["growth"], _GROWN, by_age).astype(np.float32)
    return {name: value[:, None, None] for name, value in values.items()}
