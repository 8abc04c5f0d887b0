"""CuPy streams on a part of the GPU's multiprocessors.

What runs on such a stream has its SMs to itself, as long as everything else stays on streams of
other parts of the same division.
"""

from __future__ import annotations

from typing import Any

import cupy as cp
from cuda.bindings import driver

from phy.gpu.green import GreenContext, driver_call, take_first, take_second


class SmPart:
    """A part of the GPU, whose streams keep to its multiprocessors.

    Attributes:
        n_sms: multiprocessors it really has; the driver rounds up.
    """

    def __init__(self, n_sms: int, context: GreenContext | None = None) -> None:
        """`context` is the green context; None for the whole GPU."""
        self.n_sms = n_sms
        self._context = context

    def new_stream(self, lower: int = 0) -> Any:
        """Returns one more CuPy stream, `lower` steps below the highest priority.

        Raises:
            UnavailableError: the driver refuses.
        """
        if self._context is not None:
            return cp.cuda.ExternalStream(self._context.new_stream(lower))
        lowest, highest = driver_call(driver.cuCtxGetStreamPriorityRange())
        priority = min(int(highest) + lower, int(lowest))
        return cp.cuda.Stream(non_blocking=True, priority=priority)

    def close(self) -> None:
        """Waits for the streams and ends them and the part."""
        if self._context is not None:
            self._context.close()


def take_part(n_sms: int | None) -> SmPart:
    """Returns `n_sms` multiprocessors (rounded up to what the GPU can split off), or with None all.

    Raises:
        InvalidInputError: `n_sms` is not positive, or more than the GPU has.
        UnavailableError: the driver refuses.
    """
    device = _device()
    if n_sms is None:
        properties = cp.cuda.runtime.getDeviceProperties(device)
        return SmPart(int(properties["multiProcessorCount"]))
    context = take_first(device, n_sms)
    return SmPart(context.n_sms, context)


def take_rest(first_sms: int, n_sms: int | None = None) -> SmPart:
    """Returns what `take_part(first_sms)` leaves over, or `n_sms` of it. In another process that is
    the same division only under MPS, where both see the same multiprocessors.

    Raises:
        InvalidInputError: nothing, or not so much, is left.
        UnavailableError: the driver refuses.
    """
    context = take_second(_device(), first_sms, n_sms)
    return SmPart(context.n_sms, context)


def _device() -> int:
    cp.cuda.Device().use()
    cp.cuda.runtime.free(0)  # the primary context has to exist
    return int(cp.cuda.Device().id)
