with towpath_spine as (
    select cast(json_value(towpath_row, '$.c0') as int64) as `rn`, cast(json_value(towpath_row, '$.c1') as int64) as `t`, cast(json_value(towpath_row, '$.c2') as string) as `k0` from unnest(json_query_array(@towpath_spine)) as towpath_row
),
view_rows as (
    select `shop_id` as k0, unix_micros(cast(`at` as timestamp)) as event, unix_micros(cast(`at` as timestamp)) as landed, `rate` as f0 from (SELECT shop_id, `at`, spend / visits AS rate FROM marts.daily WHERE `at` < CAST(@until AS TIMESTAMP) AND day > CAST(@first AS DATE) AND NOT x IS NULL UNION ALL SELECT shop_id, `at`, rate FROM (SELECT CAST(JSON_VALUE(towpath_row, '$.c0') AS STRING) AS `shop_id`, CAST(JSON_VALUE(towpath_row, '$.c1') AS TIMESTAMP) AS `at`, CAST(JSON_VALUE(towpath_row, '$.c2') AS FLOAT64) AS `rate` FROM UNNEST(JSON_QUERY_ARRAY(@towpath_landing_spending, '$')) AS towpath_row) AS spending) as towpath_view
),
facts as (
    select k0, event, landed, greatest(event, landed) as known
    from view_rows
    where event is not null and greatest(event, landed) <= (select max(t) from towpath_spine)
),
running as (
    select k0, event, landed, known,
        max(event) over (
            partition by k0 order by known, event, landed rows between unbounded preceding and current row
        ) as latest
    from facts
),
records as (
    select k0, event, landed, known from running where event = latest
),
moments as (
    select rn, t, k0 from towpath_spine where t is not null and k0 is not null
),
along as (
    select k0, known as moment, 0 as is_moment, event, landed, cast(null as bigint) as rn from records
    union all
    select k0, t as moment, 1 as is_moment, null as event, null as landed, rn from moments
),
filled as (
    select rn, moment as t, k0,
        last_value(event ignore nulls) over (partition by k0 order by moment, is_moment, event, landed rows between unbounded preceding and current row) as event,
        last_value(landed ignore nulls) over (partition by k0 order by moment, is_moment, event, landed rows between unbounded preceding and current row) as landed
    from along
),
carried as (
    select rn, t, k0, event, landed from filled where rn is not null
),
winners as (
    select rn, k0, event, landed from carried where event is not null and event >= t - 2592000000000
),
payload as (
    select k0, event, landed, f0
    from view_rows
    where event is not null
    qualify row_number() over (partition by k0, event, landed order by event) = 1
)
select spine_rows.rn as towpath_rn, payload.f0 as `rate`
from towpath_spine as spine_rows
left join winners on spine_rows.rn = winners.rn
left join payload on payload.k0 = winners.k0 and payload.event = winners.event and payload.landed = winners.landed
order by spine_rows.rn
