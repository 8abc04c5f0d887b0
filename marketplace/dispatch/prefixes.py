"""Which engine slot holds the beginning of which prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

_BLOCK_TOKENS = 16

Blocks = tuple[int, ...]
SlotKey = tuple[str, int]


def blocks_of(tokens: Sequence[int], tenant_id: str) -> Blocks:
    """One hash for each full block of tokens, with all before it and the tenant in it.

    A tenant's prompts are never matched with another's: where a request runs tells nobody what
    others have asked.
    """
    found: list[int] = []
    chained = hash(tenant_id)
    for start in range(0, len(tokens) - _BLOCK_TOKENS + 1, _BLOCK_TOKENS):
        chained = hash((chained, *tokens[start : start + _BLOCK_TOKENS]))
        found.append(chained)
    return tuple(found)


class PrefixTable:
    """What each slot saw last, in blocks, and when, counted in uses."""

    def __init__(self) -> None:
        self._engines: dict[str, _Engine] = {}
        self._n_uses = 0

    def note(self, slot: SlotKey, blocks: Blocks) -> None:
        """The slot holds these now, and nothing else."""
        self._n_uses += 1
        self._engines.setdefault(slot[0], _Engine()).note(slot[1], blocks, self._n_uses)

    def match(self, slot: SlotKey, blocks: Blocks) -> int:
        """How many leading blocks the slot holds."""
        both = zip(self._of(slot[0]).held.get(slot[1], ()), blocks, strict=False)
        return sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))

    def match_tokens(self, slot: SlotKey, blocks: Blocks) -> int:
        """The same in tokens."""
        return _BLOCK_TOKENS * self.match(slot, blocks)

    def homes(self, url: str, blocks: Blocks) -> set[int]:
        """The engine's slots that hold a good part of the prompt: what they hold goes on as the
        prompt, or the prompt as that, by half.

        Less than that all prompts of a model may have in common, and a conversation would be
        thrown out for the sake of the beginning that it shares with every other.
        """
        engine = self._of(url)
        alike = engine.by_first.get(blocks[0], ()) if blocks else ()
        return {slot for slot in alike if self._is_home((url, slot), blocks)}

    def longest_unused(self, url: str, n_slots: int) -> Iterator[int]:
        """The engine's slots in the order in which they were last used, fresh ones first."""
        used = self._of(url).used
        if len(used) < n_slots:
            yield from (slot for slot in range(n_slots) if slot not in used)
        yield from (slot for slot in used if slot < n_slots)

    def last_used(self, slot: SlotKey) -> int:
        """Grows with every use; 0 for a slot that was never used."""
        return self._of(slot[0]).used.get(slot[1], 0)

    def engine_last_used(self, url: str) -> int:
        """The same of all the engine's slots."""
        return self._of(url).last_used

    def forget(self, url: str) -> None:
        """That engine is gone, with all that it held."""
        self._engines.pop(url, None)

    def _of(self, url: str) -> _Engine:
        return self._engines.get(url, _UNSEEN)

    def _is_home(self, slot: SlotKey, blocks: Blocks) -> bool:
        shorter = min(len(blocks), len(self._of(slot[0]).held[slot[1]]))
        return 2 * self.match(slot, blocks) >= shorter


class _Engine:
    """One engine's slots. A router looks at hundreds of them for each request, so that those of
    interest are found without looking at all."""

    def __init__(self) -> None:
        self.held: dict[int, Blocks] = {}
        self.used: dict[int, int] = {}
        """The longest unused first."""
        self.by_first: dict[int, set[int]] = {}
        """Slots by the first block they hold, without which nothing else matches."""
        self.last_used = 0

    def note(self, slot: int, blocks: Blocks, use: int) -> None:
        if before := self.held.get(slot):
            alike = self.by_first[before[0]]
            alike.discard(slot)
            if not alike:
                del self.by_first[before[0]]
        if blocks:
            self.by_first.setdefault(blocks[0], set()).add(slot)
        self.held[slot] = blocks
        self.used.pop(slot, None)
        self.used[slot] = self.last_used = use


_UNSEEN = _Engine()
