"""Streams on a part of the GPU's multiprocessors: green contexts.

What runs on such a stream has its SMs to itself, as long as everything else stays on streams of
other parts of the same split.

Spec: CUDA driver API, "Green Contexts" (CUDA 12.4 and later)
"""

from __future__ import annotations

from typing import Any

import cupy as cp
from cuda.bindings import driver

from airan.core.errors import InvalidInputError, UnavailableError


class SmPart:
    """A part of the GPU, whose streams keep to its multiprocessors.

    Attributes:
        n_sms: multiprocessors it really has; the driver rounds up.
    """

    def __init__(self, n_sms: int, context: Any = None) -> None:
        """`context` is the green context; None for the whole GPU."""
        self.n_sms = n_sms
        self._context = context
        self._raw: list[Any] = []

    def new_stream(self, lower: int = 0) -> Any:
        """Returns one more CuPy stream, `lower` steps below the highest priority.

        Raises:
            UnavailableError: the driver refuses.
        """
        lowest, highest = driver_call(driver.cuCtxGetStreamPriorityRange())
        priority = min(int(highest) + lower, int(lowest))
        if self._context is None:
            return cp.cuda.Stream(non_blocking=True, priority=priority)
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        raw = driver_call(driver.cuGreenCtxStreamCreate(self._context, flags, priority))
        self._raw.append(raw)
        return cp.cuda.ExternalStream(int(raw))

    def close(self) -> None:
        """Waits for the streams and ends them and the part."""
        for raw in self._raw:
            driver_call(driver.cuStreamSynchronize(raw))
            driver_call(driver.cuStreamDestroy(raw))
        self._raw.clear()
        if self._context is not None:
            driver_call(driver.cuGreenCtxDestroy(self._context))
            self._context = None


def take_part(n_sms: int | None) -> SmPart:
    """Returns `n_sms` multiprocessors (rounded up to what the GPU can split off), or with None all.

    Raises:
        InvalidInputError: `n_sms` is not positive, or more than the GPU has.
        UnavailableError: the driver refuses.
    """
    cp.cuda.Device().use()
    cp.cuda.runtime.free(0)  # the primary context has to exist
    if n_sms is None:
        properties = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)
        return SmPart(int(properties["multiProcessorCount"]))
    device = driver_call(driver.cuDeviceGet(cp.cuda.Device().id))
    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    available = driver_call(driver.cuDeviceGetDevResource(device, kind))
    if not 0 < n_sms <= available.sm.smCount:
        raise InvalidInputError("n_sms", f"must lie in [1, {available.sm.smCount}], got {n_sms}")
    groups, _, _ = driver_call(driver.cuDevSmResourceSplitByCount(1, available, 0, n_sms))
    part = groups[0]
    description = driver_call(driver.cuDevResourceGenerateDesc([part], 1))
    flags = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
    context = driver_call(driver.cuGreenCtxCreate(description, device, flags))
    return SmPart(int(part.sm.smCount), context)


def take_rest(n_sms: int) -> SmPart:
    """Returns what `take_part(n_sms)` leaves over. In another process that is the same split only
    under MPS, where both see the same multiprocessors.

    Raises:
        InvalidInputError: nothing is left.
        UnavailableError: the driver refuses.
    """
    cp.cuda.Device().use()
    cp.cuda.runtime.free(0)
    device = driver_call(driver.cuDeviceGet(cp.cuda.Device().id))
    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    available = driver_call(driver.cuDeviceGetDevResource(device, kind))
    if not 0 < n_sms < available.sm.smCount:
        raise InvalidInputError("n_sms", f"must lie in [1, {available.sm.smCount}), got {n_sms}")
    _, _, rest = driver_call(driver.cuDevSmResourceSplitByCount(1, available, 0, n_sms))
    if rest.sm.smCount == 0:
        raise InvalidInputError("n_sms", f"{n_sms}, rounded up, leaves none of the GPU over")
    description = driver_call(driver.cuDevResourceGenerateDesc([rest], 1))
    flags = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
    context = driver_call(driver.cuGreenCtxCreate(description, device, flags))
    return SmPart(int(rest.sm.smCount), context)


def driver_call(answer: tuple[Any, ...]) -> Any:
    """Returns what a driver call gave besides its status: nothing, one value or a tuple.

    Raises:
        UnavailableError: the status is an error, which is named.
    """
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        _, name = driver.cuGetErrorName(status)
        text = name.decode() if isinstance(name, bytes) else str(status)
        raise UnavailableError(f"the CUDA driver answered {text}")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)
