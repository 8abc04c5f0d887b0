"""`airan bench link`: block error rate and throughput of PUSCH over SNR, in simulated channels.

Sionna receives the very same samples. One slot of a channel has the same block, fading and noise
at every SNR, so curves are smooth, and a seed gives the same curves again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from airan.bench import sionna_peer
from airan.bench.rows import Row, hardware, row
from airan.bench.statistics import Tally, falls_below, wilson_interval
from airan.core.errors import InvalidInputError
from phy import PuschConfig, PuschReceiver, PuschTransmitter, ReceiverOptions
from phy.channel import FIXED_PROFILES, PROFILES, Channel, ChannelConfig

CHANNELS = ("AWGN", *PROFILES, *FIXED_PROFILES)
"""Channels by name; a channel's place here is part of its seed."""

DEFAULT_CHANNELS = ("AWGN", *PROFILES)
"""What is simulated unless asked otherwise."""

OURS, PEER = "airan", "Sionna"

LEVEL = 0.1
"""Block error rate at which receivers are compared."""

_BATCH = 8  # slots that Sionna receives at once

_Blocks: TypeAlias = npt.NDArray[np.uint8]  # [slot, A]
_Grids: TypeAlias = npt.NDArray[np.complex64]  # [slot, rx, 14, subcarrier]
_Receiver: TypeAlias = Callable[[_Blocks, _Grids, float], int]


@dataclass(frozen=True)
class LinkConfig:
    """What to simulate.

    Attributes:
        pusch: the transmission.
        channels: names out of CHANNELS.
        snr_db: points of every curve: power of all layers together over noise, on one antenna.
        n_slots: most slots of a point.
        max_errors: a receiver's point ends after so many block errors; a curve ends after two
            points without any.
        delay_spread_ns: of "TDL-A" to "TDL-E".
        doppler_hz: largest Doppler shift.
        seed: of everything random.
        receiver: how ours receives; Sionna runs as many LDPC iterations.
        known_noise: tell our receiver the noise variance, as Sionna is told it; otherwise ours
            estimates it.
        sionna: let Sionna receive as well.

    Raises:
        InvalidInputError: an unknown channel, no points, or no slots.
    """

    pusch: PuschConfig
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    snr_db: tuple[float, ...] = tuple(range(0, 21, 2))
    n_slots: int = 200
    max_errors: int = 50
    delay_spread_ns: float = 100.0
    doppler_hz: float = 10.0
    seed: int = 1
    receiver: ReceiverOptions = field(default_factory=ReceiverOptions)
    known_noise: bool = False
    sionna: bool = True

    def __post_init__(self) -> None:
        for channel in self.channels:
            if channel not in CHANNELS:
                raise InvalidInputError(
                    "channel", f"must be one of {', '.join(CHANNELS)}, got {channel}"
                )
        if not self.snr_db or not self.channels:
            raise InvalidInputError("snr", "must have at least one point")
        for name in ("n_slots", "max_errors"):
            if getattr(self, name) < 1:
                raise InvalidInputError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InvalidInputError("seed", f"must not be negative, got {self.seed}")

    @property
    def title(self) -> str:
        """What is simulated, in a line."""
        pusch = self.pusch
        return (
            f"PUSCH in simulated channels: {pusch.n_prb} PRBs at {pusch.scs_khz} kHz, "
            f"MCS {pusch.mcs_index} of table {pusch.mcs_table}, {pusch.n_layers} layer(s), "
            f"{pusch.n_rx} antennas, delay spread {self.delay_spread_ns:g} ns, "
            f"Doppler {self.doppler_hz:g} Hz, {self.receiver.n_iterations} LDPC iterations"
        )

    def radio(self, channel: str, snr_db: float) -> ChannelConfig:
        """The simulated channel of one point."""
        precoder = self.pusch.precoder
        power = self.pusch.n_layers if precoder is None else np.sum(np.abs(precoder) ** 2)
        return ChannelConfig(
            profile=channel,
            delay_spread_ns=self.delay_spread_ns,
            doppler_hz=0.0 if channel == "AWGN" else self.doppler_hz,
            n_rx=self.pusch.n_rx,
            scs_khz=self.pusch.scs_khz,
            snr_db=snr_db - 10 * float(np.log10(power)),
            n_tx=self.pusch.n_ports or self.pusch.n_layers,
        )


@dataclass(frozen=True)
class LinkPoint:
    """One receiver at one SNR.

    Attributes:
        channel: its name.
        receiver: "airan" or "Sionna".
        snr_db: power of all layers together over noise, on one antenna.
        n_slots: slots received.
        n_errors: transport blocks that were not received, or not rightly.
        bler: block error rate.
        bler_low, bler_high: its 95% confidence interval (Wilson).
        throughput_mbps: bits of the blocks received in the time of all slots.
    """

    channel: str
    receiver: str
    snr_db: float
    n_slots: int
    n_errors: int
    bler: float
    bler_low: float
    bler_high: float
    throughput_mbps: float


def simulate(
    config: LinkConfig, on_slots: Callable[[int], None] = lambda _: None
) -> Iterator[LinkPoint]:
    """Yields the points, channel by channel, of both receivers.

    `on_slots` is told the slots that are over, also those a point did not need.

    Raises:
        NotFoundError: Sionna is wanted and absent.
        InvalidInputError: the receiver's options do not suit the transmission.
    """
    receivers = _receivers(config)
    for channel in config.channels:
        n_faultless = 0
        for snr_db in config.snr_db:
            if n_faultless >= 2:
                on_slots(config.n_slots)
                continue
            tallies = {name: Tally(config.max_errors) for name in receivers}
            for start in range(0, config.n_slots, _BATCH):
                slots = range(start, min(start + _BATCH, config.n_slots))
                wanting = [name for name in receivers if not tallies[name].done]
                if wanting:
                    received = _received(config, channel, snr_db, slots)
                for name in wanting:
                    tallies[name].add(len(slots), receivers[name](*received))
                on_slots(len(slots))
            n_faultless = 0 if any(t.n_errors for t in tallies.values()) else n_faultless + 1
            for name, tally in tallies.items():
                yield _point(config, (channel, name, snr_db), tally)


def rows(config: LinkConfig, points: Sequence[LinkPoint]) -> list[Row]:
    """Returns, for each channel, the SNR at which the block error rate falls below 10%."""
    needed: dict[tuple[str, str], float | None] = {}
    for channel, receiver in dict.fromkeys((p.channel, p.receiver) for p in points):
        curve = [
            (p.snr_db, p.bler) for p in points if (p.channel, p.receiver) == (channel, receiver)
        ]
        needed[channel, receiver] = falls_below(curve, LEVEL)
    measured_on = f"{hardware()}; simulated channels, up to {config.n_slots} slots a point"
    return [
        row(
            f"bler10 {channel}",
            needed[channel, OURS],
            "dB",
            measured_on,
            (sionna_peer.version(), needed[channel, PEER]) if config.sionna else None,
        )
        for channel in config.channels
    ]


def _receivers(config: LinkConfig) -> dict[str, _Receiver]:
    """Functions that count the blocks which a receiver gets wrong."""
    receive = PuschReceiver(config.pusch, options=config.receiver)

    def ours(tbs: _Blocks, grids: _Grids, noise_var: float) -> int:
        known = noise_var if config.known_noise else None
        found = [receive(grid, known) for grid in grids]
        right = [f.crc_ok and np.array_equal(f.tb, tb) for f, tb in zip(found, tbs, strict=True)]
        return len(tbs) - sum(right)

    if not config.sionna:
        return {OURS: ours}
    sionna_peer.require()
    peer = sionna_peer.PuschPeer(config.pusch, config.receiver.n_iterations)

    def theirs(tbs: _Blocks, grids: _Grids, noise_var: float) -> int:
        found, crc_ok = peer.receive(grids, noise_var)
        return int((~crc_ok | (found != tbs).any(axis=1)).sum())

    return {OURS: ours, PEER: theirs}


def _received(
    config: LinkConfig, channel: str, snr_db: float, slots: range
) -> tuple[_Blocks, _Grids, float]:
    """Transport blocks, what is received, and the noise variance."""
    radio = config.radio(channel, snr_db)
    transmit = PuschTransmitter(config.pusch)
    tbs, grids = [], []
    for slot in slots:
        rng = np.random.default_rng([config.seed, CHANNELS.index(channel), slot])
        tb = rng.integers(0, 2, config.pusch.tb_size_bits, dtype=np.uint8)
        tbs.append(tb)
        grids.append(Channel(radio, rng)(transmit(tb)))
    return np.stack(tbs), np.stack(grids), radio.noise_var


def _point(config: LinkConfig, at: tuple[str, str, float], tally: Tally) -> LinkPoint:
    low, high = wilson_interval(tally.n_errors, tally.n_trials)
    slot_us = 1e3 / (config.pusch.scs_khz / 15)
    throughput_mbps = (1 - tally.rate) * config.pusch.tb_size_bits / slot_us
    return LinkPoint(*at, tally.n_trials, tally.n_errors, tally.rate, low, high, throughput_mbps)
