"""How long prompts and answers are, as measured: what a job will probably cost."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque

from marketplace.jobs import Job

_KEEP = 0.9
"""Weight of what was known before each new job."""
_N_SEEN = 64


class AnswerLengths:
    """The last 64 answers' tokens: their decaying mean, and what is left of one under way."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._last: deque[int] = deque()
        self._sorted: list[int] = []

    def note(self, n_tokens: int) -> None:
        """An answer ended by itself after so many tokens."""
        self.mean = _mixed(self.mean if self._last else None, n_tokens)
        if len(self._last) == _N_SEEN:
            self._sorted.remove(self._last.popleft())
        self._last.append(n_tokens)
        insort(self._sorted, n_tokens)

    def left(self, n_tokens: int) -> int:
        """Tokens that an answer of so many will probably still get, at least 1.

        The mean residual life: of those answers that were longer, what they had from there. One
        that is longer than all seen is taken to be half over.
        """
        if not n_tokens:
            return max(1, round(self.mean))
        longer = self._sorted[bisect_right(self._sorted, n_tokens) :]
        return max(1, round(sum(longer) / len(longer)) - n_tokens) if longer else n_tokens

    def ends_within(self, n_tokens: int, n_more: float) -> float:
        """The probability that an answer of so many tokens gets at most `n_more` others.

        As often as it was so among those answers that were longer. One that is longer than all
        seen has anything up to as many again twice over.
        """
        before = bisect_right(self._sorted, n_tokens)
        n_longer = len(self._sorted) - before
        if not n_longer:
            return min(1.0, n_more / (2.0 * n_tokens)) if n_tokens else 0.0
        return (bisect_right(self._sorted, n_tokens + n_more) - before) / n_longer


class Lengths:
    """Lengths of prompts by model, and of answers by model and tenant."""

    def __init__(self) -> None:
        self._prompt: dict[str, float] = {}
        self._answer: dict[tuple[str, str], AnswerLengths] = {}

    def note(self, job: Job) -> None:
        """Takes in a job that ended by itself."""
        model = job.request.model
        self._prompt[model] = _mixed(self._prompt.get(model), job.n_input)
        for tenant_id in (job.principal.tenant_id, ""):
            self._answer.setdefault((model, tenant_id), AnswerLengths()).note(job.n_output)

    def prompt_tokens(self, job: Job) -> int:
        """Tokens of the prompt: counted, or else the mean of its model's; 0 if there is none."""
        if job.prompt_ids is not None:
            return len(job.prompt_ids)
        if job.tally is not None:
            return job.tally.n_input
        return round(self._prompt.get(job.request.model, 0.0))

    def answer_tokens(self, job: Job) -> int:
        """Tokens still to be generated, by its tenant's or its model's answers, or all it may."""
        model = job.request.model
        most = job.n_left if job.max_tokens else job.request.max_tokens
        seen = self._answer.get((model, job.principal.tenant_id)) or self._answer.get((model, ""))
        if seen is None:
            return max(1, most or 1)
        left = seen.left(len(job.token_ids))
        return left if most is None else max(1, min(left, most))

    def ends_within(self, job: Job, n_tokens: float) -> float:
        """The probability that the job's answer gets at most so many tokens more; 0 before any
        answer was seen, as long as it may go on."""
        model = job.request.model
        if job.max_tokens and n_tokens >= job.n_left:
            return 1.0
        seen = self._answer.get((model, job.principal.tenant_id)) or self._answer.get((model, ""))
        return seen.ends_within(len(job.token_ids), n_tokens) if seen is not None else 0.0

    def cost_tokens(self, job: Job) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens(job) + self.answer_tokens(job)


def _mixed(known: float | None, value: float) -> float:
    return value if known is None else _KEEP * known + (1.0 - _KEEP) * value
