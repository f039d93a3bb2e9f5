/* ---
entity = "item_id"
event_time = "day_end"
created_time = "landed_at"
ttl = "5d"
owner = "forecasting"
description = "What an item sold lately, day by day"

[features.units_28d]
missing = "refuse"
description = "without it there is nothing to go by: the fallback answers with reason features"
--- */
-- A window is known when the last of its rows has landed, hence the greatest landed_at.
-- Shelves cut sales: days_sold_out_28d tells the model where demand was higher than what was sold.
select
    item_id,
    day_end,
    max(landed_at) over w28 as landed_at,
    cast(units as double) as units_1d,
    cast(sum(units) over w7 as double) as units_7d,
    cast(sum(units) over w28 as double) as units_28d,
    cast(sum(units) over w84 as double) / count(*) over w84 as units_a_day_84d,
    cast(count(*) filter (where sold_out) over w28 as double) as days_sold_out_28d,
    cast(count(*) over w84 as double) as days_seen_84d
from shop.sales
window
    w7 as (partition by item_id order by day range between interval 6 days preceding and current row),
    w28 as (partition by item_id order by day range between interval 27 days preceding and current row),
    w84 as (partition by item_id order by day range between interval 83 days preceding and current row)
