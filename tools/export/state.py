"""State dicts: reading them without running foreign code, and loading them with nothing missing and nothing left over."""

import json
import pickle
import re
import sys
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from transformers import ConvBertConfig, DebertaV2Config

from errors import ExportError
from models import build

# Weights that a classifier does not have and does not need: the heads of pre-training, and position tables that older
# library versions stored although they are only 0, 1, 2, ...
UNUSED = re.compile(r"(lm_predictions|mask_predictions|cls|generator_\w+|discriminator_\w+)\.|.*\.position_ids$")


def read_json(path):
    """A JSON object from a file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ExportError(f"{path}: not a JSON object")
    return content


def read_tensors(path):
    """Name → float32 tensor from a `.safetensors` file or a PyTorch pickle."""
    try:
        if Path(path).suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = load_pickle(path)
    except pickle.UnpicklingError:
        # PyTorch's own message advises to read the file unsafely.
        raise ExportError(f"{path}: not a state dict, or one that holds more than tensors and containers") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, safetensors.SafetensorError) as error:
        raise ExportError(f"{path}: {first_line(error)}") from None
    if not isinstance(state, dict):
        raise ExportError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return {name: value.float() for name, value in state.items() if isinstance(value, torch.Tensor)}


def load_pickle(path):
    """Reads a PyTorch pickle with the safe reader, which refuses every object but tensors and containers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error):
    """The first line of a message; the libraries' own messages go on with advice that does not apply here."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_exactly(model, state, source):
    """Copies `state` into `model`. Every parameter has to be there, in its shape, and every tensor has to be used."""
    unused = [name for name in state if is_unused(name, model.config)]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items() if name not in unused}
    problems = [f"missing: {name}" for name in wanted if name not in given]
    problems += [f"unexpected: {name}" for name in given if name not in wanted]
    problems += [f"{name} is {list(given[name])}, the model has {list(shape)}"
                 for name, shape in wanted.items() if given.get(name, shape) != shape]
    if problems:
        raise ExportError(f"{source} does not fit the model: {'; '.join(problems)}")
    if unused:
        print(f"{source}: not part of the classifier: {', '.join(unused)}", file=sys.stderr)
    model.load_state_dict({name: state[name] for name in wanted})
    return model


def is_unused(name, config):
    """Whether a checkpoint may hold this weight although its classifier never reads it."""
    if name == "deberta.embeddings.position_embeddings.weight":
        # Stored by every Microsoft checkpoint, but read only in pre-training when the input carries no position.
        return not config.position_biased_input
    return bool(UNUSED.match(name))


def label_count(state, name, source):
    """The number of labels, which is the number of rows of the classifier's last weight or bias."""
    if name not in state:
        raise ExportError(f"{source} has no {name}: it is not a fine-tuned classifier")
    return state[name].shape[0]


CONFIGS = {"deberta-v2": DebertaV2Config, "convbert": ConvBertConfig}


def load_checkpoint(path, model_type):
    """A classifier from a local `transformers` folder, or from a weight file that has its config.json beside it."""
    path = Path(path)
    if not path.exists():
        raise ExportError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    content = read_json(folder / "config.json")
    if content.get("model_type") != model_type:
        raise ExportError(f"{folder / 'config.json'}: model_type is {content.get('model_type')}, expected {model_type}")
    weights = weight_file(path) if path.is_dir() else path
    state = read_tensors(weights)
    last = "classifier.weight" if model_type == "deberta-v2" else "classifier.out_proj.weight"
    labels = {"num_labels": label_count(state, last, weights), "id2label": None, "label2id": None}
    return load_exactly(build_from(content | labels, folder / "config.json"), state, weights)


def weight_file(folder):
    """The weight file of a checkpoint folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise ExportError(f"{folder}: neither model.safetensors nor pytorch_model.bin is there")


def build_from(fields, source):
    """A classifier of this configuration, or an error that names the file it came from."""
    try:
        return build(CONFIGS[fields["model_type"]](**fields))
    except Exception as error:  # The library and PyTorch refuse fields with several unrelated exception types.
        raise ExportError(f"{source}: {type(error).__name__}: {' '.join(str(error).split())}") from None
