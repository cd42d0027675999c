"""How near a classifier with a trained head comes back: python tests/attacks/heads.py.

Tiny BERT and GPT-2 classifiers, five steps with PERA, then ‖logits − logits'‖/‖logits‖ of the model
that was loaded, of PEFT's that read the export, and of the one that imported that.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch

import perakit as pk

sys.path.append(str(Path(__file__).parents[1] / "models"))
warnings.simplefilter("ignore")  # PEFT asks transformers for old names

from test_heads import TARGETS, classifier, trained  # noqa: E402


def differences(family):
    """Relative differences of the logits; without a head that is carried they are near 1."""
    ids = torch.randint(1, 50, (5, 7), generator=torch.Generator().manual_seed(1))
    model = trained(family, ids)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        pk.save(model, f"{folder}/adapter")
        pk.export_peft(model, f"{folder}/peft")
        loaded, imported = classifier(family), classifier(family)
        pk.load(loaded, f"{folder}/adapter")
        pk.import_peft(imported, f"{folder}/peft")
        theirs = peft.PeftModel.from_pretrained(classifier(family), f"{folder}/peft").eval()
        logits = model(ids).logits
        answers = {"loaded": loaded, "read by PEFT": theirs, "imported": imported}
        return {
            name: float((one(ids).logits - logits).norm() / logits.norm())
            for name, one in answers.items()
        }


if __name__ == "__main__":
    found = {family: differences(family) for family in TARGETS}
    print(json.dumps(found), file=sys.stderr)
    worst = max(max(of.values()) for of in found.values())
    row = {
        "promised": "a head that trains with an adapter is saved, loaded, exported, read by PEFT",
        "attacked": "classifiers of BERT and GPT-2, five steps, all ways back",
        "times": str(sum(map(len, found.values()))),
        "came_out": f"logits within {worst:.0e} of their norm",
    }
    print(json.dumps(row))
