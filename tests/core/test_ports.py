"""Free ports that stay free."""

from __future__ import annotations

import socket
from pathlib import Path

from airan.core import ports


def first_of_the_kernels() -> int:
    range_ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    return int(range_.split()[0])


def test_ports_differ_can_be_had_and_are_none_that_the_kernel_gives_away() -> None:
    found = ports.free_ports(40)
    assert len(set(found)) == 40
    assert all(port < first_of_the_kernels() for port in found)
    for port in found:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_taken_port_is_passed_over(monkeypatch) -> None:
    with ports.bound_to_free_port("127.0.0.1") as taken:
        number = taken.getsockname()[1]
        drawn = iter([number, number, number + 1, 0])
        monkeypatch.setattr(ports, "_drawn", lambda: next(drawn))
        with ports.bound_to_free_port("127.0.0.1") as found:
            assert found.getsockname()[1] != number


def test_where_the_kernels_range_is_not_known_it_gives_one(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "nothing")
    assert ports.free_ports(1)[0] >= first_of_the_kernels()
