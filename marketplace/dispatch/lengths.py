"""How long prompts and answers are, as measured: what a job will probably cost."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from marketplace.jobs import Job

K = TypeVar("K", bound=Hashable)
_KEEP = 0.9
"""Weight of what was known before each new job."""


class Lengths:
    """Decaying means of prompt and answer tokens, by model and tenant."""

    def __init__(self) -> None:
        self._prompt: dict[str, float] = {}
        self._answer: dict[tuple[str, str], float] = {}

    def note(self, job: Job) -> None:
        """Takes in a job that ended by itself."""
        model = job.request.model
        _mix(self._prompt, model, job.n_input)
        for tenant_id in (job.principal.tenant_id, ""):
            _mix(self._answer, (model, tenant_id), job.n_output)

    def prompt_tokens(self, job: Job) -> int:
        """Tokens of the prompt: counted, or else the mean of its model's; 0 if there is none."""
        if job.prompt_ids is not None:
            return len(job.prompt_ids)
        if job.tally is not None:
            return job.tally.n_input
        return round(self._prompt.get(job.request.model, 0.0))

    def answer_tokens(self, job: Job) -> int:
        """Tokens still to be generated: its tenant's or its model's mean, or else all it may."""
        model = job.request.model
        most = job.n_left if job.max_tokens else job.request.max_tokens
        mean = self._answer.get((model, job.principal.tenant_id), self._answer.get((model, "")))
        if mean is None:
            return max(1, most or 1)
        left = max(1, round(mean) - len(job.token_ids))
        return left if most is None else max(1, min(left, most))

    def cost_tokens(self, job: Job) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens(job) + self.answer_tokens(job)


def _mix(means: dict[K, float], key: K, value: float) -> None:
    known = means.get(key)
    means[key] = value if known is None else _KEEP * known + (1.0 - _KEEP) * value
