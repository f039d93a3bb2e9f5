"""The code of a version: what is packed, that it packs to the same bytes, and how it is imported."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from towpath.errors import FormatError, ModelError, ProjectError
from towpath.models import pack_code, project_module, unpack_code

Project = Callable[..., Path]


def pack(root: Path) -> bytes:
    return pack_code(root, root / "models" / "demand")


def test_the_model_folder_and_what_it_imports_is_packed_and_nothing_else(project: Project) -> None:
    root = project(
        "import json, numpy\nfrom lib import prices\nfrom .near import x\ndef train(data):\n    import late\n",
        **{"lib/__init__": ""},
        lib__prices="from lib.deep import y",
        lib__deep="y = 1",
        late="",
        unused="",
        models__demand__near="x = 1",
        models__other__model="",
    )
    names = set(unpack_code(pack(root)))
    assert names == {
        "models/demand/model.py",
        "models/demand/near.py",
        "lib/__init__.py",
        "lib/prices.py",
        "lib/deep.py",
        "late.py",
    }


def test_the_same_files_give_the_same_bytes(project: Project) -> None:
    assert pack(project("x = 1", a="")) == pack(project("x = 1", a=""))


def test_imports_find_the_project_whichever_way_they_are_written(project: Project) -> None:
    root = project(
        "import lib.prices\nimport lib.prices as p\nfrom lib import prices, deep\nfrom lib.prices import PRICE\n"
        "from .near import NEAR\nimport near\nimport models.demand.near as far\nimport os.path\n"
        "def late():\n    from lib.deep import DEEP\n    return DEEP\n"
        "ALL = (lib.prices.PRICE, p.PRICE, prices.PRICE, deep.DEEP, PRICE, NEAR, near.NEAR, far.NEAR, os.path.sep)\n",
        **{"lib/__init__": ""},
        lib__prices="PRICE = 1",
        lib__deep="DEEP = 2",
        models__demand__near="NEAR = 3",
    )
    module = project_module(pack(root), "demand")
    assert module.ALL == (1, 1, 1, 2, 1, 3, 3, 3, "/")
    assert module.late() == 2
    assert not {"lib", "near", "models"} & set(sys.modules)
    assert project_module(pack(root), "demand") is module


def test_a_project_without_model_py_and_a_file_that_is_no_python_are_named(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"no model\.py"):
        pack_code(tmp_path, tmp_path)
    with pytest.raises(ProjectError, match="is no Python") as fault:
        pack(project("x = 1\ndef (:\n"))
    assert fault.value.where.endswith("model.py:2")


def test_code_that_fails_at_import_is_named_with_its_line(project: Project) -> None:
    root = project("import no_such_library_of_anybody\n")
    with pytest.raises(ModelError, match="no_such_library_of_anybody") as fault:
        project_module(pack(root), "demand", root=root)
    assert fault.value.where == f"{root}/models/demand/model.py:1"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"text"])
def test_damaged_code_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="damaged"):
        project_module(data, "demand")


def test_code_of_another_model_is_refused(project: Project) -> None:
    with pytest.raises(FormatError, match=r"no models/other/model\.py"):
        project_module(pack(project("x = 2")), "other")
