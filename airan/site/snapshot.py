"""One picture of the site at one moment: what the dashboard, `airan status` and the demo show.

Everything here is a value; `airan.site.snapshot_source` fills it in. A figure that is not known
just now is None, never the last known one, and `problems` says which service is the cause.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

RADIO_SPEED = 1.0


@dataclass(frozen=True)
class Problem:
    """A service of the site that does not answer, or answers nonsense."""

    service: str
    """Process name: `control`, `l1`, `engine` or `gateway`."""
    message: str
    since_s: float
    """Unix seconds at which it was first noticed."""


@dataclass(frozen=True)
class PartitionView:
    """One part of a GPU, with the lease on it, if any."""

    id: str
    kind: str
    profile: str
    role: str
    """`ran`, `ai` or `free`."""
    start: int
    """First memory slice; without MIG, SM."""
    size: int
    """Memory slices, or SMs."""
    sm_count: int
    memory_mib: int
    state: str
    """`creating`, `ready` or `destroying`."""
    lease_id: str | None = None
    lease_holder: str | None = None
    lease_state: str | None = None
    """`active` or `revoking`."""


@dataclass(frozen=True)
class GpuView:
    """One GPU and its partitions, ordered by memory slice."""

    uuid: str
    name: str
    simulated: bool
    sm_count: int
    memory_mib: int
    memory_slices: int
    partitions: tuple[PartitionView, ...]


@dataclass(frozen=True)
class SharesView:
    """Shares of all SMs of the site now, each in [0, 1]."""

    ran_demand: float | None
    """What the cells need; None while Layer 1 is silent."""
    ran_forecast: float | None
    ran_held: float
    ai_leased: float
    ai_busy: float | None
    """SMs leased to an engine times the part of the last seconds in which it was generating."""


@dataclass(frozen=True)
class UtilisationView:
    """Time-weighted shares of all SMs since the site's start."""

    total: float
    ran_only: float
    """What the same load would use on a site without AI."""
    ai_busy: float
    ran_held: float
    ai_leased: float


@dataclass(frozen=True)
class CellView:
    """A radio cell; only a live one's slots are decoded, the others' load is simulated."""

    id: str
    live: bool
    load: float | None
    n_prb: int


@dataclass(frozen=True)
class SlotsView:
    """Slot counters since the site's start, and the latencies of the last report.

    Latencies and budget are on the slot clock, which runs `slowdown` times slower than a radio's.
    The latencies are None while Layer 1 is silent.
    """

    slots: int
    slots_late: int
    slots_dropped: int
    crc_failed: int
    p50_us: float | None
    p99_us: float | None
    max_us: float | None
    busy_share: float | None
    budget_us: float
    slowdown: float
    device: str
    histogram_counts: tuple[int, ...]
    """Since the site's start: one a bucket, the last for everything over the last edge."""
    histogram_edges_us: tuple[float, ...]
    stalls: int = 0
    """Slots that the simulated radio was not ready for: the slot clock stood still meanwhile."""


@dataclass(frozen=True)
class RequestsView:
    """Inference requests: counted since the marketplace's first start, and open now."""

    received: int
    completed: int
    preempted: int
    failed: int
    cancelled: int
    waiting: int
    running: int


@dataclass(frozen=True)
class TokensView:
    """Tokens since the marketplace's first start."""

    input: int
    output: int
    lost: int


ENGINE_PHASES = {
    "ready": "serving",
    "draining": "pausing",
    "no_lease": "waiting for a lease",
    "cold": "unloaded until it is wanted",
    "warming": "loading its model",
    "lost": "away",
}
"""The dispatcher's phases as screens show them."""


@dataclass(frozen=True)
class EngineView:
    """An engine as the dispatcher sees it."""

    name: str
    url: str
    phase: str
    lease_id: str | None
    running: int
    max_concurrent: int


@dataclass(frozen=True)
class MarketplaceView:
    """What the marketplace sold and is working on."""

    requests: RequestsView
    tokens: TokensView
    tokens_per_s: float
    revenue_usd: float
    ttft_p50_ms: float | None
    """Time to first token; None before the first request."""
    ttft_p99_ms: float | None
    engines: tuple[EngineView, ...]


@dataclass(frozen=True)
class PolicyView:
    """How the operator wants the GPU to be divided."""

    kind: str
    ran_share: float
    headroom: float
    min_ran_share: float
    min_lease_s: float
    notice_ms: int


@dataclass(frozen=True)
class PlanView:
    """The plan that is applied, or being applied."""

    generation: int
    state: str
    reason: str
    ran_share: float
    ai_share: float


@dataclass(frozen=True)
class ControlView:
    """What the orchestrator knows."""

    uptime_s: float
    gpus: tuple[GpuView, ...]
    shares: SharesView
    utilisation: UtilisationView
    cells: tuple[CellView, ...]
    slots: SlotsView | None
    """None until Layer 1 has reported for the first time."""
    policy: PolicyView
    plan: PlanView | None
    """None until the first plan is stored."""
    demand_source: str


@dataclass(frozen=True)
class SiteEvent:
    """Something that happened at the site."""

    source: str
    """`control`, `gateway` or `supervisor`."""
    seq: int
    """Grows within a source."""
    time_s: float
    site_time_s: float
    """The site's own time, see `SiteSnapshot.site_time_s`."""
    severity: str
    """`info`, `warning` or `error`."""
    kind: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class SiteSnapshot:
    """The whole site at `time_s` (Unix seconds)."""

    site: str
    time_s: float
    site_time_s: float
    """Seconds after midnight of the site's first day; beyond 86400 on later days."""
    day_speed: float
    """Site seconds per wall second."""
    simulated: bool | None
    """True: the GPU is simulated. None: not known yet. Keeps its value while control is away."""
    label: str
    """What is simulated and how much slower the slot clock runs; every screen shows it."""
    control: ControlView | None
    market: MarketplaceView | None
    problems: tuple[Problem, ...] = field(default=())

    @property
    def slots(self) -> SlotsView | None:
        """Slot figures, where both the orchestrator and Layer 1 have spoken."""
        return None if self.control is None else self.control.slots

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready values, with the site's time of day spelled out."""
        values = asdict(self)
        values["site_time_of_day"] = format_time_of_day(self.site_time_s)
        return values


def format_time_of_day(site_time_s: float) -> str:
    """`HH:MM` of a site time."""
    minutes = int(site_time_s // 60) % (24 * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def describe(simulated: bool | None, gpu_name: str | None, slowdown: float | None) -> str:
    """The label every screen carries: what is simulated, and how slow the slot clock runs.

    Example: "SIMULATED GH200-96GB · slot clock slowed 40x".
    """
    parts = []
    if simulated:
        parts.append(f"SIMULATED {gpu_name or 'GPU'}")
    elif gpu_name is not None:
        parts.append(gpu_name)
    if slowdown is not None and slowdown > RADIO_SPEED:
        parts.append(f"slot clock slowed {slowdown:g}x")
    return " · ".join(parts)
