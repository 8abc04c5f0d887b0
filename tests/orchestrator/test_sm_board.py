"""The board that the fast path, the slots and an engine share."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError, NotFoundError
from orchestrator.sm_board import Beat, Gear, SmBoard

GEARS = (Gear(16, 116), Gear(64, 68), Gear(96, 36), Gear(96, 0))


@pytest.fixture
def board(tmp_path: Path) -> SmBoard:
    return SmBoard.create(tmp_path / "gpu-0", GEARS)


def test_a_board_begins_in_the_gear_that_gives_the_radio_most(board: SmBoard) -> None:
    assert board.current.gear == 3
    assert board.current.generation == 1
    assert (board.acknowledged("ran"), board.acknowledged("ai")) == (0, 0)


def test_another_process_reads_what_one_wrote(board: SmBoard) -> None:
    board.order(1, 512)
    board.beat(8_125, 130, 1)
    script = (
        "import sys; from pathlib import Path; from orchestrator.sm_board import SmBoard\n"
        "board = SmBoard.open(Path(sys.argv[1]))\n"
        "board.acknowledge('ai', board.current.generation)\n"
        "print(board.gears, board.current, board.last_beat)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(board.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{GEARS} {board.current} {Beat(1, 8125, 130, 1)}"
    assert board.acknowledged("ai") == 2
    assert board.acknowledged_ns("ai") >= board.ordered_ns


def test_an_order_given_twice_is_one_order(board: SmBoard) -> None:
    first = board.order(0, 64)
    given_ns = board.ordered_ns
    assert board.order(0, 64) == first
    assert board.ordered_ns == given_ns
    assert board.order(0, 65).generation == first.generation + 1


def test_who_has_the_old_board_open_keeps_it(board: SmBoard) -> None:
    again = SmBoard.create(board.path, GEARS[:1])
    assert SmBoard.open(board.path).gears == GEARS[:1]
    again.order(0, 9)
    assert board.current.gear == 3


@given(st.integers(0, 3), st.integers(0, 2**24 - 1), st.integers(0, 2**30), st.integers(0, 70_000))
def test_what_is_written_is_read(gear: int, tokens: int, step_us: int, worked_on: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        board = SmBoard.create(Path(folder) / "board", GEARS)
        order = board.order(gear, tokens)
        assert (order.gear, order.step_tokens) == (gear, tokens)
        board.beat(step_us, worked_on, gear)
        assert board.last_beat == Beat(1, min(step_us, 2**24 - 1), min(worked_on, 2**16 - 1), gear)
        board.close()


@pytest.mark.parametrize(
    "gears",
    [
        (),
        (Gear(0, 10),),
        (Gear(16, 70_000),),
        (Gear(16, 20), Gear(16, 20)),
        tuple(Gear(n + 1, 100 - n) for n in range(17)),
    ],
)
def test_gears_that_make_no_sense_are_refused(tmp_path: Path, gears: tuple[Gear, ...]) -> None:
    with pytest.raises(InvalidInputError, match="gears"):
        SmBoard.create(tmp_path / "board", gears)
    assert not (tmp_path / "board").exists()


def test_orders_out_of_range_are_refused(board: SmBoard) -> None:
    for gear, tokens in ((4, 0), (-1, 0), (0, -1), (0, 2**24)):
        with pytest.raises(InvalidInputError):
            board.order(gear, tokens)
    assert board.current.generation == 1


def test_what_is_no_board_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="start the slots first"):
        SmBoard.open(tmp_path / "none")
    for content in (b"short", bytes(4096)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(InvalidInputError, match="is no board"):
            SmBoard.open(tmp_path / "other")
