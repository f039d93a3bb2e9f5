/* ---
better = "lower"
unit = "units of the label"
description = "Mean absolute error"
--- */
select
    abs(prediction - actual) * weight as numerator,
    weight as denominator
from scored
