-- runs: what was trained, built or predicted, by whom, from what, with what result
-- incidents: what a monitor found, from the first failing check to the first one that passes
-- checks: each time that a monitor was asked
-- Both engines run this file. Times are microseconds since 1970 UTC, structures are JSON text.

create table runs (
    run_id text not null primary key,
    project text not null,
    model text not null,
    kind text not null,
    status text not null,
    as_of_us bigint,
    started_at_us bigint not null,
    finished_at_us bigint,
    version bigint,
    seed bigint,
    sample_share double precision not null default 1,
    parameters text not null default '{}',
    metrics text not null default '{}',
    segments text not null default '[]',
    data text not null default '{}',
    code_commit text not null default '',
    environment text not null default '{}',
    resources text not null default '{}',
    duration_s double precision,
    cpu_s double precision,
    peak_memory_mib double precision,
    error text not null default '',
    folder text not null default '',
    host text not null default ''
);

create index runs_of_model on runs (project, model, started_at_us);

create table incidents (
    incident_id text not null primary key,
    project text not null,
    model text not null default '',
    monitor text not null,
    segment text not null default '',
    severity text not null,
    status text not null,
    opened_at_us bigint not null,
    last_seen_at_us bigint not null,
    closed_at_us bigint,
    failing_rows bigint not null default 0,
    detail text not null default '{}',
    owner text not null default '',
    mend text not null default '',
    delivered_at_us bigint
);

-- an incident that is open stays one, whoever checks at the same time
create unique index one_open_incident on incidents (project, model, monitor, segment) where status = 'open';

create table checks (
    project text not null,
    model text not null default '',
    monitor text not null,
    at_us bigint not null,
    status text not null,
    failing_rows bigint not null default 0,
    duration_ms double precision not null default 0,
    error text not null default ''
);

create index checks_of_monitor on checks (project, model, monitor, at_us);
