"""Numbers made from running models: scores of heads, their causal check, figures and reports.

`score` and `verify`, the two entrances, are `headscope.score` and `headscope.verify`; they are not repeated here,
where their modules have the same names.
"""

from .outcomes import OUTCOMES, Outcome, needle_accuracy, needle_recall
from .registry import Measured, Method, method
from .score import default_prompts, score_patterns
from .scores import HeadScores, Source
from .statistics import benjamini_hochberg, binomial_interval, bootstrap_mean, sign_flip
from .verification import Arm, Verification

__all__ = [
    "HeadScores",
    "Source",
    "score_patterns",
    "default_prompts",
    "Method",
    "method",
    "Measured",
    "Verification",
    "Arm",
    "Outcome",
    "OUTCOMES",
    "needle_accuracy",
    "needle_recall",
    "bootstrap_mean",
    "sign_flip",
    "binomial_interval",
    "benjamini_hochberg",
]
