/* ---
entity = ["hotel", "arrival_date"]
event_time = "day_end"
owner = "revenue"
description = "How full a hotel is on an arrival day, as it stood at the end of each day on which that changed"
--- */
-- A booking stands in the books from the end of the day on which it was made, and leaves them at the end of the day on which it was
-- cancelled. Bookings made for an arrival before July 2015 are not in the file, so the books begin thin.
-- nth: windows over whole numbers take two thirds of the time of those over dates.
with dated as (
    select
        hotel,
        cast(strptime(
            arrival_date_year || ' ' || arrival_date_month || ' ' || arrival_date_day_of_month, '%Y %B %d'
        ) as date) as arrival_date,
        lead_time,
        is_canceled,
        reservation_status_date
    from hotel.bookings
),

changes as (
    select
        hotel,
        arrival_date,
        arrival_date - lead_time as day,
        1 as booked,
        0 as cancelled
    from dated

    union all

    select
        hotel,
        arrival_date,
        reservation_status_date as day,
        0 as booked,
        1 as cancelled
    from dated
    where is_canceled = 1
),

daily as (
    select
        hotel,
        arrival_date,
        day,
        day - date '2010-01-01' as nth,
        sum(booked) as booked,
        sum(cancelled) as cancelled
    from changes
    group by hotel, arrival_date, day
)

select
    hotel,
    arrival_date,
    timezone('Europe/Lisbon', cast(day + 1 as timestamp)) as day_end,
    cast(sum(booked) over so_far - sum(cancelled) over so_far as double) as rooms,
    sum(cancelled) over so_far / sum(booked) over so_far as cancelled_share,
    cast(sum(booked) over last_28 as double) as booked_28d,
    cast(sum(cancelled) over last_28 as double) as cancelled_28d
from daily
window
    so_far as (partition by hotel, arrival_date order by nth),
    last_28 as (partition by hotel, arrival_date order by nth range between 27 preceding and current row)
