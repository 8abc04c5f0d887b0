"""A pipeline whose kernels run on the CPU, on a clock of its own."""

from __future__ import annotations

from phy.gpu.faults import FaultKind, GpuFaultError
from phy.gpu.pipeline import N_SIDES, Elapsed

from .emulation import emulate_program, zeros


class EmulatedPipeline:
    """The program's kernels run on the CPU when results are waited for; `fault` breaks it once."""

    n_sms = 132
    n_bytes = (0, 0)

    def __init__(self, program, clock) -> None:
        self.program = program
        self.arrays = zeros(program)
        on_sides = {*program.inputs, *program.outputs}
        self.sides = [{name: self.arrays[name].copy() for name in on_sides} for _ in range(N_SIDES)]
        self.clock = clock
        self.slot_us = 500.0
        self.fault: GpuFaultError | None = None
        self.closed = False
        self.gear = 0
        self.started_in: list[int] = []

    def is_ready(self):
        return True

    def shift(self, gear):
        self.gear = gear

    def inputs(self, side):
        return self.sides[side]

    def outputs(self, side):
        return self.sides[side]

    def start(self, side):
        self.started_in.append(self.gear)
        if self.fault is not None and self.fault.kind is FaultKind.OUT_OF_MEMORY:
            fault, self.fault = self.fault, None
            raise fault

    def is_done(self, side):
        return False

    def wait(self, side):
        if self.fault is not None:
            raise self.fault
        self.clock.now_s += self.slot_us * 1e-6
        for name in self.program.inputs:
            self.arrays[name][...] = self.sides[side][name]
        emulate_program(self.program, self.arrays)
        for name in self.program.outputs:
            self.sides[side][name][...] = self.arrays[name]
        return Elapsed(300.0, 450.0)

    def write(self, name, first, values):
        self.arrays[name][first : first + len(values)] = values

    def close(self):
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
