"""The fleet as flat arrays, which the search works on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from orchestrator.geometry import Geometry
from orchestrator.options import Option, maximal_options
from orchestrator.placement.model import Fleet, FleetGpu, sms_on

MAX_PARTS = 7
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Division:
    """One way to divide a kind of GPU, as the search sees it."""

    option: Option
    ran_sms: int
    parts: tuple[tuple[int, int], ...]
    """(SMs, MiB) of the AI's partitions, largest first."""
    placements: tuple[int, ...]
    """Index of each part's placement in the option's layout."""


@cache
def divisions(geometry: Geometry) -> tuple[Division, ...]:
    """The ways to divide a GPU of which none is at least as good for both sides as another.

    Sorted by the RAN's SMs.
    """
    found: dict[tuple[tuple[int, int], ...], Division] = {}
    for option in maximal_options(geometry):
        one = _division(geometry, option)
        if one.parts not in found or found[one.parts].ran_sms < one.ran_sms:
            found[one.parts] = one
    all_of = sorted(found.values(), key=lambda one: (one.ran_sms, one.parts))
    kept = [one for one in all_of if not any(_beats(other, one) for other in all_of)]
    return tuple(kept)


def _division(geometry: Geometry, option: Option) -> Division:
    parts = []
    for index, (placement, role) in enumerate(zip(option.layout, option.roles, strict=True)):
        if role == "ai":
            profile = geometry.profile(placement.profile)
            parts.append((profile.sm_count, profile.memory_mib, index))
    parts.sort(key=lambda part: (-part[0], -part[1], part[2]))
    return Division(
        option,
        option.ran_sms,
        tuple((sms, memory_mib) for sms, memory_mib, _ in parts),
        tuple(index for _, _, index in parts),
    )


def _beats(one: Division, other: Division) -> bool:
    """Whether `one` gives the RAN as much, and each of the other's AI parts one as large."""
    if one is other or one.ran_sms < other.ran_sms or len(one.parts) < len(other.parts):
        return False
    pairs = zip(one.parts, other.parts, strict=False)
    return all(mine[0] >= its[0] and mine[1] >= its[1] for mine, its in pairs)


@dataclass(frozen=True)
class Tables:
    """Indices follow the order in the fleet. Divisions of all kinds of GPU lie in a row."""

    division_of: tuple[Division, ...]
    kind: Ints
    """[gpu] which geometry."""
    first: Ints
    """[kind + 1] where its divisions begin."""
    division_ran: Ints
    """[division] SMs of the RAN."""
    part_sms: Ints
    """[division, MAX_PARTS]"""
    part_mib: Ints
    """[division, MAX_PARTS]"""
    site: Ints
    """[gpu]"""
    node: Ints
    """[gpu]"""
    speed: Ints
    """[gpu] which speed, as the last index of the needs."""
    cell_sms: Ints
    """[cell, speed]"""
    cell_ok: Bools
    """[cell, site]"""
    cell_gpu: Ints
    """[cell] where it is now, -1 for nowhere."""
    cell_group: Ints
    """[cell], -1 for none."""
    group_cap: Ints
    """[group] cells on one node without penalty."""
    engine_sms: Ints
    """[engine, speed]"""
    engine_mib: Ints
    """[engine]"""
    engine_value: Floats
    """[engine]"""
    engine_ok: Bools
    """[engine, site]"""
    engine_gpu: Ints
    """[engine] where it is now, -1 for nowhere."""
    costs: Floats
    """Spread penalty, cost of moving a cell, of moving an engine as a share of its value."""
    n_nodes: int


def tables_of(fleet: Fleet) -> Tables:
    """Flattens the fleet."""
    geometries = list(dict.fromkeys(gpu.geometry for gpu in fleet.gpus))
    of_kind = [divisions(geometry) for geometry in geometries]
    flat = tuple(one for kind in of_kind for one in kind)
    sites = _numbered(gpu.site for gpu in fleet.gpus)
    nodes = _numbered((gpu.site, gpu.node) for gpu in fleet.gpus)
    speeds = list(dict.fromkeys(gpu.speed for gpu in fleet.gpus))
    at_speed = [next(gpu for gpu in fleet.gpus if gpu.speed == speed) for speed in speeds]
    index = {gpu.uuid: number for number, gpu in enumerate(fleet.gpus)}
    groups = {group: number for number, group in enumerate(fleet.group_caps)}
    part_sms = np.zeros((len(flat), MAX_PARTS), np.int64)
    part_mib = np.zeros((len(flat), MAX_PARTS), np.int64)
    for number, one in enumerate(flat):
        for part, (sms, mib) in enumerate(one.parts):
            part_sms[number, part], part_mib[number, part] = sms, mib
    return Tables(
        division_of=flat,
        kind=_ints(geometries.index(gpu.geometry) for gpu in fleet.gpus),
        first=_ints(np.cumsum([0] + [len(kind) for kind in of_kind])),
        division_ran=_ints(one.ran_sms for one in flat),
        part_sms=part_sms,
        part_mib=part_mib,
        site=_ints(sites[gpu.site] for gpu in fleet.gpus),
        node=_ints(nodes[gpu.site, gpu.node] for gpu in fleet.gpus),
        speed=_ints(speeds.index(gpu.speed) for gpu in fleet.gpus),
        cell_sms=_needs([cell.sms for cell in fleet.cells], at_speed),
        cell_ok=_allowed([cell.sites for cell in fleet.cells], sites),
        cell_gpu=_ints(index.get(cell.gpu, -1) for cell in fleet.cells),
        cell_group=_ints(groups.get(cell.group, -1) for cell in fleet.cells),
        group_cap=_ints(fleet.group_caps.values()),
        engine_sms=_needs([one.sms for one in fleet.engines], at_speed),
        engine_mib=_ints(one.memory_mib for one in fleet.engines),
        engine_value=np.array([one.value for one in fleet.engines], np.float64),
        engine_ok=_allowed([one.sites for one in fleet.engines], sites),
        engine_gpu=_ints(index.get(one.gpu, -1) for one in fleet.engines),
        costs=np.array([fleet.spread_penalty, fleet.cell_move_cost, fleet.engine_move_cost]),
        n_nodes=len(nodes),
    )


def _numbered(names: Iterable[T]) -> dict[T, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), np.int64)


def _needs(sms: list[int], at_speed: list[FleetGpu]) -> Ints:
    rows = [[sms_on(need, gpu) for gpu in at_speed] for need in sms]
    return np.array(rows, np.int64).reshape(len(rows), len(at_speed))


def _allowed(of_each: list[frozenset[str]], sites: dict[str, int]) -> Bools:
    found = np.zeros((len(of_each), max(1, len(sites))), np.bool_)
    for number, names in enumerate(of_each):
        for name in names:
            if name in sites:
                found[number, sites[name]] = True
    return found
