/* ---
model = "demand"
description = "Do we forecast too little of what sells most?"
severity = "warning"
every = "1d"
window = "7d"
parameters = { most_share = 0.45, least_answers = 500 }
mend = "tow show demand, then retrain: tow train demand"
--- */
-- too_low: in which popularity band did the matured forecasts of the window miss more than the agreed share of the volume?
-- takes   :since and :until timestamp UTC (half-open), :most_share of the volume, :least_answers below which nothing is said
-- reads   matured (segment is JSON text)
-- gives   a row per band that is too low; the low band is left out, its volume is a fifteenth and every forecast of it is low

with banded as (
    select
        segment ->> 'popularity_band' as popularity_band,
        prediction,
        actual
    from matured
    where model = 'demand' and target_at >= :since and target_at < :until
)

select
    popularity_band,
    count(*) as answers,
    sum(prediction - actual) / sum(actual) as bias
from banded
where popularity_band <> 'low'
group by popularity_band
having count(*) >= :least_answers and sum(prediction - actual) < -:most_share * sum(actual)
