/* ---
entity = "item_id"
time = "morning"
label = "units_next_7d"
label_time = "known_at"
segments = ["price_band", "popularity"]
--- */
-- One row for each item on each morning at six, when the rows of the day before have landed.
-- The label is what the item sells in the 7 days that begin that morning; until all of them have landed it is null,
-- so that the newest rows are what the batch path predicts.
-- Sales are what the shelves allowed: of a sold-out item the label is lower than the demand.
with days as (
    select
        s.item_id,
        s.day_end + interval 6 hours as morning,
        i.price_band,
        sum(s.units) over last_28 as units_28d,
        cast(sum(s.units) over next_7 as double) as units_next_7d,
        max(s.landed_at) over next_7 as all_landed_at
    from shop.sales as s
    inner join shop.items as i on s.item_id = i.item_id
    where s.day_end + interval 6 hours <= :as_of
    window
        last_28 as (partition by s.item_id order by s.day range between interval 27 days preceding and current row),
        next_7 as (partition by s.item_id order by s.day range between interval 1 day following and interval 7 days following)
),

timed as (
    select
        *,
        greatest(morning + interval 7 days, all_landed_at) as known_at
    from days
)

select
    item_id,
    morning,
    known_at,
    price_band,
    case when units_28d >= 400 then 'high' when units_28d >= 120 then 'middle' else 'low' end as popularity,
    case when known_at <= :as_of then units_next_7d end as units_next_7d
from timed
