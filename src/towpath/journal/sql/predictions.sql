-- predictions: what was predicted in the window and known at :as_of
-- takes   :as_of, :since and :until timestamp UTC (half-open, on predicted_at; null for no limit), :models text[] or null
-- reads   journal.predictions; runs (counts boolean), so that a run that failed or was repeated has no rows
-- gives   one row per prediction, of a ranking one per item: the columns of a prediction

select p.*
from journal.predictions as p
where
    p.predicted_at <= :as_of
    and (cast(:since as timestamptz) is null or p.predicted_at >= :since)
    and (cast(:until as timestamptz) is null or p.predicted_at < :until)
    and (cast(:models as varchar []) is null or list_contains(:models, p.model))
    and (p.run_id is null or p.run_id in (select r.run_id from runs as r where r.counts))
