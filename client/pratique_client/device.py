"""What computes gradients at a site: ``device`` of ``site.toml``, the hospital's own business."""

import torch

from pratique_client.site import Site
from pratique_common.errors import InvalidFileError

_CPU, _CUDA = torch.device("cpu"), torch.device("cuda")
_PROBE_SIZE = 64


def device_of(site: Site) -> torch.device:
    """Return the device that a site's file asks for; ``auto`` is CUDA where torch sees it.

    Which GPU of several follows from ``CUDA_VISIBLE_DEVICES``.

    Raises:
        InvalidFileError: CUDA is asked for and torch sees none, or the GPU does not compute.
    """
    wanted, found = site.settings.device, torch.cuda.is_available()
    if wanted == "cpu" or (wanted == "auto" and not found):
        return _CPU
    if not found:
        built = "was built without CUDA" if torch.version.cuda is None else "sees no GPU"
        raise _invalid(
            site,
            f"asks for CUDA, and torch {torch.__version__} {built}",
            'look at the driver with nvidia-smi and install torch\'s CUDA build, or write "auto"',
        )
    try:
        probe = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=torch.float64, device=_CUDA)
        works = bool((probe @ probe == _PROBE_SIZE).all())
    except RuntimeError:  # the driver's own words may be pages long
        works = False
    if not works:
        raise _invalid(
            site,
            "the GPU that torch sees does not compute",
            'compare its driver and generation with what torch\'s build needs, or write "cpu"',
        )
    return _CUDA


def describe_device(site: Site) -> str:
    """Return in words what computes.

    Raises:
        InvalidFileError: as ``device_of``.
    """
    if device_of(site) == _CUDA:
        return f"{torch.cuda.get_device_name()} computes gradients"
    if torch.cuda.is_available():
        return f'{torch.cuda.get_device_name()} is not used: device = "cpu"'
    return "none found, and none needed"


def too_small(site: Site) -> InvalidFileError:
    """Return the error of a GPU whose memory does not hold a step."""
    return _invalid(
        site,
        "the GPU's free memory does not hold a step of this study",
        'free some, or write "cpu"',
    )


def uneven(site: Site) -> InvalidFileError:
    """Return the error of a GPU on which one patient's presence may change others' gradients."""
    return _invalid(
        site,
        "the GPU computes a row otherwise at another place, so that no patient's part is bounded",
        'write "cpu"',
    )


def _invalid(site: Site, problem: str, remedy: str) -> InvalidFileError:
    return InvalidFileError(
        site.site_file, field="device", problem=problem, remedy=remedy, code="device_unusable"
    )
