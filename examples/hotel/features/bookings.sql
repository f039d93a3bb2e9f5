/* ---
entity = "booking_id"
event_time = "booked_at"
owner = "revenue"
description = "What a booking says of itself on the day that it is made; what is only known later is left out"

[features.lead_days]
missing = "refuse"
description = "without the booking itself there is nothing to go by: the fallback answers with reason features"
--- */
-- The file has no number and no time of a booking: its place in the file is its number, the arrival less the lead time its day, and the
-- beginning of that day in Lisbon the moment, because what happens within the day may come before or after the booking.
-- Left out, because the file has it as of the arrival or the cancellation and not as of the booking (README.md has the numbers):
-- country (Portugal until the check-in says otherwise), deposit_type (from the payments up to then), booking_changes,
-- assigned_room_type, required_car_parking_spaces, total_of_special_requests, days_in_waiting_list. And the two that are the label:
-- reservation_status and reservation_status_date.
with numbered as (
    select
        row_number() over () as booking_id,
        *,
        cast(strptime(
            arrival_date_year || ' ' || arrival_date_month || ' ' || arrival_date_day_of_month, '%Y %B %d'
        ) as date) as arrival_date
    from hotel.bookings
)

select
    booking_id,
    timezone('Europe/Lisbon', cast(arrival_date - lead_time as timestamp)) as booked_at,
    cast(lead_time as double) as lead_days,
    cast(stays_in_weekend_nights as double) as weekend_nights,
    cast(stays_in_week_nights as double) as week_nights,
    cast(adults as double) as adults,
    cast(coalesce(children, 0) + babies as double) as children,
    case when adr between 0 and 1000 then adr end as price_eur,
    cast(month(arrival_date) as double) as arrival_month,
    cast(dayofweek(arrival_date) as double) as arrival_weekday,
    cast(previous_cancellations as double) as previous_cancellations,
    cast(previous_bookings_not_canceled as double) as previous_stays,
    cast(is_repeated_guest as double) as repeated_guest,
    cast(company is not null as double) as by_company,
    meal,
    market_segment,
    distribution_channel,
    customer_type,
    reserved_room_type
from numbered
