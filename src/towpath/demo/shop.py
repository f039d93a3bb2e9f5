"""A simulated shop: what its customers wanted is known, what it sold is what its shelves allowed.

Each day has a random stream of its own, so that a shop extended day by day holds the same rows as one that was made at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from towpath.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["OPENED", "Shop", "append", "open_shop"]

OPENED = date(2025, 1, 1)
"""The first day of trade; seasons and quarters count from here."""

_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_WEEKDAYS = np.array([0.85, 0.80, 0.90, 1.00, 1.30, 1.45, 0.70])
_CATEGORIES = np.array(["bread", "fruit", "dairy", "drinks"])
_SHELF_LIFE_DAYS = np.array([1, 3, 7, 60])
_SEASON = np.array([0.10, 0.35, 0.15, 0.45])
"""Half the swing of a year, by category; drinks nearly triple from winter to summer."""
_PEAK_DAY = np.array([330, 170, 120, 200])
_BANDS_EUR = (1.5, 4.0)
_PLANNED_DAYS = 28
"""How far ahead the calendar and the promotions are known."""

Columns = dict[str, np.ndarray]
"""One array a column; times are ``datetime64[us]``, UTC."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""A day's stream and the day's place among the days asked for → one value an item."""


@dataclass(frozen=True)
class Shop:
    """Items and one seed; every day follows from them.

    Example:
        >>> shop = open_shop(np.random.default_rng(7), items=3)
        >>> day = shop.days(date(2025, 3, 1), date(2025, 3, 2))
        >>> list(day["sales"]["item_id"])
        ['10001', '10002', '10003']
        >>> again = shop.days(date(2025, 2, 1), date(2025, 4, 1))["sales"]["units"].reshape(-1, 3)[28]
        >>> bool((again == day["sales"]["units"]).all())
        True
    """

    items: Columns
    """One row an item: ``item_id name category price_eur cost_eur price_band shelf_life_days listed_on``."""
    traits: Columns
    """What nobody in the shop sees: mean demand, elasticity, cover of the shelf, spread, shift of the season."""
    seed: int
    """Of the streams of all days."""

    def days(self, since: date, until: date, *, cents_on: frozenset[date] = frozenset()) -> dict[str, Columns]:
        """All tables of the days ``[since, until)``.

        Args:
            since: First day.
            until: First day that is not made.
            cents_on: Days on whose price list cents stand where euros belong; a fault that a monitor should find.

        Returns:
            Table → columns. ``sales prices waste`` have a row per listed item and day, ``calendar`` a row per day,
            ``promotions`` a row per promotion that starts in the days, ``truth`` the demand that `sales` is cut from.

        Raises:
            InputError: The days begin before the shop opened, or end before they begin.
        """
        if since < OPENED or until < since:
            raise InputError(
                f"There are no days from {since} to {until}.", mend=f"days from {OPENED}, the end after the start"
            )
        count = (until - since).days
        day = _days(since, count)
        demand, expected = self._demand(day)
        usual = self._expected(day, promoted=False)
        stocked = np.ceil(usual * self.traits["cover"] + 1).astype(np.int64)
        units = np.minimum(demand, stocked)
        left = stocked - units
        life = self.items["shelf_life_days"]
        wasted = self._per_day(day, 3, lambda rng, d: rng.binomial(left[d], 0.7 / life)) if count else left
        listed = day[:, None] >= self.items["listed_on"][None, :]
        at = {"item_id": np.broadcast_to(self.items["item_id"], listed.shape)[listed]}
        on = np.broadcast_to(day[:, None], listed.shape)[listed]
        midnight = on.astype("datetime64[us]")
        day_end = midnight + np.timedelta64(_DAY_US, "us")
        landed = day_end + self._landing(day)[listed]
        discount = self._discount(day)
        list_price = self._list_price(day)
        factor = np.where(np.isin(day, np.array(sorted(cents_on), dtype="datetime64[D]")), 100.0, 1.0)[:, None]
        return {
            "sales": at
            | {
                "day": on,
                "day_end": day_end,
                "units": units[listed],
                "units_stocked": stocked[listed],
                "sold_out": (demand >= stocked)[listed],
                "landed_at": landed,
            },
            "prices": at
            | {
                "valid_from": midnight,
                "price_eur": np.round(list_price * (1 - discount) * factor, 2)[listed],
                "list_price_eur": np.round(list_price * factor, 2)[listed],
                "landed_at": midnight - np.timedelta64(6 * _HOUR_US, "us"),
            },
            "waste": at
            | {
                "day": on,
                "units_wasted": wasted[listed],
                "cost_eur": np.round(wasted * self.items["cost_eur"], 2)[listed],
                "landed_at": landed,
            },
            "calendar": self._calendar(since, until),
            "promotions": self._promotions(since, until),
            "truth": at | {"day": on, "expected_units": expected[listed], "wanted_units": demand[listed]},
        }

    def plans(self, since: date, until: date) -> dict[str, Columns]:
        """The tables that are known ahead, ``calendar`` and ``promotions``, for the days ``[since, until)``."""
        return {"calendar": self._calendar(since, until), "promotions": self._promotions(since, until)}

    def _expected(self, day: np.ndarray, *, promoted: bool = True) -> np.ndarray:
        """Mean demand, shape ``(days, items)``; without promotions it is what the shelves are filled for."""
        number = (day - np.datetime64(OPENED)).astype(np.int64)
        weekday = _WEEKDAYS[(day.astype("datetime64[D]").astype(np.int64) + 3) % 7]
        kind = self.traits["kind"]
        phase = 2 * np.pi * (number[:, None] - (_PEAK_DAY[kind] + self.traits["shift_days"])[None, :]) / 365.25
        season = 1 + _SEASON[kind] * np.cos(phase)
        price = (self._list_price(day) / self.items["price_eur"]) ** -self.traits["elasticity"]
        lift = (1 - self._discount(day)) ** -(self.traits["elasticity"] + 1.2) if promoted else 1.0
        return self.traits["mean_units"] * weekday[:, None] * season * price * lift * self._open(day)[:, None]

    def _demand(self, day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was wanted (counts, wider than Poisson) and its mean, both ``(days, items)``."""
        expected = self._expected(day)
        spread = self.traits["spread"]
        wanted = self._per_day(day, 1, lambda rng, d: rng.poisson(expected[d] * rng.gamma(spread, 1 / spread)))
        return wanted, expected

    def _landing(self, day: np.ndarray) -> np.ndarray:
        """How long after the day's end a row lands: two to four hours, one row in 300 a day later."""
        hours = self._per_day(
            day, 2, lambda rng, _: rng.uniform(2, 4, self._size) + 24 * (rng.random(self._size) < 1 / 300)
        )
        return (hours * _HOUR_US).astype("timedelta64[us]")

    def _list_price(self, day: np.ndarray) -> np.ndarray:
        """Before discounts; changes by a few percent each quarter of 91 days."""
        quarter = (day - np.datetime64(OPENED)).astype(np.int64) // 91
        found = {
            q: np.random.default_rng([self.seed, 4, int(q)]).normal(1, 0.05, self._size) for q in np.unique(quarter)
        }
        return self.items["price_eur"] * np.array([found[q] for q in quarter]).reshape(len(day), self._size)

    def _discount(self, day: np.ndarray) -> np.ndarray:
        """Share off the list price; a promotion runs from Monday to Sunday and takes one item in eight."""
        week = (day.astype("datetime64[D]").astype(np.int64) + 3) // 7
        found = {w: self._week(int(w)) for w in np.unique(week)}
        return np.array([found[w] for w in week]).reshape(len(day), self._size)

    def _week(self, week: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 5, week])
        return np.where(rng.random(self._size) < 1 / 8, rng.choice([0.15, 0.25, 0.35], self._size), 0.0)

    def _open(self, day: np.ndarray) -> np.ndarray:
        """0 on New Year's Day, Christmas Day and Boxing Day."""
        text = np.datetime_as_string(day, unit="D")
        return np.array([0.0 if d[5:] in {"01-01", "12-25", "12-26"} else 1.0 for d in text])

    def _calendar(self, since: date, until: date) -> Columns:
        day = _days(since, (until - since).days)
        return {"day": day, "opens": self._open(day) > 0}

    def _promotions(self, since: date, until: date) -> Columns:
        """Announced four weeks ahead; the first day of each is a Monday."""
        day = _days(since, (until - since).days)
        mondays = day[(day.astype(np.int64) + 3) % 7 == 0]
        discount = self._discount(mondays)
        row, item = np.nonzero(discount)
        starts = mondays[row]
        return {
            "item_id": self.items["item_id"][item],
            "starts_on": starts,
            "ends_on": starts + np.timedelta64(7, "D"),
            "discount_share": discount[row, item],
            "announced_at": starts.astype("datetime64[us]") - np.timedelta64(_PLANNED_DAYS * _DAY_US, "us"),
        }

    def _per_day(self, day: np.ndarray, stream: int, draw: Draw) -> np.ndarray:
        """One draw a day from the day's own stream, shape ``(days, items)``."""
        numbers = day.astype("datetime64[D]").astype(np.int64)
        drawn = [draw(np.random.default_rng([self.seed, stream, int(n)]), i) for i, n in enumerate(numbers)]
        return np.array(drawn).reshape(len(day), self._size)

    @property
    def _size(self) -> int:
        return len(self.items["item_id"])


def open_shop(
    rng: np.random.Generator, *, items: int = 120, new_items: int = 3, new_on: date = date(2026, 4, 16)
) -> Shop:
    """Make the items of a shop.

    Args:
        rng: Decides everything, all later days included.
        items: How many there are from the first day.
        new_items: How many are listed later.
        new_on: The day on which those are listed; a caller asks for them before any sale is known.

    Example:
        >>> len(open_shop(np.random.default_rng(7)).items["item_id"])
        123
    """
    count = items + new_items
    kind = rng.integers(0, len(_CATEGORIES), count)
    price = np.round(np.exp(rng.normal(0.9, 0.7, count)), 2).clip(0.3, 25)
    listed = np.full(count, np.datetime64(OPENED), dtype="datetime64[D]")
    listed[items:] = np.datetime64(new_on)
    return Shop(
        items={
            "item_id": np.array([str(10_001 + i) for i in range(count)], dtype=object),
            "name": np.array([f"{_CATEGORIES[k]} no. {i + 1}" for i, k in enumerate(kind)], dtype=object),
            "category": _CATEGORIES[kind].astype(object),
            "price_eur": price,
            "cost_eur": np.round(price * 0.6, 2),
            "price_band": np.array(["low", "middle", "high"], dtype=object)[np.digitize(price, _BANDS_EUR)],
            "shelf_life_days": _SHELF_LIFE_DAYS[kind],
            "listed_on": listed,
        },
        traits={
            "kind": kind,
            "mean_units": np.exp(rng.normal(1.9, 0.9, count)).clip(0.4, 80),
            "elasticity": rng.uniform(0.6, 2.0, count),
            "cover": rng.uniform(1.25, 1.9, count),
            "spread": rng.uniform(4, 20, count),
            "shift_days": rng.normal(0, 15, count),
        },
        seed=int(rng.integers(2**31)),
    )


def _days(since: date, count: int) -> np.ndarray:
    """Dates one after the other, shape ``(count,)``; the unit is named, because NumPy will not guess it for ever."""
    return np.datetime64(since, "D") + np.arange(count).astype("timedelta64[D]")


def append(folder: Path, shop: Shop, since: date, until: date, *, cents_on: frozenset[date] = frozenset()) -> int:
    """Write the days ``[since, until)`` to ``<folder>/<table>.parquet``; days that are there already are replaced.

    Args:
        folder: Usually ``warehouse/shop``; made if it is missing. A reader sees the old file or the new one, never half.
        shop: Whose days.
        since: First day.
        until: First day that is not written. Calendar and promotions reach four weeks further: they are plans.
        cents_on: Days whose price list is wrong, see `Shop.days`.

    Returns:
        Rows of ``sales`` that were written.
    """
    tables = shop.days(since, until, cents_on=cents_on)
    ahead = shop.plans(since, until + timedelta(days=_PLANNED_DAYS))
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "items.parquet", shop.items)
    for name, by in (("sales", "day"), ("waste", "day"), ("prices", "valid_from")):
        _extend(folder / f"{name}.parquet", tables[name], by, since, until)
    _extend(folder / "calendar.parquet", ahead["calendar"], "day", since, None)
    _extend(folder / "promotions.parquet", ahead["promotions"], "starts_on", since, None)
    return len(tables["sales"]["day"])


def _extend(path: Path, columns: Mapping[str, np.ndarray], by: str, since: date, until: date | None) -> None:
    """Keep the rows whose `by` lies outside ``[since, until)`` and put the new ones where they were."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    new = _arrow(columns)
    if path.exists():
        old = pq.read_table(path)
        kind = old.schema.field(by).type
        parts = [old.filter(pc.field(by) < _edge(since, kind)), new]
        if until is not None:
            parts.append(old.filter(pc.field(by) >= _edge(until, kind)))
        new = pa.concat_tables(parts)
    _write(path, new)


def _edge(day: date, kind: "pa.DataType") -> "pa.Scalar":
    import pyarrow as pa

    return pa.scalar(datetime(day.year, day.month, day.day, tzinfo=UTC) if pa.types.is_timestamp(kind) else day, kind)


def _replace(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    _write(path, _arrow(columns))


def _write(path: Path, table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    half = path.with_name(f".{path.name}.half")
    pq.write_table(table, half)
    half.replace(path)


def _arrow(columns: Mapping[str, np.ndarray]) -> "pa.Table":
    """Days as dates, times as UTC microseconds."""
    import pyarrow as pa

    def array(values: np.ndarray) -> "pa.Array":
        if values.dtype == np.dtype("datetime64[us]"):
            return pa.array(values).cast(pa.timestamp("us", tz="UTC"))
        return pa.array(values)

    return pa.table({name: array(values) for name, values in columns.items()})
