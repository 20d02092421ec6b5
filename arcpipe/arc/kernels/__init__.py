"""Kernels: the steps of the fit, one file per backend; `engine.choose_kernel` chooses."""
