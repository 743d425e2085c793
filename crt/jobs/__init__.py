"""Jobs that write a mask for each of many photos: they resume, share the work over processes, and list what failed."""

from crt.jobs.job import JobReport, run_job

__all__ = ["JobReport", "run_job"]
