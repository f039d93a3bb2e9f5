/* ---
better = "lower"
unit = "units"
description = "Units that were sold beyond the forecast, per item and week"
--- */
-- A metric is two columns, row by row, from the table scored; its value is sum(numerator) / sum(denominator).
select
    greatest(actual - prediction, 0) * weight as numerator,
    weight as denominator
from scored
