"""vLLM in gears: `--worker-cls` GearWorker and `--scheduler-cls` GearScheduler of this module.

Only vLLM's own process imports it. The board is named by the variable AIRAN_SM_BOARD. The worker
holds a green context and captured CUDA graphs for every gear of the board, so that changing gear is
a matter of microseconds between two steps and no weight moves. It works on one GPU, in the
scheduler's process (vLLM's way with one GPU). Written for vLLM 0.25.1, both model runners.

A step's graphs run where they were captured; what is launched besides goes to the gear's stream.
Each gear's stream keeps activations of its own in torch's allocator, beyond what vLLM counted.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from vllm.compilation.breakable_cudagraph import is_breakable_cudagraph_enabled
from vllm.compilation.cuda_graph import CUDAGraphWrapper
from vllm.distributed.parallel_state import GraphCaptureContext, get_pp_group, get_tp_group
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.worker.gpu_worker import Worker

from airan.core.errors import UnavailableError
from marketplace.engines.gearbox import Gearbox
from marketplace.engines.vllm_plans import SmPlans
from orchestrator.sm_board import Gear, SmBoard
from phy.gpu.green import GreenContext, count_sms, take_second

log = logging.getLogger(__name__)

BOARD_VARIABLE = "AIRAN_SM_BOARD"
_LOWEST = 1 << 16
"""Steps below the highest stream priority: the driver gives its lowest."""
_PAUSE_S = 0.0005
_N_REPLAYS = 5
_FEWER_SMS = (0, 4, 8)
"""Than a gear has: what cuBLAS is told to plan for."""
_RUNNERS = ("vllm.v1.worker.gpu.cudagraph_utils", "vllm.v1.worker.gpu_model_runner")
"""Where model runners look for `graph_capture`."""


class GearScheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler, whose steps keep to the tokens that the fast path allows."""

    max_num_scheduled_tokens: int

    def schedule(self, *args: Any, **options: Any) -> Any:
        """Puts a step together; an empty one in a gear that leaves the AI nothing."""
        gearbox = GearWorker.gearbox
        if gearbox is None:
            return super().schedule(*args, **options)
        own = self.max_num_scheduled_tokens
        with gearbox.scheduling(own) as allowed:
            self.max_num_scheduled_tokens = allowed
            try:
                output = super().schedule(*args, **options)
            finally:
                self.max_num_scheduled_tokens = own
            if output.total_num_scheduled_tokens:
                gearbox.scheduled()
        if allowed == 0:
            time.sleep(_PAUSE_S)  # the engine asks again and again
        return output


class GearWorker(Worker):  # type: ignore[misc]
    """vLLM's worker, whose steps run in the gear that the board orders."""

    gearbox: ClassVar[Gearbox | None] = None
    """Of this process, where the scheduler finds it."""

    def compile_or_warm_up_model(self) -> Any:
        """Warms up, then captures graphs for every gear.

        Raises:
            UnavailableError: no board is named, or an option does not go with gears.
        """
        path = os.environ.get(BOARD_VARIABLE)
        if not path:
            raise UnavailableError(f"{BOARD_VARIABLE} is not set", remedy="name the GPU's board")
        _check(self.vllm_config)
        out = super().compile_or_warm_up_model()
        board = SmBoard.open(Path(path))
        self._steps = _Steps(board)
        gears = _TorchGears(board.gears, self.model_runner, self.device)
        GearWorker.gearbox = gearbox = Gearbox(board, gears)
        gearbox.start()
        return out

    def execute_model(self, scheduler_output: Any) -> Any:
        """Begins a step."""
        gearbox = GearWorker.gearbox
        tokens = int(scheduler_output.total_num_scheduled_tokens)
        if gearbox is None or tokens == 0:
            return super().execute_model(scheduler_output)
        self._steps.begin(tokens, gearbox.begin_step(tokens))
        output = super().execute_model(scheduler_output)
        if output is not None:
            self._end()
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Ends a step."""
        output = super().sample_tokens(grammar_output)
        if GearWorker.gearbox is not None:
            self._end()
        return output

    def shutdown(self) -> None:
        """Ends it."""
        gearbox, GearWorker.gearbox = GearWorker.gearbox, None
        if gearbox is not None:
            gearbox.close()
        super().shutdown()

    def _end(self) -> None:
        self._steps.end()
        if GearWorker.gearbox is not None:
            GearWorker.gearbox.end_step()


def _check(config: Any) -> None:
    """Refuses what would run outside of its gear, or wait for ever in one.

    Raises:
        UnavailableError: with the option.
    """
    scheduler = config.scheduler_config
    for is_wrong, what in (
        (config.parallel_config.world_size > 1, "more than one GPU"),
        (config.speculative_config is not None, "speculative decoding"),
        (is_breakable_cudagraph_enabled(), "breakable CUDA graphs"),
        (not scheduler.enable_chunked_prefill, "prompts in one piece"),
    ):
        if is_wrong:
            raise UnavailableError(
                f"gears do not go with {what}", remedy="change vLLM's options, or leave gears out"
            )


class _Steps:
    """Tells the board how long steps are on the GPU."""

    def __init__(self, board: SmBoard) -> None:
        self._board = board
        self._begun: tuple[Any, int, int] | None = None
        self._under_way: deque[tuple[Any, Any, int, int]] = deque()

    def begin(self, tokens: int, gear: int) -> None:
        while self._under_way and self._under_way[0][1].query():
            begun, ended, n, ran_in = self._under_way.popleft()
            self._board.beat(round(1e3 * begun.elapsed_time(ended)), n, ran_in)
        self._begun = (_recorded(), tokens, gear)

    def end(self) -> None:
        if self._begun is not None:
            (begun, tokens, gear), self._begun = self._begun, None
            self._under_way.append((begun, _recorded(), tokens, gear))


def _recorded() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class _TorchGears:
    """Streams and CUDA graphs for each gear; a Shifter."""

    def __init__(self, gears: tuple[Gear, ...], runner: Any, device: Any) -> None:
        """In the engine's thread, once the runner has captured its own graphs, which are those of
        the whole GPU."""
        self._runner = runner
        index = torch.cuda.current_device() if device.index is None else int(device.index)
        self._contexts: list[GreenContext] = []
        self._streams: list[Any] = []
        self._graphs: list[list[Any]] = []
        self._total_sms = count_sms(index)
        self._plans = SmPlans(self._total_sms)
        self._planned_sms: list[int] = []
        own_stream, own_graphs = torch.cuda.current_stream(device), self._held()
        for gear in gears:
            if gear.ai_sms == 0 or gear.ai_sms >= self._total_sms:
                self._streams.append(own_stream)
                self._graphs.append(own_graphs)
                self._planned_sms.append(self._total_sms)
                continue
            context = take_second(index, gear.ran_sms, gear.ai_sms)
            self._contexts.append(context)
            stream = torch.cuda.ExternalStream(context.new_stream(_LOWEST), device=device)
            stream.wait_stream(own_stream)
            self._streams.append(stream)
            graphs, planned_sms = self._fastest(stream, gear)
            self._graphs.append(graphs)
            self._planned_sms.append(planned_sms)
            own_stream.wait_stream(stream)
        self._plans.use(self._total_sms, self._total_sms)
        self._gears = gears
        self._hold(own_graphs)
        torch.cuda.synchronize()
        self._is_running = [gear.ai_sms > 0 for gear in gears]
        self._stream = self._entered = own_stream
        self._gear = -1
        self._left = torch.cuda.Event(blocking=True)
        self._left.record(own_stream)

    def shift(self, gear: int) -> None:
        """See Shifter."""
        before = self._stream
        self._left = torch.cuda.Event(blocking=True)
        self._left.record(before)
        if self._is_running[gear]:
            # In a pause the next step, should one come, stays where the last one was.
            self._stream, self._gear = self._streams[gear], gear
            self._stream.wait_event(self._left)

    def enter(self) -> None:
        """See Shifter."""
        if self._stream is self._entered or self._gear < 0:
            return
        self._hold(self._graphs[self._gear])
        torch.cuda.set_stream(self._stream)
        # For what runs outside of graphs.
        n_sms = min(self._gears[self._gear].ai_sms, self._total_sms)
        self._plans.use(n_sms, self._planned_sms[self._gear])
        if "main_stream" in vars(type(self._runner)):
            self._runner.__dict__["main_stream"] = self._stream
        self._entered = self._stream

    def settle(self) -> None:
        """See Shifter."""
        self._left.synchronize()

    def _fastest(self, stream: Any, gear: Gear) -> tuple[list[Any], int]:
        """The gear's graphs, and for how many multiprocessors cuBLAS planned them: on many of a
        GPU's it is faster when it is told the number, or somewhat less, whose kernels fit better;
        on few it is slower. Which is up to cuBLAS, so each is tried."""
        best: tuple[float, list[Any], int] | None = None
        for fewer in (None, *_FEWER_SMS):
            planned_sms = self._total_sms if fewer is None else gear.ai_sms - fewer
            if planned_sms < 1:
                continue
            self._plans.use(gear.ai_sms, planned_sms)
            graphs = self._captured(stream)
            took_us = _replay_us(graphs, stream)
            log.info(
                "gear %s: planned for %d SMs its graphs take %.0f us", gear, planned_sms, took_us
            )
            if best is None or took_us < best[0]:
                best = (took_us, graphs, planned_sms)
        assert best is not None
        return best[1:]

    def _captured(self, stream: Any) -> list[Any]:
        self._hold([{} for _ in self._holders()])
        with torch.cuda.stream(stream), _capturing_on(stream):
            self._runner.capture_model()
        torch.cuda.synchronize()
        return self._held()

    def _holders(self) -> list[tuple[Any, str]]:
        """Where the runner keeps its graphs, by batch."""
        out = [
            (one, "concrete_cudagraph_entries")
            for one in sorted(CUDAGraphWrapper._all_instances, key=id)
        ]
        manager = getattr(self._runner, "cudagraph_manager", None)
        if manager is not None:
            out.append((manager, "graphs"))
        return out

    def _held(self) -> list[Any]:
        return [getattr(one, name) for one, name in self._holders()]

    def _hold(self, graphs: list[Any]) -> None:
        for (one, name), those in zip(self._holders(), graphs, strict=True):
            setattr(one, name, those)


def _replay_us(held: list[Any], stream: Any) -> float:
    """What all the graphs take once, the median of some times. Their attention has next to nothing
    to read: it is the matrix products that are compared."""
    graphs = [
        graph for each in held for graph in map(_graph_of, each.values()) if graph is not None
    ]
    times_us = []
    with torch.cuda.stream(stream):
        for _ in range(_N_REPLAYS):
            begun = _recorded()
            for graph in graphs:
                graph.replay()
            ended = _recorded()
            ended.synchronize()
            times_us.append(1e3 * begun.elapsed_time(ended))
    return float(statistics.median(times_us))


def _graph_of(entry: Any) -> Any:
    return getattr(entry, "cudagraph", entry)


@contextmanager
def _capturing_on(stream: Any) -> Iterator[None]:
    """Meanwhile vLLM and torch capture graphs on that stream, and not on one they make."""

    @contextmanager
    def graph_capture(device: Any) -> Iterator[Any]:
        del device
        context = GraphCaptureContext(stream)
        with get_tp_group().graph_capture(context), get_pp_group().graph_capture(context):
            yield context

    default = torch.cuda.graph.default_capture_stream
    torch.cuda.graph.default_capture_stream = stream
    first, second = (patch(f"{module}.graph_capture", graph_capture) for module in _RUNNERS)
    try:
        with first, second:
            yield
    finally:
        torch.cuda.graph.default_capture_stream = default
