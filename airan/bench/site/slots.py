"""What became of Layer 1's slots, from the records that it keeps itself. Pure.

Times are the host's monotonic clock, as Layer 1 reads it when it sees a slot end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airan.site.slot_journal import CHANNELS, Fate

Records = npt.NDArray[np.void]
"""RECORD[slot] of `airan.site.slot_journal`, oldest first."""

_GAP_SLOTS = 3
"""The time of so many slots without a record is a gap."""
_AFTER_S, _AFTER_SLOTS = 0.05, 10
"""For so long after a gap slots are counted, too: of those that were due in it Layer 1 may tell
late, of one after the other that it saw to their ends, and all at once of those that it never
began."""


@dataclass(frozen=True)
class ChannelTimes:
    """The slots of one direction that had something in them.

    Attributes:
        channel: "pusch" or "pdsch".
        slots, late, dropped: how many.
        p50_us, p999_us, max_us: from when they were due to their results; None without any.
    """

    channel: str
    slots: int
    late: int
    dropped: int
    p50_us: float | None
    p999_us: float | None
    max_us: float | None


@dataclass(frozen=True)
class SlotsAfter:
    """Slots from a moment on.

    Attributes:
        first_in_time_s: until the first slot ended in time again after the first one that did not;
            0: none was lost; None: none did.
        steady_s: until no slot was lost any more; 0 and None likewise.
        longest_s: the longest time in which no slot ended in time.
        late, dropped: that Layer 1 told of.
        missing: of which it told nothing, because it was not there.
    """

    first_in_time_s: float | None
    steady_s: float | None
    longest_s: float
    late: int
    dropped: int
    missing: int


def channel_times(records: Records) -> list[ChannelTimes]:
    """Each direction that has any."""
    out = []
    for number, channel in enumerate(CHANNELS):
        own = records[(records["channel"] == number) & (records["fate"] != Fate.IDLE)]
        if len(own) == 0:
            continue
        taken = own["latency_us"][~np.isnan(own["latency_us"])]
        figures: list[float | None] = [None] * 3
        if len(taken):
            p50, p999 = np.percentile(taken, (50, 99.9), method="higher").tolist()
            figures = [p50, p999, float(taken.max())]
        late, dropped = (int((own["fate"] == fate).sum()) for fate in (Fate.LATE, Fate.DROPPED))
        out.append(ChannelTimes(channel, len(own), late, dropped, *figures))
    return out


def gear_shares(records: Records) -> dict[int, float]:
    """The part of the slots in each gear that any of them ran in."""
    gears, counts = np.unique(records["gear"], return_counts=True)
    return {int(gear): float(n) / len(records) for gear, n in zip(gears, counts, strict=True)}


def slots_a_second(records: Records) -> float:
    """The pace of slots that have records; 0 with fewer than two."""
    if len(records) < 2:
        return 0.0
    length_s = float(records["end_s"][-1] - records["end_s"][0])
    return (len(records) - 1) / length_s if length_s > 0 else 0.0


def slots_after(records: Records, at_s: float, until_s: float, pace: float) -> SlotsAfter:
    """Looks at the slots between two moments; `pace` is how many a second there should be."""
    rows = records[(records["end_s"] > at_s) & (records["end_s"] <= until_s)]
    fates, ends_s = rows["fate"], rows["end_s"]
    is_lost = (fates == Fate.LATE) | (fates == Fate.DROPPED)
    late, dropped = (int((fates == fate).sum()) for fate in (Fate.LATE, Fate.DROPPED))
    gaps = _gaps(ends_s, at_s, until_s, pace)
    missing = sum(n_missing for _, _, n_missing in gaps)
    good_s = ends_s[(fates == Fate.ON_TIME) | (fates == Fate.IDLE)]
    longest_s = float(np.diff(np.concatenate(([at_s], good_s, [until_s]))).max())
    begins = [*ends_s[is_lost].tolist(), *(begin for begin, _, _ in gaps)]
    if not begins:
        return SlotsAfter(0.0, 0.0, longest_s, late, dropped, missing)
    in_time = ends_s[fates == Fate.ON_TIME]
    again = in_time[in_time > min(begins)]
    last_lost_s = max([*ends_s[is_lost].tolist(), *(end for _, end, _ in gaps)])
    steady = in_time[in_time >= last_lost_s]
    return SlotsAfter(
        float(again[0]) - at_s if len(again) else None,
        float(steady[0]) - at_s if len(steady) else None,
        longest_s,
        late,
        dropped,
        missing,
    )


def _gaps(
    ends_s: npt.NDArray[np.float64], at_s: float, until_s: float, pace: float
) -> list[tuple[float, float, int]]:
    """Where slots are missing: from when to when, and how many."""
    if pace <= 0:
        return []
    edges = np.concatenate(([at_s], ends_s, [until_s]))
    out = []
    for at in np.flatnonzero(np.diff(edges) > _GAP_SLOTS / pace):
        begin_s, end_s = float(edges[at]), float(edges[at + 1])
        counted_s = min(until_s, end_s + max(_AFTER_S, _AFTER_SLOTS / pace))
        told = int(((ends_s > begin_s) & (ends_s <= counted_s)).sum())
        missing = round((counted_s - begin_s) * pace) - told
        # By chance there is one more or less.
        if missing > 1:
            out.append((begin_s, end_s, missing))
    return out
