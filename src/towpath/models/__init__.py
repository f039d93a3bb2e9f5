"""Models: told from their bytes, loaded without running what was not trusted, called with columns."""

from towpath.models.code import module_at, pack_code, project_module, unpack_code
from towpath.models.columns import Columns, Matrix, columns_from_rows, columns_from_tensor, rows_in
from towpath.models.compiling import compiled
from towpath.models.containers import columns_of, container, fields_of
from towpath.models.formats import Found, sniff
from towpath.models.loading import (
    compile_file,
    left_of_on_demand,
    load_file,
    load_functions,
    load_on_demand,
    load_version,
    on_demand_of,
)
from towpath.models.model import Model, Outputs, kind_of, output_fields
from towpath.models.saving import as_answered, save, signature_of

__all__ = [
    "as_answered",
    "Columns",
    "Found",
    "Matrix",
    "Model",
    "Outputs",
    "columns_from_rows",
    "columns_from_tensor",
    "columns_of",
    "compile_file",
    "compiled",
    "container",
    "fields_of",
    "kind_of",
    "left_of_on_demand",
    "load_file",
    "load_functions",
    "load_on_demand",
    "load_version",
    "module_at",
    "on_demand_of",
    "output_fields",
    "pack_code",
    "project_module",
    "rows_in",
    "save",
    "signature_of",
    "sniff",
    "unpack_code",
]
