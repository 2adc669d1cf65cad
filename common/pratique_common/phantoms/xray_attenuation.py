"""How tissues attenuate x-rays: NIST's tables at the energies of chest films.

Mass attenuation coefficients: Hubbell and Seltzer, NIST Standard Reference Database 126 (1995,
XCOM), tissues of ICRU Report 44 with their densities. Between the table's energies ln(mu / rho) is
linear in ln(energy), as NIST recommends.

A film is taken with a spectrum, and one effective energy stands for it here: about half to two
thirds of the tube's voltage, behind its filter and the patient (60 to 80 kV for small children,
125 kV for adults: European guidelines EUR 16261 and 16260).
"""

import numpy as np

from pratique_common.phantoms.implicit_shapes import Floats

ENERGY_KEV = (40.0, 50.0, 60.0, 80.0, 100.0)

SOFT_TISSUE_CM2_G = (0.2688, 0.2264, 0.2048, 0.1823, 0.1693)
"""Also of lung: its own row differs by less than 0.5 %, and air adds nothing."""

ADIPOSE_CM2_G = (0.2396, 0.2123, 0.1974, 0.1800, 0.1688)

CORTICAL_BONE_CM2_G = (0.6655, 0.4242, 0.3148, 0.2229, 0.1855)

SOFT_TISSUE_G_CM3 = 1.06
ADIPOSE_G_CM3 = 0.95
CORTICAL_BONE_G_CM3 = 1.92


def mass_attenuation(table_cm2_g: tuple[float, ...], energy_kev: Floats) -> Floats:
    """Return mu / rho in cm2/g at energies within the table's."""
    log_energy, log_table = np.log(ENERGY_KEV), np.log(table_cm2_g)
    return np.exp(np.interp(np.log(energy_kev), log_energy, log_table)).astype(np.float32)
