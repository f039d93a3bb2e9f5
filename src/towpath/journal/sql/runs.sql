-- runs: each batch prediction as it stood at :as_of, and whether its rows count
-- takes   :as_of timestamp UTC
-- reads   journal.runs (a row when a run starts and a row when it ends; landed bigint counts them in order)
-- gives   one row per run: the columns of a run, and counts boolean: of several for one model and moment the latest done one

with known as (
    select *
    from journal.runs
    where
        started_at <= :as_of
        and (finished_at is null or finished_at <= :as_of)
),

newest as (
    select *
    from known
    qualify row_number() over (partition by run_id order by (finished_at is not null) desc, landed desc) = 1
)

select
    run_id,
    project,
    model,
    version,
    as_of,
    started_at,
    finished_at,
    status,
    expected_rows,
    written_rows,
    error,
    status = 'done'
    and row_number() over (
        partition by project, model, as_of, status = 'done'
        order by finished_at desc, landed desc
    ) = 1 as counts
from newest
