"""ONNX Runtime, the second opinion: runs models and measures how far their outputs are apart."""

import numpy
import onnx
import onnxruntime

import graph as graphs

NO_OPTIMIZATION = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
DEFAULT_OPTIMIZATION = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


class Runner:
    """A model ready to run. A model whose batch axis is fixed at 1 is fed row by row."""

    def __init__(self, model: onnx.ModelProto, level=NO_OPTIMIZATION):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.dtypes = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(graphs.element_type(value))
            for value in graphs.real_inputs(model.graph)
        }
        self.one_row_at_a_time = any(
            shape and shape[0] == 1 for shape in (graphs.dims(value) for value in graphs.real_inputs(model.graph))
        )

    def run(self, tensors: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """The outputs for one batch. Inputs are cast to what the model declares."""
        batch = len(next(iter(tensors.values())))
        if batch == 1 or not self.one_row_at_a_time:
            return self._run(tensors)
        rows = [self._run({name: values[row : row + 1] for name, values in tensors.items()}) for row in range(batch)]
        return {name: numpy.concatenate([row[name] for row in rows]) for name in self.outputs}

    def _run(self, tensors: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        fed = {name: tensors[name].astype(dtype) for name, dtype in self.dtypes.items()}
        return dict(zip(self.outputs, self.session.run(self.outputs, fed)))


def run_all(runner: Runner, batches: list[dict]) -> dict[str, numpy.ndarray]:
    """The outputs over all batches, one row behind the other."""
    results = [runner.run(batch) for batch in batches]
    return {name: numpy.concatenate([result[name] for result in results]) for name in runner.outputs}


def relative_difference(actual: numpy.ndarray, expected: numpy.ndarray) -> float:
    """The largest difference, relative to the spread of the expected numbers. NaN and infinity count as infinite."""
    if actual.shape != expected.shape:
        return float("inf")
    spread = float(numpy.ptp(expected)) if expected.size else 0.0
    worst = float(numpy.abs(actual.astype(numpy.float64) - expected).max(initial=0.0))
    if not numpy.isfinite(worst) or not numpy.isfinite(spread):
        return float("inf")
    if worst == 0.0:
        return 0.0
    return worst / spread if spread else float("inf")


def worst_difference(actual: dict, expected: dict) -> float:
    """The largest relative difference over all outputs."""
    return max(relative_difference(actual[name], expected[name]) for name in expected)


def real_types(model: onnx.ModelProto, tensors: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
    """Every value that a node of the model writes, as it really comes out for one batch."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    public = {value.name for value in shown.graph.output}
    for node in shown.graph.node:
        for name in node.output:
            if name and name not in public:
                shown.graph.output.add().name = name
    return Runner(shown).run(tensors)
