-- consumers: how each caller was answered, for what was promised to it
-- takes   :since and :as_of timestamp UTC (predictions in [since, as_of])
-- reads   predictions
-- gives   one row per consumer and model, and one per consumer with model null: requests and rows bigint, p99_ms double,
--         available_share double, last_called_at timestamp UTC
--
-- A request is timed once however many rows it has. Available is a row that a model answered in time; a row of the holdout
-- was meant for the fallback and does not count, one that was killed does: whoever called got no model.

with answers as (
    select
        consumer,
        model,
        split_part(prediction_id, '-', 1) as request,
        latency_ms,
        predicted_at,
        source in ('champion', 'challenger') as by_model,
        reason <> 'holdout' as counts
    from predictions
    where
        coalesce(position, 1) = 1
        and predicted_at >= :since
        and predicted_at <= :as_of
        and run_id is null
        and consumer is not null
),

requests as (
    select
        consumer,
        model,
        max(latency_ms) as latency_ms
    from answers
    group by consumer, model, request
),

timed as (
    select
        consumer,
        model,
        count(*) as requests,
        quantile_cont(latency_ms, 0.99) as p99_ms
    from requests
    group by grouping sets ((consumer, model), (consumer))
),

counted as (
    select
        consumer,
        model,
        count(*) as rows,
        count(*) filter (where by_model and counts) / nullif(count(*) filter (where counts), 0) as available_share,
        max(predicted_at) as last_called_at
    from answers
    group by grouping sets ((consumer, model), (consumer))
)

select
    t.consumer,
    t.model,
    t.requests,
    c.rows,
    t.p99_ms,
    c.available_share,
    c.last_called_at
from timed as t
inner join counted as c on t.consumer = c.consumer and t.model is not distinct from c.model
order by t.consumer, t.model nulls first
