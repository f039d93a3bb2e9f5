"""The document that the server publishes: valid, typed by model, with examples that are answered, and no secrets."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fuzz_stand import TYPED, a_model, a_server
from msgspec.structs import replace
from openapi_spec_validator import OpenAPIV31SpecValidator
from serving_stand import AT, PlainModel, Running, a_manifest, deployed
from test_server import QUICK, Store, eventually

from towpath.gate.golden import GoldenCase
from towpath.serving.http import _PATHS
from towpath.serving.openapi import Documents, document
from towpath.serving.served import Served
from towpath.traffic import ConsumerBook, Consumers, make_pepper


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = a_server(tmp_path_factory.mktemp("openapi"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def made(server: Running) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_the_documents_are_valid_openapi(server: Running, made: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(made).validate()
    for model in ("demand", "typed", "image", "item"):
        one = httpx.get(f"{server.url}/openapi/{model}.json").json()
        OpenAPIV31SpecValidator(one).validate()
        assert f"/predict/{model}" in one["paths"]
        assert not [path for path in one["paths"] if "predict" in path and model not in path]


def test_every_door_of_the_server_is_in_the_document(made: dict[str, Any]) -> None:
    paths = set(made["paths"])
    filled = {door.replace("<model>", "demand").replace("<view>", "shop/sales") for door in _PATHS}
    assert filled - paths == set()


def test_rows_are_typed_as_the_model_reads_them(made: dict[str, Any]) -> None:
    row = made["components"]["schemas"]["Row_typed"]
    columns = row["properties"]
    assert row["required"] == [field.name for field in TYPED]
    assert columns["count"]["type"] == "integer"
    assert columns["price"]["type"] == ["number", "null"]
    assert columns["open"]["type"] == ["boolean", "null"]
    assert columns["at"] == {"type": ["string", "null"], "format": "date-time"}
    assert columns["shop"]["anyOf"][0] == {"enum": ["north", "south"]}
    item = made["components"]["schemas"]["Row_item"]
    assert item["required"] == ["c"]
    assert {"item_id", "band", "sales.price"} <= set(item["properties"])
    assert "a kill switch that names it" in item["properties"]["band"]["description"]
    assert item["anyOf"] == [{"required": ["item_id"]}, {"required": ["sales.price"]}]
    image = made["components"]["schemas"]["Row_image"]["properties"]["image"]
    assert image == {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    pushed = made["components"]["schemas"]["FeatureRow_shop_sales"]
    assert {"item_id", "event", "price", "units"} == set(pushed["properties"])


def test_examples_are_golden_cases_and_are_answered_as_they_say(server: Running, made: dict[str, Any]) -> None:
    body = made["paths"]["/predict/demand"]["post"]["requestBody"]["content"]["application/json"]
    example = body["examples"]["golden_1"]
    assert example["summary"] == "Known good: 3.0"
    assert httpx.post(f"{server.url}/predict/demand", json=example["value"]).json()["predictions"][0]["prediction"] == 3
    # and of a model that keeps no journal none is shown, for its input is private
    assert "40.5" not in json.dumps(made)
    assert "40.5" not in httpx.get(f"{server.url}/openapi/private.json").text


def test_the_page_for_people_has_no_script_and_escapes(server: Running) -> None:
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "How many &amp; when." in page.text
    assert "POST /predict/demand" in page.text


def test_every_route_refuses_any_other_method_and_allows_what_the_document_says(
    server: Running, made: dict[str, Any]
) -> None:
    with httpx.Client(base_url=server.url) as client:
        for path, operations in made["paths"].items():
            filled = path.replace("{version}", "1")
            takes = {method.upper() for method in operations}
            allow = ", ".join(sorted(takes | ({"HEAD"} if "GET" in takes else set())))
            for method in {"DELETE", "OPTIONS", "GET", "POST"} - takes:
                told = client.request(method, filled)
                assert (told.status_code, told.headers.get("allow")) == (405, allow), (method, filled)
                said = told.json()
                assert (said["code"], said["mend"]) == ("method", f"use {min(takes)}")
                assert said["error"].endswith(f"' does not take {method}.")
        # a small body goes the short way and one of unknown length uvicorn's
        short, long = client.post("/metrics", content=b"{}"), client.post("/metrics", content=iter([b"{}"]))
        assert (short.status_code, short.headers["allow"]) == (long.status_code, long.headers["allow"])
        assert (short.status_code, short.content) == (405, long.content)


@pytest.mark.parametrize("path", ["/openapi/demnad.json", "/openapi/demand", "/openapi/", "/openapi.yaml", "/docs/x"])
def test_what_is_not_there_is_404(server: Running, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown")


def test_a_document_is_made_once_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    from towpath.serving import openapi

    calls: list[str] = []
    monkeypatch.setattr(
        openapi, "document", lambda *a, model, **k: calls.append(model) or document(*a, model=model, **k)
    )
    live = {"demand": deployed(Served(a_manifest(), PlainModel()))}
    documents = Documents(lambda: live, Consumers())
    for _ in range(3):
        documents.get("/openapi.json", None)
        documents.get("/openapi/demand.json", None)
    assert calls == ["", "demand"]
    live = live | {"other": a_model("other", TYPED)}
    found, _ = documents.get("/openapi.json", None)
    assert b"/predict/other" in found
    assert calls == ["", "demand", ""]


def test_where_keys_are_asked_for_examples_are_for_those_who_may_call(tmp_path: Any) -> None:
    store = Store(tmp_path)
    store.promote(store.publish(5.0, golden=5.0))
    book = ConsumerBook(store.objects, make_pepper(store.keys))
    keys = {
        "all": book.add("all", team="a", at=AT),
        "one": book.add("one", team="a", at=AT, models=("demand",)),
        "other": book.add("elsewhere", team="a", at=AT, models=("search",)),
        "teller": book.add("teller", team="a", at=AT, scopes=("outcomes",)),
    }
    with store.server(replace(QUICK)) as running:
        eventually(lambda: httpx.get(f"http://127.0.0.1:{running.ports.http}/v2/health/ready").status_code == 200)

        def shown(path: str, who: str) -> bool:
            headers = {"Authorization": f"Bearer {keys[who]}"} if who else {}
            answer = httpx.get(f"http://127.0.0.1:{running.ports.http}{path}", headers=headers)
            assert answer.json()["paths"]["/predict/demand"]["post"]["security"] == [{"key": []}]
            assert "security" not in answer.json()["paths"]["/v2/models/demand"]["get"]
            OpenAPIV31SpecValidator(answer.json()).validate()
            return "golden_1" in answer.text

        assert [who for who in ("", *keys) if shown("/openapi.json", who)] == ["all"]
        assert [who for who in ("", *keys) if shown("/openapi/demand.json", who)] == ["all", "one"]
    assert {one.name for one in book.all().values()} == {"all", "one", "elsewhere", "teller"}


def test_levels_and_examples_survive_a_golden_case_without_an_answer() -> None:
    served = Served(a_manifest(), PlainModel())
    served.golden = (GoldenCase(request={"a": 1}),)
    made = document({"demand": deployed(served)})
    content = made["paths"]["/predict/demand"]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]["golden_1"] == {"summary": "A golden case", "value": {"rows": [{"a": 1}]}}
    OpenAPIV31SpecValidator(made).validate()
