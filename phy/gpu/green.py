"""Green contexts: a GPU's multiprocessors divided between two sides, the same way in every process.

Whoever calls `divide` with the same numbers gets the same division, so that one process can take
its first part and another its second. Both have to be clients of one MPS daemon to run at once.
It needs the driver's bindings and neither CuPy nor torch; a primary context has to exist.

Spec: CUDA driver API, "Green Contexts" (CUDA 12.4 and later)
"""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver

from airan.core.errors import InvalidInputError, UnavailableError


class GreenContext:
    """Some multiprocessors, whose streams keep to them.

    Attributes:
        n_sms: how many they are; the driver rounds up.
    """

    def __init__(self, part: Any, device: Any) -> None:
        """`part` is an SM resource of the driver's.

        Raises:
            UnavailableError: the driver refuses.
        """
        self.n_sms = int(part.sm.smCount)
        description = driver_call(driver.cuDevResourceGenerateDesc([part], 1))
        flags = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        self._context: Any = driver_call(driver.cuGreenCtxCreate(description, device, flags))
        self._streams: list[Any] = []

    def new_stream(self, lower: int = 0) -> int:
        """One more stream, `lower` steps below the highest priority; its handle.

        Raises:
            UnavailableError: the driver refuses.
        """
        lowest, highest = driver_call(driver.cuCtxGetStreamPriorityRange())
        priority = min(int(highest) + lower, int(lowest))
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = driver_call(driver.cuGreenCtxStreamCreate(self._context, flags, priority))
        self._streams.append(stream)
        return int(stream)

    def close(self) -> None:
        """Waits for the streams and ends them and the context; again is no error."""
        for stream in self._streams:
            driver_call(driver.cuStreamSynchronize(stream))
            driver_call(driver.cuStreamDestroy(stream))
        self._streams.clear()
        if self._context is not None:
            driver_call(driver.cuGreenCtxDestroy(self._context))
            self._context = None


def count_sms(device_index: int) -> int:
    """Multiprocessors that this process may use.

    Raises:
        UnavailableError: the driver refuses.
    """
    return int(_available(device_index)[1].sm.smCount)


def take_first(device_index: int, n_sms: int) -> GreenContext:
    """The first `n_sms` multiprocessors, rounded up to what the GPU can split off.

    Raises:
        InvalidInputError: `n_sms` is not positive, or more than there are.
        UnavailableError: the driver refuses.
    """
    device, available = _available(device_index)
    _check_count("n_sms", n_sms, available.sm.smCount)
    first, _ = _split(available, n_sms)
    return GreenContext(first, device)


def take_second(device_index: int, first_sms: int, n_sms: int | None = None) -> GreenContext:
    """`n_sms` of those that `take_first(device_index, first_sms)` leaves; None: all of these.

    Raises:
        InvalidInputError: there are not so many.
        UnavailableError: the driver refuses.
    """
    device, available = _available(device_index)
    _check_count("first_sms", first_sms, available.sm.smCount - 1)
    _, rest = _split(available, first_sms)
    if rest.sm.smCount == 0:
        raise InvalidInputError("first_sms", f"{first_sms}, rounded up, leaves none over")
    if n_sms is None:
        return GreenContext(rest, device)
    _check_count("n_sms", n_sms, rest.sm.smCount)
    if n_sms == rest.sm.smCount:
        return GreenContext(rest, device)
    second, _ = _split(rest, n_sms)
    return GreenContext(second, device)


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


def _available(device_index: int) -> tuple[Any, Any]:
    device = driver_call(driver.cuDeviceGet(device_index))
    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    return device, driver_call(driver.cuDeviceGetDevResource(device, kind))


def _split(resource: Any, n_sms: int) -> tuple[Any, Any]:
    groups, _, rest = driver_call(driver.cuDevSmResourceSplitByCount(1, resource, 0, n_sms))
    return groups[0], rest


def _check_count(name: str, n_sms: int, most: int) -> None:
    if not 0 < n_sms <= most:
        raise InvalidInputError(name, f"must lie in [1, {most}], got {n_sms}")
