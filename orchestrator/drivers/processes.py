"""Processes by pid and start time, so that a recycled pid is never taken for another."""

from __future__ import annotations

import asyncio
import os

import psutil

# Start times come in clock ticks of 10 ms.
_SAME_S = 0.05
SITE_MARK = "AIRAN_SITE_INSTANCE"
"""The supervisor marks every process of a run with it."""


def started_s(pid: int) -> float | None:
    """When the live process `pid` started (Unix seconds); None if there is none."""
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def of_this_site(pid: int) -> bool:
    """Whether the process belongs to the same run of the site as this one.

    Outside a supervised site (no mark in our own environment) every process does.
    """
    mark = os.environ.get(SITE_MARK)
    if not mark:
        return True
    try:
        return psutil.Process(pid).environ().get(SITE_MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def is_alive(pid: int, start_s: float) -> bool:
    """Whether the process that started then still lives under that pid."""
    now = started_s(pid)
    return now is not None and abs(now - start_s) < _SAME_S


async def kill(pid: int, start_s: float, timeout_s: float = 5.0) -> bool:
    """Kills the process that started then; True once it is gone, False if it was already.

    Never kills this process itself.
    """
    if pid == os.getpid() or not is_alive(pid, start_s):
        return False
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return False
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while is_alive(pid, start_s) and asyncio.get_running_loop().time() < deadline_s:
        await asyncio.sleep(0.005)
    return True
