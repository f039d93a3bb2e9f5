/* ---
description = "Are the answers far from the ones before for the same entities?"
severity = "warning"
every = "1d"
window = "1d"
mend = "compare the features of a far row with tow try; roll back if a promotion came before it"
parameters = { far = 1.0, floor = 1.0, share = 0.2, min_rows = 100 }
--- */
-- far_from_previous: are the answers far from the ones before for the same entities?
-- takes   :model text, :since and :until timestamp UTC (half-open, of the newer prediction), :far relative change of one
--         answer that counts as far (1 is a third or threefold and beyond: the change over the mean of both), :floor below which
--         the mean of both is taken as this, :share of answers that may be far, :min_rows fewest that are judged
-- reads   previous
-- gives   one row per segment ('' is all) in which too many are far: segment text, rows, far_rows bigint, far_share double,
--         mean and previous_mean double
--
-- Why it matters: a broken join or a feature in a new unit changes answers on the first day; outcomes would show it weeks later.
-- When it cries wolf: on the first day of a season, a price change of a whole band, or a promotion of a version that was
-- meant to differ. How to mend: look at what the far rows share; if the model is right, raise far or share in a copy of it.

with compared as (
    select
        segment,
        prediction,
        previous_prediction,
        case
            when prediction is null then cast(label is distinct from previous_label as double) * (:far + 1)
            else
                abs(prediction - previous_prediction)
                / greatest((abs(prediction) + abs(previous_prediction)) / 2, :floor)
        end as change
    from previous
    where
        model = :model
        and predicted_at >= :since
        and predicted_at < :until
        and previous_prediction_id is not null
),

keyed as (
    select
        *,
        unnest(json_keys(segment)) as key
    from compared
    where segment is not null
),

cut as (
    select
        '' as segment,
        prediction,
        previous_prediction,
        change
    from compared

    union all

    select
        key || '=' || coalesce(segment ->> key, 'null') as segment,
        prediction,
        previous_prediction,
        change
    from keyed
)

select
    segment,
    count(*) as rows,
    count(*) filter (where change >= :far) as far_rows,
    count(*) filter (where change >= :far) / count(*) as far_share,
    avg(prediction) as mean,
    avg(previous_prediction) as previous_mean
from cut
group by segment
having
    count(*) >= :min_rows
    and count(*) filter (where change >= :far) > :share * count(*)
order by far_share desc, segment
