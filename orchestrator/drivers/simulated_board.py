"""What a simulated GPU reports of itself: faults, power, energy, temperature.

Power follows an assumed linear model: no real GPU stands behind these figures.
"""

from __future__ import annotations

from typing import Any

from orchestrator.drivers.base import GpuInfo
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry
from orchestrator.partition_kinds import kind_of
from orchestrator.shares import ShareGeometry

XID_FELL_OFF_THE_BUS = 79
ASSUMED_LIMIT_W = {
    "A100-SXM4-80GB": 400.0,
    "H100-SXM5-80GB": 700.0,
    "GH200-96GB": 900.0,
    "H200-141GB": 700.0,
    "GH200-144GB": 900.0,
    "B200-180GB": 1000.0,
    "GB200-186GB": 1200.0,
}
"""Power limit by product: of the order of the published ones; a site may configure others."""
ASSUMED_MIG_S = (0.25, 0.15)
"""Time to create and to destroy a GPU instance with its compute instance."""
ASSUMED_IDLE_SHARE = 0.12
"""Of the power limit, drawn when no process uses the GPU."""
ASSUMED_IDLE_C, ASSUMED_BUSY_C = 32.0, 68.0
"""Temperature of an idle and of a fully used GPU; between them it is linear in the power."""


def new_row(uuid: str, product: str, now_s: float) -> dict[str, Any]:
    """The state of a GPU fresh from the factory, as it is kept in the node's file."""
    return {
        "uuid": uuid,
        "product": product,
        "xids": [],
        "ecc_uncorrected": 0,
        "energy_j": 0.0,
        "power_w": power_w(product, 0.0),
        "read_s": now_s,
    }


def power_w(product: str, busy_share: float) -> float:
    """Assumed power when processes use that share of the SMs."""
    return ASSUMED_LIMIT_W[product] * (ASSUMED_IDLE_SHARE + (1 - ASSUMED_IDLE_SHARE) * busy_share)


def is_lost(row: dict[str, Any]) -> bool:
    """Whether the GPU has fallen off the bus."""
    return XID_FELL_OFF_THE_BUS in row["xids"]


def integrate(row: dict[str, Any], busy_share: float, now_s: float) -> None:
    """Adds the energy since the last reading, at the power found then."""
    row["energy_j"] += row["power_w"] * max(0.0, now_s - row["read_s"])
    row["read_s"] = now_s
    row["power_w"] = 0.0 if is_lost(row) else power_w(row["product"], busy_share)


def geometry(product: str, kind: str) -> MigGeometry | ShareGeometry:
    """How a GPU of that product may be divided by that kind of partition.

    Raises:
        NotFoundError: the geometry table has no such product.
        InvalidInputError: there is no such kind.
    """
    mig = MigGeometry.load(product)
    return mig if kind == "mig" else ShareGeometry(product, kind, mig.sm_count, mig.memory_mib)


def delays_s(kind: str) -> tuple[float, float]:
    """Wall seconds that making (or resizing) and removing a partition take."""
    change_s = kind_of(kind).change_ms / 1000.0
    return ASSUMED_MIG_S if kind == "mig" else (change_s, 0.0)


def info(row: dict[str, Any], geometry: Geometry, node: str) -> GpuInfo:
    """The GPU as the driver reports it; a lost one has no readings."""
    lost = is_lost(row)
    limit_w = ASSUMED_LIMIT_W[row["product"]]
    span_c = ASSUMED_BUSY_C - ASSUMED_IDLE_C
    over_idle = (row["power_w"] / limit_w - ASSUMED_IDLE_SHARE) / (1 - ASSUMED_IDLE_SHARE)
    return GpuInfo(
        uuid=row["uuid"],
        name=row["product"],
        simulated=True,
        sm_count=geometry.sm_count,
        memory_mib=geometry.memory_mib,
        xids=tuple(row["xids"]),
        lost=lost,
        node=node,
        mig_mode="enabled" if geometry.kind == "mig" else "disabled",
        ecc_uncorrected=row["ecc_uncorrected"],
        power_w=None if lost else row["power_w"],
        power_limit_w=None if lost else limit_w,
        energy_j=None if lost else row["energy_j"],
        temperature_c=None if lost else ASSUMED_IDLE_C + span_c * over_idle,
    )
