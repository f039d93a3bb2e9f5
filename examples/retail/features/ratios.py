"""An item's windows beside its own recent mean, so that items of all sizes share what is learnt.

---
owner = "forecasting"
description = "Ratios to the mean week of the last four: worked out from the windows when they are asked for"

[inputs]
units_7d = "sales_windows.units_7d"
units_28d = "sales_windows.units_28d"
units_56d = "sales_windows.units_56d"
largest_order_28d = "sales_windows.largest_order_28d"
buyers_28d = "sales_windows.buyers_28d"

[outputs]
last_7d_to_mean = "double"
last_56d_to_mean = "double"
largest_order_share = "double"
units_a_buyer = "double"
---
"""


def ratios(units_7d, units_28d, units_56d, largest_order_28d, buyers_28d):
    """Where nothing was sold there is no ratio: 0/0 counts as missing."""
    weekly = units_28d / 4
    return {
        "last_7d_to_mean": units_7d / weekly,
        "last_56d_to_mean": units_56d / 8 / weekly,
        "largest_order_share": largest_order_28d / units_28d,
        "units_a_buyer": units_28d / buyers_28d,
    }
