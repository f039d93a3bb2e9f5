/* ---
better = "zero"
unit = "share"
description = "Over- or under-ordering."
--- */
select
    weight * (prediction - actual) as numerator,
    weight * abs(actual) as denominator
from scored
