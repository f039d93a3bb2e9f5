/* ---
better = "lower"
unit = "squared units of the label"
description = "Mean squared error; its root is shown in the units of the label"
--- */
select
    (prediction - actual) * (prediction - actual) * weight as numerator,
    weight as denominator
from scored
