"""Stored runs as PEFT's method_comparison writes its own: every field that its reader asks for."""

import json
import math
import shutil
from pathlib import Path

import peft_results
import pytest

from perakit import PerakitError
from perakit.experiments import EXPERIMENTS

RESULTS = Path(__file__).parents[2] / "docs/results"

# What `processing.load_df` of PEFT reads, each with the types that survive its `astype`
WORDS, WHOLE, NUMBER = (str, type(None)), (int,), (int, float)
ASKED = {
    "run_info": {
        "experiment_name": (str,),
        "train_config": (dict,),
        "peft_config": (dict, type(None)),
        "total_time": NUMBER,
        "peft_branch": WORDS,
        "created_at": WORDS,
    },
    "train_info": {
        "status": (str,),
        "metrics": (list,),
        "accelerator_memory_reserved_avg": WHOLE,
        "accelerator_memory_max": WHOLE,
        "accelerator_memory_reserved_99th": WHOLE,
        "train_time": NUMBER,
        "file_size": WHOLE,
        "num_trainable_params": WHOLE,
    },
    "meta_info": {"package_info": (dict,), "system_info": (dict,)},
}
LAST = {
    "train loss": NUMBER,
    "train samples": WHOLE,
    "test accuracy": (int, float, type(None)),
    "train total tokens": WHOLE,
    "forgetting": (int, float, type(None)),
}
PACKAGES = ("peft", "transformers", "datasets", "torch", "bitsandbytes")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files, made again from the stored rows."""
    folder = tmp_path_factory.mktemp("results")
    for path in RESULTS.glob("*.jsonl"):
        shutil.copy(path, folder)
    peft_results.write(folder)
    return folder


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / "peft").rglob("*.json")
    }


def test_the_stored_files_are_those_of_the_stored_rows(made):
    again = "run python docs/making/peft_results.py docs/results"
    assert content(made).keys() == content(RESULTS).keys(), again
    assert content(made) == content(RESULTS), again


def test_every_file_has_what_the_reader_asks_for(made):
    names = []
    for data in content(made).values():
        row = json.loads(data)
        for part, fields in ASKED.items():
            for field, kinds in fields.items():
                assert type(row[part][field]) in kinds, (part, field)
        for field, kinds in LAST.items():
            assert type(row["train_info"]["metrics"][-1][field]) in kinds, field
        for package in PACKAGES:
            assert type(row["meta_info"]["package_info"][f"{package}-version"]) in WORDS
        full = "full fine-tuning" in row["run_info"]["experiment_name"]
        config = row["run_info"]["peft_config"]
        assert config is None if full else config["peft_type"].isupper()
        assert type(row["run_info"]["train_config"]["model_id"]) is str
        assert row["train_info"]["status"] == "success"  # the reader leaves out all others
        names.append(row["run_info"]["experiment_name"])
    assert len(set(names)) == len(names) > 50  # of the same name it would keep the last


def test_the_numbers_are_those_of_the_page(made):
    """The last entry is the mean of the seeds; PEFT's costs are in nats."""
    found, _ = EXPERIMENTS["forgetting"].read(made / "forgetting.jsonl")
    for label in ("LoRA", "PERA, packages"):
        path = made / f"peft/forgetting/{label.replace(', ', '-')}--lr_{found.lr(label):g}.json"
        row = json.loads(path.read_text())
        *seeds, last = row["train_info"]["metrics"]
        assert [one["seed"] for one in seeds] == row["run_info"]["train_config"]["seed"]
        assert [one["test bits per byte"] for one in seeds] == found.scores(label)
        assert last["test bits per byte"] == pytest.approx(found.mean(label).mean, abs=1e-6)
        start = found.one("unadapted, packages" if "packages" in label else "unadapted")["old"]
        worse = found.mean(label, "old").mean - start
        assert last["forgetting"] == pytest.approx(worse * math.log(2), abs=2e-6)
        assert last["test loss"] == pytest.approx(
            last["test bits per byte"] * math.log(2), abs=1e-6
        )
        assert row["run_info"]["train_config"]["optimizer_kwargs"]["lr"] == found.lr(label)
        first = found.arm(label)[0]
        assert row["train_info"]["num_trainable_params"] == first["measured"]["trainable"]
        assert row["meta_info"]["dataset_info"] == {
            first["settings"]["text"]: {"sha": first["data"], "created_at": None}
        }


def test_an_arm_in_place_of_another_is_what_ran(made):
    """With PERA's number of parameters, but it is LoRA."""
    path, _ = (made / "peft/forgetting").glob("LoRA-PERA-s-parameters--*.json")
    config = json.loads(path.read_text())["run_info"]["peft_config"]
    assert (config["peft_type"], config["parameters_of"]["method"]) == ("LORA", "pera")
    path, _ = (made / "peft/forgetting").glob("DoRA--*.json")
    assert json.loads(path.read_text())["run_info"]["peft_config"]["peft_type"] == "DORA"


ROW = {
    "label": "LoRA",
    "role": "judged",
    "compute": "tuning.tune",
    "data": "d",
    "model": "m",
    "machine": {"cpu": "c", "versions": {}},
    "settings": {
        "model": "tiny",
        "device": "cuda",
        "text": "code",
        "old": None,
        "limit": 9,
        "targets": "all-linear",
        "matched": False,
        "method": {"method": "lora"},
        "recipe": {
            "steps": 2,
            "batch": 3,
            "context": 5,
            "lr": 0.1,
            "warmup": 1,
            "weight_decay": 0.0,
            "beta2": 0.9,
            "clip": 1.0,
            "seed": 0,
            "eval_every": 2,
            "bf16": True,
        },
    },
    "measured": {
        "trainable": 7,
        "seconds": 1.5,
        "validation": 1.0,
        "new": 2.0,
        "old": None,
        "loss": [[2, 1.0]],
    },
}


def test_what_is_not_measured_is_null():
    (row,) = peft_results.results("x", [ROW]).values()
    assert row["train_info"]["accelerator_memory_max"] is None  # on a GPU, where it is not 0
    last = row["train_info"]["metrics"][-1]
    assert (last["forgetting"], last["test accuracy"], last["old bits per byte"]) == (None,) * 3
    assert (last["train samples"], last["train total tokens"]) == (6, 30)
    assert row["run_info"]["train_config"]["use_amp"] is True
    assert peft_results.results("x", [ROW | {"role": "tuning"}]) == {}
    for part, told in (
        ("everything", None),  # the reader calls it full fine-tuning
        ("last block", {"peft_type": "LAST BLOCK", "target_modules": None}),
    ):
        free = ROW | {"settings": ROW["settings"] | {"train": part}}
        (full,) = peft_results.results("x", [free]).values()
        assert full["run_info"]["peft_config"] == told


def of_seed(seed, **changes):
    recipe = ROW["settings"]["recipe"] | {"seed": seed}
    return ROW | {"settings": ROW["settings"] | {"recipe": recipe}} | changes


def test_an_arm_with_a_seed_that_diverged_has_failed():
    """PEFT's reader leaves it out; its numbers and the reason are there."""
    lost = of_seed(1, measured={"validation": None, "diverged": "no finite loss at step 1"})
    (row,) = peft_results.results("x", [lost, ROW]).values()
    assert row["train_info"]["status"] == "failed"
    assert row["run_info"]["error_msg"] == "no finite loss at step 1"
    kept, gone = row["train_info"]["metrics"]
    assert (kept["seed"], kept["test bits per byte"]) == (0, 2.0)
    assert gone == {"seed": 1, "diverged": "no finite loss at step 1"}
    assert row["train_info"]["train_time"] is None


def test_forgetting_is_beside_the_same_model_on_the_same_text():
    settings = ROW["settings"] | {"old": "prose"}
    run = ROW | {"settings": settings, "measured": ROW["measured"] | {"old": 3.0}}
    others = [
        {
            "compute": "tuning.before",
            "settings": settings | {"text": text},
            "measured": {"old": old},
        }
        for text, old in (("packages", 1.0), ("code", 2.0))
    ]
    (row,) = peft_results.results("x", [*others, run]).values()
    assert row["train_info"]["metrics"][-1]["forgetting"] == round(math.log(2), 6)


def test_of_several_rows_of_a_seed_the_first_is_taken():
    """Rows of earlier plans stand further down."""
    again = ROW | {"measured": ROW["measured"] | {"new": 9.0}}
    (row,) = peft_results.results("x", [ROW, again]).values()
    assert [one["test bits per byte"] for one in row["train_info"]["metrics"]] == [2.0, 2.0]


def test_two_arms_are_never_one_file():
    with pytest.raises(
        PerakitError, match=r"^'LoRA, x' and another arm are both 'LoRA-x--lr_0\.1'"
    ):
        peft_results.results("x", [ROW | {"label": "LoRA x"}, ROW | {"label": "LoRA, x"}])
    recipe = ROW["settings"]["recipe"] | {"lr": 0.2}
    other = ROW | {"settings": ROW["settings"] | {"recipe": recipe}}
    found = peft_results.results("x", [ROW, other, ROW | {"role": "fresh"}])
    assert [*found] == ["LoRA--lr_0.1", "LoRA--lr_0.2", "LoRA-fresh--lr_0.1"]


def test_files_of_arms_that_are_gone_are_removed(tmp_path):
    shutil.copy(RESULTS / "interaction.jsonl", tmp_path)
    stale = tmp_path / "peft/interaction/gone.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    written = peft_results.write(tmp_path)
    assert len(written) == 4  # two arms, each at two rates
    assert sorted((tmp_path / "peft").rglob("*.json")) == sorted(written)
