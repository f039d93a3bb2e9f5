-- scored: what a metric reads, from the journal instead of the gate's holdout
-- takes   :project, :model and :kind text (of the output), :positive text (the last of its classes) or null,
--         :since timestamp UTC (of what was predicted about) or null
-- reads   matured, predictions
-- gives   one row per matured prediction, in one order: prediction, actual double, label, predicted_label text, items text[]
--         (of a ranking all of them, in order), weight double, and what the row is about; of the fallback beside it
--         fallback_prediction double, fallback_label text, fallback_items text[]
--
-- A ranking is one row for each label that came true: the label of an outcome, or an item whose value is above 0 (a click).
-- Where its outcomes say only what was not taken it is one row without a label: nothing on it was right.

with happened as (
    select
        *,
        case
            when position is null or actual_label is not null then actual_label
            when coalesce(actual, 1) > 0 then item
        end as true_label
    from matured
    where
        project = :project
        and model = :model
        and metric = 'outcome'
        and (cast(:since as timestamptz) is null or target_at >= :since)
),

-- untaken items say nothing where another item of the page was taken, and one of them is enough where none was
counted as (
    select
        *,
        max(true_label) over (partition by prediction_id) as any_label,
        row_number() over (partition by prediction_id, true_label order by position) as place
    from happened
),

pages as (
    select
        prediction_id,
        list(item order by position) as items,
        any_value(fallback_items) as fallback_items -- stands on the first item
    from predictions
    where
        project = :project
        and model = :model
        and position is not null
        and prediction_id in (select h.prediction_id from happened as h)
    group by prediction_id
)

select
    c.project,
    c.model,
    c.version,
    c.prediction_id,
    case when c.item = c.true_label then c.item end as item,
    c.entity_key,
    c.segment,
    c.source,
    c.arm,
    c.predicted_at,
    c.target_at,
    c.arrived_at,
    c.prediction,
    c.fallback_prediction,
    case
        when c.position is not null then p.fallback_items[1]
        when :kind = 'class' and c.fallback_label is null
            then regexp_replace(cast(c.fallback_prediction as varchar), '\.0$', '')
        else c.fallback_label
    end as fallback_label,
    p.fallback_items,
    case
        when :kind != 'probability' or c.actual is not null then c.actual
        when :positive is not null then cast(c.true_label = :positive as double)
        else coalesce(try_cast(c.true_label as double), cast(try_cast(c.true_label as boolean) as double))
    end as actual,
    case
        when :kind = 'class' and c.true_label is null then regexp_replace(cast(c.actual as varchar), '\.0$', '')
        else c.true_label
    end as label,
    case
        when c.position is not null then p.items[1]
        when :kind = 'class' and c.label is null then regexp_replace(cast(c.prediction as varchar), '\.0$', '')
        else c.label
    end as predicted_label,
    p.items,
    coalesce(c.weight, 1.0) as weight
from counted as c
left join pages as p on c.prediction_id = p.prediction_id
where c.position is null or (c.place = 1 and (c.true_label is not null or c.any_label is null))
order by c.predicted_at, c.prediction_id, c.position, c.true_label
