-- previous: each prediction beside the one before it of the same model and entity
-- takes   nothing
-- reads   predictions
-- gives   one row per prediction (item) that has an entity: its main columns, then previous_prediction_id text,
--         previous_predicted_at timestamp UTC, previous_prediction double, previous_label text, null for the first

select
    prediction_id,
    project,
    model,
    version,
    run_id,
    entity_key,
    item,
    horizon,
    segment,
    consumer,
    source,
    predicted_at,
    target_at,
    prediction,
    label,
    lag(prediction_id) over earlier as previous_prediction_id,
    lag(predicted_at) over earlier as previous_predicted_at,
    lag(prediction) over earlier as previous_prediction,
    lag(label) over earlier as previous_label
from predictions
where entity_key is not null
window earlier as (
    partition by project, model, entity_key, item, horizon
    order by predicted_at, prediction_id
)
