"""Generated fleets of several kinds, for measuring the planner; not taken from any network."""

from __future__ import annotations

import random
from dataclasses import replace

from orchestrator.mig import MigGeometry
from orchestrator.placement.model import Fleet, FleetCell, FleetEngine, FleetGpu
from orchestrator.placement.planner import place
from orchestrator.shares import ShareGeometry

KINDS = ("loose", "tight", "mixed", "green", "residency", "reserved", "gpu_lost")
_FEW = 6
_PRODUCTS = ("GH200-96GB", "H100-SXM5-80GB", "A100-SXM4-80GB")


def small_case(kind: str, seed: int) -> Fleet:
    """A fleet of 3 to 6 GPUs that HiGHS can mostly solve to the optimum."""
    draw = random.Random(f"{kind}-{seed}")
    least = 4 if kind == "gpu_lost" else 3
    n_gpus = draw.randint(least, 6 if kind in ("loose", "residency") else 4)
    crowd = {"loose": 3, "residency": 4, "gpu_lost": 7, "tight": 7}.get(kind, 5)
    return generate(kind, (n_gpus * draw.randint(4, 6), n_gpus * crowd, n_gpus), draw)


def large_case(n_cells: int, n_engines: int, n_gpus: int, seed: int = 1) -> Fleet:
    """A region: ten GPUs a site, two a node."""
    return generate("residency", (n_cells, n_engines, n_gpus), random.Random(seed))


def generate(kind: str, size: tuple[int, int, int], draw: random.Random) -> Fleet:
    """A fleet of (cells, engines, GPUs)."""
    n_cells, n_engines, n_gpus = size
    sites = [f"site-{number}" for number in range(max(1, n_gpus // 10))]
    if kind == "residency" and len(sites) == 1:
        sites = ["site-0", "site-1"]
    gpus = tuple(
        FleetGpu(
            uuid=f"GPU-{number}",
            node=f"node-{number // 2}" if n_gpus > _FEW else f"node-{number}",
            site=sites[number % len(sites)],
            geometry=_geometry(kind, number),
            speed=0.8 if kind == "mixed" and number % 3 == 2 else 1.0,
            ran_floor_sms=48 if kind == "reserved" and number % 2 else 0,
        )
        for number in range(n_gpus)
    )
    cells = tuple(
        FleetCell(
            id=f"cell-{number}",
            sms=draw.choice((4, 6, 8, 10)),
            sites=frozenset(draw.sample(sites, min(2, len(sites)))),
            group=f"mast-{number // 3}",
        )
        for number in range(n_cells)
    )
    engines = tuple(_engine(number, sites, kind, draw) for number in range(n_engines))
    fleet = Fleet(gpus, cells, engines)
    if kind == "reserved":
        fleet = replace(fleet, max_per_node=dict.fromkeys(fleet.group_caps, 1))
    return without_gpu(settled(fleet), gpus[-1].uuid) if kind == "gpu_lost" else fleet


def settled(fleet: Fleet) -> Fleet:
    """The fleet with everything where the planner would put it."""
    return fleet.at(place(fleet))


def without_gpu(fleet: Fleet, *uuids: str) -> Fleet:
    """The fleet after it lost GPUs."""
    return replace(fleet, gpus=tuple(gpu for gpu in fleet.gpus if gpu.uuid not in uuids))


def _geometry(kind: str, number: int) -> MigGeometry | ShareGeometry:
    if kind == "green" and number % 2 == 0:
        return ShareGeometry("H100-SXM5-80GB", "green", 132, 81152, 16)
    return MigGeometry.load(_PRODUCTS[number % 3] if kind == "mixed" else "GH200-96GB")


def _engine(number: int, sites: list[str], kind: str, draw: random.Random) -> FleetEngine:
    anywhere = kind != "residency" or draw.random() < 0.7
    where = sites if anywhere else draw.sample(sites, min(len(sites), draw.randint(1, 3)))
    return FleetEngine(
        id=f"engine-{number}",
        sms=draw.choice((4, 8, 14, 16, 30)),
        memory_mib=draw.choice((2_000, 4_000, 8_000, 16_000, 30_000)),
        value=round(draw.uniform(1.0, 10.0), 3),
        sites=frozenset(where),
        is_reserved=kind == "reserved" and number % 3 == 0,
    )
