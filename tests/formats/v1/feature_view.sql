/* ---
entity = ["item_id", "country"]
event_time = "day_end"
created_time = "loaded_at"
ttl = "30d"
dialect = "postgres"
publish = true
start = "2025-01-01"
schedule = "30 * * * *"
lookback = "2h"
landing_keep = "90d"
online = true
owner = "mira"
description = "What an item costs."

[features.price]
default = 1.5
missing = "default"
description = "EUR, with tax"
--- */
select
    item_id,
    country,
    day_end,
    loaded_at,
    price
from shop.prices
