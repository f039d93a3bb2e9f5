/* ---
entity = "item_id"
event_time = "day_end"
ttl = "14d"
owner = "forecasting"
description = "What an item sold lately: a row for each trading day on which it sold within 28 days"

[features.units_28d]
missing = "refuse"
description = "without it there is nothing to go by: the fallback answers with reason features"
--- */
-- What counts as a sale (the same three steps stand in sales_windows, shop_trend and training; a test holds them equal):
-- goods:   lines with a price and a product code; exact duplicates once; 85123a is 85123A. Lines without a customer stay and count
--          as one customer.
-- ordered: a cancellation (C…, quantity below 0) undoes what the same customer ordered of the same item on the same day,
--          down to 0. Later ones are returns: the goods had to be on the shelf first, so they are no lower demand.
-- daily:   what is left, by item and day.
-- invoice_date is UK local time without a zone, and so is the day. Its end, midnight in London, is 23:00 UTC of the same day
-- in summer and 00:00 UTC in winter; taken for UTC, every summer day would end an hour after midnight there.
-- The ttl outlasts the Christmas closing (2010-12-24 to 2011-01-03).
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

listed as (
    select
        item_id,
        min(day) as first_day
    from daily
    group by item_id
),

dense as (
    select
        l.item_id,
        t.day,
        t.day - date '2010-01-01' as nth, -- windows over whole numbers take two thirds of the time of those over dates
        l.first_day,
        coalesce(d.units, 0) as units,
        coalesce(d.largest_order, 0) as largest_order,
        coalesce(d.buyers, 0) as buyers,
        case when d.units > 0 then t.day end as sold_on
    from listed as l
    inner join trading as t on l.first_day <= t.day
    left join daily as d on l.item_id = d.item_id and t.day = d.day
)

select
    item_id,
    timezone('Europe/London', cast(day + 1 as timestamp)) as day_end,
    cast(sum(units) over w7 as double) as units_7d,
    cast(sum(units) over w28 as double) as units_28d,
    cast(sum(units) over w56 as double) as units_56d,
    max(largest_order) over w28 as largest_order_28d,
    cast(sum(buyers) over w28 as double) as buyers_28d,
    cast(count(sold_on) over w28 as double) as days_sold_28d,
    cast(day - max(sold_on) over w28 as double) as days_since_sale,
    cast(day - first_day as double) as days_listed
from dense
window
    w7 as (partition by item_id order by nth range between 6 preceding and current row),
    w28 as (partition by item_id order by nth range between 27 preceding and current row),
    w56 as (partition by item_id order by nth range between 55 preceding and current row)
qualify sum(units) over w28 > 0
