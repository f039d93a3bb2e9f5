"""What follows from the terms of a booking alone, worked out when it is asked for.

---
owner = "revenue"
description = "Length, weekend, price for each guest, and how early: sums over one booking, so there is nothing to keep of them"

[inputs]
lead_days = "bookings.lead_days"
weekend_nights = "bookings.weekend_nights"
week_nights = "bookings.week_nights"
adults = "bookings.adults"
children = "bookings.children"
price_eur = "bookings.price_eur"

[outputs]
nights = "double"
weekend_share = "double"
price_per_guest_eur = "double"
stay_eur = "double"
lead_band = "string"
---
"""

import numpy as np

BANDS = np.array(["day", "week", "month", "quarter", "half year", "longer"], dtype=object)


def terms(lead_days, weekend_nights, week_nights, adults, children, price_eur):
    """Day guests have no nights and 180 bookings nobody at all: shares of nothing are missing, and not 0."""
    nights, guests = weekend_nights + week_nights, adults + children
    bands = BANDS[np.searchsorted([1, 8, 31, 92, 183], np.nan_to_num(lead_days), side="right")]
    return {
        "nights": nights,
        "weekend_share": np.where(nights > 0, weekend_nights / np.maximum(nights, 1), np.nan),
        "price_per_guest_eur": np.where(guests > 0, price_eur / np.maximum(guests, 1), np.nan),
        "stay_eur": price_eur * nights,
        "lead_band": np.where(np.isnan(lead_days), None, bands),
    }
