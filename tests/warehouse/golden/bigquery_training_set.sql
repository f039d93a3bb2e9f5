with view_rows as (
    select `shop_id` as k0, `item_id` as k1, unix_micros(cast(`day_end` as timestamp)) as event, coalesce(unix_micros(cast(`loaded_at` as timestamp)), unix_micros(cast(`day_end` as timestamp))) as landed, `spend_7d` as f0, `rate` as f1, `Größe` as f2 from (SELECT shop_id, item_id, day_end, loaded_at, spend_7d, orders / visits AS rate, `Größe` FROM marts.items_daily WHERE day_end < @until) as towpath_view
),
facts as (
    select k0, k1, event, landed, greatest(event, landed) as known
    from view_rows
    where event is not null and greatest(event, landed) <= (select max(t) from spine)
),
running as (
    select k0, k1, event, landed, known,
        max(event) over (
            partition by k0, k1 order by known, event, landed rows between unbounded preceding and current row
        ) as latest
    from facts
),
records as (
    select k0, k1, event, landed, known from running where event = latest
),
moments as (
    select rn, t, k0, k1 from spine where t is not null and k0 is not null and k1 is not null
),
along as (
    select k0, k1, known as moment, 0 as is_moment, event, landed, cast(null as bigint) as rn from records
    union all
    select k0, k1, t as moment, 1 as is_moment, null as event, null as landed, rn from moments
),
filled as (
    select rn, moment as t, k0, k1,
        last_value(event ignore nulls) over (partition by k0, k1 order by moment, is_moment, event, landed rows between unbounded preceding and current row) as event,
        last_value(landed ignore nulls) over (partition by k0, k1 order by moment, is_moment, event, landed rows between unbounded preceding and current row) as landed
    from along
),
carried as (
    select rn, t, k0, k1, event, landed from filled where rn is not null
),
winners as (
    select rn, k0, k1, event, landed from carried where event is not null and event >= t - 2592000000000
),
payload as (
    select k0, k1, event, landed, f0, f1, f2
    from view_rows
    where event is not null
    qualify row_number() over (partition by k0, k1, event, landed order by event) = 1
)
select payload.f0 as `spend_7d`, payload.f1 as `rate`, payload.f2 as `Größe`
from spine as spine_rows
left join winners on spine_rows.rn = winners.rn
left join payload on payload.k0 = winners.k0 and payload.k1 = winners.k1 and payload.event = winners.event and payload.landed = winners.landed
order by spine_rows.rn
