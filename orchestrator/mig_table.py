"""Where MIG geometry comes from: the published table, or a driver's readings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from airan.core.errors import NotFoundError
from orchestrator.mig import MigGeometry, MigProfile

_FAMILY = re.compile(r"(?:MIG )?(\d)g\.\d+gb(\+\S+)?$")

_CHIPS = ("GH200", "GB200", "B200", "H200", "H100", "A100")
_CARDS = {"PCIE", "NVL"}


@dataclass(frozen=True)
class ProfileReading:
    """A GPU instance profile as a driver reports it."""

    name: str
    """With or without NVML's "MIG " before it."""
    profile_id: int
    compute_slices: int
    instance_count: int
    sm_count: int
    memory_mib: int
    placements: tuple[tuple[int, int], ...]
    """(start, size); empty where the driver does not tell without privilege."""


def from_readings(gpu: str, readings: Iterable[ProfileReading]) -> MigGeometry:
    """The geometry as the driver reads it; placements it withholds come from the table.

    Raises:
        NotFoundError: no profile at all, or one of a family the table does not know.
    """
    profiles = [_read_profile(one) for one in readings if _family(one)]
    if not any(profile.key == "7g" for profile in profiles):
        raise NotFoundError(f"the driver reports no MIG profiles for {gpu}")
    profiles.sort(key=lambda one: (one.compute_slices, one.size, one.key))
    return MigGeometry(gpu, tuple(profiles))


def product_of(name: str, memory_mib: int) -> str:
    """The table's name of a product that NVML calls `name`.

    The table's are the boards on a module; those on a card (PCIe, NVL) have other SM counts.

    Raises:
        NotFoundError: it is none of the table's.
    """
    words = set(re.split(r"[ -]", name.upper()))
    chip = next((word for word in _CHIPS if word in words and not words & _CARDS), "")
    near = [
        product
        for product in known()
        if product.startswith(f"{chip}-") and _is_near(product, memory_mib)
    ]
    if not chip or not near:
        raise NotFoundError(
            f"no MIG geometry for {name!r} with {memory_mib} MiB",
            remedy=f"known are {', '.join(known())}",
        )
    return near[0]


def _is_near(product: str, memory_mib: int) -> bool:
    gigabytes = int(re.findall(r"(\d+)GB$", product)[0])
    # 10**9 bytes or 2**30, less what firmware keeps.
    return 0.85 * gigabytes <= memory_mib / 1024 <= 1.02 * gigabytes


def _family(reading: ProfileReading) -> str:
    """The table's key for a profile; empty for those it leaves out, such as other media ones."""
    found = _FAMILY.match(reading.name)
    if found is None:
        return ""
    slices, media = found.groups()
    if media:
        return f"{slices}g{media}" if f"{slices}g{media}" in _table()["placements"] else ""
    keys = [f"{slices}g", f"{slices}g.x2"]
    ids = _table()["placements"]
    return next((k for k in keys if k in ids and ids[k]["profile_id"] == reading.profile_id), "")


def _read_profile(reading: ProfileReading) -> MigProfile:
    key = _family(reading)
    place = _table()["placements"][key]
    starts = tuple(start for start, _ in reading.placements) or tuple(place["starts"])
    size = reading.placements[0][1] if reading.placements else place["size"]
    return MigProfile(
        key=key,
        name=reading.name.removeprefix("MIG "),
        profile_id=reading.profile_id,
        compute_slices=reading.compute_slices,
        size=size,
        starts=starts,
        max_count=reading.instance_count,
        sm_count=reading.sm_count,
        memory_mib=reading.memory_mib,
    )


@cache
def _table() -> dict[str, Any]:
    text = resources.files("orchestrator").joinpath("data/mig_profiles.yaml").read_text("utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


def known() -> tuple[str, ...]:
    """All products of the table."""
    return tuple(_table()["gpus"])


@cache
def load(gpu: str) -> MigGeometry:
    """The geometry of a product, from the published table.

    Raises:
        NotFoundError: the table has no such product; the message lists those it has.
    """
    table = _table()
    if gpu not in table["gpus"]:
        raise NotFoundError(
            f"no MIG geometry for GPU {gpu!r}",
            remedy=f"known are {', '.join(table['gpus'])}",
        )
    rows = table["gpus"][gpu]
    profiles = [
        _profile(key, row, rows["1g"], table["placements"][key])
        for key, row in _with_media(rows).items()
    ]
    profiles.sort(key=lambda one: (one.compute_slices, one.size, one.key))
    return MigGeometry(gpu, tuple(profiles))


def _with_media(rows: dict[str, Any]) -> dict[str, Any]:
    # `1g+me` is a 1g that also holds the media engines; the table lists it only once for all.
    return rows | {"1g+me": rows["1g"] | {"name": rows["1g"]["name"] + "+me"}}


def _profile(
    key: str, row: dict[str, Any], one_slice: dict[str, Any], place: dict[str, Any]
) -> MigProfile:
    compute_slices = int(key[0])
    assumed = []
    sm_count, gib = row["sm"], row["gib"]
    if sm_count is None:
        sm_count, assumed = one_slice["sm"] * compute_slices, ["sm_count"]
    if gib is None:
        gib, assumed = one_slice["gib"] * place["size"], [*assumed, "memory_mib"]
    return MigProfile(
        key=key,
        name=row["name"],
        profile_id=place["profile_id"],
        compute_slices=compute_slices,
        size=place["size"],
        starts=tuple(place["starts"]),
        max_count=place["max"],
        sm_count=sm_count,
        memory_mib=round(gib * 1024),
        assumed=tuple(assumed),
    )
