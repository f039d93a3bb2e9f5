"""What the page of the wire says beside its tables: methods of gRPC, tensors, examples that a test replays."""

__all__ = ["EXAMPLES", "METHODS", "TENSORS"]

METHODS = (
    ("ServerLive, ServerReady, ServerMetadata", "`/v2/health/live`, `/v2/health/ready`, `/v2`", ""),
    ("ModelReady, ModelMetadata, ModelConfig", "`/v2/models/<model>/ready`, `/v2/models/<model>`, `…/config`", ""),
    ("ModelInfer", "`/v2/models/<model>/infer`", "raw contents are answered raw, typed ones typed; FP16 goes raw only"),
    (
        "ModelStreamInfer",
        "",
        (
            "a stream of the same: each message has its own answer or its own `error_message` (with its `id` and `towpath-code` in "
            "`infer_response`), in order; keys and quotas count for each. The next message is read when the last is answered."
        ),
    ),
    (
        "towpath.v1.Prediction: Predict",
        "`/predict/<model>`",
        "rows by entity key or with features; `deploy/proto/prediction.proto`, for who generates a client",
    ),
    ("ModelStatistics", "`/v2/models/<model>/stats`; without a name `/v2/models/stats`", ""),
    ("RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload", "`/v2/repository/…`", "the messages of Triton, and those of KServe"),
    ("grpc.health.v1.Health: Check, List, Watch", "", "an empty service is the server, a model's name that model; a draining server says `NOT_SERVING`, and lets streams go"),
    ("grpc.reflection.v1 and v1alpha", "", "the protocol, health and reflection itself, so that `grpcurl` needs no .proto file"),
)  # fmt: skip
"""Methods, what they are over HTTP, and what is to be known."""

TENSORS = """\
A request names its inputs with `shape` and `datatype`; the first dimension is the row. A model of columns takes one tensor for each column, or one
of shape `[rows, columns]` under any name. All of `BOOL`, `INT8` to `INT64`, `UINT8` to `UINT64`, `FP16`, `FP32`, `FP64` and `BYTES` are taken and given;
`BF16` is refused, as numpy has none. Values stand

- in `data`, flat or nested: whole numbers are exact up to the datatype's own bounds, 2⁵³ is none; `null` is a missing number, and `NaN` and
  `Infinity` are no JSON and refused (an answer that holds them has `null` there);
- or after the JSON, as little-endian bytes in row-major order, each of `BYTES` after its length in four bytes. `parameters.binary_data_size` of the
  input says how many they are, and the header `Inference-Header-Content-Length` how long the JSON is. Both kinds may stand in one request.

`outputs` names those that are wanted, in that order; `parameters.binary_data` of one, or `parameters.binary_data_output` of all, asks for bytes.
`id` comes back as it was sent. `parameters.timeout` is a deadline in microseconds; parameters that nobody knows are passed over, and those that
would change the answer and are not done here (`classification`, `shared_memory_region`) are refused by name.

**Packed bodies.** `gzip` and `deflate` are taken in both directions, over gRPC in its own way. What a body unpacks to counts against
`serving.max_body_bytes` while it is unpacked, so a bomb costs no more than its limit.

**Statistics.** `success` are answers in which the version answered a row, `fail` those in which it was the champion and could not (slow, wrong, down,
overloaded), `queue` the wait for a thread, where there is one; `compute_infer` and `batch_stats` are calls of the model itself, which may hold the
rows of several requests or a part of one. What Triton calls computing input and output is not timed and stands at 0. All workers are added up: each
writes its counts down every `serving.poll_ms`, and a worker that takes a dead one's place goes on from there, so at most that much is lost.

**Load and unload** write the model's log, and every server of the store follows within `serving.poll_ms`. Unloaded, a model is as if killed: its fallback answers
with the reason `killed`, it is not ready, and it stays in memory, so that `load` is instant. `load` also tries again what could not be loaded. What
somebody killed with a reason of their own is a 409: `revive` it. A bare file is always loaded, and has no log to unload it in (503)."""
"""Markdown."""

EXAMPLES = (
    (
        "Ask, and learn who answered",
        'POST /predict/demand\nX-Request-Id: r-1\n\n{"rows": [{"a": 1.0, "b": 2.0}]}',
        ('{"model": "demand", "request_id": "r-1", "predictions": [{"prediction": 3.0, "output": null, "prediction_id": "…", '
        '"version": 1, "arm": null, "source": "champion", "reason": "ok", "missing": []}]}'),
    ),
    (
        "Tensors, one for each column",
        ('POST /v2/models/demand/infer\n\n{"id": "r-2", "inputs": [\n'
        '  {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.0, 3.0]},\n'
        '  {"name": "b", "shape": [2], "datatype": "FP64", "data": [2.0, 4.0]}]}'),
        ('{"model_name": "demand", "model_version": "1", "id": "r-2", "parameters": {"towpath": {"prediction_id": "…", '
        '"source": "champion", "reason": "ok", "version": 1, "arm": null}}, '
        '"outputs": [{"name": "prediction", "datatype": "FP64", "shape": [2], "data": [3.0, 7.0]}]}'),
    ),
    (
        "What does not fit",
        'POST /v2/models/demand/infer\n\n{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.0]}]}',
        '{"error": "Input \'x\' has 1 values, its shape [1, 2] holds 2.", "code": "input", "mend": ""}',
    ),
    (
        "As MLflow's clients ask",
        "POST /invocations\nContent-Type: text/csv\n\na,b\n1,2\n3,4",
        '{"predictions": [3.0, 7.0], "towpath": {"prediction_id": "…", "source": "champion", "reason": "ok", "version": 1, "arm": null}}',
    ),
    (
        "Which versions there are",
        "POST /v2/repository/index\n\n{}",
        '[{"name": "demand", "version": "1", "state": "READY", "reason": ""}]',
    ),
    (
        "The configuration in Triton's words",
        "GET /v2/models/demand/config",
        ('{"name": "demand", "platform": "…", "backend": "towpath", "max_batch_size": 0, "input": '
        '[{"name": "a", "data_type": "TYPE_FP64", "dims": [-1]}, {"name": "b", "data_type": "TYPE_FP64", "dims": [-1]}], '
        '"output": [{"name": "prediction", "data_type": "TYPE_FP64", "dims": [-1]}], '
        '"parameters": {"max_rows": {"string_value": "10000"}, "unit": {"string_value": "prediction (not sticky)"}}}'),
    ),
)  # fmt: skip
"""Title, request, answer; `…` stands for what differs from call to call."""
