"""Reads scenarios: YAML files whose every mistake is named with file, line and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import yaml

from airan.core.errors import ConfigError, NotFoundError
from sims.economics import tier_prices
from sims.economics.fields import BY_KEY, FIELDS, SECTIONS, Field, Quantity

_TOP = (
    "title",
    "about",
    "extends",
    "rounding",
    "cell_type",
    "cases",
    "published",
    "watt_claims",
    *SECTIONS,
)
CELL_TYPES = ("4T4R", "64T64R")
_QUANTITY_KEYS = ("value", "unit", "source", "note", "low", "high")
_WATT_KEYS = ("against", "reduction", "source")
_CLAIM_KEYS = ("ai_share", "revenue_per_capex", "roi", "source")


@dataclass(frozen=True)
class Claim:
    """What somebody published about one split; None where they said nothing."""

    ai_share: float
    revenue_per_capex: float | None
    roi: float | None
    source: str


@dataclass(frozen=True)
class WattClaim:
    """What somebody published about watt per Gb/s, RAN only, against another scenario's."""

    against: str
    reduction: float
    source: str


@dataclass(frozen=True)
class Scenario:
    """One network on one platform, with the splits to look at."""

    name: str
    title: str
    about: str
    rounding: str
    """`exact`: part servers are bought, as in a mean over districts; `whole`: whole ones."""
    cell_type: str
    """Of `CELL_TYPES`: what `network.cell_gbps` and `platform.cells_per_server` are of."""
    cases: tuple[float, ...]
    """AI shares of the servers' capacity."""
    published: tuple[Claim, ...]
    watt_claims: tuple[WattClaim, ...]
    quantities: Mapping[str, Quantity]

    def values(self) -> dict[str, float]:
        """Values by key."""
        return {key: quantity.value for key, quantity in self.quantities.items()}

    def of_kind(self, *kinds: str) -> list[Quantity]:
        """The quantities of those kinds that the file gives."""
        return [q for q in self.quantities.values() if q.kind in kinds and q.where]

    def with_value(self, key: str, value: float, source: str, note: str = "") -> Scenario:
        """The scenario with one value replaced; its range is dropped.

        Raises:
            ConfigError: the key is unknown, or the value out of bounds.
        """
        if key not in self.quantities:
            raise ConfigError(f"{key}: there is no such input", remedy=_known(BY_KEY))
        problem = BY_KEY[key].problem(value)
        if problem is not None:
            raise ConfigError(f"{key}: {problem}")
        where = self.quantities[key].where or "given"
        changed = Quantity(BY_KEY[key], value, source, note, where=where)
        return replace(self, quantities={**self.quantities, key: changed})


@dataclass(frozen=True)
class _At:
    """A place in a file, for messages."""

    file: str
    line: int
    field: str

    def error(self, problem: str, remedy: str | None = None) -> ConfigError:
        field = f"{self.field}: " if self.field else ""
        return ConfigError(f"{self.file}:{self.line}: {field}{problem}", remedy=remedy)


def shipped() -> list[str]:
    """Names of the scenarios that come with airan."""
    folder = resources.files("sims.economics") / "scenarios"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if ".yaml" in p.name)


def load(name_or_path: str) -> Scenario:
    """Reads a shipped scenario by name, or a file.

    Raises:
        NotFoundError: there is neither.
        ConfigError: the file is wrong; the message names file, line and field.
    """
    return _load(name_or_path, ())


def _load(name_or_path: str, seen: tuple[str, ...]) -> Scenario:
    file, text = _text(name_or_path)
    if file in seen:
        raise ConfigError(f"{file}: extends itself, by way of {', '.join(seen)}")
    return parse(text, file, (*seen, file))


def _text(name_or_path: str) -> tuple[str, str]:
    if name_or_path in shipped():
        found = resources.files("sims.economics") / "scenarios" / f"{name_or_path}.yaml"
        return f"{name_or_path}.yaml", found.read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise NotFoundError(
            f"there is no scenario {name_or_path!r}",
            remedy=f"name a file, or one of: {', '.join(shipped())}",
        )
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def parse(text: str, file: str, seen: tuple[str, ...] = ()) -> Scenario:
    """Reads a scenario from text; `file` is what messages call it.

    Raises:
        ConfigError: the text is wrong; the message names file, line and field.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{file}:{line}: is not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}:1: is not YAML: {error}") from error
    if root is None:
        raise ConfigError(f"{file}:1: is empty", remedy=f"give {', '.join(SECTIONS)}")
    top = dict(_entries(root, _At(file, 1, ""), _TOP))
    base = None
    if "extends" in top:
        at, node = top["extends"]
        try:
            base = _load(_string(node, at), seen)
        except NotFoundError as error:
            raise at.error(error.message, error.remedy) from error
    name = Path(file).name.removesuffix(".yaml")
    return _scenario(name, top, base, _At(file, root.start_mark.line + 1, ""))


def _scenario(
    name: str, top: Mapping[str, tuple[_At, yaml.Node]], base: Scenario | None, at: _At
) -> Scenario:
    quantities: dict[str, Quantity] = {} if base is None else dict(base.quantities)
    given = _given(top)
    tier_prices.replaced(quantities, given)
    quantities.update(given)
    tier_prices.as_default(quantities)
    for field in FIELDS:
        if field.key not in quantities:
            if field.default is None:
                line = top[field.section][0].line if field.section in top else at.line
                raise replace(at, line=line, field=field.key).error(
                    "is missing", f"give value, unit ({field.unit}) and source"
                )
            quantities[field.key] = Quantity(field, field.default, "assumed", "not given")
    _check_price(quantities, top["ai"][0] if "ai" in top else at)
    rounding = "exact" if base is None else base.rounding
    if "rounding" in top:
        rounding = _string(top["rounding"][1], top["rounding"][0])
        if rounding not in ("exact", "whole"):
            raise top["rounding"][0].error(f"must be exact or whole, got {rounding!r}")
    cell_type = "" if base is None else base.cell_type
    if "cell_type" in top:
        cell_type = _string(top["cell_type"][1], top["cell_type"][0])
        if cell_type not in CELL_TYPES:
            raise top["cell_type"][0].error(f"must be 4T4R or 64T64R, got {cell_type!r}")
    if not cell_type:
        raise replace(at, field="cell_type").error("is missing", "give 4T4R or 64T64R")
    words = {
        key: _string(top[key][1], top[key][0]) if key in top else "" for key in ("title", "about")
    }
    cases = _cases(*top["cases"]) if "cases" in top else () if base is None else base.cases
    if not cases:
        raise replace(at, field="cases").error("is missing", "give a list of AI shares")
    # What was published about one platform is not claimed of the next.
    claims = _claims(*top["published"]) if "published" in top else ()
    watts = _watt_claims(*top["watt_claims"]) if "watt_claims" in top else ()
    ordered = {field.key: quantities[field.key] for field in FIELDS}
    title = words["title"] or name
    return Scenario(name, title, words["about"], rounding, cell_type, cases, claims, watts, ordered)


def _given(top: Mapping[str, tuple[_At, yaml.Node]]) -> dict[str, Quantity]:
    given = {}
    for section in SECTIONS:
        if section not in top:
            continue
        at, node = top[section]
        names = tuple(field.name for field in FIELDS if field.section == section)
        for name, (where, child) in _entries(node, at, names):
            given[f"{section}.{name}"] = _quantity(BY_KEY[f"{section}.{name}"], child, where)
    return given


def _check_price(quantities: Mapping[str, Quantity], at: _At) -> None:
    found = tier_prices.problem(quantities)
    if found is not None:
        field, problem, remedy = found
        raise replace(at, field=field).error(problem, remedy)


def _quantity(field: Field, node: yaml.Node, at: _At) -> Quantity:
    if not isinstance(node, yaml.MappingNode):
        raise at.error(
            "needs value, unit and source", f"{{value: ..., unit: {field.unit}, source: ...}}"
        )
    parts = dict(_entries(node, at, _QUANTITY_KEYS))
    for key in ("value", "unit", "source"):
        if key not in parts:
            raise at.error(f"has no {key}", f"give value, unit ({field.unit}) and source")
    unit = _string(parts["unit"][1], parts["unit"][0])
    if unit != field.unit:
        raise replace(parts["unit"][0], field=at.field).error(
            f"is in {field.unit}, not in {unit}", f"convert the value, and write unit: {field.unit}"
        )
    value = _checked(field, parts, "value", at)
    low = _checked(field, parts, "low", at) if "low" in parts else None
    high = _checked(field, parts, "high", at) if "high" in parts else None
    if (low is not None and low > value) or (high is not None and high < value):
        raise at.error(f"value {value:g} must lie between low and high")
    source = _string(parts["source"][1], parts["source"][0]).strip()
    if not source:
        raise at.error("has an empty source", "name it, or write assumed or calibrated")
    note = _string(parts["note"][1], parts["note"][0]) if "note" in parts else ""
    return Quantity(field, value, source, note, low, high, f"{at.file}:{at.line}")


def _checked(field: Field, parts: Mapping[str, tuple[_At, yaml.Node]], key: str, at: _At) -> float:
    where, node = parts[key]
    value = _number(node, replace(where, field=at.field))
    problem = field.problem(value)
    if problem is not None:
        raise replace(where, field=at.field).error(problem)
    return value


def _cases(at: _At, node: yaml.Node) -> tuple[float, ...]:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise at.error("must be a list of AI shares, such as [0.33, 0.67]")
    return tuple(
        _ai_share(child, _At(at.file, child.start_mark.line + 1, f"cases[{index}]"))
        for index, child in enumerate(node.value)
    )


def _ai_share(node: yaml.Node, at: _At) -> float:
    share = _number(node, at)
    if not 0 <= share < 1:
        raise at.error(
            f"is a share and must be at least 0 and under 1, got {share:g}",
            "write a third as 0.333; the cells need some of the servers",
        )
    return share


def _claims(at: _At, node: yaml.Node) -> tuple[Claim, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise at.error("must be a list of published results")
    claims = []
    for index, child in enumerate(node.value):
        where = _At(at.file, child.start_mark.line + 1, f"published[{index}]")
        parts = dict(_entries(child, where, _CLAIM_KEYS))
        for key in ("ai_share", "source"):
            if key not in parts:
                raise where.error(f"has no {key}")
        numbers = {
            key: _number(parts[key][1], parts[key][0]) if key in parts else None
            for key in ("revenue_per_capex", "roi")
        }
        share = _ai_share(parts["ai_share"][1], parts["ai_share"][0])
        source = _string(parts["source"][1], parts["source"][0])
        claims.append(Claim(share, numbers["revenue_per_capex"], numbers["roi"], source))
    return tuple(claims)


def _watt_claims(at: _At, node: yaml.Node) -> tuple[WattClaim, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise at.error("must be a list of published reductions")
    claims = []
    for index, child in enumerate(node.value):
        where = _At(at.file, child.start_mark.line + 1, f"watt_claims[{index}]")
        parts = dict(_entries(child, where, _WATT_KEYS))
        for key in _WATT_KEYS:
            if key not in parts:
                raise where.error(f"has no {key}")
        against = _string(parts["against"][1], parts["against"][0])
        if against not in shipped():
            raise parts["against"][0].error(f"there is no scenario {against!r}")
        reduction = _ai_share(parts["reduction"][1], parts["reduction"][0])
        claims.append(
            WattClaim(against, reduction, _string(parts["source"][1], parts["source"][0]))
        )
    return tuple(claims)


def _entries(
    node: yaml.Node, at: _At, known: tuple[str, ...]
) -> Iterator[tuple[str, tuple[_At, yaml.Node]]]:
    if not isinstance(node, yaml.MappingNode):
        raise at.error(f"must have keys ({', '.join(known)})")
    seen = set()
    for key_node, value_node in node.value:
        key = str(key_node.value)
        where = _At(at.file, key_node.start_mark.line + 1, f"{at.field}.{key}".lstrip("."))
        if key not in known:
            raise where.error("is not known", _known(known))
        if key in seen:
            raise where.error("is given twice")
        seen.add(key)
        yield key, (where, value_node)


def _number(node: yaml.Node, at: _At) -> float:
    tags = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    if isinstance(node, yaml.ScalarNode) and node.tag in tags:
        try:
            return float(node.value.replace("_", ""))
        except ValueError:
            pass
    found = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
    raise at.error(f"must be a number, got {found!r}", "write it with digits, as 12000 or 0.15")


def _string(node: yaml.Node, at: _At) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise at.error("must be text")
    return str(node.value)


def _known(names: object) -> str:
    return f"known are: {', '.join(names)}" if isinstance(names, tuple | dict) else str(names)
