"""Child processes that end when the one that started them does, also by kill -9.

Linux kills a process when its parent ends, if it asked for that (``PR_SET_PDEATHSIG``). Flower's
commands do not ask. So this file is run as a script first: it asks, and becomes the command under
the same process id. It imports the standard library alone, for it is run without site-packages. On
other systems it asks nobody, and what a kill -9 leaves running must be stopped by hand.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str]) -> list[str]:
    """Return a command for ``Popen`` that is killed as soon as this process ends.

    Linux looks at the thread that starts a child: it must live as long as the process.

    Raises:
        RuntimeError: called by another than the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a child would end with the thread that starts it")
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def end_with_parent() -> None:
    """Let this process be killed when the thread that started it ends."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    end_with_parent()
    if os.getppid() != parent:  # it ended before this process could ask
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main()
