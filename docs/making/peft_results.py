"""The fine-tuning runs in the JSON schema of PEFT's method_comparison.

`python docs/making/peft_results.py docs/results` reads FOLDER/NAME.jsonl and writes
FOLDER/peft/NAME/*.json, a file an arm and learning rate, which PEFT's own `processing.load_df`
reads. docs/results/README.md says what its fields hold here. Nothing is run, and the same rows give
the same bytes.
Source: method_comparison/MetaMathQA/utils.py and method_comparison/processing.py of
https://github.com/huggingface/peft, as of August 2026.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from perakit.errors import PerakitError
from perakit.experiments.jobs import ledgers, read
from perakit.files import write_atomically

Row = Mapping[str, Any]
COMPARED = ("judged", "fresh")  # roles of the runs that verdicts are made of


def write(folder: Path) -> list[Path]:
    """Write the files of all ledgers in a folder, and remove those of arms that are gone."""
    written = []
    for path in ledgers(folder):
        header, rows = read(path)
        for name, result in results(header["experiment"], rows).items():
            written.append(folder / "peft" / path.stem / f"{name}.json")
            write_atomically(written[-1], (json.dumps(result) + "\n").encode())
    for old in set((folder / "peft").rglob("*.json")) - set(written):
        old.unlink()
    return written


def results(experiment: str, rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Name of a file -> its content, for every arm and rate that was judged.

    Where a seed diverged the status is "failed", and there is no mean.
    Raises PerakitError where two arms would have one file.
    """
    unadapted = [row for row in rows if row["compute"] == "tuning.before"]
    groups: dict[tuple[str, float, str], dict[int, Row]] = {}
    for row in rows:
        if row["compute"] == "tuning.tune" and row["role"] in COMPARED:
            recipe = row["settings"]["recipe"]
            seeds = groups.setdefault((row["label"], recipe["lr"], row["role"]), {})
            # Of several the first, as in `Results.arm`
            seeds.setdefault(recipe["seed"], row)
    found: dict[str, dict[str, Any]] = {}
    for (label, lr, role), seeds in groups.items():
        told = label if role == "judged" else f"{label}, {role}"
        name = re.sub(r"[^\w.=]+", "-", told).strip("-") + f"--lr_{lr:g}"
        if name in found:
            raise PerakitError(f"{label!r} and another arm are both {name!r} in a file's name")
        runs = [seeds[seed] for seed in sorted(seeds)]
        found[name] = _result(f"{experiment}/{told}, lr {lr:g}", runs, _before(runs, unadapted))
    return found


def _before(runs: list[Row], unadapted: Iterable[Row]) -> Row | None:
    """What the model without an adapter costs on the texts of these runs."""
    texts = ("model", "text", "old", "limit")
    for row in unadapted:
        if all(row["settings"][name] == runs[0]["settings"][name] for name in texts):
            return row["measured"]
    return None


def _result(name: str, runs: list[Row], before: Row | None) -> dict[str, Any]:
    first, settings = runs[0], runs[0]["settings"]
    metrics = [_metrics(run, before) for run in runs]
    diverged = [run["measured"]["diverged"] for run in runs if "diverged" in run["measured"]]
    mean, machine = None if diverged else _mean(metrics), first["machine"]
    seconds = mean and mean["train time"]
    trainable = first["measured"].get("trainable")
    # Nothing is reserved on an accelerator where there is none; on one it is not measured
    memory = 0 if settings["device"] == "cpu" else None
    return {
        "run_info": {
            "created_at": None,
            "total_time": seconds,
            "experiment_name": name,
            "peft_branch": None,
            "train_config": _train_config(settings, [m["seed"] for m in metrics]),
            "peft_config": _peft_config(settings),
            "error_msg": diverged[0] if diverged else "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": memory,
            "accelerator_memory_max": memory,
            "accelerator_memory_reserved_99th": memory,
            "train_time": seconds,
            "file_size": trainable and 4 * trainable,
            "num_trainable_params": trainable,
            "num_total_params": None,
            "status": "failed" if diverged else "success",
            "metrics": [*metrics, *([mean] if mean else [])],
        },
        "meta_info": {
            "model_info": {"sha": first["model"], "created_at": None},
            "dataset_info": {settings["text"]: {"sha": first["data"], "created_at": None}},
            "package_info": {
                f"{package}-version": machine["versions"].get(package)
                for package in (
                    "transformers",
                    "peft",
                    "datasets",
                    "bitsandbytes",
                    "torch",
                    "numpy",
                )
            }
            | {"perakit-numerics": first.get("numerics")},
            "system_info": {"processor": machine["cpu"], "accelerator": None},
            "pytorch_info": None,
        },
    }


def _train_config(settings: Row, seeds: list[int]) -> dict[str, Any]:
    recipe = settings["recipe"]
    return {
        "model_id": settings["model"],
        "dtype": "float32",
        "max_seq_length": recipe["context"],
        "batch_size": recipe["batch"],
        "max_steps": recipe["steps"],
        "eval_steps": recipe["eval_every"],
        "compile": False,
        "use_gc": False,
        "seed": seeds,
        "grad_norm_clip": recipe["clip"],
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {
            "lr": recipe["lr"],
            "betas": [0.9, recipe["beta2"]],
            "weight_decay": recipe["weight_decay"],
        },
        "lr_scheduler": "linear",
        "warmup_steps": recipe["warmup"],
        "use_amp": recipe["bf16"],
    }


def _peft_config(settings: Row) -> dict[str, Any] | None:
    """The method in perakit's names, with PEFT's `peft_type`; None where all weights were free.

    A part of the model that trained in an adapter's place is named as that type.
    """
    if (part := settings.get("train")) == "everything":
        return None
    if part:
        return {"peft_type": part.upper(), "target_modules": None}
    method = settings["method"]
    # LoRA in its place, with as many parameters
    kind = "lora" if settings["matched"] else method["method"]
    more = {"parameters_of": method} if settings["matched"] else dict(method)
    return {"peft_type": kind.upper(), "target_modules": settings["targets"], **more}


def _metrics(run: Row, before: Row | None) -> dict[str, Any]:
    """One seed. Costs in nats, as PEFT's are, and in bits, as our pages have them."""
    recipe, measured = run["settings"]["recipe"], run["measured"]
    if "diverged" in measured:
        return {"seed": recipe["seed"], "diverged": measured["diverged"]}
    samples, old = recipe["steps"] * recipe["batch"], measured["old"]
    worse = None if before is None or old is None else _nats(old - before["old"])
    return {
        "step": recipe["steps"],
        "seed": recipe["seed"],
        "test accuracy": None,
        "test loss": _nats(measured["new"]),
        "forgetting": worse,
        "train loss": _nats(measured["loss"][-1][1]),
        "train samples": samples,
        "train total tokens": samples * recipe["context"],
        "train time": measured["seconds"],
        "valid bits per byte": measured["validation"],
        "test bits per byte": measured["new"],
        "old bits per byte": old,
    }


def _nats(bits: float) -> float:
    # As many digits as a ledger has
    return round(bits * math.log(2), 6)


def _mean(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Their means; what all of them have stays as it is."""
    columns = {name: [one[name] for one in metrics] for name in metrics[0] if name != "seed"}
    return {
        name: values[0] if len({*values}) == 1 else round(fmean(values), 6)
        for name, values in columns.items()
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]))
