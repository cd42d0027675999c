"""Numbers of the paper (arXiv 2604.11841) to print beside ours.

Its models have 7 to 8 billion parameters and its scores are accuracies: the order of methods can be
compared, the size of a gain cannot. The paper gives no intervals.
"""

from __future__ import annotations

from perakit.theory.statements.practice import COMPONENTS as _TERMS

# Table 4 and 12: LLaMA3-8B, r = 16, average accuracy on commonsense tasks.
COMPONENTS = dict(_TERMS)
# Table 9: PERA, LLaMA3-8B, rank -> average accuracy.
RANKS = {2: 86.91, 4: 87.01, 8: 87.05, 12: 87.07, 16: 87.38, 20: 87.25, 24: 87.44, 32: 87.12}
# Table 11: share of the training data -> average accuracy of PERA.
DATA = {0.1: 83.07, 0.2: 82.22, 0.5: 86.14, 0.8: 87.14, 1.0: 87.38}
# Table 5: LLaMA2-7B, rank 4, one RTX 5090: minutes of training, minutes of inference (unmerged), GB
# of training.
COST = {
    "LoRA": (12 * 60 + 27, 9.5, 18.70),
    "DoRA": (22 * 60 + 7, 23 + 40 / 60, 19.58),
    "HiRA": (14 * 60 + 2, 20.75, 18.72),
    "PERA": (13 * 60 + 30, 14 + 53 / 60, 19.12),
}
# Table 1: LLaMA3-8B, rank 32 (PERA and LoRA: 16), average accuracy.
METHODS = {"LoRA": 82.80, "DoRA": 85.20, "HiRA": 86.72, "PERA": 87.38}
