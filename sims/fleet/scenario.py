"""What a simulation plays: read from YAML, checked, errors by file, line and field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from airan.core.errors import ConfigError, InvalidInputError, NotFoundError
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry
from orchestrator.policy import CalendarEntry, Policy
from orchestrator.shares import ShareGeometry
from sims.fleet.market import FederationSpec, TokenPrice, TtftTargetSpec
from sims.fleet.market import Part as _Part
from sims.fleet.numbers import Count, NotNegative, Positive, Share

SHIPPED = Path(__file__).parent / "scenarios"


class RanTraffic(_Part):
    """How loaded the cells are; what is not named here is as `sims.ran_year` has it (assumed)."""

    series: Path | None = None
    """A CSV with the columns time, share: what every site needs of its GPUs, from the warm-up's
    first moment on, instead of generated cells. Between two rows the first one holds."""
    peak_cells_per_gpu: Positive = 20.0
    """cuPHY on GH200: 20 peak 4T4R cells of 100 MHz (NVIDIA, published); need is proportional to
    the PRBs in use."""
    sizing: Literal["published", "measured"] = "published"
    """`measured`: by the cost model of airan's own kernels, for equal cells at the mean load."""
    growth_per_year: NotNegative = 0.2
    noise: NotNegative = 0.12
    matches_per_week: NotNegative = 0.7
    crowds_per_cell_month: NotNegative = 2.0
    slot_variation: Positive = 0.02
    """Standard deviation of one slot's need, relative to the mean need. Assumed."""


class TierTraffic(_Part):
    """Requests of one service tier at one site."""

    tier: Literal["priority", "default", "flex"]
    requests_per_s: NotNegative
    """At a site, at the busiest hour."""
    context_tokens: Count = 1000
    """Mean of a prompt."""
    generated_tokens: Count = 200
    """Mean of an answer."""
    tenants: Annotated[int, Field(ge=1, le=16)] = 2
    diurnal: bool = True
    """Half as many at night; else the same all day (batch work)."""


class Trace(_Part):
    """Requests from a CSV in the form of the Azure Public Dataset's LLM inference trace."""

    path: Path
    tier: Literal["priority", "default", "flex"] = "default"
    times: Positive = 1.0
    """Each request counts as so many."""
    stretch_to_day: bool = False
    """The whole trace becomes one day."""
    repeat: bool = True
    """It begins anew when it is over."""


class LlmTraffic(_Part):
    """What tenants ask for, at each site."""

    tiers: tuple[TierTraffic, ...] = ()
    trace: Trace | None = None
    held_prompt_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Part of every prompt, a beginning in common, that engines hold from earlier ones and need
    not read. It is sold all the same. Assumed."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a refused request comes again, as OpenAI's client does of its own accord."""


class EngineSpec(_Part):
    """An engine that was measured elsewhere; see `sims.fleet.engines.EngineTable`."""

    model: str
    hardware: str
    source: str
    sm_count: Count
    max_concurrent: Count
    tokens_per_s: Positive
    sms: tuple[Count, ...] = Field(min_length=1)
    relative_rate: tuple[Share, ...]
    prefill_tokens_per_s: Positive
    relative_prefill: tuple[Share, ...]
    pause_s: NotNegative
    start_s: NotNegative
    cold_start_s: NotNegative
    keeps_cache: bool

    @model_validator(mode="after")
    def _a_rate_for_each(self) -> EngineSpec:
        if not len(self.sms) == len(self.relative_rate) == len(self.relative_prefill):
            raise ValueError("sms, relative_rate and relative_prefill must be of one length")
        if not (min(self.relative_rate) > 0.0 and min(self.relative_prefill) > 0.0):
            raise ValueError("rates must be above 0")
        if list(self.sms) != sorted(set(self.sms)):
            raise ValueError("sms must ascend")
        return self


class Forecast(_Part):
    """Of what past the forecaster goes by; see `orchestrator.demand.DemandSettings`."""

    fit_steps: Count = 4
    residual_steps: Count = 120


class Faults(_Part):
    """How often things fail, per year, and what is maintained. All assumed."""

    gpu_losses_per_year: NotNegative = 0.0
    """Each GPU."""
    gpu_repair_h: Positive = 4.0
    """Mean."""
    engine_deaths_per_year: NotNegative = 0.0
    """Each site."""
    failing_calls: Share = 0.0
    """Part of the driver calls."""
    maintenance_every_days: NotNegative = 0.0
    """Each GPU in turn, at 02:00; 0: never."""
    maintenance_h: Positive = 1.0


class Energy(_Part):
    """A GPU's power: linear between idle and full use. Host, cooling and losses by `pue`."""

    idle_w: NotNegative = 120.0
    """Assumed."""
    full_w: Positive = 700.0
    """An H100's power limit, as its board reports it."""
    pue: Annotated[float, Field(ge=1.0)] = 1.3
    """Assumed."""

    @model_validator(mode="after")
    def _in_order(self) -> Energy:
        if self.idle_w > self.full_w:
            raise ValueError("idle_w is above full_w")
        return self


class CalendarSpec(_Part):
    """One entry of a calendar; see `orchestrator.policy.CalendarEntry`."""

    days: tuple[str, ...] = ()
    start: str
    ran_share: Share


class PolicySpec(_Part):
    """A policy as `airan policy set` takes it, or one that only a simulation can have."""

    kind: Literal["static", "time_of_day", "demand", "oracle"] = "demand"
    """`oracle`: `demand` that is told what the RAN will need instead of forecasting it."""
    ran_share: Share = 0.6
    headroom: Share = 0.05
    min_ran_share: Share = 0.1
    max_ran_share: Share = 1.0
    min_ai_share: Share = 0.0
    max_ai_share: Share = 1.0
    min_lease_s: NotNegative = 600.0
    notice_ms: Annotated[int, Field(ge=0, le=60_000)] = 400
    hysteresis_share: Share = 0.0
    unit: Literal["slice", "gpu"] = "slice"
    time_zone: str = "UTC"
    calendar: tuple[CalendarSpec, ...] = ()

    def policy(self) -> Policy:
        """The live policy.

        Raises:
            InvalidInputError: bounds that exclude each other, an unknown time zone, no calendar.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        calendar = tuple(CalendarEntry(one.days, one.start, one.ran_share) for one in self.calendar)
        kind = "demand" if self.kind == "oracle" else self.kind
        return Policy(**fields | {"kind": kind, "calendar": calendar})


class Scenario(_Part):
    """One simulation: the same cells, tenants and faults under each policy."""

    name: str
    description: str = ""
    cells: Count = 20
    cells_per_site: Count = 20
    gpus_per_site: Count = 1
    gpu: str = "GH200-96GB"
    partition: Literal["mig", "mps", "green"] = "green"
    days: Count = 1
    warmup_days: Annotated[int, Field(ge=0)] = 14
    """Days before the first one, of which the forecaster knows."""
    step_s: Annotated[int, Field(ge=10, le=3600)] = 60
    """Load and plan change no faster."""
    seed: int = 1
    speed: Positive = 1.0
    """Seconds of the site's clock in one of wall time, as a demo has it: delays, engines, notice,
    alarms and `min_lease_s` are in wall time, all else is in the site's."""
    engine: str | EngineSpec = "llama-8b-h100"
    """A table of `sims/fleet/data/engines.yaml`, or one that is given here."""
    engines_per_site: Annotated[int, Field(ge=0)] = 0
    """Engines take the largest AI partitions; 0: one on each."""
    forecast: Forecast = Forecast()
    ran: RanTraffic = RanTraffic()
    llm: LlmTraffic = LlmTraffic()
    faults: Faults = Faults()
    energy: Energy = Energy()
    prices: dict[Literal["priority", "default", "flex"], TokenPrice] = Field(default_factory=dict)
    """A tier without a price costs as `default`."""
    ttft_target_s: TtftTargetSpec | None = TtftTargetSpec()
    """What admission keeps to; null: everyone is let in."""
    max_waiting: Count = 512
    """Requests of one tenant that may wait at a site; one more is refused. The live default."""
    federation: FederationSpec | None = None
    """Where requests go that a site refuses; null: nowhere."""
    policies: dict[str, PolicySpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _steps_divide_a_day(self) -> Scenario:
        if 86_400 % self.step_s:
            raise ValueError("step_s must divide a day: 60, 300 or 900")
        return self

    @model_validator(mode="after")
    def _every_site_has_a_region(self) -> Scenario:
        if self.federation is not None:
            self.federation.check_sites(self.n_sites)
        return self

    @property
    def n_sites(self) -> int:
        """Sites, the last perhaps with fewer cells."""
        return -(-self.cells // self.cells_per_site)

    def geometry(self) -> Geometry:
        """How each GPU may be divided.

        Raises:
            NotFoundError: no such product.
        """
        mig = MigGeometry.load(self.gpu)
        if self.partition == "mig":
            return mig
        return ShareGeometry(self.gpu, self.partition, mig.sm_count, mig.memory_mib)

    def digest(self) -> str:
        """Tells scenarios apart; the policies' order does not count."""
        body = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]


def load(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Scenario:
    """Reads a scenario: a file, or one that is shipped, by its name; `changes` replace fields.

    Raises:
        NotFoundError: there is no such scenario; the message lists those shipped.
        ConfigError: it is not valid; the message names file, line and field.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = SHIPPED / f"{name_or_path}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.yaml")))
            raise NotFoundError(
                f"there is no scenario {name_or_path!r}", remedy=f"give a file, or one of: {names}"
            )
    try:
        text = path.read_text(encoding="utf-8")
        body, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"scenario {path} cannot be read: {error}", remedy="correct it"
        ) from error
    if not isinstance(body, dict):
        raise ConfigError(
            f"scenario {path} line 1: holds no fields", remedy="see docs/simulation.md"
        )
    body = {"name": path.stem} | body | dict(changes or {})
    try:
        scenario = Scenario.model_validate(body)
    except ValidationError as error:
        found = error.errors()[0]
        raise _wrong(path, tree, found["loc"], found["msg"]) from error
    _check_meaning(path, tree, scenario)
    return _with_files_beside(path.parent, scenario)


def _with_files_beside(folder: Path, scenario: Scenario) -> Scenario:
    """Files are named relative to the scenario's."""
    ran, llm = scenario.ran, scenario.llm
    if ran.series is not None:
        ran = ran.model_copy(update={"series": folder / ran.series})
    if llm.trace is not None:
        trace = llm.trace.model_copy(update={"path": folder / llm.trace.path})
        llm = llm.model_copy(update={"trace": trace})
    return scenario.model_copy(update={"ran": ran, "llm": llm})


def _check_meaning(path: Path, tree: yaml.Node | None, scenario: Scenario) -> None:
    """What only the live code can judge."""
    try:
        scenario.geometry()
    except NotFoundError as error:
        raise _wrong(path, tree, ("gpu",), error.message) from error
    for name, spec in scenario.policies.items():
        try:
            spec.policy()
        except InvalidInputError as error:
            field = error.field.removeprefix("policy.")
            raise _wrong(path, tree, ("policies", name, field), error.message) from error


def _wrong(
    path: Path, tree: yaml.Node | None, where: tuple[int | str, ...], problem: str
) -> ConfigError:
    field = ".".join(str(one) for one in where) or "the scenario"
    problem = problem.removeprefix("Value error, ")
    return ConfigError(
        f"scenario {path} line {_line(tree, where)}, field {field}: {problem}",
        remedy="correct that line; docs/simulation.md lists the fields",
    )


def _line(tree: yaml.Node | None, where: tuple[int | str, ...]) -> int:
    """The line of a field, or of the nearest thing around it that is written down."""
    line, node = 1, tree
    for one in where:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(one)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(one, int) and one < len(node.value):
            node = node.value[one]
            line = node.start_mark.line + 1
        else:
            break
    return line
