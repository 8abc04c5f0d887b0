"""A vLLM worker's streams and CUDA graphs in each gear of a board; see vllm_gears.

A start leaves the slots alone: the engine loads its model, warms up and captures on the part of the
GPU that it has in the gear that leaves it the least, and capturing for another gear runs nothing
there. Only how fast matrix products are in a gear is tried there, while no slot is on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from vllm.compilation.cuda_graph import CUDAGraphWrapper
from vllm.distributed.parallel_state import GraphCaptureContext, get_pp_group, get_tp_group
from vllm.model_executor.layers.linear import LinearBase

from marketplace.engines.vllm_plans import SmPlans
from orchestrator.sm_board import Gear, SmBoard
from phy.gpu.green import GreenContext, count_sms, take_second

log = logging.getLogger(f"vllm.{__name__}")
"""Among vLLM's own: no other has a place to write to in its process."""

_LOWEST = 1 << 16
"""Steps below the highest stream priority: the driver gives its lowest."""
_FEWER_SMS = (0, 4, 8)
"""Than a gear has: what cuBLAS is told to plan for."""
_UNTIMED_FEWER_SMS, _UNTIMED_FROM_SMS = 8, 48
"""Likewise where it cannot be timed, in gears with as many; with less it is not told. So it was
fastest on an H200 in the four that were timed: 124, 116, 48 and 32 SMs."""
_N_WEIGHTS = 4
"""Of one shape that are tried in turn, so that they do not all lie in the cache."""
_N_TIMES = 3
_RUNNERS = ("vllm.v1.worker.gpu.cudagraph_utils", "vllm.v1.worker.gpu_model_runner")
"""Where model runners look for `graph_capture`."""
_PIECES = "vllm.compilation.cuda_graph.current_stream"
"""Where graphs of pieces are captured."""
_EMPTYING = ("torch.cuda.empty_cache", "torch.accelerator.empty_cache")
"""Gives memory back to the driver, which holds up the GPU's other processes."""


def recorded() -> Any:
    """An event at the end of what the current stream was given."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class StartPart:
    """Where an engine makes itself ready.

    Attributes:
        index: the device's.
        stream: of its part; the calling thread's from now on.
        total_sms: of the GPU.
    """

    def __init__(self, gears: Sequence[Gear], device: Any) -> None:
        """`gears`: of the board; one that leaves the engine all of the GPU counts as such."""
        self.device = device
        self.index = torch.cuda.current_device() if device.index is None else int(device.index)
        self.total_sms = count_sms(self.index)
        parts = [gear for gear in gears if 0 < gear.ai_sms < self.total_sms]
        self._context: GreenContext | None = None
        if parts:
            least = min(parts, key=lambda gear: gear.ai_sms)
            self._context = take_second(self.index, least.ran_sms, least.ai_sms)
            self.stream = stream_of(self._context, device)
        else:
            self.stream = torch.cuda.Stream(device=device)
        self.stream.wait_stream(torch.cuda.current_stream(device))
        torch.cuda.set_stream(self.stream)

    @contextmanager
    def capturing(self, stream: Any = None) -> Iterator[None]:
        """Meanwhile vLLM and torch capture graphs on that stream, None: on this part's, and not on
        one they make; what they run on the way runs here."""
        target = self.stream if stream is None else stream

        @contextmanager
        def graph_capture(device: Any) -> Iterator[Any]:
            del device
            context = GraphCaptureContext(self.stream)
            with get_tp_group().graph_capture(context), get_pp_group().graph_capture(context):
                yield context

        default = torch.cuda.graph.default_capture_stream
        torch.cuda.graph.default_capture_stream = target
        try:
            with ExitStack() as patched:
                for module in _RUNNERS:
                    patched.enter_context(patch(f"{module}.graph_capture", graph_capture))
                patched.enter_context(patch(_PIECES, lambda: target))
                for name in _EMPTYING:
                    patched.enter_context(patch(name, _keep_memory))
                yield
        finally:
            torch.cuda.graph.default_capture_stream = default


class GearGraphs:
    """Streams and CUDA graphs for each gear; a Shifter."""

    def __init__(self, board: SmBoard, runner: Any, part: StartPart, n_rows: int) -> None:
        """In the engine's thread, once the runner has captured its own graphs, which are given up.

        Args:
            board: with the gears.
            runner: vLLM's model runner.
            part: where it was made ready.
            n_rows: tokens of the steps that matrix products are planned for.
        """
        self._runner, self._part, self._gears = runner, part, board.gears
        self._plans = SmPlans(part.total_sms)
        self._products = _Products(runner.model, n_rows)
        self._contexts: list[GreenContext] = []
        self._streams: list[Any] = []
        self._graphs: list[list[Any]] = []
        self._planned_sms: list[int] = []
        # The memory that all graphs share is given up with the last graph in it.
        first = self._held()
        for gear in board.gears:
            stream = self._new_stream(gear)
            stream.wait_stream(part.stream)
            planned_sms = self._fastest_plan(stream, gear, board)
            self._plans.use(self._sms_of(gear), planned_sms)
            self._streams.append(stream)
            self._planned_sms.append(planned_sms)
            self._graphs.append(self._captured(stream) if gear.ai_sms else first)
            part.stream.wait_stream(stream)
        del first
        self._plans.use(part.total_sms, part.total_sms)
        torch.cuda.synchronize()
        planned = dict(zip(map(str, self._gears), self._planned_sms, strict=True))
        log.info("graphs are captured; by gear, SMs that products are planned for: %s", planned)
        self._stream = self._entered = part.stream
        self._gear = -1
        self._left = torch.cuda.Event(blocking=True)
        self._left.record(part.stream)

    def shift(self, gear: int) -> None:
        """See Shifter."""
        before = self._stream
        self._left = torch.cuda.Event(blocking=True)
        self._left.record(before)
        if self._gears[gear].ai_sms:
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
        self._plans.use(self._sms_of(self._gears[self._gear]), self._planned_sms[self._gear])
        if "main_stream" in vars(type(self._runner)):
            self._runner.__dict__["main_stream"] = self._stream
        self._entered = self._stream

    def settle(self) -> None:
        """See Shifter."""
        self._left.synchronize()

    def _new_stream(self, gear: Gear) -> Any:
        part = self._part
        if gear.ai_sms == 0:
            return part.stream
        if gear.ai_sms >= part.total_sms:
            return torch.cuda.Stream(device=part.device)
        context = take_second(part.index, gear.ran_sms, gear.ai_sms)
        self._contexts.append(context)
        return stream_of(context, part.device)

    def _sms_of(self, gear: Gear) -> int:
        return min(gear.ai_sms, self._part.total_sms) or self._part.total_sms

    def _fastest_plan(self, stream: Any, gear: Gear, board: SmBoard) -> int:
        """For how many multiprocessors cuBLAS plans best in a gear: on many of a GPU's it is
        faster when it is told the number, or somewhat less, whose kernels fit better; on few it
        may be slower. While slots are on the gear's part that cannot be timed."""
        total_sms, n_sms = self._part.total_sms, self._sms_of(gear)
        slots_sms = board.gears[board.current.gear].ran_sms
        if n_sms >= total_sms:
            return total_sms
        if slots_sms > gear.ran_sms:
            return n_sms - _UNTIMED_FEWER_SMS if n_sms >= _UNTIMED_FROM_SMS else total_sms
        took_us: dict[int, float] = {}
        for planned_sms in (total_sms, *(n_sms - fewer for fewer in _FEWER_SMS)):
            if planned_sms > 0:
                self._plans.use(n_sms, planned_sms)
                took_us[planned_sms] = self._products.time_us(stream)
        log.info("gear %s: products by SMs they are planned for, in us: %s", gear, took_us)
        return min(took_us, key=lambda planned_sms: took_us[planned_sms])

    def _captured(self, stream: Any) -> list[Any]:
        self._hold([{} for _ in self._holders()])
        with self._part.capturing(stream):
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


class _Products:
    """The matrix products of a step."""

    def __init__(self, model: Any, n_rows: int) -> None:
        by_shape: dict[tuple[int, ...], list[Any]] = {}
        for module in model.modules():
            weight = getattr(module, "weight", None) if isinstance(module, LinearBase) else None
            # What is quantised has kernels of its own, and cuBLAS no part in it.
            if weight is not None and weight.ndim == 2 and weight.dtype in _PLAIN:
                by_shape.setdefault(tuple(weight.shape), []).append(weight)
        self._weights = list(by_shape.values())
        self._n_rows = n_rows

    def time_us(self, stream: Any) -> float:
        """What a step's products take on that stream."""
        total_us = 0.0
        with torch.inference_mode(), torch.cuda.stream(stream):
            for weights in self._weights:
                tried = weights[:_N_WEIGHTS]
                rows = torch.zeros(
                    self._n_rows, tried[0].shape[1], dtype=tried[0].dtype, device=tried[0].device
                )
                torch.nn.functional.linear(rows, tried[0])
                begun = recorded()
                for _ in range(_N_TIMES):
                    for weight in tried:
                        torch.nn.functional.linear(rows, weight)
                ended = recorded()
                ended.synchronize()
                n_tried = _N_TIMES * len(tried)
                total_us += 1e3 * begun.elapsed_time(ended) * len(weights) / n_tried
        return total_us


_PLAIN = (torch.bfloat16, torch.float16, torch.float32)


def stream_of(context: GreenContext, device: Any) -> Any:
    """A stream on that part, behind all others."""
    return torch.cuda.ExternalStream(context.new_stream(_LOWEST), device=device)


def _keep_memory() -> None:
    return
