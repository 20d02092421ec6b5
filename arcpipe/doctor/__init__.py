"""`arcpipe doctor`: is this machine, and the folder of a store, fit for the work, and what to do where it is not."""

from arcpipe.doctor.run import run_doctor

__all__ = ["run_doctor"]
