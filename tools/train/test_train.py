"""Tests of training: what is read, what a batch is, and that an interrupted run ends where a whole one does."""

import io
import json
import tempfile
import unittest
import unittest.mock
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

import data
import train
from errors import TrainError

WORDS = {"good": 1, "fine": 1, "bad": 0, "dull": 0}


def write_sst2(folder, lines):
    rows = []
    for index in range(lines):
        word = list(WORDS)[index % 4]
        rows.append(f"a {'very ' * (index % 5)}{word} film\t{WORDS[word]}")
    text = "sentence\tlabel\n" + "\n".join(rows) + "\n"
    for name in ("train.tsv", "dev.tsv"):
        Path(folder, name).write_text(text, encoding="utf-8")


def run(folder, output, *more):
    log, errors = io.StringIO(), io.StringIO()
    arguments = ["--size", "small", "--vocab_size", "60", "--data", str(folder), "-o", str(output), "--batch_size", "4",
                 "--learning_rate", "1e-3", "--layer_lr_decay", "1", "--token_dropout", "0.1", "--average", "0.9",
                 "--logging_steps", "2", "--save_steps", "4", "--device", "cpu", *more]
    with redirect_stdout(log), redirect_stderr(errors):
        code = train.main(arguments)
    return code, log.getvalue(), errors.getvalue()


class Reading(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = Path(self.folder.name, "x.tsv")

    def rows(self, text, task):
        self.path.write_text(text, encoding="utf-8")
        return data.read_rows(self.path, task)

    def test_columns_go_by_name_and_a_dash_is_no_label(self):
        rows = self.rows("gold_label\tsentence2\tsentence1\nneutral\tb\ta\n-\td\tc\n", "mnli")
        self.assertEqual(rows, [(["a", "b"], 1)])

    def test_what_is_wrong_is_named_by_line(self):
        for text, said in (("sentence\tlabel\na\t1\nb\n", "line 3 has 1 cells"),
                           ("sentence\tlabel\na\t2\n", "line 2: '2' is no label"),
                           ("text\tlabel\n", "no column sentence")):
            with self.subTest(said), self.assertRaisesRegex(TrainError, said):
                self.rows(text, "sst2")


class Batches(unittest.TestCase):
    samples = [data.Sample([1] * (1 + index % 7), [0] * (1 + index % 7), index % 2) for index in range(50)]

    def test_processes_share_an_epoch_without_overlap(self):
        parts = [data.epoch_batches(self.samples, 4, 1, 0, rank, 3) for rank in range(3)]
        self.assertEqual({len(part) for part in parts}, {4})
        indices = [index for part in parts for batch in part for index in batch]
        self.assertEqual(len(indices), len(set(indices)))

    def test_epochs_differ_and_can_be_asked_for_again(self):
        first = data.epoch_batches(self.samples, 4, 1, 0)
        self.assertEqual(first, data.epoch_batches(self.samples, 4, 1, 0))
        self.assertNotEqual(first, data.epoch_batches(self.samples, 4, 1, 1))

    def test_padding_is_masked(self):
        batch, labels = data.collate(self.samples[1:3], pad_id=9, extra=1)
        self.assertEqual(batch["input_ids"].tolist(), [[1, 1, 9, 9], [1, 1, 1, 9]])
        self.assertEqual(batch["attention_mask"].tolist(), [[1, 1, 0, 0], [1, 1, 1, 0]])
        self.assertEqual(labels.tolist(), [1, 0])


class Runs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        write_sst2(self.folder, 40)

    def test_a_run_that_goes_on_ends_where_a_whole_one_does(self):
        code, log, errors = run(self.folder, self.folder / "whole", "--max_steps", "8")
        self.assertEqual(code, 0, errors)
        self.assertIn("global step 8/8, epoch: 0, batch: 7, rank_id: 0, loss: ", log)
        self.assertRegex(log, r"eval loss: [\d.]+, acc: [\d.]+, ")
        # The state of step 4 is what an interrupted run leaves.
        broken = self.folder / "broken"
        with unittest.mock.patch.object(train, "write_whole", side_effect=stop_after_first(train.write_whole)):
            with self.assertRaises(KeyboardInterrupt):
                run(self.folder, broken, "--max_steps", "8")
        code, log, errors = run(self.folder, broken, "--max_steps", "8")
        self.assertEqual(code, 0, errors)
        self.assertIn("resumed at global step 4", log)
        states = [torch.load(self.folder / name / "state.pt", weights_only=True) for name in ("whole", "broken")]
        for name, value in states[0]["model"].items():
            self.assertTrue(torch.equal(value, states[1]["model"][name]), name)
        kept = json.loads((broken / "best" / "eval.json").read_text())
        self.assertEqual(list(kept), ["dev.tsv"])

    def test_other_settings_do_not_go_on(self):
        self.assertEqual(run(self.folder, self.folder / "out", "--max_steps", "4")[0], 0)
        code, _, errors = run(self.folder, self.folder / "out", "--max_steps", "4", "--seed", "7")
        self.assertEqual(code, 2)
        self.assertIn("other settings (seed)", errors)


def stop_after_first(write_whole):
    """Writes as usual, and stops the run once a state is written."""
    def write(path, content):
        write_whole(path, content)
        if Path(path).name == "state.pt":
            raise KeyboardInterrupt
    return write


if __name__ == "__main__":
    unittest.main()
