"""Score a model on rows with known answers: what is asked, what was right, what it is worth.

A backend brings the answers: it loads the model and goes on from prompts. Everything else is the
same for all of them, so that their scores can be compared.
"""

from tunefleet_core.evaluation.run import Generate, evaluate, wanted_metrics
from tunefleet_core.evaluation.scoring import METRICS, RowScore, score_row, scores

__all__ = ["METRICS", "Generate", "RowScore", "evaluate", "score_row", "scores", "wanted_metrics"]
