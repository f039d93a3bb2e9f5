"""What the benchmarks share: a server process, its CPU time, a load, medians, and JSON lines."""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def emit(**figures: object) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(figures), flush=True)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def post(url: str, body: bytes, timeout_s: float = 5.0, headers: Mapping[str, str] | None = None) -> bytes:
    """The answer's body; raises on anything but 200."""
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"} | dict(headers or {}))
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return answer.read()


def first_answer(
    url: str, body: bytes, started: float, within_s: float = 60.0, headers: Mapping[str, str] | None = None
) -> tuple[float, bytes]:
    """Seconds from `started` to the first 200, asking every 5 ms, and that answer."""
    while time.perf_counter() - started < within_s:
        try:
            answer = post(url, body, headers=headers)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.005)
            continue
        return time.perf_counter() - started, answer
    raise TimeoutError(f"{url} did not answer within {within_s} s")


@contextmanager
def process(argv: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in its own group, ended with SIGTERM."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    running = subprocess.Popen(
        argv, env=os.environ | variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield running
        if running.poll() is not None:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of the process tree so far, user and system."""
    total = 0
    for member in family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Proportional memory of the process tree."""
    total = 0
    for member in family(pid):
        rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1])
    return total / 1024


def load(
    url: str,
    body: bytes,
    *,
    seconds: float,
    connections: int = 16,
    headers: Mapping[str, str] | None = None,
    script: str = "",
) -> dict[str, float]:
    """Requests a second and latency from wrk, which spends little CPU of its own; `script` is more of its Lua.

    Raises:
        SystemExit: wrk is not installed, or an answer was not 200.
    """
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        sent, post_lua = Path(folder) / "body", Path(folder) / "post.lua"
        sent.write_bytes(body)
        lines = ['wrk.method = "POST"', f'wrk.body = io.open("{sent}", "rb"):read("*a")']
        given = {"Content-Type": "application/json"} | dict(headers or {})
        post_lua.write_text(
            "\n".join(lines + [f'wrk.headers["{name}"] = "{value}"' for name, value in given.items()] + [script])
        )
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(post_lua), url]
        out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"not every answer was 200:\n{out}")
    requests = int(re.search(r"(\d+) requests in", out)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    p50, p99 = (_ms(re.search(rf"^\s+{p}%\s+(\S+)", out, re.MULTILINE)[1]) for p in (50, 99))
    return {"requests": requests, "requests_per_s": rate, "p50_ms": p50, "p99_ms": p99}


def grpc_load(
    address: str, method: str, message: bytes, *, seconds: float, connections: int = 16, headers: Sequence[str] = ()
) -> dict[str, float]:
    """Unary gRPC calls a second from h2load, one at a time on each connection; the message is framed here.

    Raises:
        SystemExit: h2load is not installed, or a call got no answer.
    """
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is missing: apt-get install nghttp2-client")
    with tempfile.NamedTemporaryFile() as framed:
        framed.write(b"\0" + len(message).to_bytes(4, "big") + message)
        framed.flush()
        argv = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds:g}", "-d", framed.name]
        for header in ("content-type: application/grpc", "te: trailers", *headers):
            argv += ["-H", header]
        out = subprocess.run([*argv, f"http://{address}{method}"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed, (\d+) errored", out)
    if found is None or int(found[3]) or int(found[4]):
        raise SystemExit(f"not every call was answered:\n{out}")
    return {"requests": int(found[2]), "requests_per_s": int(found[2]) / seconds}


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def _ms(text: str) -> float:
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise ValueError(text)
