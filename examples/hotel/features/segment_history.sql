/* ---
entity = ["hotel", "market_segment"]
event_time = "day_end"
created_time = "known_at"
ttl = "60d"
owner = "revenue"
description = "Of the bookings whose planned stay ended lately, the share that was cancelled"
--- */
-- Counted by the day on which the stay was to end, and not by the day on which something became known: a cancellation is known weeks
-- before the stay of a booking that was made beside it, so of last month's bookings those that are decided are mostly cancelled ones.
-- By the end of the planned stay all of them are: known_at, the last status that the row rests on, is never later than day_end.
with dated as (
    select
        hotel,
        market_segment,
        is_canceled,
        reservation_status_date as status_day,
        cast(strptime(
            arrival_date_year || ' ' || arrival_date_month || ' ' || arrival_date_day_of_month, '%Y %B %d'
        ) as date) + stays_in_weekend_nights + stays_in_week_nights as day
    from hotel.bookings
),

daily as (
    select
        hotel,
        market_segment,
        day,
        day - date '2010-01-01' as nth,
        count(*) as bookings,
        sum(is_canceled) as cancelled,
        max(status_day) as status_day
    from dated
    group by hotel, market_segment, day
)

select
    hotel,
    market_segment,
    timezone('Europe/Lisbon', cast(day + 1 as timestamp)) as day_end,
    timezone('Europe/Lisbon', cast(max(status_day) over last_365 + 1 as timestamp)) as known_at,
    sum(cancelled) over last_91 / sum(bookings) over last_91 as cancelled_share_91d,
    sum(cancelled) over last_365 / sum(bookings) over last_365 as cancelled_share_365d,
    cast(sum(bookings) over last_91 as double) as bookings_91d
from daily
window
    last_91 as (partition by hotel, market_segment order by nth range between 90 preceding and current row),
    last_365 as (partition by hotel, market_segment order by nth range between 364 preceding and current row)
