"""From proton density, T1 and T2 to the four contrasts of a tumour protocol.

Spin echo: S = PD (1 - exp(-TR / T1)) exp(-TE / T2). Inversion recovery read by a spin echo, in
magnitude: S = PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2). Both for TE << TR: Haacke
et al., "Magnetic Resonance Imaging: Physical Principles and Sequence Design", 1999. FLAIR is the
latter at the TI that nulls CSF (Hajnal et al., J Comput Assist Tomogr 1992;16:841-844).
"""

from collections.abc import Mapping

import numpy as np

from pratique_common.phantoms.implicit_shapes import Floats
from pratique_common.phantoms.mri_tissues import Relaxation, Tissue, with_contrast_agent

CONTRASTS = ("t1", "t1ce", "t2", "flair")
"""As in BraTS: T1, T1 after contrast agent, T2, and T2 with the CSF suppressed."""


def spin_echo(tissue: Relaxation, tr_ms: Floats, te_ms: Floats) -> Floats:
    """Return signals, (N, T), for repetition and echo times of shape (N,)."""
    recovered = 1 - np.exp(-tr_ms[:, None] / tissue.t1_ms)
    return np.asarray(
        tissue.density * recovered * np.exp(-te_ms[:, None] / tissue.t2_ms), np.float32
    )


def inversion_recovery(tissue: Relaxation, tr_ms: Floats, te_ms: Floats, ti_ms: Floats) -> Floats:
    """Return magnitudes, (N, T), for times of shape (N,)."""
    recovered = np.abs(
        1 - 2 * np.exp(-ti_ms[:, None] / tissue.t1_ms) + np.exp(-tr_ms[:, None] / tissue.t1_ms)
    )
    return np.asarray(
        tissue.density * recovered * np.exp(-te_ms[:, None] / tissue.t2_ms), np.float32
    )


def nulling_time_ms(t1_ms: Floats, tr_ms: Floats) -> Floats:
    """Return the inversion time at which tissue of that T1 gives no signal."""
    return np.asarray(t1_ms * (np.log(2) - np.log1p(np.exp(-tr_ms / t1_ms))), np.float32)


def contrasts(tissue: Relaxation, values: Mapping[str, Floats]) -> Floats:
    """Return signals, (N, 4, T), of ``CONTRASTS`` for the scanner's values (N,) of each phantom."""
    enhanced = with_contrast_agent(tissue, values["field_tesla"], values["agent_mm"])
    t1 = values["t1_tr_ms"], values["t1_te_ms"]
    nulling = nulling_time_ms(tissue.t1_ms[:, Tissue.CSF], values["flair_tr_ms"])
    return np.stack(
        [
            spin_echo(tissue, *t1),
            spin_echo(enhanced, *t1),
            spin_echo(tissue, values["t2_tr_ms"], values["t2_te_ms"]),
            inversion_recovery(
                tissue,
                values["flair_tr_ms"],
                values["flair_te_ms"],
                nulling * values["flair_nulling"],
            ),
        ],
        axis=1,
    )
