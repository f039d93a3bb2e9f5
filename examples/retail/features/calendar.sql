/* ---
entity = "shop"
event_time = "day_end"
ttl = "14d"
owner = "forecasting"
description = "When the shop trades: the week ahead as planned, the four weeks behind as they were"
--- */
-- The calendar belongs to the shop and not to an item, so its key is the shop; there is one.
-- Trading days are days with an invoice: none on a Saturday, 305 in the file. The week ahead may not be read from the file,
-- that would be the future; it is what a person knew beforehand: no Saturdays, no bank holidays, closed at Easter and over Christmas.
-- There is no feature for the season: the file holds one year, so a day of the year is only another name for the trend.
with closings as (
    select unnest([
        date '2010-12-24', date '2010-12-26', date '2010-12-27', date '2010-12-28', date '2010-12-29', date '2010-12-30',
        date '2010-12-31', date '2011-01-02', date '2011-01-03', date '2011-04-22', date '2011-04-24', date '2011-04-25',
        date '2011-04-29', date '2011-05-02', date '2011-05-30', date '2011-08-29', date '2011-12-26', date '2011-12-27'
    ]) as day
),

trading as (
    select distinct cast(invoice_date as date) as day
    from retail.lines
),

ahead as (
    select
        t.day,
        count(*) as days_open
    from trading as t
    cross join (select unnest([1, 2, 3, 4, 5, 6, 7]) as days) as n
    left join closings as c on t.day + n.days = c.day
    where c.day is null and dayofweek(t.day + n.days) <> 6
    group by t.day
)

select
    'uk' as shop,
    timezone('Europe/London', cast(t.day + 1 as timestamp)) as day_end,
    cast(coalesce(a.days_open, 0) as double) as days_open_next_7d,
    cast(count(*) over (order by t.day range between interval 27 days preceding and current row) as double) as days_open_28d,
    cast(dayofweek(t.day) as double) as weekday
from trading as t
left join ahead as a on t.day = a.day
