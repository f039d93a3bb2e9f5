"""Every format that is stored, sent or written by people, with all its fields filled: what v1 wrote is read for ever.

``python tests/formats/test_formats.py`` writes the golden files that are missing and never changes one that is there.
A new field: before the first release of a schema number delete its file and write it again; afterwards make a folder of
the next number and leave this one as it is.
"""

import ast
import base64
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect
import pytest

from towpath.errors import FormatError
from towpath.features import FunctionRead, RefusedRow, TrainingSetManifest, ViewRead
from towpath.features.builds import BuildState, Filling, Former
from towpath.features.forms import Form
from towpath.gate.verdict import Footprint, Interval, Rule, SegmentResult, Verdict
from towpath.journal.laid import LaidDay, LaidState
from towpath.journal.record import Beside, DayManifest, LandedRow, LeftOut, Outcome, OutcomeRow, Record, Rows, Run
from towpath.models.manifest import (
    Artefact,
    Environment,
    FeatureColumn,
    FeatureLock,
    Field,
    Manifest,
    OnDemandInputLock,
    OnDemandLock,
    Signature,
    StoredFile,
    Training,
)
from towpath.platform.remembered import LandingDay, SeenColumn, SeenSource, SeenView
from towpath.project.declarations import (
    KINDS,
    ArtefactDeclaration,
    BreakerDeclaration,
    Charter,
    FallbackDeclaration,
    FeatureDeclaration,
    FeatureHeader,
    GateDeclaration,
    MetricHeader,
    ModelDeclaration,
    MonitorHeader,
    OutputDeclaration,
    Resources,
    ScheduleDeclaration,
    ServingDeclaration,
    TrainDeclaration,
    TrainingHeader,
)
from towpath.project.on_demand import OnDemandHeader, OnDemandInput, OnDemandOutput
from towpath.registry.claims import Claim, PublishedView
from towpath.registry.functions import PublishedFunction
from towpath.registry.log import Challenger, Event, Follows, Kill, LogEntry, TrafficState
from towpath.registry.signing import Seal, Signer, Trusted
from towpath.registry.stored import decode
from towpath.registry.versions import VersionClaim
from towpath.serving.answer import Answer, AnswerRow, WireError
from towpath.serving.push import PushAnswer
from towpath.sql import Query
from towpath.traffic.consumer import Consumer, ConsumerKey, ConsumerV1, Quota, Sla
from towpath.traffic.seen import Seen, SeenKey
from towpath.types import REASONS, utc
from towpath.warehouse import TableState

FOLDER = Path(__file__).parent / "v1"
DIGEST = "sha256:" + "0123456789abcdef" * 4
AT, LATER = utc("2026-03-01T12:30:15.000001"), utc("2026-03-02")
FUNCTION = OnDemandLock(
    project="shop",
    view="basket",
    path="features/basket.py",
    digest=DIGEST,
    inputs=(OnDemandInputLock(name="amount", reads="request", type="double", required=True),),
    columns=(FeatureColumn(name="ratio", type="double", default=1.5, missing="default"),),
    budget_ms=30,
)

CHARTER = Charter(
    decision="how many units to order per item and day",
    process="nightly ordering run",
    integrator="ordering service team",
    analyst="ana",
    stop_when="waste is no lower than with the heuristic for 8 weeks",
)
OUTPUT = OutputDeclaration(kind="ranking", low=0.0, high=10_000.0, horizon="7d", classes=("no", "yes"), top=20)
GATE = GateDeclaration(
    metric="wape",
    beside=("bias", "mae"),
    margin=0.01,
    no_worse_on=0.05,
    min_segment_rows=100,
    confidence=0.9,
    resamples=500,
    load_s=10.0,
    memory_mib=1_024,
    latency_p99_ms=50.0,
)
SERVING = ServingDeclaration(
    timeout_ms=100,
    isolation="inline",
    queue_rows=500,
    batch_rows=64,
    compile="onnx",
    breaker=BreakerDeclaration(failures=3, share=0.25, window=40, pause_ms=500),
    beside_share=0.1,
)
RESOURCES = Resources(cpu=2.0, memory="4GiB", gpu=1, time="2h")
FALLBACK = (
    FallbackDeclaration(name="before", version="previous", budget_ms=60),
    FallbackDeclaration(name="simpler", model="demand_simple"),
    FallbackDeclaration(name="yesterday", last="1d"),
    FallbackDeclaration(name="four_weeks", sql="recent_sales.units_28d"),
    FallbackDeclaration(name="recent_mean", function="recent_mean"),
    FallbackDeclaration(name="zero", constant=0.0),
)
LOCK = FeatureLock(
    project="shop",
    view="prices",
    fingerprint="9f86d081884c7d65",
    base="2c26b46b68ffc68f",
    entity=("item_id",),
    ttl_us=2_592_000_000_000,
    columns=(FeatureColumn(name="price", type="double", default=1.5, missing="default"),),
    sql='/* ---\nentity = "item_id"\nevent_time = "day"\n--- */\nselect item_id, day, price from shop.prices\n',
    key_types=("string",),
    row=(("price", "double"), ("currency", "string")),
)
MANIFEST = Manifest(
    project="shop",
    team="fresh",
    model="demand",
    version=17,
    created_at=AT,
    created_by="mira",
    owner="mira@example.com",
    tier="critical",
    charter=CHARTER,
    description="Units that an item sells in the next 7 days.",
    artefact=Artefact(
        file=StoredFile(path="model.txt", digest=DIGEST, size_bytes=120_034),
        format="lightgbm",
        framework="lightgbm",
        framework_version="4.6.0",
        allow=("lightgbm.basic.Booster",),
        folder="model",
    ),
    signature=Signature(
        container="pandas",
        inputs=(Field(name="prices.price", type="string", shape=(-1, 3), nullable=False, levels=("high", "low")),),
        outputs=(Field(name="prediction", type="double", shape=(-1,), nullable=False, levels=("a",)),),
    ),
    entity=("item_id", "country"),
    time="day",
    label="units_next_7d",
    segments=("price_band",),
    unit="customer_id",
    features=(LOCK,),
    on_demand=(FUNCTION,),
    output=OUTPUT,
    serving=SERVING,
    gate=GATE,
    resources=RESOURCES,
    fallback=FALLBACK,
    fallback_features=(LOCK,),
    journal="reference",
    variables=("HTTPS_PROXY",),
    training=Training(
        run_id="0195f2a4c1d07e4c",
        as_of=AT,
        rows=90_000,
        holdout_rows=10_000,
        seed=7,
        metrics={"wape": 0.21, "bias": -0.02},
        data_digest=DIGEST,
        commit="225edc1+dirty",
        parameters={"trees": 200, "rate": 0.05, "objective": "poisson", "bagging": True},
        sample_share=0.5,
    ),
    environment=Environment(
        python="3.11.7", platform="linux-x86_64", packages={"lightgbm": "4.6.0", "numpy": "2.4.0"}, towpath="0.1.0"
    ),
    files=(StoredFile(path="code.zip", digest=DIGEST, size_bytes=2_048),),
)
LOG_ENTRY = LogEntry(
    project="shop",
    team="fresh",
    model="demand",
    revision=42,
    follows=Follows(revision=41, digest=DIGEST),
    event=Event(
        kind="promoted",
        id="5d41402abc4b2a76",
        at=AT,
        by="mira",
        because="launch week",
        version=17,
        verdict="models/demand/versions/000017/verdicts/000001.json",
        override=True,
    ),
    state=TrafficState(
        champion=17,
        previous=14,
        challengers=(Challenger(version=18, arm="deeper", share=0.1),),
        shadows=(19,),
        holdout_share=0.05,
        rules=({"segment": "price_band=low", "version": 14},),
        kills=(
            Kill(because="odd prices", by="otto", at=AT, version=17, consumer="web_shop", segment="price_band=low"),
        ),
        retired=True,
        salt="demand",
    ),
)
VERDICT = Verdict(
    project="shop",
    model="demand",
    version=17,
    against=14,
    at=AT,
    by="mira",
    passed=False,
    metric="wape",
    rows=10_000,
    entities=400,
    candidate=0.21,
    champion=0.24,
    fallback=0.31,
    versus_champion=Interval(estimate=-0.03, low=-0.05, high=-0.01),
    versus_fallback=Interval(estimate=-0.1, low=-0.14, high=-0.07),
    beside={"bias": {"candidate": -0.02, "champion": 0.01, "fallback": None}},
    segments=(
        SegmentResult(segment="price_band=low", rows=4_000, candidate=0.27, reference=0.21, decides=True, passed=False),
    ),
    footprint=Footprint(load_s=0.8, memory_mib=210.5, p50_ms=0.4, p99_ms=1.9),
    rules=(Rule(name="segments", passed=False, reason="wape on 'price_band=low' 0.27 against 0.21 (limit 0.22)"),),
)
RECORD = Record(
    schema=1,
    prediction_id="0195f2a4c1d07e4c8f5b6a3a0d9c1e2f",
    request_id="req-1",
    project="shop",
    team="fresh",
    model="demand",
    environment="local",
    server="host-1/4711",
    consumer="web_shop",
    predicted_at=1_772_368_215_000_001,
    recorded_at=1_772_368_215_000_350,
    latency_ms=0.35,
    run_id="0195f2a4c1d07e4d",
    protocol="grpc",
    rows=Rows(
        source=["champion", "fallback:zero"],
        reason=["ok", "slow"],
        version=[17, None],
        prediction=[12.5, 0.0],
        label=["many", None],
        output=[{"quantiles": [10.0, 15.0]}, None],
        entity_key=['["10002","UK"]', None],
        unit_id=["c-1", None],
        target_at=[1_772_928_000_000_000, None],
        horizon=["7d", None],
        item=[["a", "b"], []],
        segment=[{"price_band": "low"}, None],
        arm=["deeper", None],
        experiment=["depth", None],
        propensity=[[0.5, 0.25], 1.0],
        features=[{"prices.price": 1.5}, None],
        feature_ref=["prices:9f86d081", None],
        fallback_prediction=[11.0, None],
    ),
)
RECORD_2 = msgspec.structs.replace(
    RECORD,
    schema=2,
    rows=msgspec.structs.replace(RECORD.rows, features=[b'{"prices.price":2.5,"prices.note":null}', None]),
)
BESIDE = Beside(prediction_id=RECORD.prediction_id, rows=[1], values=[11.0])
DAY_MANIFEST = DayManifest(
    table="predictions",
    day="2026-03-01",
    revision=7,
    files=("host-1-0001.parquet",),
    rows=99,
    written_at=AT,
    replaced={"host-1-0000.parquet": LATER},
)
OLDER: dict[str, msgspec.Struct] = {
    "beside.msgpack": BESIDE,
    "day_manifest.json": DAY_MANIFEST,
    "record.msgpack": RECORD,
    "record_2.msgpack": RECORD_2,
}
"""What earlier releases wrote with fewer columns or fields: read for ever, and never written again."""
STORED: dict[str, msgspec.Struct] = {
    "beside_2.msgpack": msgspec.structs.replace(BESIDE, labels=["few"], items=[["b", "c"]]),
    "manifest.json": MANIFEST,
    "log_entry.json": LOG_ENTRY,
    "verdict.json": VERDICT,
    "feature_form.json": Form(
        project="shop",
        view="prices",
        version=2,
        number=3,
        fingerprint="9f86d081884c7d65",
        base="2c26b46b68ffc68f",
        key_types=("string",),
        columns=(("price", "double"),),
        sql=LOCK.sql,
        recorded_at=AT,
        by="mira",
    ),
    "build_state.json": BuildState(
        step=7,
        table="shop.prices.2c26b46b68ffc68f~63f5a",
        as_of=AT,
        fingerprint="9f86d081884c7d65",
        number=3,
        snapshot="0123456789abcdef",
        counted_until=AT,
        counted_rows=12_345,
        built_at=LATER,
        beside=Filling(table="shop.prices.2c26b46b68ffc68f~63f5b", host="build-1", pid=4_711, seen_at=LATER),
        former=(Former(table="shop.prices.2c26b46b68ffc68f~63f59", since=AT),),
    ),
    "laid_state.json": LaidState(
        shape=DIGEST,
        files=("journal/landing/shop/prices/2026-03-08/000001.parquet",),
        days={"2026-03-08": LaidDay(raw="raw-0001.parquet", laid="laid-0001.parquet", arrived=("2026-03-08",))},
    ),
    "training_set.json": TrainingSetManifest(
        rows=1_000,
        null_times=1,
        keys=("item_id",),
        time="day",
        as_of="known",
        features=("prices.price", "basket.ratio"),
        spine_digest=DIGEST,
        views=(
            ViewRead(view="prices", fingerprint="9f86d081884c7d65", ttl="30d", null_keys=2, tables=("shop.prices",)),
        ),
        functions=(FunctionRead(view="basket", digest=DIGEST),),
        parameters={"as_of": "2026-03-01 12:30:15.000001+00:00"},
        tables=(
            TableState(
                table="shop.prices",
                files=(("warehouse/shop/prices.parquet", 120_034, 1_772_368_215_000_001_000),),
                state="7",
            ),
        ),
        unproved=("landing.prices",),
    ),
    "published_view.json": PublishedView(
        project="shop", team="fresh", view="prices", published_at=AT, by="mira", lock=LOCK
    ),
    "published_function.json": PublishedFunction(
        project="shop",
        team="fresh",
        view="basket",
        number=2,
        published_at=AT,
        by="mira",
        lock=FUNCTION,
        code=StoredFile(path="ab.zip", digest=DIGEST, size_bytes=420),
    ),
    "seen_source.json": SeenSource(
        project="shop", table="shop.prices", columns=(SeenColumn(name="price", type="double"),), seen_at=AT
    ),
    "seen_view.json": SeenView(
        project="shop",
        view="prices",
        fingerprint=DIGEST.removeprefix("sha256:"),
        built_at=LATER,
        as_of=AT,
        rows=1_200,
        entities=1_000,
        newest_event_time=AT,
        landed=(LandingDay(day="2026-03-01", first_minute=352, last_minute=370, delay_minutes=365, rows=1_000),),
    ),
    "model_claim.json": Claim(project="shop", team="fresh", claimed_at=AT, by="mira"),
    "version_claim.json": VersionClaim(run_id="0195f2a4c1d07e4c"),
    "consumer.json": ConsumerV1(
        name="web_shop", team="web", key_sha256=DIGEST.removeprefix("sha256:"), created_at=AT, created_by="mira"
    ),
    "consumer_2.json": Consumer(
        name="web-shop",
        team="web",
        revision=3,
        keys=(
            ConsumerKey(id="first", sha256=DIGEST.removeprefix("sha256:"), created_at=AT, revoked_at=LATER),
            ConsumerKey(
                id="0b1c2d3e4f",
                hmac_sha256=DIGEST.removeprefix("sha256:"),
                pepper="514dad03",
                created_at=AT,
                expires_at=LATER,
            ),
        ),
        scopes=("predict", "outcomes", "features", "manage"),
        models=("demand",),
        quota=Quota(requests_per_s=100.0, rows_per_s=5_000.0),
        sla=Sla(p99_ms=20.0, availability_share=0.999),
        created_at=AT,
        created_by="mira",
        change="rotated",
        changed_at=LATER,
        changed_by="ana",
    ),
    "seen.json": Seen(
        server="host-1-0", written_at=LATER, keys=(SeenKey(consumer="web-shop", key="0b1c2d3e4f", at=AT),)
    ),
    "answer.json": Answer(
        model="demand",
        request_id="req-1",
        predictions=(
            AnswerRow(
                prediction=12.5,
                output={"quantiles": [10.0, 15.0]},
                prediction_id="0195f2a4c1d07e4c8f5b6a3a0d9c1e2f",
                version=17,
                arm="deeper",
                source="champion",
                reason="ok",
                missing=("prices.price",),
            ),
        ),
    ),
    "push_answer.json": PushAnswer(
        view="shop/prices",
        accepted=2,
        unchanged=1,
        refused=1,
        problems=(RefusedRow(row=3, error="'price' is 'many', which is no double."),),
        without=("currency",),
    ),
    "error.json": WireError(error="There is no model 'demnad'.", code="unknown", mend="did you mean 'demand'?"),
    "outcome.json": Outcome(
        model="demand",
        prediction_id="0195f2a4c1d07e4c8f5b6a3a0d9c1e2f",
        entity_key=("10002", "UK"),
        target_at=AT,
        horizon="7d",
        item="a",
        happened_at=LATER,
        metric="units",
        value=13.0,
        label="many",
        weight=2.0,
    ),
    "run.json": Run(
        run_id="0195f2a4c1d07e4d",
        project="shop",
        model="demand",
        version=17,
        as_of=AT,
        started_at=AT,
        finished_at=LATER,
        status="failed",
        expected_rows=100,
        written_rows=99,
        error="the warehouse went away",
    ),
    "day_manifest_2.json": msgspec.structs.replace(
        DAY_MANIFEST,
        left_out={"host-1-0002.parquet": LeftOut(at=LATER, by="mira", because="its disk died", rows=12)},
    ),
    "record_3.msgpack": msgspec.structs.replace(
        RECORD_2,
        schema=3,
        rows=msgspec.structs.replace(RECORD_2.rows, fallback_label=["few", None], fallback_items=[["b", "c"], None]),
    ),
    "landed_row.msgpack": LandedRow(
        project="shop",
        view="prices",
        entity_key='["10002"]',
        event_time=1_772_928_000_000_000,
        arrived_at=1_772_928_000_500_000,
        place=7,
        row='{"item_id":"10002","price":2.55,"currency":null}',
        row_digest="9f86d081884c7d659a2feaa0c55ad015",
        consumer="web_shop",
    ),
    "outcome_row.msgpack": OutcomeRow(
        outcome_id="9f86d081884c7d659a2feaa0c55ad015",
        project="shop",
        model="demand",
        prediction_id="0195f2a4c1d07e4c8f5b6a3a0d9c1e2f",
        entity_key='["10002","UK"]',
        target_at=1_772_928_000_000_000,
        horizon="7d",
        item="a",
        happened_at=1_772_928_000_000_001,
        metric="units",
        value=13.0,
        label="many",
        weight=2.0,
        consumer="web_shop",
        arrived_at=1_772_928_000_000_002,
    ),
}
WRITTEN: dict[str, msgspec.Struct] = {
    "feature_view.sql": FeatureHeader(
        entity=("item_id", "country"),
        event_time="day_end",
        dialect="postgres",
        created_time="loaded_at",
        ttl="30d",
        publish=True,
        start="2025-01-01",
        schedule="30 * * * *",
        lookback="2h",
        landing_keep="90d",
        online=True,
        owner="mira",
        description="What an item costs.",
        features={"price": FeatureDeclaration(default=1.5, missing="default", description="EUR, with tax")},
    ),
    "on_demand.py": OnDemandHeader(
        inputs={
            "amount": OnDemandInput(type="double", required=True),
            "price": OnDemandInput(type="prices.price"),
            "at": OnDemandInput(type="time"),
        },
        outputs={
            "ratio": OnDemandOutput(type="double", default=1.5, missing="default", description="Of the usual price.")
        },
        budget_ms=30,
        publish=True,
        owner="mira",
        description="An amount beside the price.",
    ),
    "training.sql": TrainingHeader(
        entity=("item_id", "country"),
        time="day",
        label="units_next_7d",
        dialect="postgres",
        label_time="known_at",
        segments=("price_band", "popularity"),
        weight="volume",
        lookback="28d",
    ),
    "metric.sql": MetricHeader(better="zero", unit="share", description="Over- or under-ordering."),
    "monitor.sql": MonitorHeader(
        description="Is any price below cost?",
        model="demand",
        severity="critical",
        every="1h",
        window="2d",
        inputs={"costs": "select item_id, cost from shop.costs"},
        parameters={"slack": 0.05, "most": 3, "band": "low"},
        mend="Ask pricing whether the night load ran.",
        owner="ana",
    ),
    "model.toml": ModelDeclaration(
        charter=CHARTER,
        owner="mira@example.com",
        features=("prices.price", "calendar.*", "web/visits.visits_7d"),
        description="Units that an item sells in the next 7 days.",
        tier="critical",
        unit="customer_id",
        journal="reference",
        environment=("HTTPS_PROXY",),
        output=OUTPUT,
        artefact=ArtefactDeclaration(remote="http://triton:8000/v2/models/demand/versions/3", token="env:TRITON_KEY"),
        train=TrainDeclaration(
            holdout="28d",
            seed=11,
            history="104w",
            parameters={"trees": 200, "rate": 0.05, "objective": "poisson", "bagging": True},
            format="skops",
        ),
        gate=GATE,
        serving=SERVING,
        fallback=FALLBACK,
        schedule=ScheduleDeclaration(train="0 3 * * 1", predict="0 4 * * *"),
        resources=RESOURCES,
    ),
}
UNFILLABLE = {("FallbackDeclaration", name) for name in (*KINDS, "budget_ms")}
"""Exactly one of them is given, so that what is not written in one link is written in another."""


def encoded(name: str, value: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(value) if name.endswith(".msgpack") else msgspec.json.encode(value)


def decoded(name: str) -> Any:
    """The golden file as plain values, before any struct sees it."""
    data = (FOLDER / name).read_bytes()
    if name.endswith(".msgpack"):
        return msgspec.msgpack.decode(data)
    if name.endswith(".sql"):
        return Query.parse(data.decode(), name).header
    if name.endswith(".py"):
        return tomllib.loads(data.decode().split("---\n")[1])
    return tomllib.loads(data.decode()) if name.endswith(".toml") else msgspec.json.decode(data)


@pytest.mark.parametrize("name", STORED)
def test_what_v1_stored_is_read_as_it_was_meant_and_written_again_to_the_byte(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    kind, decode = type(STORED[name]), msgspec.msgpack.decode if name.endswith(".msgpack") else msgspec.json.decode
    found = decode(data, type=kind)
    assert found == STORED[name]
    assert encoded(name, found) == data


@pytest.mark.parametrize("name", OLDER)
def test_what_has_fewer_columns_is_read_as_it_was_meant(name: str) -> None:
    decode = msgspec.msgpack.decode if name.endswith(".msgpack") else msgspec.json.decode
    assert decode((FOLDER / name).read_bytes(), type=type(OLDER[name])) == OLDER[name]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_people_wrote_for_v1_is_read_as_it_was_meant(name: str) -> None:
    assert msgspec.convert(decoded(name), type(WRITTEN[name])) == WRITTEN[name]


def test_a_manifest_from_before_there_were_on_demand_features_is_read() -> None:
    raw = msgspec.json.decode((FOLDER / "manifest.json").read_bytes())
    del raw["on_demand"]
    found = msgspec.json.decode(msgspec.json.encode(raw), type=Manifest)
    assert found == msgspec.structs.replace(MANIFEST, on_demand=())


def test_a_manifest_from_before_chains_asked_views_and_circuits_opened_is_read() -> None:
    raw = msgspec.json.decode((FOLDER / "manifest.json").read_bytes())
    del raw["fallback_features"], raw["serving"]["breaker"]
    raw["fallback"] = [
        {key: link[key] for key in ("name", "function", "constant", "version", "budget_ms")}
        for link in raw["fallback"]
        if link["name"] in {"before", "recent_mean", "zero"}
    ]
    found = msgspec.json.decode(msgspec.json.encode(raw), type=Manifest)
    chain = tuple(link for link in FALLBACK if link.name in {"before", "recent_mean", "zero"})
    serving = msgspec.structs.replace(SERVING, breaker=BreakerDeclaration())
    assert found == msgspec.structs.replace(MANIFEST, fallback=chain, fallback_features=(), serving=serving)


@pytest.mark.parametrize("name", ["feature_view.sql", "training.sql", "metric.sql", "monitor.sql"])
def test_the_golden_sql_is_one_select(name: str) -> None:
    assert Query.parse((FOLDER / name).read_text("utf-8"), name).tree is not None


def test_the_golden_seal_is_over_the_golden_manifest() -> None:
    data, seal = (FOLDER / "manifest.json").read_bytes(), (FOLDER / "manifest.json.sig").read_bytes()
    found = Trusted(FOLDER).verify(data, seal, "manifest.json")
    assert msgspec.json.encode(found) == seal
    assert set(msgspec.json.decode(seal)) == {field.name for field in msgspec.structs.fields(Seal)}


@pytest.mark.parametrize("name", [*STORED, *WRITTEN])
def test_no_field_is_without_a_golden_value(name: str) -> None:
    """Fails when a struct gains a field that the golden file does not show."""
    root = type({**STORED, **WRITTEN}[name])
    shown: dict[tuple[str, str], bool] = {}
    gaps = list(_gaps(decoded(name), root, name, shown))
    assert gaps == []
    reachable = {(kind.__name__, field.name) for kind in _structs(root) for field in msgspec.structs.fields(kind)}
    empty = reachable - {field for field, filled in shown.items() if filled}
    assert empty == set()


def test_each_struct_that_says_its_schema_has_a_golden_file() -> None:
    """Found in the source, so that nobody has to remember it."""
    shown = {kind.__name__ for value in STORED.values() for kind in _structs(type(value))} | {Seal.__name__}
    stored = {
        node.name
        for path in sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == "schema" for part in node.body)
    }
    assert stored - shown == set()


def test_the_search_for_gaps_finds_a_field_deep_down() -> None:
    raw = decoded("manifest.json")
    del raw["features"][0]["columns"][0]["missing"]
    assert list(_gaps(raw, Manifest, "m", {})) == ["m.features[].columns[].missing"]
    record = decoded("record_3.msgpack")
    record[-3].pop()
    assert len(list(_gaps(record, Record, "r", {}))) == 1


@pytest.mark.parametrize("name", [name for name in STORED if not name.endswith(".msgpack")])
def test_a_field_of_a_later_release_is_ignored(name: str) -> None:
    newer = msgspec.json.encode({**decoded(name), "from_the_future": {"a": 1}})
    assert msgspec.json.decode(newer, type=type(STORED[name])) == STORED[name]


def test_a_manifest_whose_declarations_have_keys_of_a_later_release_is_read() -> None:
    def newer(value: Any, kind: Any) -> Any:
        found = {type(value): value}
        if isinstance(kind, msgspec.inspect.StructType) and dict in found:
            types = {field.encode_name: field.type for field in kind.fields}
            return {name: newer(one, types[name]) for name, one in value.items()} | {"from_the_future": [{"a": 1}]}
        if isinstance(kind, msgspec.inspect.VarTupleType) and list in found:
            return [newer(one, kind.item_type) for one in value]
        return value

    # given a manifest each of whose objects, however deep, has one more key
    written = msgspec.json.encode(newer(decoded("manifest.json"), msgspec.inspect.type_info(Manifest)))
    assert written.count(b"from_the_future") > 8
    # then it is read as if they were not there, and what is wrong is still an error
    assert decode(written, Manifest, "m") == STORED["manifest.json"]
    with pytest.raises(FormatError, match="timeout_ms"):
        decode(written.replace(b'"timeout_ms":', b'"timeout_ms":-'), Manifest, "m")


def test_an_event_and_a_rule_of_a_later_release_are_read() -> None:
    entry, verdict = decoded("log_entry.json"), decoded("verdict.json")
    entry["event"]["kind"], verdict["rules"][0]["name"] = "shadowed", "energy"
    assert msgspec.convert(entry, LogEntry).state == LOG_ENTRY.state
    assert not msgspec.convert(verdict, Verdict).passed


@pytest.mark.parametrize("name", [name for name in STORED if name.endswith(".msgpack")])
def test_a_column_of_a_later_release_is_ignored(name: str) -> None:
    newer = msgspec.msgpack.encode([*decoded(name), "from the future"])
    assert msgspec.msgpack.decode(newer, type=type(STORED[name])) == STORED[name]


def test_the_reasons_on_the_wire_are_these() -> None:
    assert REASONS == ("ok", "down", "slow", "wrong", "features", "overloaded", "killed", "holdout")


def _gaps(raw: Any, kind: Any, where: str, shown: dict[tuple[str, str], bool]) -> Iterator[str]:
    """Walk plain values beside their types: ``path.field`` of every field that a struct has and the file has not."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        if isinstance(raw, list):  # array_like: by position
            raw = dict(zip([field.encode_name for field in fields], raw, strict=False))
        for field in fields:
            if field.encode_name not in raw:
                if (kind.__name__, field.name) not in UNFILLABLE:
                    yield f"{where}.{field.name}"
                continue
            value = raw[field.encode_name]
            key = (kind.__name__, field.name)
            shown[key] = shown.get(key, False) or value not in (None, "", [], {})
            yield from _gaps(value, field.type, f"{where}.{field.name}", shown)
        return
    for part in typing.get_args(kind):
        inner = [part] if raw is not None else []
        for each in inner:
            if isinstance(raw, list) and _is_many(kind):
                for item in raw:
                    yield from _gaps(item, each, f"{where}[]", shown)
            elif isinstance(raw, Mapping) and typing.get_origin(kind) is dict:
                for item in raw.values():
                    yield from _gaps(item, each, f"{where}{{}}", shown)
            elif _is_union(kind) or typing.get_origin(kind) is typing.Annotated:
                yield from _gaps(raw, each, where, shown)


def _structs(kind: Any) -> set[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        below = [_structs(field.type) for field in msgspec.structs.fields(kind)]
        return {kind}.union(*below)
    return set().union(*[_structs(part) for part in typing.get_args(kind)])


def _is_many(kind: Any) -> bool:
    return typing.get_origin(kind) in (list, tuple)


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _write() -> None:
    """Write the golden files that are missing; the key is for this folder alone."""
    import tempfile

    FOLDER.mkdir(exist_ok=True)
    for name, value in STORED.items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(encoded(name, value))
    with tempfile.TemporaryDirectory() as folder:
        key = b"ed25519:" + base64.b64encode(bytes(range(32))) + b"\n"
        (Path(folder) / "signing.key").write_bytes(key)
        signer = Signer(Path(folder))
        seal = FOLDER / "manifest.json.sig"
        if not seal.exists():
            seal.write_bytes(signer.seal((FOLDER / "manifest.json").read_bytes()))
            public = b"ed25519:" + base64.b64encode(signer.public) + b"\n"
            (FOLDER / f"{signer.key_id}.pub").write_bytes(public)


if __name__ == "__main__":
    _write()
