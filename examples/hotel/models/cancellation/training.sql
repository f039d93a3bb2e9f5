/* ---
entity = "booking_id"
time = "booked_at"
label = "is_canceled"
label_time = "decided_at"
segments = ["hotel", "market_segment", "lead_band"]
lookback = "730d"
--- */
-- One row for each booking, at the beginning of the day on which it was made (features/bookings.sql says why), and only of days that
-- are over at :as_of. Bookings from July 2015 on: of those made before, the file has only the ones for later arrivals, which are the
-- long leads.
-- A cancellation is known on reservation_status_date, a stay at its check-out. To take each as it comes would teach the model a world
-- in which people cancel: of the bookings of any last quarter, the decided ones are mostly the cancelled ones. So the label counts from
-- the end of the planned stay, when it is known whatever it is (a test holds it); which bookings count by then depends on the plan
-- alone, and the plan is a feature.
with dated as (
    select
        row_number() over () as booking_id,
        hotel,
        market_segment,
        agent,
        is_canceled,
        lead_time,
        stays_in_weekend_nights + stays_in_week_nights as nights,
        cast(strptime(
            arrival_date_year || ' ' || arrival_date_month || ' ' || arrival_date_day_of_month, '%Y %B %d'
        ) as date) as arrival_date
    from hotel.bookings
),

timed as (
    select
        *,
        timezone('Europe/Lisbon', cast(arrival_date - lead_time as timestamp)) as booked_at,
        timezone('Europe/Lisbon', cast(arrival_date - lead_time + 1 as timestamp)) as day_end,
        timezone('Europe/Lisbon', cast(arrival_date + nights + 1 as timestamp)) as decided_at
    from dated
    where
        arrival_date - lead_time >= date '2015-07-01'
        and arrival_date - lead_time >= cast(timezone('Europe/Lisbon', cast(:since as timestamptz)) as date)
)

select
    booking_id,
    hotel,
    market_segment,
    case when lead_time < 14 then 'under 14 days' when lead_time < 90 then '14 to 89 days' else '90 days and more' end as lead_band,
    agent,
    arrival_date,
    booked_at,
    decided_at,
    case when decided_at <= :as_of then is_canceled end as is_canceled
from timed
where booked_at >= :since and day_end <= :as_of
order by booked_at, booking_id
