"""Soft tissue and air of the chest: body, lungs, mediastinum, heart, diaphragm, airways, vessels.

Lungs are what the rib cage encloses, less mediastinum, heart and abdomen. Along a ray these three
are one block in the middle, which leaves lung behind and in front of it. Shapes and positions are
those of textbooks of radiological anatomy, not fitted to any image. Lengths are in half widths of
the rib cage (``chest_view``).
"""

from typing import NamedTuple

import numpy as np

from pratique_common.phantoms.chest_view import Real, Values, View, bump, rise, root
from pratique_common.phantoms.implicit_shapes import Floats

APEX_Z = 0.80
"""Top of the lungs, in heights of the lungs."""

WIDEST_Z = -0.50
CARINA_Z = 0.10


class Cage(NamedTuple):
    """The inside of the rib cage: at each height an ellipse."""

    width: Real  # half of it
    depth: Real  # half of it
    middle: Real  # y of the ellipse's centre: the cage leans back above
    chord: Real  # half of a ray's way through it


class Lungs(NamedTuple):
    """A ray's way through lung, and where that is."""

    back: Real  # length behind the mediastinum, heart and diaphragm
    front: Real
    back_from: Real  # y where the part behind begins, at the ribs
    front_to: Real  # y where the part in front ends
    cage: Cage

    @property
    def total(self) -> Real:
        """The whole length."""
        return self.back + self.front


class Heart(NamedTuple):
    """An ellipsoid with an oblique long axis."""

    x: Floats
    y: Floats
    z: Floats
    long: Floats
    short: Floats
    deep: Floats


def apex_z(values: Values) -> Floats:
    """Return the height of the lungs' top."""
    return APEX_Z * values["height"]


def dome_z(values: Values) -> Floats:
    """Return the height of the right dome of the diaphragm."""
    return -(0.42 + 0.38 * values["inspiration"]) * values["height"]


def cage_of(values: Values, view: View) -> Cage:
    """Return the rib cage where rays cross its middle."""
    top = apex_z(values)
    below = np.clip((top - view.z) / (top - WIDEST_Z), 0, 1)
    exponent = values["apex"]
    width = np.maximum(1 - (1 - below) ** exponent, 1e-6) ** (1 / exponent)
    width *= 1 - 0.15 * np.square(np.maximum(WIDEST_Z - view.z, 0))
    depth = values["depth"] * (0.3 + 0.7 * width)
    middle = -0.3 * values["depth"] * (1 - width)
    chord = depth * root(1 - np.square(view.x / width)) * (view.z < top)
    return Cage(width, depth, middle, chord)


def heart_of(values: Values) -> Heart:
    """Return the heart: it rests on the left dome, one third of it right of the midline."""
    tilt, half = values["heart_tilt_rad"], values["heart"]
    # Axes of 1.2 to 0.88 that, tilted, span the cardiothoracic ratio.
    across = root(np.square(1.2 * np.cos(tilt)) + np.square(0.88 * np.sin(tilt)))
    up = root(np.square(1.2 * np.sin(tilt)) + np.square(0.88 * np.cos(tilt)))
    scale = half / across
    bottom = dome_z(values) - values["dome_left"] - 0.12
    return Heart(
        x=values["heart_shift"] - 0.36 * half,
        y=0.25 * values["depth"],
        z=bottom + scale * up,
        long=1.2 * scale,
        short=0.88 * scale,
        deep=0.80 * values["depth"],
    )


def lungs_of(values: Values, view: View) -> Lungs:
    """Return where rays meet lung."""
    cage = cage_of(values, view)
    block = np.maximum(
        np.maximum(_mediastinum(values, view, cage), _heart(values, view)), _abdomen(values, view)
    )
    back_from, front_to = cage.middle - cage.chord, cage.middle + cage.chord
    # The block's middle lies a little in front of the cage's: the spine is behind it.
    centre = cage.middle + 0.06 * values["depth"]
    back = np.maximum(np.minimum(centre - block, front_to) - back_from, 0)
    front = np.maximum(front_to - np.maximum(centre + block, back_from), 0)
    return Lungs(back, front, back_from, front_to, cage)


def _mediastinum(values: Values, view: View, cage: Cage) -> Floats:
    z, wide = view.z, values["mediastinum"]
    thymus = 0.13 * values["thymus"] * bump(z, 0.28, 0.38)
    inlet = 0.07 * rise(z, 0.45, 0.85)
    right = wide * (0.155 + 0.045 * bump(z, 0.25, 0.35)) + thymus + inlet
    right += 0.30 * values["heart"] * bump(z, heart_of(values).z + 0.02, 0.52)  # atrium
    arch = 0.10 * values["aorta"] * bump(z, 0.33, 0.15)
    trunk = 0.07 * bump(z, 0.10, 0.22)
    left = wide * 0.15 + arch + trunk + 1.2 * thymus + inlet
    centre, half = (right - left) / 2, (right + left) / 2
    # Above, borders are vessels that rays meet tangentially: flatter than an ellipse.
    square = np.square((view.x - centre) / half)
    square = square * (square + rise(-z, -0.1, 0.3) * (1 - square))
    return np.asarray(cage.depth * root(1 - square), np.float32)


def _heart(values: Values, view: View) -> Floats:
    heart = heart_of(values)
    x, z = view.at(heart.y)
    tilt = values["heart_tilt_rad"]
    left, down = heart.x - x, heart.z - z
    along = left * np.cos(tilt) + down * np.sin(tilt)
    across = down * np.cos(tilt) - left * np.sin(tilt)
    square = 1 - np.square(along / heart.long) - np.square(across / heart.short)
    return np.asarray(heart.deep * root(square), np.float32)


def _abdomen(values: Values, view: View) -> Floats:
    """Return half the way through abdomen inside the cage, below two domes."""
    right = _dome(values, view, 0.45, dome_z(values))
    left = _dome(values, view, -0.45, dome_z(values) - values["dome_left"])
    return np.maximum(right, left)


def _dome(values: Values, view: View, x: float, top: Floats) -> Floats:
    height = 0.85
    above = np.maximum(view.z - (top - height), 0)
    square = 1 - np.square((view.x - x) * (1 / 0.80)) - np.square(above * (1 / height))
    return np.asarray(1.5 * values["depth"] * root(square), np.float32)


def body_of(values: Values, view: View) -> Floats:
    """Return the length of rays in the body, lungs and bones included."""
    z, x = view.z, np.abs(view.x)
    wall, neck = values["wall"], values["neck"]
    top = apex_z(values)
    trunk = 1 + wall + 0.03 * rise(-z, 0.6, 1.4)
    width = trunk + (values["shoulder"] - trunk) * rise(z, 0.05, 0.62 * top)
    to_neck = np.clip((z - 0.92 * top) * (1 / 0.48), 0, 1)
    width = neck + (width - neck) * np.square(1 - to_neck)
    deep = values["depth"] + 0.75 * wall
    deep = deep + (neck * 1.05 - deep) * rise(z, 0.1 * top, 1.45 * top)
    trunk_way = 2 * deep * root(1 - (x / width) ** 4)
    way = np.maximum(trunk_way, _arm(values, view))
    return np.asarray(np.maximum(way, 2 * _head(values, view)), np.float32)


def arm_ends(values: Values) -> tuple[Floats, Floats, Floats, Floats]:
    """Return x and z of the humerus' head, and its direction."""
    x = 0.88 * values["shoulder"]
    z = 0.66 * apex_z(values)
    return x, z, np.sin(values["arm_rad"]), -np.cos(values["arm_rad"])


def beside_rod(
    x: Floats, z: Floats, start: tuple[Floats, Floats], towards: tuple[Floats, Floats]
) -> Floats:
    """Return the squared distance in the image plane to a rod without end."""
    dx, dz = x - start[0], z - start[1]
    along = np.maximum(dx * towards[0] + dz * towards[1], 0)
    return np.square(dx - along * towards[0]) + np.square(dz - along * towards[1])


def _arm(values: Values, view: View) -> Floats:
    x, z, dx, dz = arm_ends(values)
    radius = 0.16 + 0.6 * values["wall"]
    square = beside_rod(np.abs(view.x), view.z, (x, z), (dx, dz))
    return 2 * root(np.square(radius) - square)


def _head(values: Values, view: View) -> Floats:
    """Return half the way through the head, chin down."""
    radius = values["head"]
    centre = values["head_z"] + radius
    square = np.square(view.x / (0.9 * radius)) + np.square((view.z - centre) / radius)
    return np.asarray(radius * root(1 - square), np.float32)


def airways_of(values: Values, view: View) -> Floats:
    """Return the length of rays in air outside the lungs: trachea, bronchi, stomach and bowel."""
    x, z = view.at(-0.1 * values["depth"])
    radius = 0.055 + 0.01 * values["aorta"]
    off = x - 0.02 - 0.03 * bump(z, 0.33, 0.3)  # the arch of the aorta pushes it to the right
    trachea = root(np.square(radius) - np.square(off)) * rise(z, CARINA_Z - 0.03, CARINA_Z + 0.03)
    # The right bronchus is steeper.
    slope = np.where(x > 0, 1.1, 0.6).astype(np.float32)
    below = CARINA_Z - z - slope * np.abs(x)
    bronchi = root(np.square(0.75 * radius) - np.square(below) / (1 + np.square(slope)))
    bronchi *= np.abs(x) < 0.30
    gas = np.maximum(values["stomach_gas"], 1e-3)
    under = dome_z(values) - values["dome_left"] - 0.10 - 0.8 * gas
    square = np.square((view.x + 0.48) / (1.6 * gas)) + np.square((view.z - under) / gas)
    bubble = 1.3 * gas * root(1 - square)
    return np.asarray(2 * (np.maximum(trachea, bronchi) + bubble), np.float32)


def breast_of(values: Values, view: View) -> Floats:
    """Return the length of rays in breasts, in front of the chest."""
    x, z = view.at(values["depth"])
    square = np.square((np.abs(x) - 0.52) * (1 / 0.44)) + np.square((z + 0.48) * (1 / 0.40))
    hanging = rise(-z, 0.05, 0.8)
    thickness = 1.6 * np.maximum(values["breast"], 0) * root(1 - square) * hanging
    return np.asarray(thickness, np.float32)


def vessels_of(values: Values, view: View, lungs: Lungs, wander: Floats) -> Floats:
    """Return the length of rays in vessels of the lungs, which branch outwards from the hila.

    Args:
        wander: a smooth random field of unit variance, (B, H, W): vessels are not straight.
    """
    right = view.x > 0
    dx = np.abs(view.x) - 0.22
    dz = view.z - np.where(right, -0.02, 0.03).astype(np.float32)  # the left hilum is higher
    radius = np.sqrt(dx * dx + dz * dz)
    angle = np.arctan2(dz, dx) + np.where(right, 0.3, 0).astype(np.float32) + 0.13 * wander
    # Twice as many, thinner vessels further out: ridges of a wave around the hilum.
    calibre = 0.11 * np.maximum(1 - 0.95 * radius, 0)
    near, far = np.cos(9 * angle), np.cos(18 * angle + 0.6 * wander)
    ways = np.maximum(near, 0) ** 6 * (radius < 0.65)
    ways = ways + 0.7 * np.maximum(far, 0) ** 4 * (radius > 0.28)
    hilum = 0.26 * values["hilum"] * bump(radius, 0.0, 0.26)
    # Those too small to be seen one by one are denser towards the hila, and below.
    small = 0.13 * lungs.total * np.maximum(1 - dx * dx - np.square(view.z + 0.2), 0)
    inside = np.minimum(lungs.total * (1 / 0.25), 1)
    way = inside * (values["vessels"] * (calibre * ways + small) + hilum)
    return np.asarray(way, np.float32)
