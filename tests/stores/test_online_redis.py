"""Redis and Valkey as an online store: the contract, and what only a server that others share must do."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from towpath.errors import ProjectError, UnavailableError
from towpath.stores.online import Inspected, OnlineStore, open_online
from towpath.testing.online_store import OnlineStoreContract, value

if TYPE_CHECKING:
    from tests.conftest import RedisServer

_numbers = count()


def fill(store: OnlineStore, rows: Iterator[tuple[bytes, bytes]]) -> None:
    """In small calls, so that the last one fails when there is hardly any room."""
    while some := list(islice(rows, 20)):
        store.write("large", some)


def opened(server: "RedisServer", timeout_ms: int = 5_000) -> OnlineStore:
    return open_online(f"{server.url()}?prefix=test{next(_numbers)}", Path(), timeout_ms=timeout_ms)


class TestRedis(OnlineStoreContract):
    engine = "Redis"

    @pytest.fixture
    def address(self, shared_redis: "RedisServer") -> tuple[str, Path]:
        return f"{shared_redis.url()}?prefix=test{next(_numbers)}", Path()

    @pytest.fixture
    def store(self, address: tuple[str, Path]) -> Iterator[OnlineStore]:
        store = open_online(*address, timeout_ms=5_000)
        yield store
        for table in store.tables():
            store.drop(table)
        store.close()

    def test_its_health_names_the_program_that_answers(self, store: OnlineStore) -> None:
        assert isinstance(store, Inspected)
        assert self.engine in store.health().detail.split()


class TestValkey(TestRedis):
    engine = "Valkey"

    @pytest.fixture
    def address(self, shared_valkey: "RedisServer") -> tuple[str, Path]:
        url = shared_valkey.url().replace("redis://", "valkey://")
        return f"{url}?prefix=test{next(_numbers)}", Path()


@pytest.fixture(scope="module")
def both(
    shared_redis: "RedisServer", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OnlineStore, OnlineStore]]:
    stores = opened(shared_redis), open_online("lmdb://online", tmp_path_factory.mktemp("both"))
    yield stores
    for store in stores:
        store.close()


keys = st.sampled_from([b"[1]", b"[11]", b"[1,1]", b"x" * 600])
times = st.one_of(st.integers(-2, 2), st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 32, (1 << 53) + 1, (1 << 53)]))
values = st.builds(value, times, times, st.binary(max_size=3))
calls = st.lists(st.lists(st.tuples(keys, values), max_size=8), max_size=6)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=calls)
def test_any_order_of_writes_converges_alike_in_redis_in_lmdb_and_in_a_dict(
    both: tuple[OnlineStore, OnlineStore], calls: list[list[tuple[bytes, bytes]]]
) -> None:
    # given a plain model: the greater times stay, of equals the later row
    model: dict[bytes, bytes] = {}
    for key, row in (row for call in calls for row in call):
        if key not in model or model[key][:16] <= row[:16]:
            model[key] = row
    # when each engine is written the same calls
    for store in both:
        store.drop("law")
        for call in calls:
            store.write("law", call)
    # then they hold what the model holds
    asked = [b"[1]", b"[11]", b"[1,1]", b"x" * 600]
    for store in both:
        assert store.read("law", asked) == [model.get(key) for key in asked]
        assert store.count("law") == len(model)


def test_prefixes_of_one_database_are_apart(shared_redis: "RedisServer") -> None:
    staging, production = opened(shared_redis), opened(shared_redis)
    staging.write("prices", [(b"[1]", value(1, 1, b"a"))])
    assert (production.tables(), production.read("prices", [b"[1]"])) == ([], [None])
    staging.close()
    production.close()


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_the_password_is_asked_for_and_never_shown(own_redis: "RedisServer", scheme: str) -> None:
    address = f"127.0.0.1:{own_redis.port}"
    admin = open_online(f"redis://{address}", Path())
    admin._ask(b"CONFIG", b"SET", b"requirepass", b"hunter2")  # pyright: ignore[reportAttributeAccessIssue]
    allowed = open_online(f"{scheme}://:hunter2@{address}/1", Path())
    allowed.write("prices", [(b"[1]", value(1, 1, b"a"))])
    assert allowed.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    refused = open_online(f"{scheme}://:hunter3@{address}/1", Path())
    with pytest.raises(UnavailableError) as caught:
        refused.read("prices", [b"[1]"])
    assert "hunter" not in f"{caught.value}{caught.value.where}{allowed!r}{refused!r}"
    assert "***@127.0.0.1" in caught.value.where


@pytest.mark.parametrize(
    "url", ["redis://db:6379x/0", "redis://db/0?decode_respones=1", "redis://db/0?ssl_cert_reqs=1&socket_timeout=soon"]
)
def test_an_address_that_is_none_is_refused_before_anybody_connects(url: str) -> None:
    with pytest.raises(ProjectError, match="no address of Redis"):
        open_online(url, Path())


def test_nobody_is_asked_before_the_first_read(tmp_path: Path) -> None:
    store = open_online("redis://127.0.0.1:1/0", tmp_path, timeout_ms=200)
    with pytest.raises(UnavailableError, match="cannot be used"):
        store.read("prices", [b"[1]"])
    store.close()


def test_a_server_that_was_started_anew_is_written_and_read_without_a_fault(own_redis: "RedisServer") -> None:
    store = opened(own_redis)
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    own_redis.kill()
    with pytest.raises(UnavailableError):
        store.read("prices", [b"[1]"])
    own_redis.start()
    assert store.read("prices", [b"[1]"]) == [None]
    store.write("prices", [(b"[1]", value(0, 0, b"b"))])
    assert store.read("prices", [b"[1]"]) == [value(0, 0, b"b")]
    store.close()


def test_a_server_that_hangs_costs_a_reader_no_more_than_the_timeout(own_redis: "RedisServer") -> None:
    store = opened(own_redis, timeout_ms=50)
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    store.read("prices", [b"[1]"])
    own_redis.pause()
    waited: list[float] = []
    for _ in range(3):  # with a connection that stands, and with new ones
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="in time"):
            store.read_many([("prices", [b"[1]"])] * 5)
        waited.append(time.monotonic() - started)
    own_redis.go_on()
    assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    assert min(waited) < 0.15  # the machine may be busy; the least tells what the store itself waits
    store.close()


def test_a_server_that_is_full_refuses_the_write_and_keeps_what_it_has(own_redis: "RedisServer") -> None:
    store = opened(own_redis)
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    store._ask(b"CONFIG", b"SET", b"maxmemory", b"6mb")  # pyright: ignore[reportAttributeAccessIssue]
    rows = ((f"[2,{i}]".encode(), value(2, 2, bytes(1_000))) for i in range(100_000))
    with pytest.raises(UnavailableError, match="memory"):
        fill(store, rows)
    assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    assert isinstance(store, Inspected)
    assert "MiB are used" in str(store.health().faults)
    store.close()


def test_an_evicting_server_and_a_replica_are_told(own_redis: "RedisServer") -> None:
    store = opened(own_redis)
    assert isinstance(store, Inspected)
    health = store.health()
    assert health.faults == ()
    assert health.round_trip_ms is not None
    store._ask(b"CONFIG", b"SET", b"maxmemory", b"100mb")  # pyright: ignore[reportAttributeAccessIssue]
    store._ask(b"CONFIG", b"SET", b"maxmemory-policy", b"volatile-lru")  # pyright: ignore[reportAttributeAccessIssue]
    assert store.health().faults == ()  # rows carry no expiry, so there is nothing that it may evict
    store._ask(b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lru")  # pyright: ignore[reportAttributeAccessIssue]
    store._ask(b"REPLICAOF", b"127.0.0.1", b"1")  # pyright: ignore[reportAttributeAccessIssue]
    assert [mend for _, mend in store.health().faults] == [
        "set maxmemory-policy to noeviction",
        "name the primary in stores.online",
    ]
    with pytest.raises(UnavailableError, match="replica"):
        store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    store.close()


def test_a_child_after_a_fork_speaks_on_connections_of_its_own(shared_redis: "RedisServer") -> None:
    store = opened(shared_redis)
    store.write("prices", [(b"[1]", value(1, 1, b"parent"))])
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            store.write("prices", [(b"[2]", value(1, 1, b"child"))])
            good = store.read("prices", [b"[1]"]) == [value(1, 1, b"parent")]
            store.close()
            os._exit(0 if good else 1)
        except BaseException:
            os._exit(2)
    for _ in range(50):
        assert store.read("prices", [b"[1]"]) == [value(1, 1, b"parent")]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read("prices", [b"[2]"]) == [value(1, 1, b"child")]
    store.close()


def test_threads_share_few_connections_and_never_one_at_a_time(shared_redis: "RedisServer") -> None:
    store = opened(shared_redis)
    store.write("prices", [(f"[{i}]".encode(), value(1, 1, b"%d" % i)) for i in range(100)])

    def read(i: int) -> bool:
        return store.read("prices", [f"[{i % 100}]".encode()]) == [value(1, 1, b"%d" % (i % 100))]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(2_000)))
    assert len(store._quick._idle) <= 8  # pyright: ignore[reportAttributeAccessIssue]
    store.close()


def certificates(folder: Path) -> Path:
    """A certificate authority of our own, and a server's certificate for 127.0.0.1 that it signed."""
    import ipaddress
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    from towpath.clock import SystemClock

    now = SystemClock().now()
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "our own authority")])

    def signed(name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    key = ec.generate_private_key(ec.SECP256R1())
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (folder / "ca.pem").write_bytes(signed(issuer, authority, x509.BasicConstraints(ca=True, path_length=None)))
    (folder / "server.pem").write_bytes(signed(x509.Name([]), key, here))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_over_tls_a_server_is_believed_whose_certificate_our_authority_signed_and_no_other(
    own_redis: "RedisServer", tmp_path: Path, scheme: str
) -> None:
    # given a server that speaks TLS on a second port
    made = certificates(tmp_path)
    port = free_port()
    admin = opened(own_redis)
    settings = {"tls-cert-file": "server.pem", "tls-key-file": "server.key", "tls-ca-cert-file": "ca.pem"}
    parts = [part.encode() for name, file in settings.items() for part in (name, str(made / file))]
    try:
        command(admin, b"CONFIG", b"SET", *parts, b"tls-auth-clients", b"no", b"tls-port", str(port).encode())
    except UnavailableError as error:
        pytest.skip(f"this redis-server was built without TLS: {error.what}")
    # when it is asked by somebody who knows the authority
    store = open_online(f"{scheme}://127.0.0.1:{port}/0?ssl_ca_certs={made}/ca.pem", Path())
    store.write("prices", [(b"[1]", value(1, 1, b"a"))])
    assert store.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    # then nobody who does not know it is told anything
    stranger = open_online(f"{scheme}://:hunter2@127.0.0.1:{port}/0", Path())
    with pytest.raises(UnavailableError, match=r"(?i)certificate") as caught:
        stranger.read("prices", [b"[1]"])
    assert "hunter2" not in f"{caught.value}{caught.value.where}"
    for each in (store, stranger, admin):
        each.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def command(store: OnlineStore, *parts: bytes) -> object:
    return store._ask(*parts)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


def test_a_user_who_may_only_read_reads_and_is_told_that_it_may_not_write(own_redis: "RedisServer") -> None:
    admin = opened(own_redis)
    command(admin, b"ACL", b"SETUSER", b"serving", b"on", b">hunter2", b"~towpath:*", b"+hmget", b"+ping")
    address = f"127.0.0.1:{own_redis.port}"
    more = b"+eval +hset +sadd +smembers +srem +unlink +hlen +info".split()
    command(admin, b"ACL", b"SETUSER", b"building", b"on", b">hunter2", b"~towpath:*", b"+hmget", b"+ping", *more)
    builder = open_online(f"redis://building:hunter2@{address}/0", Path())
    builder.write("prices", [(b"[1]", value(1, 1, b"a"))])
    builder.write("dropped", [])
    builder.drop("dropped")
    assert (builder.tables(), builder.count("prices")) == (["prices"], 1)
    assert isinstance(builder, Inspected)
    assert builder.health().faults == ()
    serving = open_online(f"redis://serving:hunter2@{address}/0", Path())
    assert serving.read("prices", [b"[1]"]) == [value(1, 1, b"a")]
    for fails in (lambda: serving.write("prices", [(b"[1]", value(2, 1, b"b"))]), serving.tables):
        with pytest.raises(UnavailableError, match="refuses") as caught:
            fails()
        assert "hunter2" not in f"{caught.value}{caught.value.where}{caught.value.mend}"
        assert "user" in caught.value.mend
    elsewhere = open_online(f"redis://serving:hunter2@{address}/0?prefix=other", Path())
    with pytest.raises(UnavailableError, match="refuses"):
        elsewhere.read("prices", [b"[1]"])
    nobody = open_online(f"redis://nobody:hunter2@{address}/0", Path())
    with pytest.raises(UnavailableError, match="refuses") as caught:
        nobody.read("prices", [b"[1]"])
    assert "hunter2" not in f"{caught.value}{caught.value.where}"
    for each in (admin, builder, serving, elsewhere, nobody):
        each.close()


def test_a_cluster_and_a_sentinel_are_refused_by_name(redis_program: str, tmp_path: Path) -> None:
    from tests.conftest import RedisServer

    server = RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    store = open_online(server.url(), Path())
    for fails in (lambda: store.read("prices", [b"[1]"]), lambda: store.write("prices", [(b"[1]", value(1, 1, b"a"))])):
        with pytest.raises(UnavailableError, match="Redis Cluster") as caught:
            fails()
        assert "primary" in caught.value.mend
    store.close()
    server.kill()
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 1 1\n")
    sentinel = subprocess.Popen([redis_program, str(configuration), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        store = open_online(f"redis://127.0.0.1:{port}/0", Path())
        until = time.monotonic() + 10
        said = ""
        while "Sentinel" not in said and time.monotonic() < until:  # it takes a moment to start
            with pytest.raises(UnavailableError) as refused:
                store.read("prices", [b"[1]"])
            said = refused.value.what
        assert "Redis Sentinel" in said
        store.close()
    finally:
        sentinel.kill()
        sentinel.wait()
