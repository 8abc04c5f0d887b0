"""How long prompts and answers are, as measured: what a job will probably cost."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from marketplace.jobs import Job

_KEEP = 0.9
"""Weight of what was known before each new job."""
_N_SEEN = 64


class AnswerLengths:
    """How long the last 64 answers were, and what follows for one to come or under way.

    Of one that `max_tokens` cut off it is only known that it would have been longer: the share of
    answers that are longer than so many tokens is found as Kaplan and Meier do (1958).
    """

    def __init__(self) -> None:
        self._last: deque[tuple[int, bool]] = deque(maxlen=_N_SEEN)
        self._steps: list[tuple[int, float]] = [(0, 1.0)]
        """Rising lengths, and the share of answers that are longer, up to the next of them."""
        self._longest = 0

    def note(self, n_tokens: int, was_cut: bool = False) -> None:
        """An answer ended after so many tokens, by itself or because it might have no more."""
        self._last.append((n_tokens, was_cut))
        seen = sorted(self._last)
        self._steps, share = [(0, 1.0)], 1.0
        for number, (length, cut) in enumerate(seen):
            if not cut:
                share *= 1.0 - 1.0 / (len(seen) - number)
                self._steps.append((length, share))
        self._longest = seen[-1][0]

    def left(self, n_tokens: int, most: int | None = None) -> int:
        """Tokens that an answer of so many will probably still get, at least 1, `most` at most.

        The mean residual life. One that is longer than all seen is taken to be half over.
        """
        begun = self._share(n_tokens) if n_tokens else 1.0
        if not begun or (n_tokens >= self._longest and most is None):
            return max(1, n_tokens) if most is None else max(1, min(n_tokens, most))
        end = n_tokens + most if most is not None else 2 * self._longest
        edges = [*(at for at, _ in self._steps if n_tokens < at < end), end]
        area, since, share = 0.0, n_tokens, self._share(n_tokens)
        for at in edges:
            area += (at - since) * share
            since, share = at, self._share(at)
        return max(1, round(area / begun))

    def _share(self, n_tokens: int) -> float:
        """Of answers, those that are longer than that."""
        return self._steps[bisect_right(self._steps, n_tokens, key=lambda step: step[0]) - 1][1]


class Lengths:
    """Lengths of prompts by model, and of answers by model and tenant."""

    def __init__(self) -> None:
        self._prompt: dict[str, float] = {}
        self._answer: dict[tuple[str, str], AnswerLengths] = {}

    def note(self, job: Job) -> None:
        """Takes in a job that was completed."""
        model = job.model
        self._prompt[model] = _mixed(self._prompt.get(model), job.n_input)
        for tenant_id in (job.principal.tenant_id, ""):
            seen = self._answer.setdefault((model, tenant_id), AnswerLengths())
            seen.note(job.n_output, was_cut=job.n_left <= 0)

    def prompt_tokens(self, job: Job) -> int:
        """Tokens of the prompt: counted, or else the mean of its model's; 0 if there is none."""
        if job.prompt_ids is not None:
            return len(job.prompt_ids)
        if job.tally is not None:
            return job.tally.n_input
        return round(self._prompt.get(job.model, 0.0))

    def answer_tokens(self, job: Job) -> int:
        """Tokens still to be generated, by its tenant's or its model's answers, or all it may."""
        model = job.model
        most = job.n_left if job.max_tokens else job.request.max_tokens
        seen = self._answer.get((model, job.principal.tenant_id)) or self._answer.get((model, ""))
        if seen is None:
            return max(1, most or 1)
        return seen.left(len(job.token_ids), None if most is None else max(1, most))

    def cost_tokens(self, job: Job) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens(job) + self.answer_tokens(job)


def _mixed(known: float | None, value: float) -> float:
    return value if known is None else _KEEP * known + (1.0 - _KEEP) * value
