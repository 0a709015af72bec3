"""What an engine makes of OpenAI's API: each part of it is asked for, and the answer is judged.

A part is taken, refused, or ignored, which is the worst: a caller that asked for JSON gets
prose and a status of 200. `find_features` says which, of any address that speaks OpenAI HTTP.
"""

from tunefleet_core.testing.openai_features.parts import PARTS, Part
from tunefleet_core.testing.openai_features.record import check_or_record, recorded
from tunefleet_core.testing.openai_features.verdict import Verdict, find_features

__all__ = ["PARTS", "Part", "Verdict", "check_or_record", "find_features", "recorded"]
