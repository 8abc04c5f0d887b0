"""How the LDPC decoding kernel of one base graph, lifting size and number of rows is laid out.

Everything that depends on these three is known when the kernel is compiled: the graph's columns
and shifts become literals, rows and edges are unrolled, and the messages of as many rows as fit
stay in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from airan.core.errors import InvalidInputError
from phy.checks import check_integer
from phy.nr.base_graph import N_CORE_ROWS, BaseGraph, lifted_graph

# Of one multiprocessor of the H100 (compute capability 9.0); each of its four parts has its own
# registers and takes every fourth warp.
_N_PARTS = 4
_REGISTERS_OF_PART = 16384
_MAX_REGISTERS = 255
_SHARED_BYTES = 227 * 1024
_SHARED_BYTES_OF_BLOCK = 1024  # what the driver takes of every block
_STATE_BYTES = 1024

_WANTED_THREADS = 384
_LEAST_THREADS = 128
# Registers that a thread needs besides messages: the extrinsic values and addresses of the
# heaviest row, its smallest two, and what goes with them.
_WORKING_REGISTERS = {1: 69, 2: 50}


@dataclass(frozen=True)
class LdpcLayout:
    """One variant of the kernel.

    Attributes:
        base_graph: 1 or 2.
        lifting_size: Z.
        n_rows: base-graph rows that are used, from the first on.
        n_pairs: pairs of code blocks that a thread block decodes.
        blocks_per_sm: thread blocks meant to share a multiprocessor.
        n_register_rows: rows whose messages stay in registers.
        message_bytes: the other rows' messages are bytes, not words.
        sums_of_four: of every four edges, how many find the row's smallest values by additions, not
            by comparisons; the result is the same, but other units of the multiprocessor do the
            work.
    """

    base_graph: int
    lifting_size: int
    n_rows: int
    n_pairs: int
    blocks_per_sm: int
    n_register_rows: int
    message_bytes: bool
    sums_of_four: int = 1

    @property
    def graph(self) -> BaseGraph:
        """The lifted base graph."""
        return lifted_graph(self.base_graph, self.lifting_size)

    @property
    def size(self) -> int:
        """Threads with work: Z times the pairs."""
        return self.lifting_size * self.n_pairs

    @property
    def n_threads(self) -> int:
        """Threads of a thread block, whole warps."""
        return -(-self.size // 32) * 32

    @property
    def llr_units(self) -> int:
        """The decoder's whole numbers in one channel LLR of 1: as fine as messages have room."""
        return 1 if self.message_bytes else 4

    @property
    def message_limit(self) -> int:
        """Largest magnitude a check can see, before normalisation."""
        return 127 if self.message_bytes else 1023

    @cached_property
    def edges(self) -> list[list[tuple[int, int]]]:
        """(column, shift) of every row in use, without the bit that the row has to itself."""
        rows = [self.graph.row(row) for row in range(self.n_rows)]
        return rows[:N_CORE_ROWS] + [row[:-1] for row in rows[N_CORE_ROWS:]]

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a thread block: totals, the rows' own bits, messages."""
        n_own = self.n_rows - N_CORE_ROWS
        words = self.graph.n_info_columns + N_CORE_ROWS + self._packed(n_own)
        words += sum(self._packed(len(row)) for row in self.edges[self.n_register_rows :])
        return 4 * self.size * words

    def n_thread_blocks(self, n_code_blocks: int) -> int:
        """Thread blocks for so many code blocks."""
        return -(-n_code_blocks // (2 * self.n_pairs))

    def prelude(self) -> str:
        """The constants that stand before phy/kernels/ldpc_decode.cu."""
        numbers = {
            "Z": self.lifting_size,
            "PAIRS": self.n_pairs,
            "THREADS": self.n_threads,
            "BLOCKS_PER_SM": self.blocks_per_sm,
            "N_ROWS": self.n_rows,
            "N_INFO_COLUMNS": self.graph.n_info_columns,
            "N_REGISTER_ROWS": self.n_register_rows,
            "MESSAGE_BYTES": int(self.message_bytes),
            "SUMS_OF_FOUR": self.sums_of_four,
            "MESSAGE_LIMIT": self.message_limit,
            "LLR_UNITS": self.llr_units,
        }
        starts = [0, *accumulate(len(row) for row in self.edges)]
        tables = {
            "ROW_START": starts,
            "COLUMN": [column for row in self.edges for column, _ in row],
            "SHIFT": [shift for row in self.edges for _, shift in row],
            "WAIT": self._waits(),
        }
        lines = [f"constexpr int {name} = {value};" for name, value in numbers.items()]
        lines += [
            f"__device__ constexpr int {name}[] = {{{', '.join(map(str, values))}}};"
            for name, values in tables.items()
        ]
        return "\n".join(lines) + "\n"

    def _waits(self) -> list[int]:
        """After which rows the threads must wait for each other: before a row touches a column that
        a row since the last waiting has touched, and at the end."""
        waits = []
        touched: set[int] = set()
        for row, following in zip(self.edges, self.edges[1:], strict=False):
            touched |= {column for column, _ in row}
            waits.append(int(any(column in touched for column, _ in following)))
            if waits[-1]:
                touched.clear()
        return [*waits, 1]

    def _packed(self, n_values: int) -> int:
        """Words that so many values of one check take."""
        return (n_values + 1) // 2 if self.message_bytes else n_values


def llr_units_of_16(graph: BaseGraph) -> int:
    """Room for one code block's N LLRs, in units of 16 bytes."""
    return -(-graph.n_coded_bits // 16)


@lru_cache(maxsize=512)
def ldpc_layout(base_graph: int, lifting_size: int, n_rows: int) -> LdpcLayout:
    """Returns the layout for code blocks of which `n_rows` base-graph rows are used.

    Raises:
        InvalidInputError: no such graph, lifting size or number of rows.
    """
    graph = lifted_graph(base_graph, lifting_size)
    check_integer("n_rows", n_rows, N_CORE_ROWS, graph.n_rows)
    n_pairs = max(1, _LEAST_THREADS // lifting_size)
    n_threads = -(-lifting_size * n_pairs // 32) * 32
    most_blocks = max(1, (_WANTED_THREADS + n_threads // 2) // n_threads)
    for blocks_per_sm in range(most_blocks, 0, -1):
        shared_room = _SHARED_BYTES // blocks_per_sm - _SHARED_BYTES_OF_BLOCK - _STATE_BYTES
        for message_bytes in (False, True):
            layout = LdpcLayout(
                graph.number,
                graph.lifting_size,
                n_rows,
                n_pairs,
                blocks_per_sm,
                _register_rows(graph, n_rows, blocks_per_sm * n_threads),
                message_bytes,
            )
            if layout.shared_bytes <= shared_room:
                return layout
    raise InvalidInputError("n_rows", f"{n_rows} rows find no room in a multiprocessor")


def _register_rows(graph: BaseGraph, n_rows: int, threads_per_sm: int) -> int:
    """Rows whose messages fit into the registers, the first four in any case."""
    warps_of_part = -(-threads_per_sm // (32 * _N_PARTS))
    registers = min(_REGISTERS_OF_PART // (32 * warps_of_part) // 8 * 8, _MAX_REGISTERS)
    room = registers - _WORKING_REGISTERS[graph.number]
    weights = [len(graph.row(row)) - (row >= N_CORE_ROWS) for row in range(n_rows)]
    return max(sum(end <= room for end in accumulate(weights)), N_CORE_ROWS)
