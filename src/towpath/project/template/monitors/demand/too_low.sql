/* ---
model = "demand"
description = "Do we forecast too little, so that shelves stay empty?"
severity = "warning"
every = "1d"
window = "7d"
parameters = { most_share = 0.3, least_answers = 50 }
mend = "tow show demand, then tow train demand"
--- */
-- A monitor gives the failing rows; none is good news. It reads what was predicted and what really happened.
select
    source,
    count(*) as answers,
    sum(prediction - actual) / sum(actual) as bias
from matured
where
    model = 'demand'
    and target_at >= :since
    and target_at < :until
group by source
having
    count(*) >= :least_answers
    and sum(prediction - actual) < -:most_share * sum(actual)
