/* ---
entity = "item_id"
event_time = "day_start"
ttl = "1d"
owner = "forecasting"
description = "What is planned for the week from this day on: opening days, promotions, the season"
--- */
-- Plans are announced four weeks ahead, so the week from day_start on is known at day_start.
with planned as (
    select
        i.item_id,
        c.day,
        cast(c.opens as integer) as opens,
        coalesce(p.discount_share, 0) as discount_share
    from shop.calendar as c
    cross join shop.items as i
    left join shop.promotions as p
        on i.item_id = p.item_id and c.day >= p.starts_on and c.day < p.ends_on
    where c.day >= i.listed_on
)

select
    item_id,
    timezone('UTC', cast(day as timestamp)) as day_start,
    cast(sum(opens) over next_7 as double) as days_open_next_7d,
    cast(count(*) filter (where discount_share > 0) over next_7 as double) as days_promoted_next_7d,
    max(discount_share) over next_7 as discount_share_next_7d,
    cast(count(*) filter (where discount_share > 0) over last_28 as double) as days_promoted_last_28d,
    sin(2 * pi() * dayofyear(day) / 365.25) as season_sin,
    cos(2 * pi() * dayofyear(day) / 365.25) as season_cos
from planned
window
    next_7 as (partition by item_id order by day range between current row and interval 6 days following),
    last_28 as (partition by item_id order by day range between interval 28 days preceding and interval 1 day preceding)
