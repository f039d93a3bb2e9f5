/* ---
entity = "item_id"
event_time = "day_end"       # when the value became true
created_time = "landed_at"   # when the row landed; training as of T sees only what had landed by T
ttl = "3d"                   # an older value does not answer
description = "What an item sold lately"
--- */
-- A feature view is one SELECT: a row per item and day, its keys, its times, and the features.
-- Time comes only as :as_of, :since and :until; now() is refused, so that history can be replayed.
select
    item_id,
    cast(day as timestamp) + interval 1 day as day_end,
    landed_at,
    cast(sum(units) over last_7 as double) as units_7d,
    cast(avg(units) over last_28 as double) * 7 as units_a_week_28d,
    price_eur
from shop.sales
window
    last_7 as (partition by item_id order by day range between interval 6 days preceding and current row),
    last_28 as (partition by item_id order by day range between interval 27 days preceding and current row)
