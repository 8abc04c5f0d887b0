from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: SiteStatus
    def __init__(self, status: _Optional[_Union[SiteStatus, _Mapping]] = ...) -> None: ...

class WatchStatusRequest(_message.Message):
    __slots__ = ("interval_ms",)
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    interval_ms: int
    def __init__(self, interval_ms: _Optional[int] = ...) -> None: ...

class WatchStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: SiteStatus
    def __init__(self, status: _Optional[_Union[SiteStatus, _Mapping]] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("after_seq", "page_size", "page_token")
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    after_seq: int
    page_size: int
    page_token: str
    def __init__(self, after_seq: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after_seq",)
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    after_seq: int
    def __init__(self, after_seq: _Optional[int] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: Event
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("after_seq", "page_size", "page_token", "actor", "method")
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    after_seq: int
    page_size: int
    page_token: str
    actor: str
    method: str
    def __init__(self, after_seq: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., actor: _Optional[str] = ..., method: _Optional[str] = ...) -> None: ...

class ListAuditResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("seq", "time_s", "actor", "role", "method", "request", "outcome", "message")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    time_s: float
    actor: str
    role: str
    method: str
    request: str
    outcome: str
    message: str
    def __init__(self, seq: _Optional[int] = ..., time_s: _Optional[float] = ..., actor: _Optional[str] = ..., role: _Optional[str] = ..., method: _Optional[str] = ..., request: _Optional[str] = ..., outcome: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "simulated", "gpus", "gpus_lost", "gpus_in_maintenance", "power_w")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    GPUS_LOST_FIELD_NUMBER: _ClassVar[int]
    GPUS_IN_MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    name: str
    simulated: bool
    gpus: int
    gpus_lost: int
    gpus_in_maintenance: int
    power_w: float
    def __init__(self, name: _Optional[str] = ..., simulated: _Optional[bool] = ..., gpus: _Optional[int] = ..., gpus_lost: _Optional[int] = ..., gpus_in_maintenance: _Optional[int] = ..., power_w: _Optional[float] = ...) -> None: ...

class ListGpusRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class ListGpusResponse(_message.Message):
    __slots__ = ("gpus",)
    GPUS_FIELD_NUMBER: _ClassVar[int]
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    def __init__(self, gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ...) -> None: ...

class SetMaintenanceRequest(_message.Message):
    __slots__ = ("gpu_uuid", "on", "reason")
    GPU_UUID_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    gpu_uuid: str
    on: bool
    reason: str
    def __init__(self, gpu_uuid: _Optional[str] = ..., on: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class SetMaintenanceResponse(_message.Message):
    __slots__ = ("gpu",)
    GPU_FIELD_NUMBER: _ClassVar[int]
    gpu: Gpu
    def __init__(self, gpu: _Optional[_Union[Gpu, _Mapping]] = ...) -> None: ...

class SiteStatus(_message.Message):
    __slots__ = ("site", "time_s", "simulated", "gpus", "policy", "plan", "demand", "leases", "slots", "cells", "uptime_s", "utilisation", "drift")
    SITE_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    site: str
    time_s: float
    simulated: bool
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    policy: Policy
    plan: Plan
    demand: Demand
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    slots: SlotStats
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    uptime_s: float
    utilisation: Utilisation
    drift: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, site: _Optional[str] = ..., time_s: _Optional[float] = ..., simulated: _Optional[bool] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., demand: _Optional[_Union[Demand, _Mapping]] = ..., leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., slots: _Optional[_Union[SlotStats, _Mapping]] = ..., cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., uptime_s: _Optional[float] = ..., utilisation: _Optional[_Union[Utilisation, _Mapping]] = ..., drift: _Optional[_Iterable[str]] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("uuid", "name", "simulated", "sm_count", "memory_mib", "memory_slices", "partitions", "node", "lost", "mig_mode", "xids", "ecc_uncorrected", "power_w", "power_limit_w", "energy_j", "temperature_c", "maintenance", "maintenance_reason")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    SM_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SLICES_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    MIG_MODE_FIELD_NUMBER: _ClassVar[int]
    XIDS_FIELD_NUMBER: _ClassVar[int]
    ECC_UNCORRECTED_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    POWER_LIMIT_W_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_REASON_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    simulated: bool
    sm_count: int
    memory_mib: int
    memory_slices: int
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    node: str
    lost: bool
    mig_mode: str
    xids: _containers.RepeatedScalarFieldContainer[int]
    ecc_uncorrected: int
    power_w: float
    power_limit_w: float
    energy_j: float
    temperature_c: float
    maintenance: bool
    maintenance_reason: str
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., simulated: _Optional[bool] = ..., sm_count: _Optional[int] = ..., memory_mib: _Optional[int] = ..., memory_slices: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ..., node: _Optional[str] = ..., lost: _Optional[bool] = ..., mig_mode: _Optional[str] = ..., xids: _Optional[_Iterable[int]] = ..., ecc_uncorrected: _Optional[int] = ..., power_w: _Optional[float] = ..., power_limit_w: _Optional[float] = ..., energy_j: _Optional[float] = ..., temperature_c: _Optional[float] = ..., maintenance: _Optional[bool] = ..., maintenance_reason: _Optional[str] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("id", "kind", "profile", "role", "start", "size", "sm_count", "memory_mib", "state", "lease_id", "pids")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SM_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    profile: str
    role: str
    start: int
    size: int
    sm_count: int
    memory_mib: int
    state: str
    lease_id: str
    pids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., profile: _Optional[str] = ..., role: _Optional[str] = ..., start: _Optional[int] = ..., size: _Optional[int] = ..., sm_count: _Optional[int] = ..., memory_mib: _Optional[int] = ..., state: _Optional[str] = ..., lease_id: _Optional[str] = ..., pids: _Optional[_Iterable[int]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("kind", "ran_share", "headroom", "min_ran_share", "min_lease_s", "notice_ms", "unit", "max_ran_share", "min_ai_share", "max_ai_share", "hysteresis_share", "time_zone", "calendar", "reservations", "drift")
    KIND_FIELD_NUMBER: _ClassVar[int]
    RAN_SHARE_FIELD_NUMBER: _ClassVar[int]
    HEADROOM_FIELD_NUMBER: _ClassVar[int]
    MIN_RAN_SHARE_FIELD_NUMBER: _ClassVar[int]
    MIN_LEASE_S_FIELD_NUMBER: _ClassVar[int]
    NOTICE_MS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MAX_RAN_SHARE_FIELD_NUMBER: _ClassVar[int]
    MIN_AI_SHARE_FIELD_NUMBER: _ClassVar[int]
    MAX_AI_SHARE_FIELD_NUMBER: _ClassVar[int]
    HYSTERESIS_SHARE_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_FIELD_NUMBER: _ClassVar[int]
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    ran_share: float
    headroom: float
    min_ran_share: float
    min_lease_s: float
    notice_ms: int
    unit: str
    max_ran_share: float
    min_ai_share: float
    max_ai_share: float
    hysteresis_share: float
    time_zone: str
    calendar: _containers.RepeatedCompositeFieldContainer[CalendarEntry]
    reservations: _containers.RepeatedCompositeFieldContainer[Reservation]
    drift: str
    def __init__(self, kind: _Optional[str] = ..., ran_share: _Optional[float] = ..., headroom: _Optional[float] = ..., min_ran_share: _Optional[float] = ..., min_lease_s: _Optional[float] = ..., notice_ms: _Optional[int] = ..., unit: _Optional[str] = ..., max_ran_share: _Optional[float] = ..., min_ai_share: _Optional[float] = ..., max_ai_share: _Optional[float] = ..., hysteresis_share: _Optional[float] = ..., time_zone: _Optional[str] = ..., calendar: _Optional[_Iterable[_Union[CalendarEntry, _Mapping]]] = ..., reservations: _Optional[_Iterable[_Union[Reservation, _Mapping]]] = ..., drift: _Optional[str] = ...) -> None: ...

class CalendarEntry(_message.Message):
    __slots__ = ("days", "start", "ran_share")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    RAN_SHARE_FIELD_NUMBER: _ClassVar[int]
    days: _containers.RepeatedScalarFieldContainer[str]
    start: str
    ran_share: float
    def __init__(self, days: _Optional[_Iterable[str]] = ..., start: _Optional[str] = ..., ran_share: _Optional[float] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ("tenant", "sm_count")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SM_COUNT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    sm_count: int
    def __init__(self, tenant: _Optional[str] = ..., sm_count: _Optional[int] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("policy", "dry_run")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    dry_run: bool
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("policy", "plan", "moves", "loss")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    plan: Plan
    moves: _containers.RepeatedScalarFieldContainer[str]
    loss: ExpectedLoss
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., moves: _Optional[_Iterable[str]] = ..., loss: _Optional[_Union[ExpectedLoss, _Mapping]] = ...) -> None: ...

class ExpectedLoss(_message.Message):
    __slots__ = ("leases_revoked", "ai_sms_lost", "ran_shortfall_sms", "pause_s")
    LEASES_REVOKED_FIELD_NUMBER: _ClassVar[int]
    AI_SMS_LOST_FIELD_NUMBER: _ClassVar[int]
    RAN_SHORTFALL_SMS_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    leases_revoked: int
    ai_sms_lost: int
    ran_shortfall_sms: int
    pause_s: float
    def __init__(self, leases_revoked: _Optional[int] = ..., ai_sms_lost: _Optional[int] = ..., ran_shortfall_sms: _Optional[int] = ..., pause_s: _Optional[float] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class ListPlansRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPlansResponse(_message.Message):
    __slots__ = ("plans", "next_page_token")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    next_page_token: str
    def __init__(self, plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class GetPlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("generation", "parent", "state", "reason", "created_s", "partitions", "ran_share", "ai_share")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_S_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    RAN_SHARE_FIELD_NUMBER: _ClassVar[int]
    AI_SHARE_FIELD_NUMBER: _ClassVar[int]
    generation: int
    parent: int
    state: str
    reason: str
    created_s: float
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    ran_share: float
    ai_share: float
    def __init__(self, generation: _Optional[int] = ..., parent: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., created_s: _Optional[float] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ..., ran_share: _Optional[float] = ..., ai_share: _Optional[float] = ...) -> None: ...

class Demand(_message.Message):
    __slots__ = ("now_share", "forecast_share", "horizon_s", "source")
    NOW_SHARE_FIELD_NUMBER: _ClassVar[int]
    FORECAST_SHARE_FIELD_NUMBER: _ClassVar[int]
    HORIZON_S_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    now_share: float
    forecast_share: float
    horizon_s: float
    source: str
    def __init__(self, now_share: _Optional[float] = ..., forecast_share: _Optional[float] = ..., horizon_s: _Optional[float] = ..., source: _Optional[str] = ...) -> None: ...

class Cell(_message.Message):
    __slots__ = ("id", "live", "load", "n_prb", "n_layers", "n_rx", "uplink_mcs", "downlink_mcs", "group", "gpu_uuid")
    ID_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    N_PRB_FIELD_NUMBER: _ClassVar[int]
    N_LAYERS_FIELD_NUMBER: _ClassVar[int]
    N_RX_FIELD_NUMBER: _ClassVar[int]
    UPLINK_MCS_FIELD_NUMBER: _ClassVar[int]
    DOWNLINK_MCS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    GPU_UUID_FIELD_NUMBER: _ClassVar[int]
    id: str
    live: bool
    load: float
    n_prb: int
    n_layers: int
    n_rx: int
    uplink_mcs: int
    downlink_mcs: int
    group: str
    gpu_uuid: str
    def __init__(self, id: _Optional[str] = ..., live: _Optional[bool] = ..., load: _Optional[float] = ..., n_prb: _Optional[int] = ..., n_layers: _Optional[int] = ..., n_rx: _Optional[int] = ..., uplink_mcs: _Optional[int] = ..., downlink_mcs: _Optional[int] = ..., group: _Optional[str] = ..., gpu_uuid: _Optional[str] = ...) -> None: ...

class ListCellsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListCellsResponse(_message.Message):
    __slots__ = ("cells", "next_page_token")
    CELLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    next_page_token: str
    def __init__(self, cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReportSlotsRequest(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: SlotReport
    def __init__(self, report: _Optional[_Union[SlotReport, _Mapping]] = ...) -> None: ...

class ReportSlotsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SlotReport(_message.Message):
    __slots__ = ("cell_id", "time_s", "slots", "slots_late", "slots_dropped", "crc_failed", "p50_us", "p99_us", "max_us", "budget_us", "slowdown", "cells", "demand_share", "busy_share", "alarm", "device", "histogram_counts", "histogram_edges_us", "pid", "stalls")
    CELL_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_LATE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    CRC_FAILED_FIELD_NUMBER: _ClassVar[int]
    P50_US_FIELD_NUMBER: _ClassVar[int]
    P99_US_FIELD_NUMBER: _ClassVar[int]
    MAX_US_FIELD_NUMBER: _ClassVar[int]
    BUDGET_US_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_SHARE_FIELD_NUMBER: _ClassVar[int]
    BUSY_SHARE_FIELD_NUMBER: _ClassVar[int]
    ALARM_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_COUNTS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_EDGES_US_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STALLS_FIELD_NUMBER: _ClassVar[int]
    cell_id: str
    time_s: float
    slots: int
    slots_late: int
    slots_dropped: int
    crc_failed: int
    p50_us: float
    p99_us: float
    max_us: float
    budget_us: float
    slowdown: float
    cells: _containers.RepeatedCompositeFieldContainer[Cell]
    demand_share: float
    busy_share: float
    alarm: bool
    device: str
    histogram_counts: _containers.RepeatedScalarFieldContainer[int]
    histogram_edges_us: _containers.RepeatedScalarFieldContainer[float]
    pid: int
    stalls: int
    def __init__(self, cell_id: _Optional[str] = ..., time_s: _Optional[float] = ..., slots: _Optional[int] = ..., slots_late: _Optional[int] = ..., slots_dropped: _Optional[int] = ..., crc_failed: _Optional[int] = ..., p50_us: _Optional[float] = ..., p99_us: _Optional[float] = ..., max_us: _Optional[float] = ..., budget_us: _Optional[float] = ..., slowdown: _Optional[float] = ..., cells: _Optional[_Iterable[_Union[Cell, _Mapping]]] = ..., demand_share: _Optional[float] = ..., busy_share: _Optional[float] = ..., alarm: _Optional[bool] = ..., device: _Optional[str] = ..., histogram_counts: _Optional[_Iterable[int]] = ..., histogram_edges_us: _Optional[_Iterable[float]] = ..., pid: _Optional[int] = ..., stalls: _Optional[int] = ...) -> None: ...

class SlotStats(_message.Message):
    __slots__ = ("slots", "slots_late", "slots_dropped", "crc_failed", "p50_us", "p99_us", "max_us", "budget_us", "slowdown", "device", "busy_share", "histogram_counts", "histogram_edges_us", "last_report_s", "stalls")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_LATE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    CRC_FAILED_FIELD_NUMBER: _ClassVar[int]
    P50_US_FIELD_NUMBER: _ClassVar[int]
    P99_US_FIELD_NUMBER: _ClassVar[int]
    MAX_US_FIELD_NUMBER: _ClassVar[int]
    BUDGET_US_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    BUSY_SHARE_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_COUNTS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_EDGES_US_FIELD_NUMBER: _ClassVar[int]
    LAST_REPORT_S_FIELD_NUMBER: _ClassVar[int]
    STALLS_FIELD_NUMBER: _ClassVar[int]
    slots: int
    slots_late: int
    slots_dropped: int
    crc_failed: int
    p50_us: float
    p99_us: float
    max_us: float
    budget_us: float
    slowdown: float
    device: str
    busy_share: float
    histogram_counts: _containers.RepeatedScalarFieldContainer[int]
    histogram_edges_us: _containers.RepeatedScalarFieldContainer[float]
    last_report_s: float
    stalls: int
    def __init__(self, slots: _Optional[int] = ..., slots_late: _Optional[int] = ..., slots_dropped: _Optional[int] = ..., crc_failed: _Optional[int] = ..., p50_us: _Optional[float] = ..., p99_us: _Optional[float] = ..., max_us: _Optional[float] = ..., budget_us: _Optional[float] = ..., slowdown: _Optional[float] = ..., device: _Optional[str] = ..., busy_share: _Optional[float] = ..., histogram_counts: _Optional[_Iterable[int]] = ..., histogram_edges_us: _Optional[_Iterable[float]] = ..., last_report_s: _Optional[float] = ..., stalls: _Optional[int] = ...) -> None: ...

class Utilisation(_message.Message):
    __slots__ = ("ran_demand_share", "ai_busy_share", "total_share", "ran_held_share", "ai_leased_share")
    RAN_DEMAND_SHARE_FIELD_NUMBER: _ClassVar[int]
    AI_BUSY_SHARE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    RAN_HELD_SHARE_FIELD_NUMBER: _ClassVar[int]
    AI_LEASED_SHARE_FIELD_NUMBER: _ClassVar[int]
    ran_demand_share: float
    ai_busy_share: float
    total_share: float
    ran_held_share: float
    ai_leased_share: float
    def __init__(self, ran_demand_share: _Optional[float] = ..., ai_busy_share: _Optional[float] = ..., total_share: _Optional[float] = ..., ran_held_share: _Optional[float] = ..., ai_leased_share: _Optional[float] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "holder", "partition_id", "gpu_uuid", "profile", "sm_count", "memory_mib", "state", "end_reason", "notice_ms", "granted_s", "revoked_s", "ended_s", "pid", "tenant")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    GPU_UUID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    SM_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    END_REASON_FIELD_NUMBER: _ClassVar[int]
    NOTICE_MS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_S_FIELD_NUMBER: _ClassVar[int]
    REVOKED_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_S_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    id: str
    holder: str
    partition_id: str
    gpu_uuid: str
    profile: str
    sm_count: int
    memory_mib: int
    state: str
    end_reason: str
    notice_ms: int
    granted_s: float
    revoked_s: float
    ended_s: float
    pid: int
    tenant: str
    def __init__(self, id: _Optional[str] = ..., holder: _Optional[str] = ..., partition_id: _Optional[str] = ..., gpu_uuid: _Optional[str] = ..., profile: _Optional[str] = ..., sm_count: _Optional[int] = ..., memory_mib: _Optional[int] = ..., state: _Optional[str] = ..., end_reason: _Optional[str] = ..., notice_ms: _Optional[int] = ..., granted_s: _Optional[float] = ..., revoked_s: _Optional[float] = ..., ended_s: _Optional[float] = ..., pid: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class AcquireLeaseRequest(_message.Message):
    __slots__ = ("holder", "pid", "min_sm_count", "tenant")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    MIN_SM_COUNT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    holder: str
    pid: int
    min_sm_count: int
    tenant: str
    def __init__(self, holder: _Optional[str] = ..., pid: _Optional[int] = ..., min_sm_count: _Optional[int] = ..., tenant: _Optional[str] = ...) -> None: ...

class AcquireLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class ReleaseLeaseRequest(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class ReleaseLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class RevokeLeaseRequest(_message.Message):
    __slots__ = ("lease_id", "reason")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    reason: str
    def __init__(self, lease_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class ListLeasesRequest(_message.Message):
    __slots__ = ("include_ended", "page_size", "page_token")
    INCLUDE_ENDED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    include_ended: bool
    page_size: int
    page_token: str
    def __init__(self, include_ended: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLeasesResponse(_message.Message):
    __slots__ = ("leases", "next_page_token")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    next_page_token: str
    def __init__(self, leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReportUseRequest(_message.Message):
    __slots__ = ("lease_id", "interval_s", "busy_s")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    interval_s: float
    busy_s: float
    def __init__(self, lease_id: _Optional[str] = ..., interval_s: _Optional[float] = ..., busy_s: _Optional[float] = ...) -> None: ...

class ReportUseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchLeasesRequest(_message.Message):
    __slots__ = ("holder", "after_seq")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    holder: str
    after_seq: int
    def __init__(self, holder: _Optional[str] = ..., after_seq: _Optional[int] = ...) -> None: ...

class WatchLeasesResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: LeaseEvent
    def __init__(self, event: _Optional[_Union[LeaseEvent, _Mapping]] = ...) -> None: ...

class LeaseEvent(_message.Message):
    __slots__ = ("kind", "lease", "deadline_s", "free_ai_partitions", "seq")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    FREE_AI_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    kind: str
    lease: Lease
    deadline_s: float
    free_ai_partitions: int
    seq: int
    def __init__(self, kind: _Optional[str] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., deadline_s: _Optional[float] = ..., free_ai_partitions: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("seq", "time_s", "severity", "kind", "message")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    time_s: float
    severity: str
    kind: str
    message: str
    def __init__(self, seq: _Optional[int] = ..., time_s: _Optional[float] = ..., severity: _Optional[str] = ..., kind: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
