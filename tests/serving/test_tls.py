"""TLS with an authority of our own, by real clients: both doors, the short way, a renewal, and files that cannot be used."""

import ipaddress
import os
import ssl
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from serving_stand import PlainModel, Running, a_manifest, deployed
from tritonclient.utils import InferenceServerException

from towpath import Client
from towpath.clock import SystemClock
from towpath.errors import ProjectError, UnavailableError
from towpath.serving.served import Served
from towpath.serving.tls import tls_of

triton_grpc: Any = tritonclient.grpc  # it has no types
DAY = timedelta(days=1)


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of our own")])
        made = self._signed(self._name, self._key.public_key(), days=10, authority=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def sign(self, name: str, *, days: int = 10, password: bytes | None = None) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = self._signed(subject, key.public_key(), days=days)
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
        return paths

    def _signed(self, subject: x509.Name, public: Any, *, days: int, authority: bool = False) -> x509.Certificate:
        now = SystemClock().now()
        here = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 20 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(here, critical=False)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def serving(folder: Path, cert: Path, key: Path, **more: Any) -> Running:
    return Running(
        folder, deployed(Served(a_manifest(), PlainModel())), tls_cert=str(cert), tls_key=str(key), poll_ms=50, **more
    )


def test_both_doors_speak_tls_and_nothing_else(authority: Authority, tmp_path: Path) -> None:
    running = serving(tmp_path, *authority.sign("server"))
    url = f"https://127.0.0.1:{running.ports.http}"
    try:
        trusting = ssl.create_default_context(cafile=authority.path)
        with httpx.Client(verify=trusting) as client:
            for body in (
                [{"a": 1.0, "b": 2.0}],
                [{"a": 1.0, "b": 2.0, "pad": "x" * 70_000}],
            ):  # the short way, and uvicorn's
                row = client.post(f"{url}/predict/demand", json=body)
                assert row.json().get("predictions", [{}])[0].get("prediction") == 3.0 or row.status_code == 400
            many = [client.post(f"{url}/predict/demand", json=[{"a": n, "b": 1.0}]).json() for n in range(50)]
            assert [one["predictions"][0]["prediction"] for one in many] == [n + 1.0 for n in range(50)]
            assert client.get(f"{url}/v2/health/ready").status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/v2", verify=ssl.create_default_context())
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{running.ports.http}/v2")
        asked = triton_grpc.InferInput("x", [1, 2], "FP64")
        asked.set_data_from_numpy(np.ones((1, 2)))
        address = f"127.0.0.1:{running.ports.grpc}"
        with triton_grpc.InferenceServerClient(address, ssl=True, root_certificates=str(authority.path)) as client:
            assert client.infer("demand", [asked]).as_numpy("prediction").tolist() == [2.0]
        with (
            triton_grpc.InferenceServerClient(address) as client,
            pytest.raises(InferenceServerException, match="UNAVAILABLE"),
        ):
            client.infer("demand", [asked])
    finally:
        running.close()


def test_a_client_says_what_its_handshake_lacks(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serving(tmp_path, *authority.sign("server"))
    plain = Running(tmp_path / "plain", deployed(Served(a_manifest(), PlainModel())))
    url = f"https://127.0.0.1:{running.ports.http}"
    row = {"a": 1.0, "b": 2.0}
    try:
        with Client(url, tries=1) as client, pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY") as unknown:
            client.predict("demand", row)
        assert "SSL_CERT_FILE" in unknown.value.mend
        wrong = f"https://127.0.0.1:{plain.ports.http}"
        with Client(wrong, tries=1) as client, pytest.raises(UnavailableError) as no_tls:
            client.predict("demand", row)
        assert "http://" in no_tls.value.mend
        # when that is done, it answers
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
        monkeypatch.setattr(
            "httpx._transports.default.create_ssl_context", httpx.create_ssl_context
        )  # kept by conftest
        with Client(url) as client:
            assert client.predict("demand", row).prediction == 3.0
    finally:
        running.close()
        plain.close()


def bearer_of(port: int, authority: Authority) -> int:
    """Serial number of the certificate that a new connection is shown."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(authority.path))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def grpc_answers(port: int, authority: Authority) -> bool:
    credentials = grpc.ssl_channel_credentials(authority.path.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        grpc.channel_ready_future(channel).result(timeout=5)
    return True


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = authority.sign("server")
    running = serving(tmp_path, cert, key)
    try:
        with httpx.Client(verify=ssl.create_default_context(cafile=authority.path)) as held:
            url = f"https://127.0.0.1:{running.ports.http}/v2/health/ready"
            assert held.get(url).status_code == 200
            first = bearer_of(running.ports.http, authority)
            # when half of a renewal is there, the old one goes on, and it is said once
            renewed = authority.sign("renewed")
            cert.write_bytes(renewed[0].read_bytes())
            time.sleep(0.4)
            assert bearer_of(running.ports.http, authority) == first
            assert len([r for r in caplog.records if "not used" in r.message]) == 1
            # when the other half follows, new connections see it, and the old connection goes on
            key.write_bytes(renewed[1].read_bytes())
            until = time.monotonic() + 10
            while bearer_of(running.ports.http, authority) == first:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert held.get(url).status_code == 200
            for ports in (running.ports.http, running.ports.grpc):
                assert bearer_of(ports, authority) == x509.load_pem_x509_certificate(cert.read_bytes()).serial_number
            assert grpc_answers(running.ports.grpc, authority)
    finally:
        running.close()


def test_files_that_cannot_be_used_are_refused_with_what_is_wrong(authority: Authority, tmp_path: Path) -> None:
    good, key = authority.sign("server")
    other = authority.sign("other")[1]
    late, late_key = authority.sign("late", days=-1)
    locked, locked_key = authority.sign("locked", password=b"secret words")
    text = tmp_path / "text"
    text.write_text("this is no certificate")
    assert tls_of("", "", tmp_path) is None
    assert tls_of("server.pem", "server.key", tmp_path) is not None
    both = tmp_path / "both.pem"
    both.write_bytes(good.read_bytes() + key.read_bytes())
    assert tls_of("both.pem", "", tmp_path) is not None
    for cert, with_key, said in (
        (late, late_key, "expired"),
        (good, other, "does not belong"),
        (text, key, "no PEM block"),
        (good, text, "no PEM block"),
        (tmp_path / "none.pem", key, "No such file"),
        (good, tmp_path / "none.key", "No such file"),
        (locked, locked_key, "password"),
        ("", key, "no certificate"),
    ):
        with pytest.raises(ProjectError, match=said) as error:
            tls_of(str(cert), str(with_key), tmp_path)
        assert "secret words" not in str(error.value)


def test_the_command_says_https_and_an_expired_certificate_stops_it(authority: Authority, tmp_path: Path) -> None:
    import onnx

    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "same", value[:1], value[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "same.onnx",
    )
    argv = [sys.executable, "-m", "towpath.cli", "serve", "same.onnx", "--port", "0", "--grpc-port", "0"]
    argv += ["--state", str(tmp_path / "state")]

    def environment(cert: Path, key: Path) -> dict[str, str]:
        return os.environ | {"TOWPATH__SERVING__TLS_CERT": cert.name, "TOWPATH__SERVING__TLS_KEY": key.name}

    late = subprocess.run(
        argv,
        cwd=tmp_path,
        env=environment(*authority.sign("late", days=-1)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (late.returncode, "expired" in late.stderr) == (2, True), late.stderr
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment(*authority.sign("server")), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(3)]
        url = next(line for line in lines if line.startswith("http: ")).removeprefix("http: ")
        assert url.startswith("https://127.0.0.1:")
        assert lines[-1].endswith(", TLS")
        answer = httpx.get(f"{url}/v2", verify=ssl.create_default_context(cafile=authority.path))
        assert answer.json()["models"] == ["same"]
        process.terminate()
        assert process.wait(20) == 0
