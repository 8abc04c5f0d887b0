"""Which cell and which engine runs on which GPU, over all GPUs and sites."""

from orchestrator.placement.model import (
    EnginePlace,
    Fleet,
    FleetCell,
    FleetEngine,
    FleetGpu,
    FleetPlan,
    FleetSite,
    allowed_sites,
)
from orchestrator.placement.planner import PlannerSettings, place

__all__ = [
    "EnginePlace",
    "Fleet",
    "FleetCell",
    "FleetEngine",
    "FleetGpu",
    "FleetPlan",
    "FleetSite",
    "PlannerSettings",
    "allowed_sites",
    "place",
]
