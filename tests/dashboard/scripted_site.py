"""A scripted orchestrator and marketplace: a plausible day, worked out from the clock alone.

For tests of what shows a site; it speaks the same types as the real services.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from airan.core.clock import DayClock, ManualClock
from airan.core.errors import UnavailableError
from airan.site.market_reader import parse_stats
from airan.site.snapshot import MarketplaceView
from airan.site.snapshot_source import MarketEvent, SnapshotSource
from orchestrator import views

SITE_HOUR_S = 3600.0
SPEED = 480.0
START_S = 1_760_000_000.0
SM_COUNT = 132
SLOWDOWN = 40.0
BUDGET_US = 1250.0 * SLOWDOWN
EDGES_US = tuple(BUDGET_US * step / 10 for step in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20))
N_CELLS = 18

# (profile, role, start, size, SMs), as a GH200 with 96 GB can be cut.
LAYOUTS = {
    "night": (("4g.48gb", "ai", 0, 4, 64), ("2g.24gb", "ran", 4, 2, 32), ("", "free", 6, 2, 36)),
    "day": (("4g.48gb", "ran", 0, 4, 64), ("3g.48gb", "ai", 4, 4, 60)),
    "peak": (("7g.96gb", "ran", 0, 8, 132),),
}


def hour_load(hour: float) -> float:
    """Mean load of the cells at an hour of the day, in [0, 1]."""

    def bump(centre: float, width: float) -> float:
        distance = min(abs(hour - centre), 24 - abs(hour - centre))
        return math.exp(-((distance / width) ** 2))

    return 0.10 + 0.62 * bump(8.5, 1.4) + 0.36 * bump(13.0, 3.2) + 0.52 * bump(19.5, 2.2)


def demand_share(hour: float) -> float:
    """GPU share the cells need."""
    return 0.05 + 0.85 * hour_load(hour)


def layout_name(hour: float) -> str:
    """Which layout the scripted orchestrator holds."""
    demand = demand_share(hour)
    if demand < 0.19:
        return "night"
    return "day" if demand < 0.47 else "peak"


@dataclass
class ScriptedSite:
    """Answers as the orchestrator and the marketplace; its clock is moved by the test."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(START_S))
    control_away: str | None = None
    """Set: the orchestrator answers with this problem."""
    market_away: str | None = None
    engine_phase: str | None = None
    """Set: the engine is in this phase whatever the lease."""
    layer1_silent_since_s: float | None = None
    ai_busy_integral_s: float = 0.0
    ran_need_integral_s: float = 0.0
    tokens: float = 0.0
    late: int = 0
    preempted: int = 0
    layout: str = "night"
    changed_s: float = START_S
    histogram: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES_US) + 1))
    control_events: list[views.Event] = field(default_factory=list)
    market_events: list[MarketEvent] = field(default_factory=list)

    @property
    def day(self) -> DayClock:
        return DayClock(START_S, 0.0, SPEED)

    def source(self) -> SnapshotSource:
        """The product's own assembly over this script."""
        return SnapshotSource(
            "edge-1", self.day, ScriptedControl(self), ScriptedMarket(self), self.clock
        )

    @property
    def hour(self) -> float:
        return self.day.time_of_day_s(self.clock.now_s()) / SITE_HOUR_S

    @property
    def uptime_s(self) -> float:
        return self.clock.now_s() - START_S

    @property
    def settled(self) -> bool:
        return self.clock.now_s() - self.changed_s >= 1.5

    @property
    def ai_share(self) -> float:
        """SMs leased to the engine."""
        if not self.settled:
            return 0.0
        return sum(sms for _, role, _, _, sms in LAYOUTS[self.layout] if role == "ai") / SM_COUNT

    @property
    def busy(self) -> float:
        """Part of the time the engine generates."""
        return 0.93 + 0.06 * math.sin(self.clock.now_s() / 3.0)

    @property
    def tokens_per_s(self) -> float:
        return 78.0 * self.ai_share * self.busy

    @property
    def waiting(self) -> int:
        if self.ai_share:
            return int(1.5 + 1.5 * math.sin(self.clock.now_s() / 5.0))
        return min(14, 2 + int(self.clock.now_s() - self.changed_s))

    def advance(self, seconds: float) -> None:
        """Moves the clock and lets the site live through that time."""
        self.clock.advance(seconds)
        self.ai_busy_integral_s += seconds * self.ai_share * self.busy
        self.ran_need_integral_s += seconds * demand_share(self.hour)
        self.tokens += seconds * self.tokens_per_s
        self._count_slots(seconds)
        wanted = layout_name(self.hour)
        if wanted != self.layout:
            self._change_layout(wanted)

    def _count_slots(self, seconds: float) -> None:
        centre = 2.0 + 4.5 * hour_load(self.hour)
        for bucket in range(len(self.histogram)):
            self.histogram[bucket] += seconds * 50.0 * math.exp(-((bucket - centre) ** 2) / 1.6)

    def _change_layout(self, wanted: str) -> None:
        revokes = any(role == "ai" for _, role, *_ in LAYOUTS[self.layout])
        self.layout, self.changed_s = wanted, self.clock.now_s()
        generation = len(self.control_events) + 1
        if revokes:
            self._control_event(
                "warning",
                "lease.revoked",
                f"RAN takes capacity back: lease l-{generation} of engine-0 revoked, notice 400 ms",
            )
            self.preempted += 1
            self._market_event(
                "warning",
                "request.preempted",
                f"request r-{generation} paused after {37 + generation} tokens; goes on later",
            )
        self._control_event(
            "info",
            "plan.applied",
            f"plan {generation}: {wanted} layout, RAN needs {demand_share(self.hour):.0%}",
        )
        if wanted != "peak":
            self._market_event(
                "info", "engine.serving", "engine-0 serves SmolLM2-135M-Instruct again"
            )

    def _control_event(self, severity: str, kind: str, message: str) -> None:
        seq = len(self.control_events) + 1
        self.control_events.append(
            views.Event(
                seq=seq, time_s=self.clock.now_s(), severity=severity, kind=kind, message=message
            )
        )

    def _market_event(self, severity: str, kind: str, message: str) -> None:
        seq = len(self.market_events) + 1
        self.market_events.append(MarketEvent(seq, self.clock.now_s(), severity, kind, message))

    def status(self) -> views.SiteStatus:
        """The orchestrator's answer now."""
        now_s = self.clock.now_s()
        uptime_s = max(self.uptime_s, 1e-9)
        leases = []
        if self.ai_share:
            leases = [
                views.Lease(
                    id=f"l-{len(self.control_events)}",
                    holder="engine-0",
                    state="active",
                    sm_count=round(self.ai_share * SM_COUNT),
                )
            ]
        lease_id = leases[0].id if leases else ""
        return views.SiteStatus(
            site="edge-1",
            time_s=now_s,
            simulated=True,
            uptime_s=self.uptime_s,
            gpus=[self._gpu(lease_id)],
            policy=views.PolicyView(
                kind="demand",
                ran_share=0.6,
                headroom=0.10,
                min_ran_share=0.1,
                min_lease_s=6,
                notice_ms=400,
            ),
            plan=views.PlanView(
                generation=len(self.control_events) + 1,
                state="applied" if self.settled else "applying",
                reason=f"RAN needs {demand_share(self.hour):.0%}",
                ran_share=0.5,
                ai_share=self.ai_share,
            ),
            demand=views.DemandView(
                now_share=demand_share(self.hour),
                forecast_share=demand_share(self.hour + 0.4),
                horizon_s=4.0,
                source="measured cost per slot",
            ),
            leases=leases,
            slots=self._slots(now_s),
            cells=[
                views.CellView(
                    id=f"cell-{index:02d}", live=index == 0, load=self._cell_load(index), n_prb=51
                )
                for index in range(N_CELLS)
            ],
            utilisation=views.Utilisation(
                ran_demand_share=self.ran_need_integral_s / uptime_s,
                ai_busy_share=self.ai_busy_integral_s / uptime_s,
                total_share=(self.ran_need_integral_s + self.ai_busy_integral_s) / uptime_s,
                ran_held_share=0.6,
                ai_leased_share=0.35,
            ),
        )

    def _cell_load(self, index: int) -> float:
        return min(1.0, hour_load(self.hour) * (0.75 + 0.5 * math.sin(index * 2.4) ** 2))

    def _gpu(self, lease_id: str) -> views.GpuView:
        state = "ready" if self.settled else "creating"
        return views.GpuView(
            uuid="GPU-sim-0",
            name="GH200-96GB",
            simulated=True,
            sm_count=SM_COUNT,
            memory_mib=96 * 1024,
            memory_slices=8,
            partitions=[
                views.PartitionView(
                    id=f"{self.layout}-{start}",
                    kind="mig",
                    profile=profile,
                    role=role,
                    start=start,
                    size=size,
                    sm_count=sms,
                    memory_mib=size * 12 * 1024,
                    state=state if role == "ai" else "ready",
                    lease_id=lease_id if role == "ai" else "",
                )
                for profile, role, start, size, sms in LAYOUTS[self.layout]
            ],
        )

    def _slots(self, now_s: float) -> views.SlotStats:
        last_s = now_s - 0.2 if self.layer1_silent_since_s is None else self.layer1_silent_since_s
        load = hour_load(self.hour)
        wobble = 1 + 0.08 * math.sin(now_s * 1.7) + 0.05 * math.sin(now_s * 0.37)
        return views.SlotStats(
            slots=int(self.uptime_s * 50),
            slots_late=self.late,
            crc_failed=int(self.uptime_s / 7),
            p50_us=(0.16 + 0.34 * load) * BUDGET_US * wobble,
            p99_us=(0.24 + 0.42 * load) * BUDGET_US * wobble,
            max_us=(0.30 + 0.50 * load) * BUDGET_US * wobble,
            budget_us=BUDGET_US,
            slowdown=SLOWDOWN,
            device="CPU (NumPy + Numba)",
            busy_share=0.3 + 0.4 * load,
            histogram_counts=[int(value) for value in self.histogram],
            histogram_edges_us=EDGES_US,
            last_report_s=last_s,
        )

    def stats(self) -> dict[str, object]:
        """The marketplace's stats object now."""
        return {
            "requests": {
                "received": int(self.uptime_s) + 4,
                "completed": int(self.uptime_s),
                "preempted": self.preempted,
                "failed": 0,
                "cancelled": 0,
                "waiting": self.waiting,
                "running": 3 if self.ai_share else 0,
            },
            "tokens": {"input": int(self.tokens * 4), "output": int(self.tokens), "lost": 0},
            "tokens_per_s": self.tokens_per_s,
            "revenue_usd": self.tokens * 7e-5,
            "engines": [
                {
                    "name": "engine-0",
                    "url": "http://127.0.0.1:8081",
                    "phase": self.engine_phase or ("ready" if self.ai_share else "no_lease"),
                    "lease_id": "l-1" if self.ai_share else None,
                    "running": 3 if self.ai_share else 0,
                    "max_concurrent": 4,
                }
            ],
            "time_to_first_token_ms": {"p50": 312.4, "p99": 1480.0},
        }


@dataclass
class ScriptedControl:
    """The orchestrator of a ScriptedSite."""

    site: ScriptedSite

    async def status(self) -> views.SiteStatus:
        self._check()
        return self.site.status()

    async def events(self, after_seq: int = 0, limit: int = 200) -> Sequence[views.Event]:
        self._check()
        return [event for event in self.site.control_events if event.seq > after_seq][:limit]

    def _check(self) -> None:
        if self.site.control_away is not None:
            raise UnavailableError(self.site.control_away)


@dataclass
class ScriptedMarket:
    """The marketplace of a ScriptedSite."""

    site: ScriptedSite

    async def stats(self) -> MarketplaceView:
        self._check()
        return parse_stats(self.site.stats())

    async def events(self, after_seq: int) -> Sequence[MarketEvent]:
        self._check()
        return [event for event in self.site.market_events if event.seq > after_seq]

    def _check(self) -> None:
        if self.site.market_away is not None:
            raise UnavailableError(self.site.market_away)
