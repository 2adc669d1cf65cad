"""What varies between brain phantoms, and the three populations they are drawn from.

Head sizes are relative to an average adult (``brain_head``).
"""

from types import MappingProxyType

from pratique_common.phantoms import unit_cube
from pratique_common.phantoms.unit_cube import Population

KINDS = ("none", "glioblastoma", "low_grade_glioma", "meningioma")
"""What a phantom has; the index is its class."""

_BASE = {
    # head
    "length": (0.95, 1.05),
    "width": (0.94, 1.05),
    "height": (0.95, 1.05),
    "egg": (0.02, 0.10),  # narrower in front by this share
    "pitch_rad": (-0.10, 0.10),
    "roll_rad": (-0.08, 0.08),
    "yaw_rad": (-0.10, 0.10),
    "shift_x_mm": (-4.0, 4.0),
    "shift_y_mm": (-5.0, 5.0),
    "shift_z_mm": (-4.0, 4.0),
    "skull_mm": (5.0, 8.0),
    "scalp_mm": (3.5, 6.5),
    # brain
    "warp_mm": (1.0, 3.0),  # elastic deformation, standard deviation
    "subarachnoid_mm": (1.2, 2.6),
    "ventricles": (0.75, 1.55),  # relative radius
    "sulcus_mm": (0.5, 1.1),  # half width
    "sulcus_depth_mm": (9.0, 15.0),
    "gyrus_mm": (18.0, 24.0),  # wavelength of folding
    "cortex_mm": (3.0, 4.0),
    # slice: position in its range, or from the tumour's centre in radii
    "slice": (-1.0, 1.0),
    # tumour
    "tumour_side": (-1.0, 1.0),  # right if positive
    "tumour_azimuth_rad": (-1.25, 1.25),
    "tumour_elevation_rad": (-0.2, 0.75),
    "tumour_depth": (0.45, 0.72),  # share of the way to the inner skull
    "tumour_mm": (11.0, 21.0),  # radius
    "tumour_x": (0.8, 1.2),
    "tumour_y": (0.8, 1.25),
    "tumour_z": (0.85, 1.2),
    "tumour_roughness": (0.06, 0.16),
    "necrosis": (0.5, 0.85),  # share of the radius
    "oedema": (1.45, 2.1),  # radii
    # scanner
    "field_tesla": (1.5, 1.5),
    "t1_tr_ms": (400.0, 600.0),
    "t1_te_ms": (9.0, 16.0),
    "t2_tr_ms": (3500.0, 6000.0),
    "t2_te_ms": (85.0, 110.0),
    "flair_tr_ms": (8000.0, 10000.0),
    "flair_te_ms": (95.0, 125.0),
    "flair_nulling": (0.94, 1.03),  # inversion time over the one that nulls CSF
    "agent_mm": (0.2, 0.8),  # mM; see below
    "noise": (0.006, 0.02),  # of the brightest tissue
    "bias": (0.05, 0.25),  # log amplitude of the receive field
    "blur_px": (0.3, 0.6),
    "gamma": (1.0, 1.0),
    "tissue_spread": (0.02, 0.02),  # log standard deviation of every T1, T2 and density
}
# agent_mm: Müller et al. ("Quantitative T1 mapping indicates tumor infiltration beyond the
# enhancing part of glioblastomas", 2020) measured that T1 of enhancing regions fell by 838 (SD 210)
# ms: 0.09 mM of gadobutrol in a tissue of 1,863 ms, 0.22 mM at two standard deviations. A rim is
# brighter than its region's mean, so the range starts there; its upper end is an estimate.

_SHIFTED = _BASE | {
    "length": (0.91, 0.99),
    "width": (0.96, 1.06),
    "skull_mm": (6.5, 9.0),
    "shift_y_mm": (2.0, 9.0),
    "subarachnoid_mm": (2.0, 4.0),
    "ventricles": (1.2, 2.0),
    "sulcus_mm": (0.8, 1.4),
    "cortex_mm": (2.6, 3.4),
    "tumour_mm": (10.0, 17.0),
    "field_tesla": (3.0, 3.0),
    "t1_tr_ms": (600.0, 800.0),
    "t1_te_ms": (10.0, 14.0),
    "t2_tr_ms": (3000.0, 4200.0),
    "t2_te_ms": (95.0, 120.0),
    "flair_tr_ms": (9000.0, 11000.0),
    "flair_te_ms": (115.0, 140.0),
    "flair_nulling": (0.97, 1.0),
    "noise": (0.02, 0.045),
    "bias": (0.25, 0.45),
    "blur_px": (0.45, 0.75),
    "gamma": (0.85, 0.95),
}

_RANDOMISED = _BASE | {
    "length": (0.88, 1.08),
    "width": (0.88, 1.10),
    "height": (0.90, 1.08),
    "egg": (0.0, 0.14),
    "pitch_rad": (-0.25, 0.25),
    "roll_rad": (-0.2, 0.2),
    "yaw_rad": (-0.25, 0.25),
    "shift_x_mm": (-9.0, 9.0),
    "shift_y_mm": (-10.0, 10.0),
    "shift_z_mm": (-9.0, 9.0),
    "skull_mm": (4.0, 10.0),
    "scalp_mm": (2.5, 9.0),
    "warp_mm": (0.5, 5.0),
    "subarachnoid_mm": (0.8, 4.5),
    "ventricles": (0.5, 2.2),
    "sulcus_mm": (0.3, 2.0),
    "sulcus_depth_mm": (6.0, 19.0),
    "gyrus_mm": (15.0, 30.0),
    "cortex_mm": (2.2, 4.6),
    "tumour_elevation_rad": (-0.3, 1.25),
    "tumour_depth": (0.3, 0.8),
    "tumour_mm": (7.0, 25.0),
    "tumour_roughness": (0.0, 0.25),
    "necrosis": (0.3, 0.9),
    "oedema": (1.2, 2.4),
    "field_tesla": (1.5, 3.0),
    "t1_tr_ms": (350.0, 900.0),
    "t1_te_ms": (6.0, 22.0),
    "t2_tr_ms": (2500.0, 7000.0),
    "t2_te_ms": (70.0, 140.0),
    "flair_tr_ms": (7000.0, 11000.0),
    "flair_te_ms": (80.0, 150.0),
    "flair_nulling": (0.90, 1.06),
    "agent_mm": (0.1, 1.2),
    "noise": (0.003, 0.06),
    "bias": (0.0, 0.5),
    "blur_px": (0.25, 1.0),
    "gamma": (0.7, 1.35),
    "tissue_spread": (0.0, 0.1),
}

PARAMETERS = tuple(_BASE)
"""Names of the coordinates of the unit cube, in order."""


BASE = Population("base", MappingProxyType(_BASE))
"""Adults at 1.5 T with ordinary protocols."""

SHIFTED = Population("shifted", MappingProxyType(_SHIFTED))
"""A stand-in for a real hospital in tests and demonstrations: older patients, 3 T, own protocol."""

RANDOMISED = Population("randomised", MappingProxyType(_RANDOMISED))
"""Wider than any hospital, for pretraining (Billot et al., SynthSeg, Med Image Anal 2023;86)."""

POPULATIONS = {population.name: population for population in (BASE, SHIFTED, RANDOMISED)}


class Phantoms(unit_cube.Phantoms):
    """Heads. Their seeds decide folding, warp, roughness, tissue and noise."""

    kinds = KINDS
    parameters = PARAMETERS


draw, mutated = Phantoms.draw, Phantoms.mutated
