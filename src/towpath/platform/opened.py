"""The platform: settings, stores and rooms, joined; each store is opened when it is first asked for."""

import getpass
import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from towpath import settings as configuration
from towpath.clock import Clock, FixedClock, SteppedClock, SystemClock
from towpath.settings import ClockSettings, Settings, masked
from towpath.types import utc

if TYPE_CHECKING:
    import pyarrow as pa

    from towpath.platform.answering import Predicted
    from towpath.platform.callers import Callers
    from towpath.platform.features import Features
    from towpath.platform.lifecycle import Models
    from towpath.platform.sources import Sources
    from towpath.platform.watch import Watch
    from towpath.project import Project
    from towpath.registry.signing import Signer, Trusted
    from towpath.stores.catalog import Catalog
    from towpath.stores.objects import Objects
    from towpath.stores.online import OnlineStore
    from towpath.training.runs import Runs
    from towpath.warehouse import Engine, Warehouse

__all__ = ["Platform"]

_FILES = ("parquet", "csv", "jsonl")
_TABLE = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*)")


T = TypeVar("T")


class _Shared(cached_property[T]):
    """Opened when it is first asked for, once for a platform and for all that `Platform.at` made of it."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None or instance._opener is None:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - our own class
            return super().__get__(instance, owner)
        return getattr(instance._opener, str(self.attrname))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as above


class Platform:
    """One project on one fleet. Made by `towpath.open`; the command line and notebooks use the same object.

    Args:
        folder: The project folder.
        settings: What `towpath.settings.load` gave.
        clock: Where the time comes from.
        variables: The process environment.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Settings,
        *,
        clock: Clock | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.settings = settings
        self.clock: Clock = clock or _clock(self.folder, settings.clock)
        self.variables = os.environ if variables is None else variables
        self._opener: Platform | None = None
        """Whose stores these are, where this is another moment of that platform."""

    @classmethod
    def open(
        cls, folder: str | Path, *, clock: Clock | None = None, variables: Mapping[str, str] | None = None
    ) -> "Platform":
        """Read the settings of the project in `folder`.

        Args:
            folder: Holds ``towpath.toml``.
            clock: Where the time comes from; the machine's own unless given.
            variables: The process environment, unless given.

        Raises:
            ProjectError: There is no project, or its settings are wrong.
        """
        return cls(folder, configuration.load(Path(folder), variables), clock=clock, variables=variables)

    def __repr__(self) -> str:
        project = self.settings.project
        return f"Platform({project.name!r} of {project.team!r} at '{self.folder}', {self.settings.environment}, {masked(self.settings.stores.objects)})"

    def _repr_html_(self) -> str:
        from towpath.platform import shown

        settings = self.settings
        stores = {name: masked(getattr(settings.stores, name)) for name in ("objects", "online", "catalog")} | {
            "warehouse": masked(settings.warehouse.url)
        }
        told = {
            "team": settings.project.team,
            "folder": self.folder,
            "environment": settings.environment,
            "now": self.now(),
            **stores,
            "models": shown.or_the_fault(lambda: ", ".join(self.models)),
        }
        rows = [{"what": name, "is": value} for name, value in told.items()]
        return shown.as_html(f"Towpath project {settings.project.name}", rows)

    def at(self, as_of: datetime | str | None) -> "Platform":
        """The same platform at another moment; None is the present one."""
        if as_of is None:
            return self
        moved = Platform(self.folder, self.settings, clock=FixedClock(utc(as_of)), variables=self.variables)
        moved._opener = self._opener or self
        return moved

    @property
    def environments(self) -> Path:
        """Folder of the environments that locks of models describe; servers of this folder share it."""
        return self.folder / ".towpath" / "serving" / "environments"

    def now(self) -> datetime:
        """The present moment of this platform's clock."""
        return self.clock.now()

    @property
    def who(self) -> str:
        """Who acts, for the record."""
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            return "unknown"

    @_Shared
    def project(self) -> "Project":
        """The folder's files as frozen values."""
        from towpath import project

        return project.read(self.folder, self.variables)

    @_Shared
    def objects(self) -> "Objects":
        """Versions, logs, published views, the journal."""
        from towpath.stores.objects import Objects

        return Objects(configuration.secret(self.settings.stores.objects, self.folder, self.variables), self.folder)

    @_Shared
    def online(self) -> "OnlineStore":
        """The newest feature row for each key."""
        from towpath.stores.online import open_online

        return open_online(configuration.secret(self.settings.stores.online, self.folder, self.variables), self.folder)

    @_Shared
    def online_glance(self) -> "OnlineStore":
        """The same for somebody at a prompt, who would rather be told after a second that it does not answer."""
        from towpath.stores.online import GLANCE_MS, open_online

        url = configuration.secret(self.settings.stores.online, self.folder, self.variables)
        return open_online(url, self.folder, timeout_ms=GLANCE_MS)

    @_Shared
    def catalog(self) -> "Catalog":
        """Runs, checks and incidents: what people look at."""
        from towpath.stores.catalog import Catalog

        return Catalog(configuration.secret(self.settings.stores.catalog, self.folder, self.variables), self.folder)

    @_Shared
    def warehouse(self) -> "Warehouse":
        """The tables that feature and training SQL reads."""
        from towpath.platform.push import landing_tables
        from towpath.warehouse import TakesLanded, open_warehouse

        opened = open_warehouse(self.settings.warehouse, self.folder, self.variables)
        if isinstance(opened, TakesLanded):
            opened.take_landed(landing_tables(self))
        return opened

    @_Shared
    def trusted(self) -> "Trusted":
        """Whose signatures count."""
        from towpath.registry.signing import Trusted

        return Trusted(self.keys)

    @_Shared
    def signer(self) -> "Signer":
        """The signing key of this machine; made at first use, because a clone has none."""
        from towpath.registry.signing import Signer, make_keys

        make_keys(self.keys)
        return Signer(self.keys)

    @property
    def keys(self) -> Path:
        """Folder of the signing key and of the trusted public keys."""
        return self.folder / self.settings.stores.keys

    @cached_property
    def features(self) -> "Features":
        """Views: training sets, the online table, reads."""
        from towpath.platform.features import Features

        return Features(self)

    @cached_property
    def sources(self) -> "Sources":
        """The tables that views and spines read: whether they are well, and what hangs on them."""
        from towpath.platform.sources import Sources

        return Sources(self)

    @cached_property
    def models(self) -> "Models":
        """The project's models by name: train, gate, promote, predict."""
        from towpath.platform.lifecycle import Models

        return Models(self)

    @cached_property
    def consumers(self) -> "Callers":
        """Who may call: keys, scopes, quotas, what was promised and what was kept."""
        from towpath.platform.callers import Callers

        return Callers(self)

    @cached_property
    def watch(self) -> "Watch":
        """What happened: SQL over the journal, monitors, incidents, the fleet."""
        from towpath.platform.watch import Watch

        return Watch(self)

    @property
    def runs(self) -> "Runs":
        """Training and batch runs in the catalog."""
        from towpath.platform.training import published
        from towpath.training.runs import Runs

        return Runs(
            self.catalog,
            self.settings.project.name,
            self.folder / ".towpath" / "runs",
            self.clock,
            published=partial(published, self.objects),
        )

    def engine(self) -> "Engine":
        """A new DuckDB engine for journal SQL, with the memory and threads of ``[warehouse]``."""
        from towpath.warehouse import Engine

        return Engine(self.settings.warehouse.memory_mib, self.settings.warehouse.threads)

    def sql(self, text: str, *, since: datetime | None = None, until: datetime | None = None) -> "pa.Table":
        """Ask the journal: views ``predictions``, ``outcomes``, ``matured``, ``previous``, ``runs``.

        Args:
            text: One SELECT; ``:as_of``, ``:since`` and ``:until`` are bound.
            since: First day that is read; thirty days back unless given.
            until: End of what is read, exclusive; the clock's present moment unless given.

        Returns:
            An Arrow table; times are UTC.
        """
        return self.watch.sql(text, since=since, until=until)

    def predict(self, model: str, *, to: "str | Path | None" = None) -> "Predicted":
        """Answer every row of the model's newest moment: one run, journalled; see `ModelHandle.predict`.

        Args:
            model: Its name.
            to: Also write the answers: a file (``.parquet .csv .jsonl``), or ``schema.table`` of a warehouse of files (the schema's
                folder must be there) or of PostgreSQL, whose rows are replaced.
        """
        return self.models[model].predict(to=None if to is None else self.target(to))

    def target(self, to: "str | Path") -> "Path | str":
        """Where answers go: a file as it is, ``schema.table`` as the file that the warehouse reads it from, or as a table there.

        Raises:
            InputError: It is a table, and the warehouse takes none.
        """
        from towpath.errors import InputError
        from towpath.settings import secret
        from towpath.warehouse import TakesTables

        scheme, _, root = secret(self.settings.warehouse.url, self.folder, self.variables).partition("://")
        named, at = _TABLE.fullmatch(str(to)), self.folder / (root or "warehouse")
        if named is None or (scheme == "duckdb" and not (at / named[1]).is_dir()):
            return Path(to)
        if scheme == "duckdb" and str(to) not in self.settings.warehouse.tables:
            return at / named[1] / f"{named[2]}.parquet"
        if named[2] in _FILES:
            return Path(to)
        if scheme == "duckdb" or not isinstance(self.warehouse, TakesTables):
            raise InputError(
                f"The table '{to}' is not ours to write.", "towpath.toml, [warehouse]", "--to answers.parquet"
            )
        return str(to)

    def trust_again(self) -> None:
        """Read the trusted keys anew, after the first one was made."""
        (self._opener or self).__dict__.pop("trusted", None)

    def close(self) -> None:
        """Let go of the stores that were opened, also of those that were opened by another moment of this platform."""
        opener = self._opener or self
        for name in ("online", "online_glance", "catalog", "warehouse"):
            if name in opener.__dict__:
                opener.__dict__.pop(name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _clock(folder: Path, simulated: ClockSettings) -> Clock:
    return SteppedClock(folder / simulated.file) if simulated.file else SystemClock()
