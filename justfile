# The recipes of the house. `just check` is what CI runs.

default:
    @just --list

# everything that CI holds
check: fmt-check lint types layers sql test docs

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

test:
    uv run pytest -q

docs:
    uv run pytest -q tests/test_docs.py
