"""When stored plans are carried out, and what follows from how that ends."""

from __future__ import annotations

import asyncio

from airan.core.clock import Clock
from airan.core.errors import AiranError, NotLeaderError, StaleGenerationError
from orchestrator.drift import DriftWatch
from orchestrator.executor import Executor, PlanUnreachableError
from orchestrator.metrics import Metrics
from orchestrator.store import StoredPlan
from orchestrator.tracing import here, span

_MAX_BACKOFF_S = 30.0
_ALARM_FIRST_S = 0.2
"""For so long nothing else is done than what an alarm needs."""


class Applier:
    """Gives the executor one plan after the other, and waits longer after every failure.

    `backoff_s` is doubled for the wait after the first failure, and again after each further one.
    """

    def __init__(
        self,
        executor: Executor,
        drift: DriftWatch,
        metrics: Metrics,
        clock: Clock,
        *,
        backoff_s: float,
    ) -> None:
        self._executor, self._drift, self._metrics = executor, drift, metrics
        self._clock, self._backoff_s = clock, backoff_s
        self.ready = asyncio.Event()
        """Set when there is a plan to be applied."""
        self.busy = False
        """A plan is being applied."""
        self._asked = (0, here())
        self._alarm_s: float | None = None
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def waits(self) -> bool:
        """Whether the last failures are too recent to try again."""
        return self._clock.monotonic_s() < self._retry_at_s

    @property
    def serves_alarm(self) -> bool:
        """Whether an alarm has begun just now and the RAN does not have its capacity yet."""
        return self._alarm_s is not None and (
            self._clock.monotonic_s() - self._alarm_s < _ALARM_FIRST_S
        )

    def ask(self, generation: int) -> None:
        """A plan is stored: what asked for it is the parent of what carries it out."""
        self._asked = (generation, here())
        self.ready.set()

    def alarm_began(self) -> None:
        """Measures from now on how long it takes until the RAN has its capacity."""
        self._alarm_s = self._clock.monotonic_s()

    def alarm_needs_nothing(self) -> None:
        """The RAN has everything there is already."""
        self._alarm_s = None

    async def apply(self, stored: StoredPlan) -> bool:
        """Applies a plan; returns whether it has failed, so that it is to be undone."""
        self.busy = True
        begun_s = self._clock.monotonic_s()
        try:
            generation, asked = self._asked
            parent = asked if generation == stored.plan.generation else None
            with span("apply", parent, generation=stored.plan.generation):
                await self._executor.apply(stored.plan)
            self._done(stored, begun_s)
        except StaleGenerationError:
            self._count("superseded")
            self.ready.set()
        except NotLeaderError:
            # Where the lead was only in doubt, the next reconciliation finishes the plan.
            self._count("interrupted")
        except PlanUnreachableError:
            # Not the driver's fault, so the next plan, from what is there then, need not wait.
            self._count("failed")
            return True
        except AiranError:
            # The executor has recorded it. The next plan starts from what is there then.
            self._count("failed")
            self._failures += 1
            wait_s = min(_MAX_BACKOFF_S, self._backoff_s * 2**self._failures)
            self._retry_at_s = self._clock.monotonic_s() + wait_s
            return True
        finally:
            self.busy = False
        return False

    def _done(self, stored: StoredPlan, begun_s: float) -> None:
        self._drift.end()
        if not stored.plan.undoes:
            self._failures, self._retry_at_s = 0, 0.0
        self._count("applied")
        now_s = self._clock.monotonic_s()
        self._metrics.apply_seconds.observe(now_s - begun_s)
        if self._alarm_s is not None:
            self._metrics.alarm_seconds.observe(now_s - self._alarm_s)
            self._alarm_s = None

    def _count(self, ending: str) -> None:
        self._metrics.plans.labels(ending).inc()
