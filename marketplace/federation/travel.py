"""The way a request has come and may still go: no request meets a site twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from airan.core.errors import ForbiddenError, InvalidInputError
from marketplace.federation.policy import SITE, DataPolicy, parse_policy

VIA = "airan-via"
POLICY = "airan-data-policy"
_MAX_VIA = 16


@dataclass(frozen=True)
class Origin:
    """What a request's headers say of where it was and where it may go."""

    via: tuple[str, ...] = ()
    """Sites that sent it on, the first one first; empty: it comes from a client."""
    narrows: DataPolicy | None = None
    """It must not go further than this, whatever its tenant allows."""

    def may_go_on(self, site: str, max_hops: int) -> bool:
        """Whether `site` may send it on: it was not here before and has hops left."""
        return site not in self.via and len(self.via) < max_hops

    def check_here(self, region: str) -> None:
        """Lets the request in that another site sent.

        Raises:
            ForbiddenError: it must not be in this region.
        """
        if self.via and (self.narrows is None or region not in self.narrows.regions):
            here = repr(region) if region else "no region (market.region is not set)"
            raise ForbiddenError(
                f"the site {self.via[-1]!r} sent a request that must not leave its regions, and "
                f"this site is in {here}",
                remedy="correct the region of the peer there, or market.region here",
            )


SendingState = Literal["open", "answered", "refused", "broken", "cancelled", "unheard"]
SendingWay = Literal["invocation", "stream"]


@dataclass(frozen=True)
class Sending:
    """A job at a peer, as it is stored before it leaves."""

    job_id: str
    peer: str
    way: SendingWay
    """`invocation`: the peer keeps it and is asked for it again; `stream`: on one connection."""
    via: str
    policy: str
    created_s: float
    remote_id: str | None = None
    """What the peer calls it."""
    state: SendingState = "open"


@dataclass
class Journey:
    """Where an accepted job may go, one peer after the other, and what goes with it."""

    routes: list[str]
    """Names of peers' engines, the best first; each is tried once."""
    headers: dict[str, str] = field(default_factory=dict)
    sending: Sending | None = None
    """What is stored of its stay at the peer where it is now."""
    unheard: bool = False
    """It may be there, and what became of it is not known."""


def headers_out(via: str, policy: str, site: str, job_id: str) -> dict[str, str]:
    """What a job takes to a peer. `via`: the sites it came through, and ours.

    The key is the same in every attempt: what a peer has done it does not do, or bill, again.
    """
    return {VIA: via, POLICY: policy, "Idempotency-Key": f"airan-{site}-{job_id}"}


def origin_of(via: Sequence[str], policy: str | None) -> Origin:
    """From the values of the headers Airan-Via (there may be several) and Airan-Data-Policy.

    Raises:
        InvalidInputError: one of them cannot be read.
    """
    sites = tuple(site.strip() for site in ",".join(via).split(",")) if via else ()
    if len(sites) > _MAX_VIA or not all(map(SITE.fullmatch, sites)):
        raise InvalidInputError(
            "Airan-Via", f"must be at most {_MAX_VIA} names of sites with commas between"
        )
    return Origin(sites, None if policy is None else parse_policy(policy, "Airan-Data-Policy"))
