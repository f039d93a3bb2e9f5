/* ---
entity = "item_id"
time = "morning"             # the moment of prediction
label = "units_next_7d"
label_time = "known_at"      # when the label became known; training as of T uses rows with known_at <= T
segments = ["price_band"]    # the gate and the monitors look along these
--- */
-- The spine: which items, at which moments, and what really happened then. Features are joined to it as of `morning`.
-- The newest rows have no label yet; these are what the model predicts.
with days as (
    select
        item_id,
        cast(day as timestamp) + interval 30 hours as morning,
        price_eur,
        cast(sum(units) over next_7 as double) as units_next_7d,
        count(*) over next_7 as days_seen,
        max(landed_at) over next_7 as known_at
    from shop.sales
    window
        next_7 as (partition by item_id order by day range between interval 1 day following and interval 7 days following)
)

select
    item_id,
    morning,
    case when price_eur < 2 then 'low' when price_eur < 5 then 'middle' else 'high' end as price_band,
    case when days_seen = 7 and known_at <= :as_of then units_next_7d end as units_next_7d,
    case when days_seen = 7 then known_at end as known_at
from days
where morning <= :as_of
