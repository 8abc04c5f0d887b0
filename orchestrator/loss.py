"""What a plan costs whom, before it is carried out. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.needs import wanted_sms
from orchestrator.policy import Policy
from orchestrator.pool import Demand, Inventory, Plan, role_sms
from orchestrator.steps import Step
from orchestrator.views import ExpectedLoss


def expected_loss(
    policy: Policy,
    inventory: Inventory,
    demand: Demand,
    chosen: Plan,
    moves: Iterable[Step],
    change_s: float,
) -> ExpectedLoss:
    """What the plan is expected to take from both sides.

    `change_s` is the time to create and destroy one instance.
    """
    kinds = [step.kind for step in moves]
    revoked = kinds.count("revoke")
    changes = kinds.count("create") + kinds.count("destroy")
    soon = max(demand.now_share, demand.forecast_share)
    wanted = wanted_sms(policy, inventory, soon)
    return ExpectedLoss(
        leases_revoked=revoked,
        ai_sms_lost=role_sms(inventory.partitions, "ai") - role_sms(chosen.targets, "ai"),
        ran_shortfall_sms=max(0, wanted - role_sms(chosen.targets, "ran")),
        pause_s=policy.notice_ms / 1000.0 + changes * change_s / 2 if revoked else 0.0,
    )
