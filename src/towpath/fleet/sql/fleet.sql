-- fleet: one row per model of the store, with who calls it and what it is worth
-- takes   :as_of and :since timestamp UTC (calls are counted in [since, as_of)), :silent_since timestamp UTC (a model that
--         nobody has called since then is silent)
-- reads   predictions, measured; models (what the registry says), incidents (what the catalog says)
-- gives   one row per model, by project and name: state text (waiting, live, silent, retired), calls and rows bigint,
--         fallback_share double, consumers text[], metric_value and fallback_value double on matured outcomes
--
-- A call is a request; its rows are predictions, and an item of a ranking is not a row of its own. The metric is of the
-- answers that the model gave itself; the fallback's is on the same rows, where it was recorded beside the answer.

with answers as (
    select
        model,
        request_id,
        consumer,
        source,
        predicted_at,
        latency_ms
    from predictions
    where coalesce(position, 1) = 1 and predicted_at <= :as_of
),

ever as (
    select
        model,
        min(predicted_at) as first_called_at,
        max(predicted_at) as last_called_at
    from answers
    group by model
),

lately as (
    select
        model,
        count(distinct request_id) as calls,
        count(*) as rows,
        count(*) filter (where source like 'fallback:%') / count(*) as fallback_share,
        list_sort(list(distinct consumer) filter (where consumer is not null)) as consumers,
        quantile_cont(latency_ms, 0.99) as latency_p99_ms
    from answers
    where predicted_at >= :since
    group by model
),

metrics as (
    select
        model,
        sum(numerator) / nullif(sum(denominator), 0) as metric_value,
        count(numerator) as matured_rows,
        sum(numerator) filter (where fallback_denominator is not null)
        / nullif(sum(denominator) filter (where fallback_denominator is not null), 0) as beside_fallback_value,
        sum(fallback_numerator) / nullif(sum(fallback_denominator), 0) as fallback_value,
        max(target_at) as matured_until
    from measured
    where source not like 'fallback:%'
    group by model
),

latest as (
    select *
    from incidents
    qualify row_number() over (partition by model order by opened_at desc, incident_id desc) = 1
),

open_now as (
    select
        model,
        count(*) as open_incidents
    from incidents
    where status = 'open'
    group by model
)

select
    m.project,
    m.team,
    m.model,
    m.owner,
    m.tier,
    case
        when m.retired then 'retired'
        when e.last_called_at is null then 'waiting'
        when e.last_called_at < :silent_since then 'silent'
        else 'live'
    end as state,
    m.champion,
    m.waiting_since,
    m.integrator,
    e.first_called_at,
    e.last_called_at,
    coalesce(l.calls, 0) as calls,
    coalesce(l.rows, 0) as rows,
    l.fallback_share,
    coalesce(l.consumers, cast([] as varchar [])) as consumers,
    l.latency_p99_ms,
    m.metric,
    m.better,
    t.metric_value,
    t.fallback_value,
    t.beside_fallback_value,
    coalesce(t.matured_rows, 0) as matured_rows,
    t.matured_until,
    coalesce(o.open_incidents, 0) as open_incidents,
    i.incident_id as last_incident_id,
    i.monitor as last_incident_monitor,
    i.segment as last_incident_segment,
    i.status as last_incident_status,
    i.opened_at as last_incident_at
from models as m
left join ever as e on m.model = e.model
left join lately as l on m.model = l.model
left join metrics as t on m.model = t.model
left join latest as i on m.model = i.model
left join open_now as o on m.model = o.model
order by m.project, m.model
