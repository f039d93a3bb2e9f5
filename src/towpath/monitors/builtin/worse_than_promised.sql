/* ---
description = "On what really happened, is the champion worse than the gate promised, anywhere?"
severity = "critical"
every = "1d"
window = "14d"
mend = "compare the version's verdict with its days on the console; train on newer data, or 'tow rollback' if only the newest version is worse"
parameters = { margin = 0.2, min_rows = 200, min_matured_share = 0.8, sigmas = 2.0 }
--- */
-- worse_than_promised: on what really happened, is the champion worse than the gate promised, anywhere?
-- takes   :model text, :since and :until timestamp UTC (half-open, of what was predicted about), :margin by which it may be
--         worse (relative; added where the metric should be zero), :min_rows of a segment that is judged,
--         :min_matured_share of due answers that must have an outcome, :sigmas standard errors by which it must be worse
-- reads   predictions; measured (row-level numerator and denominator of the gate's metric); promised (the verdict's numbers);
--         unmeasured (model, metric, error text: metrics that the journal cannot answer)
-- gives   one row per segment ('' is all) that is worse: segment, metric text, value, promised, limit_value double,
--         rows bigint, matured_share double, version integer; where the metric cannot be read one row with its error
--
-- Why it matters: the gate measured on the past; this is the same metric on what came after.
-- When it cries wolf: when early outcomes differ from late ones (returns, cancelled orders): it therefore waits until
-- min_matured_share of the answers that are due have one. A small segment is noise: it must have min_rows, and be worse by
-- sigmas standard errors counted by entity, because answers about one entity are not independent.
-- How to mend: retrain; if the world has changed for good, the next gate promises what is possible now.

with due as (
    select
        version,
        segment,
        prediction_id
    from predictions
    where
        model = :model
        and coalesce(position, 1) = 1
        and target_at >= :since
        and target_at < least(:until, :as_of)
        and source not like 'fallback:%'
        and version in (select p.version from promised as p where p.model = :model)
),

answers as (
    select
        d.version,
        d.segment,
        coalesce(m.entity_key, d.prediction_id) as entity,
        m.numerator,
        m.denominator,
        m.prediction_id is not null as matured
    from due as d
    left join measured as m on d.prediction_id = m.prediction_id and m.model = :model
),

keyed as (
    select
        *,
        unnest(json_keys(segment)) as key
    from answers
    where segment is not null
),

cut as (
    select
        version,
        '' as segment,
        entity,
        numerator,
        denominator,
        matured
    from answers

    union all

    select
        version,
        key || '=' || coalesce(segment ->> key, 'null') as segment,
        entity,
        numerator,
        denominator,
        matured
    from keyed
),

entities as (
    select
        version,
        segment,
        entity,
        sum(numerator) as numerator,
        sum(denominator) as denominator,
        count(*) as due_rows,
        count(*) filter (where matured) as rows
    from cut
    group by version, segment, entity
),

ratios as (
    select
        *,
        sum(numerator) over whole / nullif(sum(denominator) over whole, 0) as value
    from entities
    window whole as (partition by version, segment)
),

measures as (
    select
        version,
        segment,
        any_value(value) as value,
        sqrt(sum((numerator - value * denominator) * (numerator - value * denominator)))
        / nullif(abs(sum(denominator)), 0) as standard_error,
        cast(sum(rows) as bigint) as rows,
        sum(rows) / sum(due_rows) as matured_share
    from ratios
    group by version, segment
),

judged as (
    select
        m.segment,
        p.metric,
        m.value,
        p.value as promised,
        case p.better
            when 'lower' then p.value + abs(p.value) * :margin
            when 'higher' then p.value - abs(p.value) * :margin
            else abs(p.value) + :margin
        end as limit_value,
        case p.better
            when 'lower' then m.value - p.value
            when 'higher' then p.value - m.value
            else abs(m.value) - abs(p.value)
        end as worse_by,
        case p.better
            when 'zero' then :margin
            else abs(p.value) * :margin
        end as allowed,
        m.standard_error,
        m.rows,
        m.matured_share,
        m.version
    from measures as m
    inner join promised as p on m.version = p.version and m.segment = p.segment and p.model = :model
)

select
    segment,
    metric,
    value,
    promised,
    limit_value,
    rows,
    matured_share,
    version
from judged
where
    rows >= :min_rows
    and matured_share >= :min_matured_share
    and worse_by > allowed
    and worse_by > :sigmas * coalesce(standard_error, 0)

union all

select
    '' as segment,
    metric || ' cannot be read: ' || error as metric,
    null as value,
    null as promised,
    null as limit_value,
    0 as rows,
    null as matured_share,
    null as version
from unmeasured
where model = :model
order by segment
