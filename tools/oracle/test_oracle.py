"""Tests of the oracle itself: every check has to be able to fail.

    python -m unittest discover tools/oracle
"""

import tempfile
import unittest
from pathlib import Path

import numpy
import onnx

import cases as backend
import conformance
import engines
import graph as graphs
import inputs as meaningful
import runtime
import structure
from tool import Outcome


def model(text: str, opset: str = '"" : 13', **tables: tuple) -> onnx.ModelProto:
    """A model from ONNX's text form, with a float initializer for each table of a given shape."""
    parsed = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{opset}]>\n{text}")
    for name, shape in tables.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(numpy.ones(shape, numpy.float32), name))
    return parsed


TEXT_MODEL = """
g (int64[batch, seq] tokens, int64[batch, seq] kinds, int64[batch, seq] kept) => (float[batch, seq, 2] y) {
  named = Identity(tokens)
  word = Gather(words, named)
  kind = Gather(sentences, kinds)
  both = Add(word, kind)
  mask = Cast<to = 1>(kept)
  two = Constant<value = int64[1] {2}>()
  wide = Unsqueeze(mask, two)
  y = Mul(both, wide)
}
"""


class Structure(unittest.TestCase):
    def test_an_invalid_file_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "invalid.onnx"
            path.write_bytes(model("g (float[2] x) => (float[3] y) { y = Relu(x) }").SerializeToString())
            self.assertTrue(structure.check_is_valid(path))

    def test_a_second_domain_is_refused(self):
        graph = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
        self.assertFalse(structure.check_one_opset(model(graph)))
        self.assertTrue(structure.check_one_opset(model(graph, '"" : 13, "com.example" : 1')))

    def test_the_npu_wants_opset_13(self):
        graph = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
        self.assertFalse(structure.check_one_opset(model(graph, '"" : 13'), "ascend310p3"))
        self.assertTrue(structure.check_one_opset(model(graph, '"" : 17'), "ascend310p3"))

    def test_steps_in_another_order_are_not_fusable(self):
        text = """
        g (float[2, 4] x) => (float[2, 4] y) <float two = {{2.0}}, float eps = {{0.5}}> {{
          m = ReduceMean<axes = [-1]>(x)
          c = Sub(x, m)
          p = {square}
          v = ReduceMean<axes = [-1]>(p)
          e = Add({moved})
          d = Sqrt(e)
          y = Div(c, d)
        }}
        """
        good = text.format(square="Pow(c, two)", moved="v, eps")
        self.assertFalse(structure.check_fusable(model(good), "ascend310p3"))
        self.assertTrue(structure.check_fusable(model(good), "portable"))
        for square, moved in [("Mul(c, c)", "v, eps"), ("Pow(c, two)", "eps, v")]:
            bad = text.format(square=square, moved=moved)
            self.assertTrue(structure.check_fusable(model(bad), "ascend310p3"))

    def test_a_gelu_in_another_order_is_not_fusable(self):
        text = """
        g (float[2] x) => (float[2] y) <float r = {{1.4142135}}, float one = {{1.0}}, float half = {{0.5}}> {{
          a = {argument}
          e = Erf(a)
          s = Add(e, one)
          p = Mul({product})
          y = Mul(p, half)
        }}
        """
        good = text.format(argument="Div(x, r)", product="x, s")
        self.assertFalse(structure.check_fusable(model(good), "ascend310p3"))
        for argument, product in [("Mul(x, r)", "x, s"), ("Div(x, r)", "s, x")]:
            bad = text.format(argument=argument, product=product)
            self.assertTrue(structure.check_fusable(model(bad), "ascend310p3"))

    def test_shape_arithmetic_is_refused(self):
        found = structure.check_no_leftovers(model("g (float[2] x) => (int64[1] y) { y = Shape(x) }"))
        self.assertEqual(found, ["Shape is left, writing y"])

    def test_an_expand_in_front_of_a_broadcast_is_idle(self):
        text = """
        g (float[1, 4] x, float[{other}] z) => (float[3, 4] y) <float[3, 4] wide> {{
          shape = Constant<value = int64[2] {{3, 4}}>()
          wide = Expand(x, shape)
          y = Add(wide, z)
        }}
        """
        self.assertTrue(structure.check_no_idle_expand(model(text.format(other="3, 4"))))
        self.assertFalse(structure.check_no_idle_expand(model(text.format(other="1, 4"))))

    def test_an_expand_that_a_graph_output_shows_is_not_idle(self):
        text = """
        g (float[1, 4] x, float[3, 4] z) => (float[3, 4] wide, float[3, 4] y) {
          shape = Constant<value = int64[2] {3, 4}>()
          wide = Expand(x, shape)
          y = Add(wide, z)
        }
        """
        self.assertFalse(structure.check_no_idle_expand(model(text)))

    def test_an_open_or_missing_shape_is_refused(self):
        text = "g (float[{dim}] x) => (float[2] y) {info} {{ z = Relu(x) y = Relu(z) }}"
        self.assertFalse(structure.check_shapes_are_static(model(text.format(dim=2, info="<float[2] z>"))))
        self.assertTrue(structure.check_shapes_are_static(model(text.format(dim="n", info="<float[2] z>"))))
        self.assertTrue(structure.check_shapes_are_static(model(text.format(dim=2, info="<float[n] z>"))))
        self.assertTrue(structure.check_shapes_are_static(model(text.format(dim=2, info=""))))

    def test_a_wrong_shape_is_refused(self):
        wrong = model("g (float[2] x) => (float[2] y) <float[2] z> { z = Relu(x) y = Relu(z) }")
        tensors = {"x": numpy.zeros(2, numpy.float32)}
        self.assertFalse(structure.check_shapes_are_true(wrong, tensors))
        wrong.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value = 3
        self.assertTrue(structure.check_shapes_are_true(wrong, tensors))

    def test_the_interface_depends_on_the_target(self):
        text = "g ({dtype}[{dim}] x) => (float[2] {out}) {{ {out} = Cast<to = 1>(x) }}"
        before = model(text.format(dtype="int64", dim="n", out="y"))
        narrow = model(text.format(dtype="int32", dim="2", out="y"))
        wide = model(text.format(dtype="int64", dim="2", out="y"))
        renamed = model(text.format(dtype="int32", dim="2", out="z"))
        shapes = {"x": [2]}
        self.assertFalse(structure.check_interface(before, narrow, shapes, "ascend310p3"))
        self.assertTrue(structure.check_interface(before, wide, shapes, "ascend310p3"))
        self.assertFalse(structure.check_interface(before, wide, shapes, "portable"))
        self.assertTrue(structure.check_interface(before, narrow, shapes, "portable"))
        self.assertTrue(structure.check_interface(before, renamed, shapes, "ascend310p3"))
        self.assertTrue(structure.check_interface(before, narrow, {"x": [3]}, "ascend310p3"))

    def test_a_window_is_sliced_and_not_gathered(self):
        gathered = model("""
        g (float[1, 6] x) => (float[1, 3, 4] y) {
          index = Constant<value = int64[3, 4] {0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5}>()
          padded = Relu(x)
          y = Gather<axis = 1>(padded, index)
        }
        """)
        sliced = model("""
        g (float[1, 6] x) => (float[3, 4] y)
        <int64[1] a = {0}, int64[1] b = {1}, int64[1] c = {2},
         int64[1] p = {4}, int64[1] q = {5}, int64[1] r = {6}, int64[1] axis = {1}> {
          padded = Relu(x)
          first = Slice(padded, a, p, axis)
          second = Slice(padded, b, q, axis)
          third = Slice(padded, c, r, axis)
          y = Concat<axis = 0>(first, second, third)
        }
        """)
        self.assertTrue(structure.check_unfold(gathered, gathered))
        self.assertFalse(structure.check_unfold(sliced, sliced))


class Inputs(unittest.TestCase):
    def setUp(self):
        self.inputs = meaningful.describe(model(TEXT_MODEL, words=(20, 2), sentences=(2, 2)), batch=3)
        self.batches = meaningful.batches(self.inputs, seed=0)

    def test_roles_come_from_use_and_not_from_names(self):
        found = [(entry.name, entry.role, entry.rows) for entry in self.inputs]
        self.assertEqual(found, [("tokens", "ids", 20), ("kinds", "segments", 2), ("kept", "mask", 0)])

    def test_a_compared_id_is_the_padding_id(self):
        text = """
        g (int64[batch, seq] tokens) => (bool[batch, seq] pads, float[batch, seq, 2] y) {
          seven = Constant<value = int64 {7}>()
          pads = Equal(tokens, seven)
          y = Gather(words, tokens)
        }
        """
        inputs = meaningful.describe(model(text, words=(20, 2)), batch=1)
        self.assertEqual(inputs[0].padding, 7)
        last = meaningful.all_padding(inputs, seed=0)["tokens"][-1]
        self.assertTrue((last == 7).all())

    def test_the_whole_vocabulary_and_every_padding_occur(self):
        ids = numpy.concatenate([batch["tokens"] for batch in self.batches])
        masks = numpy.concatenate([batch["kept"] for batch in self.batches])
        lengths = masks.sum(axis=1)
        self.assertEqual(set(ids.ravel()), set(range(20)))
        self.assertGreaterEqual(lengths.min(), 1)
        self.assertIn(1, lengths)
        self.assertIn(meaningful.DEFAULT_SEQ, lengths)
        self.assertTrue(((masks[:, 0] == 0) & (masks[:, -1] == 1)).any(), "padding on the left")
        self.assertTrue(((masks[:, 0] == 1) & (masks[:, -1] == 0)).any(), "padding on the right")

    def test_a_seed_gives_the_same_batches(self):
        again = meaningful.batches(self.inputs, seed=0)
        other = meaningful.batches(self.inputs, seed=1)
        self.assertTrue(all((a["tokens"] == b["tokens"]).all() for a, b in zip(self.batches, again)))
        self.assertFalse(all((a["tokens"] == b["tokens"]).all() for a, b in zip(self.batches, other)))


class Differences(unittest.TestCase):
    def test_a_difference_is_relative_to_the_spread(self):
        expected = numpy.array([0.0, 0.5], numpy.float32)
        self.assertEqual(runtime.relative_difference(expected, expected), 0.0)
        self.assertAlmostEqual(runtime.relative_difference(expected + numpy.float32(0.25), expected), 0.5)

    def test_what_is_no_number_or_has_another_shape_is_infinitely_far(self):
        expected = numpy.array([0.0, 0.5], numpy.float32)
        for actual in (numpy.array([0.0, numpy.nan], numpy.float32), numpy.zeros((2, 1), numpy.float32)):
            self.assertEqual(runtime.relative_difference(actual, expected), float("inf"))

    def test_a_fixed_batch_runs_row_by_row(self):
        runner = runtime.Runner(model("g (float[1, 2] x) => (float[1, 2] y) { y = Neg(x) }"))
        values = numpy.arange(6, dtype=numpy.float32).reshape(3, 2)
        self.assertTrue((runner.run({"x": values})["y"] == -values).all())


class Graphs(unittest.TestCase):
    def test_constant_nodes_do_not_count(self):
        text = "g (float[2] x) => (float[2] y) { one = Constant<value = float {1.0}>() y = Add(x, one) }"
        self.assertEqual(graphs.count_nodes(model(text)), 1)


def case(text: str, inputs: dict, outputs: dict, **more) -> backend.Case:
    """A backend case of one sample."""
    return backend.Case("node", "test_case", model(text), [backend.Sample(inputs, outputs)], **more)


class StandIn:
    """Takes onnxfix's place: writes this model whatever it is given, or refuses with these words."""

    def __init__(self, result: onnx.ModelProto | None = None, says: str = "", exit: int = 0):
        self.result, self.says, self.exit = result, says, exit

    def optimize(self, source: Path, out: Path, *_) -> Outcome:
        if self.exit == 0:
            onnx.save(self.result or onnx.load(str(source)), str(out))
        return Outcome(self.exit, self.says, '{"passes": []}')


class Conformance(unittest.TestCase):
    HALVES = numpy.array([0.5, -0.5], numpy.float32)
    NEGATED = case("g (float[2] x) => (float[2] y) { y = Neg(x) }", {"x": HALVES}, {"y": -HALVES})

    def judged(self, stand_in: StandIn, about: backend.Case, target: str = "portable") -> list:
        with tempfile.TemporaryDirectory() as folder:
            trial = conformance.Trial(stand_in, (target,), Path(folder), Path(folder) / "kept")
            return trial.judge_case(about)

    def test_an_unchanged_model_passes_in_every_variant(self):
        found = self.judged(StandIn(), self.NEGATED)
        self.assertEqual([verdict.variant for verdict in found], ["as it is", "constant: all"])
        self.assertEqual([verdict.failure for verdict in found], [None, None])

    def test_a_planted_wrong_result_is_reported_with_its_command(self):
        wrong = model("g (float[2] x) => (float[2] y) { y = Abs(x) }")
        found = self.judged(StandIn(wrong), self.NEGATED)[0]
        self.assertIn("output y 1 of 2 elements differ", found.failure)
        self.assertIn("onnxfix optimize", found.reproduce)

    def test_a_false_shape_is_reported(self):
        text = "g (float[2] x) => (float[n] y) <float[{}] z> {{ z = Relu(x) y = Neg(z) }}"
        about = case(text.format(2), {"x": self.HALVES}, {"y": numpy.array([-0.5, 0], numpy.float32)})
        self.assertIsNone(self.judged(StandIn(), about)[0].failure)
        real = {"z": numpy.zeros(2)}
        self.assertIsNotNone(conformance.false_shapes(model(text.format(3)).graph.value_info, real))

    def test_a_changed_interface_is_reported(self):
        before = model("g (int64[2] x) => (float[2] y) { y = Cast<to = 1>(x) }")
        narrow = model("g (int32[2] x) => (float[2] y) { y = Cast<to = 1>(x) }")
        renamed = model("g (int64[2] x) => (float[2] z) { z = Cast<to = 1>(x) }")
        self.assertIsNone(conformance.interface_difference(before, narrow, "ascend310p3"))
        self.assertIsNotNone(conformance.interface_difference(before, narrow, "portable"))
        self.assertIsNotNone(conformance.interface_difference(before, renamed, "ascend310p3"))

    def test_a_refusal_names_what_is_in_the_way(self):
        named, unnamed = (StandIn(says=says, exit=2) for says in ("Neg is not for this target", "cannot"))
        self.assertIsNone(self.judged(named, self.NEGATED, "ascend310p3")[0].failure)
        self.assertIsNotNone(self.judged(unnamed, self.NEGATED, "ascend310p3")[0].failure)
        self.assertIsNotNone(self.judged(named, self.NEGATED, "portable")[0].failure)
        self.assertIn("exit 101", self.judged(StandIn(says="panicked", exit=101), self.NEGATED)[0].failure)

    def test_a_folded_random_node_is_reported(self):
        text = "g (float[2] x) => (float[2] y) { y = RandomUniformLike(x) }"
        folded = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
        found = self.judged(StandIn(folded), case(text, {"x": self.HALVES}, {"y": self.HALVES}))[0]
        self.assertEqual(found.failure, "1 random nodes became 0")

    def test_numbers_may_round_and_places_of_nan_may_not_move(self):
        near, far = numpy.float32([1.0, 1.000001]), numpy.float32([1.0, 1.01])
        one, nan = numpy.float32([1.0, 1.0]), numpy.float32([1.0, numpy.nan])
        self.assertIsNone(engines.difference(near, one, conformance.own_rtol))
        for actual, expected in ((far, one), (nan, one), (one, nan), (one[:1], one), (one.astype(numpy.float64), one)):
            self.assertIsNotNone(engines.difference(actual, expected, conformance.own_rtol))
        self.assertIsNone(engines.difference(nan, nan, conformance.own_rtol))
        self.assertIsNotNone(engines.difference(numpy.array([1]), numpy.array([2]), conformance.own_rtol))

    def test_a_sample_does_not_depend_on_the_order_of_the_cases(self):
        found = [backend.Case("node", f"test_{at}", model(TEXT_MODEL), []) for at in range(9)]
        names = {one.name for one in conformance.chosen(found, None, 4)}
        self.assertEqual(len(names), 4)
        self.assertEqual({one.name for one in conformance.chosen(found[::-1], None, 4)}, names)


if __name__ == "__main__":
    unittest.main()
