with view_rows as (
    select "shop_id" as k0, "item_id" as k1, datediff(microsecond, '1970-01-01'::timestamp, "day_end"::timestamptz at time zone 'UTC') as event, coalesce(datediff(microsecond, '1970-01-01'::timestamp, "loaded_at"::timestamptz at time zone 'UTC'), datediff(microsecond, '1970-01-01'::timestamp, "day_end"::timestamptz at time zone 'UTC')) as landed, "spend_7d" as f0, "rate" as f1, "Größe" as f2 from (SELECT shop_id, item_id, day_end, loaded_at, spend_7d, CAST(orders AS DOUBLE PRECISION) / visits AS rate, "Größe" FROM marts.items_daily WHERE day_end < %(until)s) as towpath_view
)
select k0, k1, event, landed, f0, f1, f2
from view_rows
where event is not null and k0 is not null and k1 is not null and event <= datediff(microsecond, '1970-01-01'::timestamp, %(as_of)s::timestamptz at time zone 'UTC') and landed <= datediff(microsecond, '1970-01-01'::timestamp, %(as_of)s::timestamptz at time zone 'UTC') and event >= datediff(microsecond, '1970-01-01'::timestamp, %(since)s::timestamptz at time zone 'UTC') and (landed >= 1300000000000000 or event >= 1300000000000000)
qualify row_number() over (partition by k0, k1 order by event desc, landed desc) = 1
