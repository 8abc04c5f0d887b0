"""`airan demo`: a site of its own, 24 hours replayed on it, and a report at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from airan.core.clock import DAY_S
from airan.core.config import ClockConfig, PortsConfig, SiteConfig
from airan.core.errors import ConfigError, UnavailableError
from airan.demo.plot import save_plot
from airan.demo.report import DemoReport, DemoRun, Recorder, build_report, render_report
from airan.demo.tenants import Outcome, TenantLoad, make_tenants
from airan.demo.view import LiveView
from airan.site import launch
from airan.site.reading import snapshot_source
from airan.site.runtime import SiteRuntime
from airan.site.warden import Warden
from sims import llm_load
from sims.llm_load import LlmRequest
from sims.ran_load import TraceProfile

TENANTS = ("bus-line", "factory", "robotics")
# The site's clock starts this many wall seconds before midnight, about what its start takes, and
# stands still an hour after the next midnight, so that what is still open ends in a quiet night.
EXPECTED_START_S = 18.0
# About what SmolLM2-135M makes on two shared CPU cores in a second, left with some room.
REQUESTS_PER_WALL_S = 0.40
# A shift report asked for as the morning begins: still open when the radio takes the GPU back.
LONG_REQUEST = LlmRequest(7.6 * 3600.0, context_tokens=120, generated_tokens=400)
DRAIN_S = 120.0
INTERRUPTED = 130
FAILED = 1
console = Console(highlight=False)


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked the demo for."""

    duration_s: float = 180.0
    """Wall seconds in which the 24 hours pass."""
    ran_trace: Path | None = None
    llm_trace: Path | None = None
    n_requests: int | None = None
    json_path: Path | None = None
    plot_path: Path = Path("demo-report.png")
    seed: int = 1

    @property
    def speed(self) -> float:
        """Site seconds per wall second."""
        return DAY_S / self.duration_s


def run_demo(config: SiteConfig, options: DemoOptions) -> int:
    """Runs the demo to its end; returns the exit status."""
    config = demo_config(config, options)
    requests = demo_requests(config, options)
    if options.ran_trace is not None:
        TraceProfile.from_csv(options.ran_trace)
    with interruptible():
        try:
            with demo_site(config) as runtime:
                recorder, report = asyncio.run(_play(runtime, options, requests))
        except KeyboardInterrupt:
            console.print("interrupted; the site has been stopped")
            return INTERRUPTED
    _publish(recorder, report, options)
    return FAILED if broken(report) else 0


def broken(report: DemoReport) -> bool:
    """True when the site failed a tenant, or did not do what a demo is to show."""
    return bool(
        report.requests_failed
        or report.requests_cancelled
        or report.tokens_lost
        or not report.requests_completed
        or not report.slots
    )


def demo_config(config: SiteConfig, options: DemoOptions) -> SiteConfig:
    """The user's configuration, with a state folder, a clock and ports for a demo."""
    ports = PortsConfig(
        **{
            name: launch.port_or_free(port, default=getattr(PortsConfig(), name))
            for name, port in config.ports.model_dump().items()
        }
    )
    # The peaks of a day that takes minutes must not have its requests refused: they wait, as those
    # of flex do, and the report shows for how long.
    promises = config.market.ttft_target_s
    patient = promises.model_copy(update={"default": max(promises.default, promises.flex)})
    return config.model_copy(
        update={
            "state_dir": config.state_dir / "demo",
            # Its tenants use HTTP; another site may have the gRPC port.
            "market": config.market.model_copy(update={"ttft_target_s": patient, "grpc_port": 0}),
            "clock": demo_clock(options.speed),
            "ran": config.ran.model_copy(
                update={"trace": options.ran_trace or config.ran.trace, "seed": options.seed}
            ),
            "ports": ports,
        }
    )


def demo_clock(speed: float) -> ClockConfig:
    """A clock whose 24 hours begin about when the site is ready, and that ends in the night."""
    before_s = min(DAY_S - 3600.0, EXPECTED_START_S * speed)
    minutes = round((DAY_S - before_s) / 60.0)
    return ClockConfig(
        speed=speed,
        start=f"{minutes // 60:02d}:{minutes % 60:02d}",
        hold_after_s=before_s + DAY_S + 3600.0,
    )


def demo_requests(config: SiteConfig, options: DemoOptions) -> list[LlmRequest]:
    """The day's requests: generated, or taken from the trace and clipped to the model's context."""
    wanted = options.n_requests or max(8, round(options.duration_s * REQUESTS_PER_WALL_S))
    if options.llm_trace is None:
        return [LONG_REQUEST, *llm_load.generate(wanted, options.seed)]
    half = config.model.n_ctx // 2
    trace = llm_load.from_csv(options.llm_trace)
    return llm_load.fit_to_day(trace, wanted, max_context=min(half, 400), max_generated=160)


async def _play(
    runtime: SiteRuntime, options: DemoOptions, requests: Sequence[LlmRequest]
) -> tuple[Recorder, DemoReport]:
    """Replays the day: load in, snapshots out, until every request has ended."""
    begin_s = time.time()
    keys = await make_tenants(runtime.gateway_url, runtime.admin_key, TENANTS)
    load = TenantLoad(runtime.gateway_url, keys, runtime.config.model.name)
    recorder = Recorder()
    playing = asyncio.create_task(
        load.run(_in_window(runtime, requests, begin_s), begin_s, options.speed)
    )
    end_s = begin_s + options.duration_s
    async with snapshot_source(runtime) as source:
        with LiveView(console, runtime.dashboard_url) as view:
            while time.time() < end_s or not playing.done():
                snapshot, events = await source.snapshot(), await source.new_events()
                if time.time() < end_s:
                    recorder.add(snapshot, events)
                view.update(snapshot, events)
                if time.time() > end_s + DRAIN_S:
                    break
                await asyncio.sleep(1.0)
        # The last answers count, not the last drawn second.
        recorder.finish(await source.snapshot(), await source.new_events())
    if not playing.done():
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
    else:
        playing.result()
    return recorder, build_report(recorder, _run_facts(runtime, options, load.outcomes, begin_s))


def _in_window(
    runtime: SiteRuntime, requests: Sequence[LlmRequest], begin_s: float
) -> list[LlmRequest]:
    """Shifts arrivals from the time of day to seconds after the replay's begin."""
    day_s = runtime.day_clock.time_of_day_s(begin_s)
    shifted = (replace(r, arrival_s=(r.arrival_s - day_s) % DAY_S) for r in requests)
    first, *others = sorted(shifted, key=lambda request: request.arrival_s)
    # A tenant is waiting as the site opens, which times the first token.
    return [replace(first, arrival_s=0.0), *others]


def _run_facts(
    runtime: SiteRuntime, options: DemoOptions, outcomes: Sequence[Outcome], begin_s: float
) -> DemoRun:
    answered = [o for o in outcomes if o.complete]
    broken = [o for o in outcomes if not o.complete]
    first = min((o.first_token_s for o in outcomes if o.first_token_s), default=None)
    notes = []
    if first is not None:
        notes.append(
            f"first token to a tenant {first - runtime.started_s:.1f} s after the site's start"
        )
    if options.llm_trace is not None:
        notes.append(
            f"LLM requests: {len(outcomes)} taken evenly from {options.llm_trace.name}, stretched "
            "over the day, prompts clipped to 400 and answers to 160 tokens"
        )
    else:
        notes.append(
            f"LLM requests: {len(outcomes)}, generated (seed {options.seed}), one of them long and "
            "opened just before the morning peak"
        )
    # Counted where the tenants are, not where the tokens are made.
    notes.append(
        f"the tenants themselves saw {len(answered)} of {len(outcomes)} streams end complete, with "
        f"{sum(o.completion_tokens for o in answered):,} tokens"
    )
    notes += [f"request not completed: {o.error or 'cut off at the end'}" for o in broken[:5]]
    return DemoRun(
        wall_s=time.time() - begin_s,
        site_hours=24.0,
        longest_pause_s=max((o.longest_pause_s for o in answered), default=None),
        notes=tuple(notes),
    )


def _publish(recorder: Recorder, report: DemoReport, options: DemoOptions) -> None:
    console.print(render_report(report))
    save_plot(recorder, report, options.plot_path)
    console.print(f"plot: {options.plot_path}")
    if options.json_path is not None:
        options.json_path.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        console.print(f"report: {options.json_path}")


@contextlib.contextmanager
def demo_site(config: SiteConfig) -> Iterator[SiteRuntime]:
    """A fresh site that ends with the block, whatever ends the block.

    Raises:
        AlreadyRunningError: another demo runs in the same folder.
        UnavailableError: the site does not get ready.
    """
    launch.refuse_if_running(config.state_dir)
    launch.end_leftovers(config.state_dir)
    _clear(config.state_dir)
    runtime = launch.prepare(config, console.print)
    warden = Warden(runtime, end_with_me=True)
    ended = threading.Event()

    def keep() -> None:
        # A site that cannot be kept up does not get ready, which is told with the logs' place.
        with contextlib.suppress(UnavailableError):
            while not ended.wait(0.2):
                warden.keep()

    keeper = threading.Thread(target=keep, daemon=True)
    try:
        warden.start()
        console.print(f"starting a site with a simulated {config.node.gpu} ...")
        keeper.start()
        took_s = launch.await_ready(runtime)
        console.print(f"ready after {took_s:.0f} s; dashboard: {runtime.dashboard_url}")
        yield runtime
    finally:
        ended.set()
        if keeper.is_alive():
            keeper.join()
        warden.stop()


def _clear(state_dir: Path) -> None:
    """Removes an earlier demo's state, and nothing that is not one.

    Raises:
        ConfigError: the folder holds something else.
    """
    if not state_dir.exists():
        return
    if any(state_dir.iterdir()) and not (state_dir / "run").is_dir():
        raise ConfigError(
            f"{state_dir} exists and is no site's state folder",
            remedy="name another place with --state-dir; the demo keeps its state in its demo/",
        )
    shutil.rmtree(state_dir, ignore_errors=True)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, so that both end the demo in order.

    SIGINT too: a shell that starts us in the background has it ignored.
    """

    def on_signal(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
