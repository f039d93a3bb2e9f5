/* ---
entity = "agent"
event_time = "arrival_end"
created_time = "known_at"
owner = "revenue"
description = "Of an agent's bookings that were to arrive within a year up to a day, the share that was cancelled"
--- */
-- Counted by the day of arrival, so that the row is about the guests who came or did not come by then; but the file tells a stay from
-- a cancellation on the day of the check-out only. So the row lands when the last guest of it has left, and before that the one before
-- stands: without known_at a training row would be told who of the guests in the house will not have come. On a table that grows day by
-- day a row with anybody undecided in it is none yet.
-- Bookings without an agent have no row and the features are null, which the model reads as what it is: booked with the hotel itself.
with dated as (
    select
        agent,
        is_canceled,
        lead_time,
        reservation_status_date as status_day,
        cast(strptime(
            arrival_date_year || ' ' || arrival_date_month || ' ' || arrival_date_day_of_month, '%Y %B %d'
        ) as date) as day
    from hotel.bookings
    where agent is not null
),

daily as (
    select
        agent,
        day,
        day - date '2010-01-01' as nth,
        count(*) as bookings,
        sum(is_canceled) as cancelled,
        sum(lead_time) as lead_days,
        max(status_day) as status_day,
        count(*) filter (where status_day is null) as undecided
    from dated
    group by agent, day
)

select
    agent,
    timezone('Europe/Lisbon', cast(day + 1 as timestamp)) as arrival_end,
    timezone('Europe/Lisbon', cast(greatest(max(status_day) over last_365, day) + 1 as timestamp)) as known_at,
    cast(sum(bookings) over last_365 as double) as bookings_365d,
    sum(cancelled) over last_365 / sum(bookings) over last_365 as cancelled_share_365d,
    sum(lead_days) over last_365 / sum(bookings) over last_365 as lead_days_365d
from daily
window last_365 as (partition by agent order by nth range between 364 preceding and current row)
qualify sum(undecided) over last_365 = 0
