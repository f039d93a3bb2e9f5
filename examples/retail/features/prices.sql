/* ---
entity = "item_id"
event_time = "day_end"
ttl = "29d"
owner = "forecasting"
description = "What was paid for an item on the last day that it sold, and how that differs from before"
--- */
-- Prices are means over the units of a day, because the shop sells the same item at list price and in bulk.
-- Lines at a price of 0 or below are samples, damages and bad debt: they are no price. Cancellations repeat one.
-- invoice_date is UK local time; see sales_windows.sql for why a day ends at midnight in London.
-- A price that is changed during the day is pushed by the till, POST /features/prices: the next answer knows it, and as a row of
-- landing.prices the next training does.
with daily as (
    select
        upper(stock_code) as item_id,
        cast(invoice_date as date) as day,
        sum(quantity * unit_price) / sum(quantity) as price_gbp,
        max(unit_price) as highest_price
    from retail.lines
    where unit_price > 0 and quantity > 0 and regexp_matches(stock_code, '^[0-9]{5}[A-Za-z]*$')
    group by upper(stock_code), cast(invoice_date as date)
)

select
    item_id,
    timezone('Europe/London', cast(day + 1 as timestamp)) as day_end,
    price_gbp,
    price_gbp / avg(price_gbp) over w84 as price_to_mean_84d,
    price_gbp / highest_price as bulk_ratio
from daily
window w84 as (partition by item_id order by day range between interval 83 days preceding and current row)

union all

select
    item_id,
    day_end,
    price_gbp,
    price_to_mean_84d,
    bulk_ratio
from landing.prices
