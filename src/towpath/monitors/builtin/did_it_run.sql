/* ---
description = "Did the model predict in the window, and did its batch runs finish whole?"
severity = "critical"
every = "1d"
window = "1d"
mend = "'tow runs' lists the failed run; for a served model ask the consumers that 'tow fleet' names whether they still call"
parameters = { min_rows = 1 }
--- */
-- did_it_run: did the model predict in the window, and did its batch runs finish whole?
-- takes   :model text, :since and :until timestamp UTC (half-open), :min_rows fewest predictions that count as running
-- reads   predictions, runs
-- gives   one row per thing that is missing: what text, run_id text, rows_written bigint, expected_rows bigint
--
-- Why it matters: a job that no longer starts raises no error; nobody looks until the shelves are empty.
-- When it cries wolf: on days on which nobody calls (closed days, a consumer's holiday); raise window in a copy of it.
-- A model that has never predicted before the window is waiting for its first caller and is not asked.
-- How to mend: start the run again (a later run of the same moment replaces the earlier one), or find who stopped calling.

with written as (
    select
        count(*) filter (where predicted_at >= :since and predicted_at < :until) as rows_written,
        count(*) filter (where predicted_at < :since) as rows_before
    from predictions
    where model = :model
),

due as (
    select
        as_of,
        max(run_id) as run_id,
        coalesce(max(run_id) filter (where counts), max(run_id)) as shown_run_id,
        bool_or(counts) as done,
        max(written_rows) filter (where counts) as written_rows,
        max(expected_rows) filter (where counts) as expected_rows
    from runs
    where model = :model and started_at >= :since and started_at < :until
    group by as_of
)

select
    'no predictions' as what,
    cast(null as varchar) as run_id,
    rows_written,
    cast(:min_rows as bigint) as expected_rows
from written
where rows_before > 0 and rows_written < :min_rows

union all

select
    case when done then 'a run wrote too few rows' else 'a run did not finish' end as what,
    shown_run_id as run_id,
    coalesce(written_rows, 0) as rows_written,
    expected_rows
from due
where not done or written_rows < expected_rows
