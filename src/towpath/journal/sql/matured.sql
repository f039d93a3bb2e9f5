-- matured: each prediction whose time has passed, beside what really happened
-- takes   :as_of timestamp UTC
-- reads   predictions, outcomes
-- gives   one row per prediction (item) and metric: the prediction's columns, then metric text, actual double,
--         actual_label text, weight double, happened_at and arrived_at timestamp UTC, outcome_id text
--
-- An outcome names its prediction, or else entity and target time; where it names a horizon or an item they must be equal
-- too, and one without an item belongs to the first item of a ranking. Of several the one that arrived last wins, so that
-- a correction replaces.

with pairs as (
    select
        p.prediction_id,
        p.item,
        p.target_at,
        o.metric,
        (o.arrived_at, o.outcome_id) as arrival,
        struct_pack(
            actual := o.value, actual_label := o.label, weight := o.weight, happened_at := o.happened_at,
            arrived_at := o.arrived_at, outcome_id := o.outcome_id
        ) as outcome
    from predictions as p
    inner join outcomes as o
        on p.prediction_id = o.prediction_id and p.project = o.project and p.model = o.model
    where
        p.target_at <= :as_of
        and (o.item = p.item or (o.item is null and coalesce(p.position, 1) = 1))

    union all

    select
        p.prediction_id,
        p.item,
        p.target_at,
        o.metric,
        (o.arrived_at, o.outcome_id) as arrival,
        struct_pack(
            actual := o.value, actual_label := o.label, weight := o.weight, happened_at := o.happened_at,
            arrived_at := o.arrived_at, outcome_id := o.outcome_id
        ) as outcome
    from predictions as p
    inner join outcomes as o
        on p.project = o.project and p.model = o.model and p.entity_key = o.entity_key and p.target_at = o.target_at
    where
        p.target_at <= :as_of
        and o.prediction_id is null
        and (o.horizon is null or o.horizon = p.horizon)
        and (o.item = p.item or (o.item is null and coalesce(p.position, 1) = 1))
),

newest as (
    select
        prediction_id,
        item,
        target_at,
        metric,
        arg_max(outcome, arrival) as outcome
    from pairs
    group by prediction_id, item, target_at, metric
)

select
    p.*,
    n.metric,
    n.outcome.actual as actual,
    n.outcome.actual_label as actual_label,
    n.outcome.weight as weight,
    n.outcome.happened_at as happened_at,
    n.outcome.arrived_at as arrived_at,
    n.outcome.outcome_id as outcome_id
from predictions as p
inner join newest as n
    on p.prediction_id = n.prediction_id and p.target_at = n.target_at and p.item is not distinct from n.item
