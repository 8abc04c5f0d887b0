"""The fleet as flat arrays, which the search works on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from orchestrator.geometry import Geometry
from orchestrator.mig import Placement
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
    placements: tuple[Placement, ...]
    """Where each part is."""
    kept: frozenset[Placement]
    """Those of them in which engines run now."""


@cache
def divisions(
    geometry: Geometry, running: frozenset[Placement] = frozenset()
) -> tuple[Division, ...]:
    """The ways to divide a GPU of which none is at least as good for both sides as another.

    A way is better only if it also keeps the partitions in which engines are `running` that the
    other keeps. Sorted by the RAN's SMs.
    """
    found: dict[tuple[Any, ...], Division] = {}
    for option in _by_ai(geometry):
        one = _division(geometry, option, running)
        key = (one.parts, one.kept)
        if key not in found or found[key].ran_sms < one.ran_sms:
            found[key] = one
    all_of = sorted(found.values(), key=lambda one: (one.ran_sms, one.parts, sorted(one.kept)))
    return tuple(
        one
        for one in all_of
        if not any(
            other is not one and other.ran_sms >= one.ran_sms and covers(other, one)
            for other in all_of
        )
    )


@cache
def _by_ai(geometry: Geometry) -> tuple[Option, ...]:
    """One option for every set of AI partitions: that which gives the RAN most."""
    found: dict[frozenset[Placement], Option] = {}
    for option in maximal_options(geometry):
        if option.ai not in found or found[option.ai].ran_sms < option.ran_sms:
            found[option.ai] = option
    return tuple(found.values())


def _division(geometry: Geometry, option: Option, running: frozenset[Placement]) -> Division:
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
        tuple(option.layout[index] for _, _, index in parts),
        option.ai & running,
    )


def covers(one: Division, other: Division) -> bool:
    """Whether `one` has, for each AI part of the other, one as large, and keeps what it keeps."""
    if len(one.parts) < len(other.parts) or not one.kept >= other.kept:
        return False
    pairs = zip(one.parts, other.parts, strict=False)
    return all(mine[0] >= its[0] and mine[1] >= its[1] for mine, its in pairs)


class Level(NamedTuple):
    """What a GPU can be divided into once its cells need so much."""

    ran_sms: int
    choices: tuple[int, ...]
    """Indices of divisions, that with the most SMs for the AI first."""


@cache
def levels(geometry: Geometry, running: frozenset[Placement]) -> tuple[Level, ...]:
    """For every number of SMs that the RAN can have: the divisions that leave the AI most."""
    ways = divisions(geometry, running)
    found = []
    for ran_sms in sorted({0, *(one.ran_sms for one in ways)}):
        able = [index for index, one in enumerate(ways) if one.ran_sms >= ran_sms]
        kept = [one for one in able if not any(_beats(ways, other, one) for other in able)]
        kept.sort(key=lambda one: (-sum(sms for sms, _ in ways[one].parts), one))
        found.append(Level(ran_sms, tuple(kept)))
    return tuple(found)


def _beats(ways: tuple[Division, ...], one: int, other: int) -> bool:
    if one == other or not covers(ways[one], ways[other]):
        return False
    return one < other or not covers(ways[other], ways[one])


@dataclass(frozen=True)
class Tables:
    """Indices follow the order in the fleet. Divisions of all kinds of GPU lie in a row."""

    division_of: tuple[Division, ...]
    levels_of: tuple[tuple[Level, ...], ...]
    """[kind]"""
    kind: Ints
    """[gpu] which geometry, with which partitions in use."""
    first: Ints
    """[kind + 1] where its divisions begin."""
    division_ran: Ints
    """[division] SMs of the RAN."""
    part_sms: Ints
    """[division, MAX_PARTS]"""
    part_mib: Ints
    """[division, MAX_PARTS]"""
    part_place: Ints
    """[division, MAX_PARTS] number of the placement in which engines run now, -1 for others."""
    floor: Ints
    """[gpu] SMs that the RAN has in any case."""
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
    group_limit: Ints
    """[group] cells on one node at all."""
    engine_sms: Ints
    """[engine, speed]"""
    engine_mib: Ints
    """[engine]"""
    engine_value: Floats
    """[engine] in the score, where it is now or if it runs nowhere now."""
    engine_moved: Floats
    """[engine] in the score, elsewhere."""
    engine_ok: Bools
    """[engine, site]"""
    engine_gpu: Ints
    """[engine] where it is now, -1 for nowhere."""
    engine_place: Ints
    """[engine] number of the placement in which it is, -1 if any of its GPU will do."""
    home_value: Floats
    """[gpu, placement] of the engines that run there now."""
    costs: Floats
    """Spread penalty, cost of moving a cell, weight of a cell."""
    n_nodes: int


def tables_of(fleet: Fleet) -> Tables:
    """Flattens the fleet."""
    kinds = [(gpu.geometry, fleet.partitions_now[gpu.uuid]) for gpu in fleet.gpus]
    number_of = _numbered(kinds)
    of_kind = [divisions(*kind) for kind in number_of]
    flat = tuple(one for kind in of_kind for one in kind)
    sites = _numbered(gpu.site for gpu in fleet.gpus)
    nodes = _numbered((gpu.site, gpu.node) for gpu in fleet.gpus)
    speeds = list(dict.fromkeys(gpu.speed for gpu in fleet.gpus))
    at_speed = [next(gpu for gpu in fleet.gpus if gpu.speed == speed) for speed in speeds]
    index = {gpu.uuid: number for number, gpu in enumerate(fleet.gpus)}
    groups = {group: number for number, group in enumerate(fleet.group_caps)}
    places = _numbered(sorted(frozenset[Placement]().union(*fleet.partitions_now.values())))
    engine_gpu = [index.get(one.gpu, -1) for one in fleet.engines]
    engine_place = [
        -1 if one.partition is None or gpu < 0 else places[one.partition]
        for one, gpu in zip(fleet.engines, engine_gpu, strict=True)
    ]
    value, moved = _values(fleet)
    home_value = np.zeros((len(fleet.gpus), max(1, len(places))))
    for gpu, place, worth in zip(engine_gpu, engine_place, value, strict=True):
        if place >= 0:
            home_value[gpu, place] += worth
    return Tables(
        division_of=flat,
        levels_of=tuple(levels(*kind) for kind in number_of),
        kind=_ints(number_of[kind] for kind in kinds),
        first=_ints(np.cumsum([0] + [len(kind) for kind in of_kind])),
        division_ran=_ints(one.ran_sms for one in flat),
        **_parts(flat, places),
        floor=_ints(gpu.ran_floor_sms for gpu in fleet.gpus),
        site=_ints(sites[gpu.site] for gpu in fleet.gpus),
        node=_ints(nodes[gpu.site, gpu.node] for gpu in fleet.gpus),
        speed=_ints(speeds.index(gpu.speed) for gpu in fleet.gpus),
        cell_sms=_needs([cell.sms for cell in fleet.cells], at_speed),
        cell_ok=_allowed([cell.sites for cell in fleet.cells], sites),
        cell_gpu=_ints(index.get(cell.gpu, -1) for cell in fleet.cells),
        cell_group=_ints(groups.get(cell.group, -1) for cell in fleet.cells),
        group_cap=_ints(fleet.group_caps.values()),
        group_limit=_ints(fleet.max_per_node.get(group, len(fleet.cells)) for group in groups),
        engine_sms=_needs([one.sms for one in fleet.engines], at_speed),
        engine_mib=_ints(one.memory_mib for one in fleet.engines),
        engine_value=value,
        engine_moved=moved,
        engine_ok=_allowed([one.sites for one in fleet.engines], sites),
        engine_gpu=_ints(engine_gpu),
        engine_place=_ints(engine_place),
        home_value=home_value,
        costs=np.array([fleet.spread_penalty, fleet.cell_move_cost, fleet.cell_weight]),
        n_nodes=len(nodes),
    )


def _values(fleet: Fleet) -> tuple[Floats, Floats]:
    """What each engine adds to the score where it is, and elsewhere."""
    values = np.array([one.value for one in fleet.engines], np.float64)
    reserved = np.array([one.is_reserved for one in fleet.engines], np.float64)
    weights = fleet.reserved_weight * reserved
    return weights + values, weights + values * (1.0 - fleet.engine_move_cost)


def _parts(flat: tuple[Division, ...], places: dict[Placement, int]) -> dict[str, Ints]:
    sms, mib = (np.zeros((len(flat), MAX_PARTS), np.int64) for _ in range(2))
    place = np.full((len(flat), MAX_PARTS), -1, np.int64)
    for number, one in enumerate(flat):
        for part, (size, where) in enumerate(zip(one.parts, one.placements, strict=True)):
            sms[number, part], mib[number, part] = size
            place[number, part] = places[where] if where in one.kept else -1
    return {"part_sms": sms, "part_mib": mib, "part_place": place}


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
