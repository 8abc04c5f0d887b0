"""Which soft buffer belongs to which HARQ process: the host's books, without any GPU in them.

The buffers themselves lie on the device. If the device is lost, the books stay: every process knows
that it waits for a retransmission, and that its soft values are gone.

Spec: TS 38.321 5.4.2 (HARQ operation)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from airan.core.errors import InvalidInputError
from phy.checks import check_integer


class HarqKey(NamedTuple):
    """One HARQ process of one UE of one cell."""

    cell: int
    rnti: int
    process_id: int


class HarqTicket(NamedTuple):
    """What one transmission may do with its soft buffer.

    Attributes:
        key: the process.
        buffer: index of the soft buffer; -1 if none was free: the block is decoded on its own.
        combine: the buffer holds soft values of earlier transmissions of the same block.
        transmission: how many transmissions of the block there were before.
        serial: of the ticket; another one for the process overtakes it.
    """

    key: HarqKey
    buffer: int
    combine: bool
    transmission: int
    serial: int


@dataclass
class _Process:
    buffer: int
    n_coded_bits: int
    transmissions: int
    holds_values: bool
    serial: int = 0


class HarqBooks:
    """Lends soft buffers to HARQ processes."""

    def __init__(self, n_buffers: int) -> None:
        """`n_buffers` soft buffers lie on the device, each large enough for any code word.

        Raises:
            InvalidInputError: `n_buffers` is not positive.
        """
        check_integer("n_buffers", n_buffers, 1, 10_000_000)
        self._free = list(range(n_buffers - 1, -1, -1))
        # The process that was not heard of for longest comes first.
        self._processes: OrderedDict[HarqKey, _Process] = OrderedDict()
        self._n_tickets = 0
        self.evictions = 0
        """Processes that lost their buffer to another one."""

    def begin(self, key: HarqKey, soft_bits: int, new_data: bool) -> HarqTicket:
        """Books one transmission.

        A new block takes a free buffer, or that of the process not heard of for longest. A
        retransmission combines with what is in its buffer, unless that was lost.

        Args:
            key: the process.
            soft_bits: soft values of the block, code blocks times N; a retransmission with another
                size is a new block.
            new_data: the new-data indicator was toggled.

        Raises:
            InvalidInputError: `soft_bits` is not positive.
        """
        check_integer("soft_bits", soft_bits, 1, 2**31)
        process = self._processes.pop(key, None)
        if process is None or new_data or process.n_coded_bits != soft_bits:
            buffer = process.buffer if process is not None else self._take()
            process = _Process(buffer, soft_bits, 0, False)
        self._n_tickets += 1
        process.serial = self._n_tickets
        ticket = HarqTicket(
            key, process.buffer, process.holds_values, process.transmissions, process.serial
        )
        process.transmissions += 1
        self._processes[key] = process
        return ticket

    def end(self, ticket: HarqTicket, decoded: bool, processed: bool = True) -> None:
        """Closes a transmission: a decoded block gives its buffer back, any other keeps it.

        `processed` is False for a transmission that was shed or lost with the device: its soft
        values never reached the buffer. A ticket whose process has ended, lost its buffer or gone
        on to another transmission meanwhile says nothing any more.

        Raises:
            InvalidInputError: the ticket is not of these books.
        """
        if not 0 < ticket.serial <= self._n_tickets:
            raise InvalidInputError("ticket", f"names a process that never began: {ticket.key}")
        process = self._processes.get(ticket.key)
        if process is None or (process.buffer, process.serial) != (ticket.buffer, ticket.serial):
            return
        if decoded:
            del self._processes[ticket.key]
            if process.buffer >= 0:
                self._free.append(process.buffer)
        elif processed and process.buffer >= 0:
            process.holds_values = True

    def transmissions(self, key: HarqKey) -> int:
        """Returns how often the process's present block has been sent; 0 if there is none."""
        process = self._processes.get(key)
        return 0 if process is None else process.transmissions

    def forget_values(self) -> int:
        """The device was lost: all soft values are gone, the processes are not.

        Returns how many processes held values.
        """
        lost = sum(process.holds_values for process in self._processes.values())
        for process in self._processes.values():
            process.holds_values = False
        return lost

    def release_cell(self, cell: int) -> None:
        """Ends all processes of a cell."""
        for key in [key for key in self._processes if key.cell == cell]:
            process = self._processes.pop(key)
            if process.buffer >= 0:
                self._free.append(process.buffer)

    def check_integrity(self) -> None:
        """Raises InvalidInputError unless every buffer is free or lent exactly once."""
        lent = [p.buffer for p in self._processes.values() if p.buffer >= 0]
        if len(set(lent) | set(self._free)) != len(lent) + len(self._free):
            raise InvalidInputError("buffers", "a soft buffer is lent twice")

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        for process in self._processes.values():
            if process.buffer >= 0:
                buffer, process.buffer, process.holds_values = process.buffer, -1, False
                self.evictions += 1
                return buffer
        return -1
