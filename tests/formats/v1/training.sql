/* ---
entity = ["item_id", "country"]
time = "day"
label = "units_next_7d"
label_time = "known_at"
segments = ["price_band", "popularity"]
weight = "volume"
lookback = "28d"
dialect = "postgres"
--- */
select
    item_id,
    country,
    day,
    units_next_7d,
    known_at,
    price_band,
    popularity,
    volume
from shop.sales
where day < :as_of
