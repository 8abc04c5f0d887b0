"""The process that runs slots for another one, over a stand-in for the GPU's pipeline."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import ClassVar

import numpy as np
import pytest

from phy.gpu import worker, worker_pipeline, worker_pool
from phy.gpu.doorbell import Doorbell
from phy.gpu.faults import FaultKind, GpuFaultError, answer_of, gpu_faults, kind_of
from phy.gpu.pipeline import Elapsed
from phy.gpu.program import Buffer, Program
from phy.gpu.worker import LaneOrder, Order
from phy.gpu.worker_pool import GpuWorker, Place
from tests import waiting


class Log:
    """A pipeline that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def shift(self, gear):
        self.gear = gear

    def start(self, side):
        self.calls.append(("start", side, self.gear))

    def write(self, name, first, values):
        self.calls.append(("write", name, first, values.tolist()))

    def is_done(self, side):
        return True

    def wait(self, side):
        return Elapsed(10.0 + side, 20.0 + side)


until = partial(waiting.until, within_s=10.0)


def test_slots_start_after_the_messages_before_them_and_no_later_ones() -> None:
    memory = np.zeros(Doorbell.N_BYTES, np.uint8)
    ours, theirs = Doorbell(memory), Doorbell(memory)
    a, b = socket.socketpair()
    connection = Connection(a.detach())
    log = Log()

    n_messages = 0

    def write(value: int) -> None:
        nonlocal n_messages
        connection.send((0, "taps", 0, np.array([value])))
        n_messages += 1

    write(1)
    ours.start(0, n_messages)
    write(2)
    ours.start(1, n_messages, gear=2)

    def serve() -> None:
        with pytest.raises(EOFError):
            worker._serve(Connection(b.detach()), [worker._Lane(theirs, log)])

    thread = threading.Thread(target=serve)
    thread.start()
    until(lambda: ours.done == 2)
    time.sleep(0.05)  # the worker naps by now
    write(3)
    ours.start(0, n_messages)
    until(lambda: ours.done == 3)
    connection.close()
    thread.join(10)
    assert not thread.is_alive()
    assert log.calls == [
        ("write", "taps", 0, [1]),
        ("start", 0, 0),
        ("write", "taps", 0, [2]),
        ("start", 1, 2),
        ("write", "taps", 0, [3]),
        ("start", 0, 0),
    ]
    assert [ours.times(n) for n in range(3)] == [(10.0, 20.0), (11.0, 21.0), (10.0, 20.0)]


def test_a_gpu_that_hangs_is_a_fault_whether_it_is_waited_for_or_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(worker_pipeline, "_SLOT_TIMEOUT_S", 0.05)
    program = Program({"x": Buffer((4,), np.int32)}, (), ("x",), ("x",))
    pipeline = GpuWorker([LaneOrder(program, write_nothing)], [None]).pipeline(0)
    # Its process is still starting, or has found no GPU: nobody will answer.
    monkeypatch.setattr(pipeline._process, "read", lambda: None)
    for side, waits in enumerate((pipeline.wait, pipeline.is_done)):
        pipeline.start(side)
        with pytest.raises(GpuFaultError, match="no answer"):
            until(lambda waits=waits, side=side: waits(side))
    pipeline.close()


def write_nothing(_inputs) -> None:
    """The tables of a slot without work."""


def test_a_worker_that_is_killed_is_a_fault() -> None:
    program = Program({"x": Buffer((4,), np.int32)}, (), ("x",), ("x",))
    gpu = GpuWorker([LaneOrder(program, write_nothing)], [None])
    pipeline = gpu.pipeline(0)
    os.kill(pipeline.pid, signal.SIGKILL)
    with pytest.raises(GpuFaultError, match="its process ended") as caught:
        until(pipeline.is_ready)
    assert caught.value.kind is FaultKind.LOST
    pipeline.close()
    again = gpu.pipeline(0)
    assert again.pid != pipeline.pid
    again.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("cudaErrorMemoryAllocation", FaultKind.OUT_OF_MEMORY),
        ("CUDA_ERROR_OUT_OF_MEMORY", FaultKind.OUT_OF_MEMORY),
        ("cudaErrorIllegalAddress", FaultKind.STICKY),
        ("cudaErrorECCUncorrectable", FaultKind.STICKY),
        ("cudaErrorNoDevice", FaultKind.LOST),
        ("cudaErrorInvalidConfiguration", FaultKind.REFUSED),
        ("cudaErrorOfTomorrow", FaultKind.STICKY),
    ],
)
def test_faults_are_told_apart_by_what_it_takes_to_go_on(answer, kind) -> None:
    assert kind_of(answer) is kind


def test_errors_that_are_not_the_gpus_pass_through() -> None:
    class CUDARuntimeError(RuntimeError):
        pass

    error = CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    assert answer_of(error) == "cudaErrorIllegalAddress"
    expected = pytest.raises(GpuFaultError, match="while testing: cudaErrorIllegalAddress")
    with expected, gpu_faults("testing"):
        raise error
    with pytest.raises(ZeroDivisionError), gpu_faults("testing"):
        _ = 1 / 0


class ScriptedProcess:
    """A worker's process that sets up no GPU."""

    made: ClassVar[list[ScriptedProcess]] = []

    def __init__(self, lanes, gears_sms, environment) -> None:
        self.has_ended, self.is_alive, self.closed = False, True, False
        self.environment = dict(environment)
        self.gears_sms: list[int] = []
        self.pid = 1000 + len(self.made)
        memories = Order(lanes, gears_sms, 0).lanes
        self.doorbells = [Doorbell(np.zeros(Doorbell.N_BYTES, np.uint8)) for _ in memories]
        self.made.append(self)

    def read(self) -> None:
        if not self.is_alive:
            raise GpuFaultError(FaultKind.LOST, "its process ended", "a slot ran")

    def kill(self) -> None:
        self.is_alive = False

    def close(self) -> None:
        self.closed = self.has_ended = True
        self.is_alive = False


@pytest.fixture
def scripted(monkeypatch) -> type[ScriptedProcess]:
    ScriptedProcess.made.clear()
    monkeypatch.setattr(worker_pool, "_AGAIN_S", 0.0)
    monkeypatch.setattr(worker_pool, "WorkerProcess", ScriptedProcess)
    return ScriptedProcess


def a_worker(**options) -> GpuWorker:
    program = Program({"x": Buffer((4,), np.int32)}, (), ("x",), ("x",))
    return GpuWorker([LaneOrder(program, write_nothing)] * 2, [None], **options)


def test_a_process_that_stands_by_takes_over_and_another_one_stands_by(scripted) -> None:
    gpu = a_worker(has_standby=True)
    lanes = [gpu.pipeline(lane) for lane in (0, 1)]
    until(lambda: len(gpu._standby) == 1)
    first, second = scripted.made
    assert all(lane._process is first for lane in lanes)
    first.close()
    assert all(gpu.pipeline(lane)._process is second for lane in (0, 1))
    until(lambda: len(scripted.made) == 3)
    gpu.close()
    assert scripted.made[2].closed
    assert not second.closed


def test_a_process_that_stood_by_and_died_is_not_taken(scripted) -> None:
    gpu = a_worker(has_standby=True)
    gpu.pipeline(0)
    until(lambda: len(gpu._standby) == 1)
    first, second = scripted.made
    second.is_alive = False
    first.close()
    assert gpu.pipeline(0)._process is scripted.made[2]


def test_nothing_stands_by_unless_it_is_wanted(scripted) -> None:
    gpu = a_worker()
    gpu.pipeline(0)
    gpu.close()
    assert len(scripted.made) == 1


class Server:
    """What processes of the first place rest on."""

    is_up = True


def two_places(server: Server) -> GpuWorker:
    places = (Place({"SERVER": "here"}, lambda: server.is_up), Place({"SERVER": ""}))
    return a_worker(has_standby=True, places=places)


def where(pipeline) -> str:
    return pipeline._process.environment["SERVER"]


def test_one_stands_by_in_each_place_and_the_wanted_one_comes_first(scripted) -> None:
    gpu = two_places(Server())
    first = gpu.pipeline(0)
    until(lambda: len(gpu._standby) == 2)
    assert where(first) == "here"
    assert gpu.is_home
    assert {at: one.environment["SERVER"] for at, one in gpu._standby.items()} == {0: "here", 1: ""}
    first._process.close()
    assert where(gpu.pipeline(0)) == "here"
    gpu.close()


def test_when_a_place_ends_who_stands_by_in_the_other_takes_over_at_once(scripted) -> None:
    server = Server()
    gpu = two_places(server)
    first = gpu.pipeline(0)._process
    until(lambda: len(gpu._standby) == 2)
    beside, outside = gpu._standby[0], gpu._standby[1]
    server.is_up = False
    gpu.leave(0)
    assert not first.is_alive
    assert not beside.is_alive
    first.has_ended = True  # as the next look at it finds
    assert gpu.pipeline(0)._process is outside
    assert not gpu.is_home
    assert gpu.pid == outside.pid
    # Nobody is started where there is nothing to rest on.
    until(lambda: 1 in gpu._standby)
    assert 0 not in gpu._standby
    gpu.close()


def test_it_goes_home_when_one_there_has_set_the_gpu_up_and_not_before(scripted) -> None:
    server = Server()
    server.is_up = False
    gpu = two_places(server)
    away = gpu.pipeline(0)._process
    assert away.environment["SERVER"] == ""
    until(lambda: 1 in gpu._standby)
    gpu.go_home()
    assert away.is_alive
    server.is_up = True

    def stands_by_at_home() -> bool:
        gpu.keep()
        return 0 in gpu._standby

    until(stands_by_at_home)
    gpu.go_home()
    assert away.is_alive
    gpu._standby[0].gears_sms = [132]
    gpu.go_home()
    assert not away.is_alive
    away.has_ended = True
    assert where(gpu.pipeline(0)) == "here"
    assert gpu.is_home
    gpu.close()


def test_one_that_fails_while_it_stands_by_at_home_is_started_again_after_a_while(
    scripted, monkeypatch
) -> None:
    monkeypatch.setattr(worker_pool, "_AGAIN_S", 60.0)
    server = Server()
    gpu = two_places(server)
    gpu.pipeline(0)
    until(lambda: len(gpu._standby) == 2)
    failed = gpu._standby[0]
    failed.is_alive = False
    assert not gpu.can_go_home
    n_made = len(scripted.made)
    gpu.keep()
    # Not at once, lest one that always fails is started again and again.
    assert gpu._starting is None or not gpu._starting.is_alive()
    assert len(scripted.made) == n_made
    gpu._again_s.clear()

    def another() -> bool:
        gpu.keep()
        return gpu._standby.get(0) not in (None, failed)

    until(another)
    gpu.close()


class SlowEnd:
    """A process that is not cleared up until it may be."""

    def __init__(self, monkeypatch, process) -> None:
        self.may_be, self.is_over = threading.Event(), threading.Event()
        self._really_wait = process.wait
        monkeypatch.setattr(process, "wait", self._wait)

    def _wait(self, _timeout_s: float | None = None) -> None:
        self.may_be.wait(10)
        self._really_wait()
        self.is_over.set()

    def let(self) -> None:
        """Nobody has waited for it so far."""
        assert not self.may_be.is_set()
        assert not self.is_over.is_set()
        self.may_be.set()
        assert self.is_over.wait(10)


def test_a_killed_process_is_a_fault_at_the_next_look_and_nobody_waits_for_its_end(
    monkeypatch,
) -> None:
    gpu = a_worker()
    pipeline = gpu.pipeline(0)
    end = SlowEnd(monkeypatch, pipeline._process._process)
    pipeline.start(0)
    gpu.leave(0)
    with pytest.raises(GpuFaultError, match="its process ended"):
        pipeline.is_done(0)
    pipeline.close()  # returns though the process may not have ended
    again = gpu.pipeline(0)
    assert again.pid != pipeline.pid
    again.close()
    end.let()


def test_nobody_waits_for_the_end_of_one_that_stood_by_in_a_place_that_has_ended(
    monkeypatch,
) -> None:
    gpu = a_worker(has_standby=True)
    pipeline = gpu.pipeline(0)
    until(lambda: 0 in gpu._standby)
    end = SlowEnd(monkeypatch, gpu._standby[0]._process)
    gpu.leave(0)
    assert 0 not in gpu._standby
    end.let()
    gpu.close()
    pipeline.close()


def test_nobody_waits_for_the_end_of_one_that_hangs(monkeypatch) -> None:
    monkeypatch.setattr(worker_pipeline, "_SLOT_TIMEOUT_S", 0.0)
    pipeline = a_worker().pipeline(0)
    end = SlowEnd(monkeypatch, pipeline._process._process)
    monkeypatch.setattr(pipeline._process, "read", lambda: None)
    pipeline.start(0)
    with pytest.raises(GpuFaultError, match="no answer"):
        until(lambda: pipeline.is_done(0))
    pipeline.close()
    end.let()
