/* ---
model = "demand"
description = "Does the shop write lines that the SQL of this project would throw away in numbers?"
severity = "info"
every = "1d"
window = "1d"
inputs = { lines = "select stock_code, unit_price, invoice_date from retail.lines where invoice_date >= :since and invoice_date < :until + interval 1 hour" }
parameters = { most_share = 0.15, least_lines = 200 }
mend = "look at the lines, then at the three steps in features/sales_windows.sql"
--- */
-- new_dirt: is the share of lines without a price or a product code above what the file's year shows?
-- takes   :since and :until timestamp UTC (half-open), :most_share of the lines, :least_lines below which nothing is said
-- reads   lines (stock_code, unit_price, invoice_date in UK local time, which is UTC or an hour ahead of it: hence the hour above)
-- gives   one row when there is too much

with seen as (
    select
        timezone('Europe/London', cast(invoice_date as timestamp)) as invoiced_at,
        unit_price <= 0 or not regexp_matches(stock_code, '^[0-9]{5}[A-Za-z]*$') as thrown_away
    from lines
)

select
    count(*) as lines_written,
    avg(cast(thrown_away as integer)) as share_thrown_away
from seen
where invoiced_at >= :since and invoiced_at < :until
having count(*) >= :least_lines and avg(cast(thrown_away as integer)) > :most_share
