/* ---
better = "lower"
unit = "share"
description = "Share of the true volume that the forecast missed"
--- */
select
    abs(prediction - actual) * weight as numerator,
    abs(actual) * weight as denominator
from scored
