"""Bones of the chest: ribs, spine, clavicles, scapulae, arms and skull, as lengths of rays in them.

Each length is of cortical bone: what a bone of that shape holds of it. The rest is marrow, which
counts as soft tissue. Lengths are in half widths of the rib cage (``chest_view``).
"""

import numpy as np

from pratique_common.phantoms.chest_anatomy import (
    Cage,
    apex_z,
    arm_ends,
    beside_rod,
)
from pratique_common.phantoms.chest_view import Values, View, bump, rise, root
from pratique_common.phantoms.implicit_shapes import Floats

RIB_PAIRS = 12
_RIB_THICKNESS = 0.055
_RIB_HALF_HEIGHT = 0.046
_CORTEX = {"rib": 0.50, "spine": 0.24, "clavicle": 0.60, "scapula": 0.60, "limb": 0.45}
"""Shares of cortical bone by volume. Of the spine, such that its mineral is 0.9 g/cm2 in adults, a
little less than the 1.05 g/cm2 of lumbar vertebrae (DXA, NHANES 2005-2008); others are estimates.
"""


def bones_of(values: Values, view: View, cage: Cage) -> Floats:
    """Return the length of rays in cortical bone."""
    bone = _ribs(values, view, cage, front=False) + _ribs(values, view, cage, front=True)
    bone *= _CORTEX["rib"]
    bone += _CORTEX["spine"] * _spine(values, view)
    bone += _CORTEX["clavicle"] * _clavicles(values, view)
    bone += _CORTEX["scapula"] * _scapulae(values, view)
    bone += _CORTEX["limb"] * _humeri(values, view)
    return values["bone"] * (bone + _skull(values, view))


def _ribs(values: Values, view: View, cage: Cage, *, front: bool) -> Floats:
    """Return the way through ribs, where rays leave or enter the cage.

    Each rib lies in a plane that falls forwards, so a point of the cage has a rib's number, whole
    on the middle of a rib; the shell of the cage holds bone there.
    """
    shell = _RIB_THICKNESS * values["rib_size"]
    outer = (cage.depth + shell) * root(1 - np.square(view.x / (cage.width + shell)))
    way = outer - cage.chord
    y = cage.middle + (outer if front else -outer)
    x, z = view.at(y)
    slope, pitch = values["rib_slope"], values["rib_pitch"]
    top = apex_z(values) - 0.03
    level = z + slope * (1 - 0.25 * z) * (y + values["depth"]) + 0.10 * np.square(x)
    number = (top - level) / pitch
    nearest = np.rint(number)
    off = (number - nearest) * (pitch / np.sqrt(1 + np.square(slope)))
    square = np.square(off / (_RIB_HALF_HEIGHT * values["rib_size"]))
    profile = 1.6 * root(1 - square) - root(0.72 - square)  # a tube: its borders are brighter
    way = way * profile * ((nearest >= 0) & (nearest < RIB_PAIRS) & (view.z < top + 0.03))
    if front:
        # Further inwards is cartilage, which is soft; it is longer the lower the rib.
        start = np.clip(0.30 + 0.055 * number, 0.3, 0.9) * cage.width
        way = way * rise(np.abs(x), start - 0.06, start + 0.06) * (nearest < 10)
    return np.asarray(way, np.float32)


def _spine(values: Values, view: View) -> Floats:
    """Return the way through vertebrae: bodies, discs between them, pedicles and processes."""
    x, z = view.at(-0.72 * values["depth"])
    phase = (z - apex_z(values)) * (2 * np.pi / values["rib_pitch"])
    disc = np.maximum(np.cos(phase), 0) ** 4
    wide = 0.135 - 0.012 * np.cos(phase)
    body = 0.24 * root(1 - np.square(x / wide)) * (1 - 0.75 * disc)
    at_body = 1 - disc
    pedicles = 0.16 * bump(np.abs(x), 0.092, 0.035) * at_body
    spinous = 0.20 * bump(x, 0.0, 0.03) * np.maximum(np.sin(phase), 0)
    transverse = 0.09 * rise(-np.abs(x), -0.25, -0.2) * np.maximum(-np.cos(phase), 0) ** 3
    return np.asarray(body + pedicles + spinous + transverse, np.float32)


def _clavicles(values: Values, view: View) -> Floats:
    """Return the way through clavicles: S-shaped, from the sternum up to the shoulder."""
    x, z = view.at(0.62 * values["depth"])
    end = 0.80 * values["shoulder"]
    along = (np.abs(x) - 0.10) / (end - 0.10)
    inner = 0.66 * apex_z(values)
    middle = inner + values["clavicle_rise"] * along
    middle = middle + values["clavicle_bend"] * np.sin(2 * np.pi * along)
    radius = 0.044 + 0.012 * np.square(2 * along - 1)
    way = 2 * root(np.square(radius) - np.square(z - middle))
    return np.asarray(way * (along > 0) * (along < 1), np.float32)


def _scapulae(values: Values, view: View) -> Floats:
    """Return the way through shoulder blades: a plate, its spine and its outer border."""
    x, z = view.at(-values["depth"] - 0.05)
    out, top = values["scapula_out"], 0.55 * apex_z(values)
    side = np.abs(x) - out
    # Edges of a triangle: inner border, upper border, outer border.
    inner = 0.60 + 0.10 * (top - z) - side
    upper = z - top - 0.10 * (side - 0.6)
    outer = 0.86 * (side - 1.05) - 0.51 * (z - 0.40 * top - 0.1)
    outer = np.asarray(outer, np.float32)
    within = np.maximum(np.maximum(inner, upper), outer)
    plate = 0.03 * rise(-within, -0.02, 0.02)
    border = 0.06 * bump(outer, -0.03, 0.045) * (np.maximum(inner, upper) < 0)
    spine = 0.05 * bump(z - top + 0.10 - 0.28 * (side - 0.62), 0.0, 0.05)
    spine = spine * rise(side, 0.6, 0.7) * rise(-side, -1.25, -1.1)
    return np.asarray(plate + border + spine, np.float32)


def _humeri(values: Values, view: View) -> Floats:
    x, z, dx, dz = arm_ends(values)
    side = np.abs(view.x)
    shaft = beside_rod(side, view.z, (x, z), (dx, dz))
    head = np.square(side - x) + np.square(view.z - z)
    way = 2 * np.maximum(0.8 * root(0.085**2 - shaft), 0.5 * root(0.17**2 - head))
    return np.asarray(way, np.float32)


def _skull(values: Values, view: View) -> Floats:
    """Return the way through the bone of the head: a shell that is thick where rays graze it."""
    radius = values["head"]
    centre = values["head_z"] + radius
    square = np.square(view.x / (0.9 * radius)) + np.square((view.z - centre) / radius)
    return radius * (root(1 - square) - root(0.88 - square))
