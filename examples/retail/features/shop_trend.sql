/* ---
entity = "shop"
event_time = "day_end"
ttl = "14d"
owner = "forecasting"
description = "Whether the whole shop sells more than it did: what an item's own noise hides"
--- */
-- Steps as in sales_windows.sql, which says why.
with lines as (
    select *
    from retail.lines
),

goods as (
    select distinct
        upper(stock_code) as item_id,
        cast(invoice_date as date) as day,
        coalesce(customer_id, 0) as customer_id,
        invoice_no,
        invoice_date,
        description,
        country,
        quantity,
        unit_price
    from lines
    where unit_price > 0 and regexp_matches(stock_code, '^[0-9]{5}[A-Za-z]*$')
),

ordered as (
    select
        item_id,
        day,
        customer_id,
        greatest(sum(quantity), 0) as units
    from goods
    group by item_id, day, customer_id
),

daily as (
    select
        item_id,
        day,
        cast(sum(units) as double) as units,
        cast(max(units) as double) as largest_order,
        count(*) filter (where units > 0) as buyers
    from ordered
    group by item_id, day
    having sum(units) > 0
),

trading as (
    select distinct cast(invoice_date as date) as day
    from lines
),

shop as (
    select
        t.day,
        coalesce(sum(d.units), 0) as units
    from trading as t
    left join daily as d on t.day = d.day
    group by t.day
)

select
    'uk' as shop,
    timezone('Europe/London', cast(day + 1 as timestamp)) as day_end,
    cast(sum(units) over w7 as double) * 4 / nullif(sum(units) over w28, 0) as last_7d_to_28d,
    cast(sum(units) over w28 as double) * 2 / nullif(sum(units) over w56, 0) as last_28d_to_56d
from shop
window
    w7 as (order by day range between interval 6 days preceding and current row),
    w28 as (order by day range between interval 27 days preceding and current row),
    w56 as (order by day range between interval 55 days preceding and current row)
