/* ---
better = "lower"
unit = "EUR"
description = "Purchase price of what was forecast and not sold, per item and week"
--- */
-- The price band stands for the purchase price, because a matured prediction carries its segments and no price list.
select
    greatest(prediction - actual, 0)
    * case price_band when 'low' then 0.55 when 'middle' then 1.50 else 4.00 end as numerator,
    weight as denominator
from scored
