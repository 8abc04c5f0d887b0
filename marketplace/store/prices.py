"""Price lists: per model and tier, with the time from which they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.billing.quotes import TIERS
from marketplace.billing.spot import FULL_PERMILLE
from marketplace.money import Price
from marketplace.store.connect import reading, writing
from marketplace.store.schema import prices

_MAX_PRICE = 10**12


@dataclass(frozen=True)
class PriceSpec:
    """A price to be set, per 1,000 tokens."""

    model: str
    tier: str
    price: Price
    valid_from_s: float
    spot_floor_permille: int = FULL_PERMILLE
    """What a wholly free site asks, of `price`; 1000: it does not move."""

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise InvalidInputError("tier", f"must be one of {', '.join(TIERS)}")
        for name in ("input_micro_usd_per_1k", "output_micro_usd_per_1k"):
            if not 0 <= getattr(self.price, name) <= _MAX_PRICE:
                raise InvalidInputError(name, f"must be between 0 and {_MAX_PRICE}")
        if not 0 <= self.spot_floor_permille <= FULL_PERMILLE:
            raise InvalidInputError("spot_floor_permille", "must be between 0 and 1000")
        if self.spot_floor_permille != FULL_PERMILLE and self.tier != "flex":
            raise InvalidInputError("spot_floor_permille", "only the price of flex moves")


class Prices:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def set(self, spec: PriceSpec, now_s: float) -> dict[str, Any]:
        """Lets a price hold from a time on; the one before it ends there.

        Raises:
            InvalidInputError: that time is past, and jobs were billed by what held then.
        """
        if spec.valid_from_s < now_s:
            raise InvalidInputError("valid_from_s", "must not be in the past")
        row = {
            "model": spec.model,
            "tier": spec.tier,
            "input_micro_usd_per_1k": spec.price.input_micro_usd_per_1k,
            "output_micro_usd_per_1k": spec.price.output_micro_usd_per_1k,
            "spot_floor_permille": spec.spot_floor_permille,
            "valid_from_s": spec.valid_from_s,
        }
        same = (prices.c.model == spec.model, prices.c.tier == spec.tier)
        later = sa.select(sa.func.min(prices.c.valid_from_s))
        later = later.where(*same, prices.c.valid_from_s > spec.valid_from_s)
        holding = sa.or_(
            prices.c.valid_until_s.is_(None), prices.c.valid_until_s > spec.valid_from_s
        )
        end = sa.update(prices).where(*same, prices.c.valid_from_s <= spec.valid_from_s, holding)
        with writing(self._engine) as db:
            row["valid_until_s"] = db.execute(later).scalar()
            db.execute(end.values(valid_until_s=spec.valid_from_s))
            row["id"] = db.execute(
                sa.insert(prices).values(row).returning(prices.c.id)
            ).scalar_one()
        return row

    def list(self, model: str | None = None) -> list[dict[str, Any]]:
        """All prices that ever were set, and will hold, by model, tier and time."""
        query = sa.select(prices).order_by(
            prices.c.model, prices.c.tier, prices.c.valid_from_s, prices.c.id
        )
        if model is not None:
            query = query.where(prices.c.model == model)
        with reading(self._engine) as db:
            return [dict(row) for row in db.execute(query).mappings()]

    def withdraw(self, price_id: int, now_s: float) -> None:
        """Ends a price now, or lets one that was yet to hold never hold.

        Raises:
            NotFoundError: there is no such price, or it holds no longer.
        """
        open_ended = sa.or_(prices.c.valid_until_s.is_(None), prices.c.valid_until_s > now_s)
        end = sa.case((prices.c.valid_from_s > now_s, prices.c.valid_from_s), else_=now_s)
        change = sa.update(prices).where(prices.c.id == price_id, open_ended)
        with writing(self._engine) as db:
            if not db.execute(change.values(valid_until_s=end)).rowcount:
                raise NotFoundError(f"price {price_id} does not exist or holds no longer")
