from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.gpu.harq import HarqBooks, HarqKey, HarqTicket


def test_a_retransmission_combines_and_a_decoded_block_gives_its_buffer_back() -> None:
    books = HarqBooks(1)
    key = HarqKey(0, 17, 3)
    first = books.begin(key, 1000, new_data=True)
    assert (first.buffer, first.combine, first.transmission) == (0, False, 0)
    books.end(first, decoded=False)
    second = books.begin(key, 1000, new_data=False)
    assert (second.buffer, second.combine, second.transmission) == (0, True, 1)
    books.end(second, decoded=True)
    assert not books.begin(key, 1000, new_data=False).combine
    books.check_integrity()


def test_new_data_or_another_size_starts_over() -> None:
    books = HarqBooks(2)
    key = HarqKey(0, 1, 0)
    books.end(books.begin(key, 1000, new_data=True), decoded=False)
    assert not books.begin(key, 1000, new_data=True).combine
    books.end(books.begin(key, 1000, new_data=True), decoded=False)
    assert not books.begin(key, 2000, new_data=False).combine


def test_what_was_shed_is_not_combined_with() -> None:
    books = HarqBooks(2)
    key = HarqKey(0, 1, 0)
    books.end(books.begin(key, 1000, new_data=True), decoded=False, processed=False)
    ticket = books.begin(key, 1000, new_data=False)
    assert not ticket.combine
    assert ticket.transmission == 1


def test_the_process_not_heard_of_for_longest_loses_its_buffer() -> None:
    books = HarqBooks(2)
    keys = [HarqKey(cell, 1, 0) for cell in range(3)]
    for key in keys[:2]:
        books.end(books.begin(key, 10, new_data=True), decoded=False)
    books.begin(keys[0], 10, new_data=False)
    third = books.begin(keys[2], 10, new_data=True)
    assert third.buffer == 1
    assert books.evictions == 1
    # The evicted process goes on without combining.
    again = books.begin(keys[1], 10, new_data=False)
    assert (again.buffer, again.combine) == (-1, False)
    books.end(again, decoded=True)
    books.check_integrity()


def test_a_lost_device_takes_the_values_and_leaves_the_processes() -> None:
    books = HarqBooks(4)
    keys = [HarqKey(cell, 1, 0) for cell in range(3)]
    for key in keys:
        books.end(books.begin(key, 10, new_data=True), decoded=False)
    assert books.forget_values() == 3
    ticket = books.begin(keys[0], 10, new_data=False)
    assert not ticket.combine
    assert ticket.transmission == 1
    books.end(ticket, decoded=False)
    assert books.begin(keys[0], 10, new_data=False).combine


def test_a_cell_that_leaves_takes_its_processes_along() -> None:
    books = HarqBooks(2)
    kept, gone = HarqKey(0, 1, 0), HarqKey(1, 1, 0)
    for key in (kept, gone):
        books.end(books.begin(key, 10, new_data=True), decoded=False)
    books.release_cell(1)
    assert books.begin(kept, 10, new_data=False).combine
    assert not books.begin(gone, 10, new_data=False).combine
    books.check_integrity()


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans(), st.booleans()), max_size=60
    ),
    n_buffers=st.integers(1, 4),
)
def test_no_buffer_is_ever_lent_twice(steps, n_buffers) -> None:
    books = HarqBooks(n_buffers)
    for cell, process_id, new_data, decoded in steps:
        ticket = books.begin(HarqKey(cell, 1, process_id), 10, new_data)
        assert ticket.combine <= (ticket.buffer >= 0)
        books.check_integrity()
        books.end(ticket, decoded)
        books.check_integrity()


def test_a_ticket_that_was_overtaken_or_whose_cell_has_left_says_nothing_any_more() -> None:
    books = HarqBooks(1)
    key, other = HarqKey(0, 17, 3), HarqKey(1, 9, 0)
    first = books.begin(key, 1000, new_data=True)
    second = books.begin(key, 1000, new_data=True)
    books.end(first, decoded=True)
    books.check_integrity()
    books.end(second, decoded=False)
    assert books.begin(key, 1000, new_data=False).combine, "the second is still in the books"

    without_buffer = [books.begin(other, 1000, new_data=True), books.begin(key, 1000, False)]
    assert -1 in [ticket.buffer for ticket in without_buffer]
    for cell in (0, 1):
        books.release_cell(cell)
    for ticket in without_buffer:
        books.end(ticket, decoded=False)
    books.check_integrity()


def test_wrong_use_is_named() -> None:
    with pytest.raises(InvalidInputError, match="n_buffers"):
        HarqBooks(0)
    books = HarqBooks(1)
    with pytest.raises(InvalidInputError, match="soft_bits"):
        books.begin(HarqKey(0, 1, 0), 0, new_data=True)
    with pytest.raises(InvalidInputError, match="ticket"):
        books.end(HarqTicket(HarqKey(0, 1, 0), -1, False, 0, serial=1), decoded=True)
