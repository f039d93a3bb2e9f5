/* ---
better = "higher"
unit = "share"
description = "Share of rows whose label was the true one"
--- */
select
    case when predicted_label = label then weight else 0.0 end as numerator,
    weight as denominator
from scored
