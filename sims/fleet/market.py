"""The market's part of a scenario: promises, prices, regions and clouds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from airan.core.errors import InvalidInputError
from marketplace.federation.policy import WORD, DataPolicy, parse_policy
from sims.fleet.numbers import Count, NotNegative, Positive, Share

TierName = Literal["priority", "default", "flex"]


class Part(BaseModel):
    """A part of a scenario: no other fields than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenPrice(Part):
    """USD for 1,000 tokens. Assumed."""

    input_usd_per_1k: NotNegative
    output_usd_per_1k: NotNegative
    spot_floor: Share = 1.0
    """Of flex alone: what a wholly free site asks, of the price; 1: it does not move."""


class TtftTargetSpec(Part):
    """Seconds to the first token that each tier promises, as in `market.ttft_target_s`."""

    priority: Positive = 5.0
    default: Positive = 30.0
    flex: Positive = 1800.0


class _Host(Part):
    name: str
    promises: tuple[str, ...] = ()
    price: TokenPrice
    """What it charges those whose requests it does."""

    @field_validator("name", "promises")
    @classmethod
    def _is_a_word(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for word in (value,) if isinstance(value, str) else value:
            if not WORD.fullmatch(word):
                raise ValueError(f"{word!r} is none: use at most 32 small letters, digits, hyphens")
        return value


class Region(_Host):
    """So many sites, in the sites' order, of one region."""

    sites: Count
    policies: dict[TierName, str] = Field(default_factory=dict)
    """Where the prompts of each tier's tenants may go, as `airan tenant policy` takes it; without
    one: nowhere."""

    @field_validator("policies")
    @classmethod
    def _are_policies(cls, value: dict[TierName, str]) -> dict[TierName, str]:
        for text in value.values():
            try:
                parse_policy(text)
            except InvalidInputError as error:
                raise ValueError(error.message) from error
        return value

    def policy(self, tier: TierName) -> DataPolicy:
        """The live policy of that tier's tenants."""
        return parse_policy(self.policies.get(tier, "stay"))


class Cloud(_Host):
    """Somebody outside, with any number of engines."""

    region: str
    latency_s: NotNegative = 0.05
    first_token_s: NotNegative = 0.5
    """Beside the latency."""
    tokens_per_s: Positive = 50.0
    """Of one answer."""
    max_concurrent: Count = 4
    """Requests of one site there at once."""


class FederationSpec(Part):
    """Sites as each other's peers, and clouds. All assumed."""

    regions: tuple[Region, ...] = Field(min_length=1)
    clouds: tuple[Cloud, ...] = ()
    latency_within_s: NotNegative = 0.01
    latency_between_s: NotNegative = 0.05
    """Of regions."""
    max_concurrent: Count = 4
    """Requests of one site at another at once."""
    n_ctx: Count = 8192

    @model_validator(mode="after")
    def _names_differ(self) -> FederationSpec:
        names = [one.name for one in (*self.regions, *self.clouds)]
        if len(set(names)) != len(names):
            raise ValueError(f"regions and clouds need names of their own: {names}")
        return self

    def check_sites(self, n_sites: int) -> None:
        """Every site is of one region.

        Raises:
            ValueError: the regions have more or fewer sites together.
        """
        n = sum(region.sites for region in self.regions)
        if n != n_sites:
            raise ValueError(f"federation.regions have {n} sites, the scenario has {n_sites}")

    def region_of(self, site: int) -> Region:
        """That site's."""
        for region in self.regions:
            if site < region.sites:
                return region
            site -= region.sites
        raise IndexError(site)

    def leaving(self, site: int) -> list[TierName]:
        """Tiers whose tenants at that site let prompts go anywhere."""
        region = self.region_of(site)
        return [tier for tier in region.policies if region.policy(tier).regions]
