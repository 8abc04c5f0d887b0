"""vLLM in gears: `--worker-cls` GearWorker and `--scheduler-cls` GearScheduler of this module.

Only vLLM's own process imports it. The board is named by the variable AIRAN_SM_BOARD. The worker
holds a green context and captured CUDA graphs for every gear of the board, so that changing gear is
a matter of microseconds between two steps and no weight moves. It works on one GPU, in the
scheduler's process (vLLM's way with one GPU). Written for vLLM 0.25.1, both model runners.

A step's graphs run where they were captured; what is launched besides goes to the gear's stream.
Each gear's stream keeps activations of its own in torch's allocator, beyond what vLLM counted.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

from vllm.compilation.breakable_cudagraph import is_breakable_cudagraph_enabled
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.worker.gpu_worker import Worker

from airan.core.errors import UnavailableError
from marketplace.engines.gearbox import BOARD_VARIABLE, Gearbox
from marketplace.engines.vllm_graphs import GearGraphs, StartPart, recorded
from orchestrator.sm_board import NO_ORDER, SmBoard

_PAUSE_S = 0.0005
_MOST_ROWS = 256
"""Sequences for whose steps matrix products are planned, at most."""


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

    def init_device(self) -> None:
        """Takes the GPU; from now on the engine keeps to the part of it that no slot is on.

        Raises:
            UnavailableError: no board is named, or an option does not go with gears.
        """
        path = os.environ.get(BOARD_VARIABLE)
        if not path:
            raise UnavailableError(f"{BOARD_VARIABLE} is not set", remedy="name the GPU's board")
        _check(self.vllm_config)
        self._board = SmBoard.open(Path(path))
        # What an engine before this one has acknowledged is not followed until all is loaded.
        self._board.acknowledge("ai", NO_ORDER)
        super().init_device()
        self._part = StartPart(self._board.gears, self.device)

    def compile_or_warm_up_model(self) -> Any:
        """Warms up, then captures graphs for every gear."""
        with self._part.capturing():
            out = super().compile_or_warm_up_model()
        most = min(int(self.vllm_config.scheduler_config.max_num_seqs), _MOST_ROWS)
        gears = GearGraphs(self._board, self.model_runner, self._part, most)
        self._steps = _Steps(self._board)
        GearWorker.gearbox = gearbox = Gearbox(self._board, gears)
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
        self._begun = (recorded(), tokens, gear)

    def end(self) -> None:
        if self._begun is not None:
            (begun, tokens, gear), self._begun = self._begun, None
            self._under_way.append((begun, recorded(), tokens, gear))
