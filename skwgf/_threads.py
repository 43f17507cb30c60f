"""One thread of computation for each worker of a pool of threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

__all__ = ["in_thread_pool", "one_thread_in_pools"]

P = ParamSpec("P")
R = TypeVar("R")


def in_thread_pool() -> bool:
    """Tell whether this is a thread that joblib's threading backend runs tasks in.

    Worker processes run tasks in their main thread, and joblib divides the cores among them. Dask
    sets the number of threads of its workers, which count as callers here.
    """
    if threading.current_thread() is threading.main_thread():
        return False
    backend, _ = get_active_backend()
    return bool(backend.nesting_level)  # zero, or None, is the level of a caller


def one_thread_in_pools(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function compute with one thread where joblib runs tasks in threads.

    A pool of n threads would otherwise start n times as many threads as there are cores. Elsewhere
    nothing changes. The limit holds for the calling thread alone: `torch.set_num_threads` would
    hold for threads to come as well, and workers that set it back in turn would leave it wrong.
    """

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        if not in_thread_pool():
            return function(*args, **kwargs)
        torch.get_num_threads()  # torch sets up a thread at its first call: not after the limit
        with ThreadpoolController().limit(limits=1, user_api="openmp"):
            return function(*args, **kwargs)

    return limited
