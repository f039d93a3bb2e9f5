/* ---
description = "Were served features what training would have seen at that moment?"
severity = "warning"
every = "1d"
window = "1d"
mend = "tow features skew; where it says stale or missing, build more often, else find who wrote the table anew"
inputs = { skew = "select * from towpath.skew" }
parameters = { limit = 0.01, min_rows = 20 }
--- */
-- features_as_trained: were served features what training would have seen at that moment?
-- takes   :limit share of answers that may differ, :min_rows fewest answers that say something
-- reads   skew (what tow features skew finds for the model and the window)
-- gives   one row per feature beyond the limit: feature text, compared, mismatch, stale, missing, extra bigint, smape, share double
--
-- Why it matters: a model that is given other values than it was trained on is wrong without any error.
-- When it cries wolf: between the landing of a view's rows and its build (stale); of a view without a created time, whenever
-- history is corrected, because nobody can tell what was known then. Raise limit in a copy of it.
-- How to mend: tow features skew names keys, both values and the moment; build the view, or ask who changed its table.

select
    feature,
    compared,
    mismatch,
    stale,
    missing,
    extra,
    smape,
    share
from skew
where compared >= :min_rows and share > :limit
