"""What the site's cells need of the GPUs, and what they are reported as."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

from airan.core.config import SiteConfig
from airan.core.errors import CapacityError, ConfigError, InvalidInputError, NotFoundError
from airan.core.ran_config import CellSizeConfig
from airan.site.cells import CellGroup
from orchestrator.cell_demand import CellConfig, CellDemand, CellLoad
from orchestrator.mig import MigGeometry
from orchestrator.views import CellView
from phy.cost import CostModel


class Sizing(Protocol):
    """One way to say what cells need."""

    def cells(self, loads: tuple[float, ...]) -> tuple[CellView, ...]:
        """The cells as they are reported."""
        ...

    def demand_share(self, loads: tuple[float, ...]) -> float:
        """Share of the GPU pool that the cells need together."""
        ...


@dataclass(frozen=True)
class PublishedSizing:
    """cuPHY's published 20 peak cells a GPU; the shape, cost against load, as measured here."""

    group: CellGroup
    cost: CostModel

    def cells(self, loads: tuple[float, ...]) -> tuple[CellView, ...]:
        """See Sizing."""
        n_prb = self.group.allocations.n_prb
        return tuple(
            CellView(cell_id(number), number == 0, load, n_prb) for number, load in enumerate(loads)
        )

    def demand_share(self, loads: tuple[float, ...]) -> float:
        """See Sizing."""
        return self.group.demand_share(loads, self.cost)


def carrier_of(size: CellSizeConfig) -> CellConfig:
    """What of a cell's size its slots' cost depends on."""
    return CellConfig(size.n_prb, size.n_layers, size.n_rx, size.uplink_mcs, size.downlink_mcs)


@dataclass(frozen=True)
class MeasuredSizing:
    """SMs by the cost model that phy's kernels were measured for, all cells of one carrier."""

    model: CellDemand
    n_gpus: int
    size: CellSizeConfig
    all_live: bool = False
    """Every cell's slots are decoded, and not the first one's only."""

    @property
    def config(self) -> CellConfig:
        """Every cell's carrier."""
        return carrier_of(self.size)

    def cells(self, loads: tuple[float, ...]) -> tuple[CellView, ...]:
        """See Sizing."""
        size = self.size
        return tuple(
            CellView(
                cell_id(number),
                self.all_live or number == 0,
                load,
                size.n_prb,
                size.n_layers,
                size.n_rx,
                size.uplink_mcs,
                size.downlink_mcs,
                f"mast-{number // size.cells_per_mast:02d}",
            )
            for number, load in enumerate(loads)
        )

    def demand_share(self, loads: tuple[float, ...]) -> float:
        """See Sizing. On the fewest GPUs that carry them, dealt out evenly."""
        config = self.config
        for used in range(1, self.n_gpus + 1):
            with contextlib.suppress(CapacityError):
                sms = sum(
                    self.model.sms(CellLoad(config, load) for load in loads[gpu::used])
                    for gpu in range(used)
                )
                return sms / (self.n_gpus * self.model.sm_count)
        return 1.0


def sizing(config: SiteConfig, group: CellGroup, cost: CostModel) -> Sizing:
    """The way that the configuration asks for.

    Raises:
        ConfigError: no cost model fits the site's GPU, or the carrier was not measured.
    """
    if config.ran.sizing == "published":
        return PublishedSizing(group, cost)
    return measured_sizing(config)


def measured_sizing(config: SiteConfig) -> MeasuredSizing:
    """By the cost model of the site's GPU.

    Raises:
        ConfigError: none fits it, or the carrier was not measured.
    """
    product = config.node.gpu
    try:
        model = CellDemand.of(product, sm_count(config))
        all_live = config.gpu.layer1 == "gpu"
        measured = MeasuredSizing(model, config.node.n_gpus, config.ran.sized_as, all_live)
        measured.demand_share((1.0,))
    except InvalidInputError as error:
        raise ConfigError(
            f"ran.sizing: measured cannot be had: {error.message}",
            remedy="change ran.sized_as or node.gpu, or set ran.sizing to published",
        ) from error
    return measured


def sm_count(config: SiteConfig) -> int:
    """Of the site's kind of GPU.

    Raises:
        ConfigError: it is not known.
    """
    try:
        return MigGeometry.load(config.node.gpu).sm_count
    except NotFoundError as error:
        raise ConfigError(f"node.gpu: {error.message}", remedy=error.remedy) from error


def cell_id(number: int) -> str:
    """The name of a cell."""
    return f"cell-{number:02d}"
