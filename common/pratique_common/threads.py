"""How many threads a process may use."""

import torch
from threadpoolctl import threadpool_limits


def use_one_thread() -> None:
    """Keep a process to one core: hospitals' machines have other work, and so has a simulation.

    Threads that wait for each other on busy cores make some steps ten times slower, and matrices
    here are too small to gain from more.
    """
    torch.set_num_threads(1)
    threadpool_limits(limits=1)  # scikit-learn's and NumPy's own
