/* ---
better = "lower"
unit = "squared probability"
description = "Mean squared distance of a probability from what happened (0 or 1)"
--- */
select
    (prediction - actual) * (prediction - actual) * weight as numerator,
    weight as denominator
from scored
