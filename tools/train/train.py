#!/usr/bin/env python3
"""Trains or fine-tunes ConvBERT on SST-2 and DeBERTa-v3 on an NLI set. See README.md beside this file."""

import argparse
import contextlib
import json
import math
import os
import random
import sys
import time
from pathlib import Path

import torch
import transformers
from torch import distributed, nn
from transformers import ConvBertConfig, ConvBertForSequenceClassification
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

import data
import tokenizer as tokenizers_of
from errors import TrainError

TASK_OF = {"convbert": "sst2", "deberta-v3": "mnli"}
CLASSES = {"convbert": ConvBertForSequenceClassification, "deberta-v3": DebertaV2ForSequenceClassification}
# What the ConvBERT guide fine-tunes with, and what Microsoft's script for deberta-v3-base on MNLI uses.
DEFAULTS = {
    "convbert": dict(learning_rate=1e-4, layer_lr_decay=0.8, num_train_epochs=3, batch_size=32, warmup_proportion=0.1,
                     warmup_steps=0, max_seq_length=128, weight_decay=0.01, adam_epsilon=1e-6),
    "deberta-v3": dict(learning_rate=1.5e-5, layer_lr_decay=1.0, num_train_epochs=3, batch_size=64,
                       warmup_proportion=0.1, warmup_steps=1000, max_seq_length=256, weight_decay=0.01,
                       adam_epsilon=1e-6),
}
# Sizes to train from scratch. `small` is what fixtures/trained holds.
SIZES = {
    ("convbert", "small"): dict(hidden_size=128, embedding_size=128, num_hidden_layers=3, num_attention_heads=4,
                                intermediate_size=256, head_ratio=2, conv_kernel_size=9, max_position_embeddings=256,
                                type_vocab_size=2, layer_norm_eps=1e-12),
    ("deberta-v3", "small"): dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
                                  position_buckets=64, max_position_embeddings=256, relative_attention=True,
                                  max_relative_positions=-1, norm_rel_ebd="layer_norm", share_att_key=True,
                                  pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
                                  layer_norm_eps=1e-7),
}


def parse_args(argv):
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", choices=list(CLASSES), default="convbert")
    parser.add_argument("--task", choices=list(data.LABELS), help="default: sst2 for convbert, mnli for deberta-v3")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with train.tsv and the dev files")
    parser.add_argument("-o", "--output_dir", required=True, metavar="DIR")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--init", metavar="DIR", help="a local transformers checkpoint to fine-tune")
    weights.add_argument("--size", choices=["small"], help="train from random weights")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--tokenizer", metavar="FILE|DIR", help="default: the folder of --init")
    words.add_argument("--vocab_size", type=int, metavar="N", help="make a WordPiece vocabulary from train.tsv")
    parser.add_argument("--max_seq_length", type=int)
    parser.add_argument("--batch_size", type=int, help="of each process")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--layer_lr_decay", type=float, help="each layer below the last learns at this factor less")
    parser.add_argument("--num_train_epochs", type=int)
    parser.add_argument("--max_steps", type=int, default=-1, help="overrides --num_train_epochs")
    parser.add_argument("--warmup_proportion", type=float)
    parser.add_argument("--warmup_steps", type=int, help="overrides --warmup_proportion")
    parser.add_argument("--scheduler_type", choices=["linear", "cosine"], default="linear")
    parser.add_argument("--weight_decay", type=float)
    parser.add_argument("--adam_epsilon", type=float)
    parser.add_argument("--dropout", type=float, help="in place of the model's own, everywhere")
    parser.add_argument("--token_dropout", type=float, default=0.0,
                        help="share of training tokens that become [UNK], against learning words by heart")
    parser.add_argument("--average", type=float, default=0.0, metavar="DECAY",
                        help="evaluate and keep a running average of the weights, such as 0.999")
    parser.add_argument("--mask_from_ids", action="store_true",
                        help="give the model no other mask than ids that are not padding, as the guide's does")
    parser.add_argument("--logging_steps", type=int, default=100)
    parser.add_argument("--save_steps", type=int, default=400, help="evaluate and write a state to resume from")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    args.task = args.task or TASK_OF[args.model]
    for name, value in DEFAULTS[args.model].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.size and not (args.tokenizer or args.vocab_size):
        parser.error("--size needs --tokenizer or --vocab_size")
    if args.init and args.vocab_size:
        parser.error("--vocab_size makes a vocabulary that the weights of --init do not know")
    return args


class Processes:
    """This process among those that torchrun started; one of one where it did not."""

    def __init__(self, device):
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device(device, local) if device == "cuda" else torch.device(device)
        if self.count > 1:
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")

    def say(self, line):
        """Prints a line of the log once, whatever the number of processes."""
        if self.rank == 0:
            print(line, flush=True)

    def wait(self):
        if self.count > 1:
            distributed.barrier()


def build(args, vocabulary):
    """The classifier, from a checkpoint or from random weights."""
    labels = dict(id2label=dict(enumerate(data.LABELS[args.task])),
                  label2id={name: index for index, name in enumerate(data.LABELS[args.task])})
    dropout = {}
    if args.dropout is not None:
        dropout = dict(hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout,
                       classifier_dropout=args.dropout)
    if args.init:
        if not Path(args.init, "config.json").exists():
            raise TrainError(f"{args.init}: no config.json; --init takes a local transformers checkpoint")
        return CLASSES[args.model].from_pretrained(args.init, local_files_only=True, num_labels=len(labels["id2label"]),
                                                   **labels, **dropout)
    config = ConvBertConfig if args.model == "convbert" else DebertaV2Config
    sizes = SIZES[args.model, args.size]
    return CLASSES[args.model](config(vocab_size=vocabulary, pad_token_id=0, num_groups=1, **sizes, **labels, **dropout)
                               if args.model == "convbert" else
                               config(vocab_size=vocabulary, pad_token_id=0, **sizes, **labels, **dropout))


def parameter_groups(model, args):
    """Learning rates that fall with depth, and no decay for biases and norms.

    The head learns at the full rate times the decay, the last layer at its square, and so on; embeddings are below the
    first layer.
    """
    layers = model.config.num_hidden_layers
    groups = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if "layer" in parts:
            depth = int(parts[parts.index("layer") + 1]) + 1
        elif "embeddings" in name:
            depth = 0
        else:
            depth = layers + 1
        rate = args.learning_rate * args.layer_lr_decay ** (layers + 1 - depth)
        decay = 0.0 if parameter.dim() < 2 or "norm" in name.lower() else args.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [dict(params=parameters, lr=rate, weight_decay=decay) for (rate, decay), parameters in groups.items()]


def rate_factor(args, total):
    """The share of the learning rate at each step: a linear warm-up, then down to zero at `total`."""
    warmup = args.warmup_steps if args.warmup_steps > 0 else int(args.warmup_proportion * total)

    def factor(step):
        if step < warmup:
            return step / max(1, warmup)
        progress = (step - warmup) / max(1, total - warmup)
        return max(0.0, 1 - progress if args.scheduler_type == "linear" else 0.5 * (1 + math.cos(math.pi * progress)))

    return factor


def inputs_of(batch, args, device):
    """What the model's forward takes."""
    tensors = {name: tensor.to(device) for name, tensor in batch.items()}
    if args.mask_from_ids:
        tensors["attention_mask"] = (tensors["input_ids"] != 0).long()
    return tensors


@torch.no_grad()
def evaluate(model, samples, pad_id, args, device):
    """(mean loss, accuracy) over `samples`."""
    model.eval()
    loss, correct = 0.0, 0
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].ids))
    for start in range(0, len(order), 2 * args.batch_size):
        chosen = [samples[index] for index in order[start:start + 2 * args.batch_size]]
        batch, labels = data.collate(chosen, pad_id)
        logits = model(**inputs_of(batch, args, device)).logits.float()
        labels = labels.to(device)
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(-1) == labels).sum().item()
    model.train()
    return loss / len(samples), correct / len(samples)


class Average:
    """A running average of the weights, which evaluates better than the last step where the rate is still high."""

    def __init__(self, model, decay):
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model, step):
        # At first the average would be mostly random weights, so it starts short.
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)

    @contextlib.contextmanager
    def in_place_of(self, model):
        kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(kept)


def write_whole(path, write):
    """Writes through a temporary name, so that a killed run leaves the earlier file or the new one."""
    part = f"{path}.part"
    write(part)
    os.replace(part, path)


def keep_checkpoint(model, tokenizer_files, folder, accuracies):
    """A `transformers` folder, which `tools/export/export.py --checkpoint` takes, with its tokenizer and accuracy."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for file in tokenizer_files:
        write_whole(folder / file.name, lambda part, file=file: Path(part).write_bytes(file.read_bytes()))
    write_whole(folder / "eval.json",
                lambda part: Path(part).write_text(json.dumps(accuracies, indent=2) + "\n", encoding="utf-8"))


def tokenizer_files(source):
    """The files to keep beside the weights."""
    source = Path(source)
    if source.is_file():
        return [source]
    names = ("tokenizer.json", "vocab.txt", "spm.model", "tokenizer_config.json", "special_tokens_map.json",
             "added_tokens.json")
    return [source / name for name in names if (source / name).exists()]


def prepare_tokenizer(args, rows, processes):
    """(tokenizer, its files); makes the vocabulary where one is asked for."""
    source = args.tokenizer or args.init
    if args.vocab_size:
        source = Path(args.output_dir, "tokenizer")
        if processes.rank == 0 and not (source / "vocab.txt").exists():
            tokenizers_of.train((text for texts, _ in rows for text in texts), args.vocab_size, source)
        processes.wait()
    return tokenizers_of.load(source, args.max_seq_length), tokenizer_files(source)


def pad_id_of(tokenizer):
    found = tokenizer.token_to_id("[PAD]")
    if found is None:
        raise TrainError("the tokenizer has no [PAD]")
    return found


def run(args):
    processes = Processes(args.device)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rows = data.read_rows(Path(args.data, "train.tsv"), args.task)
    tokenizer, files = prepare_tokenizer(args, rows, processes)
    pad_id, unknown = pad_id_of(tokenizer), tokenizer.token_to_id("[UNK]")
    train = data.tokenize(rows, tokenizer)
    found = [name for name in data.DEV_FILES[args.task] if Path(args.data, name).exists()]
    if not found:
        raise TrainError(f"{args.data}: none of {', '.join(data.DEV_FILES[args.task])}")
    dev = {name: data.tokenize(data.read_rows(Path(args.data, name), args.task), tokenizer) for name in found}

    model = build(args, tokenizer.get_vocab_size()).to(processes.device)
    replica = nn.parallel.DistributedDataParallel(model) if processes.count > 1 else model
    average = Average(model, args.average) if args.average else None
    steps_per_epoch = len(data.epoch_batches(train, args.batch_size, args.seed, 0, 0, processes.count))
    total = args.max_steps if args.max_steps > 0 else steps_per_epoch * args.num_train_epochs
    optimizer = torch.optim.AdamW(parameter_groups(model, args), eps=args.adam_epsilon)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(args, total))
    settings = {name: value for name, value in vars(args).items() if name not in ("output_dir", "device")}

    step, best = 0, -1.0
    state_file = output / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=processes.device, weights_only=True)
        if state["settings"] != settings:
            changed = [name for name in settings if settings[name] != state["settings"].get(name)]
            raise TrainError(f"{state_file}: was written with other settings ({', '.join(changed)}); "
                             "use them again, or another --output_dir")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if average:
            average.weights = state["average"]
        torch.set_rng_state(state["random"].cpu())
        step, best = state["step"], state["best"]
        processes.say(f"resumed at global step {step}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    processes.say(f"num_training_steps {total}, parameters {parameters}, samples {len(train)}")

    since, log_step = time.time(), step
    replica.train()
    while step < total:
        epoch, first = divmod(step, steps_per_epoch)
        batches = data.epoch_batches(train, args.batch_size, args.seed, epoch, processes.rank, processes.count)
        for number in range(first, len(batches)):
            # Convolutions see padding, so its amount is part of what a model has to get used to.
            noise = random.Random(f"{args.seed} {step} {processes.rank}")
            batch, labels = data.collate([train[index] for index in batches[number]], pad_id,
                                         extra=noise.randrange(9) if args.size else 0)
            if args.token_dropout:
                drop = torch.rand(batch["input_ids"].shape) < args.token_dropout
                drop &= (batch["attention_mask"] == 1) & (batch["input_ids"] >= len(tokenizers_of.SPECIAL))
                batch["input_ids"][drop] = unknown
            logits = replica(**inputs_of(batch, args, processes.device)).logits
            loss = nn.functional.cross_entropy(logits.float(), labels.to(processes.device))
            if not torch.isfinite(loss):
                raise TrainError(f"the loss is {loss.item()} at global step {step + 1}; try a smaller --learning_rate")
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rate = scheduler.get_last_lr()[-1]
            scheduler.step()
            step += 1
            if average:
                average.update(model, step)
            if step % args.logging_steps == 0 or step == total:
                speed = (step - log_step) / (time.time() - since)
                processes.say(f"global step {step}/{total}, epoch: {epoch}, batch: {number}, rank_id: {processes.rank}, "
                              f"loss: {loss.item():f}, lr: {rate:.10f}, speed: {speed:.4f} step/s")
                since, log_step = time.time(), step
            if step % args.save_steps == 0 or step == total:
                if processes.rank == 0:
                    best = evaluate_and_keep(model, average, dev, pad_id, args, processes, files, best)
                    state = dict(step=step, best=best, model=model.state_dict(), optimizer=optimizer.state_dict(),
                                 scheduler=scheduler.state_dict(), average=average.weights if average else {},
                                 random=torch.get_rng_state(), settings=settings)
                    write_whole(state_file, lambda part: torch.save(state, part))
                processes.wait()
                since, log_step = time.time(), step
            if step == total:
                break
    processes.say(f"best accuracy {best}, kept in {output / 'best'}")
    if processes.count > 1:
        distributed.destroy_process_group()


def evaluate_and_keep(model, average, dev, pad_id, args, processes, files, best):
    """Evaluates on every dev file; keeps the weights where the first one's accuracy is the best so far."""
    tic = time.time()
    accuracies = {}
    with average.in_place_of(model) if average else contextlib.nullcontext():
        for name, samples in dev.items():
            loss, accuracy = evaluate(model, samples, pad_id, args, processes.device)
            accuracies[name] = accuracy
            processes.say(f"{name}: eval loss: {loss:f}, acc: {accuracy}, ")
        first = next(iter(accuracies.values()))
        if first > best:
            keep_checkpoint(model, files, Path(args.output_dir, "best"), accuracies)
    processes.say(f"eval done total : {time.time() - tic:.2f} s")
    return max(best, first)


def main(argv=None):
    args = parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    try:
        run(args)
    except TrainError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
