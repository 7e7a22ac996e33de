"""Tests of the checkpoint layouts, on random tiny models. Run with `pytest tools/export`."""

import json
import pickle

import numpy
import pytest
import torch
from transformers import DebertaConfig, DebertaForSequenceClassification

import export
import microsoft_layout
import models
import paddle_layout
import state
import to_onnx
from errors import ExportError


def random_model(name):
    model = models.build(models.config_of(name, "tiny"))
    models.randomize(model, seed=1)
    return model


def logits(model):
    wrapped = models.LogitsOnly(model, mask_from_ids=False)
    inputs = to_onnx.example_inputs(wrapped.argument_names(), model.config, 3, 40, torch.int64, padding=2)
    with torch.no_grad():
        return wrapped(*inputs)


def save_microsoft(folder, model, tensors):
    """Writes a checkpoint as Microsoft's code does, with the position table that it stores but does not use."""
    config = {field: value for field, value in model.config.to_dict().items() if field in microsoft_layout.SAME_FIELDS}
    config |= {"pos_att_type": "p2c|c2p", "padding_idx": 0, "pooling": {"dropout": 0, "hidden_act": "gelu"}}
    tensors = tensors | {"deberta.embeddings.position_embeddings.weight": torch.zeros(512, model.config.hidden_size)}
    torch.save(tensors, folder / "pytorch.model-000001.bin")
    (folder / "model_config.json").write_text(json.dumps(config))
    return folder / "pytorch.model-000001.bin", folder / "model_config.json"


def to_paddle(model):
    """The state dict of a ConvBERT classifier under Paddle's names and in Paddle's shapes."""
    names = {f"convbert.encoder.layers.{layer}.{old}": f"convbert.encoder.layer.{layer}.{new}"
             for layer in range(model.config.num_hidden_layers) for old, new in paddle_layout.LAYER_KEYS.items()}
    names |= paddle_layout.TOP_KEYS
    back = {new.format(kind): old.format(kind) for old, new in names.items() for kind in ("weight", "bias")}
    arrays = {}
    for name, value in model.state_dict().items():
        if value.dim() == 2 and "embeddings." not in name:
            # The convolution's bias, [channels, 1] here, is the one 2-D tensor that is no linear weight.
            value = value.squeeze(1) if name.endswith(".bias") else value.T
        arrays[back[name]] = value.numpy()
    return arrays


def save_paddle(path, arrays, protocol=4):
    table = {name: f"param_{index}" for index, name in enumerate(arrays)}
    path.write_bytes(pickle.dumps(arrays | {paddle_layout.NAME_TABLE: table}, protocol))
    return path


def test_microsoft_layout_round_trip(tmp_path):
    model = random_model("deberta-v3")
    renamed = {name.replace("deberta.", "bert.", 1): value for name, value in model.state_dict().items()}
    for tensors in (model.state_dict(), renamed):
        again = microsoft_layout.load(*save_microsoft(tmp_path, model, tensors))
        assert torch.equal(logits(again), logits(model))


def test_microsoft_v1_projections_are_split(tmp_path):
    config = DebertaConfig(vocab_size=1000, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                           intermediate_size=192, relative_attention=True, pos_att_type=["c2p", "p2c"],
                           position_biased_input=False, num_labels=3)
    model = DebertaForSequenceClassification(config).eval()
    models.randomize(model, seed=1)
    again = microsoft_layout.load(*save_microsoft(tmp_path, model, model.state_dict()))
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("protocol", [2, 4])
def test_paddle_layout_round_trip(tmp_path, protocol):
    model = random_model("convbert")
    path = save_paddle(tmp_path / "model_state.pdparams", to_paddle(model), protocol)
    assert torch.equal(logits(paddle_layout.load(path)), logits(model))


def test_paddle_pooling_layer_stands_before_the_head(tmp_path):
    model = random_model("convbert")
    arrays = to_paddle(model)
    weight, bias = torch.randn(48, 48), torch.randn(48)
    arrays |= {"convbert.pooler.dense.weight": weight.T.numpy(), "convbert.pooler.dense.bias": bias.numpy()}
    with torch.no_grad():
        model.convbert.embeddings.word_embeddings.weight[0] = 0
    head = model.classifier.forward
    model.classifier.forward = lambda hidden: head(torch.tanh(hidden[:, :1] @ weight.T + bias))
    again = paddle_layout.load(save_paddle(tmp_path / "model_state.pdparams", arrays))
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-5)


def test_missing_unexpected_and_misshapen_keys_are_all_named(tmp_path):
    model = random_model("deberta-v3")
    tensors = dict(model.state_dict())
    del tensors["pooler.dense.bias"], tensors["deberta.encoder.LayerNorm.weight"]
    tensors |= {"deberta.encoder.conv.conv.weight": torch.zeros(1), "pooler.dense.weight": torch.zeros(2, 2)}
    with pytest.raises(ExportError) as error:
        microsoft_layout.load(*save_microsoft(tmp_path, model, tensors))
    for part in ("missing: pooler.dense.bias", "missing: deberta.encoder.LayerNorm.weight",
                 "unexpected: deberta.encoder.conv.conv.weight", "pooler.dense.weight is [2, 2]"):
        assert part in str(error.value)


def test_missing_and_unexpected_paddle_keys_are_errors(tmp_path):
    arrays = to_paddle(random_model("convbert"))
    arrays["convbert.encoder.layers.1.norm3.weight"] = arrays.pop("convbert.encoder.layers.1.norm2.weight")
    with pytest.raises(ExportError) as error:
        paddle_layout.load(save_paddle(tmp_path / "model_state.pdparams", arrays))
    assert "missing: convbert.encoder.layer.1.output.LayerNorm.weight" in str(error.value)
    assert "unexpected: convbert.encoder.layers.1.norm3.weight" in str(error.value)


class Malicious:
    """Runs a command of the file's author wherever it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_pickle_is_refused(tmp_path):
    proof = tmp_path / "executed"
    (tmp_path / "bad.pdparams").write_bytes(pickle.dumps({"weight": Malicious(proof)}))
    with pytest.raises(ExportError, match="refusing to load io.open"):
        paddle_layout.read_pdparams(tmp_path / "bad.pdparams")
    with pytest.raises(ExportError):
        torch.save({"weight": Malicious(proof)}, tmp_path / "bad.bin")
        state.read_tensors(tmp_path / "bad.bin")
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"a": numpy.array([1])})])
def test_damaged_files_are_errors(tmp_path, content):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(ExportError):
        paddle_layout.read_pdparams(tmp_path / "weights")


def test_a_transformers_folder_is_exported(tmp_path, capsys):
    model = random_model("convbert")
    model.save_pretrained(tmp_path / "checkpoint")
    again = state.load_checkpoint(tmp_path / "checkpoint", "convbert")
    assert torch.equal(logits(again), logits(model))
    output = tmp_path / "model.onnx"
    assert export.main(["--model", "convbert", "--checkpoint", str(tmp_path / "checkpoint"), "-o", str(output)]) == 0
    assert output.exists()
    assert export.main(["--model", "deberta-v3", "--checkpoint", str(tmp_path / "checkpoint"), "-o", "x.onnx"]) == 2
    assert "export.py: error:" in capsys.readouterr().err
