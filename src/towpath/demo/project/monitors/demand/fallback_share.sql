/* ---
model = "demand"
description = "Does the model answer itself, or do its fallbacks?"
severity = "warning"
every = "1d"
window = "1d"
parameters = { most_share = 0.2 }
mend = "tow sql \"select reason, count(*) from predictions group by reason\", then the reason's page in the guides"
--- */
-- fallback_share: which callers got more fallbacks than agreed in the window?
-- takes   :since and :until timestamp UTC (half-open), :most_share a share of answers
-- reads   predictions
-- gives   a row per caller over the limit

select
    consumer,
    count(*) as answers,
    avg(cast(source like 'fallback:%' as integer)) as fallback_share
from predictions
where model = 'demand' and predicted_at >= :since and predicted_at < :until
group by consumer
having avg(cast(source like 'fallback:%' as integer)) > :most_share
