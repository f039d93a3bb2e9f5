-- outcomes: what really happened, as far as it had reached us at :as_of
-- takes   :as_of timestamp UTC, :models text[] or null
-- reads   journal.outcomes
-- gives   one row per outcome as it was sent: late and corrected ones are further rows

select o.*
from journal.outcomes as o
where
    o.arrived_at <= :as_of
    and (cast(:models as varchar []) is null or list_contains(:models, o.model))
