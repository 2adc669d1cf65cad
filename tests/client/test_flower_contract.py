"""What we touch inside the pinned Flower. If one of these fails, Flower was changed: look again."""

import inspect
import re
import subprocess
import sys
from importlib.metadata import version

import flwr.supernode.start_client_internal as supernode
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode.runtime import run_clientapp

from pratique_client.node import SHORT_WAITS_S
from pratique_common.flower_settings import FIRST_RETRY_S, shorten_object_waits


def test_the_version_is_the_pinned_one() -> None:
    assert version("flwr") == "1.41.0"


def test_the_supernodes_waits_are_the_ones_that_we_shorten() -> None:
    source = inspect.getsource(supernode)
    for stock in SHORT_WAITS_S:
        assert f"time.sleep({stock})" in source
    # Nothing else of the time module is used there, so nothing else is missing in ours.
    assert set(re.findall(r"\btime\.(\w+)\(", source)) <= {"sleep", "time", "monotonic"}


def test_object_waits_are_default_arguments() -> None:
    for function in (
        inflatable_utils.pull_objects,
        inflatable_utils.pull_and_inflate_object_from_tree,
    ):
        stock = dict(function.__kwdefaults__)
        try:
            shorten_object_waits()
            assert function.__kwdefaults__["initial_backoff"] == FIRST_RETRY_S < 1
        finally:
            function.__kwdefaults__.update(stock)


def test_the_executor_can_do_a_task_without_flowers_process() -> None:
    for name, parameters in {
        "pull_task_input": ["client"],
        "push_message": ["client", "message", "context"],
        "push_task_output": ["client", "context", "sub_status", "details"],
    }.items():
        found = inspect.signature(getattr(run_clientapp, name)).parameters
        assert list(found) == parameters
    # Stock Flower unpacks and imports a bundle's code in run_clientapp, which we never call.
    assert "install_from_fab" in inspect.getsource(run_clientapp.run_clientapp)


def test_supernode_options_that_the_daemon_uses_exist() -> None:
    command = [sys.executable, "-m", "pratique_client.node", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for option in ("--superlink", "--isolation", "--superexec-auth-secret-file",
                   "--root-certificates", "--insecure", "--host", "--port"):  # fmt: skip
        assert option in shown
