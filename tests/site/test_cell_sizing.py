"""What the cells of a site need of its GPUs."""

from __future__ import annotations

import pytest

from airan.core import config
from airan.core.errors import ConfigError
from airan.site.cell_sizing import MeasuredSizing, PublishedSizing, sizing
from airan.site.cells import Allocations, CellGroup
from phy.cost import CostModel
from sims.ran_load import DiurnalProfile

GROUP = CellGroup(18, 1, Allocations(106), DiurnalProfile())
COST = CostModel(
    base_us=100.0, us_per_prb=2.0, error_us=1.0, n_slots=10, max_n_prb=106, device="test"
)


def site(**environ: str) -> config.SiteConfig:
    return config.load(None, environ)


def test_the_published_scale_is_what_a_site_goes_by_unless_told_otherwise() -> None:
    assert isinstance(sizing(site(), GROUP, COST), PublishedSizing)


def measured(**environ: str) -> MeasuredSizing:
    found = sizing(site(AIRAN_RAN__SIZING="measured", **environ), GROUP, COST)
    assert isinstance(found, MeasuredSizing)
    return found


def test_measured_cells_report_their_carrier_and_mast() -> None:
    cells = measured().cells((0.5,) * 4)
    assert [cell.group for cell in cells] == ["mast-00"] * 3 + ["mast-01"]
    assert {(cell.n_prb, cell.n_layers, cell.uplink_mcs) for cell in cells} == {(273, 4, 27)}
    assert [cell.live for cell in cells] == [True, False, False, False]


def test_measured_demand_grows_with_load_and_takes_the_fewest_gpus() -> None:
    one, four = measured(), measured(AIRAN_NODE__N_GPUS="4")
    shares = [one.demand_share((load,) * 18) for load in (0.2, 0.6, 1.0)]
    assert 0.0 < shares[0] < shares[1] < shares[2] < 1.0
    assert four.demand_share((1.0,) * 18) == pytest.approx(shares[2] / 4)
    many = (1.0,) * 90
    assert one.demand_share(many) == 1.0
    assert 0.25 < four.demand_share(many) < 1.0


def test_a_gpu_without_a_cost_model_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"A100.*ran\.sizing to published"):
        measured(AIRAN_NODE__GPU="A100-SXM4-80GB")
