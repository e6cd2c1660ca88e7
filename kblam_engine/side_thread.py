"""Work of the processor in a thread beside the model's forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

from kblam_engine.threads import usable_cores

_Result = TypeVar("_Result")


def has_idle_cores(device: torch.device) -> bool:
    """Say whether the processor has cores to spare while a model runs on a device.

    Each thread that calls torch gets as many threads of its own as torch has, so as many cores have to be free.
    """
    if device.type != "cpu":
        return True
    return 2 * torch.get_num_threads() <= len(usable_cores())


def in_side_thread(work: Callable[[], _Result]) -> Future[_Result]:
    """Start work, without gradients, and return what will be its result or its error.

    A thread each time: starting one takes a tenth of a millisecond, and none is lost where a process forks.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            with torch.no_grad():
                future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="kblam-retrieval", daemon=True).start()
    return future
