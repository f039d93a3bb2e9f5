with view_rows as (
    select "SHOP_ID" as k0, "ITEM_ID" as k1, date_part(epoch_microsecond, "DAY_END"::timestamp_tz) as event, coalesce(date_part(epoch_microsecond, "LOADED_AT"::timestamp_tz), date_part(epoch_microsecond, "DAY_END"::timestamp_tz)) as landed, "SPEND_7D" as f0, "RATE" as f1, "Größe" as f2 from (SELECT shop_id, item_id, day_end, loaded_at, spend_7d, orders / visits AS rate, "Größe" FROM marts.items_daily WHERE day_end < :until) as towpath_view
)
select k0, k1, event, landed, f0, f1, f2
from view_rows
where event is not null and k0 is not null and k1 is not null and event <= date_part(epoch_microsecond, :as_of::timestamp_tz) and landed <= date_part(epoch_microsecond, :as_of::timestamp_tz) and event >= date_part(epoch_microsecond, :since::timestamp_tz) and (landed >= 1300000000000000 or event >= 1300000000000000)
qualify row_number() over (partition by k0, k1 order by event desc, landed desc) = 1
