"""`airan bench requirements`: 3GPP's performance requirements of PUSCH, in simulated channels.

Spec: TS 38.104 8.2.1: 70% of maximum throughput, at most 4 HARQ transmissions with RV 0, 2, 3, 1,
DM-RS type 1 with one additional position and 2 CDM groups without data, mapping type A
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources

import numpy as np

from airan.bench.rows import Row, hardware, row
from airan.core.errors import InvalidInputError
from phy import PuschConfig, PuschReceiver, PuschTransmitter, ReceiverOptions
from phy.array import Array
from phy.channel import Channel, ChannelConfig

FRACTION = 0.7
"""Share of the maximum throughput that is required."""

SOURCE = "TS 38.104 V16.4.0"
"""Where the requirements are from."""

REDUNDANCY_VERSIONS = (0, 2, 3, 1)

_SEARCH_DB = 8.0  # so far from the requirement ours is looked for
_STEP_DB = 2.0
_HALVINGS = 3


@dataclass(frozen=True)
class Requirement:
    """One row of TS 38.104 tables 8.2.1.2-3 and 8.2.1.2-7.

    Attributes:
        table: its number.
        bandwidth_mhz: channel bandwidth.
        scs_khz: subcarrier spacing.
        frc: the fixed reference channel of annex A.
        n_prb: PRBs of the reference channel.
        n_layers: layers, and transmit antennas.
        mcs_index: its modulation and code rate in TS 38.214 table 5.1.3.1-1.
        profile: delay profile.
        doppler_hz: largest Doppler shift.
        n_rx: receive antennas.
        snr_db: where 70% of the maximum throughput is required.
    """

    table: str
    bandwidth_mhz: int
    scs_khz: int
    frc: str
    n_prb: int
    n_layers: int
    mcs_index: int
    profile: str
    doppler_hz: float
    n_rx: int
    snr_db: float

    @property
    def pusch(self) -> PuschConfig:
        """The transmission; two antennas send two layers with TPMI 0."""
        return PuschConfig(
            n_prb=self.n_prb,
            mcs_table=1,
            mcs_index=self.mcs_index,
            scs_khz=self.scs_khz,
            n_layers=self.n_layers,
            n_rx=self.n_rx,
            n_ports=self.n_layers if self.n_layers > 1 else None,
        )

    def radio(self, snr_db: float) -> ChannelConfig:
        """The simulated channel; antennas are uncorrelated ("Low")."""
        return ChannelConfig(
            profile=self.profile,
            doppler_hz=self.doppler_hz,
            n_rx=self.n_rx,
            scs_khz=self.scs_khz,
            snr_db=snr_db,
            n_tx=self.n_layers,
        )


@dataclass(frozen=True)
class RequirementOptions:
    """How to measure.

    Attributes:
        n_blocks: transport blocks for each SNR.
        round_trip_ms: time from one HARQ transmission to the next.
        seed: of everything random.
        receiver: how to receive.

    Raises:
        InvalidInputError: no blocks, or a negative time or seed.
    """

    n_blocks: int = 100
    round_trip_ms: float = 8.0
    seed: int = 1
    receiver: ReceiverOptions = field(default_factory=ReceiverOptions)

    def __post_init__(self) -> None:
        if self.n_blocks < 1:
            raise InvalidInputError("n_blocks", f"must be at least 1, got {self.n_blocks}")
        for name in ("round_trip_ms", "seed"):
            if not getattr(self, name) >= 0:
                raise InvalidInputError(name, f"must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class RequirementResult:
    """How one requirement was met.

    Attributes:
        requirement: which.
        throughput: share of the maximum throughput at the required SNR.
        snr_db: where ours has 70% of the maximum; None if further than 8 dB off.
        margin_db: how much less SNR than required that is; None likewise.
        n_blocks: transport blocks for each SNR.
        passed: the throughput at the required SNR is enough.
    """

    requirement: Requirement
    throughput: float
    snr_db: float | None
    margin_db: float | None
    n_blocks: int
    passed: bool

    @property
    def row(self) -> Row:
        """As a row: the SNR needed, with the requirement as the peer's."""
        needed = self.requirement
        measured_on = (
            f"{hardware()}; simulated channels, {self.n_blocks} transport blocks for each SNR"
        )
        name = (
            f"{needed.frc} {needed.n_rx}rx {needed.profile}-{needed.doppler_hz:g} "
            f"{needed.bandwidth_mhz}MHz"
        )
        return row(name, self.snr_db, "dB", measured_on, (SOURCE, needed.snr_db))


@lru_cache(maxsize=1)
def requirements() -> tuple[Requirement, ...]:
    """Returns all rows; V16.4.0, see the data file for their provenance."""
    text = resources.files("airan.bench").joinpath("data/pusch_requirements.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Requirement(
            table=row["table"],
            bandwidth_mhz=int(row["bandwidth_mhz"]),
            scs_khz=int(row["scs_khz"]),
            frc=row["frc"],
            n_prb=int(row["n_prb"]),
            n_layers=int(row["n_layers"]),
            mcs_index=int(row["mcs_index"]),
            profile=row["profile"],
            doppler_hz=float(row["doppler_hz"]),
            n_rx=int(row["n_rx"]),
            snr_db=float(row["snr_db"]),
        )
        for row in csv.DictReader(lines)
    )


def select(
    bandwidths_mhz: tuple[int, ...] = (20, 100),
    n_rx: tuple[int, ...] = (2, 4),
    frcs: tuple[str, ...] = ("",),
) -> tuple[Requirement, ...]:
    """Returns the rows of these bandwidths and antennas whose reference channel starts so.

    Raises:
        InvalidInputError: there is none.
    """
    found = tuple(
        needed
        for needed in requirements()
        if needed.bandwidth_mhz in bandwidths_mhz
        and needed.n_rx in n_rx
        and needed.frc.startswith(frcs)
    )
    if not found:
        raise InvalidInputError("frc", "no requirement has this bandwidth, antennas and channel")
    return found


def measure(
    wanted: tuple[Requirement, ...],
    options: RequirementOptions,
    on_step: Callable[[str], None] = lambda _: None,
) -> Iterator[RequirementResult]:
    """Yields the result of each requirement; `on_step` is told what was just found out."""
    for requirement in wanted:

        def throughput(snr_db: float, of: Requirement = requirement) -> float:
            share = _throughput(of, snr_db, options)
            on_step(f"{of.frc}, {of.n_rx} antennas, {snr_db:.2f} dB: {share:.0%}")
            return share

        at_required = throughput(requirement.snr_db)
        found = _find(throughput, requirement.snr_db, at_required)
        yield RequirementResult(
            requirement=requirement,
            throughput=at_required,
            snr_db=found,
            margin_db=None if found is None else requirement.snr_db - found,
            n_blocks=options.n_blocks,
            passed=at_required >= FRACTION,
        )


def _find(throughput: Callable[[float], float], start_db: float, at_start: float) -> float | None:
    """The SNR of 70% throughput: walks until it is crossed, then halves the last step."""
    enough = at_start >= FRACTION
    step_db = -_STEP_DB if enough else _STEP_DB
    near, far = (start_db, at_start), (start_db, at_start)
    while (far[1] >= FRACTION) == enough:
        if abs(far[0] - start_db) >= _SEARCH_DB:
            return None
        near, far = far, (far[0] + step_db, throughput(far[0] + step_db))
    for _ in range(_HALVINGS):
        middle_db = (near[0] + far[0]) / 2
        middle = (middle_db, throughput(middle_db))
        if (middle[1] >= FRACTION) == enough:
            near = middle
        else:
            far = middle
    return near[0] + (FRACTION - near[1]) / (far[1] - near[1]) * (far[0] - near[0])


def _throughput(requirement: Requirement, snr_db: float, options: RequirementOptions) -> float:
    """Blocks received for each slot used, which is 1 at most."""
    radio = requirement.radio(snr_db)
    first = requirement.pusch
    pairs = []
    for rv in REDUNDANCY_VERSIONS:
        config = replace(first, rv=rv)
        pairs.append((PuschTransmitter(config), PuschReceiver(config, options=options.receiver)))
    n_received = n_slots = 0
    for block in range(options.n_blocks):
        # The same block, fading and noise at every SNR.
        rng = np.random.default_rng([options.seed, block])
        tb = rng.integers(0, 2, first.tb_size_bits, dtype=np.uint8)
        channel = Channel(radio, rng)
        fading = channel.draw()
        soft_buffer: Array | None = None
        for attempt, (transmit, receive) in enumerate(pairs):
            start_s = attempt * options.round_trip_ms * 1e-3
            found = receive(channel(transmit(tb), fading, start_s), soft_buffer=soft_buffer)
            n_slots += 1
            if found.crc_ok and np.array_equal(found.tb, tb):
                n_received += 1
                break
            soft_buffer = soft_buffer if found.soft_buffer is None else found.soft_buffer
    return n_received / n_slots
