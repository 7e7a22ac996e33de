"""Checkpoints of Microsoft's own DeBERTa code: `pytorch.model-*.bin` with `model_config.json`.

The module tree of the v2/v3 code has the names that `transformers` uses, so most keys stay as they are. What differs is
the configuration, an encoder that older checkpoints call `bert`, an absolute position table that is stored even where it
is not used, and the fused projections of DeBERTa v1. The v1 attention is the v2 one with separate position projections
and no bias on keys, so v1 checkpoints are exported through the v2 classes.
"""

import re

import torch

from errors import ExportError
from state import build_from, label_count, load_exactly, read_json, read_tensors

# Where these are left out, the two libraries' defaults differ.
REQUIRED_FIELDS = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
# Fields that mean the same in both configurations, and whose defaults agree where they are left out.
SAME_FIELDS = """
    vocab_size hidden_size num_hidden_layers num_attention_heads attention_head_size intermediate_size embedding_size
    hidden_act hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings type_vocab_size
    initializer_range layer_norm_eps relative_attention max_relative_positions position_buckets position_biased_input
    norm_rel_ebd share_att_key conv_kernel_size conv_groups conv_act
""".split()


def load(weights, config):
    """A classifier from a weight file and its model_config.json."""
    state = map_keys(read_tensors(weights))
    labels = label_count(state, "classifier.weight", weights)
    model = build_from(map_config(read_json(config), config) | {"num_labels": labels}, config)
    return load_exactly(model, split_v1_projections(state, model.config), weights)


def map_config(content, source):
    """The fields of model_config.json under the names of `transformers`, with the defaults of Microsoft's code."""
    missing = [field for field in REQUIRED_FIELDS if field not in content]
    if missing:
        raise ExportError(f"{source}: missing: {', '.join(missing)}")
    terms = [term.strip() for term in str(content.get("pos_att_type", "c2p")).lower().split("|")]
    if not set(terms) <= {"c2p", "p2c", "none"}:
        raise ExportError(f"{source}: pos_att_type {'|'.join(terms)} is not supported, only c2p and p2c are")
    # Without a block of its own, the pooling layer takes its fields from the model.
    pooling = content.get("pooling", content)
    return {field: content[field] for field in SAME_FIELDS if field in content} | {
        "model_type": "deberta-v2",
        "pos_att_type": terms,
        "pad_token_id": content.get("padding_idx", 0),
        "pooler_hidden_size": pooling.get("hidden_size", content["hidden_size"]),
        "pooler_hidden_act": pooling.get("hidden_act", "gelu"),
    }


def map_keys(state):
    """Checkpoints from before the rename call the encoder `bert`."""
    return {re.sub(r"^bert\.", "deberta.", name): value for name, value in state.items()}


def split_v1_projections(state, config):
    """Turns the fused projections of DeBERTa v1 into the separate ones of v2; other state dicts stay as they are."""
    result = dict(state)
    for name in state:
        if not name.endswith(".attention.self.in_proj.weight") or state[name].shape[0] != 3 * config.hidden_size:
            continue
        prefix = name.removesuffix("in_proj.weight")
        # Rows are ordered by head, and within a head by query, key, value.
        fused = result.pop(name)
        heads = config.num_attention_heads
        parts = fused.reshape(heads, 3, -1, fused.shape[-1]).unbind(1)
        for part, weight in zip(("query", "key", "value"), parts):
            result[f"{prefix}{part}_proj.weight"] = weight.reshape(-1, fused.shape[-1])
        no_bias = torch.zeros(fused.shape[0] // 3)
        result[f"{prefix}key_proj.bias"] = no_bias
        renames = {"q_bias": "query_proj.bias", "v_bias": "value_proj.bias", "pos_proj.weight": "pos_key_proj.weight",
                   "pos_q_proj.weight": "pos_query_proj.weight", "pos_q_proj.bias": "pos_query_proj.bias"}
        for old, new in renames.items():
            if prefix + old in result:
                result[prefix + new] = result.pop(prefix + old)
        if "c2p" in config.pos_att_type:
            result[f"{prefix}pos_key_proj.bias"] = no_bias
    return result
