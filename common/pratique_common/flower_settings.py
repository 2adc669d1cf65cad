"""How we run Flower: silent, without installing anything, and with shorter waits.

Stock Flower asks again for an object that is still on its way after 1 s. Every round moves weights
out and sums back, in three processes, so that second would be most of a round. Only default
arguments change; a contract test holds the pinned Flower to them.
"""

from collections.abc import Mapping

from flwr.supercore.inflatable import inflatable_utils

QUIET_ENVIRONMENT = {
    # Flower calls home, asks for updates and installs packages unless it is told not to.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}

_LOOPBACK = "127.0.0.1"


def no_proxy_at_home(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that keep a proxy from getting this machine's own traffic.

    Flower's processes talk to each other over HTTP on the loopback address, and a client that finds
    HTTPS_PROXY in its environment sends that to the proxy as well. Both spellings are set: Python
    takes the small one if both are there.
    """
    listed = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    names = [name for name in (part.strip() for part in listed.split(",")) if name]
    if "*" not in names and _LOOPBACK not in names:
        names.append(_LOOPBACK)
    return {"NO_PROXY": ",".join(names), "no_proxy": ",".join(names)}


FIRST_RETRY_S = 0.03
_ARGUMENT = "initial_backoff"
_FUNCTIONS = (
    inflatable_utils.pull_objects,
    inflatable_utils.pull_and_inflate_object_from_tree,
)


def shorten_object_waits() -> None:
    """Let this process ask again after ``FIRST_RETRY_S``, doubling as before."""
    for function in _FUNCTIONS:
        defaults = function.__kwdefaults__
        if defaults is None or _ARGUMENT not in defaults:
            raise RuntimeError(f"{function.__name__} of this Flower has no {_ARGUMENT}")
        defaults[_ARGUMENT] = FIRST_RETRY_S
