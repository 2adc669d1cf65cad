"""What we touch inside the pinned Flower. If one of these fails, Flower was changed: look again."""

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import flwr.supernode.start_client_internal as supernode
import pytest
from flwr.common import constant
from flwr.supercore import heartbeat
from flwr.supercore.inflatable import inflatable_utils
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.supernode import fleet_http_connection
from flwr.supernode.runtime import run_clientapp

from pratique_client import node
from pratique_client.connection import _NO_HEARTBEAT_S
from pratique_client.node import FIRST_WAITS_S, HEARTBEAT_INTERVAL_S, Waits
from pratique_common.flower_settings import FIRST_RETRY_S, shorten_object_waits


def test_the_version_is_the_pinned_one() -> None:
    assert version("flwr") == "1.41.0"


def test_the_supernodes_waits_are_the_ones_that_we_shorten() -> None:
    source = inspect.getsource(supernode)
    for stock in FIRST_WAITS_S:
        assert f"time.sleep({stock})" in source
    # It waits for a reply in the function that a message begins and its reply ends.
    assert source.count("_push_messages(") == 2
    assert "time.sleep(0.5)" in inspect.getsource(supernode._push_messages)
    # Nothing else of the time module is used there, so nothing else is missing in ours.
    assert set(re.findall(r"\btime\.(\w+)\(", source)) <= {"sleep", "time", "monotonic"}


def test_waits_grow_with_what_was_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(node, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    waits = Waits()
    while clock[0] < 200:
        waits.sleep(3)
    assert slept[:5] == [0.2] * 5 and slept[-1] == 3
    assert all(wait <= 0.2 + 0.05 * sum(slept[:number]) for number, wait in enumerate(slept))
    waits.sleep(0.5)
    assert slept[-1] == 0.05  # a reply is waited for by itself
    waits.begin()
    waits.sleep(3)
    assert slept[-1] == 0.2
    waits.sleep(7)
    assert slept[-1] == 7


def test_heartbeats_come_as_often_as_the_superlink_takes_them() -> None:
    assert constant.HEARTBEAT_MIN_INTERVAL == HEARTBEAT_INTERVAL_S
    assert constant.HEARTBEAT_PATIENCE * HEARTBEAT_INTERVAL_S == 20
    for module in (heartbeat, fleet_http_connection):
        assert module.HEARTBEAT_DEFAULT_INTERVAL == 30  # type: ignore[attr-defined]
        assert "HEARTBEAT_DEFAULT_INTERVAL" in inspect.getsource(module)
    # What is left of an interval is waited, so a call has to fit in.
    assert constant.HEARTBEAT_CALL_TIMEOUT < HEARTBEAT_INTERVAL_S


def test_a_supernode_that_gave_up_leaves_no_process() -> None:
    """Its local server's thread would keep it, connected to nobody."""
    gave_up = (
        "import threading, time\n"
        "from pratique_client import node\n"
        "node.flower_supernode = threading.Thread(target=time.sleep, args=(300,)).start\n"
        "node.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", gave_up], check=False, timeout=60)
    assert ended.returncode == 1


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


def test_an_impossible_heartbeat_asks_whether_a_key_is_known_and_activates_nothing() -> None:
    """``check`` asks so: an unknown key and a known one are refused for different reasons."""
    source = inspect.getsource(fleet_handlers.activate_node)
    steps = ["get_node_id_by_public_key", "_validate_heartbeat_interval", "state.activate_node("]
    assert [source.index(step) for step in steps] == sorted(source.index(step) for step in steps)
    with pytest.raises(fleet_handlers.InvalidHeartbeatIntervalError):
        fleet_handlers._validate_heartbeat_interval(_NO_HEARTBEAT_S)


def test_supernode_options_that_the_daemon_uses_exist() -> None:
    command = [sys.executable, "-m", "pratique_client.node", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for option in ("--superlink", "--isolation", "--superexec-auth-secret-file",
                   "--root-certificates", "--insecure", "--host", "--port",
                   "--auth-supernode-private-key"):  # fmt: skip
        assert option in shown
