/* ---
entity = "item_id"
event_time = "valid_from"
created_time = "landed_at"
ttl = "3d"
owner = "pricing"
description = "The price list of the day and how it differs from the last four weeks"
--- */
select
    item_id,
    valid_from,
    landed_at,
    price_eur,
    price_eur / nullif(avg(price_eur) over w28, 0) as price_to_mean_28d,
    avg(1 - price_eur / nullif(list_price_eur, 0)) over w28 as discount_share_28d
from shop.prices
window
    w28 as (partition by item_id order by valid_from range between interval 28 days preceding and interval 1 day preceding)
