"""Which engine slot holds the beginning of which prompt."""

from __future__ import annotations

from collections.abc import Sequence
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
        self._held: dict[SlotKey, Blocks] = {}
        self._used: dict[SlotKey, int] = {}
        self._engine_used: dict[str, int] = {}
        self._n_uses = 0

    def note(self, slot: SlotKey, blocks: Blocks) -> None:
        """The slot holds these now, and nothing else."""
        self._n_uses += 1
        self._held[slot], self._used[slot] = blocks, self._n_uses
        self._engine_used[slot[0]] = self._n_uses

    def match(self, slot: SlotKey, blocks: Blocks) -> int:
        """How many leading blocks the slot holds."""
        both = zip(self._held.get(slot, ()), blocks, strict=False)
        return sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))

    def match_tokens(self, slot: SlotKey, blocks: Blocks) -> int:
        """The same in tokens."""
        return _BLOCK_TOKENS * self.match(slot, blocks)

    def is_home(self, slot: SlotKey, blocks: Blocks) -> bool:
        """Whether what the slot holds goes on as the prompt, or the prompt as that, by half.

        Less than that all prompts of a model may have in common, and a conversation would be
        thrown out for the sake of the beginning that it shares with every other.
        """
        shorter = min(len(blocks), len(self._held.get(slot, ())))
        return shorter > 0 and 2 * self.match(slot, blocks) >= shorter

    def last_used(self, slot: SlotKey) -> int:
        """Grows with every use; 0 for a slot that was never used."""
        return self._used.get(slot, 0)

    def engine_last_used(self, url: str) -> int:
        """The same of all the engine's slots."""
        return self._engine_used.get(url, 0)

    def forget(self, url: str) -> None:
        """That engine is gone, with all that it held."""
        for slot in [slot for slot in self._held if slot[0] == url]:
            del self._held[slot], self._used[slot]
        self._engine_used.pop(url, None)
