/* ---
better = "higher"
unit = "1 / position"
description = "Mean reciprocal rank of the true item, 0 where it is not on the ranking"
--- */
select
    coalesce(weight / nullif(list_position(items, label), 0), 0.0) as numerator,
    weight as denominator
from scored
