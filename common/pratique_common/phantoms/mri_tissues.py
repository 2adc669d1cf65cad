"""Proton density and relaxation times of tissues of the head at 1.5 and 3 T, with their sources.

Healthy tissue at 1.5 T: the BrainWeb table (Kwan, Evans and Pike, "MRI simulation-based evaluation
of image-processing and classification methods", IEEE Trans Med Imaging 1999;18:1085-1097): CSF,
grey and white matter, fat, muscle, and all proton densities of these. At 3 T:

* grey and white matter: Wansapura et al., J Magn Reson Imaging 1999;9:531-538;
* CSF: T1 4,309 and T2 1,886 ms in the subarachnoid space, 4,454 and 2,373 ms in the frontal horns
  ("Quantification of T1 and T2 of subarachnoid CSF: Implications for water exchange between CSF and
  brain tissues", Magn Reson Med 2023, PMC10696635); rounded between them;
* fat, muscle, marrow: de Bazelaire et al., Radiology 2004;230:652-659. They found T1 21 % longer at
  3 T than at 1.5 T and T2 about the same: applied wherever only one field was measured (marked *).

Deep nuclei: T1 of the thalamus, Mostardeiro et al., MAGMA 2021;34:697-706, 3 T. T2 as white matter,
whose rate at 3 T is 18.0 per s (Gelman et al., Radiology 1999;210:759-767). They found that of grey
matter to grow with its iron, from 12.7 without any to 25.8 in the globus pallidus, where 100 g hold
21.3 mg: so 4.8, 9.3 and 13.3 mg in thalamus, caudate and putamen (Hallgren and Sourander, J
Neurochem 1958;3:41-51) make 15.7, 18.4 and 20.9 per s, 18.3 in the mean.

Vitreous and lens: anterior chamber and lens cortex, Patz et al., J Magn Reson Imaging
2007;26:510-518, 1.5 T. Cortical bone: T1 140 to 260 ms (Reichert et al., Magn Reson Imaging
2005;23:611-618) and T2 0.4 ms (Horch et al., Magn Reson Med 2012;68:1774-1784): black at every echo
time here.

Tumours, all at 3 T:

* enhancing tumour: T1 of high-grade tumours, 1,863 ms (de Blank et al., Pediatr Neurosurg 2019, MR
  fingerprinting); T2 115 ms, the lower bound of tissue full of tumour cells ("Magnetic
  Resonance Relaxometry for Tumor Cell Density Imaging for Glioma", Cancers 2021;13:4067: T1 1,850
  to 3,200 ms, T2 115 to 225 ms);
* necrosis: T1 3,200 ms, the upper bound of the same; T2 322 ms, the central part of grade II and
  III astrocytomas (Kern et al., BMC Neurol 2020;20:8);
* non-enhancing tumour: T1 1,850 ms, as above; T2 211 ms, the peripheral part in Kern et al.;
* oedema: T1 1,261 ms, peritumoral white matter in de Blank et al.; T2 = 79.6 * 65 / 38, white
  matter times the ratio measured there, as fingerprinting finds T2 too short;
* meningioma: T1 1,429 ms (Mostardeiro et al.); T2 as cortex: 70.6 % of 126 were as bright or a
  little brighter on T2-weighted images ("MRI performance and diagnosis of meningioma: a report of
  126 cases", 2004, PubMed 15522184).

Proton densities of tumours lie between grey matter and CSF: Newman et al., Eur Radiol 1993;3:49-52
found them to differ little. They are estimates.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from pratique_common.phantoms.implicit_shapes import Floats


class Tissue(IntEnum):
    """Tissues that give signal; air is the absence of all."""

    FAT = 0
    MUSCLE = 1
    BONE = 2
    MARROW = 3
    CSF = 4
    GREY_MATTER = 5
    WHITE_MATTER = 6
    DEEP_GREY = 7
    VITREOUS = 8
    LENS = 9
    NECROSIS = 10
    OEDEMA = 11
    ENHANCING = 12
    NON_ENHANCING = 13
    MENINGIOMA = 14


class _Row(NamedTuple):
    density: float
    t1_ms: tuple[float, float]  # at 1.5 T and 3 T
    t2_ms: tuple[float, float]


_T1_RATIO = 1.21  # 3 T to 1.5 T; de Bazelaire et al. 2004


def _at_3t(density: float, t1_ms: float, t2_ms: float) -> _Row:
    return _Row(density, (t1_ms / _T1_RATIO, t1_ms), (t2_ms, t2_ms))


_TABLE: dict[Tissue, _Row] = {
    Tissue.FAT: _Row(1.0, (350, 382), (70, 68)),
    Tissue.MUSCLE: _Row(1.0, (900, 898), (47, 29)),
    Tissue.BONE: _Row(0.2, (200, 200), (0.4, 0.4)),
    Tissue.MARROW: _at_3t(0.8, 586, 49),  # *
    Tissue.CSF: _Row(1.0, (2569, 4400), (329, 2000)),
    Tissue.GREY_MATTER: _Row(0.86, (833, 1331), (83, 110)),
    Tissue.WHITE_MATTER: _Row(0.77, (500, 832), (70, 79.6)),
    Tissue.DEEP_GREY: _Row(0.84, (1054 / 1331 * 833, 1054), (70, 79.6)),
    Tissue.VITREOUS: _Row(1.0, (5053, 5053), (450, 450)),
    Tissue.LENS: _Row(0.7, (1413, 1413), (100, 100)),
    Tissue.NECROSIS: _at_3t(0.97, 3200, 322),  # *
    Tissue.OEDEMA: _at_3t(0.92, 1261, 79.6 * 65 / 38),  # *
    Tissue.ENHANCING: _at_3t(0.90, 1863, 115),  # *
    Tissue.NON_ENHANCING: _at_3t(0.93, 1850, 211),  # *
    Tissue.MENINGIOMA: _Row(0.88, (1429 / _T1_RATIO, 1429), (83, 110)),  # *
}

_RELAXIVITY_1 = 4.78, 4.97
"""Gadobutrol in plasma at 1.5 and 3 T, per mM and s (Szomolanyi et al., Invest Radiol 2019;54)."""

_RELAXIVITY_2 = 6.1, 7.1
"""The same for T2: Rohrer et al., Invest Radiol 2005;40:715-724."""

ENHANCED = (Tissue.ENHANCING, Tissue.MENINGIOMA)
"""Tissues without a blood-brain barrier, where the contrast agent stays."""


class Relaxation(NamedTuple):
    """What a signal equation needs of each tissue; every array has shape (N, T), times in ms."""

    density: Floats
    t1_ms: Floats
    t2_ms: Floats


def relaxation_at(field_tesla: Floats) -> Relaxation:
    """Return densities and times at field strengths (N,) of 1.5 to 3 T.

    Between the two measured fields T is taken to be a power of the field, as Bottomley et al. (Med
    Phys 1984;11:425-448) found for T1.
    """
    share = _share_of_3t(field_tesla)[:, None]
    rows = [_TABLE[tissue] for tissue in Tissue]
    t1, t2 = (
        np.exp((1 - share) * np.log(low_high[:, 0]) + share * np.log(low_high[:, 1]))
        for low_high in (
            np.array([row.t1_ms for row in rows]),
            np.array([row.t2_ms for row in rows]),
        )
    )
    density = np.broadcast_to([row.density for row in rows], t1.shape)
    return Relaxation(density.astype(np.float32), t1.astype(np.float32), t2.astype(np.float32))


def with_contrast_agent(tissue: Relaxation, field_tesla: Floats, agent_mm: Floats) -> Relaxation:
    """Return times after an injection that left ``agent_mm`` (N,), in mM, in enhancing tissue.

    1 / T' = 1 / T + r * C, with both relaxivities of the agent.
    """
    share = _share_of_3t(field_tesla)
    t1, t2 = tissue.t1_ms.copy(), tissue.t2_ms.copy()
    for times, (low, high) in ((t1, _RELAXIVITY_1), (t2, _RELAXIVITY_2)):
        rate_per_ms = ((1 - share) * low + share * high) * agent_mm / 1000
        for index in ENHANCED:
            times[:, index] = 1 / (1 / times[:, index] + rate_per_ms)
    return Relaxation(tissue.density, t1, t2)


def _share_of_3t(field_tesla: Floats) -> Floats:
    return np.asarray(np.log(field_tesla / 1.5) / np.log(2), np.float32)
