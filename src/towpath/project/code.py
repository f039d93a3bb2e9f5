"""What model.py offers, read from its text: it is never imported to be checked."""

import ast

import msgspec

__all__ = ["Code", "CodeFault", "read_code"]


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The functions of a ``model.py``."""

    functions: dict[str, int]
    """Name → line of each plain function at the top level."""

    @property
    def has_predict(self) -> bool:
        """Whether the project answers itself and does not leave it to the trained object."""
        return "predict" in self.functions


class CodeFault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a ``model.py`` cannot be used."""

    line: int
    what: str
    mend: str


def read_code(text: str, *, trained: bool = True) -> tuple[Code, list[CodeFault]]:
    r"""Find the functions of a module and what is wrong with those that Towpath calls.

    Args:
        text: The module's source.
        trained: Whether it must have ``train``.

    Returns:
        The functions, and the faults; none of the code runs.

    Example:
        >>> code, faults = read_code("def train(data):\n    return 1\n")
        >>> code.has_predict, faults
        (False, [])
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        fault = CodeFault(line=error.lineno or 1, what=f"the file does not compile: {error.msg}", mend="mend the line")
        return Code(functions={}), [fault]
    except ValueError as error:  # a null byte
        return Code(functions={}), [
            CodeFault(line=1, what=f"the file does not compile: {error}", mend="save it as text")
        ]
    found = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    top = {node.name: node for node in _top(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    imported = {
        alias.asname or alias.name for node in _top(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    faults: list[CodeFault] = []
    if trained and "train" not in top and "train" not in imported:
        inside = f" (there is one inside another block on line {found['train'].lineno})" if "train" in found else ""
        faults.append(CodeFault(line=1, what=f"there is no function train(data){inside}", mend="def train(data): …"))
    for name, arguments in (("train", 1), ("predict", 2)):
        if name in top:
            faults += _faults_of(top[name], arguments)
    functions = {name: node.lineno for name, node in top.items() if isinstance(node, ast.FunctionDef)}
    return Code(functions=functions | dict.fromkeys(imported, 1)), faults


def _top(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run when the module is imported, also those under ``if`` and ``try``."""
    found: list[ast.stmt] = []
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        found.append(node)
        if isinstance(node, ast.If | ast.Try):
            waiting += [*node.body, *node.orelse]
    return found


def _faults_of(node: ast.FunctionDef | ast.AsyncFunctionDef, arguments: int) -> list[CodeFault]:
    wanted = {1: f"{node.name}(data)", 2: f"{node.name}(model, rows)"}[arguments]
    if isinstance(node, ast.AsyncFunctionDef):
        return [CodeFault(line=node.lineno, what=f"{node.name} is async", mend=f"def {wanted}: …")]
    given = len(node.args.posonlyargs) + len(node.args.args)
    needed = given - len(node.args.defaults)
    required = [a for a, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is None]
    if needed > arguments or (given < arguments and node.args.vararg is None) or required:
        return [
            CodeFault(
                line=node.lineno,
                what=f"{node.name} takes {needed} arguments where it gets {arguments}",
                mend=f"def {wanted}: …",
            )
        ]
    return []
