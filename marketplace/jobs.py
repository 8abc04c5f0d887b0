"""One inference request on its way: what it has so far, and what its client waits for."""

from __future__ import annotations

import asyncio
import uuid
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from marketplace.adapters.adapter import Adapter
from marketplace.chat import ChatRequest
from marketplace.engines.base import TokenChunk, TokenLogprob
from marketplace.engines.text import Resume, TextChunk
from marketplace.federation.travel import Journey, Origin
from marketplace.principal import Principal
from marketplace.store.ledger import Outcome
from marketplace.tally import Tally

JobState = Literal["queued", "running", "preempted", "completed", "failed", "cancelled"]


class Waiting:
    """Put on a job's feed while it waits for an engine."""


WAITING = Waiting()
FeedItem = str | Waiting | Outcome


def new_job_id() -> str:
    """An id for a job."""
    return str(uuid.uuid4())


class StopMatcher:
    """Cuts a text at the first stop sequence, over any division into pieces and any pause.

    Text that may be the beginning of a stop sequence is held back until that is known.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """Adds text; returns what is certain to belong to the answer."""
        if not self._stops:
            return text
        held = self._held + text
        cuts = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if cuts:
            self.matched, self._held = True, ""
            return held[: min(cuts)]
        keep = max(_overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True)
class Pause:
    """What a job had when its engine was taken away: what must still be there at the end."""

    token_ids: tuple[int, ...]
    text: str
    n_reported: int
    """Tokens the engine had reported by then, over all its turns."""
    n_counted: int = 0
    """Tokens of text without ids."""


@dataclass(eq=False)
class Job:
    """State of a request in the dispatcher; only the event loop touches it."""

    kind: Literal["sync", "async"]
    principal: Principal
    request: ChatRequest
    created_s: float
    started_s: float
    """Monotonic time at which the request came in."""
    id: str = field(default_factory=new_job_id)
    adapter: Adapter | None = None
    """Its answer is made with this one, from the first token to the last."""
    prompt_ids: list[int] | None = None
    max_tokens: int = 0
    state: JobState = "queued"
    token_ids: list[int] = field(default_factory=list)
    tally: Tally | None = None
    """Counts what engines without token ids answer; None: there are ids."""
    resumed: Resume = "none"
    """How the answer was last taken up after a pause."""
    raw_text: str = ""
    """All text generated, stop sequences and all."""
    text: str = ""
    """The answer so far."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of every token generated, if they were asked for."""
    _told: list[tuple[int, int]] = field(default_factory=list)
    """After each piece of text: how many characters there were so far, and log probabilities."""
    n_withheld: int = 0
    """Tokens of a character that `max_tokens` cut in two: generated, but no text."""
    pauses: list[Pause] = field(default_factory=list)
    preemptions: int = 0
    ttft_ms: float | None = None
    predicted_ttft_s: float | None = None
    """What it was accepted on; None: nothing was measured then."""
    predicted_wait_s: float = 0.0
    """The part of it in line."""
    predicted_spread_s: float = 0.0
    """By how much that may well be off."""
    n_answer_predicted: int = 0
    """Tokens of its answer, as predicted when it was accepted."""
    predicted_slot_s: float = 0.0
    """How long it would take an engine's slot, by the speeds measured last."""
    slot_s: float = 0.0
    """How long it did until now."""
    place: tuple[str, int] | None = None
    """Engine and slot that hold this job's cache."""
    origin: Origin | None = None
    """Where it came from; None: it never goes to a peer."""
    journey: Journey | None = None
    """To which peers it goes; None: it is done here."""
    counted_input: int | None = None
    """Tokens of its prompt as an earlier gateway counted them; the ids are not kept."""
    setbacks: int = 0
    """Turns in a row that an engine broke off without a single token."""
    sequence: int = 0
    saved_s: float = 0.0
    outcome: Outcome | None = None
    feed: asyncio.Queue[FeedItem] = field(default_factory=asyncio.Queue)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if self.principal.is_peer:
            self.request = replace(self.request, service_tier="flex")
        self._stops = StopMatcher(self.request.stops)
        self._n_before_turn = 0
        self._n_in_turn = 0

    @property
    def model(self) -> str:
        """The model whose engines run it; that of the request may be an adapter of it."""
        return self.request.model if self.adapter is None else self.adapter.base

    @property
    def adapter_id(self) -> str:
        """The adapter's id, or an empty string."""
        return "" if self.adapter is None else self.adapter.id

    @property
    def prefix_owner(self) -> str:
        """Whose prompts this one may be matched with: its tenant's, with the same adapter."""
        return f"{self.principal.tenant_id}\0{self.adapter_id}"

    @property
    def n_output(self) -> int:
        """Tokens generated, those without text included."""
        if self.tally is not None:
            return self.tally.n_output
        return len(self.token_ids) + self.n_withheld

    @property
    def n_input(self) -> int:
        """Tokens of the prompt, as far as they are known."""
        # Where we counted ourselves, that is what is billed, whoever answers.
        if self.prompt_ids is not None:
            return len(self.prompt_ids)
        if self.counted_input is not None:
            return self.counted_input
        return 0 if self.tally is None else self.tally.n_input

    @property
    def n_left(self) -> int:
        """Tokens that may still be generated."""
        n_done = len(self.token_ids) if self.tally is None else self.tally.n_output
        return self.max_tokens - n_done

    def restore(self, token_ids: list[int], text: str, preemptions: int) -> None:
        """Takes over what a stored job had."""
        self.preemptions = preemptions
        # How many tokens a text without ids had is not stored: it is answered anew.
        if self.request.response_schema is not None or not token_ids:
            return
        self.token_ids = token_ids
        self._n_before_turn = len(token_ids)
        self._take(text)
        if preemptions:
            self.pauses.append(Pause(tuple(token_ids), self.text, len(token_ids)))

    def begin_turn(self) -> None:
        """An engine starts, or goes on, working on the job."""
        self.state = "running"
        self._n_before_turn += self._n_in_turn
        self._n_in_turn = 0

    def record(self, chunk: TokenChunk) -> bool:
        """Adds what the engine generated; True when a stop sequence ends the answer."""
        self.token_ids.extend(chunk.token_ids)
        self._n_in_turn = chunk.n_generated
        self.logprobs.extend(chunk.logprobs)
        if chunk.token_ids:
            self.setbacks = 0
        if chunk.text:
            self._take(chunk.text)
            self._told.append((len(self.raw_text), len(self.logprobs)))
        if chunk.finish_reason == "length":
            self.n_withheld = max(0, self.max_tokens - len(self.token_ids))
        if chunk.finish_reason is not None and not self._stops.matched:
            self._deliver(self._stops.flush())
        return self._stops.matched

    def record_text(self, chunk: TextChunk) -> bool:
        """Adds what an engine without token ids said; True when a stop sequence ends the answer."""
        if chunk.text:
            self.setbacks = 0
            if self.tally is not None:
                self.tally.piece()
            self._take(chunk.text)
        if chunk.resumed != "none":
            self.resumed = chunk.resumed
        if chunk.finish_reason is not None and not self._stops.matched:
            self._deliver(self._stops.flush())
        return self._stops.matched

    def pause(self) -> None:
        """The engine is gone; remembers what there was for the account of lost tokens."""
        self.state = "preempted"
        self.preemptions += 1
        n_reported = self._n_before_turn + self._n_in_turn
        n_counted = 0 if self.tally is None else self.tally.n_output
        self.pauses.append(Pause(tuple(self.token_ids), self.text, n_reported, n_counted))
        if self.request.response_schema is not None:
            self._start_over()
        self.feed.put_nowait(WAITING)

    def answer_logprobs(self) -> list[TokenLogprob]:
        """Those of the answer's tokens: what a stop sequence cut off is left out.

        Where the text ends within what came with several tokens, their bytes tell which are in it.
        Whole pieces are not counted in bytes: of tokens that make no character, text has others.
        """
        n_whole = bisect_right(self._told, len(self.text), key=lambda told: told[0])
        n_chars, kept = self._told[n_whole - 1] if n_whole else (0, 0)
        n_left = len(self.text[n_chars:].encode())
        while kept < len(self.logprobs) and n_left > 0:
            n_left -= len(self.logprobs[kept].data)
            kept += 1
        return self.logprobs[:kept]

    def tokens_lost(self) -> int:
        """Tokens generated before a pause that the present answer does not contain."""
        return max((_missing(pause, self) for pause in self.pauses), default=0)

    def _start_over(self) -> None:
        """An engine cannot take up a JSON schema in the middle, and nothing was delivered yet."""
        self.token_ids, self.raw_text, self.text = [], "", ""
        self.logprobs, self._told = [], []
        self.n_withheld = 0
        self.resumed = "none"
        if self.tally is not None:
            self.tally.start_over()
        self._stops = StopMatcher(self.request.stops)

    def _take(self, text: str) -> None:
        self.raw_text += text
        self._deliver(self._stops.feed(text))

    def _deliver(self, text: str) -> None:
        if text:
            self.text += text
            if self.request.response_schema is None:
                self.feed.put_nowait(text)


def _missing(pause: Pause, job: Job) -> int:
    if pause.n_counted:
        return 0 if job.text.startswith(pause.text) else pause.n_counted
    kept = 0
    for before, after in zip(pause.token_ids, job.token_ids, strict=False):
        if before != after:
            break
        kept += 1
    if not job.text.startswith(pause.text):
        # The ids agree but the text does not: the part that differs counts as a token at least.
        kept = min(kept, len(pause.token_ids) - 1)
    return max(pause.n_reported, len(pause.token_ids)) - kept


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
