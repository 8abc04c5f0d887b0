"""Reads the site's services and puts one `SiteSnapshot` together, whatever is away.

The orchestrator and the gateway are asked at the same time; each failure becomes a `Problem`
and leaves its part of the snapshot empty. Nothing is remembered from an earlier answer but the
label, which describes the site and measures nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from airan.core.clock import Clock, DayClock, SystemClock
from airan.core.errors import AiranError, UnavailableError
from airan.site import snapshot as view
from airan.site.supervision_log import SupervisionEvent, SupervisionLog
from orchestrator import views

TIMEOUT_S = 2.0
LAYER1_SILENT_AFTER_S = 3.0
BUSY_WINDOW_S = 3.0
_EVENTS_AT_ONCE = 200
_Answer = TypeVar("_Answer")
_ACTIVE_LEASE_STATES = frozenset({"active", "revoking"})


class ControlReader(Protocol):
    """The two calls on the orchestrator that a snapshot needs; both raise AiranError."""

    async def status(self) -> views.SiteStatus:
        """The site as it is now."""
        ...

    async def events(self, after_seq: int = 0, limit: int = 200) -> Sequence[views.Event]:
        """Stored events with seq > `after_seq`, oldest first."""
        ...


class MarketReader(Protocol):
    """The two calls on the marketplace that a snapshot needs; both raise AiranError."""

    async def stats(self) -> view.MarketplaceView:
        """What was sold, and what is being worked on."""
        ...

    async def events(self, after_seq: int) -> Sequence[MarketEvent]:
        """Events with seq > `after_seq`, oldest first."""
        ...


@dataclass(frozen=True)
class MarketEvent:
    """An event as the marketplace tells it."""

    seq: int
    time_s: float
    severity: str
    kind: str
    message: str


class SnapshotSource:
    """Assembles snapshots and a merged event feed for one site.

    One source serves one caller at a time; several callers share a source through
    `airan.dashboard.feed` or make their own.
    """

    def __init__(
        self,
        site: str,
        day: DayClock,
        control: ControlReader,
        market: MarketReader,
        clock: Clock | None = None,
        supervision: SupervisionLog | None = None,
    ) -> None:
        self._site = site
        self._supervision = supervision
        self._day = day
        self._control = control
        self._market = market
        self._clock = clock or SystemClock()
        self._first_noticed: dict[str, float] = {}
        self._last_seq = {"control": 0, "gateway": 0, "supervisor": 0}
        self._busy = _BusyShare()
        self._simulated: bool | None = None
        self._gpu_name: str | None = None
        self._slowdown: float | None = None

    async def snapshot(self) -> view.SiteSnapshot:
        """The site now. Never raises for a service that is away: see `problems`."""
        status, market = await asyncio.gather(_attempt(self._status), _attempt(self._market.stats))
        found: dict[str, str] = {}
        now_s = self._clock.now_s()
        control_view = None
        if isinstance(status, str):
            found["control"] = status
            self._busy.forget()
        else:
            control_view = self._control_view(status)
            self._remember_label(status)
            silence = _layer1_silence(status)
            if silence is not None:
                found["l1"] = silence
                self._first_noticed.setdefault("l1", status.slots.last_report_s or now_s)
        market_view = None
        if isinstance(market, str):
            found["gateway"] = market
        else:
            market_view = market
            if not market.engines:
                found["engine"] = "is not registered with the gateway"
            elif all(engine.phase == "lost" for engine in market.engines):
                found["engine"] = "does not answer the gateway"
        return view.SiteSnapshot(
            site=self._site,
            time_s=now_s,
            site_time_s=self._site_time_s(now_s),
            day_speed=self._day.speed,
            simulated=self._simulated,
            label=view.describe(self._simulated, self._gpu_name, self._slowdown),
            control=control_view,
            market=market_view,
            problems=self._problems(found, now_s),
        )

    async def new_events(self) -> list[view.SiteEvent]:
        """Events of both services and the supervisor since the last call, in order of time.

        A service that is away adds nothing now; its events come once it is back.
        """
        control, market = await asyncio.gather(
            _attempt(lambda: self._control.events(self._last_seq["control"], _EVENTS_AT_ONCE)),
            _attempt(lambda: self._market.events(self._last_seq["gateway"])),
        )
        events = []
        if not isinstance(control, str):
            events += [self._event("control", item) for item in control]
        if not isinstance(market, str):
            events += [self._event("gateway", item) for item in market]
        if self._supervision is not None:
            told = self._supervision.events(self._last_seq["supervisor"])
            events += [self._event("supervisor", item) for item in told]
        return sorted(events, key=lambda event: event.time_s)

    async def _status(self) -> views.SiteStatus:
        try:
            return await self._control.status()
        except UnavailableError as error:
            # gRPC's own text names addresses and sockets; the reader wants to know what is away.
            raise UnavailableError("cannot be reached") from error

    def _event(
        self, source: str, item: views.Event | MarketEvent | SupervisionEvent
    ) -> view.SiteEvent:
        self._last_seq[source] = max(self._last_seq[source], item.seq)
        return view.SiteEvent(
            source=source,
            seq=item.seq,
            time_s=item.time_s,
            site_time_s=self._site_time_s(item.time_s),
            severity=item.severity or "info",
            kind=item.kind,
            message=item.message,
        )

    def _site_time_s(self, time_s: float) -> float:
        return self._day.start_of_day_s + self._day.elapsed_s(time_s)

    def _problems(self, found: dict[str, str], now_s: float) -> tuple[view.Problem, ...]:
        self._first_noticed = {
            service: self._first_noticed.get(service, now_s) for service in found
        }
        return tuple(
            view.Problem(service, message, self._first_noticed[service])
            for service, message in found.items()
        )

    def _remember_label(self, status: views.SiteStatus) -> None:
        self._simulated = status.simulated
        if status.gpus:
            self._gpu_name = status.gpus[0].name
        if status.slots.last_report_s > 0:
            self._slowdown = status.slots.slowdown

    def _control_view(self, status: views.SiteStatus) -> view.ControlView:
        layer1_speaks = _layer1_silence(status) is None
        return view.ControlView(
            uptime_s=status.uptime_s,
            gpus=tuple(_gpu_view(gpu, status.leases) for gpu in status.gpus),
            shares=self._shares_view(status, layer1_speaks),
            utilisation=view.UtilisationView(
                total=status.utilisation.total_share,
                ran_only=status.utilisation.ran_demand_share,
                ai_busy=status.utilisation.ai_busy_share,
                ran_held=status.utilisation.ran_held_share,
                ai_leased=status.utilisation.ai_leased_share,
            ),
            cells=tuple(
                view.CellView(cell.id, cell.live, cell.load if layer1_speaks else None, cell.n_prb)
                for cell in status.cells
            ),
            slots=_slots_view(status.slots, layer1_speaks),
            policy=_policy_view(status.policy),
            plan=_plan_view(status.plan),
            demand_source=status.demand.source,
        )

    def _shares_view(self, status: views.SiteStatus, layer1_speaks: bool) -> view.SharesView:
        sm_total = sum(gpu.sm_count for gpu in status.gpus) or 1
        ran_sms = sum(
            partition.sm_count
            for gpu in status.gpus
            for partition in gpu.partitions
            if partition.role == "ran" and partition.state == "ready"
        )
        ai_sms = sum(
            lease.sm_count for lease in status.leases if lease.state in _ACTIVE_LEASE_STATES
        )
        ai_leased = ai_sms / sm_total
        busy = self._busy.over_last_seconds(status.uptime_s, status.utilisation.ai_busy_share)
        return view.SharesView(
            ran_demand=status.demand.now_share if layer1_speaks else None,
            ran_forecast=status.demand.forecast_share if layer1_speaks else None,
            ran_held=ran_sms / sm_total,
            ai_leased=ai_leased,
            # The window reaches back before a revocation; nothing is busy without a lease.
            ai_busy=None if busy is None else min(busy, ai_leased),
        )


class _BusyShare:
    """Turns the orchestrator's average since its start into the average of the last seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()

    def forget(self) -> None:
        self._points.clear()

    def over_last_seconds(self, uptime_s: float, average_share: float) -> float | None:
        """The share over the last `BUSY_WINDOW_S`; None until two answers are known."""
        if self._points and uptime_s <= self._points[-1][0]:
            self.forget()
        self._points.append((uptime_s, average_share * uptime_s))
        while len(self._points) > 2 and self._points[1][0] <= uptime_s - BUSY_WINDOW_S:
            self._points.popleft()
        first_s, first_integral = self._points[0]
        if uptime_s == first_s:
            return None
        share = (self._points[-1][1] - first_integral) / (uptime_s - first_s)
        return min(max(share, 0.0), 1.0)


async def _attempt(call: Callable[[], Awaitable[_Answer]]) -> _Answer | str:
    """The answer, or in words why there is none."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await call()
    except TimeoutError:
        return f"does not answer within {TIMEOUT_S:g} s"
    except AiranError as error:
        return error.message


def _layer1_silence(status: views.SiteStatus) -> str | None:
    """Why the slot figures are not live, in words; None when they are."""
    if status.slots.last_report_s <= 0:
        return "has not reported a slot yet"
    if status.time_s - status.slots.last_report_s > LAYER1_SILENT_AFTER_S:
        return "reports no slots"
    return None


def _gpu_view(gpu: views.GpuView, leases: Sequence[views.Lease]) -> view.GpuView:
    by_id = {lease.id: lease for lease in leases if lease.state in _ACTIVE_LEASE_STATES}
    partitions = sorted(gpu.partitions, key=lambda partition: partition.start)
    return view.GpuView(
        uuid=gpu.uuid,
        name=gpu.name,
        simulated=gpu.simulated,
        sm_count=gpu.sm_count,
        memory_mib=gpu.memory_mib,
        memory_slices=gpu.memory_slices,
        partitions=tuple(_partition_view(item, by_id.get(item.lease_id)) for item in partitions),
    )


def _partition_view(
    partition: views.PartitionView, lease: views.Lease | None
) -> view.PartitionView:
    return view.PartitionView(
        id=partition.id,
        kind=partition.kind,
        profile=partition.profile,
        role=partition.role,
        start=partition.start,
        size=partition.size,
        sm_count=partition.sm_count,
        memory_mib=partition.memory_mib,
        state=partition.state,
        lease_id=lease.id if lease else None,
        lease_holder=lease.holder if lease else None,
        lease_state=lease.state if lease else None,
    )


def _slots_view(slots: views.SlotStats, layer1_speaks: bool) -> view.SlotsView | None:
    if slots.last_report_s <= 0:
        return None
    return view.SlotsView(
        slots=slots.slots,
        slots_late=slots.slots_late,
        slots_dropped=slots.slots_dropped,
        crc_failed=slots.crc_failed,
        stalls=slots.stalls,
        p50_us=slots.p50_us if layer1_speaks else None,
        p99_us=slots.p99_us if layer1_speaks else None,
        max_us=slots.max_us if layer1_speaks else None,
        busy_share=slots.busy_share if layer1_speaks else None,
        budget_us=slots.budget_us,
        slowdown=slots.slowdown,
        device=slots.device,
        histogram_counts=tuple(slots.histogram_counts),
        histogram_edges_us=tuple(slots.histogram_edges_us),
    )


def _policy_view(policy: views.PolicyView) -> view.PolicyView:
    return view.PolicyView(
        kind=policy.kind,
        ran_share=policy.ran_share,
        headroom=policy.headroom,
        min_ran_share=policy.min_ran_share,
        min_lease_s=policy.min_lease_s,
        notice_ms=policy.notice_ms,
    )


def _plan_view(plan: views.PlanView) -> view.PlanView | None:
    if plan.generation == 0:
        return None
    return view.PlanView(
        generation=plan.generation,
        state=plan.state,
        reason=plan.reason,
        ran_share=plan.ran_share,
        ai_share=plan.ai_share,
    )
