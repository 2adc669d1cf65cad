"""Flower's SuperNode with short waits: ``python -m pratique_client.node`` takes its arguments.

The stock SuperNode sleeps 3 s when idle and .5 s before a reply, which makes a round take seconds.
These waits are all that changes; a contract test holds the pinned Flower to them.
"""

import os
import threading
import time
from types import SimpleNamespace

import flwr.supernode.start_client_internal as stock
from flwr.supernode.cli import flower_supernode

from pratique_common.flower_settings import shorten_object_waits

SHORT_WAITS_S = {3: 0.2, 0.5: 0.05}
"""Stock wait → ours, at the cost of five small requests a second to the coordinator."""

_PARENT_POLL_S = 0.5


def _sleep(seconds: float) -> None:
    time.sleep(SHORT_WAITS_S.get(seconds, seconds))


def _end_with_parent() -> None:
    """End this process when the daemon that started it is gone, even by kill -9."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(1)


def main() -> None:
    """Run the SuperNode until it is stopped."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    waits = SimpleNamespace(sleep=_sleep, time=time.time, monotonic=time.monotonic)
    stock.time = waits  # type: ignore[assignment,attr-defined]
    shorten_object_waits()
    flower_supernode()


if __name__ == "__main__":
    main()
