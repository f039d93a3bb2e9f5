/* ---
model = "demand"
description = "Is the price list in euros? A price tenfold the item's usual one is a fault upstream"
severity = "critical"
every = "1d"
window = "1d"
inputs = { price_list = "select item_id, valid_from, price_eur from shop.prices" }
parameters = { most_ratio = 10 }
owner = "pricing"
mend = "ask pricing to send the day's list again; until then: tow kill demand --because 'prices in cents'"
--- */
-- price_list: which prices of the window are far above or below the item's median before it?
-- takes   :since and :until timestamp UTC (half-open), :most_ratio a factor
-- reads   price_list (item_id, valid_from timestamp UTC, price_eur)
-- gives   a row per item and price

with usual as (
    select
        item_id,
        median(price_eur) as usual_price_eur
    from price_list
    where valid_from < :since
    group by item_id
)

select
    p.item_id,
    p.valid_from,
    p.price_eur,
    u.usual_price_eur
from price_list as p
inner join usual as u on p.item_id = u.item_id
where
    p.valid_from >= :since
    and p.valid_from < :until
    and (p.price_eur > u.usual_price_eur * :most_ratio or p.price_eur * :most_ratio < u.usual_price_eur)
