/* ---
model = "demand"
description = "Do we forecast too little, so that shelves stay empty?"
severity = "warning"
every = "1d"
window = "7d"
parameters = { most_share = 0.35, least_answers = 200 }
mend = "tow show demand, then retrain: tow train demand"
--- */
-- too_low: of which source did the matured forecasts of the window miss more than the agreed share of the volume?
-- takes   :since and :until timestamp UTC (half-open), :most_share of the volume, :least_answers below which nothing is said
-- reads   matured
-- gives   a row per source that is too low

select
    source,
    count(*) as answers,
    sum(prediction - actual) / sum(actual) as bias
from matured
where model = 'demand' and target_at >= :since and target_at < :until
group by source
having count(*) >= :least_answers and sum(prediction - actual) < -:most_share * sum(actual)
