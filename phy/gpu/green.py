"""Green contexts: a GPU's multiprocessors divided between two sides, the same way in every process.

Whoever calls `divide` with the same numbers gets the same division, so that one process can take
its first part and another its second. Both have to be clients of one MPS daemon to run at once.
It needs the driver's bindings and neither CuPy nor torch; a primary context has to exist.

Spec: CUDA driver API, "Green Contexts" (CUDA 12.4 and later)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cuda.bindings import driver

from airan.core.errors import InvalidInputError, UnavailableError

_GROUP_SMS = 8
"""The driver splits off no fewer, and multiples only, from compute capability 9.0 on."""


class GreenContext:
    """Some multiprocessors, whose streams keep to them.

    Attributes:
        n_sms: how many they are; the driver rounds up.
    """

    def __init__(self, groups: Sequence[Any], device: Any) -> None:
        """`groups` are SM resources that the driver made in one split.

        Raises:
            UnavailableError: the driver refuses.
        """
        self.n_sms = sum(int(group.sm.smCount) for group in groups)
        description = driver_call(driver.cuDevResourceGenerateDesc(list(groups), len(groups)))
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
    """The first `n_sms` multiprocessors, rounded up to whole groups.

    Raises:
        InvalidInputError: `n_sms` is not positive, or more than there are.
        UnavailableError: the driver refuses.
    """
    device, available = _available(device_index)
    _check_count("n_sms", n_sms, available.sm.smCount)
    groups, rest = _groups(available)
    wanted = _n_groups(n_sms)
    return GreenContext(groups[:wanted] if wanted <= len(groups) else [*groups, rest], device)


def take_second(device_index: int, first_sms: int, n_sms: int | None = None) -> GreenContext:
    """`n_sms`, rounded up to whole groups, of those that `take_first(device_index, first_sms)`
    leaves; None: all of these.

    Raises:
        InvalidInputError: there are not so many.
        UnavailableError: the driver refuses.
    """
    device, available = _available(device_index)
    _check_count("first_sms", first_sms, available.sm.smCount - 1)
    groups, rest = _groups(available)
    left = groups[_n_groups(first_sms) :]
    n_left = sum(each.sm.smCount for each in (*left, rest))
    _check_count("n_sms", n_left if n_sms is None else n_sms, n_left)
    if n_sms is not None and _n_groups(n_sms) <= len(left):
        return GreenContext(left[: _n_groups(n_sms)], device)
    return GreenContext([*left, rest] if rest.sm.smCount else left, device)


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


def _groups(available: Any) -> tuple[list[Any], Any]:
    """All multiprocessors in groups, and those that fill none. Parts that lie beside each other
    have to be put together from one split: the driver does not split what another one left."""
    n_groups = available.sm.smCount // _GROUP_SMS
    groups, n_made, rest = driver_call(
        driver.cuDevSmResourceSplitByCount(n_groups, available, 0, _GROUP_SMS)
    )
    return list(groups[: int(n_made)]), rest


def _n_groups(n_sms: int) -> int:
    return -(-n_sms // _GROUP_SMS)


def _check_count(name: str, n_sms: int, most: int) -> None:
    if not 0 < n_sms <= most:
        raise InvalidInputError(name, f"must lie in [1, {most}], got {n_sms}")
