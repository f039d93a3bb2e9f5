/* ---
better = "zero"
unit = "share"
description = "By how much of the true volume the forecast is too high (above 0) or too low"
--- */
select
    (prediction - actual) * weight as numerator,
    abs(actual) * weight as denominator
from scored
