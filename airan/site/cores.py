"""Which of the host's cores a service may use: Layer 1 on a GPU has some to itself.

Its slots are started and collected every half a millisecond by threads that do not sleep. A core
that another process has for some milliseconds, compiling a model's kernels for instance, is a slot
that is not begun in time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from airan.core.config import SiteConfig


def cores_of(config: SiteConfig, service: str, cores: Sequence[int]) -> list[int] | None:
    """The cores of a service by its name; None: it takes what it finds.

    Args:
        config: the site's.
        service: its name.
        cores: that the site may use, ascending.
    """
    n_own = config.gpu.ran_cores
    if config.gpu.layer1 != "gpu" or n_own == 0 or len(cores) < 2 * n_own:
        return None
    return list(cores[:n_own] if service == "l1" else cores[n_own:])


def keep_to_cores(config: SiteConfig, service: str, pid: int) -> None:
    """Has a service's process, just started, and all that it starts use its cores alone."""
    own = cores_of(config, service, sorted(os.sched_getaffinity(0)))
    if own is not None:
        try:
            os.sched_setaffinity(pid, own)
        except ProcessLookupError:
            return  # it has ended already, and is started again
