"""What the dispatcher leaves in the store of jobs under way and of engines that come and go."""

from __future__ import annotations

from collections.abc import Callable

from airan.core.clock import Clock
from marketplace.dispatch.turns import Turn
from marketplace.engines.base import EngineState
from marketplace.jobs import Job
from marketplace.store.database import Database


class Journal:
    """Posts all of it: nobody waits until it is written."""

    def __init__(self, database: Database, clock: Clock, leads: Callable[[], bool]) -> None:
        """`leads`: whether this one tells of engines; of several gateways one does."""
        self._db = database
        self._clock = clock
        self._leads = leads

    def running(self, job: Job) -> None:
        """An engine works on an asynchronous job."""
        self._db.post(self._db.ledger.set_running, job.id, self._clock.now_s(), job.n_input)

    def resumed(self, job: Job, engine_name: str) -> None:
        """A job goes on after a pause."""
        text = f"request {job.id} goes on from token {job.n_output} on {engine_name}"
        self._event("request.resumed", text, job_id=job.id)

    def paused(self, job: Job, turn: Turn) -> None:
        """A job lost its engine."""
        if job.kind == "async":
            self.checkpoint(job, job.preemptions)
        else:
            ledger = self._db.ledger
            self._db.post(ledger.set_preempted, job.id, job.preemptions, self._clock.now_s())
        name, phase = turn.engine.state.name, turn.engine.state.phase
        why = "is for priority work" if turn.yields else f"is {phase}"
        text = f"request {job.id} paused after {job.n_output} tokens: engine {name} {why}"
        self._event("request.preempted", text, job_id=job.id)

    def checkpoint(self, job: Job, preemptions: int | None = None) -> None:
        """Keeps what an asynchronous job has; `preemptions` not None: it is paused now."""
        ids, now_s = tuple(job.token_ids), self._clock.now_s()
        self._db.post(self._db.ledger.checkpoint, job.id, ids, job.raw_text, preemptions, now_s)

    def engine_changed(self, before: EngineState, state: EngineState) -> None:
        """An engine is in another phase."""
        if not self._leads():
            return
        text = f"engine {state.name}: {before.phase} -> {state.phase}"
        if state.phase == "ready" and state.lease_id:
            text += f" on lease {state.lease_id}: {state.sm_count} SMs, "
            text += f"{state.max_concurrent} requests at once"
        severity = "warning" if state.phase == "lost" else "info"
        self._event(f"engine.{state.phase}", text, severity)

    def _event(
        self, kind: str, message: str, severity: str = "info", job_id: str | None = None
    ) -> None:
        now_s = self._clock.now_s()
        self._db.post(self._db.ledger.add_event, kind, message, now_s, severity, job_id)
