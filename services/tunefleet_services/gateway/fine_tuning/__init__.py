"""OpenAI's fine-tuning API: files, jobs, and the model at the end that is served when it is asked for.

A file is a dataset, a job is a job, its id is the job's: nothing is kept here. Every call goes to
the coordinator with the token of who asked, so the gateway can do nothing that its caller may not.
Start reading at `door.py`, then `jobs.py`; `job_spec.py` says what a request becomes, `job_object.py`
and `events.py` what a job looks like from outside, `serving.py` how an `ft:` name is deployed.
"""

from tunefleet_services.gateway.fine_tuning.door import FineTuning

__all__ = ["FineTuning"]
