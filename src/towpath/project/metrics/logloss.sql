/* ---
better = "lower"
unit = "nats"
description = "Mean surprise of a probability at what happened (0 or 1); a certainty that was wrong counts as one in 10^15"
--- */
select
    -(
        actual * ln(greatest(prediction, 1e-15))
        + (1.0 - actual) * ln(greatest(1.0 - prediction, 1e-15))
    ) * weight as numerator,
    weight as denominator
from scored
