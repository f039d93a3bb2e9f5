-- fleet: one row per model of the store, with who calls it and what it is worth
-- takes   :as_of and :since timestamp UTC (calls are counted in [since, as_of)), :silent_since timestamp UTC (a model that
--         nobody has called since then is silent)
-- reads   predictions, measured, unmeasured (model, error text); models (what the registry says), incidents (what the catalog says)
-- gives   one row per model, by project and name: state text (waiting, live, silent, retired), calls and rows bigint,
--         fallback_share double, consumers text[], metric_value and fallback_value double on matured outcomes, difference
--         double (the model's metric minus the fallback's; nearer 0 counts where the metric should be zero) with its interval
--
-- A call is a request; its rows are predictions, and an item of a ranking is not a row of its own. The metric is of the
-- answers that the model gave itself; the fallback's is on the same rows, where it was recorded beside the answer. The
-- interval is that of a difference of two ratios by the delta method, over entities: answers about one are not independent.

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
        count(*) as outcome_rows,
        sum(numerator) filter (where fallback_denominator is not null)
        / nullif(sum(denominator) filter (where fallback_denominator is not null), 0) as beside_fallback_value,
        sum(fallback_numerator) filter (where numerator is not null)
        / nullif(sum(fallback_denominator) filter (where numerator is not null), 0) as fallback_value,
        max(target_at) as matured_until
    from measured
    where source not like 'fallback:%'
    group by model
),

beside as (
    select
        model,
        coalesce(entity_key, prediction_id) as entity,
        sum(numerator) as numerator,
        sum(denominator) as denominator,
        sum(fallback_numerator) as fallback_numerator,
        sum(fallback_denominator) as fallback_denominator,
        count(*) as rows
    from measured
    where source not like 'fallback:%' and numerator is not null and fallback_denominator is not null
    group by model, entity
),

sums as (
    select
        model,
        sum(numerator) / nullif(sum(denominator), 0) as ours,
        sum(fallback_numerator) / nullif(sum(fallback_denominator), 0) as theirs,
        sum(denominator) as below,
        sum(fallback_denominator) as fallback_below,
        count(*) as entities,
        sum(rows) as rows
    from beside
    group by model
),

signs as (
    select
        s.*,
        case when m.better = 'zero' then sign(s.ours) else 1 end as ours_sign,
        case when m.better = 'zero' then sign(s.theirs) else 1 end as theirs_sign
    from sums as s
    inner join models as m on s.model = m.model
),

differences as (
    select
        s.model,
        any_value(s.rows) as rows,
        any_value(s.ours_sign * s.ours - s.theirs_sign * s.theirs) as difference,
        case
            when any_value(s.entities) > 1
                then
                    1.96
                    * sqrt(
                        sum(
                            power(
                                s.ours_sign * (b.numerator - s.ours * b.denominator) / s.below
                                - s.theirs_sign
                                * (b.fallback_numerator - s.theirs * b.fallback_denominator)
                                / s.fallback_below,
                                2
                            )
                        )
                        * any_value(s.entities)
                        / (any_value(s.entities) - 1)
                    )
        end as half_width
    from beside as b
    inner join signs as s on b.model = s.model
    group by s.model
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
    coalesce(d.rows, 0) as beside_rows,
    d.difference,
    d.difference - d.half_width as difference_low,
    d.difference + d.half_width as difference_high,
    case
        when t.metric_value is not null then ''
        when u.error is not null then u.error
        when t.outcome_rows is null then 'No outcome is known yet of an answer that the model gave and whose time has passed.'
        when t.matured_rows = 0 then 'None of the ' || t.outcome_rows || ' rows with an outcome has what the metric reads.'
        else 'Its denominator is zero over ' || t.matured_rows || ' rows.'
    end as unmeasured,
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
left join unmeasured as u on m.model = u.model
left join differences as d on m.model = d.model
left join latest as i on m.model = i.model
left join open_now as o on m.model = o.model
order by m.project, m.model
