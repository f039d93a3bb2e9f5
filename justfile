# The recipes of the house. CI runs `uv run pytest`, then `just check`.

default:
    @just --list

# what CI holds beside the whole of `uv run pytest`, which has the tests
check: fmt-check lint types layers sql docs

# write the format
fmt:
    uv run ruff format .
    uv run ruff check --fix .

fmt-check:
    uv run ruff format --check .

lint:
    uv run ruff check .

types:
    uv run pyright
    uv run pyright -p tests

layers:
    uv run lint-imports

# every .sql file of the package and the examples parses, is headed and lower case
sql:
    uv run pytest -q tests/test_house.py -k sql

# the quick tests, for the way there: without replays, demos, browsers and faults, which `uv run pytest` has too
test:
    uv run pytest -q -m "not slow and not nightly"

# the suite on each interpreter that is present, or on those named: just pythons 3.12; an environment of its own for each
pythons *versions="3.11 3.12 3.13 3.14":
    #!/usr/bin/env bash
    set -uo pipefail
    export UV_PYTHON_DOWNLOADS=never PYENV_VERSION="$(pyenv versions --bare 2>/dev/null | sort -rV | paste -sd:)"
    unset VIRTUAL_ENV
    failed=""
    for version in {{versions}}; do
        if ! python=$(uv python find --no-project --system "$version" 2>/dev/null); then
            echo "Python $version: not here"
            continue
        fi
        echo "Python $version: $python"
        export UV_PROJECT_ENVIRONMENT=".pythons/$version"
        uv sync --quiet --python "$python" && uv run pytest -q -p no:cacheprovider || failed="$failed $version"
    done
    [ -z "$failed" ] || { echo "failed:$failed"; exit 1; }

docs:
    uv run pytest -q tests/test_docs.py

# write the pages of docs/reference that are made from the code
reference:
    uv run python -m towpath.project.reference docs/reference
    uv run python -m towpath.cli.reference docs/reference

# thousands of random cases and minutes of load; before an issue is called resolved
nightly:
    uv run pytest -m nightly

# half an hour of mixed load with swaps, killed workers and bad input; fails where a promise was broken
soak seconds="1800":
    uv run python benchmarks/soak.py --seconds {{seconds}}

# each promise as JSON lines, the reference timed in the same run; wants a quiet machine and wrk
bench:
    uv run python benchmarks/weight.py
    uv run --group bench python benchmarks/cold_start.py
    uv run --group bench python benchmarks/serving.py
    uv run python benchmarks/features_online.py
    uv run python benchmarks/features_build.py
    uv run python benchmarks/features_training.py
    uv run python benchmarks/journal.py
    uv run python benchmarks/retail.py
