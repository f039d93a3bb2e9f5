with view_rows as (
    select "SHOP_ID" as k0, "ITEM_ID" as k1, date_part(epoch_microsecond, "DAY_END"::timestamp_tz) as event, coalesce(date_part(epoch_microsecond, "LOADED_AT"::timestamp_tz), date_part(epoch_microsecond, "DAY_END"::timestamp_tz)) as landed, "SPEND_7D" as f0, "RATE" as f1, "Größe" as f2 from (SELECT shop_id, item_id, day_end, loaded_at, spend_7d, orders / visits AS rate, "Größe" FROM marts.items_daily WHERE day_end < :until) as towpath_view
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
decided as (
    select k0, k1, event, landed, known
    from records
    qualify row_number() over (partition by k0, k1, known order by event desc, landed desc) = 1
),
carried as (
    select moments.rn, moments.t, moments.k0, moments.k1, decided.event, decided.landed
    from moments asof join decided match_condition (moments.t >= decided.known) on moments.k0 = decided.k0 and moments.k1 = decided.k1
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
select payload.f0 as "spend_7d", payload.f1 as "rate", payload.f2 as "Größe"
from spine as spine_rows
left join winners on spine_rows.rn = winners.rn
left join payload on payload.k0 = winners.k0 and payload.k1 = winners.k1 and payload.event = winners.event and payload.landed = winners.landed
order by spine_rows.rn
