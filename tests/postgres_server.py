"""A private PostgreSQL: a process of its own on a free port, also for root, killed by its id."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any


def program() -> Path | None:
    """Where ``initdb`` is; none where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    return Path(named).resolve() if named else found[-1] if found else None


class PostgresServer:
    """Started when made; `database` gives a new empty one."""

    def __init__(self, initdb: Path) -> None:
        # not below tmp_path: pytest keeps that to its own user, and the server refuses to be root
        self._folder = Path(tempfile.mkdtemp(prefix="towpath-postgres-"))
        user: dict[str, Any] = {}
        if os.getuid() == 0:
            postgres = pwd.getpwnam("postgres")
            os.chown(self._folder, postgres.pw_uid, postgres.pw_gid)
            user = {"user": postgres.pw_uid, "group": postgres.pw_gid}
        self._quiet: dict[str, Any] = {
            "cwd": self._folder,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
            **user,
        }
        words = ["-D", f"{self._folder}/data", "-U", "towpath", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([initdb, *words], check=True, **self._quiet)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._program = initdb.parent / "postgres"
        self._databases = 0
        self._server = self._started()

    @property
    def url(self) -> str:
        """Of the database ``postgres``."""
        return f"postgresql://towpath@127.0.0.1:{self.port}/postgres"

    def database(self) -> str:
        """The URL of a new empty database."""
        import psycopg

        self._databases += 1
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"create database towpath_{self._databases}".encode())
        return self.url.replace("/postgres", f"/towpath_{self._databases}")

    def restart(self) -> None:
        """End it at once, and start it again on the same port."""
        self._end()
        self._server = self._started()

    def close(self) -> None:
        """End it and remove its files."""
        self._end()
        shutil.rmtree(self._folder)

    def _started(self) -> "subprocess.Popen[Any]":
        import psycopg

        words = ["-D", f"{self._folder}/data", "-p", str(self.port), "-k", str(self._folder), "-h", "127.0.0.1", "-F"]
        server = subprocess.Popen([self._program, *words], **self._quiet)
        give_up = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < give_up, "the server did not start within 60 s"
                time.sleep(0.05)
            else:
                return server

    def _end(self) -> None:
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait()
