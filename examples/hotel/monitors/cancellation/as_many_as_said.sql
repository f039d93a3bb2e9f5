/* ---
model = "cancellation"
description = "Of the bookings whose planned stay has ended, were as many cancelled as we said?"
severity = "warning"
every = "1d"
window = "28d"
parameters = { most_off = 0.35, least_bookings = 300, sigmas = 3.0 }
mend = "look at tow show cancellation, then train on newer bookings: tow train cancellation"
--- */
-- as_many_as_said: in which hotel were the cancellations of the window more or fewer than the sum of their probabilities?
-- takes   :since and :until timestamp UTC (half-open, of the end of the planned stay), :most_off of the true number,
--         :least_bookings below which nothing is said, :sigmas standard errors by which it must be off
-- reads   matured (segment is JSON text; happened_at is the end of the planned stay), which reaches back 120 days
-- gives   a row per hotel that is off: segment text, bookings, cancelled bigint, said double
--
-- Why it matters: rooms are sold twice by the sum, not by the single answer. The built-in worse_than_promised waits until four fifths
-- of a fortnight's bookings are decided, which takes most of a year; a stay that has ended is decided, so this one speaks earlier.
-- When it cries wolf: on a group of dozens of rooms that comes or stays away as one; hence the standard errors, though they count
-- bookings and not groups.

with ended as (
    select
        segment ->> 'hotel' as hotel,
        prediction,
        actual
    from matured
    where
        model = 'cancellation'
        and source not like 'fallback:%'
        and happened_at >= :since
        and happened_at < :until
)

select
    'hotel=' || hotel as segment,
    count(*) as bookings,
    cast(sum(actual) as bigint) as cancelled,
    sum(prediction) as said
from ended
group by hotel
having
    count(*) >= :least_bookings
    and abs(sum(prediction) - sum(actual)) > :most_off * sum(actual)
    and abs(sum(prediction) - sum(actual)) > :sigmas * sqrt(sum(prediction * (1 - prediction)))
order by hotel
