"""The records of the last slots, as one process writes and another reads them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from airan.core.errors import InvalidInputError, NotFoundError
from airan.site.slot_journal import Fate, JournalReader, SlotJournal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slots"


def fill(journal: SlotJournal, first: int, n: int) -> None:
    for at in range(first, first + n):
        journal.add(float(at), "pdsch", Fate.ON_TIME, 100.0 + at, gear=at % 7)


def test_a_reader_gets_each_slot_once_from_its_opening_on(path: Path) -> None:
    journal = SlotJournal(path, 8)
    fill(journal, 0, 3)
    reader = JournalReader(path)
    assert len(reader.take()) == 0
    fill(journal, 3, 2)
    journal.add(5.0, "pusch", Fate.DROPPED, math.nan)
    rows = reader.take()
    assert rows["end_s"].tolist() == [3.0, 4.0, 5.0]
    assert rows["channel"].tolist() == [1, 1, 0]
    assert rows["fate"].tolist() == [Fate.ON_TIME, Fate.ON_TIME, Fate.DROPPED]
    assert rows["latency_us"][:2].tolist() == [103.0, 104.0]
    assert math.isnan(rows["latency_us"][2])
    assert rows["gear"].tolist() == [3, 4, 0]
    assert len(reader.take()) == 0
    assert reader.n_overwritten == 0


def test_what_was_written_over_is_counted_and_never_shown_as_something_else(path: Path) -> None:
    journal = SlotJournal(path, 8)
    reader = JournalReader(path)
    fill(journal, 0, 20)
    rows = reader.take()
    # Of 8 places one may be in the writer's hand.
    assert rows["end_s"].tolist() == [float(at) for at in range(13, 20)]
    assert reader.n_overwritten == 13


def test_the_next_process_goes_on_with_the_count(path: Path) -> None:
    first = SlotJournal(path, 8)
    first.name_worker(77)
    reader = JournalReader(path)
    assert reader.worker_pid == 77
    fill(first, 0, 2)
    first.close()
    second = SlotJournal(path, 8)
    assert reader.worker_pid == 0
    fill(second, 2, 2)
    assert reader.take()["end_s"].tolist() == [0.0, 1.0, 2.0, 3.0]
    reader.close()


def test_a_journal_of_another_length_begins_anew(path: Path) -> None:
    fill(SlotJournal(path, 8), 0, 5)
    SlotJournal(path, 16)
    assert len(JournalReader(path).take()) == 0


def test_what_is_no_journal_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no journal of slots"):
        JournalReader(tmp_path / "none")
    for content in (b"", b"x" * 64, b"x" * 4096):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="is no journal"):
            JournalReader(path)
    with pytest.raises(InvalidInputError, match="n_slots"):
        SlotJournal(path, 0)
