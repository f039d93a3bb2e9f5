-- scored: what a metric reads, from the journal instead of the gate's holdout
-- takes   :project and :model text, :since timestamp UTC (of what was predicted about) or null
-- reads   matured
-- gives   one row per matured prediction (item), in one order: prediction, actual double, label, predicted_label text, weight
--         double, and what the row is about

select
    project,
    model,
    version,
    prediction_id,
    item,
    entity_key,
    segment,
    source,
    arm,
    predicted_at,
    target_at,
    arrived_at,
    prediction,
    fallback_prediction,
    actual,
    actual_label as label,
    label as predicted_label,
    coalesce(weight, 1.0) as weight
from matured
where
    project = :project
    and model = :model
    and metric = 'outcome'
    and (cast(:since as timestamptz) is null or target_at >= :since)
order by predicted_at, prediction_id, position
