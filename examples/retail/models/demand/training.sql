/* ---
entity = ["shop", "item_id"]
time = "day_end"
label = "units_next_7d"
label_time = "known_at"
segments = ["price_band", "popularity_band"]
lookback = "14d"
--- */
-- One row for each trading day and each item sold in the 28 days up to it, zero sales included. Nothing after :as_of is read,
-- so that a replay on the whole file equals one on a file that ends at :as_of; labels that reach beyond it are null. Of rows that
-- are asked for from :since on, lines of more than 28 days before are not read: the daily run takes a tenth of the time.
-- The label is what the item sells in the 7 days after day_end; closed days sell nothing, which is true.
-- 7 days are 168 hours, also in the weeks of a clock change: no line is later than 20:38, so an hour at midnight moves none.
-- What counts as a sale (the same three steps stand in sales_windows, shop_trend and training; a test holds them equal):
-- goods:   lines with a price and a product code; exact duplicates once; 85123a is 85123A. Lines without a customer stay and count
--          as one customer.
-- ordered: a cancellation (C…, quantity below 0) undoes what the same customer ordered of the same item on the same day,
--          down to 0. Later ones are returns: the goods had to be on the shelf first, so they are no lower demand.
-- daily:   what is left, by item and day.
with lines as (
    select *
    from retail.lines
    where
        invoice_date >= cast(cast(timezone('Europe/London', cast(:since as timestamptz)) as date) - 28 as timestamp)
        and invoice_date < timezone('Europe/London', cast(:as_of as timestamptz))
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

ended as (
    select
        day,
        timezone('Europe/London', cast(day + 1 as timestamp)) as day_end
    from trading
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
        t.day - date '2010-01-01' as nth,
        t.day_end,
        l.first_day,
        coalesce(d.units, 0) as units,
        coalesce(d.largest_order, 0) as largest_order,
        coalesce(d.buyers, 0) as buyers,
        case when d.units > 0 then t.day end as sold_on
    from listed as l
    inner join ended as t on l.first_day <= t.day and t.day_end <= :as_of
    left join daily as d on l.item_id = d.item_id and t.day = d.day
),

paid as (
    select
        item_id,
        day,
        sum(quantity * unit_price) as gbp,
        sum(quantity) as units
    from goods
    where quantity > 0
    group by item_id, day
),

windows as (
    select
        d.item_id,
        d.day,
        d.day_end,
        sum(d.units) over last_28 as units_28d,
        coalesce(sum(d.units) over next_7, 0) as units_next_7d,
        round(sum(p.gbp) over last_28 / sum(p.units) over last_28, 4) as price_gbp
    from dense as d
    left join paid as p on d.item_id = p.item_id and d.sold_on = p.day
    window
        last_28 as (partition by d.item_id order by d.nth range between 27 preceding and current row),
        next_7 as (partition by d.item_id order by d.nth range between 1 following and 7 following)
)

select
    'uk' as shop,
    item_id,
    day_end,
    day_end + interval 7 days as known_at,
    case when price_gbp < 1 then 'under 1' when price_gbp < 3 then '1 to 3' else '3 and more' end as price_band,
    case when units_28d >= 200 then 'high' when units_28d >= 40 then 'middle' else 'low' end as popularity_band,
    case when day_end + interval 7 days <= :as_of then units_next_7d end as units_next_7d
from windows
where units_28d > 0 and day_end >= :since
order by day_end, item_id
