"""Jobs in processes of their own: on this machine, or on those of a Ray cluster.

Both take the same commands, tell the same events and end with the same words for a job that failed, so that what
comes out does not depend on where it ran.
"""

from __future__ import annotations

from secateur.jobs.cluster import Ray
from secateur.jobs.executor import Executor, RunJobs, Tell, as_executor
from secateur.jobs.local import Local, cores
from secateur.jobs.process import Command

__all__ = ["Command", "Executor", "Local", "Ray", "RunJobs", "Tell", "as_executor", "cores"]
