"""What the cells of each site need, and what its tenants ask for, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airan.core.clock import DAY_S
from airan.core.errors import CapacityError, ConfigError, InvalidInputError
from orchestrator.cell_demand import CellConfig, CellDemand, CellLoad
from sims import llm_load, ran_year
from sims.fleet.scenario import Scenario, TierTraffic, Trace

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_MOST_SAMPLES = 30_000_000
_LOADS = 17
_LENGTH_SPREAD = 0.7
"""Standard deviation of a request's length, relative to the mean. Assumed."""


@dataclass(frozen=True)
class Stream:
    """Requests of one tenant in one tier: [step] how many, and their tokens together."""

    tier: str
    tenant: str
    requests: Ints
    context_tokens: Ints
    generated_tokens: Ints


def ran_demand(scenario: Scenario) -> Floats:
    """Share of each site's GPUs that its cells need: float32[site, step], the days of warm-up
    first.

    Raises:
        InvalidInputError: more steps and cells than fit into memory.
    """
    days = scenario.warmup_days + scenario.days
    n_steps = days * round(DAY_S / scenario.step_s)
    if scenario.ran.series is not None:
        return _from_series(scenario.ran.series, n_steps, scenario)
    if n_steps * scenario.cells > _MOST_SAMPLES:
        raise InvalidInputError(
            "step_s",
            f"{scenario.cells} cells for {days} days make {n_steps * scenario.cells:,} samples,"
            f" more than {_MOST_SAMPLES:,}",
            remedy="take a longer step_s, fewer cells or fewer days",
        )
    settings = ran_year.YearSettings(
        growth_per_year=scenario.ran.growth_per_year,
        noise=scenario.ran.noise,
        matches_per_week=scenario.ran.matches_per_week,
        crowds_per_cell_month=scenario.ran.crowds_per_cell_month,
    )
    load = ran_year.shares(scenario.cells, days, scenario.step_s, scenario.seed, settings)
    sites = sites_of(ran_year.places(scenario.cells, scenario.seed), scenario.cells_per_site)
    return np.stack([_share(load[:, cells], scenario) for cells in sites])


def _from_series(path: Path, n_steps: int, scenario: Scenario) -> Floats:
    times_s, shares = ran_year.read_csv(path)
    at_s = times_s[0] + np.arange(n_steps) * float(scenario.step_s)
    if times_s[-1] < at_s[-1] - DAY_S:
        raise ConfigError(
            f"load series {path} ends {(at_s[-1] - times_s[-1]) / DAY_S:.1f} days too early",
            remedy="lower days or warmup_days, or give a longer one",
        )
    found = np.searchsorted(times_s, at_s, "right") - 1
    return np.tile(shares[found], (scenario.n_sites, 1))


def sites_of(places: npt.NDArray[np.float64], cells_per_site: int) -> list[Ints]:
    """Cells of each site, neighbours together: strips from west to east, each from south to
    north."""
    n_sites = -(-len(places) // cells_per_site)
    strips = max(1, round(n_sites**0.5))
    by_x = np.argsort(places[:, 0], kind="stable")
    per_strip = -(-n_sites // strips) * cells_per_site
    order = np.concatenate(
        [
            strip[np.argsort(places[strip, 1], kind="stable")]
            for strip in np.split(by_x, range(per_strip, len(by_x), per_strip))
        ]
    )
    return np.split(order, range(cells_per_site, len(order), cells_per_site))


def _share(load: Floats, scenario: Scenario) -> Floats:
    ran = scenario.ran
    if ran.sizing == "published":
        peaks = load.sum(axis=1, dtype=np.float64)
        share = peaks / (ran.peak_cells_per_gpu * scenario.gpus_per_site)
    else:
        share = _measured(load, scenario)
    found: Floats = np.minimum(share, 1.0).astype(np.float32)
    return found


def _measured(load: Floats, scenario: Scenario) -> npt.NDArray[np.float64]:
    """By the measured cost model, as many equal cells on each GPU, all at the mean load."""
    geometry = scenario.geometry()
    model = CellDemand.of(scenario.gpu, geometry.sm_count)
    n_cells = -(-load.shape[1] // scenario.gpus_per_site)
    loads = np.linspace(0.0, 1.0, _LOADS)
    sms = []
    for one in loads:
        try:
            sms.append(model.sms([CellLoad(CellConfig(), float(one))] * n_cells))
        except CapacityError:
            sms.append(geometry.sm_count)
    found: npt.NDArray[np.float64] = np.interp(load.mean(axis=1), loads, sms) / geometry.sm_count
    return found


def requests(scenario: Scenario, site: int) -> list[Stream]:
    """Everything the tenants of a site ask for in the days after the warm-up."""
    n_steps = scenario.days * round(DAY_S / scenario.step_s)
    random = np.random.default_rng([scenario.seed, site, 1])
    streams = [
        stream
        for traffic in scenario.llm.tiers
        for stream in _drawn(traffic, scenario.step_s, n_steps, random)
    ]
    if scenario.llm.trace is not None:
        streams.append(_traced(scenario.llm.trace, scenario.step_s, n_steps))
    return streams


def _drawn(
    traffic: TierTraffic, step_s: int, n_steps: int, random: np.random.Generator
) -> list[Stream]:
    hours = (np.arange(n_steps) + 0.5) * step_s % DAY_S / 3600.0
    level = [llm_load.activity(float(hour)) for hour in hours] if traffic.diurnal else [1.0]
    mean = traffic.requests_per_s * step_s * np.resize(level, n_steps) / traffic.tenants
    streams = []
    for number in range(traffic.tenants):
        count = random.poisson(mean)
        context = _tokens(count, traffic.context_tokens, random)
        generated = _tokens(count, traffic.generated_tokens, random)
        streams.append(Stream(traffic.tier, f"{traffic.tier}-{number}", count, context, generated))
    return streams


def _tokens(count: Ints, mean: int, random: np.random.Generator) -> Ints:
    """Lengths of so many requests together; many add up to a normal distribution."""
    spread = _LENGTH_SPREAD * mean * np.sqrt(count)
    drawn = count * mean + spread * random.standard_normal(len(count))
    return np.maximum(count, np.rint(drawn)).astype(np.int64)


def _traced(trace: Trace, step_s: int, n_steps: int) -> Stream:
    found = llm_load.from_csv(trace.path)
    if trace.stretch_to_day:
        found = llm_load.fit_to_day(found, len(found), 1 << 30, 1 << 30)
    span_s = DAY_S
    if not trace.stretch_to_day:
        # It is repeated from the step on that follows its last request.
        span_s = (found[-1].arrival_s // step_s + 1.0) * step_s
    totals = np.zeros((3, n_steps))
    until_s = n_steps * step_s if trace.repeat else span_s
    for start_s in np.arange(0.0, until_s, span_s):
        _add(totals, found, start_s, step_s)
    scaled = np.rint(totals * trace.times).astype(np.int64)
    return Stream(trace.tier, "trace", scaled[0], scaled[1], scaled[2])


def _add(
    totals: npt.NDArray[np.float64],
    found: Sequence[llm_load.LlmRequest],
    start_s: float,
    step_s: int,
) -> None:
    for one in found:
        step = int((start_s + one.arrival_s) // step_s)
        if step < totals.shape[1]:
            totals[:, step] += (1, one.context_tokens, one.generated_tokens)
