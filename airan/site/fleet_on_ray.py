"""Simulated sites on Ray: a session of its own on this machine, or a cluster that is there."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import RayError

from airan.core.errors import InvalidInputError, UnavailableError
from sims.fleet.account import Account
from sims.fleet.runner import Mapper
from sims.fleet.site import SiteTask, simulate_site

LOCAL = "local"
_REACHED_S = 5.0


def on_ray(address: str) -> Mapper:
    """Simulates each site as one Ray task; `address` is a cluster's `host:port`, whose nodes need
    airan in the same Python environment, or `local`.

    The mapper raises UnavailableError: there is no such cluster, or it is lost on the way.

    Raises:
        InvalidInputError: the address is none.
    """
    host, _, port = address.rpartition(":")
    if address != LOCAL and not (host and port.isdecimal()):
        raise InvalidInputError(
            "--ray", f"{address!r} is no address", remedy="give HOST:PORT of Ray's head, or local"
        )

    def mapped(tasks: Sequence[SiteTask]) -> Iterator[tuple[int, Account]]:
        try:
            _connect(address)
            yield from _simulate(tasks)
        except (RayError, OSError, RuntimeError) as error:
            raise UnavailableError(
                f"the simulation on Ray at {address} has ended: {error}",
                remedy="start it again: with --resume, sites that are done are kept",
            ) from error
        finally:
            ray.shutdown()

    return mapped


def _connect(address: str) -> None:
    if address == LOCAL:
        ray.init(
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            configure_logging=False,
        )
    else:
        host, _, port = address.rpartition(":")
        # Ray itself would try for a minute and a half.
        socket.create_connection((host, int(port)), timeout=_REACHED_S).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)


def _simulate(tasks: Sequence[SiteTask]) -> Iterator[tuple[int, Account]]:
    task = ray.remote(simulate_site)
    running = {task.remote(one): number for number, one in enumerate(tasks)}
    while running:
        ended, _ = ray.wait(list(running), num_returns=1)
        yield running.pop(ended[0]), ray.get(ended[0])
