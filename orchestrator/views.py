"""What the control plane shows and is told: the plain values behind `airan.control.v1`.

Field for field the protocol's messages, so that nobody but the adapters needs gRPC. Times are
Unix seconds, shares fractions of the whole GPU pool's SMs in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.policy import Policy

# A policy is as plain inside as outside; making one checks its values.
PolicyView = Policy


@dataclass(frozen=True)
class PartitionView:
    """A part of a GPU as it is now, or as a plan wants it (then `id` is empty)."""

    id: str = ""
    kind: str = "mig"
    profile: str = ""
    role: str = "free"
    """`ran`, `ai` or `free`."""
    start: int = 0
    size: int = 0
    sm_count: int = 0
    memory_mib: int = 0
    state: str = "ready"
    """`creating`, `ready`, `destroying`; `planned` in a plan."""
    lease_id: str = ""
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class GpuView:
    """One GPU with its partitions in order of their start slice."""

    uuid: str = ""
    name: str = ""
    simulated: bool = False
    sm_count: int = 0
    memory_mib: int = 0
    memory_slices: int = 0
    """Length of the drawing of its partitions: 8 memory slices; without MIG its SMs."""
    partitions: tuple[PartitionView, ...] = ()
    node: str = ""
    lost: bool = False
    """Fallen off the bus."""
    mig_mode: str = ""
    """`enabled`, `disabled` or `unsupported`."""
    xids: tuple[int, ...] = ()
    """XID errors since the node started, oldest first."""
    ecc_uncorrected: int = 0
    """Since the driver was loaded."""
    power_w: float | None = None
    """None where it cannot be read, as for the readings below."""
    power_limit_w: float | None = None
    energy_j: float | None = None
    """Since the driver was loaded."""
    temperature_c: float | None = None
    maintenance: bool = False
    """Drained: gets nothing new."""
    maintenance_reason: str = ""


@dataclass(frozen=True)
class NodeView:
    """A host with GPUs."""

    name: str = ""
    simulated: bool = False
    gpus: int = 0
    gpus_lost: int = 0
    gpus_in_maintenance: int = 0
    power_w: float | None = None
    """Of the GPUs that tell; None if none does."""


@dataclass(frozen=True)
class PlanView:
    """A stored plan; `state` is stored | applying | applied | failed | undoing | undone |
    superseded | dry-run."""

    generation: int = 0
    parent: int = 0
    state: str = ""
    reason: str = ""
    created_s: float = 0.0
    partitions: tuple[PartitionView, ...] = ()
    ran_share: float = 0.0
    ai_share: float = 0.0


@dataclass(frozen=True)
class ExpectedLoss:
    """What a plan takes from whom."""

    leases_revoked: int = 0
    ai_sms_lost: int = 0
    """Negative: won."""
    ran_shortfall_sms: int = 0
    """That the RAN is expected to need and will not have."""
    pause_s: float = 0.0
    """The longest that a revoked engine's work stands still, if it finds another partition of
    this plan: notice and driver calls."""


@dataclass(frozen=True)
class PolicyChange:
    """What setting a policy did, or with `dry_run` would do: the plan, its moves in words, and
    what they cost."""

    policy: PolicyView = field(default_factory=Policy)
    plan: PlanView = PlanView()
    moves: tuple[str, ...] = ()
    loss: ExpectedLoss = ExpectedLoss()


@dataclass(frozen=True)
class DemandView:
    """The GPU share the RAN needs."""

    now_share: float = 0.0
    forecast_share: float = 0.0
    horizon_s: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class CellView:
    """One cell's load now."""

    id: str = ""
    live: bool = False
    """Slots are really decoded; otherwise the cell's load is simulated."""
    load: float = 0.0
    n_prb: int = 0
    n_layers: int = 0
    """0: its configuration is not reported, and it counts by the reported demand alone."""
    n_rx: int = 0
    uplink_mcs: int = 0
    """Of table 1 (64QAM)."""
    downlink_mcs: int = 0
    """Of table 2 (256QAM)."""
    group: str = ""
    """Cells of one group, say the sectors of a mast, should not all be on one host."""
    gpu_uuid: str = ""
    """Where it has been placed; not reported, but told."""


@dataclass(frozen=True)
class SlotReport:
    """What the slot runtime measured since its last report.

    Latencies are wall microseconds on the reporting machine, on a slot clock slowed by
    `slowdown`; `histogram_counts` has one count per edge plus the overflow.
    """

    cell_id: str
    time_s: float
    slots: int = 0
    slots_late: int = 0
    slots_dropped: int = 0
    crc_failed: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0
    budget_us: float = 0.0
    slowdown: float = 1.0
    cells: tuple[CellView, ...] = ()
    demand_share: float = 0.0
    """GPU share all cells of the site need now, from the measured cost model."""
    busy_share: float = 0.0
    alarm: bool = False
    """A slot came near or over its budget."""
    device: str = ""
    histogram_counts: tuple[int, ...] = ()
    histogram_edges_us: tuple[float, ...] = ()
    pid: int = 0
    """The slot runtime's process, which then counts as using the RAN's partitions; 0: unknown."""
    stalls: int = 0
    """Slots that the simulated radio was not ready for: the slot clock stood still meanwhile."""


@dataclass(frozen=True)
class SlotStats:
    """Slots since the site's start; the latencies are of the last report with a received slot."""

    slots: int = 0
    slots_late: int = 0
    slots_dropped: int = 0
    crc_failed: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0
    budget_us: float = 0.0
    slowdown: float = 0.0
    device: str = ""
    busy_share: float = 0.0
    histogram_counts: tuple[int, ...] = ()
    histogram_edges_us: tuple[float, ...] = ()
    last_report_s: float = 0.0
    stalls: int = 0


@dataclass(frozen=True)
class Utilisation:
    """Time-weighted shares of all SMs over the site's uptime."""

    ran_demand_share: float = 0.0
    """What the RAN's slots needed: what a RAN-only site would use."""
    ai_busy_share: float = 0.0
    """Leased to an engine while it was generating."""
    total_share: float = 0.0
    ran_held_share: float = 0.0
    ai_leased_share: float = 0.0


@dataclass(frozen=True)
class Lease:
    """An AI partition lent to the marketplace, revocable with `notice_ms`."""

    id: str = ""
    holder: str = ""
    partition_id: str = ""
    gpu_uuid: str = ""
    profile: str = ""
    sm_count: int = 0
    memory_mib: int = 0
    state: str = "active"
    """`active`, `revoking` or `ended`."""
    end_reason: str = ""
    """Once ended: `released`, `revoked`, `evicted`, `holder_lost` or `partition_lost`."""
    notice_ms: int = 0
    granted_s: float = 0.0
    revoked_s: float = 0.0
    ended_s: float = 0.0
    pid: int = 0
    tenant: str = ""
    """For whom; empty: for anyone."""

    @property
    def deadline_s(self) -> float:
        """When a revoked lease's partition is taken by force; 0 while it is not revoked."""
        return self.revoked_s + self.notice_ms / 1000.0 if self.revoked_s else 0.0


@dataclass(frozen=True)
class LeaseEvent:
    """A change of a lease, or of what is on offer.

    A watch starts with one `snapshot` per live lease of the holder and closes the snapshot with
    one whose `lease` is None; then come `offered` (lease None), `granted`, `resized` (the lease
    goes on with another size), `revoked` (pause and release before `deadline_s`) and `ended`.
    """

    kind: str
    lease: Lease | None = None
    deadline_s: float = 0.0
    free_ai_partitions: int = 0
    seq: int = 0
    """Grows by one a change; a snapshot's tells where it was taken. A restart goes on higher up."""


@dataclass(frozen=True)
class Event:
    """Something that happened; `seq` grows by one and never repeats."""

    seq: int = 0
    time_s: float = 0.0
    severity: str = "info"
    kind: str = ""
    message: str = ""


@dataclass(frozen=True)
class AuditEntry:
    """Who asked for what, and what came of it; `seq` grows by one and never repeats."""

    seq: int = 0
    time_s: float = 0.0
    actor: str = ""
    role: str = ""
    """`viewer`, `operator` or `admin`."""
    method: str = ""
    """E.g. `PolicyService/SetPolicy`."""
    request: str = ""
    """As JSON."""
    outcome: str = ""
    """`ok`, or the status of the error."""
    message: str = ""


@dataclass(frozen=True)
class SiteStatus:
    """The whole site at one moment."""

    site: str = ""
    time_s: float = 0.0
    simulated: bool = False
    gpus: tuple[GpuView, ...] = ()
    policy: PolicyView = field(default_factory=Policy)
    plan: PlanView = PlanView()
    demand: DemandView = DemandView()
    leases: tuple[Lease, ...] = ()
    slots: SlotStats = field(default_factory=SlotStats)
    cells: tuple[CellView, ...] = ()
    uptime_s: float = 0.0
    utilisation: Utilisation = Utilisation()
    drift: tuple[str, ...] = ()
    """How the partitions differ from what the applied plan left behind, in words."""
