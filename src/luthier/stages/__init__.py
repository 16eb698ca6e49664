"""One stage of training from recipe to report: prepare, check, run, resume."""
