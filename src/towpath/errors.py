"""What can go wrong, as one tree: the class says who acts next, the text says what, where and how to mend.

TowpathError
├── CallerError        the one who called mends it; 4xx on the wire
│   ├── InputError         a value that cannot be read or does not fit            400  input
│   ├── UnknownError       no model, view, run or key of that name                404  unknown
│   ├── MethodError        a route that does not take this HTTP method            405  method
│   ├── DeniedError        no key, or one that is unknown, expired or revoked     401  denied
│   ├── ForbiddenError     a right key that may not do this                       403  forbidden
│   ├── TooLargeError      a body, a file or a number over its limit              413  too_large
│   └── QuotaError         more than the consumer's quota                         429  quota
├── OwnerError         the one who owns the model, project or platform mends it; 500 is never sent, see `code`
│   ├── ProjectError       a file of the project is wrong; carries every problem       project
│   ├── RefusedError       the answer is no: a gate, a promotion, a bind               refused
│   ├── FormatError        bytes that are not what they should be                 422  format
│   ├── ModelError         the user's own code failed or broke its promise        503  model
│   ├── UndefinedError     a number that does not exist (a ratio over zero)            undefined
│   ├── ResourceError      asked for more than there is, or used more than allowed     resource
│   └── ExtraError         a library that is not installed                             extra
└── RetryError         nobody is at fault: wait and try again; 503 with Retry-After
    ├── OverloadedError    a queue is full                                        503  overloaded
    ├── UnavailableError   a store, an engine or a model is away                  503  unavailable
    └── ConflictError      somebody else wrote first                              409  conflict
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import ClassVar

__all__ = [
    "CallerError",
    "ConflictError",
    "DeniedError",
    "ExtraError",
    "ForbiddenError",
    "FormatError",
    "InputError",
    "MethodError",
    "ModelError",
    "OverloadedError",
    "OwnerError",
    "ProjectError",
    "QuotaError",
    "RefusedError",
    "ResourceError",
    "RetryError",
    "TooLargeError",
    "TowpathError",
    "UnavailableError",
    "UndefinedError",
    "UnknownError",
    "by_code",
    "nearest",
]


class TowpathError(Exception):
    r"""Root of every error that Towpath raises on purpose.

    Args:
        what: What happened, with values in quotes and numbers with their limits.
        where: The file and line, setting or address at fault; empty where `what` says it.
        mend: What to do next, best a command; empty where nothing is known to help.

    Example:
        >>> str(RefusedError("demand@3 was not promoted.", where="model.toml", mend="tow gate demand@3"))
        'demand@3 was not promoted.\n  where: model.toml\n  mend:  tow gate demand@3'
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 503

    def __init__(self, what: str, where: str = "", mend: str = "") -> None:
        what = what.removesuffix(".") if what.endswith("?.") else what  # an offered name ends the sentence itself
        super().__init__(what, where, mend)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)


class CallerError(TowpathError):
    """The one who called mends it."""

    code = "caller"
    status = 400


class InputError(CallerError):
    """A value that cannot be read or does not fit; the text names the field."""

    code = "input"


class UnknownError(CallerError):
    """Nothing of that name exists; the text offers the nearest one."""

    code = "unknown"
    status = 404


class MethodError(CallerError):
    """The route is there, and does not take this HTTP method.

    Args:
        what: The route and the method.
        where: Where it stands.
        mend: What to do next.
        allow: The methods that it takes, as the header ``Allow`` names them.
    """

    code = "method"
    status = 405

    def __init__(self, what: str, where: str = "", mend: str = "", allow: str = "") -> None:
        super().__init__(what, where, mend)
        self.args = (what, where, mend, allow)
        self.allow = allow


class DeniedError(CallerError):
    """No key, or one that is unknown, expired or revoked."""

    code = "denied"
    status = 401


class ForbiddenError(CallerError):
    """The key is right, and may not do this; the text names the scope or the model."""

    code = "forbidden"
    status = 403


class TooLargeError(CallerError):
    """A body, a file or a number over its limit; the text names both."""

    code = "too_large"
    status = 413


class QuotaError(CallerError):
    """The consumer used up what was agreed.

    Args:
        what: Whose quota, and how much it is.
        where: Where it stands.
        mend: What to do next.
        retry_after_s: When the request would be taken.
    """

    code = "quota"
    status = 429

    def __init__(self, what: str, where: str = "", mend: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, where, mend)
        self.args = (what, where, mend, retry_after_s)
        self.retry_after_s = retry_after_s


class OwnerError(TowpathError):
    """The one who owns the model, the project or the platform mends it."""

    code = "owner"


class ProjectError(OwnerError):
    """One or more files of the project are wrong.

    Args:
        what: A headline, for example ``3 problems in shop``.
        where: The project folder.
        mend: What to do next.
        problems: One ``file:line: what; how to mend`` for each fault.
    """

    code = "project"

    def __init__(self, what: str, where: str = "", mend: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(what, where, mend)
        self.args = (what, where, mend, tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])


class RefusedError(OwnerError):
    """The answer is no, with the rule that said so."""

    code = "refused"
    status = 409


class FormatError(OwnerError):
    """Bytes that are not what they should be; the text says what was found in them."""

    code = "format"
    status = 422


class ModelError(OwnerError):
    """The user's own code failed, or broke the promise of its signature."""

    code = "model"


class UndefinedError(OwnerError):
    """The number asked for does not exist, such as a ratio whose denominator is zero."""

    code = "undefined"


class ResourceError(OwnerError):
    """More was asked for than there is, or more was used than was allowed."""

    code = "resource"


class ExtraError(OwnerError):
    """A library that this work needs is not installed; the text names the install line."""

    code = "extra"


class RetryError(TowpathError):
    """Nobody is at fault: wait and try again.

    Args:
        what: What is away or full.
        where: Where it stands.
        mend: What to do next.
        retry_after_s: When trying again may help.
    """

    code = "retry"

    def __init__(self, what: str, where: str = "", mend: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, where, mend)
        self.args = (what, where, mend, retry_after_s)
        self.retry_after_s = retry_after_s


class OverloadedError(RetryError):
    """A queue is full."""

    code = "overloaded"


class UnavailableError(RetryError):
    """A store, an engine or a model is away."""

    code = "unavailable"


class ConflictError(RetryError):
    """Somebody else wrote first; read again and decide again."""

    code = "conflict"
    status = 409


def by_code(*, families: bool = True) -> dict[str, type[TowpathError]]:
    """Code → class, in the order in which they are declared; of this tree alone, whatever other rooms make of it.

    Args:
        families: Whether those are wanted, too, that only gather others and are never sent.

    Example:
        >>> by_code()["quota"].__name__
        'QuotaError'
    """

    def walk(kind: type[TowpathError]) -> Iterator[type[TowpathError]]:
        yield kind
        for inner in kind.__subclasses__():
            if inner.__module__ == __name__:
                yield from walk(inner)

    gathering = (TowpathError, CallerError, OwnerError, RetryError)
    return {kind.code: kind for kind in walk(TowpathError) if families or kind not in gathering}


def nearest(name: str, known: Iterable[str]) -> str:
    """Offer the known name that is closest to a misspelt one.

    Args:
        name: What was written.
        known: What could have been meant.

    Returns:
        ``; did you mean 'demand'?`` or, where nothing is close, up to five of the known names, or an empty text.

    Example:
        >>> nearest("demnad", ["demand", "search"])
        "; did you mean 'demand'?"
        >>> nearest("x", ["demand", "search"])
        "; there are: 'demand', 'search'"
    """
    names = sorted(set(known))
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not names:
        return ""
    more = ", …" if len(names) > 5 else ""  # noqa: PLR2004 - five fit on a line
    return "; there are: " + ", ".join(f"'{n}'" for n in names[:5]) + more
