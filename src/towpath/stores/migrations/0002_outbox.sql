-- outbox: messages about incidents that are still to be sent, and those that were
-- Both engines run this file. Times are microseconds since 1970 UTC; an address is a digest, never the address itself.

create table outbox (
    incident_id text not null,
    kind text not null,
    address text not null,
    title text not null,
    body text not null,
    severity text not null,
    created_at_us bigint not null,
    attempts bigint not null default 0,
    next_at_us bigint not null,
    delivered_at_us bigint,
    primary key (incident_id, kind, address)
);

create index outbox_waiting on outbox (next_at_us) where delivered_at_us is null;
