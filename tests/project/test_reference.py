"""The reference pages and the editor's schema say what the code does."""

from pathlib import Path

import msgspec
import pytest

from towpath.project import reference, schema
from towpath.project.declarations import ModelDeclaration
from towpath.settings import Settings

PAGES = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_the_page_is_up_to_date(name: str) -> None:
    assert (PAGES / name).read_text("utf-8") == reference.pages()[name], (
        "python -m towpath.project.reference docs/reference"
    )


@pytest.mark.parametrize("kind", [ModelDeclaration, Settings, *reference.HEADERS.values()])
def test_every_key_is_documented(kind: type) -> None:
    missing: list[str] = []

    def look(kind: type) -> None:
        said = reference.fields_said(kind)
        for field in msgspec.structs.fields(kind):
            missing.extend([f"{kind.__name__}.{field.name}"] if field.name not in said else [])
            nested, _ = reference.nested_struct(field.type)
            if nested:
                look(nested)

    look(kind)
    assert missing == []


def test_the_schema_knows_bounds_choices_and_that_nothing_else_is_allowed() -> None:
    found = schema()
    assert found["additionalProperties"] is False
    assert sorted(found["required"]) == ["charter", "features", "owner"]
    assert found["properties"]["tier"]["enum"] == ["critical", "experimental", "standard"]
    assert found["$defs"]["GateDeclaration"]["properties"]["confidence"]["exclusiveMaximum"] == 1
    assert all("description" in p for part in found["$defs"].values() for p in part["properties"].values())


def test_the_schema_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(schema())) == schema()
