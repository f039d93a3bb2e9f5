with view_rows as (
    select `shop_id` as k0, `item_id` as k1, unix_micros(cast(`day_end` as timestamp)) as event, coalesce(unix_micros(cast(`loaded_at` as timestamp)), unix_micros(cast(`day_end` as timestamp))) as landed, `spend_7d` as f0, `rate` as f1, `Größe` as f2 from (SELECT shop_id, item_id, day_end, loaded_at, spend_7d, orders / visits AS rate, `Größe` FROM marts.items_daily WHERE day_end < @until) as towpath_view
)
select k0, k1, event, landed, f0, f1, f2
from view_rows
where event is not null and k0 is not null and k1 is not null and event <= unix_micros(cast(@as_of as timestamp)) and landed <= unix_micros(cast(@as_of as timestamp)) and event >= unix_micros(cast(@since as timestamp)) and (landed >= 1300000000000000 or event >= 1300000000000000)
qualify row_number() over (partition by k0, k1 order by event desc, landed desc) = 1
