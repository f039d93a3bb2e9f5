/* ---
better = "higher"
unit = "share"
description = "Share of rankings that the true item is on"
--- */
select
    case when list_contains(items, label) then weight else 0.0 end as numerator,
    weight as denominator
from scored
